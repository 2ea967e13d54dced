// Job: one request that is not rows of a shared batch: many rows at once, an input of dynamic shape, a session's, or a
// run of an infer request that is its owner's.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "batch/completion.hpp"
#include "batch/slab.hpp"
#include "device/executor.hpp"
#include "ladder/chunk_sizes.hpp"

namespace ovengine {

// Handed out to lanes chunk by chunk (under the dispatcher's lock); finished when the last chunk is. Deletes itself
// when the core and its future have let go.
class Job final : public Completion {
  public:
    // Bulk: `rows` rows at `inputs[port]`, contiguous. The memory stays the caller's and has to stay until done().
    Job(std::vector<std::byte*> inputs, std::uint32_t rows, std::shared_ptr<const ChunkSizes> chunks,
        const std::vector<std::size_t>& output_row_bytes)
        : inputs_(std::move(inputs)),
          outputs_(output_row_bytes, rows, Slab::unset),
          rows_(rows),
          chunks_(std::move(chunks)),
          left_(rows) {}

    // Dynamic: one inference at the shapes given.
    explicit Job(std::vector<ShapedInput> inputs)
        : outputs_({}, 0), rows_(1), left_(1), shaped_inputs_(std::move(inputs)), shaped_(true) {}

    // A session's request: one inference on the session's own infer request.
    struct InSession {};
    Job(InSession, std::vector<ShapedInput> inputs) : Job(std::move(inputs)) { is_final_once_begun_ = true; }

    // A run of `own`, which brings its inputs and outputs along.
    explicit Job(std::shared_ptr<Runnable> own) : Job(std::vector<ShapedInput>{}) {
        own_ = std::move(own);
        is_final_once_begun_ = true;
    }
    Runnable* own() const noexcept { return own_.get(); }

    // Before it is handed to the lanes.
    void reset_state_first() noexcept { resets_state_ = true; }
    bool resets_state() const noexcept { return resets_state_; }
    // (in a session, or with an own()) The lane's, once: from here on it cannot be cancelled. False when it has been.
    bool try_begin() noexcept {
        if (!begun_.exchange(true, std::memory_order_acq_rel)) return true;
        end(Outcome::cancelled);  // cancel() is about to say so too
        return false;
    }

    bool is_shaped() const noexcept { return shaped_; }
    std::uint32_t rows() const noexcept { return rows_; }
    // About as many as it will be cut into; one where there are no rows.
    std::uint32_t chunks(std::uint32_t max_batch_rows) const noexcept {
        return chunks_ == nullptr || rows_ == 0 ? 1 : chunks_->count(rows_, max_batch_rows);
    }

    // The next chunk, under the dispatcher's lock; `count` is 0 when all are handed out.
    struct Chunk {
        std::uint32_t first, count;
    };
    Chunk next_chunk(std::uint32_t max_batch_rows) noexcept {
        const std::uint32_t first = next_.load(std::memory_order_relaxed);
        const std::uint32_t left = rows_ - first;
        const std::uint32_t count = chunks_ == nullptr ? left : std::min(left, chunks_->next(left, max_batch_rows));
        next_.store(first + count, std::memory_order_relaxed);
        return {first, count};
    }
    std::uint32_t hand_out_rest() noexcept {
        const std::uint32_t first = next_.load(std::memory_order_relaxed);
        next_.store(rows_, std::memory_order_relaxed);
        return rows_ - first;
    }
    // Any thread may look: relaxed, for nothing is read on the strength of it.
    bool all_handed_out() const noexcept { return next_.load(std::memory_order_relaxed) == rows_; }

    std::byte* input(std::size_t port) const noexcept { return inputs_[port]; }
    std::byte* output(std::size_t port) const noexcept { return outputs_.port(port); }
    const std::vector<ShapedInput>& shaped_inputs() const noexcept { return shaped_inputs_; }
    std::vector<ShapedOutput>& shaped_outputs() noexcept { return shaped_outputs_; }

    // A lane is through with `count` rows. The last one completes the job; true for that one.
    bool finish(std::uint32_t count) noexcept {
        // acq_rel: the last lane sees the outputs of all others, and passes them on with the event.
        if (left_.fetch_sub(count, std::memory_order_acq_rel) != count) return false;
        end(Outcome::ok);
        return true;
    }
    void fail(std::string_view reason) noexcept {
        try {
            const std::lock_guard lock(failure_mutex_);
            if (!failure_) failure_.emplace(reason);
        } catch (const std::bad_alloc&) {
        }
        Outcome expected = Outcome::pending;
        outcome_.compare_exchange_strong(expected, Outcome::failed, std::memory_order_acq_rel);
    }
    // Nobody wants the rest: lanes skip what is left.
    bool stopped() const noexcept { return outcome_.load(std::memory_order_acquire) != Outcome::pending; }

    // True for the first to end it so; the waiters are woken at once.
    bool end(Outcome outcome) noexcept {
        Outcome expected = Outcome::pending;
        const bool first = outcome_.compare_exchange_strong(expected, outcome, std::memory_order_acq_rel);
        if (!completed_.exchange(true, std::memory_order_acq_rel)) deliver_all(event().set());
        return first;
    }

    Outcome outcome(std::uint32_t) const noexcept override { return outcome_.load(std::memory_order_acquire); }
    // The lanes may still be reading the caller's memory: quiet() says when they no longer do.
    // A session's request that has begun moves the state, and is not cancelled any more; nor is a run of own(), whose
    // tensors are its owner's again when it is done.
    bool cancel(std::uint32_t) noexcept override {
        if (done()) return false;
        if (!is_final_once_begun_) return end(Outcome::cancelled);
        // acq_rel: one of this and try_begin() comes first.
        if (begun_.exchange(true, std::memory_order_acq_rel)) return false;
        end(Outcome::cancelled);
        return outcome(0) == Outcome::cancelled;
    }
    bool quiet() const noexcept { return left_.load(std::memory_order_acquire) == 0; }
    std::string failure(std::uint32_t) const override {
        const std::lock_guard lock(failure_mutex_);
        return failure_.value_or("no memory was left to say why");
    }

    Job* next = nullptr;  // of those that wait for lanes

  private:
    void recycle() noexcept override { delete this; }

    const std::vector<std::byte*> inputs_;
    const Slab outputs_;
    const std::uint32_t rows_;
    const std::shared_ptr<const ChunkSizes> chunks_;  // null: all at once
    std::atomic<std::uint32_t> next_{0};              // written under the dispatcher's lock
    std::atomic<std::uint32_t> left_;
    std::atomic<Outcome> outcome_{Outcome::pending};
    std::atomic<bool> completed_{false};
    mutable std::mutex failure_mutex_;
    std::optional<std::string> failure_;
    std::vector<ShapedInput> shaped_inputs_;
    std::vector<ShapedOutput> shaped_outputs_;
    const bool shaped_ = false;
    std::shared_ptr<Runnable> own_;
    bool is_final_once_begun_ = false, resets_state_ = false;
    std::atomic<bool> begun_{false};  // of one that is_final_once_begun_
};

}  // namespace ovengine
