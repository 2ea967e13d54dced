#include "device/openvino_refusals.hpp"

#include <openvino/op/util/arithmetic_reductions_keep_dims.hpp>
#include <openvino/op/util/binary_elementwise_arithmetic.hpp>
#include <openvino/op/util/binary_elementwise_comparison.hpp>
#include <openvino/op/util/binary_elementwise_logical.hpp>
#include <openvino/op/util/logical_reduction_keep_dims.hpp>
#include <openvino/op/util/multi_subgraph_base.hpp>
#include <openvino/op/util/read_value_base.hpp>
#include <openvino/op/util/unary_elementwise_arithmetic.hpp>
#include <openvino/runtime/properties.hpp>
#include <set>
#include <string>
#include <string_view>

namespace ovengine {
namespace {

// By type, in any version; where all shapes are static none of these looks at a value but to compute with it.
const std::set<std::string_view> kOperators{
    "AvgPool",
    "BatchNormInference",
    "Broadcast",
    "Clamp",
    "Concat",
    "Constant",
    "Convert",
    "Convolution",
    "ConvolutionBackpropData",
    "DepthToSpace",
    "Elu",
    "FakeQuantize",
    "Gelu",
    "GroupConvolution",
    "GroupConvolutionBackpropData",
    "GroupNormalization",
    "HardSigmoid",
    "LRN",
    "LogSoftmax",
    "LogicalNot",
    "MVN",
    "MatMul",
    "MaxPool",
    "NormalizeL2",
    "PRelu",
    "Pad",
    "Parameter",
    "Reshape",
    "Result",
    "Select",
    "Selu",
    "ShapeOf",
    "Slice",
    "Softmax",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "StridedSlice",
    "Swish",
    "Tile",
    "Transpose",
    "Unsqueeze",
    "VariadicSplit",
};

// The same of the CPU plugin's nodes, as a runtime model names them.
const std::set<std::string_view> kNodes{
    "Broadcast", "Concatenation", "Const",          "Convert", "Convolution",  "Deconvolution", "DepthToSpace",
    "Eltwise",   "FakeQuantize",  "FullyConnected", "Input",   "LRN",          "LogSoftmax",    "MVN",
    "MatMul",    "NormalizeL2",   "Output",         "Pad",     "Pooling",      "Reduce",        "Reorder",
    "Reshape",   "Select",        "ShapeOf",        "Softmax", "SpaceToDepth", "Split",         "StridedSlice",
    "Subgraph",  "Tile",          "Transpose",
};

// Of a node in a runtime model; empty in any other.
std::string cpu_node(const ov::Node& node) {
    const auto& info = node.get_rt_info();
    const auto layer = info.find("layerType");
    return layer == info.end() ? std::string() : layer->second.as<std::string>();
}

bool never_refuses(const ov::Node& node) {
    if (const std::string type = cpu_node(node); !type.empty()) return kNodes.contains(type);
    return kOperators.contains(node.get_type_info().name) ||
           dynamic_cast<const ov::op::util::UnaryElementwiseArithmetic*>(&node) != nullptr ||
           dynamic_cast<const ov::op::util::BinaryElementwiseArithmetic*>(&node) != nullptr ||
           dynamic_cast<const ov::op::util::BinaryElementwiseComparison*>(&node) != nullptr ||
           dynamic_cast<const ov::op::util::BinaryElementwiseLogical*>(&node) != nullptr ||
           dynamic_cast<const ov::op::util::ArithmeticReductionKeepDims*>(&node) != nullptr ||
           dynamic_cast<const ov::op::util::LogicalReductionKeepDims*>(&node) != nullptr;
}

bool has_dynamic_output(const ov::Node& node) {
    for (const auto& output : node.outputs())
        if (output.get_partial_shape().is_dynamic()) return true;
    return false;
}

}  // namespace

bool may_refuse_values(const ov::Model& model) {
    for (const auto& node : model.get_ops())
        if (!never_refuses(*node) || has_dynamic_output(*node)) return true;
    return false;
}

bool remembers_failures(const ov::Model& model) {
    for (const auto& node : model.get_ops())
        if (ov::as_type_ptr<ov::op::util::MultiSubGraphOp>(node) != nullptr ||
            ov::as_type_ptr<ov::op::util::ReadValueBase>(node) != nullptr || cpu_node(*node) == "MemoryInput" ||
            has_dynamic_output(*node))
            return true;
    return false;
}

ov::AnyMap without_short_cut(const ov::AnyMap& properties) {
    ov::AnyMap changed = properties;
    const auto is_one = [&](const auto& property) {
        const auto found = properties.find(property.name());
        return found != properties.end() && found->second.template as<std::string>() == "1";
    };
    if (is_one(ov::num_streams) && is_one(ov::inference_num_threads)) changed[ov::num_streams.name()] = "0";
    return changed;
}

bool takes_short_cut(const ov::CompiledModel& compiled) {
    const auto is_one = [&](const auto& property) {
        try {
            return compiled.get_property(property.name()).template as<std::string>() == "1";
        } catch (const ov::Exception&) {
            return false;  // no CPU
        }
    };
    return is_one(ov::num_streams) && is_one(ov::inference_num_threads);
}

}  // namespace ovengine
