// Dispatcher: where batches are made of what waits: the open slot, the queue, and the jobs.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "batch/chain.hpp"
#include "batch/slot.hpp"
#include "diagnostics/failpoint.hpp"
#include "ladder/ladder.hpp"
#include "queue/lane_share.hpp"
#include "queue/queue.hpp"
#include "queue/slots.hpp"
#include "queue/work.hpp"
#include "requests/job.hpp"
#include "requests/request.hpp"

namespace ovengine {

// Requests claim rows of the open slot while nobody waits; otherwise they go through the queue.
// claim, queue, add: any thread, without locks (but for jobs, which are rare and large).
// take: lanes, under a lock held for as long as it takes to make one batch's worth of decisions.
class Dispatcher {
  public:
    static constexpr std::uint32_t kRingCapacity = 1u << 14;  // requests
    struct Options {
        std::uint32_t max_queue_size = 0;  // requests and jobs; 0: as many as the ring holds
        std::int64_t max_queue_delay_ns = 0;
        std::uint32_t ring_capacity = kRingCapacity;  // at least; max_queue_size may be raised to this
    };

    Dispatcher(RowLayout layout, std::uint32_t capacity, Options options)
        : layout_(std::move(layout)),
          capacity_(capacity),
          none_(0, layout_.inputs, 0),
          max_batch_rows_(UINT32_MAX),
          max_queue_delay_ns_(options.max_queue_delay_ns),
          queue_(options.max_queue_size, options.ring_capacity) {
        if (!open_next()) throw std::bad_alloc();
    }

    // What it has for any thread.
    Queue& queue() noexcept { return queue_; }
    const Queue& queue() const noexcept { return queue_; }

    const RowLayout& layout() const noexcept { return layout_; }
    // Of each batch from now on; see grow().
    std::uint32_t capacity() const noexcept { return capacity_.load(std::memory_order_relaxed); }

    // The limits may change at any time. relaxed: each is a number that stands for itself, and who misses a change by
    // a moment goes by what held before. Only lanes that hold a batch must not sleep through one: limits_epoch().
    std::uint32_t max_batch_rows() const noexcept {
        return std::min(capacity(), max_batch_rows_.load(std::memory_order_relaxed));
    }
    std::int64_t max_queue_delay_ns() const noexcept { return max_queue_delay_ns_.load(std::memory_order_relaxed); }
    bool holds_batches() const noexcept { return max_queue_delay_ns() > 0; }

    // At least 1; what is above capacity() waits for it to grow. Requests of more rows that have been accepted already
    // run whole, each in a batch of its own.
    void set_max_batch_rows(std::uint32_t rows) noexcept {
        max_batch_rows_.store(std::max(rows, 1u), std::memory_order_relaxed);
        announce_limits();
    }
    void set_max_queue_delay_ns(std::int64_t delay_ns) noexcept {
        max_queue_delay_ns_.store(delay_ns, std::memory_order_relaxed);
        share_.lift();
        announce_limits();
    }
    // Changes with the limits. A lane reads it before take() (seq_cst, of which acquire: pairs with announce_limits(),
    // so that take() goes by the limits of this epoch or later ones) and again after its IdleLanes::put(): either it
    // sees the change there, or whoever made it finds the lane in the set and wakes it.
    std::uint32_t limits_epoch() const noexcept { return limits_epoch_.load(std::memory_order_seq_cst); }

    // Rows of the open slot, or null when there is no room or somebody waits already. The rows have no state yet:
    // Batch::begin() or lease() comes next.
    Slot* try_claim(std::uint32_t rows, std::uint32_t& row) noexcept {
        expect(rows);
        // relaxed: a hint that keeps the order of arrival; a request that misses it by a moment is at most one
        // batch early.
        if (queue_.approx_waiting() > 0) return nullptr;
        // acquire: pairs with the store in take(); the slot is open and has its batch.
        Slot* const slot = open_.load(std::memory_order_acquire);
        row = slot->word.try_claim(rows, room(*slot));
        if (row == ClaimWord::kNone) return nullptr;
        if (row == 0) slot->batch->set_opened_ns(now_ns());
        return slot;
    }

    // A request of so many rows comes.
    void expect(std::uint32_t rows) noexcept { share_.expect(rows); }

    // Rows that wait for a lane, roughly.
    std::uint32_t approx_pending_rows(const Slot& slot) const noexcept {
        return slot.word.approx_claimed() + static_cast<std::uint32_t>(queue_.approx_waiting());
    }

    // So many lanes run what there is, at these costs.
    void adopt(std::shared_ptr<const Ladder> ladder, std::size_t lanes) noexcept {
        const std::lock_guard lock(mutex_);
        share_.adopt(std::move(ladder), lanes);
    }
    // A lane has run so many rows that it took.
    void finish_rows(std::uint32_t rows) noexcept { share_.finish(rows); }

    // Rows that are run before those of a request with these terms, roughly.
    std::uint64_t rows_ahead(const Terms& terms, std::uint32_t rows, std::int64_t now) const noexcept {
        const std::uint64_t ahead = queue_.rows_ahead(terms, rows, now);
        if (terms.priority < kDefaultPriority) return ahead;
        // acquire: pairs with the store in take().
        return ahead + open_.load(std::memory_order_acquire)->word.approx_claimed();
    }

    // False when the queue is full; the job stays the caller's.
    bool try_add(Job* job) noexcept {
        const std::lock_guard lock(mutex_);
        if (queue_.is_full()) return false;
        jobs_.push_back(job);
        queue_.set_jobs(jobs_.size());  // before the caller's look at the idle lanes
        return true;
    }

    // Is there anything that take() would hand out? All reads seq_cst, after the caller's IdleLanes::put(). A batch
    // that is being held back is not work; its rows must be `full` to count while `holding`.
    bool has_work(bool holding) const noexcept {
        if (queue_.anybody_waits() || queue_.has_jobs()) return true;
        const Slot* const slot = open_.load(std::memory_order_seq_cst);
        return slot->word.published() >= (holding ? room(*slot) : 1);
    }

    enum class Taken { nothing, work, hold };

    // The next batch or chunk for a lane, with what it is to try. `hold`: there are rows, to be run at `until` at the
    // latest. `flush`: hold nothing back. Where there is no memory for a batch, those who would be in it are told, and
    // what there is memory for goes on.
    Taken take(Work& work, std::size_t lane, Trials& trials, platform::Clock::time_point& until, bool flush) noexcept {
        const std::lock_guard lock(mutex_);
        work.trial = Trials::kNone;
        work.slot = nullptr;
        work.job = nullptr;
        work.gathered.clear();
        if (ended_) return Taken::nothing;
        // Batches and jobs take turns, so that neither starves the other.
        if (job_next_ && take_chunk(work)) {
            job_next_ = false;
            return Taken::work;
        }
        job_next_ = true;
        work.trial = share_.update(open_slot()->word.approx_claimed(), queue_.approx_waiting(), max_batch_rows(),
                                   holds_batches(), trials, lane);
        const Taken taken = take_batch(work, until, flush);
        share_.begin_next();
        if (taken != Taken::work && take_chunk(work)) return Taken::work;
        return taken;
    }

    // Ends the requests whose deadline has come. When the next one may: of those that were counted by the caller's last
    // seq_cst access at the latest.
    std::int64_t expire(std::int64_t now) noexcept {
        const std::lock_guard lock(mutex_);
        return queue_.expire(now);
    }

    // After the lane has copied what it gathered.
    void give_back_gathered(Work& work) noexcept {
        for (const auto& gathered : work.gathered) queue_.drop(gathered.request);
        work.gathered.clear();
    }

    // The slot's rows are consumed: its memory may be claimed again.
    void give_back(Slot* slot) noexcept { slots_.give_back(slot); }

    // A slot outside the claim order, for rows that must leave theirs; null when there is no memory for one.
    Slot* spare_slot() noexcept {
        const std::lock_guard lock(mutex_);
        return slots_.spare(capacity());
    }

    // Batches of up to `rows` rows from now on, which is no less than before; the lanes are ready for them.
    void grow(std::uint32_t rows) noexcept {
        const std::lock_guard lock(mutex_);
        capacity_.store(rows, std::memory_order_relaxed);
        Slot& old = *open_slot();
        if (ended_ || !is_open() || old.capacity >= rows || !old.word.try_seal_empty()) return;
        // Nobody has anything in it: a request that it is too small for would wait for ever.
        old.batch->settle(0);
        slots_.give_back(&old);
        open_next();
    }

    // (closing) Ends everything that waits in the ring and in jobs, with Outcome::closed; how many there were.
    std::size_t close_waiting() noexcept {
        const std::lock_guard lock(mutex_);
        std::size_t closed = queue_.close();
        while (Job* const job = jobs_.pop_front()) {
            closed += job->end(Outcome::closed) ? 1 : 0;
            // What no lane has begun is finished here; a lane that has a chunk sees that the job is stopped.
            if (job->finish(job->hand_out_rest())) job->settle(1);
        }
        queue_.set_jobs(0);
        queue_.wake_for_room();
        return closed;
    }
    // (closing) Ends the requests in the open slot with Outcome::closed; how many there were. Leases are left to the
    // lane that takes the slot.
    std::size_t close_open_rows() noexcept {
        const std::lock_guard lock(mutex_);
        return is_open() ? close_rows(*open_slot()->batch) : 0;
    }
    // (closing) For good: take() hands out nothing any more, and the open slot is answered with Outcome::closed.
    std::size_t end() noexcept {
        const std::lock_guard lock(mutex_);
        if (std::exchange(ended_, true) || !is_open()) return 0;
        Slot& last = *open_slot();
        const std::uint32_t rows = last.word.seal();
        const std::size_t closed = close_rows(*last.batch);
        for (std::uint32_t row = 0; row < last.capacity; ++row)
            last.batch->transition(row, RowState::leased, RowState::closed);
        OVENGINE_FAILPOINT("Dispatcher::end, rows closed");
        last.batch->complete_unrun();
        last.batch->settle(rows);
        return closed;
    }

    struct InUse {
        std::size_t slots, batches, requests, rows;
    };
    // What is not back where it belongs; exact only at rest.
    InUse in_use() {
        const std::lock_guard lock(mutex_);
        const std::size_t open = is_open() ? 1 : 0;
        return {slots_.slots_in_use() - open, slots_.batches_in_use() - (ended_ ? 0 : open), queue_.requests_in_use(),
                ended_ ? 0 : open_slot()->word.approx_claimed()};
    }

  private:
    // Under the lock. Where nothing is open, because there is no memory, it is a slot that is always sealed.
    Slot* open_slot() const noexcept { return open_.load(std::memory_order_relaxed); }
    bool is_open() const noexcept { return open_slot() != &none_; }

    std::size_t close_rows(Batch& batch) noexcept {
        std::size_t closed = 0;
        for (std::uint32_t row = 0; row < batch.capacity(); ++row)
            closed += batch.transition(row, RowState::live, RowState::closed);
        return closed;
    }

    // Rows that a batch in this slot may have. relaxed: as the limits.
    std::uint32_t room(const Slot& slot) const noexcept {
        return std::min({slot.capacity, max_batch_rows_.load(std::memory_order_relaxed), share_.rows()});
    }

    // A request that is larger than a batch may be by now has the batch to itself.
    std::uint32_t room_for(std::uint32_t rows, const Slot& slot) const noexcept {
        return std::min(slot.capacity, std::max(rows, room(slot)));
    }

    // seq_cst: after the new limit (its release half), before the caller's look at the idle lanes; see limits_epoch().
    void announce_limits() noexcept { limits_epoch_.fetch_add(1, std::memory_order_seq_cst); }

    // False when there is no memory for it: nothing is open then.
    bool open_next() noexcept {
        Slot* const slot = slots_.next(capacity());
        if (slot != nullptr) slot->word.open();
        // seq_cst: has_work() of a lane that parks must find the slot that later rows are published in.
        open_.store(slot != nullptr ? slot : &none_, std::memory_order_seq_cst);
        return slot != nullptr;
    }
    // There is no memory for a batch of those who wait: as many as it might have had are told so.
    void refuse_batch() noexcept {
        std::uint32_t rows = 0;
        while (rows < max_batch_rows()) {
            const std::uint32_t refused = queue_.refuse_next();
            if (refused == 0) return;
            rows += refused;
        }
    }

    // Gives rows of `slot` to those who wait; or makes a batch of its own, in work.slot, when others go first.
    void gather_waiting(Slot& open, Work& work) noexcept {
        bool is_special = queue_.has_special();
        do {
            if (is_special) queue_.drain();
            gather_backlog(open, work);
            if (work.slot != nullptr || work.job != nullptr || queue_.has_backlog()) return;
            is_special = !gather_ring(open, work);
        } while (is_special);
    }

    // Plain requests, in order of arrival. False when the next one is not plain.
    bool gather_ring(Slot& slot, Work& work) noexcept {
        while (Request* const request = queue_.next_in_ring()) {
            if (!request->terms().is_plain()) return false;
            bool is_taken = false;
            if (request->state() == Request::State::queued) {
                if (!work.has_place()) return true;
                const std::uint32_t row = slot.word.try_claim(request->rows(), room_for(request->rows(), slot));
                if (row == ClaimWord::kNone) return true;  // it stays there for the next batch
                is_taken = give_row(request, slot, row, work);
            }
            is_taken ? queue_.take_next() : queue_.drop_next();
        }
        return true;
    }

    // In the backlog's order.
    void gather_backlog(Slot& open, Work& work) noexcept {
        while (!gather_next(open, work)) continue;
    }
    // The first one in order, and those that may go with it. False when it was given up, and another is first now.
    bool gather_next(Slot& open, Work& work) noexcept {
        if (!queue_.has_backlog()) return true;
        // What is due before the end of the shortest inference is not begun.
        queue_.expire_due(now_ns() + share_.shortest_run_ns());
        Request* const first = queue_.next_live([](const Request&) { return true; });
        if (first == nullptr) return true;
        const std::uint32_t claimed = open.word.approx_claimed(), published = open.word.published();
        // Rows that nobody has written yet would hold the batch up.
        const bool joins = first->job() == nullptr && first->terms().key == 0 &&
                           claimed + first->rows() <= room_for(first->rows(), open) && (claimed == 0 || published > 0);
        if (joins) {
            gather_from(first, open, work,
                        [&](std::uint32_t rows) { return open.word.try_claim(rows, room_for(rows, open)); });
            return true;
        }
        // What has been gathered, and what was there before, goes first.
        if (!work.gathered.empty()) return true;
        if (published > 0 && !Backlog::goes_before(*first, open.batch->opened_ns())) return true;
        if (first->job() != nullptr) {
            if (begin_job(first, work)) return true;
            queue_.give_up(first);
            return false;
        }
        // Of a slot that was never open, because anybody claims rows of the open one: those without a key, and those of
        // lower priority.
        work.slot = slots_.next(capacity());
        if (work.slot == nullptr) {
            queue_.refuse_next();  // which is `first`
            return false;
        }
        Slot& slot = *work.slot;
        slot.word.open_sealed();
        work.rows = 0;
        gather_from(first, slot, work, [&](std::uint32_t rows) {
            return work.rows + rows <= room_for(rows, slot) ? std::exchange(work.rows, work.rows + rows)
                                                            : ClaimWord::kNone;
        });
        work.reason = work.rows >= room(slot) ? LaneStats::full : LaneStats::idle;
        share_.begin(work.rows);
        return true;
    }
    // `first` and those behind it that have its key, as many as fit. `rows_of` hands the rows out.
    template <class RowsOf>
    void gather_from(Request* first, Slot& slot, Work& work, RowsOf rows_of) noexcept {
        const std::uint64_t key = first->terms().key;
        const auto has_key = [key](const Request& each) { return each.job() == nullptr && each.terms().key == key; };
        for (Request* request = first; request != nullptr; request = queue_.next_live(has_key)) {
            const std::uint32_t row = work.has_place() ? rows_of(request->rows()) : ClaimWord::kNone;
            if (row == ClaimWord::kNone) return;
            if (!give_row(request, slot, row, work)) {
                queue_.give_up(request);
                continue;
            }
            queue_.take(request);
        }
    }

    // Moves a job on to those of which the lanes take chunks, and takes the first one. False when it was given up.
    bool begin_job(Request* request, Work& work) noexcept {
        if (!request->try_take()) return false;
        Job* const job = request->job();
        if (request->terms().priority < kDefaultPriority)
            jobs_.push_front(job);
        else
            jobs_.push_back(job);
        queue_.set_jobs(jobs_.size());
        queue_.take(request);
        queue_.drop(request);
        return take_chunk(work);
    }

    // False when the request was given up in this very moment, and nobody will ask for these rows.
    bool give_row(Request* request, Slot& slot, std::uint32_t row, Work& work) noexcept {
        const std::uint32_t rows = request->rows();
        slot.batch->begin(row, rows);
        if (row == 0) slot.batch->set_opened_ns(request->arrived_ns());
        if (request->try_take()) {
            work.gathered.push_back({request, row});
            return true;
        }
        slot.batch->transition(row, RowState::live, RowState::padding);
        slot.batch->release(rows);
        slot.word.publish(rows);
        return false;
    }

    Taken take_batch(Work& work, platform::Clock::time_point& until, bool flush) noexcept {
        if (!is_open() && queue_.approx_waiting() > 0 && !open_next()) refuse_batch();
        Slot& slot = *open_slot();
        if (queue_.approx_waiting() > 0) {
            gather_waiting(slot, work);
            queue_.wake_for_room();
            if (work.slot != nullptr || work.job != nullptr) return Taken::work;
        }
        if (!is_open()) return Taken::nothing;
        const bool is_blocked = queue_.is_blocked();
        // Rows that nobody has written yet are waited for only when somebody else is held up by them.
        if (work.gathered.empty() && slot.word.published() == 0 && !is_blocked) return Taken::nothing;
        const std::uint32_t full = room(slot);
        const std::int64_t delay_ns = max_queue_delay_ns();
        const bool may_grow = slot.word.approx_claimed() < full && !is_blocked && work.gathered.empty();
        if (delay_ns > 0 && may_grow && !flush) {
            const std::int64_t due = slot.batch->opened_ns() + delay_ns;
            if (now_ns() < due) {
                until = platform::Clock::time_point(std::chrono::nanoseconds(due));
                return Taken::hold;
            }
        }
        OVENGINE_FAILPOINT("Dispatcher::take, before seal");
        work.slot = &slot;
        work.rows = slot.word.seal();
        work.reason = work.rows >= full ? LaneStats::full : delay_ns > 0 ? LaneStats::delay : LaneStats::idle;
        share_.begin(work.rows);
        open_next();
        return Taken::work;
    }

    bool take_chunk(Work& work) noexcept {
        if (jobs_.empty()) return false;
        work.job = jobs_.front();
        work.chunk = work.job->next_chunk(max_batch_rows());
        work.reason = LaneStats::bulk;
        if (work.job->all_handed_out()) {
            jobs_.pop_front();
            queue_.set_jobs(jobs_.size());
            queue_.wake_for_room();
        }
        return true;
    }

    const RowLayout layout_;
    std::atomic<std::uint32_t> capacity_;  // written under the lock

    mutable Slot none_;  // see open_slot()
    // Read by every claim; written once per batch, and the limits when somebody changes them.
    alignas(platform::kNoSharing) std::atomic<Slot*> open_{nullptr};
    std::atomic<std::uint32_t> max_batch_rows_;
    std::atomic<std::int64_t> max_queue_delay_ns_;
    std::atomic<std::uint32_t> limits_epoch_{0};
    LaneShare share_;
    Queue queue_;

    // Everything below: under the lock, but for Slots::give_back().
    std::mutex mutex_;
    bool ended_ = false;
    bool job_next_ = false;
    Chain<Job> jobs_;
    Slots slots_{layout_};
};

}  // namespace ovengine
