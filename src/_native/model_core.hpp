// ModelCore: one loaded model at run time. What the binding calls; everything else is behind it.
#pragma once

#include <pthread.h>

#include <csignal>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cpu_budget.hpp"
#include "deadline_keeper.hpp"
#include "dispatcher.hpp"
#include "failpoint.hpp"
#include "idle_lanes.hpp"
#include "job.hpp"
#include "ladder.hpp"
#include "lane.hpp"
#include "policy.hpp"
#include "session.hpp"

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

// Thread-safe. Kept alive by its lane threads as well, so that an inference that never returns can be left behind.
class ModelCore : public std::enable_shared_from_this<ModelCore> {
  public:
    struct LaneConfig {
        std::uint32_t device;
        std::vector<std::unique_ptr<Executor>> executors;      // one per ladder size
        std::uint32_t cpus = 0;                                // that one inference keeps busy
        std::shared_ptr<const CompiledModel> sessions_from{};  // null: the model has no sessions
    };
    struct Options {
        Dispatcher::Options queue;
        std::shared_ptr<CpuBudget> budget{};  // shared with other models; null: no limit
    };

    ModelCore(RowLayout layout, CostTable costs, std::vector<LaneConfig> lanes, Options options)
        : ladder_(std::make_shared<const Ladder>(std::move(costs), lanes.size())),
          dispatcher_(std::move(layout), ladder_->capacity(), options.queue),
          budget_(std::move(options.budget)) {
        if (lanes.empty() || lanes.size() > IdleLanes::kMaxLanes)
            throw std::invalid_argument("a model runs on 1 to 64 lanes");
        for (auto& lane : lanes) {
            const auto index = static_cast<std::uint32_t>(lanes_.size());
            lanes_.push_back(std::make_unique<LaneThread>(index, lane.device, Rungs(ladder_, std::move(lane.executors)),
                                                          dispatcher_));
            lanes_.back()->home = sessions_.add_lane(index, std::move(lane.sessions_from));
            if (budget_ != nullptr) lanes_.back()->cpus = std::min(lane.cpus, budget_->cpus());
        }
        all_lanes_ = lanes_.size() == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << lanes_.size()) - 1;
        wake_rows_.store(ladder_->wake_rows(), std::memory_order_relaxed);
        set_shortest_run();
        policy_ = std::make_unique<PriorityPolicy>();
    }

    // Before start().
    void set_policy(std::unique_ptr<Policy> policy) {
        policy_ = std::move(policy);
        dispatcher_.set_group_weight([this](const Group& group) { return policy_->weight(group); });
    }
    std::vector<LaneFacts> lane_facts() const {
        std::vector<LaneFacts> facts;
        for (const auto& lane : lanes_) facts.push_back({lane->lane.device(), &lane->lane.stats()});
        return facts;
    }

    void start() {
        running_.store(static_cast<std::uint32_t>(lanes_.size()), std::memory_order_relaxed);
        for (std::uint32_t i = 0; i < lanes_.size(); ++i)
            std::thread([self = shared_from_this(), i] { self->run_lane(i); }).detach();
    }

    // Other sizes, while requests run: `lanes[i]` has lane i's executors by size, null for a size that it has already.
    // The largest is no smaller than before.
    void install(CostTable costs, std::vector<std::vector<std::unique_ptr<Executor>>> lanes) {
        const std::lock_guard lock(ladder_mutex_);
        if (lanes.size() != lanes_.size() || costs.capacity() < ladder_->capacity())
            throw std::invalid_argument("a new ladder is for the same lanes, and reaches as far as the old one");
        put_up(std::make_shared<const Ladder>(std::move(costs), lanes_.size()), std::move(lanes));
        dispatcher_.grow(ladder_->capacity());
    }
    // The same sizes at the cost that was seen meanwhile, if that has changed.
    void refine() {
        const std::lock_guard lock(ladder_mutex_);
        auto better = ladder_->refined();
        if (better != nullptr)
            put_up(std::move(better), std::vector<std::vector<std::unique_ptr<Executor>>>(lanes_.size()));
    }
    // Of one inference at each size, microseconds, as it is known now.
    std::vector<std::pair<std::uint32_t, double>> costs() const {
        std::vector<std::pair<std::uint32_t, double>> result;
        const auto known = ladder();
        for (std::size_t i = 0; i < known->costs().sizes().size(); ++i)
            result.emplace_back(known->costs().sizes()[i], known->costs().cost_us(i));
        return result;
    }

    const RowLayout& layout() const noexcept { return dispatcher_.layout(); }
    std::uint32_t capacity() const noexcept { return dispatcher_.capacity(); }
    std::size_t lane_count() const noexcept { return lanes_.size(); }
    std::uint64_t policy_faults() const noexcept { return policy_->faults(); }

    // --- Limits, while requests run; see Dispatcher. ---

    std::uint32_t max_batch_rows() const noexcept { return dispatcher_.max_batch_rows(); }
    std::size_t ring_capacity() const noexcept { return dispatcher_.ring_capacity(); }
    void set_max_batch_rows(std::uint32_t rows) noexcept {
        dispatcher_.set_max_batch_rows(rows);
        wake_all();
    }
    void set_max_queue_delay_ns(std::int64_t delay_ns) noexcept {
        dispatcher_.set_max_queue_delay_ns(delay_ns);
        wake_all();
    }
    void set_max_queue_size(std::uint32_t size) noexcept { dispatcher_.set_max_queue_size(size); }

    bool closing() const noexcept { return closing_.load(std::memory_order_seq_cst); }

    // Of requests that share what there is with other groups; for this model.
    std::shared_ptr<Group> make_group(std::string name) const { return std::make_shared<Group>(std::move(name)); }

    // --- One request of up to max_batch_rows() rows: begin, write to destination(), publish (or abandon). ---

    // On `ok` the caller owns the rows' memory until publish() or abandon(). `full`: max_queue_size is reached, or the
    // ring is full; nothing was taken.
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
        if (dispatcher_.is_full()) return Admission::full;
        ticket.request = dispatcher_.make_request();
        return Admission::ok;
    }
    // The same for a request with terms: it waits for its turn in the backlog.
    Admission begin(std::uint32_t rows, Ticket& ticket, const Terms& terms) {
        if (terms.is_plain()) return begin(rows, ticket);
        if (const Admission admission = admit(rows, terms); admission != Admission::ok) return admission;
        ticket = Ticket{};
        ticket.rows = rows;
        ticket.request = dispatcher_.make_request();
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
    static void share(const Ticket& ticket, std::vector<std::byte*> inputs) {
        ticket.request->sources() = std::move(inputs);
    }

    // The rows are written: they may run from now on. `full` is possible for a request that goes to the ring; it is
    // abandoned then.
    Admission publish(Ticket& ticket, bool wake = true) {
        if (ticket.slot != nullptr) {
            Slot& slot = *std::exchange(ticket.slot, nullptr);
            OVENGINE_FAILPOINT("ModelCore::publish");
            const bool first = slot.word.publish(ticket.rows) == 0;
            OVENGINE_FAILPOINT("ModelCore::publish, published");
            if (!wake) return Admission::ok;
            const std::uint32_t pending = dispatcher_.approx_pending_rows(slot);
            // A held batch needs a lane twice: when its clock starts and when it is full.
            if (!dispatcher_.holds_batches() || first || pending >= std::min(slot.capacity, max_batch_rows()))
                notify(pending);
            return Admission::ok;
        }
        ticket.request->begin(ticket.rows, now_ns());
        if (queue(ticket.request, wake)) return Admission::ok;
        abandon(ticket);
        return Admission::full;
    }

    // Instead of publish(): writing failed. The ticket is void.
    void abandon(Ticket& ticket) {
        if (ticket.slot != nullptr) {
            ticket.batch->transition(ticket.row, RowState::live, RowState::cancelled);
            ticket.slot->word.publish(ticket.rows);
            notify(capacity());
            ticket.batch->release(ticket.rows);
        } else if (ticket.request != nullptr) {
            dispatcher_.discard(ticket.request);
        }
        ticket = Ticket{};
    }

    platform::WaitResult wait_for_room(platform::Deadline deadline, const Group* group = nullptr) {
        return dispatcher_.wait_for_room(deadline, group);
    }

    // --- Caller-runs: a blocking caller that finds a lane free runs its batch itself. ---

    // A free lane, now the caller's, or -1. To be followed by run_borrowed(), run_borrowed_job() or
    // return_lane(). `lanes`: those that will do.
    int try_borrow_lane(std::uint64_t lanes = ~std::uint64_t{0}) noexcept {
        if (dispatcher_.holds_batches() || dispatcher_.approx_waiting() > 0) return -1;
        const std::uint64_t idle = idle_.load() & lanes;
        if (idle == 0) return -1;
        const std::uint32_t index = choose(idle, 1);
        if (!idle_.try_take(index)) return -1;
        LaneThread& lane = *lanes_[index];
        if (lane.cpus != 0 && !budget_->try_take(lane.cpus)) {
            put_back(index);
            return -1;
        }
        return static_cast<int>(index);
    }
    // Runs what is due, the caller's rows included unless another lane has them, and gives the lane back.
    void run_borrowed(int index) {
        LaneThread& lane = *lanes_[static_cast<std::size_t>(index)];
        platform::Clock::time_point until;
        if (take(lane, until, true) == Dispatcher::Taken::work) {
            if (lane.work.reason == LaneStats::idle) lane.work.reason = LaneStats::caller;
            run(lane);
        }
        return_lane(index);
    }
    // The same for a job: its chunks and what is due in between, as long as there are any and `until` has not come.
    void run_borrowed_job(int index, const Ticket& ticket, platform::Clock::time_point until) {
        LaneThread& lane = *lanes_[static_cast<std::size_t>(index)];
        platform::Clock::time_point due;
        while (!ticket.job->all_handed_out() && take(lane, due, true) == Dispatcher::Taken::work) {
            run(lane);
            if (platform::Clock::now() >= until || (lane.cpus != 0 && budget_->wanted())) break;
        }
        return_lane(index);
    }
    void return_lane(int index) noexcept {
        const auto lane = static_cast<std::uint32_t>(index);
        if (lanes_[lane]->cpus != 0) budget_->give_back(lanes_[lane]->cpus);
        put_back(lane);
    }

    // --- Jobs ---

    // A bulk request; `inputs[port]` must stay valid and unchanged until the job is quiet().
    Admission submit_rows(std::vector<std::byte*> inputs, std::uint32_t rows, Ticket& ticket, const Terms& terms = {}) {
        // Before memory is made for the outputs.
        if (const Admission admission = admit(rows, terms); admission != Admission::ok) return admission;
        return submit_job(new Job(std::move(inputs), rows, chunk_sizes(), layout().outputs), ticket, terms);
    }
    Admission submit_shaped(std::vector<ShapedInput> inputs, Ticket& ticket, const Terms& terms = {}) {
        if (const Admission admission = admit(1, terms); admission != Admission::ok) return admission;
        return submit_job(new Job(std::move(inputs)), ticket, terms);
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
        const auto added = sessions_.add(session, job, room_for_sessions());
        if (added != Sessions::Added::ok) {
            job->settle(0);
            return added == Sessions::Added::full ? Admission::full : Admission::closed;
        }
        ticket.job = job;
        ticket.rows = 1;
        if (wake) notify_home(session->home());
        return Admission::ok;
    }
    platform::WaitResult wait_for_session_room(platform::Deadline deadline) {
        return sessions_.wait_for_room(room_for_sessions(), deadline);
    }
    // (closed) Ends what the session has left; see Sessions::end().
    void end_session(Session& session) { closed_requests_.add(sessions_.end(session)); }
    // After Sessions::try_hold().
    void let_go(const std::shared_ptr<Session>& session) {
        if (sessions_.done(session)) notify_home(session->home());
    }

    // --- Leases ---

    // Rows to be written in place and published later, or never. Like begin(), but the batch does not wait for long.
    Admission begin_lease(std::uint32_t rows, Ticket& ticket) {
        const Admission admission = begin(rows, ticket);
        OVENGINE_FAILPOINT("ModelCore::begin_lease, begun");
        if (admission == Admission::ok && ticket.slot != nullptr) ticket.batch->lease(ticket.row, rows);
        return admission;
    }
    // False when the batch has gone without it; end_lease() is due in any case when the caller no longer writes.
    bool publish_lease(Ticket& ticket, Admission& admission) {
        if (ticket.slot != nullptr && !ticket.batch->transition(ticket.row, RowState::leased, RowState::live))
            return false;
        admission = publish(ticket);
        return true;
    }
    // The caller has stopped writing to a lease that it did not publish.
    void abandon_lease(Ticket& ticket) {
        if (ticket.slot == nullptr) return abandon(ticket);
        Slot& slot = *ticket.slot;
        if (ticket.batch->transition(ticket.row, RowState::leased, RowState::cancelled)) {
            slot.word.publish(ticket.rows);
            notify(capacity());
        } else if (ticket.batch->state(ticket.row) == RowState::lost &&
                   slot.lost_leases.fetch_sub(1, std::memory_order_acq_rel) == 1) {
            dispatcher_.give_back(&slot);
        }
        ticket.batch->release(ticket.rows);
        ticket = Ticket{};
    }

    // --- The outcome of a ticket ---

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
    // Passes `notice` on when the outcome is known; false (and not taken) when it is known already.
    static bool attach(Ticket& ticket, Notice* notice) noexcept {
        Completion* known = completion(ticket);
        if (known == nullptr) {
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
    // Of a ticket whose outcome is known: the request, and with it the copy of its input, goes back to the pool.
    void drop_request(Ticket& ticket) noexcept {
        if (ticket.request == nullptr) return;
        completion(ticket);
        dispatcher_.drop(std::exchange(ticket.request, nullptr));
    }
    std::byte* output(const Ticket& ticket, std::size_t port) const noexcept {
        if (ticket.job != nullptr) return ticket.job->output(port);
        return ticket.batch->output(port) + ticket.row * layout().outputs[port];
    }
    // Gives the references back. A request that is still queued must have been cancelled, or its result is dropped.
    void release(Ticket& ticket) noexcept {
        if (ticket.request != nullptr) {
            // Once assigned, the rows' references are this holder's; before that the request has to be given up first.
            if (outcome(ticket) == Outcome::pending) cancel(ticket);
            completion(ticket);
            dispatcher_.drop(ticket.request);
        }
        if (ticket.batch != nullptr) ticket.batch->release(ticket.rows);
        if (ticket.job != nullptr) ticket.job->release(1);
        ticket = Ticket{};
    }

    // --- The end ---

    // Refuses new requests, waits until all others have their results or `deadline` has passed, then ends the rest
    // with Outcome::closed. True when there was no rest. Closing again does nothing and gives the same answer.
    bool close(platform::Deadline deadline) {
        const std::lock_guard lock(close_mutex_);
        if (closed_.load(std::memory_order_seq_cst)) return all_done_;
        closing_.store(true, std::memory_order_seq_cst);
        wake_all();
        bool drained = at_rest();
        while (!drained && (!deadline || platform::Clock::now() < *deadline)) {
            std::this_thread::sleep_for(std::chrono::microseconds(200));
            drained = at_rest();
        }
        std::size_t closed = 0;
        if (!drained) {
            closed += dispatcher_.close_waiting();
            closed += dispatcher_.close_open_rows();
            closed += sessions_.end_all();
        }
        stopping_.store(true, std::memory_order_seq_cst);
        keeper_.wake();
        const auto give_up = platform::Clock::now() + kExitGrace;
        while (running_.load(std::memory_order_acquire) != 0 && platform::Clock::now() < give_up) {
            wake_all();
            if (!drained)
                for (const auto& lane : lanes_) closed += lane->lane.close_current();
            std::this_thread::sleep_for(std::chrono::microseconds(100));
        }
        closed_.store(true, std::memory_order_seq_cst);
        // Rows that were claimed before `closing_` was seen, published after the lanes left.
        closed += dispatcher_.end();
        closed += dispatcher_.close_waiting();
        closed += sessions_.end_all();
        closed_requests_.add(closed);
        return all_done_ = closed == 0;
    }

    // In the child of a fork: the lanes do not exist here, and nothing may wait for them.
    void mark_forked() noexcept {
        forked_.store(true, std::memory_order_relaxed);
        closing_.store(true, std::memory_order_relaxed);
    }
    bool forked() const noexcept { return forked_.load(std::memory_order_relaxed); }

    // Slots, batches, requests and rows that somebody still has; all zero at rest.
    Dispatcher::InUse in_use() {
        const std::lock_guard lock(close_mutex_);
        return dispatcher_.in_use();
    }
    std::uint64_t approx_waiting() const noexcept { return dispatcher_.approx_queued() + sessions_.approx_waiting(); }
    const LaneStats& lane_stats(std::size_t lane) const noexcept { return lanes_[lane]->lane.stats(); }
    std::uint32_t lane_device(std::size_t lane) const noexcept { return lanes_[lane]->lane.device(); }
    std::uint64_t closed_requests() const noexcept { return closed_requests_.load(); }
    // Cancelled before a lane had them; the others are in the statistics of the lanes.
    std::uint64_t cancelled_requests() const noexcept { return dispatcher_.cancelled(); }
    std::uint64_t expired_requests() const noexcept { return dispatcher_.expired(); }
    std::uint64_t superseded_requests() const noexcept { return dispatcher_.superseded(); }

  private:
    // May a request wait, as it looks now?
    Admission admit(std::uint32_t rows, const Terms& terms) {
        if (closing()) return Admission::closed;
        if (terms.deadline_ns != Terms::kNoDeadline) {
            if (expected_end_ns(rows, terms) > terms.deadline_ns) return Admission::unmeetable;
            start_keeper();
        }
        // One that replaces another needs no room.
        return !terms.latest_only && dispatcher_.is_full(terms.group.get()) ? Admission::full : Admission::ok;
    }

    // When a request that is queued now has its result, by the cost table and by what waits.
    std::int64_t expected_end_ns(std::uint32_t rows, const Terms& terms) const {
        const std::int64_t now = now_ns();
        const std::uint64_t ahead = dispatcher_.rows_ahead(terms, rows, now);
        const auto known = ladder();
        const std::uint32_t full = std::min(known->capacity(), max_batch_rows());
        const std::uint64_t full_batches = (ahead + rows - 1) / full;
        const auto last = static_cast<std::uint32_t>(ahead + rows - full_batches * full);
        std::int64_t free_ns = idle_.load() != 0 ? now : Terms::kNoDeadline;
        double pace = 0;
        for (const auto& each : lanes_) {
            free_ns = std::min(free_ns, std::max(now, each->lane.busy_until_ns()));
            pace += each->lane.pace() / static_cast<double>(lanes_.size());
        }
        const double parallel = static_cast<double>(full_batches) / static_cast<double>(lanes_.size());
        // Batches and bulk requests take turns.
        const double turns = dispatcher_.has_jobs() ? 2 : 1;
        // Without a queue by the table alone: where nothing is run any more, no pace is seen to get better.
        double us = turns * parallel * pace * known->costs().run_us(full);
        // Under load its batch will be full, and one more and a part of the whole are for all that may be different by
        // then: of those who are admitted at the very limit half would be late.
        us += full_batches > 0 ? us / 16 + 2 * known->costs().run_us(full) : known->costs().run_us(last);
        return free_ns + static_cast<std::int64_t>(us * 1e3);
    }

    // One thread of a model that is given deadlines.
    void start_keeper() {
        std::call_once(keeper_started_, [this] {
            running_.fetch_add(1, std::memory_order_relaxed);
            try {
                std::thread([self = shared_from_this()] {
                    block_signals();
                    self->keeper_.run([&] { return self->dispatcher_.expire(now_ns()); },
                                      [&] { return self->stopping_.load(std::memory_order_seq_cst); });
                    self->running_.fetch_sub(1, std::memory_order_acq_rel);
                }).detach();
            } catch (...) {
                running_.fetch_sub(1, std::memory_order_relaxed);
                throw;
            }
        });
    }

    // How often the cost of batches is looked at again.
    static constexpr std::chrono::nanoseconds kRefineInterval{1'000'000'000};
    // How long close() waits for an inference that does not come back.
    static constexpr std::chrono::milliseconds kExitGrace{2000};

    struct LaneThread {
        template <class... Args>
        explicit LaneThread(Args&&... args) : lane(std::forward<Args>(args)...) {}
        Lane lane;
        Work work;
        std::uint32_t home = 0;     // of sessions
        bool session_next = false;  // as Dispatcher's job_next_, of one lane
        // Of the CPU budget: how much, and until when while others wait; 0: it has none at the moment.
        std::uint32_t cpus = 0;
        std::int64_t share_until_ns = 0;
        // 1: the lane was handed to its thread. Apart from the lane's own data, which its owner writes.
        alignas(platform::kNoSharing) std::atomic<std::uint32_t> signal{0};
    };

    // Of a lane that was taken out of the set and is not at work.
    void put_back(std::uint32_t lane) noexcept {
        idle_.put(lane);
        OVENGINE_FAILPOINT("ModelCore::return_lane, put");
        // Others may have counted on this lane: its own thread goes on with what they left.
        if ((has_work(*lanes_[lane], false) || stopping_.load(std::memory_order_seq_cst)) && idle_.try_take(lane))
            signal(lane);
    }

    std::shared_ptr<const Ladder> ladder() const {
        const std::lock_guard lock(ladder_mutex_);
        return ladder_;
    }
    std::shared_ptr<const ChunkSizes> chunk_sizes() const {
        auto known = ladder();
        const ChunkSizes* const chunks = &known->chunks();
        return {std::move(known), chunks};
    }
    // Under ladder_mutex_.
    void put_up(std::shared_ptr<const Ladder> next, std::vector<std::vector<std::unique_ptr<Executor>>> executors) {
        for (std::size_t i = 0; i < lanes_.size(); ++i) lanes_[i]->lane.install(Rungs(next, std::move(executors[i])));
        wake_rows_.store(next->wake_rows(), std::memory_order_relaxed);
        ladder_ = std::move(next);
        set_shortest_run();
    }
    // Before work, and after each piece of it: a share of the CPU budget, in turns with the lanes of other models.
    void take_share(LaneThread& lane) {
        if (lane.cpus == 0) return;
        if (lane.share_until_ns != 0) {
            if (!budget_->wanted() || lane.lane.ended_ns() < lane.share_until_ns) return;
            give_share_back(lane);
        }
        budget_->take(lane.cpus);
        lane.share_until_ns = now_ns() + CpuBudget::kSlice.count();
    }
    void give_share_back(LaneThread& lane) noexcept {
        if (lane.share_until_ns == 0) return;
        lane.share_until_ns = 0;
        budget_->give_back(lane.cpus);
    }

    void set_shortest_run() noexcept {
        dispatcher_.set_shortest_run_ns(static_cast<std::int64_t>(ladder_->costs().run_us(1) * 1e3));
    }

    // Signals are for the application's own threads.
    static void block_signals() noexcept {
        sigset_t all;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, nullptr);
    }

    void run_lane(std::uint32_t index) {
        block_signals();
        pthread_setname_np(pthread_self(), ("ovengine " + std::to_string(index)).c_str());  // for top, gdb, perf
        LaneThread& lane = *lanes_[index];
        std::int64_t refine_at_ns = now_ns() + kRefineInterval.count();
        for (;;) {
            platform::Clock::time_point until;
            take_share(lane);
            const std::uint32_t limits = dispatcher_.limits_epoch();
            const auto taken = take(lane, until, closing());
            if (taken == Dispatcher::Taken::work) {
                run(lane);
                if (lane.lane.ended_ns() >= refine_at_ns) {
                    refine_at_ns = lane.lane.ended_ns() + kRefineInterval.count();
                    refine();
                }
                continue;
            }
            give_share_back(lane);
            if (taken == Dispatcher::Taken::nothing && stopping_.load(std::memory_order_seq_cst)) break;
            const bool holding = taken == Dispatcher::Taken::hold;
            OVENGINE_FAILPOINT("ModelCore::run_lane, before put");
            idle_.put(index);
            OVENGINE_FAILPOINT("ModelCore::run_lane, put");
            if ((has_work(lane, holding) || stopping_.load(std::memory_order_seq_cst) ||
                 (holding && (closing() || dispatcher_.limits_epoch() != limits))) &&
                idle_.try_take(index)) {
                platform::relax();
                continue;
            }
            park(index, holding ? platform::Deadline(until) : std::nullopt);
        }
        running_.fetch_sub(1, std::memory_order_acq_rel);
    }

    // Under max_queue_size all that waits counts; otherwise sessions have a ring's worth of their own.
    std::int64_t room_for_sessions() const noexcept {
        const auto others = static_cast<std::int64_t>(dispatcher_.approx_queued());
        return dispatcher_.has_limit() ? dispatcher_.limit() - others : dispatcher_.limit();
    }

    // What the lane's owner does next. Sessions and all others take turns, so that neither starves the other.
    Dispatcher::Taken take(LaneThread& lane, platform::Clock::time_point& until, bool flush) {
        if (lane.session_next && take_session(lane)) {
            lane.session_next = false;
            return Dispatcher::Taken::work;
        }
        lane.session_next = true;
        const auto taken = dispatcher_.take(lane.work, until, flush);
        return taken != Dispatcher::Taken::work && take_session(lane) ? Dispatcher::Taken::work : taken;
    }
    bool take_session(LaneThread& lane) {
        lane.work.session = sessions_.take(lane.home, lane.work.job);
        if (lane.work.session == nullptr) return false;
        lane.work.slot = nullptr;
        lane.work.chunk = {0, lane.work.job->hand_out_rest()};
        lane.work.reason = LaneStats::session;
        return true;
    }
    void run(LaneThread& lane) {
        lane.lane.run(lane.work);
        if (lane.work.session == nullptr) return;
        sessions_.done(lane.work.session);  // what it has left comes to this lane again, or to a free one
        lane.work.session.reset();
    }
    bool has_work(const LaneThread& lane, bool holding) const noexcept {
        return dispatcher_.has_work(holding) || sessions_.has_work(lane.home);
    }

    // Until the lane is this thread's again: somebody handed it over, or the deadline came and nobody has it.
    void park(std::uint32_t index, platform::Deadline deadline) {
        auto& word = lanes_[index]->signal;
        // acquire: pairs with the release in signal().
        while (word.exchange(0, std::memory_order_acquire) == 0) {
            if (platform::futex_wait(word, 0, deadline) != platform::WaitResult::timed_out) continue;
            if (idle_.try_take(index)) return;
            deadline.reset();  // a caller has the lane, and hands it over when there is anything left
        }
    }

    void signal(std::uint32_t index) noexcept {
        auto& word = lanes_[index]->signal;
        word.store(1, std::memory_order_release);
        platform::futex_wake(word, 1);
    }

    std::uint32_t choose(std::uint64_t idle, std::uint32_t pending_rows) noexcept {
        return (idle & (idle - 1)) == 0 ? static_cast<std::uint32_t>(std::countr_zero(idle))
                                        : policy_->select(idle, pending_rows);
    }

    // Wakes a lane for rows that were just published, unless a busy one is back sooner: every lane looks for work
    // again before it parks, so rows are never left behind.
    void notify(std::uint32_t pending_rows) noexcept {
        for (std::uint64_t idle = idle_.load(); idle != 0; idle = idle_.load()) {
            if (idle != all_lanes_ && pending_rows < wake_rows_.load(std::memory_order_relaxed)) return;
            const std::uint32_t lane = choose(idle, pending_rows);
            if (idle_.try_take(lane)) return signal(lane);
        }
    }

    // Wakes a lane for a session of this home, unless all of them are busy: they look again before they park.
    void notify_home(std::uint32_t home) noexcept {
        const std::uint64_t lanes = sessions_.lanes(home);
        for (std::uint64_t idle = idle_.load() & lanes; idle != 0; idle = idle_.load() & lanes) {
            const std::uint32_t lane = choose(idle, 1);
            if (idle_.try_take(lane)) return signal(lane);
        }
    }

    void wake_all() noexcept {
        for (std::uint32_t lane = 0; lane < lanes_.size(); ++lane)
            if (idle_.try_take(lane)) signal(lane);
    }

    bool at_rest() noexcept {
        return idle_.load() == all_lanes_ && !dispatcher_.has_work(false) && sessions_.approx_waiting() == 0;
    }

    Admission submit_job(Job* job, Ticket& ticket, const Terms& terms) {
        ticket = Ticket{};
        if (closing()) {
            job->settle(0);
            return Admission::closed;
        }
        ticket.job = job;
        ticket.rows = job->rows();
        OVENGINE_FAILPOINT("ModelCore::submit_job");
        if (!(terms.is_plain() ? add(job) : queue_job(job, terms))) {
            job->settle(0);
            ticket = Ticket{};
            return Admission::full;
        }
        return Admission::ok;
    }
    bool add(Job* job) {
        // A job is work for as many lanes as it has chunks.
        const std::uint32_t chunks = job->chunks(max_batch_rows());
        if (!dispatcher_.try_add(job)) return false;
        if (closed_.load(std::memory_order_seq_cst)) closed_requests_.add(dispatcher_.close_waiting());
        for (std::uint32_t i = 0; i < std::min<std::uint32_t>(chunks, static_cast<std::uint32_t>(lanes_.size())); ++i)
            notify(UINT32_MAX);
        return true;
    }
    bool queue_job(Job* job, const Terms& terms) {
        Request* const request = dispatcher_.make_request();
        request->set_terms(terms);
        request->begin(job->rows(), now_ns());
        request->set_job(job);
        if (queue(request, true)) return true;
        dispatcher_.discard(request);
        return false;
    }

    // False when there is no room; the request stays the caller's.
    bool queue(Request* request, bool wake) {
        // Read before it is others'.
        const std::int64_t deadline_ns = request->terms().deadline_ns;
        const bool is_urgent = deadline_ns != Terms::kNoDeadline || request->terms().priority < kDefaultPriority ||
                               request->job() != nullptr;
        if (!dispatcher_.try_queue(request)) return false;
        if (deadline_ns != Terms::kNoDeadline) keeper_.notice(deadline_ns);
        OVENGINE_FAILPOINT("ModelCore::publish, queued");
        // Closed in between: the lanes may be gone, and whoever comes last clears the ring.
        if (closed_.load(std::memory_order_seq_cst)) closed_requests_.add(dispatcher_.close_waiting());
        if (wake) notify(is_urgent ? UINT32_MAX : static_cast<std::uint32_t>(dispatcher_.approx_waiting()) + 1);
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

    mutable std::mutex ladder_mutex_;
    std::shared_ptr<const Ladder> ladder_;
    Dispatcher dispatcher_;
    const std::shared_ptr<CpuBudget> budget_;
    Sessions sessions_;
    std::vector<std::unique_ptr<LaneThread>> lanes_;
    std::unique_ptr<Policy> policy_;
    std::uint64_t all_lanes_ = 0;
    std::atomic<std::uint32_t> wake_rows_{1};  // relaxed: a hint
    IdleLanes idle_;
    DeadlineKeeper keeper_;
    std::once_flag keeper_started_;
    std::atomic<bool> closing_{false}, stopping_{false}, closed_{false}, forked_{false};
    std::mutex close_mutex_;
    bool all_done_ = false;  // what close() found
    std::atomic<std::uint32_t> running_{0};
    SharedCounter closed_requests_;
};

}  // namespace ovengine
