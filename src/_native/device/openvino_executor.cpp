#include "device/openvino_executor.hpp"

#include <algorithm>
#include <map>
#include <openvino/op/constant.hpp>
#include <openvino/op/util/assign_base.hpp>
#include <openvino/op/util/read_value_base.hpp>
#include <openvino/openvino.hpp>
#include <sstream>
#include <typeinfo>

#include "device/openvino_constants.hpp"
#include "device/openvino_graph.hpp"
#include "device/openvino_padding.hpp"
#include "device/openvino_refusals.hpp"
#include "device/openvino_requests.hpp"
#include "device/openvino_rows.hpp"
#include "device/openvino_values.hpp"
#include "platform/signal_stack.hpp"

namespace ovengine {
namespace {

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

// `blob`: what it can be imported from; exported on the first failure where it is empty. (What was imported cannot be
// exported again.)
RenewableModel::Remake remake_by(ov::Core core, std::string device, ov::AnyMap properties, std::string blob = {}) {
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

Failures failures_of(const ov::CompiledModel& compiled, const ov::Model& source) {
    return {may_refuse_values(source) && takes_short_cut(compiled), remembers_failures(source)};
}

class OpenvinoCompiled final : public CompiledModel {
  public:
    // `source`: what it was compiled from, or its runtime model.
    OpenvinoCompiled(ov::CompiledModel compiled, const ov::Model& source, RenewableModel::Remake remake = {})
        : failures_(failures_of(compiled, source)) {
        describe_all(compiled, inputs_, outputs_);
        compiled_ = std::make_shared<RenewableModel>(std::move(compiled), std::move(remake));
    }
    const std::vector<Port>& inputs() const override { return inputs_; }
    const std::vector<Port>& outputs() const override { return outputs_; }
    std::string property(const std::string& name) const override {
        return compiled_->get().get_property(name).as<std::string>();
    }
    std::string export_blob() const override {
        std::ostringstream stream;
        compiled_->get().export_model(stream);
        return stream.str();
    }
    std::unique_ptr<Executor> make_executor() const override { return ovengine::make_executor(compiled_, failures_); }
    std::unique_ptr<StatefulExecutor> make_stateful() const override {
        return ovengine::make_stateful(compiled_, failures_);
    }
    std::shared_ptr<OwnRequest> make_own_request() const override {
        return ovengine::make_own_request(compiled_->get(), failures_);
    }
    std::vector<ShapedOutput> try_infer(const std::vector<ShapedInput>& inputs, double seconds) const override {
        return ovengine::try_infer(*compiled_, failures_, inputs, seconds);
    }

  private:
    std::shared_ptr<RenewableModel> compiled_;
    const Failures failures_;
    std::vector<Port> inputs_, outputs_;
};

}  // namespace

struct Graph::Impl {
    std::shared_ptr<ov::Model> model;
    std::string name;
    std::vector<Port> inputs, outputs;
    std::size_t constant_bytes = 0;
    bool has_state = false, is_quantized = false;
    const bool is_adopted;

    explicit Impl(std::shared_ptr<ov::Model> source, bool adopted = false)
        : model(std::move(source)), is_adopted(adopted) {
        name = model->get_friendly_name();
        describe_all(*model, inputs, outputs);
        for (const auto& node : model->get_ops()) {
            if (const auto constant = ov::as_type_ptr<ov::op::v0::Constant>(node))
                constant_bytes += constant->get_byte_size();
            has_state = has_state || ov::as_type_ptr<ov::op::util::ReadValueBase>(node) != nullptr;
            is_quantized = is_quantized || ovengine::is_quantized(*node);
        }
    }
};

Graph::Graph(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
const std::string& Graph::name() const { return impl_->name; }
const std::vector<Port>& Graph::inputs() const { return impl_->inputs; }
const std::vector<Port>& Graph::outputs() const { return impl_->outputs; }
std::size_t Graph::constant_bytes() const { return impl_->constant_bytes; }
bool Graph::has_state() const { return impl_->has_state; }
bool Graph::is_quantized() const { return impl_->is_quantized; }
std::size_t Graph::borrowed_bytes() const {
    return impl_->is_adopted ? impl_->constant_bytes : mapped_bytes(*impl_->model);
}
std::shared_ptr<Graph> Graph::with_own_constants() const {
    return std::make_shared<Graph>(
        std::make_shared<const Impl>(ovengine::with_own_constants(*impl_->model, impl_->is_adopted)));
}

std::shared_ptr<Graph> Graph::reshaped(const std::map<std::size_t, std::string>& shapes) const {
    const auto copy = impl_->model->clone();  // shares the constants
    std::map<ov::Output<ov::Node>, ov::PartialShape> by_port;
    for (const auto& [index, shape] : shapes) by_port[copy->input(index)] = ov::PartialShape(shape);
    copy->reshape(by_port);
    return std::make_shared<Graph>(std::make_shared<const Impl>(copy, impl_->is_adopted));
}

std::string Graph::content() const { return ovengine::content(*impl_->model); }
std::size_t Graph::tensor_bytes() const { return ovengine::tensor_bytes(*impl_->model); }
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
std::vector<InputValues> Graph::input_values() const { return ovengine::input_values(*impl_->model); }

RowProof Graph::prove_rows(const std::vector<std::vector<Axis>>& choices) const {
    return ovengine::prove_rows(*impl_->model, choices);
}

struct Runtime::Impl {
    ov::Core core;
};

// Whatever may load the CPU plugin keeps the signal stack of the thread that it is on.
using platform::KeptSignalStack;

Runtime::Runtime() {
    const KeptSignalStack kept;
    impl_ = std::make_unique<Impl>();
}
Runtime::~Runtime() = default;

std::vector<std::string> Runtime::available_devices() const {
    const KeptSignalStack kept;
    return impl_->core.get_available_devices();
}

std::string Runtime::device_property(const std::string& device, const std::string& name) const {
    const KeptSignalStack kept;
    return impl_->core.get_property(device, name).as<std::string>();
}

std::map<std::string, bool> Runtime::supported_properties(const std::string& device) const {
    const KeptSignalStack kept;
    std::map<std::string, bool> result;
    for (const auto& property : impl_->core.get_property(device, ov::supported_properties))
        result[property] = property.is_mutable();
    return result;
}

void Runtime::register_plugin(const std::string& library, const std::string& device) {
    impl_->core.register_plugin(library, device);
}

void Runtime::set_property(const std::string& device, const Properties& properties) {
    const KeptSignalStack kept;
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

std::shared_ptr<Graph> Runtime::adopt(const void* model) const {
    return std::make_shared<Graph>(
        std::make_shared<const Graph::Impl>(static_cast<const ov::Model*>(model)->clone(), true));
}

std::shared_ptr<CompiledModel> Runtime::compile(const Graph& graph, const std::string& device,
                                                const Properties& properties) {
    const KeptSignalStack kept;
    const auto& model = graph.impl().model;
    ov::AnyMap given = to_any_map(properties);
    if (may_refuse_values(*model)) given = without_short_cut(given);
    return std::make_shared<OpenvinoCompiled>(impl_->core.compile_model(model, device, given), *model,
                                              remake_by(impl_->core, device, given));
}

std::shared_ptr<CompiledModel> Runtime::import_blob(const std::string& blob, const std::string& device,
                                                    const Properties& properties) {
    const KeptSignalStack kept;
    ov::AnyMap given = to_any_map(properties);
    const auto import = [&] {
        std::istringstream stream(blob);
        return impl_->core.import_model(stream, device, given);
    };
    ov::CompiledModel compiled = import();
    const auto model = compiled.get_runtime_model();
    if (may_refuse_values(*model) && takes_short_cut(compiled)) {
        given = without_short_cut(given);
        compiled = import();
    }
    return std::make_shared<OpenvinoCompiled>(
        compiled, *model,
        remembers_failures(*model) ? remake_by(impl_->core, device, given, blob) : RenewableModel::Remake{});
}

std::shared_ptr<CompiledModel> adopt_compiled(const void* model) {
    const auto& compiled = *static_cast<const ov::CompiledModel*>(model);
    return std::make_shared<OpenvinoCompiled>(compiled, *compiled.get_runtime_model());
}

std::string openvino_version() { return ov::get_openvino_version().buildNumber; }

const void* openvino_model_type_info() { return &typeid(ov::Model); }
const void* openvino_compiled_model_type_info() { return &typeid(ov::CompiledModel); }
const void* openvino_tensor_type_info() { return &typeid(ov::Tensor); }

}  // namespace ovengine
