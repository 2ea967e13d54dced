// OwnRequest: an infer request as OpenVINO's API shows it. Its inputs and outputs are tensors that its owner binds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "device/executor.hpp"

namespace ovengine {

// How long one node of the compiled model took in the last inference.
struct NodeProfile {
    int status;  // ov::ProfilingInfo::Status
    std::int64_t real_us, cpu_us;
    std::string node_name, exec_type, node_type;
};

// One thread at a time, but for interrupt(). Tensors are passed by the address of an `ov::Tensor`, whose memory is
// shared from then on. All methods throw std::exception with OpenVINO's reason.
class OwnRequest : public Runnable {
  public:
    // An inference on the tensors that are bound, from the state that the last one left.
    void run() override = 0;
    // Any thread: makes a run() that is under way throw, as soon as the device looks.
    virtual void interrupt() = 0;

    virtual void bind_input(std::size_t port, const void* tensor) = 0;
    // One input as a batch of several tensors.
    virtual void bind_inputs(std::size_t port, const std::vector<const void*>& tensors) = 0;
    // `keep`: the tensor gets the result of the last inference now.
    virtual void bind_output(std::size_t port, const void* tensor, bool keep) = 0;

    virtual const std::vector<Port>& states() const = 0;  // the state's variables, by their ids
    virtual void read_state(std::size_t variable, const void* tensor) = 0;
    virtual void write_state(std::size_t variable, const void* tensor) = 0;
    virtual void reset_state(std::size_t variable) = 0;
    virtual void reset_state() = 0;

    // Times are 0 unless the model was compiled with PERF_COUNT.
    virtual std::vector<NodeProfile> profile() = 0;
};

}  // namespace ovengine
