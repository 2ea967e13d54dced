// Slot: the input memory of one batch at a time, and the word by which rows of it are claimed.
#pragma once

#include <atomic>
#include <cstdint>

#include "batch/batch.hpp"
#include "batch/claim_word.hpp"
#include "batch/slab.hpp"

namespace ovengine {

// Opened by a lane with a fresh batch; filled by claimers; sealed, run and opened again by lanes. Slots are never
// freed before their model, so a claimer that looks at a slot a moment too late finds it closed, or open for the next
// batch, but never gone.
struct Slot {
    Slot(std::uint32_t index, const std::vector<std::size_t>& input_row_bytes, std::uint32_t rows)
        : id(index), capacity(rows), inputs(input_row_bytes, rows) {}

    const std::uint32_t id, capacity;
    ClaimWord word;
    // Changed only while the word is closed and nobody has rows claimed.
    Batch* batch = nullptr;
    const Slab inputs;

    // --- Leases: memory that was handed out is not used again while anybody may write to it. ---

    // One holder more: before the lease is marked in the batch, or while there is another holder. relaxed: the mark
    // publishes it.
    void hold() noexcept { holds_.fetch_add(1, std::memory_order_relaxed); }
    // A holder lets go. True when the lane has left, too, and nobody else holds it: the caller gives the slot back.
    // acq_rel: what holders wrote comes before the slot's next use.
    bool let_go() noexcept { return holds_.fetch_sub(1, std::memory_order_acq_rel) == kLeft + 1 && is_free(); }
    // (lane) The rows are consumed, and every lease among them is published, given up or lost. True when nobody holds
    // the slot: the lane gives it back.
    bool leave() noexcept {
        // acquire: pairs with let_go(). Whoever may still hold it was counted before the mark, which the lane has seen.
        if (holds_.load(std::memory_order_acquire) == 0) return true;
        return holds_.fetch_or(kLeft, std::memory_order_acq_rel) == 0 && is_free();
    }

    // (lane) Whether anybody may write to rows that are published or given up. acquire: as in leave().
    bool is_held() const noexcept { return holds_.load(std::memory_order_acquire) != 0; }

    Slot* next_free = nullptr;

  private:
    static constexpr std::uint32_t kLeft = 1u << 31;

    bool is_free() noexcept {
        holds_.store(0, std::memory_order_relaxed);  // nobody else looks; the free list publishes it
        return true;
    }

    std::atomic<std::uint32_t> holds_{0};  // who may write to rows besides claimers, and kLeft
};

}  // namespace ovengine
