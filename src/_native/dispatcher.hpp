// Dispatcher: where requests wait and batches are made: the open slot, the request ring, and the jobs.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <numeric>
#include <thread>
#include <utility>
#include <vector>

#include "backlog.hpp"
#include "bounded_ring.hpp"
#include "cost_table.hpp"
#include "failpoint.hpp"
#include "forecast.hpp"
#include "job.hpp"
#include "platform/futex.hpp"
#include "request.hpp"
#include "slot.hpp"
#include "stats.hpp"

namespace ovengine {

// Bytes of one row, port by port.
struct RowLayout {
    std::vector<std::size_t> inputs, outputs;

    std::size_t input_bytes() const { return std::accumulate(inputs.begin(), inputs.end(), std::size_t{0}); }
    std::size_t output_bytes() const { return std::accumulate(outputs.begin(), outputs.end(), std::size_t{0}); }
};

class Session;

// What a lane is given to do: a sealed slot, or a chunk of a job.
struct Work {
    struct Gathered {
        Request* request;
        std::uint32_t row;
    };
    Slot* slot = nullptr;
    std::uint32_t rows = 0;
    LaneStats::Reason reason = LaneStats::idle;
    std::vector<Gathered> gathered;  // requests whose rows the lane has yet to copy, assign and publish
    Job* job = nullptr;
    Job::Chunk chunk{};
    std::shared_ptr<Session> session;  // that the job is of
};

inline std::int64_t now_ns() noexcept { return platform::Clock::now().time_since_epoch().count(); }

// Requests claim rows of the open slot while nobody waits; otherwise they go through the ring, in order of arrival.
// While one with terms of its own waits, whoever makes a batch empties the ring into the backlog, and takes from there.
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
    static constexpr std::uint32_t kFirstSlotId = 3;  // smaller ones are the lanes' own bindings

    Dispatcher(RowLayout layout, std::uint32_t capacity, Options options)
        : layout_(std::move(layout)),
          capacity_(capacity),
          max_batch_rows_(UINT32_MAX),
          max_queue_delay_ns_(options.max_queue_delay_ns),
          max_queue_size_(options.max_queue_size),
          ring_(std::max(options.max_queue_size, options.ring_capacity)),
          request_pool_(ring_.capacity()) {
        open_.store(open_next(), std::memory_order_seq_cst);
    }

    ~Dispatcher() {
        Request* request = nullptr;
        while (request_pool_.try_pop(request)) delete request;
    }

    const RowLayout& layout() const noexcept { return layout_; }
    // Of each batch from now on; see grow().
    std::uint32_t capacity() const noexcept { return capacity_.load(std::memory_order_relaxed); }
    std::size_t ring_capacity() const noexcept { return ring_.capacity(); }

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
        announce_limits();
    }
    // Up to ring_capacity(), 0 for all of it. What waits already stays, also when it is more than that.
    void set_max_queue_size(std::uint32_t size) noexcept {
        max_queue_size_.store(size, std::memory_order_relaxed);
        announce_limits();
        wake_for_room();
    }
    // Changes with the limits. A lane reads it before take() (seq_cst, of which acquire: pairs with announce_limits(),
    // so that take() goes by the limits of this epoch or later ones) and again after its IdleLanes::put(): either it
    // sees the change there, or whoever made it finds the lane in the set and wakes it.
    std::uint32_t limits_epoch() const noexcept { return limits_epoch_.load(std::memory_order_seq_cst); }

    // Rows of the open slot, or null when there is no room or somebody waits already. The rows have no state yet:
    // Batch::begin() or lease() comes next.
    Slot* try_claim(std::uint32_t rows, std::uint32_t& row) noexcept {
        // relaxed: a hint that keeps the order of arrival; a request that misses it by a moment is at most one
        // batch early.
        if (waiting_.load(std::memory_order_relaxed) > 0) return nullptr;
        // acquire: pairs with the store in take(); the slot is open and has its batch.
        Slot* const slot = open_.load(std::memory_order_acquire);
        row = slot->word.try_claim(rows, room(*slot));
        if (row == ClaimWord::kNone) return nullptr;
        if (row == 0) slot->batch->set_opened_ns(now_ns());
        return slot;
    }

    // Rows that wait for a lane, roughly.
    std::uint32_t approx_pending_rows(const Slot& slot) const noexcept {
        return slot.word.approx_claimed() + static_cast<std::uint32_t>(approx_waiting());
    }
    std::uint64_t approx_waiting() const noexcept {
        const auto waiting = waiting_.load(std::memory_order_relaxed);
        return waiting > 0 ? static_cast<std::uint64_t>(waiting) : 0;
    }

    // Requests that were given up while they waited, by why.
    std::uint64_t cancelled() const noexcept { return cancelled_.load(); }
    std::uint64_t expired() const noexcept { return expired_.load(); }
    std::uint64_t superseded() const noexcept { return superseded_.load(); }

    // Before the first request. `elsewhere`: how many requests wait that the dispatcher knows nothing of; they count
    // for a limit that somebody set.
    void count_elsewhere(const std::atomic<std::int64_t>& elsewhere) noexcept { elsewhere_ = &elsewhere; }
    void set_group_weight(Backlog::Weight weight) { backlog_.set_weight(std::move(weight)); }
    // How long the shortest inference takes: a request whose deadline is nearer than that is not begun.
    void set_shortest_run_ns(std::int64_t ns) noexcept { shortest_run_ns_.store(ns, std::memory_order_relaxed); }

    // Rows that are run before those of a request with these terms, roughly.
    std::uint64_t rows_ahead(const Terms& terms, std::uint32_t rows, std::int64_t now) const noexcept {
        const std::int64_t plain = waiting_.load(std::memory_order_relaxed) - entered_.load(std::memory_order_relaxed);
        const auto uncounted = static_cast<std::uint64_t>(std::max<std::int64_t>(0, plain));
        const std::uint64_t ahead = forecast_.rows_ahead(terms, rows, uncounted, now);
        if (terms.priority < kDefaultPriority) return ahead;
        // acquire: pairs with the store in take().
        return ahead + open_.load(std::memory_order_acquire)->word.approx_claimed();
    }

    bool has_jobs() const noexcept { return job_count_.load(std::memory_order_relaxed) > 0; }
    // Requests in the ring and jobs, roughly.
    std::uint64_t approx_queued() const noexcept {
        return approx_waiting() + job_count_.load(std::memory_order_relaxed);
    }

    // How many may wait; `has_limit`: because somebody said so.
    std::int64_t limit() const noexcept {
        const std::uint32_t size = max_queue_size_.load(std::memory_order_relaxed);
        return size != 0 ? size : static_cast<std::int64_t>(ring_.capacity());
    }
    bool has_limit() const noexcept { return max_queue_size_.load(std::memory_order_relaxed) != 0; }

    // Would a request that has to wait be refused? Racy: try_queue() and add() decide.
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

    // A request to be filled in; from the pool where possible.
    Request* make_request() {
        Request* request = nullptr;
        if (request_pool_.try_pop(request)) return request;
        requests_made_.fetch_add(1, std::memory_order_relaxed);
        return new Request;
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

    // False when the queue is full; the request stays the caller's.
    bool try_queue(Request* request) {
        const Terms& terms = request->terms();
        if (terms.is_plain()) return try_push(request);
        const auto push = [this](Request* place) {
            special_.fetch_add(1, std::memory_order_relaxed);  // a hint, see gather_waiting()
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

    // Waits until a lane has made room in the queue; may return early.
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

    // False when the queue is full; the job stays the caller's.
    bool try_add(Job* job) {
        const std::lock_guard lock(mutex_);
        if (is_full()) return false;
        jobs_.push_back(job);
        job_count_.store(jobs_.size(), std::memory_order_seq_cst);  // before the caller's look at the idle lanes
        return true;
    }

    // Is there anything that take() would hand out? All reads seq_cst, after the caller's IdleLanes::put(). A batch
    // that is being held back is not work; its rows must be `full` to count while `holding`.
    bool has_work(bool holding) const noexcept {
        if (waiting_.load(std::memory_order_seq_cst) > 0 || job_count_.load(std::memory_order_seq_cst) > 0) return true;
        const Slot* const slot = open_.load(std::memory_order_seq_cst);
        return slot->word.published() >= (holding ? room(*slot) : 1);
    }

    enum class Taken { nothing, work, hold };

    // The next batch or chunk. `hold`: there are rows, to be run at `until` at the latest. `flush`: hold nothing back.
    Taken take(Work& work, platform::Clock::time_point& until, bool flush) {
        const std::lock_guard lock(mutex_);
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
        const Taken taken = take_batch(work, until, flush);
        if (taken != Taken::work && take_chunk(work)) return Taken::work;
        return taken;
    }

    // Ends the requests whose deadline has come. When the next one may: of those that were counted by the caller's last
    // seq_cst access at the latest.
    std::int64_t expire(std::int64_t now) {
        const std::lock_guard lock(mutex_);
        if (special_.load(std::memory_order_relaxed) > 0) drain();
        if (expire_due(now)) wake_for_room();
        const Request* const first = backlog_.first_deadline();
        const std::int64_t next = first != nullptr ? first->terms().deadline_ns : Terms::kNoDeadline;
        // Counted, and not in the ring yet: a moment away. seq_cst: pairs with enter().
        const bool all_here = entered_.load(std::memory_order_seq_cst) <= static_cast<std::int64_t>(backlog_.size());
        return all_here ? next : std::min(next, now + kMomentNs);
    }

    // After the lane has copied what it gathered.
    void give_back_gathered(Work& work) noexcept {
        for (const auto& gathered : work.gathered) drop(gathered.request);
        work.gathered.clear();
    }

    // The slot's rows are consumed: its memory may be claimed again.
    void give_back(Slot* slot) noexcept { free_slots_.give(slot); }

    // A slot outside the claim order, for rows that must leave theirs.
    Slot* spare_slot() {
        const std::lock_guard lock(mutex_);
        return free_slot();
    }

    // Batches of up to `rows` rows from now on, which is no less than before; the lanes are ready for them.
    void grow(std::uint32_t rows) {
        const std::lock_guard lock(mutex_);
        capacity_.store(rows, std::memory_order_relaxed);
        Slot& old = *open_slot();
        if (ended_ || old.capacity >= rows || !old.word.try_seal_empty()) return;
        // Nobody has anything in it: a request that it is too small for would wait for ever.
        old.batch->settle(0);
        free_slots_.give(&old);
        open_.store(open_next(), std::memory_order_seq_cst);
    }

    // (closing) Ends everything that waits in the ring and in jobs, with Outcome::closed; how many there were.
    std::size_t close_waiting() {
        const std::lock_guard lock(mutex_);
        std::size_t closed = 0;
        // seq_cst: pairs with try_queue(), whose caller looks at `closed` afterwards. A request that is counted here
        // and not in the ring yet is a moment away; one that is not counted yet will be cleared by its own thread.
        while (waiting_.load(std::memory_order_seq_cst) > 0) {
            drain();
            if (backlog_.empty()) std::this_thread::yield();
            backlog_.for_each([&](Request* request) {
                closed += request->close();
                give_up(request);
            });
        }
        for (Job* job : jobs_) {
            closed += job->end(Outcome::closed) ? 1 : 0;
            // What no lane has begun is finished here; a lane that has a chunk sees that the job is stopped.
            if (job->finish(job->hand_out_rest())) job->settle(1);
        }
        jobs_.clear();
        job_count_.store(0, std::memory_order_seq_cst);
        wake_for_room();
        return closed;
    }
    // (closing) Ends the requests in the open slot with Outcome::closed; how many there were. Leases are left to the
    // lane that takes the slot.
    std::size_t close_open_rows() {
        const std::lock_guard lock(mutex_);
        return close_rows(*open_slot()->batch);
    }
    // (closing) For good: take() hands out nothing any more, and the open slot is answered with Outcome::closed.
    std::size_t end() {
        const std::lock_guard lock(mutex_);
        if (ended_) return 0;
        ended_ = true;
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
        return {slots_.size() - outgrown_slots_ - free_slots_.count_at_rest() - 1,
                batches_.size() - outgrown_batches_ - free_batches_.count_at_rest() - (ended_ ? 0 : 1),
                requests_made_.load(std::memory_order_relaxed) - request_pool_.approx_size(),
                ended_ ? 0 : open_slot()->word.approx_claimed()};
    }

  private:
    // In which a request that was counted is in the ring.
    static constexpr std::int64_t kMomentNs = 1'000'000;

    Slot* open_slot() const noexcept { return open_.load(std::memory_order_relaxed); }  // under the lock

    std::size_t close_rows(Batch& batch) noexcept {
        std::size_t closed = 0;
        for (std::uint32_t row = 0; row < batch.capacity(); ++row)
            closed += batch.transition(row, RowState::live, RowState::closed);
        return closed;
    }

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

    // Rows that a batch in this slot may have.
    std::uint32_t room(const Slot& slot) const noexcept {
        return std::min(slot.capacity, max_batch_rows_.load(std::memory_order_relaxed));
    }

    // A request that is larger than a batch may be by now has the batch to itself.
    std::uint32_t room_for(std::uint32_t rows, const Slot& slot) const noexcept {
        return std::min(slot.capacity, std::max(rows, room(slot)));
    }

    // seq_cst: after the new limit (its release half), before the caller's look at the idle lanes; see limits_epoch().
    void announce_limits() noexcept { limits_epoch_.fetch_add(1, std::memory_order_seq_cst); }

    Slot* open_next() {
        Slot* const slot = next_slot();
        slot->word.open();
        return slot;
    }
    // Of the full capacity, with a fresh batch. Smaller ones, from before grow(), are left alone: a claimer may still
    // look at them.
    Slot* next_slot() {
        Slot* const slot = free_slot();
        Batch* const batch = free_batch();
        slot->batch = batch;
        return slot;
    }
    Slot* free_slot() {
        for (Slot* slot = free_slots_.take(); slot != nullptr; slot = free_slots_.take()) {
            if (slot->capacity == capacity()) return slot;
            ++outgrown_slots_;
        }
        const auto id = kFirstSlotId + static_cast<std::uint32_t>(slots_.size());
        slots_.push_back(std::make_unique<Slot>(id, layout_.inputs, capacity()));
        return slots_.back().get();
    }
    Batch* free_batch() {
        for (Batch* batch = free_batches_.take(); batch != nullptr; batch = free_batches_.take()) {
            if (batch->capacity() == capacity()) {
                batch->open();
                return batch;
            }
            ++outgrown_batches_;
        }
        batches_.push_back(std::make_unique<Batch>(free_batches_, layout_.outputs, capacity()));
        return batches_.back().get();
    }

    // The request at the head of the ring, in carried_. One that found no room stays there for the next batch.
    bool next_request() noexcept { return carried_ != nullptr || ring_.try_pop(carried_); }

    // Gives rows of `slot` to those who wait; or makes a batch of its own, in work.slot, when others go first.
    void gather_waiting(Slot& open, Work& work) {
        // relaxed: a request with terms that is missed here is found at the head of the ring, at the latest.
        bool is_special = special_.load(std::memory_order_relaxed) > 0;
        do {
            if (is_special) drain();
            gather_backlog(open, work);
            if (work.slot != nullptr || work.job != nullptr || !backlog_.empty()) return;
            is_special = !gather_ring(open, work);
        } while (is_special);
    }

    // Plain requests, in order of arrival. False when the next one is not plain.
    bool gather_ring(Slot& slot, Work& work) {
        while (next_request()) {
            if (!carried_->terms().is_plain()) return false;
            if (carried_->state() == Request::State::queued) {
                const std::uint32_t row = slot.word.try_claim(carried_->rows(), room_for(carried_->rows(), slot));
                if (row == ClaimWord::kNone) return true;
                if (give_row(carried_, slot, row, work)) carried_ = nullptr;
            }
            if (carried_ != nullptr) {
                cancelled_.add(1);
                drop(std::exchange(carried_, nullptr));
            }
            waiting_.fetch_sub(1, std::memory_order_relaxed);
        }
        return true;
    }

    // In the backlog's order.
    void gather_backlog(Slot& open, Work& work) {
        if (backlog_.empty()) return;
        expire_due(now_ns() + shortest_run_ns_.load(std::memory_order_relaxed));
        Request* const first = next_live([](const Request&) { return true; });
        if (first == nullptr) return;
        const std::uint32_t claimed = open.word.approx_claimed(), published = open.word.published();
        // Rows that nobody has written yet would hold the batch up.
        const bool joins = first->job() == nullptr && first->terms().key == 0 &&
                           claimed + first->rows() <= room_for(first->rows(), open) && (claimed == 0 || published > 0);
        if (joins)
            return gather_from(first, open, work,
                               [&](std::uint32_t rows) { return open.word.try_claim(rows, room_for(rows, open)); });
        // What has been gathered, and what was there before, goes first.
        if (!work.gathered.empty()) return;
        if (published > 0 && !Backlog::goes_before(*first, open.batch->opened_ns())) return;
        if (first->job() != nullptr) {
            if (begin_job(first, work)) return;
            give_up(first);
            return gather_backlog(open, work);
        }
        // Of a slot that was never open, because anybody claims rows of the open one: those without a key, and those of
        // lower priority.
        Slot& slot = *(work.slot = next_slot());
        slot.word.open_sealed();
        work.rows = 0;
        gather_from(first, slot, work, [&](std::uint32_t rows) {
            return work.rows + rows <= room_for(rows, slot) ? std::exchange(work.rows, work.rows + rows)
                                                            : ClaimWord::kNone;
        });
        work.reason = work.rows >= room(slot) ? LaneStats::full : LaneStats::idle;
    }
    // `first` and those behind it that have its key, as many as fit. `rows_of` hands the rows out.
    template <class RowsOf>
    void gather_from(Request* first, Slot& slot, Work& work, RowsOf rows_of) {
        const std::uint64_t key = first->terms().key;
        const auto has_key = [key](const Request& each) { return each.job() == nullptr && each.terms().key == key; };
        for (Request* request = first; request != nullptr; request = next_live(has_key)) {
            const std::uint32_t row = rows_of(request->rows());
            if (row == ClaimWord::kNone) return;
            if (!give_row(request, slot, row, work)) {
                give_up(request);
                continue;
            }
            leave_queue(request);
        }
    }
    // A lane has it.
    void leave_queue(Request* request) {
        backlog_.take(request);
        if (request->terms().latest_only) request->terms().group->forget(request);
        leave(*request);
        waiting_.fetch_sub(1, std::memory_order_relaxed);
    }

    // Moves a job on to those of which the lanes take chunks, and takes the first one. False when it was given up.
    bool begin_job(Request* request, Work& work) {
        if (!request->try_take()) return false;
        Job* const job = request->job();
        if (request->terms().priority < kDefaultPriority)
            jobs_.push_front(job);
        else
            jobs_.push_back(job);
        job_count_.store(jobs_.size(), std::memory_order_seq_cst);
        leave_queue(request);
        drop(request);
        return take_chunk(work);
    }

    // False when the request was given up in this very moment, and nobody will ask for these rows.
    bool give_row(Request* request, Slot& slot, std::uint32_t row, Work& work) {
        const std::uint32_t rows = request->rows();
        slot.batch->begin(row, rows);
        if (row == 0) slot.batch->set_opened_ns(request->arrived_ns());
        if (request->try_take()) {
            work.gathered.push_back({request, row});
            return true;
        }
        // What an earlier batch left there is not run again.
        for (std::size_t port = 0; port < layout_.inputs.size(); ++port)
            std::memset(slot.inputs.port(port) + row * layout_.inputs[port], 0, rows * layout_.inputs[port]);
        slot.batch->transition(row, RowState::live, RowState::padding);
        slot.batch->release(rows);
        slot.word.publish(rows);
        return false;
    }

    // All that is in the ring, into the backlog.
    void drain() {
        while (next_request()) {
            if (carried_->terms().is_plain()) enter(*carried_);
            backlog_.add(carried_);
            carried_ = nullptr;
            ++since_sweep_;
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
    Request* next_live(Accepts accepts) {
        ++since_sweep_;
        for (;;) {
            Request* const request = backlog_.find([&](const Request& each) { return !each.waits() || accepts(each); });
            if (request == nullptr || request->waits()) return request;
            give_up(request);
        }
    }
    // Of one that no lane has: it is done with.
    static void finish_job(const Request& request) noexcept {
        Job* const job = request.job();
        if (job != nullptr && job->finish(job->hand_out_rest())) job->settle(1);
    }
    // True when there were any.
    bool expire_due(std::int64_t until_ns) {
        bool any = false;
        for (Request* first = backlog_.first_deadline(); first != nullptr && first->terms().deadline_ns <= until_ns;
             first = backlog_.first_deadline()) {
            // Counted before it is told. Taken by a lane it is not: that is under the lock, and out of the backlog.
            expired_.add(1);
            if (!first->expire()) expired_.add(UINT64_MAX);  // less one: it was given up before
            give_up(first);
            any = true;
        }
        return any;
    }
    // Of the backlog, and not waiting any more: out with it, or with what has taken its place.
    void give_up(Request* request) {
        Group* const group = request->terms().latest_only ? request->terms().group.get() : nullptr;
        const Request::State state = request->state();
        if (state == Request::State::superseded)
            if (Request* const heir = group->heir(request)) {
                backlog_.replace(request, heir);
                special_.fetch_add(1, std::memory_order_relaxed);
                enter(*heir);
                leave(*request);
                finish_job(*request);
                return drop(request);
            }
        if (group != nullptr) group->forget(request);
        // A job is cancelled without its request.
        if (state == Request::State::cancelled || state == Request::State::queued) cancelled_.add(1);
        finish_job(*request);
        backlog_.remove(request);
        leave(*request);
        drop(request);
        waiting_.fetch_sub(1, std::memory_order_relaxed);
    }

    Taken take_batch(Work& work, platform::Clock::time_point& until, bool flush) {
        Slot& slot = *open_slot();
        if (approx_waiting() > 0) {
            gather_waiting(slot, work);
            wake_for_room();
            if (work.slot != nullptr || work.job != nullptr) return Taken::work;
        }
        const bool is_blocked = carried_ != nullptr || !backlog_.empty();
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
        // seq_cst: has_work() of a lane that parks must find the slot that later rows are published in.
        open_.store(open_next(), std::memory_order_seq_cst);
        return Taken::work;
    }

    bool take_chunk(Work& work) {
        if (jobs_.empty()) return false;
        work.job = jobs_.front();
        work.chunk = work.job->next_chunk(max_batch_rows());
        work.reason = LaneStats::bulk;
        if (work.job->all_handed_out()) {
            jobs_.pop_front();
            job_count_.store(jobs_.size(), std::memory_order_seq_cst);
            wake_for_room();
        }
        return true;
    }

    const RowLayout layout_;
    std::atomic<std::uint32_t> capacity_;  // written under the lock

    // Read by every claim; written once per batch, and the limits when somebody changes them.
    alignas(platform::kNoSharing) std::atomic<Slot*> open_{nullptr};
    std::atomic<std::uint32_t> max_batch_rows_;
    std::atomic<std::int64_t> max_queue_delay_ns_;
    std::atomic<std::uint32_t> max_queue_size_;
    std::atomic<std::uint32_t> limits_epoch_{0};
    // Requests in the ring (or about to be, or carried).
    alignas(platform::kNoSharing) std::atomic<std::int64_t> waiting_{0};
    // Of these: requests with terms; those that the forecast knows (with terms, or in the backlog).
    std::atomic<std::int64_t> special_{0}, entered_{0};
    Forecast forecast_;
    SharedCounter superseded_;
    std::atomic<std::int64_t> shortest_run_ns_{0};
    BoundedRing<Request*> ring_;
    BoundedRing<Request*> request_pool_;
    std::atomic<std::size_t> requests_made_{0};

    std::atomic<std::uint32_t> room_epoch_{0}, room_waiters_{0};
    std::atomic<std::int64_t> nobody_{0};
    const std::atomic<std::int64_t>* elsewhere_ = &nobody_;

    // Everything below: under the lock, but for give() on the free lists.
    std::mutex mutex_;
    bool ended_ = false;
    Counter cancelled_, expired_;  // while they waited
    Request* carried_ = nullptr;
    Backlog backlog_;
    std::size_t since_sweep_ = 0;
    bool job_next_ = false;
    std::deque<Job*> jobs_;
    std::atomic<std::size_t> job_count_{0};
    std::vector<std::unique_ptr<Slot>> slots_;
    std::vector<std::unique_ptr<Batch>> batches_;
    std::size_t outgrown_slots_ = 0, outgrown_batches_ = 0;
    FreeList<Slot> free_slots_;
    FreeList<Batch> free_batches_;
};

}  // namespace ovengine
