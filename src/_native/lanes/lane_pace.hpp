// LanePace: how a lane gets on, for other threads to go by.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace ovengine {

// Written by the lane's owner, read by any thread. relaxed: each is a number that stands for itself.
class LanePace {
  public:
    // When the batch that it runs will be done, by the cost table; past when it runs none.
    std::int64_t busy_until_ns() const noexcept { return busy_until_ns_.load(std::memory_order_relaxed); }
    // How much longer a full batch takes than the cost table says, counted from the end of the one before: what is not
    // inference, and what other threads take of the CPU, counts.
    double ratio() const noexcept { return ratio_.load(std::memory_order_relaxed); }
    // How long inferences took lately that the cost table does not know: the longest one, which counts for less with
    // each that follows.
    std::int64_t unknown_ns() const noexcept { return unknown_ns_.load(std::memory_order_relaxed); }

    void begin(std::int64_t now_ns, double us) noexcept {
        busy_until_ns_.store(now_ns + static_cast<std::int64_t>(us * 1e3), std::memory_order_relaxed);
    }
    // A full batch took `ns`, where the table says `us`.
    void keep(double us, std::int64_t ns) noexcept {
        const double seen = static_cast<double>(ns) / std::max(1.0, us * 1e3);
        ratio_.store(ratio() + (std::clamp(seen, 1 / kMost, kMost) - ratio()) * kWeight, std::memory_order_relaxed);
    }
    void note_unknown(std::int64_t ns) noexcept {
        const std::int64_t before = unknown_ns();
        unknown_ns_.store(ns > before ? ns : before - (before - ns) / 8, std::memory_order_relaxed);
    }

  private:
    static constexpr double kWeight = 1.0 / 16;  // of the last batch
    static constexpr double kMost = 4;           // a lane that stood still for once says little of the next batch

    std::atomic<std::int64_t> busy_until_ns_{0}, unknown_ns_{0};
    std::atomic<double> ratio_{1};
};

}  // namespace ovengine
