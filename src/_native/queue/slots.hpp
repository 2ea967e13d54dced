// Slots: the slots and batches of a model, made as they are needed and used again.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "batch/batch.hpp"
#include "batch/free_list.hpp"
#include "batch/slot.hpp"
#include "queue/work.hpp"

namespace ovengine {

// give_back(), and a batch's way back: any thread. All others: under the dispatcher's lock.
class Slots {
  public:
    explicit Slots(const RowLayout& layout) : layout_(layout) {}

    // A slot with a fresh batch, both of `rows` rows; null when there is no memory for them. The word is sealed.
    Slot* next(std::uint32_t rows) noexcept {
        Slot* const slot = spare(rows);
        if (slot == nullptr) return nullptr;
        Batch* const batch = free_batch(rows);
        if (batch == nullptr) {
            give_back(slot);
            return nullptr;
        }
        slot->batch = batch;
        return slot;
    }
    // The same without a batch. Smaller slots, from before the model grew, are left alone: a claimer may still look at
    // them.
    Slot* spare(std::uint32_t rows) noexcept {
        for (Slot* slot = free_slots_.take(); slot != nullptr; slot = free_slots_.take()) {
            if (slot->capacity == rows) return slot;
            ++outgrown_;
        }
        const auto id = kFirstId + static_cast<std::uint32_t>(slots_.size());
        return made(slots_, [&] { return std::make_unique<Slot>(id, layout_.inputs, rows); });
    }
    void give_back(Slot* slot) noexcept { free_slots_.give(slot); }

    // Exact only at rest.
    std::size_t slots_in_use() const noexcept { return slots_.size() - outgrown_ - free_slots_.count_at_rest(); }
    std::size_t batches_in_use() const noexcept { return batches_.size() - free_batches_.count_at_rest(); }

    static constexpr std::uint32_t kFirstId = 3;  // smaller ones are the lanes' own bindings

  private:
    // Batches that are kept for the next use: so many, or of so many bytes.
    static constexpr std::size_t kSpareBatches = 4, kSpareBytes = std::size_t{64} << 20;

    Batch* free_batch(std::uint32_t rows) noexcept {
        Batch* batch = free_batches_.take();
        for (; batch != nullptr && batch->capacity() != rows; batch = free_batches_.take()) destroy(*batch);
        // Results that were kept for a while leave more than are of use.
        const std::size_t bytes = std::max<std::size_t>(1, layout_.output_bytes() * rows);
        const std::size_t most = std::max(kSpareBatches, kSpareBytes / bytes);
        while (free_batches_.own_count() > most) destroy(*free_batches_.take());
        if (batch != nullptr) {
            batch->open();
            return batch;
        }
        batch = made(batches_, [&] { return std::make_unique<Batch>(free_batches_, layout_.outputs, rows); });
        if (batch != nullptr) batch->index = batches_.size() - 1;
        return batch;
    }
    void destroy(Batch& batch) noexcept {
        batches_.back()->index = batch.index;
        std::swap(batches_[batch.index], batches_.back());
        batches_.pop_back();
    }
    template <class T, class Make>
    static T* made(std::vector<std::unique_ptr<T>>& all, Make make) noexcept {
        try {
            all.push_back(make());
            return all.back().get();
        } catch (const std::bad_alloc&) {
            return nullptr;
        }
    }

    const RowLayout& layout_;
    std::vector<std::unique_ptr<Slot>> slots_;
    std::vector<std::unique_ptr<Batch>> batches_;
    std::size_t outgrown_ = 0;
    FreeList<Slot> free_slots_;
    FreeList<Batch> free_batches_;
};

}  // namespace ovengine
