// Mailbox and Notice: how a finished batch reaches event loops, callbacks and as_completed.
#pragma once

#include <atomic>
#include <cstdint>

#include "diagnostics/failpoint.hpp"
#include "platform/signal_fd.hpp"

namespace ovengine {

class Mailbox;

// One future's wish to be told. Made and freed by the mailbox's owner; in between it is in exactly one list.
struct Notice {
    Notice* next = nullptr;
    Mailbox* mailbox = nullptr;
    void* future = nullptr;  // the binding's, never looked at here
};

// A list of notices that came true, and a descriptor that is readable while it may be non-empty.
//
// deliver: any thread. take_all: the owner (an event loop, the callback thread), which waits on fd(). The descriptor
// is raised only when the list turns non-empty: one wake-up for any number of futures.
// Lives as long as anybody holds a reference; a notice on its way holds one.
class Mailbox {
  public:
    int fd() const noexcept { return signal_.fd(); }

    // Takes over `notice`.
    void deliver(Notice* notice) noexcept {
        Notice* head = head_.load(std::memory_order_relaxed);
        bool holds = false;
        do {
            // The owner may take the notice, and with it the last reference, before the descriptor is raised.
            if (head == nullptr && !holds) retain(), holds = true;
            notice->next = head;
            // release: the notice's fields, and what the sender did before, are visible to take_all().
        } while (!head_.compare_exchange_weak(head, notice, std::memory_order_release, std::memory_order_relaxed));
        OVENGINE_FAILPOINT("Mailbox::deliver, pushed");
        if (head == nullptr) signal_.raise();
        if (holds) release();
    }

    // All notices delivered so far, newest first; null when there are none.
    Notice* take_all() noexcept {
        // Cleared first: a notice that arrives after the exchange raises it again.
        signal_.clear();
        return head_.exchange(nullptr, std::memory_order_acquire);  // pairs with deliver()
    }

    void retain() noexcept { references_.fetch_add(1, std::memory_order_relaxed); }
    void release() noexcept {
        // acq_rel: the last holder sees what all others did before it frees the mailbox.
        if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
    }

  private:
    ~Mailbox() = default;

    std::atomic<Notice*> head_{nullptr};
    std::atomic<std::uint32_t> references_{1};
    platform::SignalFd signal_;
};

}  // namespace ovengine
