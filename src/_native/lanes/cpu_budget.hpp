// CpuBudget: the CPUs that the lanes of several models may keep busy together.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>

#include "batch/chain.hpp"
#include "platform/futex.hpp"

namespace ovengine {

// A counting semaphore in order of arrival, for shares of different size. A lane takes its share when it starts to
// work and gives it back when it parks, or after a while when others wait: so a model that is alone pays nothing for
// it between two batches.
class CpuBudget {
  public:
    explicit CpuBudget(std::uint32_t cpus) : cpus_(cpus), free_(cpus) {}
    std::uint32_t cpus() const noexcept { return cpus_; }
    CpuBudget(const CpuBudget&) = delete;
    CpuBudget& operator=(const CpuBudget&) = delete;

    // Never ahead of those who wait.
    bool try_take(std::uint32_t cpus) noexcept {
        const std::lock_guard lock(mutex_);
        if (!waiters_.empty() || free_ < static_cast<std::int64_t>(cpus)) return false;
        free_ -= cpus;
        return true;
    }

    // Waits for its turn, but for no longer than `patience`, and then goes ahead: an inference that takes very long, or
    // never comes back, must not stop the other models. The system shares the CPUs out then.
    void take(std::uint32_t cpus, std::chrono::nanoseconds patience = kPatience) noexcept {
        Waiter waiter{cpus};
        {
            const std::lock_guard lock(mutex_);
            if (waiters_.empty() && free_ >= static_cast<std::int64_t>(cpus)) {
                free_ -= cpus;
                return;
            }
            waiters_.push_back(&waiter);
            waiting_.store(static_cast<std::uint32_t>(waiters_.size()), std::memory_order_relaxed);
        }
        const platform::Deadline deadline = platform::Clock::now() + patience;
        // acquire: pairs with grant().
        while (waiter.granted.load(std::memory_order_acquire) == 0)
            if (platform::futex_wait(waiter.granted, 0, deadline) == platform::WaitResult::timed_out) break;
        const std::lock_guard lock(mutex_);  // also: grant() has let go of the waiter
        if (waiter.granted.load(std::memory_order_relaxed) != 0) return;
        waiters_.remove(&waiter);
        free_ -= cpus;
        grant();  // to those behind this one
    }

    void give_back(std::uint32_t cpus) noexcept {
        const std::lock_guard lock(mutex_);
        free_ += cpus;
        grant();
    }

    // Whether anybody waits. relaxed: a hint, asked again after the next batch.
    bool wanted() const noexcept { return waiting_.load(std::memory_order_relaxed) != 0; }

    // How long a lane keeps its share while others wait.
    static constexpr std::chrono::nanoseconds kSlice{2'000'000};

  private:
    static constexpr std::chrono::nanoseconds kPatience{100'000'000};

    struct Waiter {
        std::uint32_t cpus;
        std::atomic<std::uint32_t> granted{0};
        Waiter* next = nullptr;
    };

    // Under the lock, which keeps the waiter from leaving before it is woken.
    void grant() noexcept {
        while (!waiters_.empty() && free_ >= static_cast<std::int64_t>(waiters_.front()->cpus)) {
            Waiter& first = *waiters_.pop_front();
            free_ -= first.cpus;
            first.granted.store(1, std::memory_order_release);  // pairs with take()
            platform::futex_wake(first.granted, 1);
        }
        waiting_.store(static_cast<std::uint32_t>(waiters_.size()), std::memory_order_relaxed);
    }

    const std::uint32_t cpus_;
    std::mutex mutex_;
    std::int64_t free_;  // below zero while somebody went ahead
    Chain<Waiter> waiters_;
    std::atomic<std::uint32_t> waiting_{0};
};

}  // namespace ovengine
