#include "openvino_executor.hpp"

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <openvino/op/constant.hpp>
#include <openvino/op/util/assign_base.hpp>
#include <openvino/op/util/multi_subgraph_base.hpp>
#include <openvino/op/util/read_value_base.hpp>
#include <openvino/openvino.hpp>
#include <sstream>
#include <typeinfo>

#include "openvino_graph.hpp"
#include "openvino_padding.hpp"

namespace ovengine {
namespace {

// As OpenVINO's own Python API shows it: what NumPy lacks as bits of the same size, or as packed bytes.
std::string numpy_dtype(const ov::element::Type& type) {
    switch (static_cast<ov::element::Type_t>(type)) {
        case ov::element::Type_t::boolean: return "b1";
        case ov::element::Type_t::bf16:
        case ov::element::Type_t::f16: return "f2";
        case ov::element::Type_t::f32: return "f4";
        case ov::element::Type_t::f64: return "f8";
        case ov::element::Type_t::i4:
        case ov::element::Type_t::i8: return "i1";
        case ov::element::Type_t::i16: return "i2";
        case ov::element::Type_t::i32: return "i4";
        case ov::element::Type_t::i64: return "i8";
        case ov::element::Type_t::u8: return "u1";
        case ov::element::Type_t::u16: return "u2";
        case ov::element::Type_t::u32: return "u4";
        case ov::element::Type_t::u64: return "u8";
        case ov::element::Type_t::string: return "U";
        default: return type.is_static() ? "u1" : "";  // f8 of all kinds, and what is smaller than a byte
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
        for (const auto& dimension : shape) {
            port.shape.push_back(dimension.is_static() ? dimension.get_length() : -1);
            port.least.push_back(dimension.get_min_length());
            port.most.push_back(dimension.get_max_length());
        }
    const ov::element::Type type = node.get_element_type();
    port.dtype = numpy_dtype(type);
    port.element_type = type.get_type_name();
    port.bits = type == ov::element::string ? 0 : type.bitwidth();
    return port;
}

template <class Model>
void describe_all(const Model& model, std::vector<Port>& inputs, std::vector<Port>& outputs) {
    for (std::size_t i = 0; i < model.inputs().size(); ++i) inputs.push_back(describe(model.input(i), i, "input"));
    for (std::size_t i = 0; i < model.outputs().size(); ++i) outputs.push_back(describe(model.output(i), i, "output"));
}

ov::AnyMap to_any_map(const Properties& properties) { return {properties.begin(), properties.end()}; }

ov::Shape to_shape(const Dimensions& dimensions) { return {dimensions.begin(), dimensions.end()}; }

ShapedOutput copied(const ov::Tensor& tensor) {
    const ov::Shape shape = tensor.get_shape();  // once: each call may make it anew
    ShapedOutput copy;
    copy.shape.assign(shape.begin(), shape.end());
    if (tensor.get_element_type() == ov::element::string) {
        const auto* text = tensor.data<const std::string>();
        copy.text.assign(text, text + tensor.get_size());
    } else {
        const auto* data = static_cast<const std::byte*>(tensor.data());
        copy.data.assign(data, data + tensor.get_byte_size());
    }
    return copy;
}

struct PortType {
    ov::element::Type type;
    ov::Shape shape;  // empty where dynamic
    bool is_shared = false;
};

std::vector<PortType> types_of(const std::vector<ov::Output<const ov::Node>>& ports) {
    std::vector<PortType> types;
    for (const auto& port : ports) {
        const auto shape = port.get_partial_shape();
        types.push_back({port.get_element_type(), shape.is_static() ? shape.to_shape() : ov::Shape{}, false});
    }
    return types;
}

// Whether shapes inside depend on values, so that an inference can fail for those of its inputs.
bool is_dynamic_inside(const ov::Model& model) {
    for (const auto& node : model.get_ops()) {
        if (ov::as_type_ptr<ov::op::util::MultiSubGraphOp>(node) != nullptr) return true;  // who knows
        for (const auto& output : node->outputs())
            if (output.get_partial_shape().is_dynamic()) return true;
    }
    return false;
}

// With one thread, the CPU plugin's infer() passes over an inference that fails inside (shapes that do not fit, a state
// of a type that it cannot keep), and leaves the outputs of an earlier one: seen with 2026.4.1. On its own thread it
// throws. It costs a few microseconds, where an inference can fail for its values: dynamic shapes inside, or state.
void infer_checked(ov::InferRequest& request) {
    request.start_async();
    request.wait();
}

std::vector<ShapedOutput> infer_at(ov::InferRequest& request, const std::vector<PortType>& types,
                                   const std::vector<ShapedInput>& inputs, std::size_t outputs) {
    for (std::size_t i = 0; i < inputs.size(); ++i)
        request.set_input_tensor(i, {types[i].type, to_shape(inputs[i].shape), const_cast<std::byte*>(inputs[i].data)});
    infer_checked(request);
    std::vector<ShapedOutput> results;
    for (std::size_t i = 0; i < outputs; ++i) results.push_back(copied(request.get_output_tensor(i)));
    return results;
}

// The same model, compiled anew.
using Remake = std::function<ov::CompiledModel(ov::CompiledModel&)>;

// `blob`: what it can be imported from; exported on the first failure where it is empty. (What was imported cannot be
// exported again.)
Remake remake_by(ov::Core core, std::string device, ov::AnyMap properties, std::string blob = {}) {
    return [=](ov::CompiledModel& compiled) mutable {
        if (blob.empty()) {
            std::ostringstream exported;
            compiled.export_model(exported);
            blob = exported.str();
        }
        std::istringstream stream(blob);
        return core.import_model(stream, device, properties);
    };
}

class OpenvinoExecutor final : public Executor {
  public:
    // `may_fail`: for the values of its inputs; `remake`: compiles the model anew, or is empty.
    OpenvinoExecutor(ov::CompiledModel compiled, bool may_fail, Remake remake)
        : compiled_(std::move(compiled)),
          remake_(std::move(remake)),
          inputs_(types_of(compiled_.inputs())),
          outputs_(types_of(compiled_.outputs())),
          may_fail_(may_fail) {}

    void infer(std::uint32_t binding, std::byte* const* inputs, std::byte* const* outputs) override {
        if (binding >= bound_.size()) bound_.resize(binding + 1);
        Bound& bound = bound_[binding];
        if (!bound.request) {
            bound.request = compiled_.create_infer_request();
            has_state_ = !bound.request.query_state().empty();
            may_fail_ = may_fail_ || has_state_;
            bound.inputs.assign(inputs_.size(), nullptr);
            bound.outputs.assign(outputs_.size(), nullptr);
            if (!knows_shared_) find_shared(bound.request);
        }
        // Binding a tensor costs microseconds, about as much as a small inference: only what changed is bound.
        for (std::size_t i = 0; i < inputs_.size(); ++i)
            if (bound.inputs[i] != inputs[i]) {
                bound.request.set_input_tensor(i, {inputs_[i].type, inputs_[i].shape, inputs[i]});
                bound.inputs[i] = inputs[i];
            }
        for (std::size_t i = 0; i < outputs_.size(); ++i)
            if (bound.outputs[i] != outputs[i] && !outputs_[i].is_shared) {
                bound.request.set_output_tensor(i, {outputs_[i].type, outputs_[i].shape, outputs[i]});
                bound.outputs[i] = outputs[i];
            }
        // A request stands for itself: what an earlier one left behind must not show.
        if (has_state_) bound.request.reset_state();
        if (may_fail_)
            with_remake([&] { infer_checked(bound.request); });
        else
            bound.request.infer();
        if (any_shared_) copy_shared(bound.request, outputs);
    }

    std::vector<ShapedOutput> infer_shaped(const std::vector<ShapedInput>& inputs) override {
        if (!shaped_) {
            shaped_ = compiled_.create_infer_request();
            has_state_ = !shaped_.query_state().empty();
        }
        if (has_state_) shaped_.reset_state();
        std::vector<ShapedOutput> outputs;
        with_remake([&] { outputs = infer_at(shaped_, inputs_, inputs, outputs_.size()); });
        return outputs;
    }

  private:
    // What failed may have left the compiled model in a state of its own.
    template <class Run>
    void with_remake(Run run) {
        try {
            run();
        } catch (...) {
            if (remake_) {
                bound_.clear();
                shaped_ = {};
                compiled_ = remake_(compiled_);
            }
            throw;
        }
    }

    struct Bound {
        ov::InferRequest request;
        std::vector<std::byte*> inputs, outputs;
    };

    // An output that is an input passed through, or the same as another output, has that one's memory; bound to memory
    // of its own it is not written, and the input may be. Seen on a request that nothing is bound to yet.
    void find_shared(ov::InferRequest& request) {
        knows_shared_ = true;
        std::map<const void*, int> users;
        for (std::size_t i = 0; i < inputs_.size(); ++i) ++users[request.get_input_tensor(i).data()];
        for (std::size_t i = 0; i < outputs_.size(); ++i) ++users[request.get_output_tensor(i).data()];
        for (std::size_t i = 0; i < outputs_.size(); ++i) {
            outputs_[i].is_shared = users[request.get_output_tensor(i).data()] > 1;
            any_shared_ = any_shared_ || outputs_[i].is_shared;
        }
    }
    void copy_shared(ov::InferRequest& request, std::byte* const* outputs) const {
        for (std::size_t i = 0; i < outputs_.size(); ++i) {
            if (!outputs_[i].is_shared) continue;
            const ov::Tensor tensor = request.get_output_tensor(i);
            const auto* data = static_cast<const std::byte*>(tensor.data());
            std::copy_n(data, tensor.get_byte_size(), outputs[i]);
        }
    }

    ov::CompiledModel compiled_;
    Remake remake_;
    const std::vector<PortType> inputs_;
    std::vector<PortType> outputs_;
    std::vector<Bound> bound_;
    ov::InferRequest shaped_;
    bool may_fail_, has_state_ = false, knows_shared_ = false, any_shared_ = false;
};

class OpenvinoStateful final : public StatefulExecutor {
  public:
    explicit OpenvinoStateful(ov::CompiledModel compiled)
        : request_(compiled.create_infer_request()),
          inputs_(types_of(compiled.inputs())),
          outputs_(compiled.outputs().size()),
          variables_(request_.query_state()) {
        for (auto& variable : variables_) {
            const ov::Tensor tensor = variable.get_state();
            const ov::Shape shape = tensor.get_shape();
            states_.push_back(
                {{variable.get_name()}, {shape.begin(), shape.end()}, true, numpy_dtype(tensor.get_element_type())});
            types_.push_back(tensor.get_element_type());
        }
    }

    const std::vector<Port>& states() const override { return states_; }
    std::vector<ShapedOutput> infer_shaped(const std::vector<ShapedInput>& inputs) override {
        return infer_at(request_, inputs_, inputs, outputs_);
    }
    void reset_state() override { request_.reset_state(); }
    ShapedOutput state(std::size_t variable) override { return copied(variables_[variable].get_state()); }
    void set_state(std::size_t variable, const ShapedInput& value) override {
        // A tensor of its own: a device may keep it.
        ov::Tensor tensor(types_[variable], to_shape(value.shape));
        if (tensor.get_byte_size() > 0) std::memcpy(tensor.data(), value.data, tensor.get_byte_size());
        variables_[variable].set_state(tensor);
    }

  private:
    ov::InferRequest request_;
    const std::vector<PortType> inputs_;
    const std::size_t outputs_;
    std::vector<ov::VariableState> variables_;
    std::vector<Port> states_;
    std::vector<ov::element::Type> types_;  // of the variables
};

class OpenvinoCompiled final : public CompiledModel {
  public:
    // `source`: what it was compiled from, or its runtime model.
    OpenvinoCompiled(ov::CompiledModel compiled, const ov::Model& source, Remake remake = {})
        : compiled_(std::move(compiled)), is_dynamic_inside_(is_dynamic_inside(source)), remake_(std::move(remake)) {
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
    std::unique_ptr<Executor> make_executor() const override {
        return std::make_unique<OpenvinoExecutor>(compiled_, is_dynamic_inside_, remake_);
    }
    std::unique_ptr<StatefulExecutor> make_stateful() const override {
        return std::make_unique<OpenvinoStateful>(compiled_);
    }

  private:
    ov::CompiledModel compiled_;
    const bool is_dynamic_inside_;
    const Remake remake_;
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

std::shared_ptr<Graph> Graph::reshaped(const std::map<std::size_t, std::string>& shapes) const {
    const auto copy = impl_->model->clone();  // shares the constants
    std::map<ov::Output<ov::Node>, ov::PartialShape> by_port;
    for (const auto& [index, shape] : shapes) by_port[copy->input(index)] = ov::PartialShape(shape);
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
std::shared_ptr<Graph> Graph::padded_inside(std::size_t input, std::int64_t axis,
                                            const std::vector<std::int64_t>& lengths) const {
    return std::make_shared<Graph>(
        std::make_shared<const Impl>(ovengine::padded_inside(*impl_->model, input, axis, lengths)));
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
    const auto& model = graph.impl().model;
    const ov::AnyMap given = to_any_map(properties);
    return std::make_shared<OpenvinoCompiled>(impl_->core.compile_model(model, device, given), *model,
                                              remake_by(impl_->core, device, given));
}

std::shared_ptr<CompiledModel> Runtime::import_blob(const std::string& blob, const std::string& device,
                                                    const Properties& properties) {
    std::istringstream stream(blob);
    const ov::AnyMap given = to_any_map(properties);
    ov::CompiledModel compiled = impl_->core.import_model(stream, device, given);
    const auto model = compiled.get_runtime_model();
    return std::make_shared<OpenvinoCompiled>(
        compiled, *model, is_dynamic_inside(*model) ? remake_by(impl_->core, device, given, blob) : Remake{});
}

std::shared_ptr<CompiledModel> adopt_compiled(const void* model) {
    const auto& compiled = *static_cast<const ov::CompiledModel*>(model);
    return std::make_shared<OpenvinoCompiled>(compiled, *compiled.get_runtime_model());
}

std::string openvino_version() { return ov::get_openvino_version().buildNumber; }

const void* openvino_model_type_info() { return &typeid(ov::Model); }
const void* openvino_compiled_model_type_info() { return &typeid(ov::CompiledModel); }

}  // namespace ovengine
