// Completion: what a future holds on to. Batches and jobs are completions.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "batch/event.hpp"

namespace ovengine {

// How a request ended, or has not yet. no_memory: there was none for its batch.
enum class Outcome : std::uint8_t {
    pending,
    ok,
    cancelled,
    failed,
    closed,
    lease_lost,
    expired,
    superseded,
    no_memory
};

// Reference-counted outcome of a batch or a job.
//
// The core's own share is kCoreShare references: futures give theirs back without ever having taken one. When the
// core seals a batch it knows how many futures there are and trades its share for exactly that many (settle()), so a
// submit costs no reference count of its own.
class Completion {
  public:
    virtual ~Completion() = default;

    Event& event() noexcept { return event_; }
    bool done() const noexcept { return event_.is_set(); }

    // Of the request whose first row is `row`; `pending` only before done().
    virtual Outcome outcome(std::uint32_t row) const noexcept = 0;
    // Drops the request whose first row is `row`; true if it had not ended. Any thread.
    virtual bool cancel(std::uint32_t row) noexcept = 0;
    // Why the request failed; only when its outcome is `failed`.
    virtual std::string failure(std::uint32_t row) const = 0;

    // `count` references more, for a holder that has some already.
    void retain(std::uint32_t count) noexcept { references_.fetch_add(count, std::memory_order_relaxed); }

    // Gives `count` references back.
    void release(std::uint32_t count) noexcept {
        // acq_rel: whoever takes the count to zero sees what all others did before it reuses the memory.
        if (references_.fetch_sub(count, std::memory_order_acq_rel) == count) recycle();
    }

    // The core's last word on it: `futures` references are out there, those given back already included.
    void settle(std::uint32_t futures) noexcept { release(kCoreShare - futures); }

  protected:
    static constexpr std::uint32_t kCoreShare = 1u << 30;

    // For the next use; the caller is the only one who knows this completion.
    void reset() noexcept {
        references_.store(kCoreShare, std::memory_order_relaxed);
        event_.reset();
    }

  private:
    virtual void recycle() noexcept = 0;

    std::atomic<std::uint32_t> references_{kCoreShare};
    Event event_;
};

}  // namespace ovengine
