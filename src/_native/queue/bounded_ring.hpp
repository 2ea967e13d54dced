// BoundedRing: a bounded queue for many producers and many consumers, without locks.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "platform/cpu.hpp"

namespace ovengine {

// First in, first out. After D. Vyukov's bounded MPMC queue: each cell carries the ticket that may use it next, so
// that producers and consumers meet only on the cell they share. Capacity is rounded up to a power of two.
//
//     BoundedRing<int*> ring(1024);
//     ring.try_push(&x);            // false when full
//     int* y; ring.try_pop(y);      // false when empty, or when the oldest push is not finished yet
template <class T>
class BoundedRing {
  public:
    explicit BoundedRing(std::size_t capacity)
        : mask_(std::bit_ceil(capacity < 2 ? std::size_t{2} : capacity) - 1),
          cells_(std::make_unique<Cell[]>(mask_ + 1)) {
        for (std::size_t i = 0; i <= mask_; ++i) cells_[i].turn.store(i, std::memory_order_relaxed);
    }

    std::size_t capacity() const noexcept { return mask_ + 1; }

    // Exact only while nobody pushes or pops.
    std::size_t approx_size() const noexcept {
        return tail_.load(std::memory_order_relaxed) - head_.load(std::memory_order_relaxed);
    }

    bool try_push(T value) noexcept {
        std::size_t ticket = tail_.load(std::memory_order_relaxed);
        for (;;) {
            Cell& cell = cells_[ticket & mask_];
            // acquire: pairs with the release in try_pop(); the cell's last value has been taken out.
            const std::size_t turn = cell.turn.load(std::memory_order_acquire);
            if (turn == ticket) {
                // relaxed: the ticket orders nothing; the cell's turn does.
                if (tail_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_relaxed,
                                                std::memory_order_relaxed)) {
                    cell.value = value;
                    cell.turn.store(ticket + 1, std::memory_order_release);  // pairs with try_pop()'s acquire
                    return true;
                }
            } else if (static_cast<std::ptrdiff_t>(turn - ticket) < 0) {
                return false;  // a whole round behind: full
            } else {
                ticket = tail_.load(std::memory_order_relaxed);
            }
        }
    }

    bool try_pop(T& value) noexcept {
        std::size_t ticket = head_.load(std::memory_order_relaxed);
        for (;;) {
            Cell& cell = cells_[ticket & mask_];
            // acquire: pairs with the release in try_push(); the value is written.
            const std::size_t turn = cell.turn.load(std::memory_order_acquire);
            if (turn == ticket + 1) {
                if (head_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_relaxed,
                                                std::memory_order_relaxed)) {
                    value = cell.value;
                    cell.turn.store(ticket + mask_ + 1, std::memory_order_release);  // pairs with try_push()'s acquire
                    return true;
                }
            } else if (static_cast<std::ptrdiff_t>(turn - (ticket + 1)) < 0) {
                return false;
            } else {
                ticket = head_.load(std::memory_order_relaxed);
            }
        }
    }

  private:
    struct Cell {
        std::atomic<std::size_t> turn;
        T value;
    };

    const std::size_t mask_;
    const std::unique_ptr<Cell[]> cells_;
    // Apart from each other: producers write one, consumers the other.
    alignas(platform::kNoSharing) std::atomic<std::size_t> tail_{0};
    alignas(platform::kNoSharing) std::atomic<std::size_t> head_{0};
};

}  // namespace ovengine
