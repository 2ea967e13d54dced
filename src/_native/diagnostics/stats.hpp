// Counters and histograms: written by one owner at a time, read by anybody at any time.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "platform/cpu.hpp"

namespace ovengine {

// A count with one writer at a time; readers see a recent value.
class Counter {
  public:
    void add(std::uint64_t amount) noexcept {
        // A plain load and store instead of a read-modify-write: there is one writer.
        value_.store(value_.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
    }
    std::uint64_t load() const noexcept { return value_.load(std::memory_order_relaxed); }

  private:
    std::atomic<std::uint64_t> value_{0};
};

// A count that any thread may add to.
class SharedCounter {
  public:
    void add(std::uint64_t amount) noexcept { value_.fetch_add(amount, std::memory_order_relaxed); }
    std::uint64_t load() const noexcept { return value_.load(std::memory_order_relaxed); }

  private:
    std::atomic<std::uint64_t> value_{0};
};

// Durations in nanoseconds, kept to about 6 % (16 linear steps in every power of two, as in HdrHistogram).
class Histogram {
  public:
    static constexpr std::size_t kSteps = 16;
    static constexpr std::size_t kBuckets = 61 * kSteps;

    void add(std::uint64_t ns) noexcept {
        buckets_[index(ns)].add(1);
        sum_.add(ns);
        if (ns > max_.load()) max_.add(ns - max_.load());
    }

    void add(const Histogram& other) noexcept {
        for (std::size_t i = 0; i < kBuckets; ++i) buckets_[i].add(other.buckets_[i].load());
        sum_.add(other.sum());
        if (other.max() > max_.load()) max_.add(other.max() - max_.load());
    }

    // Adds this histogram's buckets to `totals`.
    void collect(std::array<std::uint64_t, kBuckets>& totals) const noexcept {
        for (std::size_t i = 0; i < kBuckets; ++i) totals[i] += buckets_[i].load();
    }
    std::uint64_t sum() const noexcept { return sum_.load(); }
    std::uint64_t max() const noexcept { return max_.load(); }

    // Middle of bucket `i`, nanoseconds.
    static double value(std::size_t i) noexcept {
        if (i < 2 * kSteps) return static_cast<double>(i);
        const unsigned shift = static_cast<unsigned>(i / kSteps) - 1;
        const auto base = static_cast<double>((kSteps + i % kSteps) << shift);
        return base + static_cast<double>(std::uint64_t{1} << shift) / 2;
    }

    static std::size_t index(std::uint64_t ns) noexcept {
        if (ns < 2 * kSteps) return static_cast<std::size_t>(ns);
        const unsigned shift = static_cast<unsigned>(std::bit_width(ns)) - 5;  // leaves 16..31
        return (shift + 1) * kSteps + static_cast<std::size_t>((ns >> shift) - kSteps);
    }

  private:
    std::array<Counter, kBuckets> buckets_;
    Counter sum_, max_;
};

// What one lane did. Its owner of the moment writes; IdleLanes hands the ownership on.
struct LaneStats {
    // Why a batch was dispatched.
    enum Reason { full, idle, delay, caller, bulk, session, kReasons };

    Counter requests, rows, batches, failed, cancelled, lost, closed;
    std::array<Counter, kReasons> reasons;
    Histogram queue_ns, inference_ns;

    // Makes this the sum of both.
    void add(const LaneStats& other) noexcept {
        requests.add(other.requests.load());
        rows.add(other.rows.load());
        batches.add(other.batches.load());
        failed.add(other.failed.load());
        cancelled.add(other.cancelled.load());
        lost.add(other.lost.load());
        closed.add(other.closed.load());
        for (std::size_t i = 0; i < kReasons; ++i) reasons[i].add(other.reasons[i].load());
        queue_ns.add(other.queue_ns);
        inference_ns.add(other.inference_ns);
    }
};

}  // namespace ovengine
