// Batch: the rows of one slot from claim to result: their states, their outputs, and who waits for them.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <string_view>
#include <thread>

#include "batch/completion.hpp"
#include "batch/free_list.hpp"
#include "batch/slab.hpp"
#include "diagnostics/failpoint.hpp"

namespace ovengine {

// What became of a request, kept at its first row. The other rows of a request stay `follower`.
enum class RowState : std::uint8_t {
    follower,
    live,       // written, or about to be
    leased,     // handed out to be written in place
    cancelled,  // given up by its owner: computed as padding, or its result is dropped
    padding,    // of a request that was given up before it had rows; its end is told elsewhere
    lost,       // a lease that the batch did not wait for
    failed,     // infer() threw for one of its rows
    closed,     // the model was closed first
};

// A claimer names its request with begin() before it publishes the rows; from then on any thread may cancel() or
// look at outcome(). The lane that runs the batch calls the methods marked (lane).
class Batch final : public Completion {
  public:
    Batch(FreeList<Batch>& home, const std::vector<std::size_t>& output_row_bytes, std::uint32_t capacity)
        : home_(home),
          outputs_(output_row_bytes, capacity),
          capacity_(capacity),
          states_(std::make_unique<std::atomic<RowState>[]>(capacity)),
          rows_(std::make_unique<std::uint32_t[]>(capacity)) {
        open();
    }

    // (lane) Ready for the claims of the next epoch.
    void open() noexcept {
        reset();
        // relaxed: published together with the slot, by ClaimWord::open().
        for (std::uint32_t row = 0; row < capacity_; ++row)
            states_[row].store(RowState::follower, std::memory_order_relaxed);
        gate_.store(0, std::memory_order_relaxed);
        never_ran_ = false;
        failures_.clear();
        set_opened_ns(0);
    }

    // The claimer's: `rows` rows from `first` are one request. relaxed: ordered by ClaimWord::publish(), and for a
    // lease by lease()'s release.
    void begin(std::uint32_t first, std::uint32_t rows) noexcept {
        rows_[first] = rows;
        states_[first].store(RowState::live, std::memory_order_relaxed);
    }
    void lease(std::uint32_t first, std::uint32_t rows) noexcept {
        rows_[first] = rows;
        // release: a lane that finds the lease before it is published reads how many rows it has.
        states_[first].store(RowState::leased, std::memory_order_release);
    }

    // Moves a request on; true if it was in state `from`. acq_rel: of a lessee and a lane that compete, the loser
    // sees all that the winner did.
    bool transition(std::uint32_t first, RowState from, RowState to) noexcept {
        return states_[first].compare_exchange_strong(from, to, std::memory_order_acq_rel, std::memory_order_acquire);
    }
    RowState state(std::uint32_t first) const noexcept { return states_[first].load(std::memory_order_acquire); }
    std::uint32_t rows(std::uint32_t first) const noexcept { return rows_[first]; }

    Outcome outcome(std::uint32_t first) const noexcept override {
        // In this order: a state that is read after done() is final.
        const bool is_done = done();
        switch (state(first)) {
            case RowState::cancelled: return Outcome::cancelled;
            case RowState::lost: return Outcome::lease_lost;
            case RowState::failed: return Outcome::failed;
            case RowState::closed: return Outcome::closed;
            default: return !is_done ? Outcome::pending : never_ran_ ? Outcome::closed : Outcome::ok;
        }
    }
    bool cancel(std::uint32_t first) noexcept override {
        if (done()) return false;
        // The batch does not complete while somebody is inside the gate: an outcome that was told never changes.
        // acquire and release, here and in complete(): the order in which they come decides.
        bool cancelled = false;
        if ((gate_.fetch_add(1, std::memory_order_acq_rel) & kCompleted) == 0) {
            OVENGINE_FAILPOINT("Batch::cancel");
            cancelled = transition(first, RowState::live, RowState::cancelled);
        }
        gate_.fetch_sub(1, std::memory_order_release);
        return cancelled;
    }
    std::string failure(std::uint32_t first) const override {
        const std::lock_guard lock(failure_mutex_);
        const auto found = failures_.find(first);
        if (found != failures_.end()) return found->second;
        return state(first) == RowState::failed ? "no memory was left to say why" : "";
    }

    // (lane) The request that starts at `first` failed. Before complete().
    void fail(std::uint32_t first, std::string_view reason) noexcept {
        end_failed(first, [&] { return std::string(reason); });
    }
    // The same, at its row number `row`.
    void fail(std::uint32_t first, std::uint32_t row, std::string_view reason) noexcept {
        end_failed(first, [&] { return ("row " + std::to_string(row) + ": ").append(reason); });
    }

    // (lane) Everything is decided: wakes whoever waits. The batch stays the lane's until settle().
    // Called by close() too when an inference does not come back in time; only the first call counts.
    void complete() noexcept {
        if ((gate_.fetch_or(kCompleted, std::memory_order_acq_rel) & kCompleted) != 0) return;
        while (gate_.load(std::memory_order_acquire) != kCompleted) std::this_thread::yield();
        deliver_all(event().set());
    }
    // Instead of a run: whoever has rows, or is about to find out that it has, is told `closed`.
    void complete_unrun() noexcept {
        never_ran_ = true;
        complete();
    }

    std::uint32_t capacity() const noexcept { return capacity_; }
    std::byte* output(std::size_t port) const noexcept { return outputs_.port(port); }
    std::byte* const* outputs() const noexcept { return outputs_.ports(); }

    // When its oldest row arrived, in nanoseconds of the steady clock; 0 until then.
    std::int64_t opened_ns() const noexcept { return opened_ns_.load(std::memory_order_relaxed); }
    void set_opened_ns(std::int64_t now) noexcept { opened_ns_.store(now, std::memory_order_relaxed); }

    Batch* next_free = nullptr;
    std::size_t index = 0;  // among all that its dispatcher has

  private:
    static constexpr std::uint32_t kCompleted = 1u << 31;

    template <class Text>
    void end_failed(std::uint32_t first, Text text) noexcept {
        try {
            std::string why = text();
            const std::lock_guard lock(failure_mutex_);
            failures_[first] = std::move(why);
        } catch (const std::bad_alloc&) {
        }
        transition(first, RowState::live, RowState::failed);
    }

    void recycle() noexcept override { home_.give(this); }

    FreeList<Batch>& home_;
    const Slab outputs_;
    const std::uint32_t capacity_;
    const std::unique_ptr<std::atomic<RowState>[]> states_;
    const std::unique_ptr<std::uint32_t[]> rows_;
    std::atomic<std::uint32_t> gate_{0};  // threads inside cancel(), and kCompleted
    bool never_ran_ = false;              // written before the event, read after it
    mutable std::mutex failure_mutex_;    // close() may let a failure be read while the lane adds others
    std::map<std::uint32_t, std::string> failures_;
    std::atomic<std::int64_t> opened_ns_{0};
};

}  // namespace ovengine
