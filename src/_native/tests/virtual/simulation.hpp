// A core in virtual time: things happen to it at given microseconds, and the inferences that it ran are the result.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <ostream>
#include <random>

#include "fixture.hpp"

namespace ovengine::testing {

using Costs = std::map<std::uint32_t, double>;  // a ladder: microseconds of one inference at each size

// One inference. `rows`: those that are somebody's; the others are padding.
struct Ran {
    std::int64_t at_us;
    std::uint32_t size, rows;
    auto operator<=>(const Ran&) const = default;
};

class Simulation {
  public:
    // `takes_us`: what the device really takes, where that is not what the cost table says.
    explicit Simulation(const Costs& costs, std::size_t lanes = 1, Costs takes_us = {})
        : takes_us_(takes_us.empty() ? costs : std::move(takes_us)),
          threads_(lanes),
          model({.ladder = sizes(costs), .cost_us = times(costs), .lanes = lanes, .log = false, .wrap = timed()}),
          start_(platform::Clock::now()) {}

    std::int64_t now_us() const { return (platform::Clock::now() - start_) / 1us; }
    // Lets everything happen that happens until then.
    void run_until(std::int64_t at_us) {
        platform::virtual_time.run_until(start_ + std::chrono::microseconds(at_us), threads_);
    }
    std::vector<Ran> ran() {
        const std::lock_guard lock(mutex_);
        return ran_;
    }
    // The requests whose rows ran, in that order, by the number that submit() gave them.
    std::vector<std::size_t> order() {
        const std::lock_guard lock(mutex_);
        return order_;
    }

    std::size_t submit(std::uint32_t rows, const Terms& terms = {}) {
        if (terms.deadline_ns != Terms::kNoDeadline) start_keeper();
        const float tag = next_tag(rows);
        requests_.push_back({model.submit(tag, rows, terms), tag});
        return requests_.size() - 1;
    }
    // As one job, which the lanes take chunk by chunk.
    std::size_t submit_bulk(std::uint32_t rows) {
        const float tag = next_tag(rows);
        auto& values = memory_.emplace_back(rows * model.width);
        for (std::size_t i = 0; i < values.size(); ++i) values[i] = tag + static_cast<float>(i / model.width);
        Ticket ticket;
        CHECK(model->submit_rows({reinterpret_cast<std::byte*>(values.data())}, rows, ticket) == Admission::ok);
        requests_.push_back({ticket, tag});
        return requests_.size() - 1;
    }
    // What the device takes from now on.
    void take(const Costs& costs) {
        const std::lock_guard lock(mutex_);
        takes_us_ = costs;
    }
    // From now on it takes up to this share more or less, as devices do: lanes do not keep step for ever.
    void vary(double share) {
        const std::lock_guard lock(mutex_);
        varies_by_ = share;
    }
    // And what the table says.
    void set_costs(const Costs& costs) {
        take(costs);
        model.install(sizes(costs), times(costs));
    }
    bool is_done(std::size_t request) { return ModelCore::outcome(requests_[request].ticket) != Outcome::pending; }
    // Of a request that is done: its own result, and it is forgotten.
    void collect(std::size_t request) {
        auto& [ticket, tag, is_collected] = requests_[request];
        CHECK(model.finish(ticket, tag) == Outcome::ok);
        is_collected = true;
    }
    // So many clients, each of whom submits a row when it has the result of the one before; how many rows were answered
    // until then. They look for results once in `look_us`.
    std::size_t serve(std::size_t clients, std::int64_t until_us, std::int64_t look_us) {
        std::vector<std::size_t> pending;
        for (std::size_t client = 0; client < clients; ++client) pending.push_back(submit(1));
        std::size_t answered = 0;
        while (now_us() < until_us) {
            run_until(now_us() + look_us);
            for (auto& request : pending) {
                if (!is_done(request)) continue;
                collect(request);
                ++answered;
                request = submit(1);
            }
        }
        return answered;
    }
    // All that is left happens; every request has its own result, or this outcome.
    void finish(Outcome otherwise = Outcome::ok) {
        run_until(now_us() + 3'600'000'000);
        for (auto& [ticket, tag, is_collected] : requests_) {
            if (is_collected) continue;
            const Outcome outcome = model.finish(ticket, tag);
            CHECK(outcome == Outcome::ok || outcome == otherwise);
        }
        requests_.clear();
    }

  private:
    struct Submitted {
        Ticket ticket;
        float tag;
        bool is_collected = false;
    };

    // Notes when an inference begins, and takes its time.
    class Timed final : public Executor {
      public:
        Timed(Simulation& simulation, std::unique_ptr<Executor> fake, std::uint32_t size, std::size_t width)
            : simulation_(simulation), fake_(std::move(fake)), size_(size), width_(width) {}
        void infer(std::uint32_t binding, std::byte* const* inputs, std::byte* const* outputs) override {
            platform::virtual_time.sleep_for(simulation_.begin(size_, reinterpret_cast<float*>(inputs[0]), width_));
            fake_->infer(binding, inputs, outputs);
        }
        std::vector<ShapedOutput> infer_shaped(const std::vector<ShapedInput>& inputs) override {
            return fake_->infer_shaped(inputs);
        }

      private:
        Simulation& simulation_;
        const std::unique_ptr<Executor> fake_;
        const std::uint32_t size_;
        const std::size_t width_;
    };

    static std::vector<std::uint32_t> sizes(const Costs& costs) {
        std::vector<std::uint32_t> sizes;
        for (const auto& [size, us] : costs) sizes.push_back(size);
        return sizes;
    }
    static std::vector<double> times(const Costs& costs) {
        std::vector<double> times;
        for (const auto& [size, us] : costs) times.push_back(us);
        return times;
    }
    decltype(Setup::wrap) timed() {
        return [this](std::unique_ptr<Executor> fake, std::uint32_t size, std::size_t width) {
            return std::make_unique<Timed>(*this, std::move(fake), size, width);
        };
    }
    // How long it takes.
    std::chrono::nanoseconds begin(std::uint32_t size, const float* values, std::size_t width) {
        const std::lock_guard lock(mutex_);
        Ran ran{now_us(), size, 0};
        for (std::uint32_t row = 0; row < size; ++row) {
            const float tag = values[row * width];
            if (is_repeated(values, row, width)) continue;
            ++ran.rows;
            const std::size_t request = owners_[static_cast<std::size_t>(tag)];
            if (order_.empty() || order_.back() != request) order_.push_back(request);
        }
        ran_.push_back(ran);
        const double varied = 1 + std::uniform_real_distribution<double>(-varies_by_, varies_by_)(bits_);
        return std::chrono::nanoseconds(std::llround(takes_us_.at(size) * varied * 1e3));
    }
    // Rows are known again by the value that they begin with; zero is padding.
    float next_tag(std::uint32_t rows) {
        const std::lock_guard lock(mutex_);
        const std::size_t tag = owners_.size();
        owners_.resize(tag + rows, requests_.size());
        return static_cast<float>(tag);
    }
    void start_keeper() {
        if (!std::exchange(has_keeper_, true)) ++threads_;
    }

    std::mutex mutex_;
    Costs takes_us_;
    double varies_by_ = 0;
    std::mt19937 bits_{1};
    std::vector<Ran> ran_;
    std::vector<std::size_t> owners_{SIZE_MAX}, order_;
    std::size_t threads_;
    bool has_keeper_ = false;
    std::vector<Submitted> requests_;
    std::deque<std::vector<float>> memory_;

  public:
    Model model;

  private:
    const platform::Clock::time_point start_;
};

}  // namespace ovengine::testing
