// The futex of the model checker: sleeping and comparing are one step, a deadline may pass at any moment.
#pragma once

#include "checker.hpp"

namespace ovengine::platform {

using Clock = std::chrono::steady_clock;
using Deadline = std::optional<Clock::time_point>;

enum class WaitResult { woken, timed_out, interrupted };

inline WaitResult futex_wait(model::atomic<std::uint32_t>& word, std::uint32_t expected, Deadline deadline) noexcept {
    bool timed_out = false;
    word.sleep_while(expected, deadline.has_value(), timed_out);
    return timed_out ? WaitResult::timed_out : WaitResult::woken;
}
inline void futex_wake(model::atomic<std::uint32_t>& word, int threads) noexcept { word.wake(threads); }
inline void futex_wake_all(model::atomic<std::uint32_t>& word) noexcept { futex_wake(word, 100); }

}  // namespace ovengine::platform
