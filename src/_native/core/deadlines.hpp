// Deadlines: whether a request will meet its deadline, and the thread that ends those which have missed it.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>

#include "lanes/lanes.hpp"
#include "queue/deadline_keeper.hpp"
#include "queue/dispatcher.hpp"
#include "requests/request.hpp"

namespace ovengine {

// Any thread.
class Deadlines {
  public:
    Deadlines(Dispatcher& dispatcher, Lanes& lanes) : dispatcher_(dispatcher), lanes_(lanes) {}

    // When a request that is queued now has its result, by the cost table and by what waits.
    std::int64_t expected_end_ns(std::uint32_t rows, const Terms& terms) const {
        const std::int64_t now = now_ns();
        const Queue& queue = dispatcher_.queue();
        const std::uint64_t ahead = dispatcher_.rows_ahead(terms, rows, now);
        const auto known = lanes_.ladder();
        const std::uint32_t full = std::min(known->capacity(), dispatcher_.max_batch_rows());
        const std::uint64_t full_batches = (ahead + rows - 1) / full;
        const auto last = static_cast<std::uint32_t>(ahead + rows - full_batches * full);
        const double parallel = static_cast<double>(full_batches) / static_cast<double>(lanes_.count());
        // Batches and bulk requests take turns.
        const double turns = queue.has_jobs() ? 2 : 1;
        // Without a queue by the table alone: where nothing is run any more, no pace is seen to get better.
        double us = turns * parallel * lanes_.pace() * known->costs().run_us(full);
        // Under load its batch will be full, and one more and a part of the whole are for all that may be different by
        // then: of those who are admitted at the very limit half would be late.
        us += full_batches > 0 ? us * queue.reserve() + 2 * known->costs().run_us(full) : known->costs().run_us(last);
        return lanes_.free_ns(now) + static_cast<std::int64_t>(us * 1e3);
    }

    // Before the first request with a deadline is queued: starts the thread, which keeps `owner` alive. Throws when
    // there is no room for a thread; the next request tries again.
    template <class Owner>
    void keep(const std::shared_ptr<Owner>& owner) {
        // relaxed: nothing is read on the strength of it.
        if (has_keeper_.load(std::memory_order_relaxed) || has_keeper_.exchange(true, std::memory_order_relaxed))
            return;
        try {
            lanes_.start_thread(owner, [this] {
                keeper_.run([this] { return dispatcher_.expire(now_ns()); }, [this] { return lanes_.stopping(); });
            });
        } catch (...) {
            has_keeper_.store(false, std::memory_order_relaxed);
            throw;
        }
    }
    void notice(std::int64_t deadline_ns) noexcept { keeper_.notice(deadline_ns); }
    // The thread looks again whether it shall stop.
    void wake() noexcept { keeper_.wake(); }

  private:
    Dispatcher& dispatcher_;
    Lanes& lanes_;
    DeadlineKeeper keeper_;
    std::atomic<bool> has_keeper_{false};
};

}  // namespace ovengine
