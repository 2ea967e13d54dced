#include "device/openvino_row_rules.hpp"

#include <algorithm>

namespace ovengine {
namespace {

using Kind = RowState::Kind;

std::vector<std::size_t> all_ports(const RowOperator& op) {
    std::vector<std::size_t> ports(op.size());
    for (std::size_t port = 0; port < ports.size(); ++port) ports[port] = port;
    return ports;
}

// Of inputs that are broadcast to each other as NumPy does it, elements being taken place by place. `most` is the rank
// of what they become together.
RowState broadcast(const RowOperator& op, const std::vector<std::size_t>& ports, std::int64_t most = 0) {
    for (const std::size_t port : ports) {
        if (op.rank(port) < 0 || op.has(port, Kind::counted)) return unknown();
        most = std::max(most, op.rank(port));
    }
    std::optional<RowState> found;
    for (const std::size_t port : ports) {
        if (!op.has(port, Kind::batched)) continue;
        const RowState here = batched(most - op.rank(port) + op[port].axis, op[port].block);
        if (found && (found->axis != here.axis || found->block != here.block)) return mixed();
        found = here;
    }
    if (!found) return unknown();
    for (const std::size_t port : ports) {
        const std::int64_t axis = found->axis - (most - op.rank(port));
        if (op.has(port, Kind::batched) || axis < 0 || op.length(port, axis) == 1) continue;
        return op.length(port, axis) < 0 ? unknown() : mixed();
    }
    return *found;
}

RowState elementwise(const RowOperator& op, std::size_t) {
    const auto how = op.attributes().text("auto_broadcast");
    if (how && *how != "numpy" && *how != "none" && *how != "explicit") return unknown();
    return broadcast(op, all_ports(op));
}

// Of the first input alone; the others are the same for all elements.
RowState of_first(const RowOperator& op, std::size_t) {
    return op.has(0, Kind::batched) && op.others_are_shared({0}) ? batched(op[0].axis, op[0].block) : unknown();
}

// Rows are the first dimension of these inputs, and of all outputs.
RowState leading(const RowOperator& op, const std::vector<std::size_t>& ports) {
    for (const std::size_t port : ports) {
        if (port >= op.size()) continue;
        if (!op.has(port, Kind::batched) || op[port].block != op[ports.front()].block) return unknown();
        if (op[port].axis != 0) return mixed();
    }
    return op.others_are_shared(ports) ? batched(0, op[ports.front()].block) : unknown();
}
RowRule rows_first(std::vector<std::size_t> ports) {
    return [ports = std::move(ports)](const RowOperator& op, std::size_t) { return leading(op, ports); };
}

// Elements along these axes of the first input see each other.
RowState along(const RowOperator& op, const std::optional<std::vector<std::int64_t>>& axes) {
    if (!op.has(0, Kind::batched) || !op.others_are_shared({0}) || !axes || axes->empty()) return unknown();
    if (std::find(axes->begin(), axes->end(), op[0].axis) != axes->end()) return mixed();
    return batched(op[0].axis, op[0].block);
}
RowState along_attribute(const RowOperator& op, std::size_t) {
    const auto axis = op.axis("axis", op.rank(0));
    return axis ? along(op, std::vector{*axis}) : unknown();
}
RowState along_input(const RowOperator& op, std::size_t) { return along(op, op.axes(1, op.rank(0))); }
RowState along_last(const RowOperator& op, std::size_t) {
    return op.rank(0) > 0 ? along(op, std::vector{op.rank(0) - 1}) : unknown();
}

RowState reduced(const RowOperator& op, std::size_t) {
    const auto axes = op.axes(1, op.rank(0));
    RowState state = along(op, axes);
    const auto keeps = op.attributes().number("keep_dims");
    if (!state.is(Kind::batched)) return state;
    if (!keeps) return unknown();
    if (*keeps == 0) {
        std::vector<std::int64_t> gone = *axes;
        std::sort(gone.begin(), gone.end());
        gone.erase(std::unique(gone.begin(), gone.end()), gone.end());
        state.axis -= std::lower_bound(gone.begin(), gone.end(), state.axis) - gone.begin();
    }
    return state;
}

RowState mean_variance(const RowOperator& op, std::size_t) {
    return op.size() > 1 ? along(op, op.axes(1, op.rank(0))) : unknown();
}

RowState batch_norm(const RowOperator& op, std::size_t) {
    const bool is_old = std::string_view(op.node().get_type_info().version_id) == "opset1";
    return is_old ? leading(op, {2}) : leading(op, {0});
}

RowState pooled(const RowOperator& op, std::size_t output) {
    // Places of the largest elements are counted from an axis on.
    if (output > 0 && op.axis("axis", op.rank(0)).value_or(0) == 0) return unknown();
    return leading(op, {0});
}

// Where a slope of one dimension is one for each channel.
RowState with_slopes(const RowOperator& op, std::size_t) {
    if (!op.has(0, Kind::batched) || !op.has(1, Kind::shared)) return unknown();
    const auto& slopes = op.node().get_input_partial_shape(1);
    if (slopes.is_dynamic()) return unknown();
    const bool is_one = ov::shape_size(slopes.to_shape()) == 1;
    if (is_one || (slopes.size() == 1 && op[0].axis == 0 && op.rank(0) > 1)) return batched(op[0].axis, op[0].block);
    return slopes.size() > 1 ? broadcast(op, {0, 1}) : unknown();
}

RowState product(const RowOperator& op, std::size_t) {
    const std::int64_t ranks[] = {op.rank(0), op.rank(1)};
    if (ranks[0] < 2 || ranks[1] < 1 || op.any(Kind::counted)) return unknown();
    const bool is_vector = ranks[1] == 1;
    if (is_vector && !op.has(1, Kind::shared)) return unknown();
    const std::int64_t most = std::max(ranks[0], ranks[1]);
    const bool transposed[] = {op.attributes().number("transpose_a").value_or(0) != 0,
                               op.attributes().number("transpose_b").value_or(0) != 0};
    for (const std::size_t port : {0, 1}) {
        if (!op.has(port, Kind::batched) || op[port].axis < ranks[port] - 2) continue;
        // Along rows of the first matrix or columns of the second, where they are those of one matrix.
        const bool is_last = op[port].axis == ranks[port] - 1;
        const bool is_summed = is_last != (transposed[port] != (port == 1));
        if (is_summed || !op.has(1 - port, Kind::shared)) return mixed();
        return batched(port == 0 ? most - 2 : most - 1, op[port].block);
    }
    // Along a dimension of many matrices.
    if (is_vector) return batched(op[0].axis, op[0].block);
    return broadcast(op, {0, 1});
}

RowState attention(const RowOperator& op, std::size_t) {
    for (const std::size_t port : {0, 1, 2}) {
        if (!op.has(port, Kind::batched) || op.rank(port) != op.rank(0)) return unknown();
        if (op[port].axis != op[0].axis || op[port].block != op[0].block) return mixed();
    }
    if (op[0].axis >= op.rank(0) - 2) return mixed();
    // The mask is broadcast to the weights, which have as many dimensions.
    for (std::size_t port = 4; port < op.size(); ++port)
        if (!op.has(port, Kind::shared)) return unknown();
    return op.size() > 3 ? broadcast(op, {0, 3}, op.rank(0)) : batched(op[0].axis, op[0].block);
}

RowState concatenated(const RowOperator& op, std::size_t) {
    const auto axis = op.axis("axis", op.output_rank());
    if (!axis) return unknown();
    for (std::size_t port = 0; port < op.size(); ++port) {  // what is shared has no place for more rows
        if (!op.has(port, Kind::batched)) return op.has(port, Kind::shared) ? mixed() : unknown();
        if (op[port].axis == *axis || op[port].axis != op[0].axis || op[port].block != op[0].block) return mixed();
    }
    return batched(op[0].axis, op[0].block);
}

RowState one_hot(const RowOperator& op, std::size_t) {
    const auto axis = op.axis("axis", op.output_rank());
    if (!axis || !op.has(0, Kind::batched) || !op.others_are_shared({0})) return unknown();
    return batched(op[0].axis + (op[0].axis >= *axis ? 1 : 0), op[0].block);
}

RowState einstein_sum(const RowOperator& op, std::size_t) {
    std::string equation = op.attributes().text("equation").value_or("");
    equation.erase(std::remove(equation.begin(), equation.end(), ' '), equation.end());
    const std::size_t arrow = equation.find("->");
    if (arrow == std::string::npos || equation.find('.') != std::string::npos || op.any(Kind::counted))
        return unknown();
    const std::string to = equation.substr(arrow + 2);
    std::vector<std::string> from(1);
    for (const char c : equation.substr(0, arrow))
        if (c == ',')
            from.emplace_back();
        else
            from.back().push_back(c);
    if (from.size() != op.size()) return unknown();
    char row = 0;
    std::int64_t block = 1;
    for (std::size_t port = 0; port < op.size(); ++port) {
        if (!op.has(port, Kind::batched)) continue;
        if (op[port].axis >= static_cast<std::int64_t>(from[port].size())) return unknown();
        const char label = from[port][static_cast<std::size_t>(op[port].axis)];
        if (row != 0 && (row != label || block != op[port].block)) return mixed();
        row = label;
        block = op[port].block;
    }
    for (std::size_t port = 0; port < op.size(); ++port)
        if (std::count(from[port].begin(), from[port].end(), row) != (op.has(port, Kind::batched) ? 1 : 0))
            return unknown();
    const std::size_t place = to.find(row);
    if (place == std::string::npos) return mixed();
    return to.find(row, place + 1) == std::string::npos ? batched(static_cast<std::int64_t>(place), block) : unknown();
}

RowState transformed(const RowOperator& op, std::size_t) {
    const std::string_view type = op.node().get_type_name();
    // The last dimension of complex numbers is their two parts, and no axis.
    const bool has_parts = type != "RDFT";
    const auto axes = op.axes(1, op.rank(0) - (has_parts ? 1 : 0));
    if (has_parts && op.has(0, Kind::batched) && op[0].axis == op.rank(0) - 1) return unknown();
    return along(op, axes);
}

RowState in_buckets(const RowOperator& op, std::size_t) {
    return op.has(0, Kind::batched) && op.has(1, Kind::shared) ? batched(op[0].axis, op[0].block) : unknown();
}

}  // namespace

void add_computing_rules(RowRules& rules) {
    for (const std::string_view type :
         {"Abs",      "Acos",        "Acosh",   "Asin",    "Asinh",      "Atan",   "Atanh",       "BitwiseNot",
          "Ceiling",  "Clamp",       "Convert", "Cos",     "Cosh",       "Elu",    "Erf",         "ErfInv",
          "Exp",      "FakeConvert", "Floor",   "Gelu",    "HSigmoid",   "HSwish", "HardSigmoid", "Identity",
          "IsFinite", "IsInf",       "IsNaN",   "Log",     "LogicalNot", "Mish",   "Negative",    "Relu",
          "Result",   "Round",       "Selu",    "Sigmoid", "Sign",       "Sin",    "Sinh",        "SoftPlus",
          "SoftSign", "Sqrt",        "Swish",   "Tan",     "Tanh"})
        rules.emplace(type, of_first);
    for (const std::string_view type : {"Add",
                                        "BitwiseAnd",
                                        "BitwiseLeftShift",
                                        "BitwiseOr",
                                        "BitwiseRightShift",
                                        "BitwiseXor",
                                        "Divide",
                                        "Equal",
                                        "FakeQuantize",
                                        "FloorMod",
                                        "Greater",
                                        "GreaterEqual",
                                        "Less",
                                        "LessEqual",
                                        "LogicalAnd",
                                        "LogicalOr",
                                        "LogicalXor",
                                        "Maximum",
                                        "Minimum",
                                        "Mod",
                                        "Multiply",
                                        "NotEqual",
                                        "Power",
                                        "Select",
                                        "SquaredDifference",
                                        "Subtract",
                                        "Xor"})
        rules.emplace(type, elementwise);
    for (const std::string_view type :
         {"AdaptiveAvgPool", "AvgPool", "BinaryConvolution", "Convolution", "ConvolutionBackpropData", "DepthToSpace",
          "ExtractImagePatches", "GRN", "GroupConvolution", "GroupConvolutionBackpropData", "GroupNormalization",
          "ReorgYolo", "SpaceToDepth"})
        rules.emplace(type, rows_first({0}));
    for (const std::string_view type : {"ReduceL1", "ReduceL2", "ReduceLogicalAnd", "ReduceLogicalOr", "ReduceMax",
                                        "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"})
        rules.emplace(type, reduced);
    for (const std::string_view type : {"LogSoftmax", "ShuffleChannels", "Softmax", "TopK"})
        rules.emplace(type, along_attribute);
    for (const std::string_view type : {"CumSum", "LRN", "NormalizeL2", "Split", "VariadicSplit"})
        rules.emplace(type, along_input);
    for (const std::string_view type : {"DFT", "IDFT", "IRDFT", "RDFT"}) rules.emplace(type, transformed);
    rules.emplace("AdaptiveMaxPool", pooled);
    rules.emplace("BatchNormInference", batch_norm);
    rules.emplace("Bucketize", in_buckets);
    rules.emplace("Concat", concatenated);
    rules.emplace("DeformableConvolution", [](const RowOperator& op, std::size_t) {
        return op.size() > 3 ? leading(op, {0, 1, 3}) : leading(op, {0, 1});
    });
    rules.emplace("Einsum", einstein_sum);
    rules.emplace("GRUCell", rows_first({0, 1}));
    rules.emplace("GRUSequence", rows_first({0, 1, 2}));
    rules.emplace("GridSample", rows_first({0, 1}));
    rules.emplace("LSTMCell", rows_first({0, 1, 2}));
    rules.emplace("LSTMSequence", rows_first({0, 1, 2, 3}));
    rules.emplace("MVN", mean_variance);
    rules.emplace("MatMul", product);
    rules.emplace("MaxPool", pooled);
    rules.emplace("OneHot", one_hot);
    rules.emplace("PRelu", with_slopes);
    rules.emplace("RMS", along_last);
    rules.emplace("RNNCell", rows_first({0, 1}));
    rules.emplace("RNNSequence", rows_first({0, 1, 2}));
    rules.emplace("STFT", [](const RowOperator& op, std::size_t) {
        return op.rank(0) == 2 ? leading(op, {0}) : unknown();  // a lone signal has no rows
    });
    rules.emplace("ScaledDotProductAttention", attention);
}

}  // namespace ovengine
