// Allocations that fail: for a binary of its own, in which operator new is replaced (memory_test.cpp).
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>

namespace ovengine::testing {

struct AllocationState {
    std::atomic<std::int64_t> count{0}, first{0}, last{0};  // those from first to last fail
    std::atomic<bool> any_failed{false};
    std::atomic<std::int64_t> bytes{0};  // in use, of all threads
};
inline AllocationState allocations;

// Threads of the core count from the start; the test's own only inside of Counted.
inline thread_local bool is_exempt = false;

// relaxed throughout: it must not order anything that the core has to order itself.
inline bool allocation_fails() noexcept {
    if (is_exempt) return false;
    const std::int64_t number = allocations.count.fetch_add(1, std::memory_order_relaxed) + 1;
    const bool fails = number >= allocations.first.load(std::memory_order_relaxed) &&
                       number <= allocations.last.load(std::memory_order_relaxed);
    if (fails) allocations.any_failed.store(true, std::memory_order_relaxed);
    return fails;
}

// While it lives, the core's allocation number `n` from here fails, or that one and all that follow.
class FailingAllocations {
  public:
    FailingAllocations(std::int64_t n, bool all_that_follow) {
        allocations.any_failed.store(false);
        const std::int64_t first = allocations.count.load() + n;
        allocations.first.store(first);
        allocations.last.store(all_that_follow ? std::numeric_limits<std::int64_t>::max() : first);
    }
    ~FailingAllocations() { allocations.last.store(0); }
    FailingAllocations(const FailingAllocations&) = delete;
    FailingAllocations& operator=(const FailingAllocations&) = delete;

    bool happened() const { return allocations.any_failed.load(); }
};

// Around calls of the core on a thread of the test.
class Counted {
  public:
    Counted() { is_exempt = false; }
    ~Counted() { is_exempt = true; }
    Counted(const Counted&) = delete;
    Counted& operator=(const Counted&) = delete;
};

}  // namespace ovengine::testing
