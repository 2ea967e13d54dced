// Ladder: the compiled batch sizes of a model, what each costs, and all that follows from it.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "ladder/chunk_sizes.hpp"
#include "ladder/cost_table.hpp"
#include "platform/cpu.hpp"

namespace ovengine {

// Immutable, but for what the lanes observe: from that a better one is made, which takes its place.
class Ladder {
  public:
    static constexpr std::uint32_t kEnoughRuns = 16;  // of a size on a lane, before their mean counts

    Ladder(CostTable costs, std::size_t lanes)
        : costs_(std::move(costs)), chunks_(costs_, static_cast<std::uint32_t>(lanes)) {
        for (std::size_t lane = 0; lane < lanes; ++lane)
            observed_.push_back(std::make_unique<Observed[]>(costs_.sizes().size()));
    }
    Ladder(const Ladder&) = delete;
    Ladder& operator=(const Ladder&) = delete;

    const CostTable& costs() const noexcept { return costs_; }
    const ChunkSizes& chunks() const noexcept { return chunks_; }
    std::uint32_t capacity() const noexcept { return costs_.capacity(); }
    // How many rows are worth waking a thread for: one that is busy for less is back before another is awake.
    std::uint32_t wake_rows() const noexcept {
        return static_cast<std::uint32_t>(std::min(1e6, kWakeUs / std::max(1e-3, costs_.row_us())));
    }

    // The lane's owner: one inference of size `step` took this long.
    void observe(std::size_t lane, std::size_t step, std::int64_t ns) const noexcept {
        Observed& seen = observed_[lane][step];
        // relaxed, and no read-modify-write: a lane has one owner at a time, and refined() may be a moment late.
        const std::uint32_t runs = seen.runs.load(std::memory_order_relaxed);
        const double mean = seen.us.load(std::memory_order_relaxed);
        const double known = runs > 0 ? mean : costs_.cost_us(step);
        const double us = std::min(static_cast<double>(ns) / 1e3, known > 0 ? kMostAtOnce * known : HUGE_VAL);
        seen.us.store(mean + (us - mean) * std::max(kWeight, 1.0 / (runs + 1)), std::memory_order_relaxed);
        seen.runs.store(std::min(runs + 1, kEnoughRuns), std::memory_order_relaxed);
    }

    // The same sizes at what they were seen to cost; null when that is about what is known. Sizes that were not seen
    // are taken to have changed as the others did, so that a slow minute does not make them look good.
    std::shared_ptr<const Ladder> refined() const {
        const std::size_t count = costs_.sizes().size();
        std::vector<double> us(count, 0);
        double change = 0;
        std::size_t seen = 0;
        bool moved = false;
        for (std::size_t step = 0; step < count; ++step) {
            us[step] = observed_us(step);
            if (us[step] == 0) continue;
            const double ratio = us[step] / costs_.cost_us(step);
            moved = moved || ratio > 1 + kChange || ratio < 1 / (1 + kChange);
            change += std::log(ratio);
            ++seen;
        }
        if (!moved) return nullptr;
        for (std::size_t step = 0; step < count; ++step)
            if (us[step] == 0) us[step] = costs_.cost_us(step) * std::exp(change / static_cast<double>(seen));
        return std::make_shared<const Ladder>(CostTable(costs_.sizes(), std::move(us)), observed_.size());
    }

  private:
    static constexpr double kWakeUs = 30.0;      // about what it takes to wake a thread
    static constexpr double kWeight = 1.0 / 16;  // of a new observation
    // No observation counts for more than this many times what is known: where a lane stood still for once, its size
    // would look so bad that it is not run again, and nobody would find out. What is really so slow is soon known.
    static constexpr double kMostAtOnce = 2.0;
    static constexpr double kChange = 0.15;  // less than this is no news

    struct alignas(platform::kNoSharing) Observed {
        std::atomic<double> us{0};  // exponentially weighted mean
        std::atomic<std::uint32_t> runs{0};
    };

    // Mean over the lanes that have seen enough; 0 when none has.
    double observed_us(std::size_t step) const noexcept {
        double sum = 0;
        std::size_t lanes = 0;
        for (const auto& of_lane : observed_) {
            if (of_lane[step].runs.load(std::memory_order_relaxed) < kEnoughRuns) continue;
            sum += of_lane[step].us.load(std::memory_order_relaxed);
            ++lanes;
        }
        return lanes == 0 ? 0 : sum / static_cast<double>(lanes);
    }

    const CostTable costs_;
    const ChunkSizes chunks_;
    std::vector<std::unique_ptr<Observed[]>> observed_;  // by lane, by step
};

}  // namespace ovengine
