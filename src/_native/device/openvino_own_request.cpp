#include <map>
#include <openvino/openvino.hpp>
#include <utility>

#include "device/openvino_requests.hpp"
#include "device/own_request.hpp"

namespace ovengine {
namespace {

const ov::Tensor& as_tensor(const void* tensor) { return *static_cast<const ov::Tensor*>(tensor); }

void copy(const ov::Tensor& from, ov::Tensor to) {
    if (to.get_shape() != from.get_shape()) to.set_shape(from.get_shape());
    if (from.get_size() > 0) from.copy_to(to);
}

class OpenvinoOwnRequest final : public OwnRequest {
  public:
    OpenvinoOwnRequest(ov::CompiledModel compiled, Failures failures)
        : failures_(failures), request_(compiled.create_infer_request()), outputs_(compiled.outputs().size()) {
        find_copied(compiled);
        variables_ = request_.query_state();
        for (auto& variable : variables_) {
            const ov::Tensor tensor = variable.get_state();
            const ov::Shape shape = tensor.get_shape();
            const ov::element::Type type = tensor.get_element_type();
            states_.push_back(
                {{variable.get_name()}, {shape.begin(), shape.end()}, true, numpy_dtype(type), type.get_type_name()});
        }
    }

    void run() override {
        has_run_ = true;
        ovengine::run(request_, failures_);
        for (std::size_t i = 0; i < outputs_.size(); ++i)
            if (outputs_[i].is_copied && outputs_[i].tensor) copy(request_.get_output_tensor(i), outputs_[i].tensor);
    }
    void interrupt() override { request_.cancel(); }

    void bind_input(std::size_t port, const void* tensor) override {
        request_.set_input_tensor(port, as_tensor(tensor));
    }
    void bind_inputs(std::size_t port, const std::vector<const void*>& tensors) override {
        std::vector<ov::Tensor> batch;
        for (const void* const tensor : tensors) batch.push_back(as_tensor(tensor));
        request_.set_input_tensors(port, batch);
    }
    void bind_output(std::size_t port, const void* tensor, bool keep) override {
        Output& output = outputs_.at(port);
        if (keep && has_run_) copy(request_.get_output_tensor(port), as_tensor(tensor));
        if (!output.is_copied) request_.set_output_tensor(port, as_tensor(tensor));
        output.tensor = as_tensor(tensor);
    }

    const std::vector<Port>& states() const override { return states_; }
    void read_state(std::size_t variable, const void* tensor) override {
        copy(variables_.at(variable).get_state(), as_tensor(tensor));
    }
    void write_state(std::size_t variable, const void* tensor) override {
        // A tensor of its own: a device may keep it.
        ov::Tensor own(as_tensor(tensor).get_element_type(), as_tensor(tensor).get_shape());
        copy(as_tensor(tensor), own);
        variables_.at(variable).set_state(own);
    }
    void reset_state(std::size_t variable) override { variables_.at(variable).reset(); }
    void reset_state() override { request_.reset_state(); }

    std::vector<NodeProfile> profile() override {
        std::vector<NodeProfile> nodes;
        for (const ov::ProfilingInfo& info : request_.get_profiling_info())
            nodes.push_back({static_cast<int>(info.status), info.real_time.count(), info.cpu_time.count(),
                             info.node_name, info.exec_type, info.node_type});
        return nodes;
    }

  private:
    // An output that is an input passed through, or the same as another output, has that one's memory: a tensor that is
    // bound to it is not written. One of a dynamic shape may be such an output, too. These are copied instead.
    void find_copied(const ov::CompiledModel& compiled) {
        std::map<const void*, int> users;
        const auto add = [&](const auto& port, const ov::Tensor& tensor) {
            if (port.get_partial_shape().is_static()) ++users[tensor.data()];
        };
        for (std::size_t i = 0; i < compiled.inputs().size(); ++i)
            add(compiled.inputs()[i], request_.get_input_tensor(i));
        for (std::size_t i = 0; i < outputs_.size(); ++i) add(compiled.outputs()[i], request_.get_output_tensor(i));
        for (std::size_t i = 0; i < outputs_.size(); ++i)
            outputs_[i].is_copied = compiled.outputs()[i].get_partial_shape().is_dynamic() ||
                                    users[request_.get_output_tensor(i).data()] > 1;
    }

    struct Output {
        ov::Tensor tensor;  // empty when none is bound
        bool is_copied = false;
    };

    const Failures failures_;
    bool has_run_ = false;
    ov::InferRequest request_;
    std::vector<Output> outputs_;
    std::vector<ov::VariableState> variables_;
    std::vector<Port> states_;
};

}  // namespace

std::shared_ptr<OwnRequest> make_own_request(ov::CompiledModel compiled, Failures failures) {
    return std::make_shared<OpenvinoOwnRequest>(std::move(compiled), failures);
}

}  // namespace ovengine
