// Renewable: a compiled model that is made anew when an inference has failed.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>

namespace ovengine {

// The compiled model that a lane and its sessions run. A failure for values may leave it in a state in which it must
// not go on: the same values would be passed over next time, whichever of its requests they come with. So it is made
// anew, and all who have requests of it go on with the new one, each before its next inference. Where that fails, the
// next one who asks tries again, and gets the reason; nobody gets the old one. Thread-safe.
template <class Model>
class Renewable {
  public:
    using Remake = std::function<Model(Model&)>;

    // `remake`: compiles the model anew, or is empty.
    Renewable(Model compiled, Remake remake) : compiled_(std::move(compiled)), remake_(std::move(remake)) {}

    // The latest, and its number. Throws std::runtime_error when it cannot be made; `generation` stays as it is.
    Model get(std::uint64_t& generation) {
        const std::lock_guard lock(mutex_);
        if (has_failed_) make_anew();
        generation = generation_.load(std::memory_order_relaxed);
        return compiled_;
    }
    Model get() {
        std::uint64_t generation = 0;
        return get(generation);
    }
    // relaxed: the lock in get() orders the rest.
    bool is_latest(std::uint64_t generation) const noexcept {
        return generation_.load(std::memory_order_relaxed) == generation;
    }
    // The one of `generation` has failed. Whoever asks for the latest meanwhile waits for it.
    void renew(std::uint64_t generation) noexcept {
        const std::lock_guard lock(mutex_);
        if (!remake_ || !is_latest(generation)) return;
        generation_.store(generation + 1, std::memory_order_relaxed);
        has_failed_ = true;
        try {
            make_anew();
        } catch (const std::exception&) {
            // get() tells, if it is still so by then.
        }
    }

  private:
    void make_anew() {
        try {
            compiled_ = remake_(compiled_);
        } catch (const std::exception& error) {
            throw std::runtime_error(std::string("after a failed inference the model could not be compiled anew: ") +
                                     error.what());
        }
        has_failed_ = false;
    }

    std::mutex mutex_;
    Model compiled_;
    const Remake remake_;
    bool has_failed_ = false;
    std::atomic<std::uint64_t> generation_{0};  // written under the lock
};

}  // namespace ovengine
