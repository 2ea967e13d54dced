#include "openvino_executor.hpp"

#include <openvino/op/constant.hpp>
#include <openvino/op/util/assign_base.hpp>
#include <openvino/op/util/read_value_base.hpp>
#include <openvino/openvino.hpp>
#include <sstream>
#include <typeinfo>

#include "openvino_graph.hpp"

namespace ovengine {
namespace {

std::string numpy_dtype(const ov::element::Type& type) {
    switch (static_cast<ov::element::Type_t>(type)) {
        case ov::element::Type_t::boolean: return "b1";
        case ov::element::Type_t::f16: return "f2";
        case ov::element::Type_t::f32: return "f4";
        case ov::element::Type_t::f64: return "f8";
        case ov::element::Type_t::i8: return "i1";
        case ov::element::Type_t::i16: return "i2";
        case ov::element::Type_t::i32: return "i4";
        case ov::element::Type_t::i64: return "i8";
        case ov::element::Type_t::u8: return "u1";
        case ov::element::Type_t::u16: return "u2";
        case ov::element::Type_t::u32: return "u4";
        case ov::element::Type_t::u64: return "u8";
        default: return type.get_type_name();  // no NumPy equivalent: the binding refuses it by this name
    }
}

template <class OutputNode>
Port describe(const OutputNode& node, std::size_t index, const char* kind) {
    Port port;
    for (const auto& name : node.get_names()) port.names.push_back(name);
    std::sort(port.names.begin(), port.names.end());
    if (port.names.empty()) port.names.push_back(kind + std::to_string(index));
    const ov::PartialShape shape = node.get_partial_shape();
    port.rank_is_static = shape.rank().is_static();
    if (port.rank_is_static)
        for (const auto& dimension : shape) port.shape.push_back(dimension.is_static() ? dimension.get_length() : -1);
    port.dtype = numpy_dtype(node.get_element_type());
    return port;
}

template <class Model>
void describe_all(const Model& model, std::vector<Port>& inputs, std::vector<Port>& outputs) {
    for (std::size_t i = 0; i < model.inputs().size(); ++i) inputs.push_back(describe(model.input(i), i, "input"));
    for (std::size_t i = 0; i < model.outputs().size(); ++i) outputs.push_back(describe(model.output(i), i, "output"));
}

ov::AnyMap to_any_map(const Properties& properties) { return {properties.begin(), properties.end()}; }

class OpenvinoExecutor final : public Executor {
  public:
    explicit OpenvinoExecutor(ov::CompiledModel compiled) : compiled_(std::move(compiled)) {
        for (const auto& port : compiled_.inputs()) add_port(port, inputs_);
        for (const auto& port : compiled_.outputs()) add_port(port, outputs_);
    }

    void infer(std::uint32_t binding, std::byte* const* inputs, std::byte* const* outputs) override {
        if (binding >= bound_.size()) bound_.resize(binding + 1);
        Bound& bound = bound_[binding];
        if (!bound.request) {
            bound.request = compiled_.create_infer_request();
            has_state_ = !bound.request.query_state().empty();
            bound.inputs.assign(inputs_.size(), nullptr);
            bound.outputs.assign(outputs_.size(), nullptr);
        }
        // Binding a tensor costs microseconds, about as much as a small inference: only what changed is bound.
        for (std::size_t i = 0; i < inputs_.size(); ++i)
            if (bound.inputs[i] != inputs[i]) {
                bound.request.set_input_tensor(i, {inputs_[i].type, inputs_[i].shape, inputs[i]});
                bound.inputs[i] = inputs[i];
            }
        for (std::size_t i = 0; i < outputs_.size(); ++i)
            if (bound.outputs[i] != outputs[i]) {
                bound.request.set_output_tensor(i, {outputs_[i].type, outputs_[i].shape, outputs[i]});
                bound.outputs[i] = outputs[i];
            }
        // A request stands for itself: what an earlier one left behind must not show.
        if (has_state_) bound.request.reset_state();
        bound.request.infer();
    }

    std::vector<ShapedOutput> infer_shaped(const std::vector<ShapedInput>& inputs) override {
        if (!shaped_) {
            shaped_ = compiled_.create_infer_request();
            has_state_ = !shaped_.query_state().empty();
        }
        if (has_state_) shaped_.reset_state();
        for (std::size_t i = 0; i < inputs.size(); ++i) {
            const ov::Shape shape(inputs[i].shape.begin(), inputs[i].shape.end());
            shaped_.set_input_tensor(i, {inputs_[i].type, shape, const_cast<std::byte*>(inputs[i].data)});
        }
        shaped_.infer();
        std::vector<ShapedOutput> results;
        for (std::size_t i = 0; i < outputs_.size(); ++i) {
            const ov::Tensor tensor = shaped_.get_output_tensor(i);
            const auto* data = static_cast<const std::byte*>(tensor.data());
            const ov::Shape shape = tensor.get_shape();  // once: each call may make it anew
            results.push_back({{shape.begin(), shape.end()}, {data, data + tensor.get_byte_size()}});
        }
        return results;
    }

  private:
    struct PortType {
        ov::element::Type type;
        ov::Shape shape;
    };
    struct Bound {
        ov::InferRequest request;
        std::vector<std::byte*> inputs, outputs;
    };

    static void add_port(const ov::Output<const ov::Node>& port, std::vector<PortType>& ports) {
        const auto shape = port.get_partial_shape();
        ports.push_back({port.get_element_type(), shape.is_static() ? shape.to_shape() : ov::Shape{}});
    }

    ov::CompiledModel compiled_;
    std::vector<PortType> inputs_, outputs_;
    std::vector<Bound> bound_;
    ov::InferRequest shaped_;
    bool has_state_ = false;
};

class OpenvinoCompiled final : public CompiledModel {
  public:
    explicit OpenvinoCompiled(ov::CompiledModel compiled) : compiled_(std::move(compiled)) {
        describe_all(compiled_, inputs_, outputs_);
    }
    const std::vector<Port>& inputs() const override { return inputs_; }
    const std::vector<Port>& outputs() const override { return outputs_; }
    std::string property(const std::string& name) const override {
        return compiled_.get_property(name).as<std::string>();
    }
    std::string export_blob() const override {
        std::ostringstream stream;
        const_cast<ov::CompiledModel&>(compiled_).export_model(stream);
        return stream.str();
    }
    std::unique_ptr<Executor> make_executor() const override { return std::make_unique<OpenvinoExecutor>(compiled_); }

  private:
    ov::CompiledModel compiled_;
    std::vector<Port> inputs_, outputs_;
};

}  // namespace

struct Graph::Impl {
    std::shared_ptr<ov::Model> model;
    std::string name;
    std::vector<Port> inputs, outputs;
    std::size_t constant_bytes = 0;
    bool has_state = false;

    explicit Impl(std::shared_ptr<ov::Model> source) : model(std::move(source)) {
        name = model->get_friendly_name();
        describe_all(*model, inputs, outputs);
        for (const auto& node : model->get_ops()) {
            if (const auto constant = ov::as_type_ptr<ov::op::v0::Constant>(node))
                constant_bytes += constant->get_byte_size();
            has_state = has_state || ov::as_type_ptr<ov::op::util::ReadValueBase>(node) != nullptr;
        }
    }
};

Graph::Graph(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
const std::string& Graph::name() const { return impl_->name; }
const std::vector<Port>& Graph::inputs() const { return impl_->inputs; }
const std::vector<Port>& Graph::outputs() const { return impl_->outputs; }
std::size_t Graph::constant_bytes() const { return impl_->constant_bytes; }
bool Graph::has_state() const { return impl_->has_state; }

std::shared_ptr<Graph> Graph::reshaped(const std::map<std::size_t, Dimensions>& shapes) const {
    const auto copy = impl_->model->clone();  // shares the constants
    std::map<ov::Output<ov::Node>, ov::PartialShape> by_port;
    for (const auto& [index, dimensions] : shapes) {
        ov::PartialShape shape;
        for (const auto length : dimensions)
            shape.push_back(length < 0 ? ov::Dimension::dynamic() : ov::Dimension(length));
        by_port[copy->input(index)] = shape;
    }
    copy->reshape(by_port);
    return std::make_shared<Graph>(std::make_shared<const Impl>(copy));
}

std::string Graph::content() const { return ovengine::content(*impl_->model); }
std::map<std::size_t, Axis> Graph::layout_batch_axes() const { return ovengine::layout_batch_axes(*impl_->model); }
std::vector<std::vector<std::int64_t>> Graph::symbolic_batch_axes(const std::vector<Axis>& inputs) const {
    return ovengine::symbolic_batch_axes(*impl_->model, inputs);
}
std::shared_ptr<Graph> Graph::batch_first(const std::vector<Axis>& inputs, const std::vector<Axis>& outputs) const {
    return std::make_shared<Graph>(std::make_shared<const Impl>(ovengine::batch_first(*impl_->model, inputs, outputs)));
}

struct Runtime::Impl {
    ov::Core core;
};

Runtime::Runtime() : impl_(std::make_unique<Impl>()) {}
Runtime::~Runtime() = default;

std::vector<std::string> Runtime::available_devices() const { return impl_->core.get_available_devices(); }

std::string Runtime::device_property(const std::string& device, const std::string& name) const {
    return impl_->core.get_property(device, name).as<std::string>();
}

std::map<std::string, bool> Runtime::supported_properties(const std::string& device) const {
    std::map<std::string, bool> result;
    for (const auto& property : impl_->core.get_property(device, ov::supported_properties))
        result[property] = property.is_mutable();
    return result;
}

void Runtime::register_plugin(const std::string& library, const std::string& device) {
    impl_->core.register_plugin(library, device);
}

void Runtime::set_property(const std::string& device, const Properties& properties) {
    if (device.empty())
        impl_->core.set_property(to_any_map(properties));
    else
        impl_->core.set_property(device, to_any_map(properties));
}

std::shared_ptr<Graph> Runtime::read_model(const std::string& path, const std::string& weights) const {
    return std::make_shared<Graph>(std::make_shared<const Graph::Impl>(impl_->core.read_model(path, weights)));
}

std::shared_ptr<Graph> Runtime::read_model_bytes(const std::string& model, const char* weights,
                                                 std::size_t size) const {
    ov::Tensor tensor;
    if (weights != nullptr) {
        // The graph's constants point into this tensor: it owns a copy, so that the caller's bytes may go.
        tensor = ov::Tensor(ov::element::u8, {size});
        std::copy_n(weights, size, static_cast<char*>(tensor.data()));
    }
    return std::make_shared<Graph>(std::make_shared<const Graph::Impl>(impl_->core.read_model(model, tensor)));
}

std::shared_ptr<Graph> Runtime::adopt(void* model) const {
    return std::make_shared<Graph>(
        std::make_shared<const Graph::Impl>(static_cast<ov::Model*>(model)->shared_from_this()));
}

std::shared_ptr<CompiledModel> Runtime::compile(const Graph& graph, const std::string& device,
                                                const Properties& properties) {
    return std::make_shared<OpenvinoCompiled>(
        impl_->core.compile_model(graph.impl().model, device, to_any_map(properties)));
}

std::shared_ptr<CompiledModel> Runtime::import_blob(const std::string& blob, const std::string& device,
                                                    const Properties& properties) {
    std::istringstream stream(blob);
    return std::make_shared<OpenvinoCompiled>(impl_->core.import_model(stream, device, to_any_map(properties)));
}

std::shared_ptr<CompiledModel> adopt_compiled(const void* model) {
    return std::make_shared<OpenvinoCompiled>(*static_cast<const ov::CompiledModel*>(model));
}

std::string openvino_version() { return ov::get_openvino_version().buildNumber; }

const void* openvino_model_type_info() { return &typeid(ov::Model); }
const void* openvino_compiled_model_type_info() { return &typeid(ov::CompiledModel); }

}  // namespace ovengine
