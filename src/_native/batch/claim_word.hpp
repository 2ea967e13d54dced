// ClaimWord: how callers reserve rows of an open batch, and how the batch is closed to them.
#pragma once

#include <atomic>
#include <cstdint>

#include "platform/cpu.hpp"

namespace ovengine {

// One 64-bit word `epoch | open | claimed` plus a count of published rows.
//
//   claim    any thread     reserves rows by compare-exchange. Never fetch_add: a ticket past the end could not be
//                           given back without another thread having seen it.
//   publish  the claimer    says that its rows are written (or given up).
//   seal     one lane       closes the word; returns how many rows were claimed. No claim succeeds afterwards.
//   open     the same lane  starts the next epoch, when all claimed rows have been published and consumed.
//
// The epoch makes a claim fail that was prepared against an earlier use of the slot (ABA): a word from epoch 3 with
// two rows claimed differs from the one of epoch 4 with two rows claimed.
class ClaimWord {
  public:
    static constexpr std::uint32_t kNone = UINT32_MAX;
    static constexpr std::uint32_t kMaxRows = (1u << 30) - 1;

    // First row of `rows` reserved ones, or kNone when the batch is closed or has no room. `left` gets the rows that
    // stay free behind them. Never blocks; retries only when another claim succeeded meanwhile.
    std::uint32_t try_claim(std::uint32_t rows, std::uint32_t capacity) noexcept {
        // acquire: pairs with the release in open(), so that the claimer sees the slot that this epoch belongs to.
        std::uint64_t word = word_.load(std::memory_order_acquire);
        for (;;) {
            const auto claimed = static_cast<std::uint32_t>(word & kClaimedMask);
            if ((word & kOpen) == 0 || claimed + rows > capacity) return kNone;
            // acq_rel: acquire as above when the word was opened anew in between; release so that seal()'s acquire
            // orders it after all claims. Failure re-reads with acquire for the same reason as the load.
            if (word_.compare_exchange_weak(word, word + rows, std::memory_order_acq_rel, std::memory_order_acquire))
                return claimed;
        }
    }

    // Marks `rows` claimed rows as written; how many were before. seq_cst: release for the rows' contents (pairs with
    // the acquire in published()), and totally ordered with IdleLanes so that either this thread sees an idle lane or
    // that lane sees these rows.
    std::uint32_t publish(std::uint32_t rows) noexcept { return published_.fetch_add(rows, std::memory_order_seq_cst); }

    // Rows published so far. seq_cst: the other half of the order described at publish().
    std::uint32_t published() const noexcept { return published_.load(std::memory_order_seq_cst); }

    // Rows claimed so far; a racy read unless the word is sealed.
    std::uint32_t approx_claimed() const noexcept {
        return static_cast<std::uint32_t>(word_.load(std::memory_order_relaxed) & kClaimedMask);
    }

    // Closes the word to claims and returns the rows claimed. One thread at a time.
    std::uint32_t seal() noexcept {
        // acq_rel: acquire pairs with the release of every successful claim.
        return static_cast<std::uint32_t>(word_.fetch_and(~kOpen, std::memory_order_acq_rel) & kClaimedMask);
    }

    // Closes the word if nobody has claimed anything. One thread at a time.
    bool try_seal_empty() noexcept {
        std::uint64_t word = word_.load(std::memory_order_relaxed) & ~kClaimedMask;
        // relaxed: there are no claims to be ordered after; a claim that comes first makes this fail.
        return word_.compare_exchange_strong(word, word & ~kOpen, std::memory_order_relaxed);
    }

    // Starts the next epoch, empty. The caller owns the word: it is sealed and all its rows are published.
    void open() noexcept { start_epoch(kOpen); }
    // The same, closed to claims from the start: the caller hands out the rows itself.
    void open_sealed() noexcept { start_epoch(0); }

  private:
    void start_epoch(std::uint64_t phase) noexcept {
        // relaxed: ordered before the claims of the new epoch by the release below.
        published_.store(0, std::memory_order_relaxed);
        const std::uint64_t epoch = (word_.load(std::memory_order_relaxed) & kEpochMask) + kEpochStep;
        word_.store(epoch | phase, std::memory_order_release);
    }

    static constexpr std::uint64_t kClaimedMask = (std::uint64_t{1} << 31) - 1;
    static constexpr std::uint64_t kOpen = std::uint64_t{1} << 31;
    static constexpr std::uint64_t kEpochStep = std::uint64_t{1} << 32;
    static constexpr std::uint64_t kEpochMask = ~(kEpochStep - 1);

    // Written by every claimer; apart from what lanes only read.
    alignas(platform::kNoSharing) std::atomic<std::uint64_t> word_{0};
    // Written by every publisher; it shares the line with word_ on purpose, a claimer touches both.
    std::atomic<std::uint32_t> published_{0};
};

}  // namespace ovengine
