#include "device/openvino_known_values.hpp"

#include <map>
#include <openvino/op/constant.hpp>
#include <openvino/op/util/multi_subgraph_base.hpp>
#include <string_view>

namespace ovengine {
namespace {

constexpr std::size_t kMostElements = 4096, kMostOfConstant = 1 << 20;
constexpr int kDeepest = 64;

class Evaluation {
  public:
    // An empty tensor where it is not known.
    const ov::Tensor& value(const ov::Output<ov::Node>& output, int depth = 0) {
        const auto known = values_.find(output);
        return known != values_.end() ? known->second : values_[output] = evaluate(output, depth);
    }

  private:
    ov::Tensor evaluate(const ov::Output<ov::Node>& output, int depth) {
        const ov::Node& node = *output.get_node();
        const auto& shape = output.get_partial_shape();
        const std::string_view type = node.get_type_name();
        if (shape.is_dynamic() || depth > kDeepest) return {};
        const auto* constant = dynamic_cast<const ov::op::v0::Constant*>(&node);
        if (ov::shape_size(shape.to_shape()) > (constant == nullptr ? kMostElements : kMostOfConstant)) return {};
        if (type == "RandomUniform" || type == "Multinomial" || type == "ReadValue") return {};
        if (dynamic_cast<const ov::op::util::MultiSubGraphOp*>(&node) != nullptr) return {};
        if (constant != nullptr)
            return {constant->get_element_type(), constant->get_shape(), const_cast<void*>(constant->get_data_ptr())};
        ov::TensorVector inputs, outputs;
        if (type == "ShapeOf") {  // whose own evaluation looks at no more than the shape
            const auto& source = node.get_input_partial_shape(0);
            if (source.is_dynamic()) return {};
            const auto lengths = source.to_shape();
            const ov::op::v0::Constant constant(output.get_element_type(), shape.to_shape(), lengths);
            ov::Tensor copy(output.get_element_type(), shape.to_shape());
            ov::Tensor(constant.get_element_type(), constant.get_shape(), const_cast<void*>(constant.get_data_ptr()))
                .copy_to(copy);
            return copy;
        }
        if (node.get_input_size() == 0 || !node.has_evaluate()) return {};
        for (const auto& input : node.input_values()) {
            inputs.push_back(value(input, depth + 1));
            if (!inputs.back()) return {};
        }
        for (const auto& each : node.outputs()) {
            if (each.get_partial_shape().is_dynamic()) return {};
            outputs.emplace_back(each.get_element_type(), each.get_shape());
        }
        try {
            return node.evaluate(outputs, inputs) ? outputs[output.get_index()] : ov::Tensor();
        } catch (const std::exception&) {
            return {};
        }
    }

    std::map<ov::Output<ov::Node>, ov::Tensor> values_;
};

}  // namespace

std::optional<std::vector<double>> known_values(const ov::Output<ov::Node>& output) {
    Evaluation evaluation;
    const ov::Tensor value = evaluation.value(output);
    if (!value) return std::nullopt;
    const auto type = value.get_element_type();
    if (type == ov::element::string || !type.is_static()) return std::nullopt;
    return ov::op::v0::Constant(value).cast_vector<double>();
}

}  // namespace ovengine
