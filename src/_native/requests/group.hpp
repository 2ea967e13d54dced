// Group: requests that share one part of the engine between them: those of one camera, or of one tenant.
#pragma once

#include <array>
#include <atomic>
#include <compare>
#include <cstdint>
#include <mutex>
#include <set>
#include <string>
#include <utility>

namespace ovengine {

class Request;

// Priorities go from 1, the highest, to kPriorities.
constexpr std::uint32_t kPriorities = 9;
constexpr std::uint32_t kDefaultPriority = 5;

// The requests of one group and priority that wait, and how much the group had. Under the dispatcher's lock.
struct Line {
    struct Entry {
        std::int64_t due_ns;
        std::uint64_t order;  // of arrival, among equals
        Request* request;
        auto operator<=>(const Entry&) const = default;
    };
    std::set<Entry> waiting;
    double served = 0;       // rows divided by the group's weight, on the clock of its priority
    std::uint64_t turn = 0;  // among those that had the same: of when it got there
};

// Made by ModelCore::make_group(), used with that model only. Kept alive by its requests.
class Group {
  public:
    explicit Group(std::string name) : name_(std::move(name)) {}

    const std::string& name() const noexcept { return name_; }

    // Requests that wait, and their rows. Any thread; relaxed, for nothing is read on the strength of it.
    std::uint32_t approx_waiting() const noexcept { return waiting_.load(std::memory_order_relaxed); }
    std::uint32_t approx_rows() const noexcept { return rows_.load(std::memory_order_relaxed); }
    // True when the group had nobody waiting before.
    bool enter(std::uint32_t rows) noexcept {
        rows_.fetch_add(rows, std::memory_order_relaxed);
        return waiting_.fetch_add(1, std::memory_order_relaxed) == 0;
    }
    // True when the group has nobody waiting any more.
    bool leave(std::uint32_t rows) noexcept {
        rows_.fetch_sub(rows, std::memory_order_relaxed);
        return waiting_.fetch_sub(1, std::memory_order_relaxed) == 1;
    }

    Line& line(std::uint32_t priority) noexcept { return lines_[priority - 1]; }

    // --- latest_only: of those requests at most one waits. A newer one takes the older one's place in the queue.
    //
    // What stands in the queue is the `place`: the request that was queued when none of the group waited. When it is
    // superseded, it stays there, and `latest` is what will run: a lane that comes to the place asks for its heir().
    // The core's reference to a latest request that is not the place itself is the group's.

    struct Offered {
        bool accepted, superseded;
        Request* dropped;  // one that the queue knows nothing of, or null: the core's reference to it is the caller's
    };
    // `request` takes the place of the one that waits, or is queued by `queue(request)`, if that is true.
    template <class Queue>
    Offered offer(Request* request, Queue queue);

    // Who has the place of `request`, which was superseded; null when it was not, or had no place.
    Request* heir(const Request* request) noexcept {
        const std::lock_guard lock(mutex_);
        if (place_ != request || latest_ == request) return nullptr;
        return place_ = latest_;
    }
    // `request` is out of the queue.
    void forget(const Request* request) noexcept {
        const std::lock_guard lock(mutex_);
        if (place_ == request) place_ = latest_ = nullptr;
    }

  private:
    const std::string name_;
    std::atomic<std::uint32_t> waiting_{0}, rows_{0};
    std::array<Line, kPriorities> lines_;
    std::mutex mutex_;
    Request *place_ = nullptr, *latest_ = nullptr;
};

}  // namespace ovengine
