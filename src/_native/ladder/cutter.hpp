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
    explicit Cutter(const CostTable& table) : wanted_at_(table.sizes().size()) {}

    // The runs of a batch of `rows` rows.
    CostTable::Steps cut(const CostTable& table, std::uint32_t rows) noexcept {
        const CostTable::Steps steps = table.steps(rows);
        ++batches_;
        for (const std::size_t step : steps) wanted_at_[step] = batches_;
        return steps.is_one() ? warm(table, steps.front()) : steps;
    }

  private:
    // So many batches after one for which a size was the best its weights count as being in the caches. Those of
    // another size are other memory, and have to be fetched: one row after ten inferences of four takes 1.4 times as
    // long as one again and again (an MLP of 5 MB; 1.6 times for a CNN). Where all weights are in the caches it is for
    // nothing, but those models are small, and it costs some microseconds.
    static constexpr std::uint64_t kWarmBatches = 16;
    static constexpr double kFetching = 1.5;

    // The only run of the batch, or one of a larger size that is warm and hardly dearer.
    CostTable::Steps warm(const CostTable& table, std::size_t step) noexcept {
        const double most_us = kFetching * table.cost_us(step);
        for (std::size_t one = step + 1; one < wanted_at_.size() && table.cost_us(one) <= most_us; ++one)
            if (batches_ - wanted_at_[one] < kWarmBatches) return CostTable::Steps::one(table, one);
        return CostTable::Steps::one(table, step);
    }

    std::vector<std::uint64_t> wanted_at_;  // by size: the number of the last batch that the table ran on it
    std::uint64_t batches_ = kWarmBatches;
};

}  // namespace ovengine
