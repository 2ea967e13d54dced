#include "device/openvino_value_needs.hpp"

#include <algorithm>
#include <functional>
#include <openvino/op/gather_elements.hpp>
#include <openvino/op/reverse_sequence.hpp>
#include <openvino/op/util/gather_nd_base.hpp>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include "device/openvino_known_values.hpp"

namespace ovengine {
namespace {

using Needs = std::vector<Need>;
using Rule = std::function<Needs(const ov::Node&)>;

constexpr Range kNothing{1, 0};
// Sizes, counts and trips: positive, and so few that nothing gets long or large.
constexpr Range kFew{1, 4};
constexpr Range kZero{0, 0};

// The smallest of the dimensions [first, last) of an input; 0 where it is not known.
double smallest(const ov::Node& node, std::size_t port, std::size_t first, std::size_t last) {
    const auto& shape = node.get_input_partial_shape(port);
    if (shape.rank().is_dynamic() || first >= last || last > shape.size()) return 0;
    double length = std::numeric_limits<double>::infinity();
    for (std::size_t axis = first; axis < last; ++axis)
        length = std::min(length, static_cast<double>(shape[axis].get_min_length()));
    return length;
}
double length_of(const ov::Node& node, std::size_t port, std::size_t axis) {
    return smallest(node, port, axis, axis + 1);
}
std::size_t rank_of(const ov::Node& node, std::size_t port) {
    const auto rank = node.get_input_partial_shape(port).rank();
    return rank.is_static() ? static_cast<std::size_t>(rank.get_length()) : 0;
}
// From 0 or 1 on; nothing where that leaves none.
Range below(double length) { return {0, length - 1}; }
Range up_to(double length) { return {1, length}; }

// Along the axis that `axis_port` gives; where it is not a constant, along any.
Range index_along(const ov::Node& node, std::size_t axis_port) {
    const std::size_t rank = rank_of(node, 0);
    const auto known = known_values(node.input_value(axis_port));
    if (!known || known->size() != 1) return below(smallest(node, 0, 0, rank));
    const auto axis = static_cast<std::int64_t>(known->front());
    return below(
        length_of(node, 0, static_cast<std::size_t>(axis < 0 ? axis + static_cast<std::int64_t>(rank) : axis)));
}
// Of the last axis of the indices, each counts along another axis of the data.
Range index_of_points(const ov::Node& node, std::size_t first) {
    const auto& indices = node.get_input_partial_shape(1);
    if (indices.rank().is_dynamic() || indices.size() == 0 || indices[indices.size() - 1].is_dynamic()) return kNothing;
    const auto count = static_cast<std::size_t>(indices[indices.size() - 1].get_length());
    return below(smallest(node, 0, first, first + count));
}
// Of one axis, as several might be the same.
Range axis(const ov::Node& node, std::size_t port) {
    const auto& shape = node.get_input_partial_shape(port);
    const bool is_one = shape.is_static() && ov::shape_size(shape.to_shape()) == 1;
    return is_one ? below(static_cast<double>(rank_of(node, 0))) : kNothing;
}
Range inside_any_axis(const ov::Node& node) { return {0, smallest(node, 0, 0, rank_of(node, 0))}; }

Rule ports(Needs needs) {
    return [needs](const ov::Node&) { return needs; };
}
Rule axis_at(std::size_t port) {
    return [port](const ov::Node& node) {
        return port < node.get_input_size() ? Needs{{port, axis(node, port)}} : Needs{};
    };
}
Rule lengths_at(std::size_t port) {
    return [port](const ov::Node& node) { return Needs{{port, up_to(length_of(node, 0, 1))}}; };
}

Needs no_zero_divisor(const ov::Node& node) {
    if (node.get_output_element_type(0).is_real()) return {};
    return {{1, {1, std::numeric_limits<double>::infinity()}}};
}
Needs slices(const ov::Node& node) {
    const Range inside = inside_any_axis(node);
    Needs needs{{1, inside}, {2, inside}, {3, kFew}};
    if (node.get_input_size() > 4) needs.push_back({4, axis(node, 4)});
    return needs;
}
Needs scattered_slices(const ov::Node& node) {
    const Range inside = inside_any_axis(node);
    Needs needs{{2, inside}, {3, inside}, {4, kFew}};
    if (node.get_input_size() > 5) needs.push_back({5, axis(node, 5)});
    return needs;
}
Needs resized(const ov::Node& node) {
    Needs needs;
    for (std::size_t port = 1; port < node.get_input_size(); ++port) needs.push_back({port, kFew});
    return needs;
}
Needs loss(const ov::Node& node) {
    const double time = length_of(node, 0, 1), classes = length_of(node, 0, 2);
    return {{1, {time, time}}, {2, {0, classes - 2}}, {3, {1, 1}}, {4, {classes - 1, classes - 1}}};
}
Needs tree(const ov::Node& node) { return {{1, below(length_of(node, 0, 2))}, {2, up_to(length_of(node, 0, 0))}}; }
Needs bags(const ov::Node& node) {
    const Range rows = below(length_of(node, 0, 0));
    return {{1, rows}, {2, kZero}, {3, rows}};
}
Needs segments(const ov::Node& node) {
    const Range rows = below(length_of(node, 0, 0));
    return {{1, rows}, {2, kZero}, {3, kFew}, {4, rows}};
}
Needs regions(const ov::Node& node) {
    // Their size is not limited otherwise, and the memory that they take grows with it.
    return {{1, {0, 64}}, {2, below(length_of(node, 0, 0))}};
}
Needs elements(const ov::Node& node) {
    const auto& gather = dynamic_cast<const ov::op::v6::GatherElements&>(node);
    const auto at = gather.get_axis();
    return {
        {1, below(length_of(
                node, 0, static_cast<std::size_t>(at < 0 ? at + static_cast<std::int64_t>(rank_of(node, 0)) : at)))}};
}
Needs points(const ov::Node& node) {
    const auto& gather = dynamic_cast<const ov::op::util::GatherNDBase&>(node);
    return {{1, index_of_points(node, gather.get_batch_dims())}};
}
Needs reversed(const ov::Node& node) {
    const auto& reverse = dynamic_cast<const ov::op::v0::ReverseSequence&>(node);
    return {{1, up_to(length_of(node, 0, reverse.get_sequence_axis()))}};
}

const std::unordered_map<std::string_view, Rule>& rules() {
    static const std::unordered_map<std::string_view, Rule> known{
        // Indices.
        {"Gather", [](const ov::Node& n) { return Needs{{1, index_along(n, 2)}, {2, axis(n, 2)}}; }},
        {"GatherElements", elements},
        {"GatherND", points},
        {"GatherTree", tree},
        {"ScatterUpdate", [](const ov::Node& n) { return Needs{{1, index_along(n, 3)}, {3, axis(n, 3)}}; }},
        {"ScatterElementsUpdate", [](const ov::Node& n) { return Needs{{1, index_along(n, 3)}, {3, axis(n, 3)}}; }},
        {"ScatterNDUpdate", [](const ov::Node& n) { return Needs{{1, index_of_points(n, 0)}}; }},
        {"EmbeddingBagOffsetsSum", bags},
        {"EmbeddingBagOffsets", bags},
        {"EmbeddingBagPackedSum", [](const ov::Node& n) { return Needs{{1, below(length_of(n, 0, 0))}}; }},
        {"EmbeddingBagPacked", [](const ov::Node& n) { return Needs{{1, below(length_of(n, 0, 0))}}; }},
        {"EmbeddingSegmentsSum", segments},
        {"SegmentMax", ports({{1, kZero}, {2, kFew}})},
        {"SparseFillEmptyRows", ports({{0, kNothing}, {2, kNothing}})},
        {"GroupedMatMul", ports({{2, kNothing}})},
        {"StringTensorPack", ports({{0, kNothing}, {1, kNothing}})},
        // Lengths of sequences.
        {"ReverseSequence", reversed},
        {"LSTMSequence", lengths_at(3)},
        {"GRUSequence", lengths_at(2)},
        {"RNNSequence", lengths_at(2)},
        {"CTCGreedyDecoder", ports({{1, {0, 1}}})},
        {"CTCGreedyDecoderSeqLen", lengths_at(1)},
        {"CTCLoss", loss},
        // Regions, of which the first number may be an index.
        {"ROIAlign", regions},
        {"ROIAlignRotated", regions},
        {"ROIPooling", ports({{1, kZero}})},
        {"PSROIPooling", ports({{1, kZero}})},
        {"DeformablePSROIPooling", ports({{1, kZero}, {2, {0, 1}}})},
        {"ExperimentalDetectronROIFeatureExtractor", ports({{0, {0, 64}}})},
        {"MulticlassNms", ports({{2, kNothing}})},
        {"Proposal", ports({{2, {16, 512}}})},
        // Divisors, which are to be no zero.
        {"Divide", no_zero_divisor},
        {"Mod", no_zero_divisor},
        {"FloorMod", no_zero_divisor},
        // Sizes, counts and places.
        {"Loop", ports({{0, kFew}})},
        {"Range", ports({{0, {0, 4}}, {1, {0, 4}}, {2, kFew}})},
        {"Tile", ports({{1, kFew}})},
        {"OneHot", ports({{1, kFew}})},
        {"Reshape", ports({{1, kFew}})},
        {"Broadcast", ports({{1, kFew}, {2, kNothing}})},
        {"Pad", ports({{1, {0, 2}}, {2, {0, 2}}})},
        {"Slice", slices},
        {"StridedSlice", slices},
        {"SliceScatter", scattered_slices},
        {"TopK", [](const ov::Node& n) { return Needs{{1, up_to(smallest(n, 0, 0, rank_of(n, 0)))}}; }},
        {"Interpolate", resized},
        {"AdaptiveAvgPool", resized},
        {"AdaptiveMaxPool", resized},
        {"Eye", ports({{0, kFew}, {1, kFew}, {2, {0, 1}}, {3, kFew}})},
        {"RandomUniform", ports({{0, kFew}})},
        {"Multinomial", ports({{1, kFew}})},
        {"NonMaxSuppression", ports({{2, kFew}})},
        {"NMSRotated", ports({{2, kFew}})},
        {"PriorBox", ports({{0, kFew}, {1, kFew}})},
        {"PriorBoxClustered", ports({{0, kFew}, {1, kFew}})},
        {"Transpose", ports({{1, kNothing}})},
        {"BatchToSpace", ports({{1, kNothing}, {2, kNothing}, {3, kNothing}})},
        {"SpaceToBatch", ports({{1, kNothing}, {2, kNothing}, {3, kNothing}})},
        {"ConvolutionBackpropData", ports({{2, kNothing}})},
        {"GroupConvolutionBackpropData", ports({{2, kNothing}})},
        {"Col2Im", ports({{1, kNothing}, {2, kNothing}})},
        {"STFT", ports({{2, kNothing}, {3, kNothing}})},
        {"ISTFT", ports({{2, kNothing}, {3, kNothing}, {4, kNothing}})},
        {"VariadicSplit", [](const ov::Node& n) { return Needs{{1, axis(n, 1)}, {2, kNothing}}; }},
        {"Roll", [](const ov::Node& n) { return Needs{{1, {0, 4}}, {2, axis(n, 2)}}; }},
        {"DFT", [](const ov::Node& n) { return Needs{{1, axis(n, 1)}, {2, kNothing}}; }},
        {"IDFT", [](const ov::Node& n) { return Needs{{1, axis(n, 1)}, {2, kNothing}}; }},
        {"RDFT", [](const ov::Node& n) { return Needs{{1, axis(n, 1)}, {2, kNothing}}; }},
        {"IRDFT", [](const ov::Node& n) { return Needs{{1, axis(n, 1)}, {2, kNothing}}; }},
        // An axis alone.
        {"CumSum", axis_at(1)},
        {"MVN", axis_at(1)},
        {"NormalizeL2", axis_at(1)},
        {"ReduceL1", axis_at(1)},
        {"ReduceL2", axis_at(1)},
        {"ReduceLogicalAnd", axis_at(1)},
        {"ReduceLogicalOr", axis_at(1)},
        {"ReduceMax", axis_at(1)},
        {"ReduceMean", axis_at(1)},
        {"ReduceMin", axis_at(1)},
        {"ReduceProd", axis_at(1)},
        {"ReduceSum", axis_at(1)},
        {"Reverse", axis_at(1)},
        {"Split", axis_at(1)},
        {"Squeeze", axis_at(1)},
        {"Unique", axis_at(1)},
        {"Unsqueeze", axis_at(1)},
    };
    return known;
}

// These take any value of any input. If and TensorIterator do, but for what is in their bodies.
bool takes_any_value(std::string_view type) {
    static const std::unordered_set<std::string_view> known{
        "Abs",
        "Acos",
        "Acosh",
        "Add",
        "Asin",
        "Asinh",
        "Assign",
        "Atan",
        "Atanh",
        "AvgPool",
        "BGRtoNV12",
        "BatchNormInference",
        "BinaryConvolution",
        "BitwiseAnd",
        "BitwiseLeftShift",
        "BitwiseNot",
        "BitwiseOr",
        "BitwiseRightShift",
        "BitwiseXor",
        "Bucketize",
        "Ceiling",
        "Clamp",
        "Concat",
        "Constant",
        "Convert",
        "ConvertLike",
        "ConvertPromoteTypes",
        "Convolution",
        "Cos",
        "Cosh",
        "DeformableConvolution",
        "DepthToSpace",
        "DetectionOutput",
        "Einsum",
        "Elu",
        "Equal",
        "Erf",
        "ErfInv",
        "Exp",
        "ExperimentalDetectronDetectionOutput",
        "ExperimentalDetectronGenerateProposalsSingleImage",
        "ExperimentalDetectronPriorGridGenerator",
        "ExperimentalDetectronTopKROIs",
        "ExtractImagePatches",
        "FakeConvert",
        "FakeQuantize",
        "Floor",
        "GRN",
        "GRUCell",
        "Gelu",
        "GenerateProposals",
        "Greater",
        "GreaterEqual",
        "GridSample",
        "GroupConvolution",
        "GroupNormalization",
        "HSigmoid",
        "HSwish",
        "HardSigmoid",
        "I420toBGR",
        "I420toRGB",
        "Identity",
        "If",
        "Inverse",
        "IsFinite",
        "IsInf",
        "IsNaN",
        "LRN",
        "LSTMCell",
        "Less",
        "LessEqual",
        "Log",
        "LogSoftmax",
        "LogicalAnd",
        "LogicalNot",
        "LogicalOr",
        "LogicalXor",
        "MatMul",
        "MatrixNms",
        "MaxPool",
        "Maximum",
        "Minimum",
        "Mish",
        "Multiply",
        "NV12toBGR",
        "NV12toRGB",
        "Negative",
        "NonZero",
        "NotEqual",
        "PRelu",
        "Parameter",
        "Power",
        "RGBtoNV12",
        "RNNCell",
        "ReadValue",
        "RegionYolo",
        "Relu",
        "ReorgYolo",
        "Result",
        "Round",
        "ScaledDotProductAttention",
        "SearchSorted",
        "Select",
        "Selu",
        "ShapeOf",
        "ShuffleChannels",
        "Sigmoid",
        "Sign",
        "Sin",
        "Sinh",
        "SoftPlus",
        "SoftSign",
        "Softmax",
        "SpaceToDepth",
        "Sqrt",
        "SquaredDifference",
        "StringTensorUnpack",
        "Subtract",
        "Swish",
        "Tan",
        "Tanh",
        "TensorIterator",
        "Xor",
    };
    return known.count(type) > 0;
}

}  // namespace

std::optional<std::vector<Need>> needs_of(const ov::Node& node) {
    const std::string_view type = node.get_type_name();
    if (takes_any_value(type)) return Needs{};
    const auto rule = rules().find(type);
    if (rule == rules().end()) return std::nullopt;
    Needs needs = rule->second(node);
    std::erase_if(needs, [&](const Need& need) { return need.port >= node.get_input_size(); });
    return needs;
}

bool fears_nan(const ov::Node& node) {
    // They sort by these values, or make places of them.
    static const std::unordered_set<std::string_view> known{
        "DeformableConvolution",
        "DetectionOutput",
        "ExperimentalDetectronDetectionOutput",
        "ExperimentalDetectronGenerateProposalsSingleImage",
        "ExperimentalDetectronTopKROIs",
        "GenerateProposals",
        "GridSample",
        "MatrixNms",
        "MulticlassNms",
        "NMSRotated",
        "NonMaxSuppression",
        "Proposal",
        "Unique",
        "Multinomial",
    };
    return known.count(node.get_type_name()) > 0;
}

}  // namespace ovengine
