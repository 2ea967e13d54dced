// Trials: which size a lane runs now and then although the cost table would not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "ladder/ladder.hpp"

namespace ovengine {

// A wrong cost can keep a size from being run, and then nobody finds out. So every size that enough rows are there for
// is run until its cost is known, and again when it has not been run for long. A lane runs it several times in a row:
// the first time is slow, because the weights of that size have left the caches.
//
// Trials take half of a lane's time while costs are unknown, and less than a hundredth after that. Owned by the lane's
// owner of the moment.
class Trials {
  public:
    static constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();

    explicit Trials(const CostTable& costs) : ran_at_ns_(costs.sizes().size()) {}

    // Which size, by index, the next batch is to run on, if there is one with up to `rows` rows; kNone: any.
    std::size_t choose(const Ladder& ladder, std::size_t lane, std::uint32_t rows) noexcept {
        if (ladder.costs().sizes().size() != ran_at_ns_.size()) return kNone;  // the lane is yet to take it over
        if (current_ == kNone && run_ns_ >= next_ns_) begin(ladder, lane, rows);
        if (current_ == kNone || is_in_reach(ladder.costs(), current_, rows)) return current_;
        // Few rows just now; or fewer for good.
        if (run_ns_ - began_ns_ > kPatienceNs) end();
        return kNone;
    }
    bool is_trying(std::size_t step) const noexcept { return step != kNone && step == current_; }

    // One inference of size `step` took this long.
    void observe(const Ladder& ladder, std::size_t lane, std::size_t step, std::int64_t ns) noexcept {
        run_ns_ += ns;
        ran_at_ns_[step] = run_ns_;
        if (step == current_ && std::exchange(is_first_, false)) return;
        ladder.observe(lane, step, ns);
        if (step == current_ && ladder.is_known(lane, step)) end();
    }

  private:
    // In the lane's own run time: before the first trial, between two looks for something to try, and before one is
    // given up for which there are too few rows.
    static constexpr std::int64_t kFirstNs = 10'000'000, kLookNs = 1'000'000, kPatienceNs = 100'000'000;
    // The next trial comes after as long as this one took; that of a size whose cost is known after so many times what
    // it will take itself.
    static constexpr std::int64_t kRestsIfKnown = 127;
    // A size whose cost is known is not tried where it takes longer than so many times what the table runs instead.
    static constexpr double kMayBeAsGood = 2;

    // No size that is for more than twice the rows that are there, but the smallest.
    static bool is_in_reach(const CostTable& costs, std::size_t step, std::uint32_t rows) noexcept {
        return step == 0 || (step <= costs.covering(rows) && costs.sizes()[step] <= 2 * rows);
    }

    void begin(const Ladder& ladder, std::size_t lane, std::uint32_t rows) noexcept {
        const CostTable& costs = ladder.costs();
        std::size_t longest_ago = 0;
        for (std::size_t step = 0; step < ran_at_ns_.size() && is_in_reach(costs, step, rows); ++step) {
            if (!ladder.is_known(step)) return begin(step);
            if (ran_at_ns_[step] < ran_at_ns_[longest_ago]) longest_ago = step;
        }
        next_ns_ = run_ns_ + kLookNs;
        if (ran_at_ns_[longest_ago] > ended_ns_) return;
        if (run_ns_ - ended_ns_ < kRestsIfKnown * ladder.known_after_ns(longest_ago)) return;
        const std::uint32_t together = std::min(rows, costs.sizes()[longest_ago]);
        if (costs.cost_us(longest_ago) > kMayBeAsGood * costs.run_us(together)) return;
        ladder.forget(lane, longest_ago);
        begin(longest_ago);
    }
    void begin(std::size_t step) noexcept {
        current_ = step;
        began_ns_ = run_ns_;
        is_first_ = true;
    }
    void end() noexcept {
        current_ = kNone;
        ended_ns_ = run_ns_;
        next_ns_ = run_ns_ + (run_ns_ - began_ns_);
    }

    // All times: nanoseconds of inference on this lane.
    std::vector<std::int64_t> ran_at_ns_;  // by size
    std::int64_t run_ns_ = 0, next_ns_ = kFirstNs, began_ns_ = 0, ended_ns_ = 0;
    std::size_t current_ = kNone;
    bool is_first_ = false;
};

}  // namespace ovengine
