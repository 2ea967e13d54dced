// ModelCore: one loaded model at run time. What the binding calls; everything else is behind it.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/closing.hpp"
#include "core/deadlines.hpp"
#include "core/ticket.hpp"
#include "diagnostics/failpoint.hpp"
#include "lanes/cpu_budget.hpp"
#include "lanes/lanes.hpp"
#include "lanes/policy.hpp"
#include "queue/dispatcher.hpp"
#include "requests/job.hpp"
#include "requests/session.hpp"

namespace ovengine {

// Thread-safe. Kept alive by its lane threads as well, so that an inference that never returns can be left behind.
class ModelCore : public Tickets, public std::enable_shared_from_this<ModelCore> {
  public:
    using LaneConfig = Lanes::Config;
    struct Options {
        Dispatcher::Options queue;
        std::shared_ptr<CpuBudget> budget{};  // shared with other models; null: no limit
    };

    ModelCore(RowLayout layout, CostTable costs, std::vector<LaneConfig> lanes, Options options)
        : dispatcher_(std::move(layout), costs.capacity(), options.queue),
          lanes_(dispatcher_, sessions_, std::move(costs), std::move(lanes), std::move(options.budget)) {
        queue_.count_elsewhere(sessions_.waiting());
    }

    // Before start().
    void set_policy(std::unique_ptr<Policy> policy) {
        lanes_.set_policy(std::move(policy));
        queue_.set_group_weight([this](const Group& group) { return lanes_.policy().weight(group); });
    }
    std::vector<LaneFacts> lane_facts() const {
        std::vector<LaneFacts> facts;
        for (std::size_t i = 0; i < lanes_.count(); ++i) facts.push_back({lanes_[i].device(), &lanes_[i].stats()});
        return facts;
    }

    void start() { lanes_.start(shared_from_this()); }

    // See Lanes.
    void install(CostTable costs, std::vector<std::vector<std::unique_ptr<Executor>>> lanes) {
        lanes_.install(std::move(costs), std::move(lanes));
    }
    void refine() { lanes_.refine(); }
    // Of one inference at each size, microseconds, as it is known now.
    std::vector<std::pair<std::uint32_t, double>> costs() const {
        std::vector<std::pair<std::uint32_t, double>> result;
        const auto known = lanes_.ladder();
        for (std::size_t i = 0; i < known->costs().sizes().size(); ++i)
            result.emplace_back(known->costs().sizes()[i], known->costs().cost_us(i));
        return result;
    }

    // Of one inference at the size that takes longest, microseconds, by the cost table; 0 where that is not known.
    double slowest_us() const noexcept { return lanes_.slowest_us(); }
    // Of the inferences that the table does not know, as they were seen lately; 0 before the first one.
    double unknown_us() const noexcept { return lanes_.unknown_us(); }

    const RowLayout& layout() const noexcept { return dispatcher_.layout(); }
    std::uint32_t capacity() const noexcept { return dispatcher_.capacity(); }
    std::size_t lane_count() const noexcept { return lanes_.count(); }
    std::uint64_t policy_faults() const noexcept { return lanes_.policy().faults(); }

    // --- Limits, while requests run; see Dispatcher. ---

    std::uint32_t max_batch_rows() const noexcept { return dispatcher_.max_batch_rows(); }
    std::size_t ring_capacity() const noexcept { return queue_.ring_capacity(); }
    void set_max_batch_rows(std::uint32_t rows) noexcept {
        dispatcher_.set_max_batch_rows(rows);
        lanes_.wake_all();
    }
    void set_max_queue_delay_ns(std::int64_t delay_ns) noexcept {
        dispatcher_.set_max_queue_delay_ns(delay_ns);
        lanes_.wake_all();
    }
    void set_max_queue_size(std::uint32_t size) noexcept { queue_.set_limit(size); }

    bool closing() const noexcept { return lanes_.closing(); }

    // Of requests that share what there is with other groups; for this model.
    std::shared_ptr<Group> make_group(std::string name) const { return std::make_shared<Group>(std::move(name)); }

    // --- One request of up to max_batch_rows() rows: begin, write to destination(), publish (or abandon). ---

    // On `ok` the caller owns the rows' memory until publish() or abandon(). `full`: max_queue_size is reached, or the
    // ring is full; nothing was taken. Throws std::bad_alloc, and with a deadline std::system_error: nothing was taken.
    Admission begin(std::uint32_t rows, Ticket& ticket) {
        if (closing()) return Admission::closed;
        ticket = Ticket{};
        ticket.rows = rows;
        ticket.slot = dispatcher_.try_claim(rows, ticket.row);
        if (ticket.slot != nullptr) {
            OVENGINE_FAILPOINT("ModelCore::begin, claimed");
            ticket.batch = ticket.slot->batch;
            ticket.batch->begin(ticket.row, rows);
            return Admission::ok;
        }
        if (queue_.is_full()) return Admission::full;
        ticket.request = queue_.make_request();
        return Admission::ok;
    }
    // The same for a request that is to be run where its input lies: it goes to the ring in any case, see share().
    Admission begin_shared(std::uint32_t rows, Ticket& ticket) {
        if (closing()) return Admission::closed;
        dispatcher_.expect(rows);
        if (queue_.is_full()) return Admission::full;
        ticket = Ticket{};
        ticket.rows = rows;
        ticket.request = queue_.make_request();
        return Admission::ok;
    }
    // The same for a request with terms: it waits for its turn in the backlog.
    Admission begin(std::uint32_t rows, Ticket& ticket, const Terms& terms) {
        if (terms.is_plain()) return begin(rows, ticket);
        dispatcher_.expect(rows);
        if (const Admission admission = admit(rows, terms); admission != Admission::ok) return admission;
        ticket = Ticket{};
        ticket.rows = rows;
        ticket.request = queue_.make_request();
        ticket.request->set_terms(terms);
        return Admission::ok;
    }

    // Where the rows of `port` go. For a request in the ring: memory of its own, made on the first call.
    std::byte* destination(const Ticket& ticket, std::size_t port) {
        if (ticket.slot != nullptr) return ticket.slot->inputs.port(port) + ticket.row * layout().inputs[port];
        auto& sources = ticket.request->sources();
        if (sources.empty()) {
            std::byte* memory = ticket.request->reserve(aligned_bytes(ticket.rows));
            for (const auto bytes : layout().inputs) {
                sources.push_back(memory);
                memory += align(bytes * ticket.rows);
            }
        }
        return sources[port];
    }
    // For a request in the ring: its input is the caller's memory, until the batch is done.
    static void share(const Ticket& ticket, std::vector<std::byte*> inputs) noexcept {
        ticket.request->sources() = std::move(inputs);
    }

    // The rows are written: they may run from now on. `full` is possible for a request that goes to the ring; it is
    // abandoned then.
    Admission publish(Ticket& ticket, bool wake = true) noexcept {
        if (ticket.slot != nullptr) {
            Slot& slot = *std::exchange(ticket.slot, nullptr);
            OVENGINE_FAILPOINT("ModelCore::publish");
            const bool first = slot.word.publish(ticket.rows) == 0;
            OVENGINE_FAILPOINT("ModelCore::publish, published");
            if (!wake) return Admission::ok;
            const std::uint32_t pending = dispatcher_.approx_pending_rows(slot);
            // A held batch needs a lane twice: when its clock starts and when it is full.
            if (!dispatcher_.holds_batches() || first || pending >= std::min(slot.capacity, max_batch_rows()))
                lanes_.notify(pending);
            return Admission::ok;
        }
        ticket.request->begin(ticket.rows, now_ns());
        if (queue(ticket.request, wake)) return Admission::ok;
        abandon(ticket);
        return Admission::full;
    }

    // Instead of publish(): writing failed. The ticket is void.
    void abandon(Ticket& ticket) noexcept {
        if (ticket.slot != nullptr) {
            ticket.batch->transition(ticket.row, RowState::live, RowState::cancelled);
            ticket.slot->word.publish(ticket.rows);
            lanes_.notify(capacity());
            ticket.batch->release(ticket.rows);
        } else if (ticket.request != nullptr) {
            queue_.discard(ticket.request);
        }
        ticket = Ticket{};
    }

    platform::WaitResult wait_for_room(platform::Deadline deadline, const Group* group = nullptr) noexcept {
        return queue_.wait_for_room(deadline, group);
    }

    // --- Caller-runs; see Lanes. ---

    int try_borrow_lane(std::uint64_t lanes = ~std::uint64_t{0}) noexcept { return lanes_.try_borrow(lanes); }
    void run_borrowed(int lane) noexcept { lanes_.run_borrowed(lane); }
    void run_borrowed_job(int lane, const Ticket& ticket, platform::Clock::time_point until) noexcept {
        lanes_.run_borrowed_job(lane, *ticket.job, until);
    }
    void return_lane(int lane) noexcept { lanes_.give_back(lane); }

    // --- Jobs ---

    // A bulk request; `inputs[port]` must stay valid and unchanged until the job is quiet().
    Admission submit_rows(std::vector<std::byte*> inputs, std::uint32_t rows, Ticket& ticket, const Terms& terms = {}) {
        // Before memory is made for the outputs.
        if (const Admission admission = admit(rows, terms); admission != Admission::ok) return admission;
        return submit_job(new Job(std::move(inputs), rows, lanes_.chunk_sizes(), layout().outputs), ticket, terms);
    }
    Admission submit_shaped(std::vector<ShapedInput> inputs, Ticket& ticket, const Terms& terms = {}) {
        if (const Admission admission = admit(1, terms); admission != Admission::ok) return admission;
        return submit_job(new Job(std::move(inputs)), ticket, terms);
    }
    // One run of an infer request that is its owner's. `wake`: not for a caller that has a lane and runs it there.
    Admission submit_own(std::shared_ptr<Runnable> own, Ticket& ticket, bool wake = true) {
        if (const Admission admission = admit(1, {}); admission != Admission::ok) return admission;
        return submit_job(new Job(std::move(own)), ticket, {}, wake);
    }

    // --- Sessions ---

    // Throws what the device throws. Only for models whose lanes have `sessions_from`.
    std::shared_ptr<Session> open_session() { return sessions_.open(); }
    Sessions& sessions() noexcept { return sessions_; }
    std::uint64_t lanes_of(const Session& session) const noexcept { return sessions_.lanes(session.home()); }

    // The session's next request. `wake`: not for a caller that has one of the session's lanes and runs it there.
    Admission submit_in_session(const std::shared_ptr<Session>& session, std::vector<ShapedInput> inputs,
                                Ticket& ticket, bool wake = true) {
        ticket = Ticket{};
        if (closing()) return Admission::closed;
        Job* const job = new Job(Job::InSession{}, std::move(inputs));
        const auto added = sessions_.add(session, job, [this] { return !queue_.is_full_elsewhere(1); });
        if (added != Sessions::Added::ok) {
            job->settle(0);
            return added == Sessions::Added::full ? Admission::full : Admission::closed;
        }
        ticket.job = job;
        ticket.rows = 1;
        if (wake) lanes_.notify_home(session->home());
        return Admission::ok;
    }
    platform::WaitResult wait_for_session_room(platform::Deadline deadline) {
        return queue_.wait_for_room_elsewhere(deadline);
    }
    // (closed) Ends what the session has left; see Sessions::end().
    void end_session(Session& session) noexcept {
        closed_requests_.add(sessions_.end(session));
        queue_.wake_for_room();
    }
    // After Sessions::try_hold().
    void let_go(const std::shared_ptr<Session>& session) noexcept {
        if (sessions_.done(session)) lanes_.notify_home(session->home());
    }

    // --- Leases ---

    // Rows to be written in place and published later, or never. Like begin(), but the batch does not wait for long.
    Admission begin_lease(std::uint32_t rows, Ticket& ticket) {
        const Admission admission = begin(rows, ticket);
        OVENGINE_FAILPOINT("ModelCore::begin_lease, begun");
        if (admission == Admission::ok && ticket.slot != nullptr) {
            ticket.slot->hold();
            ticket.batch->lease(ticket.row, rows);
        }
        return admission;
    }
    // The memory of an open lease is handed on to somebody who may write to it until let_go(), whatever becomes of the
    // lease. Null where the lease has memory of the request's own.
    Slot* hold(const Ticket& lease) const noexcept {
        if (lease.slot != nullptr) lease.slot->hold();
        return lease.slot;
    }
    void let_go(Slot* slot) noexcept {
        if (slot->let_go()) dispatcher_.give_back(slot);
    }
    // False when the batch has gone without it: the caller abandons it.
    bool publish_lease(Ticket& ticket, Admission& admission) noexcept {
        Slot* const slot = ticket.slot;
        if (slot != nullptr && !ticket.batch->transition(ticket.row, RowState::leased, RowState::live)) return false;
        if (slot != nullptr) let_go(slot);
        admission = publish(ticket);
        return true;
    }
    // Instead of publish_lease(): the rows are given up.
    void abandon_lease(Ticket& ticket) noexcept {
        if (ticket.slot == nullptr) return abandon(ticket);
        Slot& slot = *ticket.slot;
        if (ticket.batch->transition(ticket.row, RowState::leased, RowState::cancelled)) {
            slot.word.publish(ticket.rows);
            lanes_.notify(capacity());
        }
        let_go(&slot);
        ticket.batch->release(ticket.rows);
        ticket = Ticket{};
    }

    // --- The outcome of a ticket ---

    // Of a ticket whose outcome is known: the request, and with it the copy of its input, goes back to the pool.
    void drop_request(Ticket& ticket) noexcept {
        if (ticket.request == nullptr || forked()) return;
        completion(ticket);
        queue_.drop(std::exchange(ticket.request, nullptr));
    }
    std::byte* output(const Ticket& ticket, std::size_t port) const noexcept {
        if (ticket.job != nullptr) return ticket.job->output(port);
        return ticket.batch->output(port) + ticket.row * layout().outputs[port];
    }
    // Gives the references back. A request that is still queued must have been cancelled, or its result is dropped.
    // In the child of a fork nobody is there to give anything back to.
    void release(Ticket& ticket) noexcept {
        if (forked()) return;
        if (ticket.request != nullptr) {
            // Once assigned, the rows' references are this holder's; before that the request has to be given up first.
            if (outcome(ticket) == Outcome::pending) cancel(ticket);
            completion(ticket);
            queue_.drop(ticket.request);
        }
        if (ticket.batch != nullptr) ticket.batch->release(ticket.rows);
        if (ticket.job != nullptr) ticket.job->release(1);
        ticket = Ticket{};
    }

    // --- The end ---

    // See Closing. Refuses new requests; those that have no result at `deadline` end with Outcome::closed. To be
    // followed by wait_closed().
    void begin_close(platform::Deadline deadline) noexcept { closing_.begin(deadline); }
    // False when `until` comes first.
    bool wait_closed(platform::Deadline until) noexcept { return closing_.wait(until); }
    bool all_served() const noexcept { return closing_.all_served(); }
    // All of it. True when all requests got their results, also when the model was closed before.
    bool close(platform::Deadline deadline) noexcept {
        begin_close(deadline);
        wait_closed(std::nullopt);
        return all_served();
    }

    // In the child of a fork: the lanes do not exist here, nothing may wait for them, and a lock may be held for ever.
    // Throws std::bad_alloc.
    void mark_forked() {
        forked_.store(true, std::memory_order_relaxed);
        lanes_.refuse();
        // Never destroyed: the device would wait for its threads.
        [[maybe_unused]] static std::vector<std::shared_ptr<ModelCore>>& kept =
            *new std::vector<std::shared_ptr<ModelCore>>;
        kept.push_back(shared_from_this());
    }
    bool forked() const noexcept { return forked_.load(std::memory_order_relaxed); }

    // Slots, batches, requests and rows that somebody still has; all zero at rest.
    Dispatcher::InUse in_use() { return dispatcher_.in_use(); }
    std::uint64_t approx_waiting() const noexcept { return queue_.approx_queued() + sessions_.approx_waiting(); }
    const LaneStats& lane_stats(std::size_t lane) const noexcept { return lanes_[lane].stats(); }
    std::uint32_t lane_device(std::size_t lane) const noexcept { return lanes_[lane].device(); }
    std::uint64_t closed_requests() const noexcept { return closed_requests_.load(); }
    // Cancelled before a lane had them; the others are in the statistics of the lanes.
    std::uint64_t cancelled_requests() const noexcept { return queue_.cancelled(); }
    std::uint64_t expired_requests() const noexcept { return queue_.expired(); }
    std::uint64_t superseded_requests() const noexcept { return queue_.superseded(); }
    std::uint64_t refused_requests() const noexcept { return queue_.refused(); }  // for want of memory

  private:
    // May a request wait, as it looks now?
    Admission admit(std::uint32_t rows, const Terms& terms) {
        if (closing()) return Admission::closed;
        if (terms.deadline_ns != Terms::kNoDeadline) {
            if (deadlines_.expected_end_ns(rows, terms) > terms.deadline_ns) return Admission::unmeetable;
            deadlines_.keep(shared_from_this());
        }
        // One that replaces another needs no room.
        return !terms.latest_only && queue_.is_full(terms.group.get()) ? Admission::full : Admission::ok;
    }

    // --- What Closing asks for ---

    friend class Closing<ModelCore>;
    void refuse() noexcept { lanes_.close(); }
    bool is_at_rest() noexcept {
        return lanes_.all_idle() && !dispatcher_.has_work(false) && sessions_.approx_waiting() == 0;
    }
    std::size_t end_rest() noexcept {
        // close_waiting() also wakes those who wait for room.
        return counted(sessions_.end_all() + dispatcher_.close_waiting() + dispatcher_.close_open_rows());
    }
    void stop() noexcept {
        lanes_.stop();
        deadlines_.wake();
    }
    std::size_t end_current() noexcept { return counted(lanes_.close_current()); }
    bool any_running() const noexcept { return lanes_.any_running(); }
    std::size_t end() noexcept {
        closed_.store(true, std::memory_order_seq_cst);
        // Rows that were claimed before closing() was seen, published after the lanes left.
        return counted(dispatcher_.end() + sessions_.end_all() + dispatcher_.close_waiting());
    }
    std::size_t counted(std::size_t closed) noexcept {
        closed_requests_.add(closed);
        return closed;
    }

    Admission submit_job(Job* job, Ticket& ticket, const Terms& terms, bool wake = true) {
        ticket = Ticket{};
        if (closing()) {
            job->settle(0);
            return Admission::closed;
        }
        OVENGINE_FAILPOINT("ModelCore::submit_job");
        if (!(terms.is_plain() ? add(job, wake) : queue_job(job, terms))) {
            job->settle(0);
            return Admission::full;
        }
        ticket.job = job;
        ticket.rows = job->rows();
        return Admission::ok;
    }
    bool add(Job* job, bool wake) noexcept {
        // A job is work for as many lanes as it has chunks.
        const std::uint32_t chunks = job->chunks(max_batch_rows());
        if (!dispatcher_.try_add(job)) return false;
        if (closed_.load(std::memory_order_seq_cst)) closed_requests_.add(dispatcher_.close_waiting());
        if (!wake) return true;
        for (std::uint32_t i = 0; i < std::min<std::uint32_t>(chunks, static_cast<std::uint32_t>(lanes_.count())); ++i)
            lanes_.notify(UINT32_MAX);
        return true;
    }
    bool queue_job(Job* job, const Terms& terms) {
        Request* request = nullptr;
        try {
            request = queue_.make_request();
        } catch (...) {
            job->settle(0);
            throw;
        }
        request->set_terms(terms);
        request->begin(job->rows(), now_ns());
        request->set_job(job);
        if (queue(request, true)) return true;
        queue_.discard(request);
        return false;
    }

    // False when there is no room; the request stays the caller's.
    bool queue(Request* request, bool wake) noexcept {
        // Read before it is others'.
        const std::int64_t deadline_ns = request->terms().deadline_ns;
        const bool is_urgent = deadline_ns != Terms::kNoDeadline || request->terms().priority < kDefaultPriority ||
                               request->job() != nullptr;
        if (!queue_.try_queue(request)) return false;
        if (deadline_ns != Terms::kNoDeadline) deadlines_.notice(deadline_ns);
        OVENGINE_FAILPOINT("ModelCore::publish, queued");
        // Closed in between: the lanes may be gone, and whoever comes last clears the ring.
        if (closed_.load(std::memory_order_seq_cst)) closed_requests_.add(dispatcher_.close_waiting());
        if (wake) lanes_.notify(is_urgent ? UINT32_MAX : static_cast<std::uint32_t>(queue_.approx_waiting()) + 1);
        return true;
    }

    static std::size_t align(std::size_t bytes) noexcept {
        return (bytes + platform::kSlabAlignment - 1) / platform::kSlabAlignment * platform::kSlabAlignment;
    }
    std::size_t aligned_bytes(std::uint32_t rows) const noexcept {
        std::size_t total = 0;
        for (const auto bytes : layout().inputs) total += align(bytes * rows);
        return total;
    }

    Dispatcher dispatcher_;
    Queue& queue_ = dispatcher_.queue();
    Sessions sessions_;
    Lanes lanes_;
    Deadlines deadlines_{dispatcher_, lanes_};
    std::atomic<bool> closed_{false}, forked_{false};
    Closing<ModelCore> closing_{*this};
    SharedCounter closed_requests_;
};

}  // namespace ovengine
