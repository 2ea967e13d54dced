// Closing: how a model ends. Named states, and one function that moves between them.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <mutex>
#include <thread>

#include "platform/futex.hpp"

namespace ovengine {

//   serving --begin()--> draining   new requests are refused, accepted ones run
//   draining ----------> ending     all are served, or the deadline has come: the rest ends as `closed`, lanes leave
//   ending ------------> closed     the lanes have left, or one that does not come back is left behind
//
// Any number of threads close a model together. Each calls begin(), which can only bring the deadline forward, and then
// wait() until that is true. Every waiting thread moves the model on, and none holds the lock while it sleeps. So a
// thread may stop waiting at any time, for a signal for example: the model stays as it is, and the next one to close it
// goes on from there.
//
// `Model` does the work: is_at_rest(), refuse(), end_rest(), stop(), end_current(), any_running() and end(). Those that
// end requests return how many.
template <class Model>
class Closing {
  public:
    explicit Closing(Model& model) : model_(model) {}

    // No deadline: the one that others have given, if any.
    void begin(platform::Deadline deadline) noexcept {
        const std::lock_guard lock(mutex_);
        if (state_ == State::serving) {
            state_ = State::draining;
            model_.refuse();
        }
        if (deadline) drain_until_ = drain_until_ ? std::min(*drain_until_, *deadline) : *deadline;
    }

    // Waits until the model is closed; false when `until` comes first. After begin().
    bool wait(platform::Deadline until) noexcept {
        for (auto pause = kFirstPause; !advance(); pause = std::min(2 * pause, kLongestPause)) {
            if (until && platform::Clock::now() >= *until) return false;
            std::this_thread::sleep_for(pause);
        }
        return true;
    }

    // Of a model that is closed: did all requests get their results?
    bool all_served() const noexcept {
        const std::lock_guard lock(mutex_);
        return ended_ == 0;
    }

  private:
    enum class State { serving, draining, ending, closed };

    // How long lanes are waited for. One with nothing to do is about to leave; one that runs an inference of a request
    // that has ended may come back in a moment, or never.
    static constexpr std::chrono::milliseconds kGrace{2000}, kGraceAtWork{250};
    static constexpr std::chrono::microseconds kFirstPause{50}, kLongestPause{2000};

    // As far as it goes without waiting. True when the model is closed.
    bool advance() noexcept {
        const std::lock_guard lock(mutex_);
        const auto now = platform::Clock::now();
        if (state_ == State::draining) {
            is_drained_ = model_.is_at_rest();
            if (!is_drained_ && !(drain_until_ && now >= *drain_until_)) return false;
            if (!is_drained_) ended_ += model_.end_rest();
            leave_until_ = now + (is_drained_ ? kGrace : kGraceAtWork);
            state_ = State::ending;
        }
        if (state_ == State::ending) {
            model_.stop();
            if (!is_drained_) ended_ += model_.end_current();
            if (model_.any_running() && now < leave_until_) return false;
            ended_ += model_.end();
            state_ = State::closed;
        }
        return true;
    }

    Model& model_;
    mutable std::mutex mutex_;
    State state_ = State::serving;
    platform::Deadline drain_until_{};
    platform::Clock::time_point leave_until_{};
    bool is_drained_ = false;
    std::size_t ended_ = 0;
};

}  // namespace ovengine
