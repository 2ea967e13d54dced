// The stack that a thread takes signals on.
#pragma once

#include <csignal>

namespace ovengine::platform {

// Leaves this thread's alternate signal stack (sigaltstack(2)) as it was. OpenVINO's CPU plugin gives the thread that
// loads it a stack of the plugin's own, and frees that when the plugin goes: on another thread, maybe, and then the
// next signal, such as Ctrl-C, would end the process. A stack that the kernel finds too small by now is not put back.
class KeptSignalStack {
  public:
    KeptSignalStack() noexcept { sigaltstack(nullptr, &before_); }
    ~KeptSignalStack() {
        stack_t now{};
        sigaltstack(nullptr, &now);
        if (now.ss_sp != before_.ss_sp) sigaltstack(&before_, nullptr);
    }
    KeptSignalStack(const KeptSignalStack&) = delete;
    KeptSignalStack& operator=(const KeptSignalStack&) = delete;

  private:
    stack_t before_{};
};

}  // namespace ovengine::platform
