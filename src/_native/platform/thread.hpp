// What a thread of the core tells the system about itself.
#pragma once

#include <pthread.h>
#include <sched.h>

#include <csignal>

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

}  // namespace ovengine::platform
