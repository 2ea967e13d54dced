// DeadlineKeeper: sleeps until the first deadline of a request that waits, and ends it when no lane comes by.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>

#include "platform/cpu.hpp"
#include "platform/futex.hpp"
#include "requests/request.hpp"

namespace ovengine {

// No deadline is missed: the keeper says that it wants to hear of all, and then looks at the queue; who queues a
// request counts it and then reads what the keeper wants. All four are sequentially consistent, so at least one sees
// the other.
class DeadlineKeeper {
  public:
    // A request with this deadline was counted in the queue.
    void notice(std::int64_t deadline_ns) noexcept {
        if (deadline_ns < next_ns_.load(std::memory_order_seq_cst)) wake();
    }
    // The keeper looks again, and whether it shall stop.
    void wake() noexcept {
        epoch_.fetch_add(1, std::memory_order_seq_cst);
        platform::futex_wake(epoch_, 1);
    }
    // The keeper's thread. `expire()` ends what is over, and returns when to call it again.
    template <class Expire, class Stop>
    void run(Expire expire, Stop stop) {
        for (;;) {
            // acquire: what is told with the epoch is seen below.
            const std::uint32_t epoch = epoch_.load(std::memory_order_acquire);
            if (stop()) return;
            next_ns_.store(Terms::kNoDeadline, std::memory_order_seq_cst);
            const std::int64_t next = expire();
            next_ns_.store(next, std::memory_order_seq_cst);
            platform::futex_wait(epoch_, epoch,
                                 next == Terms::kNoDeadline
                                     ? std::nullopt
                                     : platform::Deadline(platform::Clock::time_point(std::chrono::nanoseconds(next))));
        }
    }

  private:
    // Read by everyone who queues a request with a deadline, written by the keeper.
    alignas(platform::kNoSharing) std::atomic<std::int64_t> next_ns_{Terms::kNoDeadline};
    std::atomic<std::uint32_t> epoch_{0};
};

}  // namespace ovengine
