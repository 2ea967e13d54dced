// Event: something that happens once, that threads wait for and mailboxes are told of.
#pragma once

#include <atomic>
#include <cstdint>

#include "batch/mailbox.hpp"
#include "diagnostics/failpoint.hpp"
#include "platform/futex.hpp"

namespace ovengine {

// One word `pending | pending with waiters | set`, and a list of notices that closes when the event is set.
//
// The wait protocol: a waiter turns `pending` into `pending with waiters` and sleeps while the word holds that. set()
// exchanges the word for `set`; only if it held `with waiters` does it make a system call, and then one for all
// threads: at most one wake-up per event.
// A waiter cannot be missed: either its compare-exchange comes first, and set() sees it, or the word is `set` already.
class Event {
  public:
    bool is_set() const noexcept {
        return word_.load(std::memory_order_acquire) == kSet;  // pairs with the exchange in set()
    }

    // Waits until set, the deadline, or a signal to this thread. `timed_out` and `interrupted` may come although the
    // event is set by now.
    platform::WaitResult wait(platform::Deadline deadline) noexcept {
        for (;;) {
            std::uint32_t word = kPending;
            // acquire on both outcomes: when the word is kSet this is the read that pairs with set().
            if (!word_.compare_exchange_strong(word, kWaiting, std::memory_order_acquire, std::memory_order_acquire) &&
                word == kSet)
                return platform::WaitResult::woken;
            const auto result = platform::futex_wait(word_, kWaiting, deadline);
            if (result != platform::WaitResult::woken) return result;
        }
    }

    // Happens, once. Returns the notices to be passed on; whoever calls set() owns them.
    Notice* set() noexcept {
        OVENGINE_FAILPOINT("Event::set");
        // release: all that led here is visible to those who see kSet; acquire: not needed for the word itself.
        if (word_.exchange(kSet, std::memory_order_acq_rel) == kWaiting) platform::futex_wake_all(word_);
        OVENGINE_FAILPOINT("Event::set, notices");
        return notices_.exchange(closed(), std::memory_order_acq_rel);  // pairs with try_attach()
    }

    // Adds a list of notices, to be passed on by set(). False when the list is closed already: nothing is taken, and
    // `first` to `last` are still a list of their own.
    bool try_attach(Notice* first, Notice* last) noexcept {
        Notice* head = notices_.load(std::memory_order_acquire);
        while (head != closed()) {
            last->next = head;
            OVENGINE_FAILPOINT("Event::try_attach");
            // release: pairs with the exchange in set().
            if (notices_.compare_exchange_weak(head, first, std::memory_order_release, std::memory_order_acquire))
                return true;
        }
        last->next = nullptr;  // others may have been there at first, and have been passed on meanwhile
        return false;
    }

    // For the next use. The caller is the only one who knows this event.
    void reset() noexcept {
        word_.store(kPending, std::memory_order_relaxed);
        notices_.store(nullptr, std::memory_order_relaxed);
    }

  private:
    static constexpr std::uint32_t kPending = 0, kWaiting = 1, kSet = 2;
    static Notice* closed() noexcept { return reinterpret_cast<Notice*>(std::uintptr_t{1}); }

    std::atomic<std::uint32_t> word_{kPending};
    std::atomic<Notice*> notices_{nullptr};
};

// Hands every notice of a list to its mailbox.
inline void deliver_all(Notice* notice) noexcept {
    while (notice != nullptr) {
        Notice* const next = notice->next;
        notice->mailbox->deliver(notice);
        notice = next;
    }
}

}  // namespace ovengine
