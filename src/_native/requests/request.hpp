// Request: one that has to wait in the ring, with its input kept until a lane gathers it into a batch.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "batch/batch.hpp"
#include "batch/event.hpp"
#include "diagnostics/failpoint.hpp"
#include "platform/cpu.hpp"
#include "requests/group.hpp"
#include "requests/job.hpp"

namespace ovengine {

// What a request asks for beside the inference of its rows.
struct Terms {
    static constexpr std::int64_t kNoDeadline = INT64_MAX;

    std::uint64_t key = 0;                      // only requests of equal key share a batch
    std::uint32_t priority = kDefaultPriority;  // 1 = highest
    std::int64_t deadline_ns = kNoDeadline;     // of the steady clock: not begun by then, it is given up
    std::shared_ptr<Group> group{};             // to share fairly with others
    bool latest_only = false;                   // takes the place of an older such request of its group

    // Nothing: such a request may claim rows of the open slot, without waiting for its turn.
    bool is_plain() const noexcept {
        return key == 0 && priority == kDefaultPriority && deadline_ns == kNoDeadline && group == nullptr;
    }
};

// A job that has to wait for its turn is in the queue as a request as well, which is then the core's alone.
//
// Shared by the ring and the request's future; the last of the two gives it back to the pool.
//
//   queued --gather--> assigned   (batch and row are known; the event is set)
//   queued --cancel--> cancelled  (the lane drops it when it comes by)
//   queued --close---> closed     (the event is set)
//   queued --------> expired, superseded, no_memory  (like cancelled, by the core)
class Request {
  public:
    enum class State : std::uint8_t { queued, taken, assigned, cancelled, closed, expired, superseded, no_memory };

    Request() = default;
    Request(const Request&) = delete;
    Request& operator=(const Request&) = delete;
    ~Request() { free_memory(); }

    // Memory for the rows of all ports, one after the other; kept for the next use unless it is large.
    std::byte* reserve(std::size_t bytes) {
        if (bytes > capacity_) {
            free_memory();
            memory_ = static_cast<std::byte*>(::operator new(bytes, std::align_val_t{platform::kSlabAlignment}));
            capacity_ = bytes;
        }
        return memory_;
    }

    void begin(std::uint32_t rows, std::int64_t now_ns) noexcept {
        rows_ = rows;
        arrived_ns_ = now_ns;
        batch_ = nullptr;
        references_.store(2, std::memory_order_relaxed);
        state_.store(State::queued, std::memory_order_relaxed);
        event_.reset();  // all of it published by the ring's push
    }
    // After begin(): it stands for a job, whose future knows nothing of it.
    void set_job(Job* job) noexcept {
        job_ = job;
        references_.store(1, std::memory_order_relaxed);
    }
    Job* job() const noexcept { return job_; }
    // Does anybody still want it run?
    bool waits() const noexcept { return state() == State::queued && (job_ == nullptr || !job_->stopped()); }

    // Before it is queued.
    void set_terms(const Terms& terms) noexcept { terms_ = terms; }
    const Terms& terms() const noexcept { return terms_; }

    // The lane's claim to it; false when it was cancelled meanwhile.
    bool try_take() noexcept { return transition(State::queued, State::taken); }
    void assign(Batch* batch, std::uint32_t row) noexcept {
        batch_ = batch;
        row_ = row;
        finish(State::assigned);
    }
    // The core's: it will not be run any more. False when it was cancelled before.
    bool close() noexcept {
        if (!transition(State::queued, State::taken)) return false;
        finish(State::closed);
        return job_ == nullptr || job_->end(Outcome::closed);
    }
    // The owner's. False when a lane has it already.
    bool cancel() noexcept { return give_up(State::cancelled, Outcome::cancelled); }
    // The core's: its deadline has come, a newer one has its place, or there is no memory for its batch.
    bool expire() noexcept { return give_up(State::expired, Outcome::expired); }
    bool supersede() noexcept { return give_up(State::superseded, Outcome::superseded); }
    bool refuse() noexcept { return give_up(State::no_memory, Outcome::no_memory); }

    State state() const noexcept { return state_.load(std::memory_order_acquire); }
    Event& event() noexcept { return event_; }
    // Valid when the event is set and the state is `assigned`.
    Batch* batch() const noexcept { return batch_; }
    std::uint32_t row() const noexcept { return row_; }
    std::uint32_t rows() const noexcept { return rows_; }
    std::int64_t arrived_ns() const noexcept { return arrived_ns_; }
    // Before it can be found: as if it had arrived when the one did whose place it takes.
    void set_arrived_ns(std::int64_t ns) noexcept { arrived_ns_ = ns; }

    // May a lane still read the sources? Asked by the owner that is not a lane.
    bool may_be_read() const noexcept {
        const State now = state();
        if (now >= State::cancelled) return false;
        return references_.load(std::memory_order_acquire) > 1;  // pairs with release()
    }

    // True for the last of the two owners: the request is its to reuse.
    bool release() noexcept { return references_.fetch_sub(1, std::memory_order_acq_rel) == 1; }

    // Memory of more than this is freed with the request's end instead of kept for the next.
    static constexpr std::size_t kKeepBytes = std::size_t{64} << 10;
    void trim() noexcept {
        sources_.clear();
        terms_ = {};
        job_ = nullptr;
        if (capacity_ > kKeepBytes) free_memory();
    }

    // Where the input is, port by port: the request's own memory, or the caller's (share_inputs).
    std::vector<std::byte*>& sources() noexcept { return sources_; }

    // The backlog's, under the dispatcher's lock: its place in the order of arrival of its priority.
    Request *older = nullptr, *newer = nullptr;
    Line::Entry entry{};

  private:
    bool give_up(State to, Outcome outcome) noexcept {
        if (!transition(State::queued, to)) return false;
        OVENGINE_FAILPOINT("Request::give_up");
        deliver_all(event_.set());
        return job_ == nullptr || job_->end(outcome);
    }
    bool transition(State from, State to) noexcept {
        return state_.compare_exchange_strong(from, to, std::memory_order_acq_rel, std::memory_order_acquire);
    }
    void finish(State state) noexcept {
        OVENGINE_FAILPOINT("Request::finish");
        state_.store(state, std::memory_order_release);  // pairs with state()
        Notice* const first = event_.set();
        if (first == nullptr) return;
        Notice* last = first;
        while (last->next != nullptr) last = last->next;
        // Those who asked to be told of the result wait for the batch from here on.
        if (batch_ == nullptr || !batch_->event().try_attach(first, last)) deliver_all(first);
    }
    void free_memory() noexcept {
        ::operator delete(memory_, std::align_val_t{platform::kSlabAlignment});
        memory_ = nullptr;
        capacity_ = 0;
    }

    std::atomic<State> state_{State::queued};
    std::atomic<std::uint32_t> references_{0};
    Event event_;
    Batch* batch_ = nullptr;
    std::uint32_t row_ = 0, rows_ = 0;
    std::int64_t arrived_ns_ = 0;
    Terms terms_;
    Job* job_ = nullptr;
    std::byte* memory_ = nullptr;
    std::size_t capacity_ = 0;
    std::vector<std::byte*> sources_;
};

template <class Queue>
Group::Offered Group::offer(Request* request, Queue queue) {
    const std::lock_guard lock(mutex_);
    // A place that has an heir is no lane's to take: whoever comes to it asks for the heir, under the lock.
    const bool has_heir = place_ != latest_, superseded = latest_ != nullptr && latest_->supersede();
    if (superseded || has_heir) {
        request->set_arrived_ns(place_->arrived_ns());
        Request* const old = std::exchange(latest_, request);
        return {true, superseded, has_heir ? old : nullptr};
    }
    if (!queue(request)) return {false, false, nullptr};
    place_ = latest_ = request;
    return {true, false, nullptr};
}

}  // namespace ovengine
