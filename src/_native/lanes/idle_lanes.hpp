// IdleLanes: which lanes are free. Whoever takes a lane out of the set owns it.
#pragma once

#include <atomic>
#include <bit>
#include <cstdint>

#include "platform/cpu.hpp"

namespace ovengine {

// A set of up to 64 lanes in one word. A lane's own thread puts the lane in when it finds nothing to do; anybody may
// take it out, and then either wakes that thread (handing the lane over) or runs a batch on it in place.
//
// No work is left behind: a producer publishes its rows and then reads the set; a lane enters the set and then looks
// for rows once more. All four steps are sequentially consistent, so at least one of the two sees the other.
class IdleLanes {
  public:
    static constexpr std::uint32_t kMaxLanes = 64;

    // The set as it is now. seq_cst: after the caller's publish, see above.
    std::uint64_t load() const noexcept { return set_.load(std::memory_order_seq_cst); }

    // Puts a lane that the caller owns into the set. seq_cst: before the caller's second look for work; its release
    // half hands the lane's state to the next owner.
    void put(std::uint32_t lane) noexcept { set_.fetch_or(bit(lane), std::memory_order_seq_cst); }

    // Takes a lane out; true for exactly one of all callers. acquire (in seq_cst): pairs with put().
    bool try_take(std::uint32_t lane) noexcept {
        return (set_.fetch_and(~bit(lane), std::memory_order_seq_cst) & bit(lane)) != 0;
    }

  private:
    static constexpr std::uint64_t bit(std::uint32_t lane) noexcept { return std::uint64_t{1} << lane; }

    // Read on every submit, written when a lane parks: apart from what submits write.
    alignas(platform::kNoSharing) std::atomic<std::uint64_t> set_{0};
};

}  // namespace ovengine
