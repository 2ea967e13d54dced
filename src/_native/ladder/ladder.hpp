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
    // How many rows are worth waking a thread for: one that is busy with less is back before another is awake.
    std::uint32_t wake_rows() const noexcept {
        for (std::uint32_t rows = 1; rows <= capacity(); ++rows)
            if (costs_.run_us(rows) >= kWakeUs) return rows;
        return static_cast<std::uint32_t>(std::min(1e6, kWakeUs / std::max(1e-3, costs_.row_us())));
    }

    // Whether a lane, or any lane, has run a size often or long enough for the mean to count.
    bool is_known(std::size_t lane, std::size_t step) const noexcept {
        const Observed& seen = observed_[lane][step];
        const std::uint32_t runs = seen.runs.load(std::memory_order_relaxed);
        return runs >= kEnoughRuns || (runs > 1 && runs * seen.us.load(std::memory_order_relaxed) >= kEnoughUs);
    }
    bool is_known(std::size_t step) const noexcept {
        for (std::size_t lane = 0; lane < observed_.size(); ++lane)
            if (is_known(lane, step)) return true;
        return false;
    }

    // What a lane has to run of a size, by the cost table, before it is known; the first run may be slow.
    std::int64_t known_after_ns(std::size_t step) const noexcept {
        const double us = costs_.cost_us(step);
        return std::llround((us + std::clamp(kEnoughUs, 2 * us, kEnoughRuns * us)) * 1e3);
    }

    // The lane's owner: what it saw of a size counts no more.
    void forget(std::size_t lane, std::size_t step) const noexcept {
        observed_[lane][step].runs.store(0, std::memory_order_relaxed);
    }
    // The lane's owner: one inference of size `step` took this long.
    void observe(std::size_t lane, std::size_t step, std::int64_t ns) const noexcept {
        Observed& seen = observed_[lane][step];
        // relaxed, and no read-modify-write: a lane has one owner at a time, and refined() may be a moment late.
        const std::uint32_t runs = seen.runs.load(std::memory_order_relaxed);
        const double mean = runs > 0 ? seen.us.load(std::memory_order_relaxed) : 0;
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
        const auto better = std::make_shared<Ladder>(CostTable(costs_.sizes(), std::move(us)), observed_.size());
        for (std::size_t lane = 0; lane < observed_.size(); ++lane)
            for (std::size_t step = 0; step < count; ++step) better->observed_[lane][step] = observed_[lane][step];
        return better;
    }

  private:
    static constexpr double kWakeUs = 30.0;      // about what it takes to wake a thread
    static constexpr double kWeight = 1.0 / 16;  // of a new observation
    // Of a size on a lane, before their mean counts: so many runs, or several that take so long together.
    static constexpr std::uint32_t kEnoughRuns = 16;
    static constexpr double kEnoughUs = 40'000;
    // No observation counts for more than this many times what is known: where a lane stood still for once, its size
    // would look so bad that it is not run again, and nobody would find out. What is really so slow is soon known.
    static constexpr double kMostAtOnce = 2.0;
    static constexpr double kChange = 0.05;  // less than this is no news

    struct alignas(platform::kNoSharing) Observed {
        std::atomic<double> us{0};  // exponentially weighted mean
        std::atomic<std::uint32_t> runs{0};

        Observed& operator=(const Observed& other) noexcept {
            us.store(other.us.load(std::memory_order_relaxed), std::memory_order_relaxed);
            runs.store(other.runs.load(std::memory_order_relaxed), std::memory_order_relaxed);
            return *this;
        }
    };

    // Mean over the lanes that have seen enough; 0 when none has.
    double observed_us(std::size_t step) const noexcept {
        double sum = 0;
        std::size_t lanes = 0;
        for (std::size_t lane = 0; lane < observed_.size(); ++lane) {
            if (!is_known(lane, step)) continue;
            sum += observed_[lane][step].us.load(std::memory_order_relaxed);
            ++lanes;
        }
        return lanes == 0 ? 0 : sum / static_cast<double>(lanes);
    }

    const CostTable costs_;
    const ChunkSizes chunks_;
    std::vector<std::unique_ptr<Observed[]>> observed_;  // by lane, by step
};

}  // namespace ovengine
