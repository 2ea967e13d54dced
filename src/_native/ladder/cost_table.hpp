// CostTable: which compiled batch sizes a number of rows runs on.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace ovengine {

// Immutable. Built from the ladder and the measured time of each size, in time and memory that grow with the capacity
// times the number of sizes; answers in constant time.
class CostTable {
  public:
    // What a ladder may have. A table has an entry for each number of rows, and a run of a size is one byte in it.
    static constexpr std::uint32_t kMostRows = 1u << 16;
    static constexpr std::size_t kMostSizes = 256;

    // The runs of a number of rows: indices into sizes(), in the order to run them, full runs first. Both the range and
    // the place in it. Valid as long as the table.
    class Steps {
      public:
        // One run of the size of this index.
        static Steps one(const CostTable& table, std::size_t index) noexcept { return {table, 1, index}; }
        // As many as hold so many rows.
        static Steps all(const CostTable& table, std::size_t index, std::uint32_t rows) noexcept {
            return {table, rows, index};
        }

        Steps begin() const noexcept { return *this; }
        static std::default_sentinel_t end() noexcept { return {}; }
        bool operator==(std::default_sentinel_t) const noexcept { return rows_ == 0; }
        std::size_t operator*() const noexcept { return only_ != kCut ? only_ : table_->largest_run_[rows_]; }
        Steps& operator++() noexcept {
            rows_ -= std::min(rows_, table_->sizes_[**this]);
            return *this;
        }

        std::size_t front() const noexcept { return **this; }
        bool is_one() const noexcept { return table_->sizes_[front()] >= rows_; }
        // Takes as long as to go through them.
        std::size_t size() const noexcept {
            std::size_t count = 0;
            for (Steps rest = *this; rest != end(); ++rest) ++count;
            return count;
        }

      private:
        friend class CostTable;
        static constexpr std::size_t kCut = SIZE_MAX;
        Steps(const CostTable& table, std::uint32_t rows, std::size_t only) noexcept
            : table_(&table), rows_(rows), only_(only) {}

        const CostTable* table_;
        std::uint32_t rows_;  // that are still to be run, padding included
        std::size_t only_;    // the size of all runs, or kCut
    };

    // `sizes` ascending, `cost_us[i]` the time of one inference at sizes[i], microseconds. Throws
    // std::invalid_argument.
    CostTable(std::vector<std::uint32_t> sizes, std::vector<double> cost_us)
        : sizes_(std::move(sizes)), cost_us_(std::move(cost_us)) {
        if (sizes_.empty() || sizes_.size() != cost_us_.size() || sizes_.front() == 0 ||
            !std::is_sorted(sizes_.begin(), sizes_.end()))
            throw std::invalid_argument("a ladder has at least one size, ascending, and a cost for each");
        if (sizes_.size() > kMostSizes || capacity() > kMostRows)
            throw std::invalid_argument("a ladder has at most " + std::to_string(kMostSizes) + " sizes of up to " +
                                        std::to_string(kMostRows) + " rows");
        choose_runs();
        find_grain();
    }

    const std::vector<std::uint32_t>& sizes() const noexcept { return sizes_; }
    std::uint32_t capacity() const noexcept { return sizes_.back(); }

    // For `rows` rows (0 to capacity()). Only the last run may be padded, and the padding stays inside the slot.
    Steps steps(std::uint32_t rows) const noexcept {
        return padded_[rows] == 0 && rows > 0 ? Steps::one(*this, covering(rows))
                                              : Steps(*this, padded_[rows], Steps::kCut);
    }

    // Whether runs of the size of this index for so many rows, and their padding, stay inside the slot.
    bool fits(std::size_t index, std::uint32_t rows) const noexcept {
        return (rows + sizes_[index] - 1) / sizes_[index] * sizes_[index] <= capacity();
    }

    // Index of the smallest size that holds `rows` rows (1 to capacity()).
    std::size_t covering(std::uint32_t rows) const noexcept {
        return static_cast<std::size_t>(std::lower_bound(sizes_.begin(), sizes_.end(), rows) - sizes_.begin());
    }

    // Time that `rows` rows (1 to capacity()) take, microseconds.
    double run_us(std::uint32_t rows) const noexcept { return run_us_[rows]; }

    // The smallest size whose rows cost about as little as they can: work that is cut into such pieces is not dearer.
    std::uint32_t grain() const noexcept { return grain_; }

    // Time per row at the largest size, microseconds.
    double row_us() const noexcept { return cost_us_.back() / capacity(); }
    double cost_us(std::size_t index) const noexcept { return cost_us_[index]; }
    // Of one inference at the size that takes longest; 0 where the cost of a size is not known.
    double slowest_us() const noexcept {
        const auto [least, most] = std::minmax_element(cost_us_.begin(), cost_us_.end());
        return *least > 0 ? *most : 0;
    }

  private:
    // Several runs must take no more than this share of one run's time: measurements are not more exact than that, and
    // each run has a cost of its own beside the inference.
    static constexpr double kWorthCutting = 0.95;
    static constexpr double kAboutAsCheap = 1.1;

    // Costs are compared as whole nanoseconds: sums of doubles depend on the order, and runs that were chosen one after
    // the other would not come in the order of their sizes.
    static std::int64_t to_ns(double us) noexcept {
        constexpr double kMostUs = 1e9;  // so that a sum over all rows does not overflow
        return us > 0 ? static_cast<std::int64_t>(std::min(us, kMostUs) * 1e3) : 0;
    }

    void choose_runs() {
        constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();
        std::vector<std::int64_t> costs_ns;
        for (const double us : cost_us_) costs_ns.push_back(to_ns(us));
        // Full runs only: the least time for exactly so many rows, and the largest run of those that take it. The rest
        // has none that is larger, so to follow the choices is to go through the runs from large to small.
        std::vector<std::int64_t> least_ns(capacity() + 1, kNever);
        largest_run_.assign(capacity() + 1, 0);
        least_ns[0] = 0;
        for (std::uint32_t rows = 1; rows <= capacity(); ++rows)
            for (std::size_t i = 0; i < sizes_.size() && sizes_[i] <= rows; ++i) {
                const std::int64_t rest_ns = least_ns[rows - sizes_[i]];
                if (rest_ns == kNever || rest_ns + costs_ns[i] > least_ns[rows]) continue;
                least_ns[rows] = rest_ns + costs_ns[i];
                largest_run_[rows] = static_cast<std::uint8_t>(i);
            }
        // With padding: the cheapest of these and all larger numbers. Of equals the smallest number, in which no run is
        // for padding alone: without that run it would be smaller still, and no dearer.
        padded_.assign(capacity() + 1, 0);
        run_us_.assign(capacity() + 1, 0);
        std::uint32_t best = capacity();
        for (std::uint32_t rows = capacity(); rows > 0; --rows) {
            if (least_ns[rows] <= least_ns[best]) best = rows;
            const std::size_t whole = covering(rows);
            const double best_us = static_cast<double>(least_ns[best]) / 1e3;
            const bool is_whole = kWorthCutting * cost_us_[whole] <= best_us;
            padded_[rows] = is_whole ? 0 : best;
            run_us_[rows] = is_whole ? cost_us_[whole] : best_us;
        }
    }

    void find_grain() noexcept {
        double least = std::numeric_limits<double>::infinity();
        for (std::size_t i = 0; i < sizes_.size(); ++i) least = std::min(least, cost_us_[i] / sizes_[i]);
        std::size_t i = 0;
        while (cost_us_[i] / sizes_[i] > kAboutAsCheap * least) ++i;
        grain_ = sizes_[i];
    }

    std::vector<std::uint32_t> sizes_;
    std::vector<double> cost_us_;
    std::vector<std::uint8_t> largest_run_;  // by exact number of rows: its largest run
    std::vector<std::uint32_t> padded_;      // by rows: to how many they are padded and then cut; 0: they run whole
    std::vector<double> run_us_;             // by rows
    std::uint32_t grain_ = 0;
};

}  // namespace ovengine
