// Cutter: which compiled sizes a lane runs the rows of a batch on.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "ladder/cost_table.hpp"
#include "ladder/ladder.hpp"

namespace ovengine {

// As the cost table says, but for what a table of single sizes does not know: that a size which is never run is never
// known better, and that one which is seldom run is slow when it is. Owned by the lane's owner of the moment.
class Cutter {
  public:
    explicit Cutter(const CostTable& table) { forget(table); }

    // Another ladder: nothing is known of its sizes.
    void forget(const CostTable& table) {
        wanted_at_.assign(table.sizes().size(), 0);
        batches_ = kWarmBatches;
        cut_batches_ = 0;
    }

    // The runs of a batch of `rows` rows.
    CostTable::Steps cut(const CostTable& table, std::uint32_t rows) noexcept {
        const CostTable::Steps steps = table.steps(rows);
        ++batches_;
        for (const std::size_t step : steps) wanted_at_[step] = batches_;
        return steps.is_one() ? warm(table, steps.front()) : whole(table, steps, rows);
    }

  private:
    // Of batches that the table cuts every second one is run whole, until that was done often enough to know what it
    // costs; then one in so many. But none if it would take more than this many times as long.
    static constexpr std::uint32_t kFirstTries = 2 * Ladder::kEnoughRuns, kTryWhole = 64;
    static constexpr double kMayBeAsGood = 2;
    // So many batches after one for which a size was the best its weights count as being in the caches. Those of
    // another size are other memory, and have to be fetched: one row after ten inferences of four takes 1.4 times as
    // long as one again and again (an MLP of 5 MB; 1.6 times for a CNN). Where all weights are in the caches it is for
    // nothing, but those models are small, and it costs some microseconds.
    static constexpr std::uint64_t kWarmBatches = 16;
    static constexpr double kFetching = 1.5;

    // Several runs, or one all the same, where that may be as good.
    CostTable::Steps whole(const CostTable& table, const CostTable::Steps& steps, std::uint32_t rows) noexcept {
        const std::uint32_t every = cut_batches_ < kFirstTries ? 2 : kTryWhole;
        if (++cut_batches_ % every != 0) return steps;
        const std::size_t one = table.covering(rows);
        return table.cost_us(one) < kMayBeAsGood * table.run_us(rows) ? CostTable::Steps::one(table, one) : steps;
    }

    // The only run of the batch, or one of a larger size that is warm and hardly dearer.
    CostTable::Steps warm(const CostTable& table, std::size_t step) noexcept {
        const double most_us = kFetching * table.cost_us(step);
        for (std::size_t one = step + 1; one < wanted_at_.size() && table.cost_us(one) <= most_us; ++one)
            if (batches_ - wanted_at_[one] < kWarmBatches) return CostTable::Steps::one(table, one);
        return CostTable::Steps::one(table, step);
    }

    std::vector<std::uint64_t> wanted_at_;  // by size: the number of the last batch that the table ran on it
    std::uint64_t batches_ = 0;
    std::uint32_t cut_batches_ = 0;
};

}  // namespace ovengine
