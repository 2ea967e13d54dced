// LaneShare: how many of the rows that wait one lane may take at once.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <memory>
#include <utility>

#include "ladder/ladder.hpp"
#include "ladder/trials.hpp"

namespace ovengine {

// update() and adopt(): under the dispatcher's lock. All others: any thread. relaxed throughout: estimates, and each a
// number that stands for itself; who reads an old one makes a batch of another size.
class LaneShare {
  public:
    // So many lanes run what there is, at these costs.
    void adopt(std::shared_ptr<const Ladder> ladder, std::size_t lanes) noexcept {
        ladder_ = std::move(ladder);
        lanes_ = lanes;
        found_ = {};
    }

    // Rows that a batch may have; UINT32_MAX: as many as it has room for.
    std::uint32_t rows() const noexcept { return rows_.load(std::memory_order_relaxed); }

    // A request of so many rows comes.
    void expect(std::uint32_t rows) noexcept {
        const float mean = rows_per_request_.load(std::memory_order_relaxed);
        const float change = static_cast<float>(rows) - mean;
        if (change == 0) return;  // as it is for most models: all requests have one row
        rows_per_request_.store(std::abs(change) < kAboutTheSame ? static_cast<float>(rows) : mean + change * kWeight,
                                std::memory_order_relaxed);
    }

    // A lane has taken so many rows, or has run them.
    void begin(std::uint32_t rows) noexcept { running_rows_.fetch_add(rows, std::memory_order_relaxed); }
    void finish(std::uint32_t rows) noexcept { running_rows_.fetch_sub(rows, std::memory_order_relaxed); }

    // Before a lane takes a batch, beside what is running: `claimed` rows and `requests` wait. The lane may have its
    // share of that, or as many rows as the size holds that it is to try, which is the result. `most`: rows that a
    // batch may have in any case; `holds`: a batch waits until it has them.
    std::size_t update(std::uint32_t claimed, std::uint64_t requests, std::uint32_t most, bool holds, Trials& trials,
                       std::size_t lane) noexcept {
        if (ladder_ == nullptr) return Trials::kNone;
        const double waiting =
            claimed + static_cast<double>(requests) * rows_per_request_.load(std::memory_order_relaxed);
        // At least one: what comes next is claimed in the open slot, not copied into the queue.
        const std::uint64_t rows =
            std::max<std::uint64_t>(running_rows_.load(std::memory_order_relaxed) + std::lround(waiting), 1);
        const auto together = static_cast<std::uint32_t>(std::min<std::uint64_t>({rows, most, ladder_->capacity()}));
        const std::size_t trial = waiting > 0 ? trials.choose(*ladder_, lane, together) : Trials::kNone;
        next_rows_ = UINT32_MAX;
        if (holds) return trial;
        // Mostly there are as many as the last time.
        if (found_.rows != rows || found_.most != most)
            found_ = {rows, most, fastest(rows, most), fastest(rows + 1, most)};
        const std::uint32_t tried = trial != Trials::kNone ? ladder_->costs().sizes()[trial] : 0;
        rows_.store(tried > 0 ? tried : found_.now, std::memory_order_relaxed);
        next_rows_ = tried > 0 ? tried : found_.next;
        return trial;
    }
    // After the lane has taken it, or has found nothing: the open batch is of what comes now.
    void begin_next() noexcept { rows_.store(next_rows_, std::memory_order_relaxed); }
    void lift() noexcept { rows_.store(UINT32_MAX, std::memory_order_relaxed); }

    // Of the shortest inference; 0 while nothing is known.
    std::int64_t shortest_run_ns() const noexcept {
        return ladder_ != nullptr ? static_cast<std::int64_t>(ladder_->costs().run_us(1) * 1e3) : 0;
    }

  private:
    static constexpr float kWeight = 1.0f / 16;  // of the last request
    static constexpr float kAboutTheSame = 0.1f;
    // What a lane loses between two batches: when the next one waits already, and when those who have their results
    // have to come again first.
    static constexpr double kNextUs = 15, kComeAgainUs = 60;

    // As many of these rows in a batch as make the lanes together run the most rows a second: an equal share, rounded
    // up to whole runs of a size, or one run of a size of which others then wait. That may leave lanes without any rows
    // where one batch of more is worth it. Of two that are as good the larger one.
    std::uint32_t fastest(std::uint64_t rows, std::uint32_t limit) const noexcept {
        const CostTable& costs = ladder_->costs();
        const std::uint64_t share = (rows + lanes_ - 1) / lanes_;
        std::uint32_t best = 1;
        double most = 0;
        const auto consider = [&](std::uint64_t piece) {
            const auto size = static_cast<std::uint32_t>(std::min<std::uint64_t>(piece, limit));
            const double speed = rows_per_us(rows, size);
            if (speed >= most) most = speed, best = size;
        };
        for (const std::uint64_t size : costs.sizes()) {
            if (size < share) consider(size);
            // Larger runs than those of the grain are hardly cheaper.
            if (size <= costs.grain()) consider((share + size - 1) / size * size);
        }
        return best;
    }
    // Of all lanes, when they take so many rows in pieces of so many.
    double rows_per_us(std::uint64_t rows, std::uint32_t piece) const noexcept {
        const CostTable& costs = ladder_->costs();
        const std::uint64_t pieces = std::min<std::uint64_t>(rows / piece, lanes_);
        const double between_us = rows >= (lanes_ + 1) * piece ? kNextUs : kComeAgainUs;
        double speed = static_cast<double>(pieces * piece) / (costs.run_us(piece) + between_us);
        const auto rest = static_cast<std::uint32_t>(pieces < lanes_ ? rows % piece : 0);
        if (rest > 0) speed += rest / (costs.run_us(rest) + between_us);
        return speed;
    }

    struct Found {
        std::uint64_t rows = 0;  // that there are; 0: nothing was found yet
        std::uint32_t most = 0, now = 0, next = 0;
    };

    std::atomic<std::uint32_t> rows_{UINT32_MAX};
    std::uint32_t next_rows_ = UINT32_MAX;
    std::atomic<float> rows_per_request_{1};  // mean of the last ones
    std::atomic<std::uint64_t> running_rows_{0};
    std::shared_ptr<const Ladder> ladder_;
    std::size_t lanes_ = 1;
    Found found_;  // what fastest() said last
};

}  // namespace ovengine
