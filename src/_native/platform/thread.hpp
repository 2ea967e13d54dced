// What a thread of the core tells the system about itself.
#pragma once

#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>

#include <cstdint>
#include <string>

namespace ovengine::platform {

// Signals are for the application's own threads.
inline void block_signals() noexcept {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, nullptr);
}

// For top, gdb and perf; at most 15 characters.
inline void name_this_thread(const std::string& name) noexcept { pthread_setname_np(pthread_self(), name.c_str()); }

// From here on, to be woken takes the CPU from no other thread: a lane that is woken by a submit on the only free CPU
// would have it at once otherwise, and the submit would return after the inference. The share of the CPU is the same
// (SCHED_BATCH, sched(7)). A policy that somebody chose, for the process or the thread that loads, is left as it is.
inline void do_not_preempt() noexcept {
    const sched_param none{};
    if (sched_getscheduler(0) == SCHED_OTHER) sched_setscheduler(0, SCHED_BATCH, &none);
}

// From here on, this thread waits less for its turn on a busy CPU: with a time slice of 0.1 ms, the least there is, its
// deadline is before that of threads that compute (sched_setattr(2), a part of the ordinary policy since Linux 6.12 and
// ignored before). Threads that it starts have the usual slice. A policy or a priority that somebody chose stays.
inline void take_short_turns() noexcept {
    struct Attributes {  // sched_attr of the kernel; the C library has it since glibc 2.41
        std::uint32_t size;
        std::uint32_t policy;
        std::uint64_t flags;
        std::int32_t nice;
        std::uint32_t priority;
        std::uint64_t runtime_ns;
        std::uint64_t deadline_ns;
        std::uint64_t period_ns;
    } attributes{};
    constexpr std::uint64_t kResetOnFork = 1;
    constexpr std::uint64_t kSliceNs = 100'000;
    if (syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) != 0) return;
    if (attributes.policy != SCHED_OTHER || attributes.nice < 0) return;
    attributes.flags |= kResetOnFork;
    attributes.runtime_ns = kSliceNs;
    syscall(SYS_sched_setattr, 0, &attributes, 0);
}

}  // namespace ovengine::platform
