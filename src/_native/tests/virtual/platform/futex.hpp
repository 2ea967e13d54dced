// Waiting in virtual time: the clock stands still while anybody has something to do, and goes when a test says so, to
// the next moment that somebody sleeps until. Takes the place of the core's own header; see ../../CMakeLists.txt.
#pragma once

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

namespace ovengine::platform {

struct Clock {
    using duration = std::chrono::nanoseconds;
    using rep = duration::rep;
    using period = duration::period;
    using time_point = std::chrono::time_point<Clock>;
    static constexpr bool is_steady = true;
    static inline time_point now() noexcept;
};
using Deadline = std::optional<Clock::time_point>;

enum class WaitResult { woken, timed_out, interrupted };

// The clock, and who sleeps. Sleepers are woken one at a time, and the next one when all sleep again: so what a model
// of one lane does is the same each time, and that of several as long as they do not race at one and the same moment.
class VirtualTime {
  public:
    // One thread works at a time: on one CPU it hands over to the next one soonest.
    VirtualTime() {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(static_cast<std::size_t>(sched_getcpu()), &one);
        sched_setaffinity(0, sizeof one, &one);
    }

    Clock::time_point now() noexcept {
        const std::lock_guard lock(mutex_);
        return now_;
    }

    // Lets the clock go on to `until`; `threads`: how many there are that sleep when they have nothing to do. The
    // caller is none of them.
    void run_until(Clock::time_point until, std::size_t threads) {
        std::unique_lock lock(mutex_);
        for (;;) {
            slept_.wait(lock, [&] { return sleepers_.size() == threads; });
            const auto first = std::min_element(sleepers_.begin(), sleepers_.end(), [](auto* one, auto* other) {
                return one->deadline.value_or(kNever) < other->deadline.value_or(kNever);
            });
            if (first == sleepers_.end() || (*first)->deadline.value_or(kNever) > until) break;
            now_ = std::max(now_, *(*first)->deadline);
            (*first)->wake(WaitResult::timed_out);
            sleepers_.erase(first);
        }
        now_ = std::max(now_, until);
    }

    // As a futex does, and compared and slept in one step.
    WaitResult wait(const std::atomic<std::uint32_t>& word, std::uint32_t expected, Deadline deadline) {
        std::unique_lock lock(mutex_);
        if (word.load(std::memory_order_seq_cst) != expected) return WaitResult::woken;
        return sleep(lock, &word, deadline);
    }
    void wake(const std::atomic<std::uint32_t>& word, int threads) {
        const std::lock_guard lock(mutex_);
        std::erase_if(sleepers_, [&](Sleeper* sleeper) {
            if (sleeper->word != &word || threads-- <= 0) return false;
            sleeper->wake(WaitResult::woken);
            return true;
        });
    }
    void sleep_for(std::chrono::nanoseconds time) {
        std::unique_lock lock(mutex_);
        sleep(lock, nullptr, now_ + time);
    }

  private:
    static constexpr Clock::time_point kNever = Clock::time_point::max();

    struct Sleeper {
        const std::atomic<std::uint32_t>* word;
        Deadline deadline;
        std::optional<WaitResult> result{};
        std::condition_variable woken{};

        void wake(WaitResult why) {
            result = why;
            woken.notify_one();
        }
    };

    WaitResult sleep(std::unique_lock<std::mutex>& lock, const std::atomic<std::uint32_t>* word, Deadline deadline) {
        Sleeper sleeper{word, deadline};
        sleepers_.push_back(&sleeper);
        slept_.notify_all();
        sleeper.woken.wait(lock, [&] { return sleeper.result.has_value(); });
        return *sleeper.result;
    }

    std::mutex mutex_;
    std::condition_variable slept_;  // somebody more
    Clock::time_point now_{std::chrono::hours(1)};
    std::vector<Sleeper*> sleepers_;  // in the order in which they fell asleep
};
inline VirtualTime virtual_time;

Clock::time_point Clock::now() noexcept { return virtual_time.now(); }

inline WaitResult futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t expected, Deadline deadline) noexcept {
    return virtual_time.wait(word, expected, deadline);
}
inline void futex_wake(std::atomic<std::uint32_t>& word, int threads) noexcept { virtual_time.wake(word, threads); }
inline void futex_wake_all(std::atomic<std::uint32_t>& word) noexcept { futex_wake(word, INT_MAX); }

}  // namespace ovengine::platform
