// The eventfd of the model checker: a flag that can be looked at. Reads and writes of a descriptor order everything.
#pragma once

#include "checker.hpp"

namespace ovengine::platform {

class SignalFd {
  public:
    SignalFd() { open_($) = 1; }
    // Plain memory: to raise it while somebody closes it is a race.
    ~SignalFd() { open_($) = 0; }
    int fd() const noexcept { return 0; }
    void raise() noexcept {
        RL_ASSERT(static_cast<int>(open_($)) == 1);
        raised_.store(1, std::memory_order_seq_cst);
    }
    void clear() noexcept { raised_.exchange(0, std::memory_order_seq_cst); }
    bool is_raised() const noexcept { return raised_.load(std::memory_order_seq_cst) != 0; }

  private:
    model::atomic<std::uint32_t> raised_{0};
    rl::var<int> open_;
};

}  // namespace ovengine::platform
