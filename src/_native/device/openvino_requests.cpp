#include "device/openvino_requests.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <mutex>
#include <openvino/openvino.hpp>
#include <sstream>
#include <stdexcept>

namespace ovengine {
namespace {

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

std::vector<ShapedOutput> infer_at(ov::InferRequest& request, const Failures& failures,
                                   const std::vector<PortType>& types, const std::vector<ShapedInput>& inputs,
                                   std::size_t outputs) {
    for (std::size_t i = 0; i < inputs.size(); ++i)
        request.set_input_tensor(i, {types[i].type, to_shape(inputs[i].shape), const_cast<std::byte*>(inputs[i].data)});
    run(request, failures);
    std::vector<ShapedOutput> results;
    for (std::size_t i = 0; i < outputs; ++i) results.push_back(copied(request.get_output_tensor(i)));
    return results;
}

class OpenvinoExecutor final : public Executor {
  public:
    OpenvinoExecutor(std::shared_ptr<RenewableModel> model, Failures failures)
        : model_(std::move(model)),
          failures_(failures),
          compiled_(model_->get(generation_)),
          inputs_(types_of(compiled_.inputs())),
          outputs_(types_of(compiled_.outputs())) {}

    void infer(std::uint32_t binding, std::byte* const* inputs, std::byte* const* outputs) override {
        if (failures_.leave_old_state) follow();
        if (binding >= bound_.size()) bound_.resize(binding + 1);
        Bound& bound = bound_[binding];
        if (!bound.request) bound = make_bound();
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
        with_renewal([&] { run(bound.request, failures_); });
        if (any_shared_) copy_shared(bound.request, outputs);
    }

    std::vector<ShapedOutput> infer_shaped(const std::vector<ShapedInput>& inputs) override {
        follow();
        if (!shaped_) {
            ov::InferRequest request = compiled_.create_infer_request();
            has_state_ = !request.query_state().empty();
            shaped_ = std::move(request);
        }
        if (has_state_) shaped_.reset_state();
        std::vector<ShapedOutput> outputs;
        with_renewal([&] { outputs = infer_at(shaped_, failures_, inputs_, inputs, outputs_.size()); });
        return outputs;
    }

  private:
    template <class Inference>
    void with_renewal(Inference inference) {
        try {
            inference();
        } catch (...) {
            if (failures_.leave_old_state) {
                model_->renew(generation_);
                try {
                    follow();  // also when nobody asks again: it lets go of the old one
                } catch (const std::exception&) {
                    // Who comes next is told; this one gets its own error.
                }
            }
            throw;
        }
    }
    void follow() {
        if (model_->is_latest(generation_)) return;
        bound_.clear();
        shaped_ = {};
        compiled_ = model_->get(generation_);
    }

    struct Bound {
        ov::InferRequest request;
        std::vector<std::byte*> inputs, outputs;
    };

    // Nothing of it is kept unless all of it is there: it may throw for want of memory.
    Bound make_bound() {
        Bound made{compiled_.create_infer_request(), std::vector<std::byte*>(inputs_.size()),
                   std::vector<std::byte*>(outputs_.size())};
        has_state_ = !made.request.query_state().empty();
        if (!knows_shared_) find_shared(made.request);
        return made;
    }

    // An output that is an input passed through, or the same as another output, has that one's memory; bound to memory
    // of its own it is not written, and the input may be. Seen on a request that nothing is bound to yet.
    void find_shared(ov::InferRequest& request) {
        std::map<const void*, int> users;
        for (std::size_t i = 0; i < inputs_.size(); ++i) ++users[request.get_input_tensor(i).data()];
        for (std::size_t i = 0; i < outputs_.size(); ++i) ++users[request.get_output_tensor(i).data()];
        for (std::size_t i = 0; i < outputs_.size(); ++i) {
            outputs_[i].is_shared = users[request.get_output_tensor(i).data()] > 1;
            any_shared_ = any_shared_ || outputs_[i].is_shared;
        }
        knows_shared_ = true;
    }
    void copy_shared(ov::InferRequest& request, std::byte* const* outputs) const {
        for (std::size_t i = 0; i < outputs_.size(); ++i) {
            if (!outputs_[i].is_shared) continue;
            const ov::Tensor tensor = request.get_output_tensor(i);
            const auto* data = static_cast<const std::byte*>(tensor.data());
            std::copy_n(data, tensor.get_byte_size(), outputs[i]);
        }
    }

    const std::shared_ptr<RenewableModel> model_;
    const Failures failures_;
    std::uint64_t generation_ = 0;
    ov::CompiledModel compiled_;
    const std::vector<PortType> inputs_;
    std::vector<PortType> outputs_;
    std::vector<Bound> bound_;
    ov::InferRequest shaped_;
    bool has_state_ = false, knows_shared_ = false, any_shared_ = false;
};

class OpenvinoStateful final : public StatefulExecutor {
  public:
    OpenvinoStateful(std::shared_ptr<RenewableModel> model, Failures failures)
        : model_(std::move(model)), failures_(failures) {
        ov::CompiledModel compiled = model_->get(generation_);
        request_ = compiled.create_infer_request();
        inputs_ = types_of(compiled.inputs());
        outputs_ = compiled.outputs().size();
        variables_ = request_.query_state();
        for (auto& variable : variables_) {
            const ov::Tensor tensor = variable.get_state();
            const ov::Shape shape = tensor.get_shape();
            states_.push_back(
                {{variable.get_name()}, {shape.begin(), shape.end()}, true, numpy_dtype(tensor.get_element_type())});
            types_.push_back(tensor.get_element_type());
        }
        is_initial_.assign(variables_.size(), true);
    }

    const std::vector<Port>& states() const override { return states_; }
    std::vector<ShapedOutput> infer_shaped(const std::vector<ShapedInput>& inputs) override {
        follow();
        try {
            auto outputs = infer_at(request_, failures_, inputs_, inputs, outputs_);
            is_initial_.assign(variables_.size(), false);
            return outputs;
        } catch (const std::exception& error) {
            model_->renew(generation_);
            try {
                follow();
            } catch (const std::exception& lost) {
                throw std::runtime_error(std::string(error.what()) + "; " + lost.what());
            }
            throw;
        }
    }
    void reset_state() override {
        request_.reset_state();
        is_initial_.assign(variables_.size(), true);
    }
    ShapedOutput state(std::size_t variable) override { return copied(variables_[variable].get_state()); }
    void set_state(std::size_t variable, const ShapedInput& value) override {
        // A tensor of its own: a device may keep it.
        ov::Tensor tensor(types_[variable], to_shape(value.shape));
        if (tensor.get_byte_size() > 0) std::memcpy(tensor.data(), value.data, tensor.get_byte_size());
        variables_[variable].set_state(tensor);
        is_initial_[variable] = false;
    }

  private:
    // Goes on with the latest compiled model, from the state that the last inference left: one that fails does not
    // change it. Throws when that state is lost; it is the initial one then.
    void follow() {
        if (model_->is_latest(generation_)) return;
        std::uint64_t generation = 0;
        ov::InferRequest request = model_->get(generation).create_infer_request();
        std::vector<ov::VariableState> variables = request.query_state();
        std::string lost;
        try {
            carry_over(variables);
        } catch (const std::exception& error) {
            lost = std::string("the state could not be kept, and is the initial one again: ") + error.what();
            request.reset_state();
            is_initial_.assign(variables_.size(), true);
        }
        request_ = std::move(request);
        variables_ = std::move(variables);
        generation_ = generation;
        if (!lost.empty()) throw std::runtime_error(lost);
    }
    // Into `variables`, which are put in the order of those that there are. What is still in its initial state stays
    // so: OpenVINO shows zeros for it, whatever it is.
    void carry_over(std::vector<ov::VariableState>& variables) {
        for (std::size_t i = 0; i < variables_.size(); ++i) {
            const auto same = std::find_if(variables.begin() + static_cast<std::ptrdiff_t>(i), variables.end(),
                                           [&](auto& each) { return each.get_name() == states_[i].names.front(); });
            if (same == variables.end()) throw std::runtime_error("no variable " + states_[i].names.front());
            std::iter_swap(variables.begin() + static_cast<std::ptrdiff_t>(i), same);
            if (is_initial_[i]) continue;
            const ov::Tensor value = variables_[i].get_state();
            ov::Tensor copy(value.get_element_type(), value.get_shape());
            value.copy_to(copy);
            variables[i].set_state(copy);
        }
    }

    const std::shared_ptr<RenewableModel> model_;
    const Failures failures_;
    std::uint64_t generation_ = 0;
    ov::InferRequest request_;
    std::vector<PortType> inputs_;
    std::size_t outputs_ = 0;
    std::vector<ov::VariableState> variables_;
    std::vector<Port> states_;
    std::vector<ov::element::Type> types_;  // of the variables
    std::vector<bool> is_initial_;          // variable by variable
};

// Requests that did not end when they were cancelled. OpenVINO would wait for them.
void leave_behind(ov::InferRequest request) {
    static std::mutex mutex;
    static auto& requests = *new std::vector<ov::InferRequest>;
    const std::lock_guard lock(mutex);
    requests.push_back(std::move(request));
}

// How long a cancelled inference may go on: until the operator that runs has ended, but not for ever.
constexpr std::chrono::milliseconds kCancelled{1000};

void run_within(ov::InferRequest& request, double seconds) {
    request.start_async();
    if (request.wait_for(std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1e3)))) return request.wait();
    request.cancel();
    try {
        if (!request.wait_for(kCancelled)) leave_behind(request);
    } catch (const std::exception&) {  // it says that it was cancelled
    }
    std::ostringstream limit;
    limit << "it takes longer than " << seconds << " s";
    throw std::runtime_error(limit.str());
}

}  // namespace

void run(ov::InferRequest& request, const Failures& failures) {
    if (failures.are_discarded) {
        request.start_async();
        request.wait();
    } else {
        request.infer();
    }
}

std::vector<ShapedOutput> try_infer(RenewableModel& model, Failures failures, const std::vector<ShapedInput>& inputs,
                                    double seconds) {
    std::uint64_t generation = 0;
    ov::CompiledModel compiled = model.get(generation);
    ov::InferRequest request = compiled.create_infer_request();
    const auto types = types_of(compiled.inputs());
    for (std::size_t i = 0; i < inputs.size(); ++i) {
        ov::Tensor copy(types[i].type, to_shape(inputs[i].shape));
        if (copy.get_byte_size() > 0) std::memcpy(copy.data(), inputs[i].data, copy.get_byte_size());
        request.set_input_tensor(i, copy);
    }
    try {
        run_within(request, seconds);
    } catch (...) {
        if (failures.leave_old_state) model.renew(generation);
        throw;
    }
    std::vector<ShapedOutput> outputs;
    for (std::size_t i = 0; i < compiled.outputs().size(); ++i) outputs.push_back(copied(request.get_output_tensor(i)));
    return outputs;
}

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

std::unique_ptr<Executor> make_executor(std::shared_ptr<RenewableModel> model, Failures failures) {
    return std::make_unique<OpenvinoExecutor>(std::move(model), failures);
}
std::unique_ptr<StatefulExecutor> make_stateful(std::shared_ptr<RenewableModel> model, Failures failures) {
    return std::make_unique<OpenvinoStateful>(std::move(model), failures);
}

}  // namespace ovengine
