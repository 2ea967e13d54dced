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
    // Leases that were lost and may still be written to: the slot's memory is not used again before they are released.
    std::atomic<std::uint32_t> lost_leases{0};

    Slot* next_free = nullptr;
};

}  // namespace ovengine
