// Lanes: the lanes of a model, who has each of them at the moment, and what they do next.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "diagnostics/failpoint.hpp"
#include "ladder/ladder.hpp"
#include "lanes/cpu_budget.hpp"
#include "lanes/idle_lanes.hpp"
#include "lanes/lane.hpp"
#include "lanes/policy.hpp"
#include "platform/exit.hpp"
#include "platform/thread.hpp"
#include "queue/dispatcher.hpp"
#include "requests/session.hpp"

namespace ovengine {

// Each lane has a thread, which runs what there is and parks when there is nothing. A parked lane is in the set of idle
// ones (see IdleLanes): whoever takes it out of there owns it, a thread that wakes it or a caller that runs its own
// rows.
class Lanes {
  public:
    struct Config {
        std::uint32_t device;
        std::vector<std::unique_ptr<Executor>> executors;      // one per ladder size
        std::uint32_t cpus = 0;                                // that one inference keeps busy
        std::shared_ptr<const CompiledModel> sessions_from{};  // null: the model has no sessions
    };

    Lanes(Dispatcher& dispatcher, Sessions& sessions, CostTable costs, std::vector<Config> lanes,
          std::shared_ptr<CpuBudget> budget)
        : dispatcher_(dispatcher),
          sessions_(sessions),
          budget_(std::move(budget)),
          ladder_(std::make_shared<const Ladder>(std::move(costs), lanes.size())),
          policy_(std::make_unique<PriorityPolicy>()) {
        if (lanes.empty() || lanes.size() > IdleLanes::kMaxLanes)
            throw std::invalid_argument("a model runs on 1 to 64 lanes");
        for (auto& lane : lanes) {
            const auto index = static_cast<std::uint32_t>(lanes_.size());
            lanes_.push_back(std::make_unique<LaneThread>(
                index, lane.device, Rungs(ladder_, std::move(lane.executors), dispatcher_.layout().outputs),
                dispatcher_));
            lanes_.back()->home = sessions_.add_lane(index, std::move(lane.sessions_from));
            if (budget_ != nullptr) lanes_.back()->cpus = std::min(lane.cpus, budget_->cpus());
        }
        all_lanes_ = lanes_.size() == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << lanes_.size()) - 1;
        wake_rows_.store(ladder_->wake_rows(), std::memory_order_relaxed);
        slowest_us_.store(ladder_->costs().slowest_us(), std::memory_order_relaxed);
        dispatcher_.adopt(ladder_, lanes_.size());
        refine_soon();
    }

    std::size_t count() const noexcept { return lanes_.size(); }
    const Lane& operator[](std::size_t index) const noexcept { return lanes_[index]->lane; }
    Policy& policy() const noexcept { return *policy_; }
    // Before start().
    void set_policy(std::unique_ptr<Policy> policy) { policy_ = std::move(policy); }

    // --- The ladder ---

    // Other sizes, while requests run: `lanes[i]` has lane i's executors by size, null for a size that it has already.
    // The largest is no smaller than before.
    void install(CostTable costs, std::vector<std::vector<std::unique_ptr<Executor>>> lanes) {
        if (lanes.size() != lanes_.size()) throw std::invalid_argument("a new ladder is for the same lanes");
        auto next = next_of(std::make_shared<const Ladder>(std::move(costs), lanes_.size()), std::move(lanes));
        const std::lock_guard lock(ladder_mutex_);
        if (next.ladder->capacity() < ladder_->capacity())
            throw std::invalid_argument("a new ladder reaches as far as the old one");
        put_up(std::move(next));
        dispatcher_.grow(ladder_->capacity());
        refine_soon();
    }
    // The same sizes at the cost that was seen meanwhile, if that has changed.
    void refine() {
        const auto known = ladder();
        auto better = known->refined();
        if (better == nullptr) return;
        auto next = next_of(std::move(better), std::vector<std::vector<std::unique_ptr<Executor>>>(lanes_.size()));
        const std::lock_guard lock(ladder_mutex_);
        if (ladder_ == known) put_up(std::move(next));  // otherwise it is about another ladder
    }
    // See ModelCore.
    double slowest_us() const noexcept { return slowest_us_.load(std::memory_order_relaxed); }
    double unknown_us() const noexcept {
        std::int64_t most = 0;
        for (const auto& each : lanes_) most = std::max(most, each->lane.pace().unknown_ns());
        return static_cast<double>(most) / 1e3;
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

    // --- Caller-runs: a blocking caller that finds a lane free runs its batch itself. ---

    // A free lane, now the caller's, or -1, as it is for a closed model. To be followed by run_borrowed(),
    // run_borrowed_job() or give_back(). `lanes`: those that will do.
    int try_borrow(std::uint64_t lanes) noexcept {
        if (closing() || dispatcher_.holds_batches() || dispatcher_.queue().approx_waiting() > 0) return -1;
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
    void run_borrowed(int index) noexcept {
        LaneThread& lane = *lanes_[static_cast<std::size_t>(index)];
        platform::Clock::time_point until;
        if (take(lane, until, true) == Dispatcher::Taken::work) {
            if (lane.work.reason == LaneStats::idle) lane.work.reason = LaneStats::caller;
            run(lane);
        }
        give_back(index);
    }
    // The same for a job: its chunks and what is due in between, as long as there are any and `until` has not come.
    void run_borrowed_job(int index, const Job& job, platform::Clock::time_point until) noexcept {
        LaneThread& lane = *lanes_[static_cast<std::size_t>(index)];
        platform::Clock::time_point due;
        while (!job.all_handed_out() && take(lane, due, true) == Dispatcher::Taken::work) {
            run(lane);
            if (platform::Clock::now() >= until || (lane.cpus != 0 && budget_->wanted())) break;
        }
        give_back(index);
    }
    void give_back(int index) noexcept {
        const auto lane = static_cast<std::uint32_t>(index);
        if (lanes_[lane]->cpus != 0) budget_->give_back(lanes_[lane]->cpus);
        put_back(lane);
    }

    // --- Waking ---

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

    bool all_idle() const noexcept { return idle_.load() == all_lanes_; }
    // When the first of them is free, by the cost table.
    std::int64_t free_ns(std::int64_t now) const noexcept {
        std::int64_t free = idle_.load() != 0 ? now : INT64_MAX;
        for (const auto& each : lanes_) free = std::min(free, std::max(now, each->lane.pace().busy_until_ns()));
        return free;
    }
    // Mean of all lanes, see LanePace::ratio().
    double pace() const noexcept {
        double sum = 0;
        for (const auto& each : lanes_) sum += each->lane.pace().ratio();
        return sum / static_cast<double>(lanes_.size());
    }

    // --- Threads, and their end ---

    // `owner` keeps this alive until the last one has ended. Throws std::system_error or std::bad_alloc when there is
    // no room for one more thread; those that were started end.
    template <class Owner>
    void start(const std::shared_ptr<Owner>& owner) {
        try {
            for (std::uint32_t i = 0; i < lanes_.size(); ++i) start_thread(owner, [this, i] { run_lane(i); });
        } catch (...) {
            close();
            stop();
            throw;
        }
    }
    // The same for a thread that is no lane's; it ends when stopping().
    template <class Owner, class Body>
    void start_thread(const std::shared_ptr<Owner>& owner, Body body) {
        running_.fetch_add(1, std::memory_order_relaxed);
        try {
            std::thread([this, owner = owner, body]() mutable {
                const platform::AtWork at_work;
                const auto kept = std::move(owner);  // let go before at_work: its destructor may be the device's
                platform::block_signals();
                body();
                running_.fetch_sub(1, std::memory_order_acq_rel);
            }).detach();
        } catch (...) {
            running_.fetch_sub(1, std::memory_order_relaxed);
            throw;
        }
    }
    bool any_running() const noexcept { return running_.load(std::memory_order_acquire) != 0; }

    // No new requests; lanes hold nothing back from here on.
    bool closing() const noexcept { return closing_.load(std::memory_order_seq_cst); }
    void refuse() noexcept { closing_.store(true, std::memory_order_relaxed); }  // in the child of a fork
    void close() noexcept {
        closing_.store(true, std::memory_order_seq_cst);
        wake_all();
    }
    // Lanes that have nothing to do end.
    bool stopping() const noexcept { return stopping_.load(std::memory_order_seq_cst); }
    void stop() noexcept {
        stopping_.store(true, std::memory_order_seq_cst);
        wake_all();
    }
    // Ends what the lanes run at the moment with Outcome::closed; how many requests.
    std::size_t close_current() noexcept {
        std::size_t closed = 0;
        for (const auto& lane : lanes_) closed += lane->lane.close_current();
        return closed;
    }

  private:
    // How often the cost of batches is looked at again: first after this time, then after twice as long each time.
    static constexpr std::int64_t kFirstRefineNs = 10'000'000, kRefineNs = 1'000'000'000;

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

    // A ladder, and what each lane gets with it. Built without a lock: it takes as long as its table.
    struct Next {
        std::shared_ptr<const Ladder> ladder;
        std::vector<Lane::Next> of_lanes;
    };
    Next next_of(std::shared_ptr<const Ladder> ladder,
                 std::vector<std::vector<std::unique_ptr<Executor>>> executors) const {
        Next next{std::move(ladder), {}};
        for (auto& of_lane : executors)
            next.of_lanes.emplace_back(Rungs(next.ladder, std::move(of_lane), dispatcher_.layout().outputs));
        return next;
    }
    // Under ladder_mutex_.
    void put_up(Next next) noexcept {
        for (std::size_t i = 0; i < lanes_.size(); ++i) lanes_[i]->lane.install(std::move(next.of_lanes[i]));
        wake_rows_.store(next.ladder->wake_rows(), std::memory_order_relaxed);
        slowest_us_.store(next.ladder->costs().slowest_us(), std::memory_order_relaxed);
        ladder_ = std::move(next.ladder);
        dispatcher_.adopt(ladder_, lanes_.size());
    }
    // Before work, and after each piece of it: a share of the CPU budget, in turns with the lanes of other models.
    void take_share(LaneThread& lane) noexcept {
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

    void run_lane(std::uint32_t index) noexcept {
        platform::name_this_thread("ovengine " + std::to_string(index));
        platform::do_not_preempt();
        LaneThread& lane = *lanes_[index];
        for (;;) {
            platform::Clock::time_point until;
            take_share(lane);
            const std::uint32_t limits = dispatcher_.limits_epoch();
            const auto taken = take(lane, until, closing());
            if (taken == Dispatcher::Taken::work) {
                run(lane);
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
    }

    // What the lane's owner does next. Sessions and all others take turns, so that neither starves the other.
    Dispatcher::Taken take(LaneThread& lane, platform::Clock::time_point& until, bool flush) noexcept {
        if (lane.session_next && take_session(lane)) {
            lane.session_next = false;
            return Dispatcher::Taken::work;
        }
        lane.session_next = true;
        const auto taken = dispatcher_.take(lane.work, lane.lane.index(), lane.lane.trials(), until, flush);
        return taken != Dispatcher::Taken::work && take_session(lane) ? Dispatcher::Taken::work : taken;
    }
    bool take_session(LaneThread& lane) noexcept {
        lane.work.session = sessions_.take(lane.home, lane.work.job);
        if (lane.work.session == nullptr) return false;
        dispatcher_.queue().wake_for_room();
        lane.work.slot = nullptr;
        lane.work.chunk = {0, lane.work.job->hand_out_rest()};
        lane.work.reason = LaneStats::session;
        return true;
    }
    void run(LaneThread& lane) noexcept {
        lane.lane.run(lane.work);
        refine_at_times(lane.lane.ended_ns());
        if (lane.work.session == nullptr) return;
        sessions_.done(lane.work.session);  // what it has left comes to this lane again, or to a free one
        lane.work.session.reset();
    }
    // At the end of some piece of work.
    void refine_at_times(std::int64_t now) noexcept {
        // relaxed: one of those who find that it is time does it, and what it does is under a lock.
        std::int64_t due = refine_at_ns_.load(std::memory_order_relaxed);
        if (now < due) return;
        const std::int64_t interval = refine_interval_ns_.load(std::memory_order_relaxed);
        if (!refine_at_ns_.compare_exchange_strong(due, now + interval, std::memory_order_relaxed)) return;
        refine_interval_ns_.store(std::min(2 * interval, kRefineNs), std::memory_order_relaxed);
        try {
            refine();
        } catch (const std::bad_alloc&) {
            // The table stays as it is until the next time.
        }
    }
    void refine_soon() noexcept {
        refine_interval_ns_.store(kFirstRefineNs, std::memory_order_relaxed);
        refine_at_ns_.store(now_ns() + kFirstRefineNs, std::memory_order_relaxed);
    }

    bool has_work(const LaneThread& lane, bool holding) const noexcept {
        return dispatcher_.has_work(holding) || sessions_.has_work(lane.home);
    }

    // Until the lane is this thread's again: somebody handed it over, or the deadline came and nobody has it.
    void park(std::uint32_t index, platform::Deadline deadline) noexcept {
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

    Dispatcher& dispatcher_;
    Sessions& sessions_;
    const std::shared_ptr<CpuBudget> budget_;
    mutable std::mutex ladder_mutex_;
    std::shared_ptr<const Ladder> ladder_;
    std::vector<std::unique_ptr<LaneThread>> lanes_;
    std::unique_ptr<Policy> policy_;
    std::uint64_t all_lanes_ = 0;
    std::atomic<std::uint32_t> wake_rows_{1};  // relaxed, as the next one: a number that stands for itself
    std::atomic<double> slowest_us_{0};
    std::atomic<std::int64_t> refine_at_ns_{0}, refine_interval_ns_{kFirstRefineNs};
    IdleLanes idle_;
    std::atomic<bool> closing_{false}, stopping_{false};
    std::atomic<std::uint32_t> running_{0};
};

}  // namespace ovengine
