// Forecast: how many rows will be run before a new request's, for deadlines that can be met.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>

#include "requests/request.hpp"

namespace ovengine {

// Counts the rows that wait, by priority and by when they are due, and learns from what became of them. Any thread,
// without locks; what is told is an estimate: ageing, keys and weights are left out of it, and so are requests that
// come later and go first.
class Forecast {
  public:
    // A request is due at its deadline, but no later than this after its arrival: so long it may be overtaken by
    // requests of its own group and priority that are more urgent.
    static constexpr std::int64_t kPatienceNs = 1'000'000'000;

    static std::int64_t due_ns(const Request& request) noexcept {
        return std::min(request.terms().deadline_ns, request.arrived_ns() + kPatienceNs);
    }

    // A request has begun to wait, or no longer does. relaxed, here and below: nothing is read on the strength of it.
    void enter(const Request& request) noexcept {
        const std::uint32_t priority = request.terms().priority - 1, rows = request.rows();
        rows_[priority].fetch_add(rows, std::memory_order_relaxed);
        due_[priority][bucket(due_ns(request))].fetch_add(rows, std::memory_order_relaxed);
        if (Group* const group = request.terms().group.get(); group != nullptr && group->enter(rows))
            groups_.fetch_add(1, std::memory_order_relaxed);
    }
    void leave(const Request& request) noexcept {
        const std::uint32_t priority = request.terms().priority - 1, rows = request.rows();
        rows_[priority].fetch_sub(rows, std::memory_order_relaxed);
        due_[priority][bucket(due_ns(request))].fetch_sub(rows, std::memory_order_relaxed);
        if (Group* const group = request.terms().group.get(); group != nullptr && group->leave(rows))
            groups_.fetch_sub(1, std::memory_order_relaxed);
    }

    // Rows that go before those of a request with these terms that arrives now. `uncounted`: rows of plain requests
    // that have not been entered.
    std::uint64_t rows_ahead(const Terms& terms, std::uint32_t rows, std::uint64_t uncounted,
                             std::int64_t now_ns) const noexcept {
        const std::uint32_t priority = terms.priority - 1;
        const std::int64_t last_ns = now_ns + kPatienceNs, due_ns = std::min(terms.deadline_ns, last_ns);
        std::uint64_t same = rows_[priority].load(std::memory_order_relaxed);
        if (terms.priority == kDefaultPriority && due_ns == last_ns) same += uncounted;
        for (std::size_t i = bucket(due_ns); i != bucket(last_ns);) {
            i = (i + 1) % kBuckets;
            const std::uint64_t later = due_[priority][i].load(std::memory_order_relaxed);
            same -= std::min(same, later);
        }
        if (terms.group != nullptr) {
            // Its group's share: all others have had no more than it has by then.
            const std::uint64_t own = terms.group->approx_rows();
            const std::uint64_t others = groups_.load(std::memory_order_relaxed) - (own > 0 ? 1 : 0) + 1;
            same = std::min(same, own + others * (own + rows));
        }
        for (std::uint32_t higher = 0; higher < priority; ++higher)
            same += rows_[higher].load(std::memory_order_relaxed);
        return priority >= kDefaultPriority ? same + uncounted : same;
    }

    // Of the time that a request will wait by the estimate, the share to be kept in reserve, so that no more than
    // kLateShare of those that were taken for punctual are late in the end: machines differ in how steady they are, and
    // are not always as steady as they were. Tracks that quantile of the error (Robbins and Monro, 1951).
    double reserve() const noexcept { return reserve_.load(std::memory_order_relaxed); }
    // What became of requests with a deadline. relaxed: an update that another one overwrites is of no account.
    void learn(std::size_t in_time, std::size_t late) noexcept {
        const double share = kLateShare * static_cast<double>(in_time + late);
        const double next = reserve() + kReserveStep * (static_cast<double>(late) - share);
        reserve_.store(std::clamp(next, kLeastReserve, kMostReserve), std::memory_order_relaxed);
    }

  private:
    static constexpr double kLateShare = 1.0 / 400;
    static constexpr double kReserveStep = 1.0 / 256, kLeastReserve = 1.0 / 32, kMostReserve = 0.5;
    static constexpr std::size_t kBuckets = 256;
    static constexpr std::int64_t kBucketNs = std::int64_t{1} << 23;
    static_assert(kBuckets * kBucketNs > 2 * kPatienceNs, "what is overdue must not count as not due yet for long");

    static std::size_t bucket(std::int64_t ns) noexcept { return static_cast<std::size_t>(ns / kBucketNs) % kBuckets; }

    std::array<std::atomic<std::uint32_t>, kPriorities> rows_{};
    std::array<std::array<std::atomic<std::uint32_t>, kBuckets>, kPriorities> due_{};
    std::atomic<std::uint32_t> groups_{0};
    std::atomic<double> reserve_{0.25};
};

}  // namespace ovengine
