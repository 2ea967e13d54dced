// ChunkSizes: how many rows of a bulk request a lane gets at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "ladder/cost_table.hpp"

namespace ovengine {

// Large chunks while there are plenty of rows, smaller ones towards the end, so that no lane is left with a long one
// alone (guided self-scheduling, Polychronopoulos and Kuck, 1987).
class ChunkSizes {
  public:
    ChunkSizes(const CostTable& table, std::uint32_t lanes) : table_(table), lanes_(lanes) {}

    // With `left` rows to go, and batches of up to `most` rows.
    std::uint32_t next(std::uint32_t left, std::uint32_t most) const noexcept {
        const auto& sizes = table_.sizes();
        std::size_t allowed = sizes.size();
        while (allowed > 0 && sizes[allowed - 1] > most) --allowed;
        if (allowed == 0) return most;  // padded
        // The best size as long as every lane can have one.
        std::uint32_t best = sizes[allowed - 1];
        if (std::uint64_t{lanes_} * best <= left) return best;
        // Then the one with which the lanes end first.
        double least_us = std::numeric_limits<double>::infinity();
        for (std::size_t i = allowed; i-- > 0;) {
            const std::uint64_t together = std::uint64_t{lanes_} * sizes[i];
            const double us = static_cast<double>((left + together - 1) / together) * table_.cost_us(i);
            if (us < least_us) least_us = us, best = sizes[i];
        }
        return best;
    }
    // About how many chunks `rows` rows become.
    std::uint32_t count(std::uint32_t rows, std::uint32_t most) const noexcept {
        const std::uint32_t size = next(rows, most);
        return (rows + size - 1) / size;
    }

  private:
    const CostTable& table_;
    const std::uint32_t lanes_;
};

}  // namespace ovengine
