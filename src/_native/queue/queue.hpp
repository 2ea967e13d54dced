// Queue: where requests wait, the ring and the backlog, and how many may.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>
#include <thread>
#include <utility>

#include "diagnostics/failpoint.hpp"
#include "diagnostics/stats.hpp"
#include "platform/cpu.hpp"
#include "platform/futex.hpp"
#include "queue/backlog.hpp"
#include "queue/bounded_ring.hpp"
#include "queue/forecast.hpp"
#include "requests/job.hpp"
#include "requests/request.hpp"

namespace ovengine {

// Requests come in through the ring, in order of arrival. While one with terms of its own waits, whoever makes a batch
// empties the ring into the backlog, and takes from there. Jobs wait elsewhere, but count as well.
// Any thread, without locks; what stands below "under the dispatcher's lock" is for lanes that make a batch.
class Queue {
  public:
    // `limit`: requests and jobs that may wait, 0 for as many as the ring holds.
    Queue(std::uint32_t limit, std::uint32_t ring_capacity)
        : limit_(limit), ring_(std::max(limit, ring_capacity)), request_pool_(ring_.capacity()) {}
    ~Queue() {
        Request* request = nullptr;
        while (request_pool_.try_pop(request)) delete request;
    }
    Queue(const Queue&) = delete;
    Queue& operator=(const Queue&) = delete;

    // --- Requests, from a pool ---

    // A request to be filled in. Throws std::bad_alloc.
    Request* make_request() {
        Request* request = nullptr;
        if (request_pool_.try_pop(request)) return request;
        request = new Request;
        requests_made_.fetch_add(1, std::memory_order_relaxed);
        return request;
    }
    // One owner less; the last one returns it to the pool.
    void drop(Request* request) noexcept {
        if (!request->release()) return;
        discard(request);
    }
    // Of a request that has no other owner yet.
    void discard(Request* request) noexcept {
        request->trim();
        if (request_pool_.try_push(request)) return;
        requests_made_.fetch_sub(1, std::memory_order_relaxed);
        delete request;
    }
    // Exact only at rest.
    std::size_t requests_in_use() const noexcept {
        return requests_made_.load(std::memory_order_relaxed) - request_pool_.approx_size();
    }

    // --- Who waits ---

    // False when the queue is full; the request stays the caller's.
    bool try_queue(Request* request) noexcept {
        const Terms& terms = request->terms();
        if (terms.is_plain()) return try_push(request);
        const auto push = [this](Request* place) {
            special_.fetch_add(1, std::memory_order_relaxed);  // a hint, see has_special()
            enter(*place);
            if (try_push(place)) return true;
            leave(*place);
            return false;
        };
        if (!terms.latest_only) return push(request);
        const Group::Offered offered = terms.group->offer(request, push);
        if (offered.superseded) superseded_.add(1);
        if (offered.dropped != nullptr) {
            finish_job(*offered.dropped);
            drop(offered.dropped);
        }
        return offered.accepted;
    }

    // seq_cst: pairs with try_push(), for a lane that has entered IdleLanes.
    bool anybody_waits() const noexcept { return waiting_.load(std::memory_order_seq_cst) > 0; }
    std::uint64_t approx_waiting() const noexcept {
        const auto waiting = waiting_.load(std::memory_order_relaxed);
        return waiting > 0 ? static_cast<std::uint64_t>(waiting) : 0;
    }
    // Rows that wait here and go before those of a request with these terms, roughly.
    std::uint64_t rows_ahead(const Terms& terms, std::uint32_t rows, std::int64_t now) const noexcept {
        const std::int64_t plain = waiting_.load(std::memory_order_relaxed) - entered_.load(std::memory_order_relaxed);
        const auto uncounted = static_cast<std::uint64_t>(std::max<std::int64_t>(0, plain));
        return forecast_.rows_ahead(terms, rows, uncounted, now);
    }

    // See Forecast.
    double reserve() const noexcept { return forecast_.reserve(); }
    void learn(std::size_t in_time, std::size_t late) noexcept { forecast_.learn(in_time, late); }

    // Requests that were given up while they waited, by why.
    std::uint64_t cancelled() const noexcept { return cancelled_.load(); }
    std::uint64_t expired() const noexcept { return expired_.load(); }
    std::uint64_t superseded() const noexcept { return superseded_.load(); }
    std::uint64_t refused() const noexcept { return refused_.load(); }

    // --- Room ---

    std::size_t ring_capacity() const noexcept { return ring_.capacity(); }
    // How many may wait; `has_limit`: because somebody said so.
    std::int64_t limit() const noexcept {
        const std::uint32_t size = limit_.load(std::memory_order_relaxed);
        return size != 0 ? size : static_cast<std::int64_t>(ring_.capacity());
    }
    bool has_limit() const noexcept { return limit_.load(std::memory_order_relaxed) != 0; }
    // Up to ring_capacity(), 0 for all of it. What waits already stays, also when it is more than that.
    void set_limit(std::uint32_t size) noexcept {
        limit_.store(size, std::memory_order_relaxed);
        wake_for_room();
    }
    // Before the first request. `elsewhere`: how many requests wait that the queue knows nothing of; they count for a
    // limit that somebody set.
    void count_elsewhere(const std::atomic<std::int64_t>& elsewhere) noexcept { elsewhere_ = &elsewhere; }
    // Of those that may wait. Written under the dispatcher's lock; seq_cst: before the writer's look at the idle lanes,
    // and after the reader's IdleLanes::put().
    void set_jobs(std::size_t count) noexcept { job_count_.store(count, std::memory_order_seq_cst); }
    bool has_jobs() const noexcept { return job_count_.load(std::memory_order_seq_cst) > 0; }
    // Requests and jobs, roughly.
    std::uint64_t approx_queued() const noexcept { return approx_waiting() + static_cast<std::uint64_t>(jobs()); }

    // Would a request that has to wait be refused? Racy: try_queue() decides.
    bool is_full(const Group* group = nullptr) const noexcept {
        return !has_room(static_cast<std::int64_t>(approx_queued()), group != nullptr ? group->approx_waiting() : 0);
    }
    // The same for one that waits elsewhere: under a limit that somebody set it waits beside those in the ring,
    // otherwise there is as much room for it alone. `counted`: 1 when it has been counted there. seq_cst: pairs with
    // try_push().
    bool is_full_elsewhere(std::int64_t counted = 0) const noexcept {
        const std::int64_t others = has_limit() ? waiting_.load(std::memory_order_seq_cst) + jobs() : 0;
        return others + elsewhere_->load(std::memory_order_seq_cst) - counted >= limit();
    }

    // Waits until a lane has made room; may return early.
    platform::WaitResult wait_for_room(platform::Deadline deadline, const Group* group = nullptr) noexcept {
        return wait_while(deadline, [&] { return is_full(group); });
    }
    platform::WaitResult wait_for_room_elsewhere(platform::Deadline deadline) noexcept {
        return wait_while(deadline, [&] { return is_full_elsewhere(); });
    }
    // Also to be called when one less waits elsewhere.
    void wake_for_room() noexcept {
        // seq_cst: pairs with wait_while(); either it sees the room or this sees the waiter.
        room_epoch_.fetch_add(1, std::memory_order_seq_cst);
        if (room_waiters_.load(std::memory_order_seq_cst) > 0) platform::futex_wake_all(room_epoch_);
    }

    // --- Under the dispatcher's lock: the ring, in order of arrival ---

    // Before the first request.
    void set_group_weight(Backlog::Weight weight) { backlog_.set_weight(std::move(weight)); }

    // relaxed: one with terms that is missed here is found at the head of the ring, at the latest.
    bool has_special() const noexcept { return special_.load(std::memory_order_relaxed) > 0; }
    // The next request of the ring, or null. It stays the next until it is taken.
    Request* next_in_ring() noexcept { return carried_ != nullptr || ring_.try_pop(carried_) ? carried_ : nullptr; }
    // A lane has it.
    void take_next() noexcept {
        carried_ = nullptr;
        waiting_.fetch_sub(1, std::memory_order_relaxed);
    }
    // It was cancelled.
    void drop_next() noexcept {
        cancelled_.add(1);
        drop(carried_);
        take_next();
    }
    // Did anybody find no room in the last batch, or waits in the backlog?
    bool is_blocked() const noexcept { return carried_ != nullptr || !backlog_.empty(); }

    // --- Under the dispatcher's lock: the backlog, in its order ---

    bool has_backlog() const noexcept { return !backlog_.empty(); }
    // All that is in the ring, into the backlog; those for which there is no memory there are told.
    void drain() noexcept {
        while (next_in_ring() != nullptr) {
            Request* const request = std::exchange(carried_, nullptr);
            if (request->terms().is_plain()) enter(*request);
            try {
                backlog_.add(request);
                ++since_sweep_;
            } catch (const std::bad_alloc&) {
                end_place(request, [this](Request& each) { refuse(each); });
            }
        }
        // Those that were given up and are nobody's next still take room.
        if (since_sweep_ <= backlog_.size()) return;
        since_sweep_ = 0;
        backlog_.for_each([this](Request* request) {
            if (!request->waits()) give_up(request);
        });
    }
    // The first one in the backlog that still waits and `accepts(request)`, or null.
    template <class Accepts>
    Request* next_live(Accepts accepts) noexcept {
        ++since_sweep_;
        for (;;) {
            Request* const request = backlog_.find([&](const Request& each) { return !each.waits() || accepts(each); });
            if (request == nullptr || request->waits()) return request;
            give_up(request);
        }
    }
    // A lane has it.
    void take(Request* request) noexcept {
        backlog_.take(request);
        if (request->terms().latest_only) request->terms().group->forget(request);
        leave(*request);
        waiting_.fetch_sub(1, std::memory_order_relaxed);
    }
    // Of the backlog, and not waiting any more: out with it, or with what has taken its place.
    void give_up(Request* request) noexcept {
        const Request::State state = request->state();
        if (state == Request::State::superseded)
            if (Request* const heir = request->terms().group->heir(request)) return replace(request, heir);
        // A job is cancelled without its request.
        if (state == Request::State::cancelled || state == Request::State::queued) cancelled_.add(1);
        backlog_.remove(request);
        end_place(request, [](Request&) {});
    }
    // There is no memory for the batch of the next one, in the ring or in the backlog: that is its answer, and this how
    // many rows it has. 0 when nobody waits, or a job is next, which needs no batch.
    std::uint32_t refuse_next() noexcept {
        if (has_special() || (next_in_ring() != nullptr && !carried_->terms().is_plain())) drain();
        Request* const request = has_backlog() ? next_live([](const Request&) { return true; }) : next_in_ring();
        if (request == nullptr || request->job() != nullptr) return 0;
        const std::uint32_t rows = request->rows();
        const bool refused = refuse(*request);
        if (request != carried_) {
            give_up(request);
        } else if (refused) {
            drop(request);
            take_next();
        } else {
            drop_next();
        }
        return rows;
    }
    // Ends those that are due by then. True when there were any.
    bool expire_due(std::int64_t until_ns) noexcept {
        bool any = false;
        for (Request* first = backlog_.first_deadline(); first != nullptr && first->terms().deadline_ns <= until_ns;
             first = backlog_.first_deadline()) {
            // Taken by a lane it is not: that is under the lock, and out of the backlog.
            if (end_counted(expired_, [&] { return first->expire(); })) learn(0, 1);
            give_up(first);
            any = true;
        }
        return any;
    }
    // See Dispatcher::expire().
    std::int64_t expire(std::int64_t now) noexcept {
        if (has_special()) drain();
        if (expire_due(now)) wake_for_room();
        const Request* const first = backlog_.first_deadline();
        const std::int64_t next = first != nullptr ? first->terms().deadline_ns : Terms::kNoDeadline;
        // Counted, and not in the ring yet: a moment away. seq_cst: pairs with enter().
        const bool all_here = entered_.load(std::memory_order_seq_cst) <= static_cast<std::int64_t>(backlog_.size());
        return all_here ? next : std::min(next, now + kMomentNs);
    }
    // (closing) Ends all of them with Outcome::closed; how many there were.
    std::size_t close() noexcept {
        std::size_t closed = 0;
        // seq_cst: pairs with try_queue(), whose caller looks at `closed` afterwards. A request that is counted here
        // and not in the ring yet is a moment away; one that is not counted yet will be cleared by its own thread.
        while (waiting_.load(std::memory_order_seq_cst) > 0) {
            if (next_in_ring() == nullptr && backlog_.empty()) std::this_thread::yield();
            while (Request* const request = next_in_ring()) {
                carried_ = nullptr;
                if (request->terms().is_plain()) enter(*request);
                end_place(request, [&](Request& each) {
                    closed += each.close();
                    cancelled_.add(each.state() == Request::State::cancelled ? 1 : 0);
                });
            }
            backlog_.for_each([&](Request* request) {
                closed += request->close();
                give_up(request);
            });
        }
        return closed;
    }

  private:
    // In which a request that was counted is in the ring.
    static constexpr std::int64_t kMomentNs = 1'000'000;

    // A group that floods the queue leaves some of it to others (dynamic thresholds, Choudhury and Hahne, 1998): with
    // one such group a quarter, with two a seventh.
    bool has_room(std::int64_t queued, std::int64_t of_group) const noexcept {
        if (has_limit()) queued += elsewhere_->load(std::memory_order_seq_cst);
        return queued < limit() && of_group < kGroupShare * (limit() - queued);
    }
    static constexpr std::int64_t kGroupShare = 3;

    std::int64_t jobs() const noexcept { return static_cast<std::int64_t>(job_count_.load(std::memory_order_relaxed)); }

    bool try_push(Request* request) noexcept {
        // seq_cst: before the caller's look at the idle lanes, like ClaimWord::publish(). Counted before it is pushed,
        // so that the limit holds exactly; those elsewhere do the same.
        const std::int64_t before = waiting_.fetch_add(1, std::memory_order_seq_cst);
        OVENGINE_FAILPOINT("Dispatcher::try_queue, counted");
        const Group* const group = request->terms().group.get();
        if (has_room(before + jobs(), group != nullptr ? group->approx_waiting() - 1 : 0) && ring_.try_push(request))
            return true;
        waiting_.fetch_sub(1, std::memory_order_relaxed);
        return false;
    }

    template <class IsFull>
    platform::WaitResult wait_while(platform::Deadline deadline, IsFull is_full) noexcept {
        room_waiters_.fetch_add(1, std::memory_order_seq_cst);
        const std::uint32_t epoch = room_epoch_.load(std::memory_order_seq_cst);
        auto result = platform::WaitResult::woken;
        if (is_full()) result = platform::futex_wait(room_epoch_, epoch, deadline);
        room_waiters_.fetch_sub(1, std::memory_order_relaxed);
        return result;
    }

    bool refuse(Request& request) noexcept {
        return end_counted(refused_, [&] { return request.refuse(); });
    }
    // Counted before it is told; not at all when `end()` says that it was given up before.
    template <class End>
    static bool end_counted(Counter& count, End end) noexcept {
        count.add(1);
        const bool ended = end();
        if (!ended) count.add(UINT64_MAX);  // less one
        return ended;
    }
    // In the backlog, `heir` gets the place of `request`, which was superseded.
    void replace(Request* request, Request* heir) noexcept {
        enter_heir(*heir);
        try {
            backlog_.replace(request, heir);
        } catch (const std::bad_alloc&) {
            backlog_.remove(request);
            end_place(heir, [this](Request& each) { refuse(each); });
        }
        end_entered(request);
    }
    // Of one that was entered, and is in neither the ring nor the backlog any more: the end of its wait, and of the
    // wait of whoever has its place. `end(request)` says how each ends.
    template <class End>
    void end_place(Request* request, End end) noexcept {
        while (request != nullptr) {
            end(*request);
            Group* const group = request->terms().latest_only ? request->terms().group.get() : nullptr;
            Request* const heir = group != nullptr ? group->heir(request) : nullptr;
            if (heir != nullptr)
                enter_heir(*heir);
            else if (group != nullptr)
                group->forget(request);
            end_entered(request);
            request = heir;
        }
        waiting_.fetch_sub(1, std::memory_order_relaxed);
    }
    void end_entered(Request* request) noexcept {
        finish_job(*request);
        leave(*request);
        drop(request);
    }
    void enter_heir(const Request& heir) noexcept {
        special_.fetch_add(1, std::memory_order_relaxed);
        enter(heir);
    }
    // The count of a request with terms, and of any in the backlog. seq_cst: before the ring's push, see expire().
    void enter(const Request& request) noexcept {
        forecast_.enter(request);
        entered_.fetch_add(1, std::memory_order_seq_cst);
    }
    void leave(const Request& request) noexcept {
        forecast_.leave(request);
        entered_.fetch_sub(1, std::memory_order_relaxed);
        if (!request.terms().is_plain()) special_.fetch_sub(1, std::memory_order_relaxed);
    }
    // Of one that no lane has: it is done with.
    static void finish_job(const Request& request) noexcept {
        Job* const job = request.job();
        if (job != nullptr && job->finish(job->hand_out_rest())) job->settle(1);
    }

    // Requests in the ring (or about to be, or carried), and in the backlog. Read by every claim.
    alignas(platform::kNoSharing) std::atomic<std::int64_t> waiting_{0};
    // Of these: requests with terms; those that the forecast knows (with terms, or in the backlog).
    std::atomic<std::int64_t> special_{0}, entered_{0};
    std::atomic<std::uint32_t> limit_;
    Forecast forecast_;
    SharedCounter superseded_;
    BoundedRing<Request*> ring_;
    BoundedRing<Request*> request_pool_;
    std::atomic<std::size_t> requests_made_{0};

    std::atomic<std::uint32_t> room_epoch_{0}, room_waiters_{0};
    std::atomic<std::int64_t> nobody_{0};
    const std::atomic<std::int64_t>* elsewhere_ = &nobody_;
    std::atomic<std::size_t> job_count_{0};

    // Under the dispatcher's lock.
    Counter cancelled_, expired_, refused_;  // while they waited
    Request* carried_ = nullptr;             // the head of the ring, which found no room
    Backlog backlog_;
    std::size_t since_sweep_ = 0;
};

}  // namespace ovengine
