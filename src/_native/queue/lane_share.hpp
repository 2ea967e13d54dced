// LaneShare: how many of the rows that wait one lane may take at once.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "ladder/ladder.hpp"

namespace ovengine {

// update() and adopt(): under the dispatcher's lock. All others: any thread. relaxed throughout: estimates, and each a
// number that stands for itself; who reads an old one makes a batch of another size.
class LaneShare {
  public:
    // So many lanes run what there is, at these costs.
    void adopt(std::shared_ptr<const Ladder> ladder, std::size_t lanes) noexcept {
        ladder_ = std::move(ladder);
        lanes_ = lanes;
    }

    // Rows that a batch may have; UINT32_MAX: as many as it has room for.
    std::uint32_t rows() const noexcept { return rows_.load(std::memory_order_relaxed); }

    // A request of so many rows comes: a hint that is true for a while.
    void expect(std::uint32_t rows) noexcept {
        if (rows > 1 && several_rows_.load(std::memory_order_relaxed) != kRemembered)
            several_rows_.store(kRemembered, std::memory_order_relaxed);
    }

    // A lane has taken so many rows, or has run them.
    void begin(std::uint32_t rows) noexcept { running_rows_.fetch_add(rows, std::memory_order_relaxed); }
    void finish(std::uint32_t rows) noexcept { running_rows_.fetch_sub(rows, std::memory_order_relaxed); }

    // Before a lane takes a batch: no more than its share of what there is, `waiting` requests beside what is running.
    void update(std::uint64_t waiting) noexcept {
        if (ladder_ == nullptr) return;
        // At least one: what comes next is claimed in the open slot, not copied into the queue.
        const std::uint64_t rows = std::max<std::uint64_t>(running_rows_.load(std::memory_order_relaxed) + waiting, 1);
        rows_.store(std::min(of_lane(rows), of_run(waiting)), std::memory_order_relaxed);
    }
    void lift() noexcept { rows_.store(UINT32_MAX, std::memory_order_relaxed); }

    // Of the shortest inference; 0 while nothing is known.
    std::int64_t shortest_run_ns() const noexcept {
        return ladder_ != nullptr ? static_cast<std::int64_t>(ladder_->costs().run_us(1) * 1e3) : 0;
    }

  private:
    static constexpr std::uint32_t kRemembered = 64;  // batches for which a request of several rows is expected again

    // While all lanes could have some of these rows, each has as many; in pieces that cost about as little by row as
    // larger ones. Whoever has few requests at a time would else see them all in one lane's batch, and the other lanes
    // idle until it is done.
    std::uint32_t of_lane(std::uint64_t rows) const noexcept {
        if (lanes_ < 2) return UINT32_MAX;
        const std::uint64_t grain = ladder_->costs().grain(), share = (rows + lanes_ - 1) / lanes_;
        return static_cast<std::uint32_t>(std::min<std::uint64_t>((share + grain - 1) / grain * grain, UINT32_MAX));
    }
    // See CostTable::most_rows(). Requests that wait are counted as one row each: where some have more, it does not
    // hold.
    std::uint32_t of_run(std::uint64_t waiting) noexcept {
        const std::uint32_t several = several_rows_.load(std::memory_order_relaxed);
        if (several == 0) return ladder_->costs().most_rows(waiting);
        several_rows_.store(several - 1, std::memory_order_relaxed);
        return UINT32_MAX;
    }

    std::atomic<std::uint32_t> rows_{UINT32_MAX}, several_rows_{0};
    std::atomic<std::uint64_t> running_rows_{0};
    std::shared_ptr<const Ladder> ladder_;
    std::size_t lanes_ = 1;
};

}  // namespace ovengine
