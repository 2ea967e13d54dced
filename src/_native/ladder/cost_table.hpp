// CostTable: which compiled batch sizes a number of rows runs on.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <vector>

namespace ovengine {

// Immutable. Built from the ladder and the measured time of each size; answers in constant time.
class CostTable {
  public:
    // `sizes` ascending, `cost_us[i]` the time of one inference at sizes[i], microseconds.
    CostTable(std::vector<std::uint32_t> sizes, std::vector<double> cost_us)
        : sizes_(std::move(sizes)), cost_us_(std::move(cost_us)) {
        if (sizes_.empty() || sizes_.size() != cost_us_.size() || !std::is_sorted(sizes_.begin(), sizes_.end()))
            throw std::invalid_argument("the ladder must have at least one size, ascending, and a cost for each");
        const std::uint32_t capacity = sizes_.back();
        // Shortest path over rows: best[n] is the least time for exactly n rows. Only the last run may be padded, and
        // the padding has to stay inside the slot.
        steps_.resize(capacity + 1);
        for (std::uint32_t rows = 1; rows <= capacity; ++rows) {
            std::vector<double> best(rows + 1, std::numeric_limits<double>::infinity());
            std::vector<std::size_t> choice(rows + 1, 0);
            best[0] = 0;
            for (std::uint32_t left = 1; left <= rows; ++left)
                for (std::size_t i = 0; i < sizes_.size(); ++i) {
                    const std::uint32_t size = sizes_[i];
                    if (size > left && rows - left + size > capacity) continue;
                    const double cost = cost_us_[i] + best[size < left ? left - size : 0];
                    if (cost < best[left]) best[left] = cost, choice[left] = i;
                }
            for (std::uint32_t left = rows; left > 0;) {
                const std::size_t i = choice[left];
                steps_[rows].push_back(i);
                left -= std::min(left, sizes_[i]);
            }
            // Full runs first, so that only the last one is padded.
            std::sort(steps_[rows].begin(), steps_[rows].end(), std::greater<>());
            const std::size_t whole = covering(rows);
            if (kWorthCutting * cost_us_[whole] < best[rows]) steps_[rows] = {whole};
        }
        find_most_rows();
    }

    const std::vector<std::uint32_t>& sizes() const noexcept { return sizes_; }
    std::uint32_t capacity() const noexcept { return sizes_.back(); }

    // Indices into sizes(), in the order to run them, for `rows` rows (1 to capacity()).
    const std::vector<std::size_t>& steps(std::uint32_t rows) const noexcept { return steps_[rows]; }

    // Index of the smallest size that holds `rows` rows (1 to capacity()).
    std::size_t covering(std::uint32_t rows) const noexcept {
        return static_cast<std::size_t>(std::lower_bound(sizes_.begin(), sizes_.end(), rows) - sizes_.begin());
    }

    // Time that `rows` rows (1 to capacity()) take, microseconds.
    double run_us(std::uint32_t rows) const noexcept {
        double us = 0;
        for (const std::size_t step : steps(rows)) us += cost_us(step);
        return us;
    }

    // How many rows a batch may have while `waiting` rows wait: all of them, or those of the first of several runs. Who
    // is in that has its result as soon as it is done, and another lane may take the rest. From grain() rows on, lanes
    // have enough to do, and fewer batches are less work.
    std::uint32_t most_rows(std::uint64_t waiting) const noexcept {
        return waiting < most_rows_.size() ? most_rows_[waiting] : capacity();
    }

    // The smallest size whose rows cost about as little as they can: work that is cut into such pieces is not dearer.
    std::uint32_t grain() const noexcept {
        double least = std::numeric_limits<double>::infinity();
        for (std::size_t i = 0; i < sizes_.size(); ++i) least = std::min(least, cost_us_[i] / sizes_[i]);
        std::size_t i = 0;
        while (cost_us_[i] / sizes_[i] > kAboutAsCheap * least) ++i;
        return sizes_[i];
    }

    // Time per row at the largest size, microseconds.
    double row_us() const noexcept { return cost_us_.back() / capacity(); }
    double cost_us(std::size_t index) const noexcept { return cost_us_[index]; }

  private:
    // Several runs must take no more than this share of one run's time: measurements are not more exact than that, and
    // each run has a cost of its own beside the inference.
    static constexpr double kWorthCutting = 0.95;
    static constexpr double kAboutAsCheap = 1.1;
    // What a batch costs beside its inference, as the batcher `adaptive` has it.
    static constexpr double kBatchUs = 60.0;

    // By rows that wait; nothing where a batch may have as many as fit.
    void find_most_rows() {
        const auto runs_whole = [this](std::uint32_t rows) {
            return steps(rows).size() == 1 || run_us(rows) - cost_us(steps(rows).front()) < kBatchUs;
        };
        std::uint32_t whole = 0;  // so many rows, and fewer, run whole
        while (whole < grain() && runs_whole(whole + 1)) ++whole;
        for (std::uint32_t rows = 0; whole < grain() && rows < grain(); ++rows)
            most_rows_.push_back(rows <= whole ? whole : runs_whole(rows) ? capacity() : sizes_[steps(rows).front()]);
    }

    std::vector<std::uint32_t> sizes_;
    std::vector<double> cost_us_;
    std::vector<std::vector<std::size_t>> steps_;
    std::vector<std::uint32_t> most_rows_;
};

}  // namespace ovengine
