#include "device/openvino_padding.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <openvino/op/identity.hpp>
#include <openvino/op/util/binary_elementwise_arithmetic.hpp>
#include <openvino/op/util/convolution_base.hpp>
#include <openvino/op/util/max_pool_base.hpp>
#include <openvino/op/util/unary_elementwise_arithmetic.hpp>
#include <openvino/opsets/opset13.hpp>
#include <openvino/pass/constant_folding.hpp>
#include <openvino/pass/manager.hpp>
#include <stdexcept>
#include <string>
#include <tuple>

namespace ovengine {
namespace {

namespace op = ov::opset13;
using Value = ov::Output<ov::Node>;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

Value integers(const std::vector<std::int64_t>& values) {
    return op::Constant::create(ov::element::i64, {values.size()}, values);
}
Value integer(std::int64_t value) { return op::Constant::create(ov::element::i64, {}, {value}); }
Value length_of(const Value& value, std::int64_t axis) {
    return std::make_shared<op::Gather>(std::make_shared<op::ShapeOf>(value), integers({axis}), integer(0));
}

// What is known of a value that has the axis.
struct Ragged {
    std::int64_t axis;
    Value length;        // the true one, of shape [1]
    bool is_zero_after;  // in its padding
};

// One sliding window along one axis.
struct Window {
    std::int64_t kernel, stride, padding, dilation;
    std::int64_t extent() const { return dilation * (kernel - 1) + 1; }
};

class Padding {
  public:
    Padding(std::shared_ptr<ov::Model> model, std::size_t index, std::int64_t axis,
            const std::vector<std::int64_t>& lengths)
        : model_(std::move(model)) {
        // What depends on nothing but ranks is no use of the axis.
        ov::pass::Manager manager;
        manager.register_pass<ov::pass::ConstantFolding>();
        manager.run_passes(model_);
        const auto nodes = model_->get_ordered_ops();
        begin(model_->get_parameters().at(index), axis, lengths);
        for (const auto& node : nodes) follow(*node);
        model_->validate_nodes_and_infer_types();
    }

    std::shared_ptr<ov::Model> model() const { return model_; }

  private:
    void begin(const std::shared_ptr<op::Parameter>& parameter, std::int64_t axis,
               const std::vector<std::int64_t>& lengths) {
        const auto rank = parameter->get_partial_shape().rank().get_length();
        const Value length = length_of(parameter, axis);
        const Value shorter =
            std::make_shared<op::Convert>(std::make_shared<op::Less>(integers(lengths), length), ov::element::i64);
        const Value place = std::make_shared<op::Minimum>(std::make_shared<op::ReduceSum>(shorter, integers({0}), true),
                                                          integers({static_cast<std::int64_t>(lengths.size()) - 1}));
        const Value longer =
            std::make_shared<op::Maximum>(std::make_shared<op::Gather>(integers(lengths), place, integer(0)), length);
        // What is too short for the model must not become long enough.
        const Value bucket = std::make_shared<op::Select>(
            std::make_shared<op::GreaterEqual>(length, integers({shortest_padded(lengths)})), longer, length);
        ov::OutputVector after{integers(std::vector<std::int64_t>(axis, 0)),
                               std::make_shared<op::Subtract>(bucket, length),
                               integers(std::vector<std::int64_t>(rank - axis - 1, 0))};
        const auto users = parameter->output(0).get_target_inputs();
        const auto padded = std::make_shared<op::Pad>(
            parameter, integers(std::vector<std::int64_t>(rank, 0)), std::make_shared<op::Concat>(after, 0),
            op::Constant::create(parameter->get_element_type(), {}, {0}), ov::op::PadMode::CONSTANT);
        for (auto user : users)  // who asks for the shape is told the true one
            if (!is_shape_of(*user.get_node())) user.replace_source_output(padded);
        found_[padded->output(0)] = {axis, length, true};
    }

    // What `node` makes of a value that has the axis.
    void follow(ov::Node& node) {
        const auto inputs = node.inputs();
        const bool any = std::any_of(inputs.begin(), inputs.end(),
                                     [this](const auto& input) { return find(input.get_source_output()) != nullptr; });
        if (!any || found_.count(node.output(0)) > 0) return;
        if (is_shape_of(node)) return tell_true_shape(node);
        if (ov::is_type<op::Convolution>(&node) || ov::is_type<op::GroupConvolution>(&node)) {
            const auto& window = dynamic_cast<ov::op::util::ConvolutionFwdPropBase&>(node);
            return slide(node, window_of(node, window, inputs[1].get_partial_shape()), 0);
        }
        if (const auto* pool = dynamic_cast<ov::op::util::MaxPoolBase*>(&node))
            if (node.get_output_size() == 1 || node.output(1).get_target_inputs().empty())
                return slide(node, window_of(node, *pool), -kInfinity);
        if (ov::is_type<op::ReduceMean>(&node) || ov::is_type<op::ReduceSum>(&node)) return reduce(node, 0);
        if (ov::is_type<op::ReduceMax>(&node)) return reduce(node, -kInfinity);
        if (ov::is_type<op::ReduceMin>(&node)) return reduce(node, kInfinity);
        if (ov::is_type<op::Result>(&node)) return cut(node);
        if (is_column_by_column(node)) return pass_on(node);
        refuse(node, "is not known to keep its columns apart");
    }

    const Ragged* find(const Value& value) const {
        const auto found = found_.find(value);
        return found == found_.end() ? nullptr : &found->second;
    }
    [[noreturn]] static void refuse(const ov::Node& node, const std::string& why) {
        throw std::runtime_error(std::string(node.get_type_name()) + " '" + node.get_friendly_name() + "' " + why);
    }
    static bool is_shape_of(const ov::Node& node) {
        return ov::is_type<ov::op::v0::ShapeOf>(&node) || ov::is_type<ov::op::v3::ShapeOf>(&node);
    }

    // Each column of the output depends on the same column of the inputs, if on any.
    bool is_column_by_column(const ov::Node& node) const {
        if (ov::is_type<ov::op::util::UnaryElementwiseArithmetic>(&node) || ov::is_type<op::Clamp>(&node) ||
            ov::is_type<op::Convert>(&node) || ov::is_type<ov::op::v16::Identity>(&node))
            return true;
        if (ov::is_type<op::BatchNormInference>(&node) || ov::is_type<op::PRelu>(&node)) {  // axis 1 is the channels'
            const auto values = node.input_values();
            const bool only_data = std::none_of(values.begin() + 1, values.end(),
                                                [this](const Value& value) { return find(value) != nullptr; });
            return only_data && find(values[0])->axis != 1;
        }
        if (!ov::is_type<ov::op::util::BinaryElementwiseArithmetic>(&node) && !ov::is_type<op::HardSigmoid>(&node) &&
            !ov::is_type<op::Swish>(&node))
            return false;
        const auto rank = node.get_output_partial_shape(0).rank().get_length();
        const Ragged* first = nullptr;
        for (const auto& value : node.input_values()) {
            if (const Ragged* const one = find(value)) {
                const bool fits = value.get_partial_shape().rank().get_length() == rank;
                if (!fits || (first != nullptr && (one->axis != first->axis || one->length != first->length)))
                    return false;
                first = one;
            }
        }
        for (const auto& value : node.input_values()) {  // others are the same for all columns
            if (find(value) != nullptr) continue;
            const auto& shape = value.get_partial_shape();
            const auto axis = first->axis - rank + shape.rank().get_length();
            if (axis >= 0 && shape[axis] != 1) return false;
        }
        return true;
    }
    void pass_on(ov::Node& node) {
        for (const auto& value : node.input_values())
            if (const Ragged* const one = find(value)) {
                found_[node.output(0)] = {one->axis, one->length, false};
                return;
            }
    }

    void tell_true_shape(ov::Node& node) {
        const Ragged& data = *find(node.input_value(0));
        const auto users = node.output(0).get_target_inputs();
        const auto length = std::make_shared<op::Convert>(data.length, node.get_output_element_type(0));
        const auto shape =
            std::make_shared<op::ScatterUpdate>(node.output(0), integers({data.axis}), length, integer(0));
        for (auto user : users) user.replace_source_output(shape);
    }

    template <class Node>
    Window window_of(const ov::Node& node, const Node& window, const ov::PartialShape& weights) const {
        const auto at = spatial_axis(node);
        const auto kernel = weights[weights.size() - window.get_strides().size() + at];
        if (kernel.is_dynamic()) refuse(node, "has a kernel of unknown size");
        return window_of(node, window, at, kernel.get_length());
    }
    Window window_of(const ov::Node& node, const ov::op::util::MaxPoolBase& pool) const {
        const auto at = spatial_axis(node);
        Window window = window_of(node, pool, at, static_cast<std::int64_t>(pool.get_kernel()[at]));
        // Rounded up, one more window might begin in the padding.
        if (pool.get_rounding_type() != ov::op::RoundingType::FLOOR) refuse(node, "rounds its length up");
        if (const auto* dilated = dynamic_cast<const ov::op::v8::MaxPool*>(&node))
            window.dilation = static_cast<std::int64_t>(dilated->get_dilations()[at]);
        return window;
    }
    template <class Node>
    Window window_of(const ov::Node& node, const Node& window, std::size_t at, std::int64_t kernel) const {
        const auto pad_type = window.get_auto_pad();
        const auto stride = static_cast<std::int64_t>(window.get_strides()[at]);
        const bool is_explicit = pad_type == ov::op::PadType::EXPLICIT || pad_type == ov::op::PadType::VALID;
        if (!is_explicit && stride != 1) refuse(node, "pads by the length of the axis");
        std::int64_t dilation = 1;
        if constexpr (requires { window.get_dilations(); }) dilation = window.get_dilations()[at];
        Window found{kernel, stride, 0, dilation};
        if (!is_explicit) found.padding = found.extent() - 1;
        if (pad_type == ov::op::PadType::EXPLICIT)
            found.padding = static_cast<std::int64_t>(window.get_pads_begin()[at] + window.get_pads_end()[at]);
        return found;
    }
    std::size_t spatial_axis(const ov::Node& node) const {
        const Ragged* const data = find(node.input_value(0));
        if (data == nullptr || data->axis < 2) refuse(node, "has the axis in another place than its windows");
        return static_cast<std::size_t>(data->axis - 2);
    }

    void slide(ov::Node& node, const Window& window, float fill) {
        const Ragged data = *find(node.input_value(0));
        if (window.extent() > 1) fill_padding(node, data, fill);
        found_[node.output(0)] = {data.axis, length_after(data.length, window), false};
    }
    // The one value for all windows that make the same of a length: lengths are compared by their nodes.
    Value length_after(const Value& length, const Window& window) {
        const auto shorter = window.extent() - window.padding;
        if (window.stride == 1 && shorter == 1) return length;
        Value& after = lengths_[{length, window.stride, shorter}];
        if (after.get_node() == nullptr) {
            const auto steps = std::make_shared<op::Divide>(std::make_shared<op::Subtract>(length, integers({shorter})),
                                                            integers({window.stride}));
            after = std::make_shared<op::Add>(steps, integers({1}));
        }
        return after;
    }

    void reduce(ov::Node& node, float fill) {
        const Ragged* const data = find(node.input_value(0));
        const auto axes = ov::as_type<op::Constant>(node.get_input_node_ptr(1));
        if (data == nullptr || axes == nullptr) refuse(node, "reduces axes that are not known");
        const auto rank = node.get_input_partial_shape(0).rank().get_length();
        auto reduced = axes->cast_vector<std::int64_t>();
        for (auto& axis : reduced) axis += axis < 0 ? rank : 0;
        if (std::find(reduced.begin(), reduced.end(), data->axis) == reduced.end())
            refuse(node, "keeps the axis and reduces others");
        const Value length = data->length, padded = length_of(node.input_value(0), data->axis);
        fill_padding(node, *data, fill);
        if (!ov::is_type<op::ReduceMean>(&node)) return;
        const auto type = node.get_output_element_type(0);
        const auto users = node.output(0).get_target_inputs();
        const auto counted = std::make_shared<op::Maximum>(length, integers({1}));
        const auto ratio = std::make_shared<op::Divide>(std::make_shared<op::Convert>(padded, type),
                                                        std::make_shared<op::Convert>(counted, type));
        const auto scale = std::make_shared<op::Squeeze>(ratio, integers({0}));
        const auto mean = std::make_shared<op::Multiply>(node.output(0), scale);
        for (auto user : users) user.replace_source_output(mean);
    }

    void fill_padding(ov::Node& node, const Ragged& data, float fill) {
        if (fill == 0 && data.is_zero_after) return;
        const Value value = node.input_value(0);
        if (!value.get_element_type().is_real()) refuse(node, "takes integers");
        const auto other = op::Constant::create(value.get_element_type(), {}, {fill});
        node.input(0).replace_source_output(std::make_shared<op::Select>(mask(value, data), value, other));
    }
    // Which columns are true ones; shaped to be broadcast.
    Value mask(const Value& value, const Ragged& data) {
        const auto rank = static_cast<std::size_t>(value.get_partial_shape().rank().get_length());
        Value& known = masks_[{data.length, data.axis, rank}];
        if (known.get_node() == nullptr) {
            const auto columns = std::make_shared<op::Squeeze>(length_of(value, data.axis), integers({0}));
            const auto places = std::make_shared<op::Range>(integer(0), columns, integer(1), ov::element::i64);
            std::vector<std::int64_t> shape(rank, 1);
            shape[static_cast<std::size_t>(data.axis)] = -1;
            known =
                std::make_shared<op::Reshape>(std::make_shared<op::Less>(places, data.length), integers(shape), false);
        }
        return known;
    }

    void cut(ov::Node& result) {
        const Ragged data = *find(result.input_value(0));
        const auto names = result.output(0).get_names();
        const auto cut = std::make_shared<op::Slice>(result.input_value(0), integers({0}), data.length, integers({1}),
                                                     integers({data.axis}));
        result.input(0).replace_source_output(cut);
        result.output(0).set_names(names);
    }

    const std::shared_ptr<ov::Model> model_;
    std::map<Value, Ragged> found_;
    std::map<std::tuple<Value, std::int64_t, std::int64_t>, Value> lengths_;
    std::map<std::tuple<Value, std::int64_t, std::size_t>, Value> masks_;
};

}  // namespace

std::int64_t shortest_padded(const std::vector<std::int64_t>& lengths) {
    return std::max<std::int64_t>(1, lengths.front() / 2);
}

std::shared_ptr<ov::Model> padded_inside(const ov::Model& model, std::size_t index, std::int64_t axis,
                                         const std::vector<std::int64_t>& lengths) {
    return Padding(model.clone(), index, axis, lengths).model();
}

}  // namespace ovengine
