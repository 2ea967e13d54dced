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

#include "bounded_ring.hpp"
#include "cost_table.hpp"
#include "failpoint.hpp"
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

    // Requests that were cancelled before they left the ring.
    std::uint64_t cancelled() const noexcept { return cancelled_.load(); }

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
    bool is_full() const noexcept { return static_cast<std::int64_t>(approx_queued()) >= limit(); }

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
    bool try_queue(Request* request) noexcept {
        // seq_cst: before the caller's look at the idle lanes, like ClaimWord::publish(). Counted before it is pushed,
        // so that the limit holds exactly.
        const std::int64_t before = waiting_.fetch_add(1, std::memory_order_seq_cst);
        OVENGINE_FAILPOINT("Dispatcher::try_queue, counted");
        const auto jobs = static_cast<std::int64_t>(job_count_.load(std::memory_order_relaxed));
        if (before + jobs < limit() && ring_.try_push(request)) return true;
        waiting_.fetch_sub(1, std::memory_order_relaxed);
        return false;
    }

    // Waits until a lane has made room in the queue; may return early.
    platform::WaitResult wait_for_room(platform::Deadline deadline) noexcept {
        room_waiters_.fetch_add(1, std::memory_order_seq_cst);
        const std::uint32_t epoch = room_epoch_.load(std::memory_order_seq_cst);
        auto result = platform::WaitResult::woken;
        if (is_full()) result = platform::futex_wait(room_epoch_, epoch, deadline);
        room_waiters_.fetch_sub(1, std::memory_order_relaxed);
        return result;
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
            if (!next_request()) {
                std::this_thread::yield();
                continue;
            }
            if (carried_->close())
                ++closed;
            else
                cancelled_.add(1);
            drop(carried_);
            carried_ = nullptr;
            waiting_.fetch_sub(1, std::memory_order_relaxed);
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
    Slot* open_slot() const noexcept { return open_.load(std::memory_order_relaxed); }  // under the lock

    std::size_t close_rows(Batch& batch) noexcept {
        std::size_t closed = 0;
        for (std::uint32_t row = 0; row < batch.capacity(); ++row)
            closed += batch.transition(row, RowState::live, RowState::closed);
        return closed;
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

    // Takes rows of `slot` for requests of one key that wait, as many as fit. `rows_of` hands the rows out.
    template <class RowsOf>
    void gather(Slot& slot, Work& work, std::uint64_t key, RowsOf rows_of) {
        while (next_request()) {
            const std::uint32_t rows = carried_->rows();
            if (carried_->state() == Request::State::queued) {
                if (carried_->terms().key != key) return;
                const std::uint32_t row = rows_of(rows);
                if (row == ClaimWord::kNone) return;
                slot.batch->begin(row, rows);
                if (row == 0) slot.batch->set_opened_ns(carried_->arrived_ns());
                if (carried_->try_take()) {
                    work.gathered.push_back({carried_, row});
                    carried_ = nullptr;
                } else {
                    // Cancelled in this very moment: nobody will ask for these rows. What an earlier batch left there
                    // is not run again.
                    for (std::size_t port = 0; port < layout_.inputs.size(); ++port)
                        std::memset(slot.inputs.port(port) + row * layout_.inputs[port], 0,
                                    rows * layout_.inputs[port]);
                    slot.batch->transition(row, RowState::live, RowState::cancelled);
                    slot.batch->release(rows);
                    slot.word.publish(rows);
                }
            } else {
                cancelled_.add(1);
            }
            if (carried_ != nullptr) {
                drop(carried_);
                carried_ = nullptr;
            }
            waiting_.fetch_sub(1, std::memory_order_relaxed);
        }
    }

    Taken take_batch(Work& work, platform::Clock::time_point& until, bool flush) {
        Slot& slot = *open_slot();
        if (approx_waiting() > 0) {
            gather(slot, work, 0, [&](std::uint32_t rows) { return slot.word.try_claim(rows, room_for(rows, slot)); });
            // A key is never that of the open slot, where anybody claims rows: such a batch has a slot of its own, and
            // goes first only where nothing that was there before waits.
            const bool alone = work.gathered.empty() && slot.word.published() == 0;
            while (alone && work.slot == nullptr && carried_ != nullptr && carried_->terms().key != 0) take_keyed(work);
            wake_for_room();
            if (work.slot != nullptr) return Taken::work;
        }
        // Rows that nobody has written yet are waited for only when somebody else is held up by them.
        if (work.gathered.empty() && slot.word.published() == 0 && carried_ == nullptr) return Taken::nothing;
        const std::uint32_t full = room(slot);
        const std::int64_t delay_ns = max_queue_delay_ns();
        const bool may_grow = slot.word.approx_claimed() < full && carried_ == nullptr && work.gathered.empty();
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

    // A batch of requests with the key of carried_; none when all of them were cancelled meanwhile.
    void take_keyed(Work& work) {
        Slot& slot = *next_slot();
        slot.word.open_sealed();
        work.rows = 0;
        gather(slot, work, carried_->terms().key, [&](std::uint32_t rows) {
            return work.rows + rows <= room_for(rows, slot) ? std::exchange(work.rows, work.rows + rows)
                                                            : ClaimWord::kNone;
        });
        if (work.rows == 0) {
            slot.batch->settle(0);
            return give_back(&slot);
        }
        work.slot = &slot;
        work.reason = work.rows >= room(slot) ? LaneStats::full : LaneStats::idle;
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

    void wake_for_room() noexcept {
        // seq_cst: pairs with wait_for_room(); either it sees the room or this sees the waiter.
        room_epoch_.fetch_add(1, std::memory_order_seq_cst);
        if (room_waiters_.load(std::memory_order_seq_cst) > 0) platform::futex_wake_all(room_epoch_);
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
    BoundedRing<Request*> ring_;
    BoundedRing<Request*> request_pool_;
    std::atomic<std::size_t> requests_made_{0};

    std::atomic<std::uint32_t> room_epoch_{0}, room_waiters_{0};

    // Everything below: under the lock, but for give() on the free lists.
    std::mutex mutex_;
    bool ended_ = false;
    Counter cancelled_;  // before they left the ring
    Request* carried_ = nullptr;
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
