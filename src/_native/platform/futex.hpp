// Waiting on a 32-bit word: the only place that knows how this system does it (Linux: futex).
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstdint>
#include <ctime>
#include <optional>

namespace ovengine::platform {

using Clock = std::chrono::steady_clock;  // CLOCK_MONOTONIC, as the futex deadline is
using Deadline = std::optional<Clock::time_point>;

enum class WaitResult { woken, timed_out, interrupted };

static_assert(sizeof(std::atomic<std::uint32_t>) == 4, "a futex is a plain 32-bit word");

// Sleeps while `word` holds `expected`, until a wake, the deadline or a signal. May return early without cause.
inline WaitResult futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t expected, Deadline deadline) noexcept {
    timespec until{};
    if (deadline) {
        const auto since_boot = deadline->time_since_epoch();
        const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(since_boot);
        until.tv_sec = static_cast<time_t>(seconds.count());
        until.tv_nsec = static_cast<long>(std::chrono::nanoseconds(since_boot - seconds).count());
    }
    const long rc = syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG,
                            expected, deadline ? &until : nullptr, nullptr, FUTEX_BITSET_MATCH_ANY);
    if (rc == 0 || errno == EAGAIN) return WaitResult::woken;
    return errno == ETIMEDOUT ? WaitResult::timed_out : WaitResult::interrupted;
}

inline void futex_wake(std::atomic<std::uint32_t>& word, int threads) noexcept {
    syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAKE | FUTEX_PRIVATE_FLAG, threads, nullptr,
            nullptr, 0);
}

inline void futex_wake_all(std::atomic<std::uint32_t>& word) noexcept { futex_wake(word, INT_MAX); }

}  // namespace ovengine::platform
