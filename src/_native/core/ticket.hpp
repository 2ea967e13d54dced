// Ticket: where a request is, and what became of it.
#pragma once

#include <cstdint>
#include <thread>

#include "batch/batch.hpp"
#include "batch/completion.hpp"
#include "batch/mailbox.hpp"
#include "batch/slot.hpp"
#include "platform/futex.hpp"
#include "requests/job.hpp"
#include "requests/request.hpp"

namespace ovengine {

// Where a request is: rows of a batch, a request in the ring, or a job. The holder has `rows` references to the batch
// (one to the request, one to the job), and gives them back with ModelCore::release().
struct Ticket {
    Slot* slot = nullptr;  // only until published, or for a lease
    Batch* batch = nullptr;
    Request* request = nullptr;
    Job* job = nullptr;
    std::uint32_t row = 0, rows = 0;
};

// unmeetable: the result would come after the deadline.
enum class Admission { ok, full, closed, unmeetable };

// What can be asked of a ticket without the core that gave it.
class Tickets {
  public:
    // The completion to ask, once it is known: for a request in the ring, only when a lane has taken it.
    static Completion* completion(Ticket& ticket) noexcept {
        if (ticket.batch == nullptr && ticket.request != nullptr && ticket.request->event().is_set()) {
            ticket.batch = ticket.request->batch();
            ticket.row = ticket.request->row();
        }
        return ticket.job != nullptr ? static_cast<Completion*>(ticket.job) : ticket.batch;
    }
    static Outcome outcome(Ticket& ticket) noexcept {
        if (Completion* const known = completion(ticket)) {
            const bool is_done = known->done();
            const Outcome outcome = known->outcome(ticket.row);
            // Cancelled is decided before the batch is; the rest is told when it is complete.
            return is_done || outcome == Outcome::cancelled ? outcome : Outcome::pending;
        }
        switch (ticket.request->state()) {
            case Request::State::cancelled: return Outcome::cancelled;
            case Request::State::closed: return Outcome::closed;
            case Request::State::expired: return Outcome::expired;
            case Request::State::superseded: return Outcome::superseded;
            case Request::State::no_memory: return Outcome::no_memory;
            default: return Outcome::pending;
        }
    }
    // Waits once: for the batch, or for a lane to take the request. To be called again while outcome() is pending.
    static platform::WaitResult wait(Ticket& ticket, platform::Deadline deadline) noexcept {
        Completion* const known = completion(ticket);
        return (known != nullptr ? known->event() : ticket.request->event()).wait(deadline);
    }
    static bool cancel(Ticket& ticket) noexcept {
        if (completion(ticket) == nullptr) {
            if (ticket.request->cancel()) return true;
            // A lane has it at this moment, and says so as soon as it has copied it; or it has ended before.
            while (!ticket.request->event().is_set()) std::this_thread::yield();
        }
        Completion* const known = completion(ticket);
        return known != nullptr && known->cancel(ticket.row);
    }
    // Passes `notice` on when the outcome is known; false (and not taken) when it is known already. So it is of a void
    // ticket: whoever has its result has taken it.
    static bool attach(Ticket& ticket, Notice* notice) noexcept {
        Completion* known = completion(ticket);
        if (known == nullptr) {
            if (ticket.request == nullptr) return false;
            if (ticket.request->event().try_attach(notice, notice)) return true;
            known = completion(ticket);
        }
        return known != nullptr && known->event().try_attach(notice, notice);
    }
    // May the core still read memory that it shares with the caller of this ticket? Ends with the inference that does.
    static bool may_read_input(const Ticket& ticket) noexcept {
        if (ticket.job != nullptr) return !ticket.job->quiet();
        return ticket.request != nullptr && ticket.request->may_be_read();
    }
};

}  // namespace ovengine
