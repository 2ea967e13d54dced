// Session: requests that run in order on one infer request, whose state lasts from one to the next.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_set>
#include <utility>
#include <vector>

#include "batch/chain.hpp"
#include "device/executor.hpp"
#include "platform/futex.hpp"
#include "requests/job.hpp"

namespace ovengine {

class Sessions;

// What a lane runs, or its owner holds, at most one at a time. Kept alive by its owner and by those who run it.
class Session {
  public:
    Session(Sessions& all, std::uint32_t home, std::unique_ptr<StatefulExecutor> executor)
        : all_(all), home_(home), executor_(std::move(executor)) {}
    inline ~Session();
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;

    std::uint32_t home() const noexcept { return home_; }
    // Only for who runs or holds it (but for what never changes: the names and types of the state).
    StatefulExecutor& executor() const noexcept { return *executor_; }

    Session* next = nullptr;  // in the line of its home, under the lock of `all_`

  private:
    friend class Sessions;

    Sessions& all_;
    const std::uint32_t home_;
    const std::unique_ptr<StatefulExecutor> executor_;
    // Everything below: under the lock of `all_`.
    Chain<Job> waiting_;
    Job* running_ = nullptr;
    bool busy_ = false;   // waits for a lane, is run by one, or is held
    bool reset_ = false;  // before whatever comes next
    bool closed_ = false;
    bool ended_ = false;                // with requests that it had not served
    std::shared_ptr<Session> in_line_;  // itself, while it is in the line of its home
    std::uint32_t rest_waiters_ = 0;
    std::atomic<std::uint32_t> rest_epoch_{0};
};

// All sessions of a model, and which of them wait for a lane.
//
// Each session belongs to a *home*: the lanes that run the compiled model which its infer request comes from. Another
// lane would have to wait for that compiled model, or to carry the state over. A session has at most one request with
// the lanes; the next one follows when that is done, behind the other sessions that wait.
// Any thread; one lock, held for a few instructions.
class Sessions {
  public:
    // (before any other) The home of lane `lane`; null where there are no sessions.
    std::uint32_t add_lane(std::uint32_t lane, std::shared_ptr<const CompiledModel> compiled) {
        std::uint32_t home = 0;
        while (home < homes_.size() && homes_[home]->compiled != compiled) ++home;
        if (home == homes_.size()) homes_.push_back(std::make_unique<Home>(std::move(compiled)));
        homes_[home]->lanes |= std::uint64_t{1} << lane;
        return home;
    }
    std::uint64_t lanes(std::uint32_t home) const noexcept { return homes_[home]->lanes; }

    // A session in its initial state, at the home that has the fewest for its lanes. Throws what the device throws.
    std::shared_ptr<Session> open() {
        std::uint32_t home = 0;
        {
            const std::lock_guard lock(mutex_);
            for (std::uint32_t other = 1; other < homes_.size(); ++other)
                if (load(other) < load(home)) home = other;
            ++homes_[home]->sessions;
        }
        std::shared_ptr<Session> session;
        try {
            session = std::make_shared<Session>(*this, home, homes_[home]->compiled->make_stateful());
        } catch (...) {
            const std::lock_guard lock(mutex_);
            --homes_[home]->sessions;  // from here on ~Session() does that
            throw;
        }
        const std::lock_guard lock(mutex_);
        open_.insert(session.get());
        return session;
    }

    enum class Added { ok, full, closed };

    // The job becomes the session's last request, and the caller's again when it is not `ok`. `has_room()`: may it wait
    // beside the others? Asked when it has been counted. On `ok` the lanes of the home are to be told.
    template <class HasRoom>
    Added add(const std::shared_ptr<Session>& session, Job* job, HasRoom has_room) noexcept {
        const std::lock_guard lock(mutex_);
        if (closed_ || session->closed_) return Added::closed;
        // seq_cst: pairs with Dispatcher::try_push(), which counts and then asks as well; of two for one place at least
        // one sees the other.
        waiting_.fetch_add(1, std::memory_order_seq_cst);
        if (!has_room()) {
            waiting_.fetch_sub(1, std::memory_order_relaxed);
            return Added::full;
        }
        if (std::exchange(session->reset_, false)) job->reset_state_first();
        session->waiting_.push_back(job);
        if (!std::exchange(session->busy_, true)) make_ready(session);
        return Added::ok;
    }

    // Is there anything that take() would hand out? seq_cst: after the caller's IdleLanes::put(), pairs with
    // make_ready().
    bool has_work(std::uint32_t home) const noexcept {
        return homes_[home]->ready_count.load(std::memory_order_seq_cst) > 0;
    }

    // The next session of a home and its first request; the caller runs it and calls done(). Null when none waits.
    // There is room for another request then, as after end() and end_all(): the caller tells who waits for it.
    std::shared_ptr<Session> take(std::uint32_t home_index, Job*& job) noexcept {
        Home& home = *homes_[home_index];
        // relaxed: a hint; a lane that goes to sleep asks has_work().
        if (home.ready_count.load(std::memory_order_relaxed) == 0) return nullptr;
        const std::lock_guard lock(mutex_);
        if (home.ready.empty()) return nullptr;
        auto session = std::move(home.ready.pop_front()->in_line_);
        home.count_ready();
        job = session->running_ = session->waiting_.pop_front();
        job->retain(1);  // for end()
        waiting_.fetch_sub(1, std::memory_order_relaxed);
        return session;
    }

    // The request that take() gave is through, or the session no longer held. The session's next request waits for a
    // lane from here on; true when there is one.
    bool done(const std::shared_ptr<Session>& session) noexcept {
        const std::lock_guard lock(mutex_);
        if (session->running_ != nullptr) std::exchange(session->running_, nullptr)->release(1);
        if (!session->waiting_.empty()) {
            make_ready(session);
            return true;
        }
        rest(*session);
        return false;
    }

    // True when the session is at rest: it is the caller's then, until done(). A reset that is due is up to the caller.
    bool try_hold(Session& session, bool& reset) {
        const std::lock_guard lock(mutex_);
        if (session.busy_) return false;
        session.busy_ = true;
        reset = std::exchange(session.reset_, false);
        return true;
    }
    // Waits until the session is at rest; may return early.
    platform::WaitResult wait_for_rest(Session& session, platform::Deadline deadline) {
        std::uint32_t epoch = 0;
        {
            const std::lock_guard lock(mutex_);
            if (!session.busy_) return platform::WaitResult::woken;
            epoch = session.rest_epoch_.load(std::memory_order_relaxed);  // written under the lock
            ++session.rest_waiters_;
        }
        const auto result = platform::futex_wait(session.rest_epoch_, epoch, deadline);
        const std::lock_guard lock(mutex_);
        --session.rest_waiters_;
        return result;
    }

    // Requests that are added from here on start from the initial state.
    void reset(Session& session) {
        const std::lock_guard lock(mutex_);
        session.reset_ = true;
    }

    // No further requests.
    void close(Session& session) {
        const std::lock_guard lock(mutex_);
        session.closed_ = true;
    }
    // Did end() or end_all() end any of its requests? Whoever waits for its rest is told.
    bool ended(const Session& session) {
        const std::lock_guard lock(mutex_);
        return session.ended_;
    }
    // (closed) Ends what the session has left with Outcome::closed; how many there were.
    std::size_t end(Session& session) noexcept {
        std::shared_ptr<Session> dropped;  // without the lock, which ~Session() takes
        const std::lock_guard lock(mutex_);
        const bool running = session.running_ != nullptr && session.running_->end(Outcome::closed);
        const std::size_t ended = end_waiting(session);
        if (running) note_end(session);
        Home& home = *homes_[session.home_];
        // One that waited for a lane waits no more; otherwise who runs or holds it calls done().
        if (home.ready.remove(&session)) {
            home.count_ready();
            rest(session);
            dropped = std::move(session.in_line_);
        }
        return ended + (running ? 1 : 0);
    }
    // (closing the model) For good: no more requests, and those that wait end with Outcome::closed; how many.
    std::size_t end_all() noexcept {
        Chain<Session> dropped;
        std::size_t ended = 0;
        {
            const std::lock_guard lock(mutex_);
            closed_ = true;
            for (Session* const session : open_) {
                if (session->running_ != nullptr) note_end(*session);  // its lane ends it
                ended += end_waiting(*session);
            }
            for (const auto& home : homes_) {
                while (Session* const session = home->ready.pop_front()) {
                    rest(*session);
                    dropped.push_back(session);  // it joins no line any more
                }
                home->count_ready();
            }
        }
        // Without the lock, which ~Session() takes.
        while (Session* const session = dropped.pop_front()) {
            const std::shared_ptr<Session> last = std::move(session->in_line_);
        }
        return ended;
    }

    // Requests that wait, of all sessions.
    std::uint64_t approx_waiting() const noexcept {
        return static_cast<std::uint64_t>(waiting_.load(std::memory_order_relaxed));
    }
    // The same count, to be read by those who count for the same limit.
    const std::atomic<std::int64_t>& waiting() const noexcept { return waiting_; }

    std::size_t count() {
        const std::lock_guard lock(mutex_);
        return open_.size();
    }

  private:
    friend class Session;

    struct Home {
        explicit Home(std::shared_ptr<const CompiledModel> model) : compiled(std::move(model)) {}
        const std::shared_ptr<const CompiledModel> compiled;
        std::uint64_t lanes = 0;
        std::uint32_t sessions = 0;
        Chain<Session> ready;
        std::atomic<std::uint32_t> ready_count{0};  // written under the lock

        // seq_cst: before the caller's look at the idle lanes, pairs with has_work().
        void count_ready() noexcept {
            ready_count.store(static_cast<std::uint32_t>(ready.size()), std::memory_order_seq_cst);
        }
    };

    // Everything below: under the lock.
    double load(std::uint32_t home) const noexcept {
        return static_cast<double>(homes_[home]->sessions) / std::popcount(homes_[home]->lanes);
    }
    void make_ready(const std::shared_ptr<Session>& session) noexcept {
        Home& home = *homes_[session->home_];
        session->in_line_ = session;
        home.ready.push_back(session.get());
        home.count_ready();
    }
    void rest(Session& session) noexcept {
        session.busy_ = false;
        tell_waiters(session);
    }
    void note_end(Session& session) noexcept {
        session.ended_ = true;
        tell_waiters(session);
    }
    void tell_waiters(Session& session) noexcept {
        session.rest_epoch_.fetch_add(1, std::memory_order_relaxed);  // the lock orders it; see wait_for_rest()
        if (session.rest_waiters_ > 0) platform::futex_wake_all(session.rest_epoch_);
    }
    std::size_t end_waiting(Session& session) noexcept {
        std::size_t ended = 0;
        if (!session.waiting_.empty()) note_end(session);
        while (Job* const job = session.waiting_.pop_front()) {
            ended += job->end(Outcome::closed) ? 1 : 0;
            waiting_.fetch_sub(1, std::memory_order_relaxed);
            if (job->finish(job->hand_out_rest())) job->settle(1);
        }
        return ended;
    }

    std::mutex mutex_;
    std::vector<std::unique_ptr<Home>> homes_;  // fixed once the lanes run
    std::unordered_set<Session*> open_;
    bool closed_ = false;
    std::atomic<std::int64_t> waiting_{0};  // written under the lock
};

Session::~Session() {
    const std::lock_guard lock(all_.mutex_);
    all_.open_.erase(this);
    --all_.homes_[home_]->sessions;
}

}  // namespace ovengine
