// The end of the process, while threads may still be in native code.
#pragma once

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "platform/futex.hpp"

namespace ovengine::platform {

// While one lives, its thread uses libraries whose destructors run at the end of the process.
class AtWork {
  public:
    AtWork() noexcept { count_.fetch_add(1, std::memory_order_relaxed); }
    ~AtWork() { count_.fetch_sub(1, std::memory_order_release); }  // pairs with wait_for_none()
    AtWork(const AtWork&) = delete;
    AtWork& operator=(const AtWork&) = delete;

    // False when the deadline comes first.
    static bool wait_for_none(Clock::time_point deadline) noexcept {
        while (count_.load(std::memory_order_acquire) != 0) {
            if (Clock::now() >= deadline) return false;
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        return true;
    }
    // In the child of a fork, which has none of these threads.
    static void forget_all() noexcept { count_.store(0, std::memory_order_relaxed); }

  private:
    static inline std::atomic<std::uint32_t> count_{0};
};

// From here on, exit() calls no destructors of libraries: a thread that does not come back may still be in one. The
// status of the process stays what it would be.
inline void skip_destructors_at_exit() noexcept {
    on_exit(
        [](int status, void*) {
            std::fflush(nullptr);
            _exit(status);
        },
        nullptr);
}

}  // namespace ovengine::platform
