// Infer requests of OpenVINO: what lanes and sessions run, of a compiled model that is made anew when one has failed.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <openvino/runtime/compiled_model.hpp>
#include <string>
#include <utility>
#include <vector>

#include "device/executor.hpp"

namespace ovengine {

// As OpenVINO's own Python API shows it: what NumPy lacks as bits of the same size, or as packed bytes.
std::string numpy_dtype(const ov::element::Type& type);

// The same model, compiled anew.
using Remake = std::function<ov::CompiledModel(ov::CompiledModel&)>;

// The compiled model that a lane and its sessions run. A failure for values may leave it as it must not stay: the same
// values would be passed over next time, whichever of its requests they come with. So it is made anew, and all who have
// requests of it go on with the new one, each before its next inference. Thread-safe.
class Renewable {
  public:
    // `remake`: compiles the model anew, or is empty.
    Renewable(ov::CompiledModel compiled, Remake remake) : compiled_(std::move(compiled)), remake_(std::move(remake)) {}

    // The latest, and its number.
    ov::CompiledModel get(std::uint64_t& generation) const {
        const std::lock_guard lock(mutex_);
        generation = generation_.load(std::memory_order_relaxed);
        return compiled_;
    }
    ov::CompiledModel get() const {
        std::uint64_t generation = 0;
        return get(generation);
    }
    // relaxed: the lock in get() orders the rest.
    bool is_latest(std::uint64_t generation) const noexcept {
        return generation_.load(std::memory_order_relaxed) == generation;
    }
    // The one of `generation` has failed. Whoever asks for the latest meanwhile waits for it.
    void renew(std::uint64_t generation) {
        const std::lock_guard lock(mutex_);
        if (!remake_ || !is_latest(generation)) return;
        generation_.store(generation + 1, std::memory_order_relaxed);
        compiled_ = remake_(compiled_);
    }

  private:
    mutable std::mutex mutex_;
    ov::CompiledModel compiled_;
    Remake remake_;
    std::atomic<std::uint64_t> generation_{0};  // written under the lock
};

// What an inference that fails for its values asks for, see openvino_refusals.hpp.
struct Failures {
    bool are_discarded;    // by infer(), but not by start_async() and wait(), which take some 20 us longer
    bool leave_old_state;  // in the compiled model, which is made anew therefore
};

// See CompiledModel::try_infer().
std::vector<ShapedOutput> try_infer(Renewable& model, Failures failures, const std::vector<ShapedInput>& inputs,
                                    double seconds);
std::unique_ptr<Executor> make_executor(std::shared_ptr<Renewable> model, Failures failures);
std::unique_ptr<StatefulExecutor> make_stateful(std::shared_ptr<Renewable> model, Failures failures);
std::shared_ptr<OwnRequest> make_own_request(ov::CompiledModel compiled, Failures failures);

// One inference. Throws when it fails.
void run(ov::InferRequest& request, const Failures& failures);

}  // namespace ovengine
