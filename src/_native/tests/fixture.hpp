// A whole core on a fake device, and clients of it that know their own rows again.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "check.hpp"
#include "core/model_core.hpp"
#include "device/fake_executor.hpp"

namespace ovengine::testing {

using namespace std::chrono_literals;

inline platform::Deadline in(std::chrono::nanoseconds time) { return platform::Clock::now() + time; }

// Waits for something that must come; false when it does not within the limit.
inline bool eventually(const std::function<bool()>& what, std::chrono::milliseconds limit = 20s) {
    for (const auto until = platform::Clock::now() + limit; !what(); std::this_thread::sleep_for(100us))
        if (platform::Clock::now() > until) return false;
    return true;
}

// Whether a row repeats one before it, as padding does. `values`: the rows of an inference.
inline bool is_repeated(const float* values, std::size_t row, std::size_t width) {
    for (std::size_t before = 0; before < row; ++before)
        if (values[before * width] == values[row * width]) return true;
    return false;
}

// What the lanes' inferences share: a log, and a brake.
class Device {
  public:
    struct Call {
        std::uint32_t size;
        std::vector<float> values;  // the first of each row
        std::vector<float> tags;    // the same, but 0 for a row that repeats another, as padding does
        std::thread::id thread;
    };

    // From here on inferences stop before they begin.
    void hold() {
        const std::lock_guard lock(mutex_);
        held_ = true;
    }
    void release() {
        const std::lock_guard lock(mutex_);
        held_ = false;
        changed_.notify_all();
    }
    bool wait_until_busy(std::size_t lanes = 1) {
        std::unique_lock lock(mutex_);
        return changed_.wait_for(lock, 20s, [&] { return waiting_ >= lanes; });
    }
    std::vector<Call> calls() const {
        const std::lock_guard lock(mutex_);
        return calls_;
    }

    void enter(Call call) {
        std::unique_lock lock(mutex_);
        calls_.push_back(std::move(call));
        ++waiting_;
        changed_.notify_all();
        changed_.wait(lock, [&] { return !held_; });
        --waiting_;
    }

  private:
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    bool held_ = false;
    std::size_t waiting_ = 0;
    std::vector<Call> calls_;
};

class LoggingExecutor final : public Executor {
  public:
    LoggingExecutor(std::unique_ptr<Executor> fake, std::shared_ptr<Device> device, std::uint32_t size,
                    std::size_t width)
        : fake_(std::move(fake)), device_(std::move(device)), size_(size), width_(width) {}

    void infer(std::uint32_t binding, std::byte* const* inputs, std::byte* const* outputs) override {
        const auto* values = reinterpret_cast<const float*>(inputs[0]);
        std::vector<float> firsts, tags;
        for (std::uint32_t row = 0; row < size_; ++row) {
            firsts.push_back(values[row * width_]);
            tags.push_back(is_repeated(values, row, width_) ? 0 : firsts.back());
        }
        device_->enter({size_, std::move(firsts), std::move(tags), std::this_thread::get_id()});
        fake_->infer(binding, inputs, outputs);
    }
    std::vector<ShapedOutput> infer_shaped(const std::vector<ShapedInput>& inputs) override {
        const float first = *reinterpret_cast<const float*>(inputs[0].data);
        device_->enter({1, {first}, {first}, std::this_thread::get_id()});
        return fake_->infer_shaped(inputs);
    }

  private:
    const std::unique_ptr<Executor> fake_;
    const std::shared_ptr<Device> device_;
    const std::uint32_t size_;
    const std::size_t width_;
};

struct Setup {
    std::vector<std::uint32_t> ladder{1, 4};
    std::vector<double> cost_us{};  // as if each inference took 100 us and each row one more, when empty
    std::size_t lanes = 1;
    std::size_t width = 4, out_width = 4;  // floats per row
    std::size_t inputs = 1;                // ports; only the first is looked at by the device
    FakeBehavior behavior{};
    Dispatcher::Options queue{};
    std::shared_ptr<CpuBudget> budget{};  // each lane takes a share of one
    std::unique_ptr<Policy> policy{};
    bool log = true;  // false: no lock of the test's own on the way, for stress tests
    std::function<std::unique_ptr<Executor>(std::unique_ptr<Executor>, std::uint32_t size, std::size_t width)> wrap{};
    std::function<std::shared_ptr<const CompiledModel>(std::shared_ptr<Device> device, std::size_t lane)>
        sessions_from{};
};

// One core; at its end it is closed, and everything is back where it belongs.
class Model {
  public:
    explicit Model(Setup given = {}) : width(given.width), out_width(given.out_width), setup(std::move(given)) {
        RowLayout layout{std::vector(setup.inputs, width * sizeof(float)), {out_width * sizeof(float)}};
        std::vector<ModelCore::LaneConfig> lanes(setup.lanes);
        for (std::size_t i = 0; i < setup.lanes; ++i) {
            lanes[i].device = static_cast<std::uint32_t>(i % 2);
            lanes[i].cpus = 1;
            if (setup.sessions_from) lanes[i].sessions_from = setup.sessions_from(device, i);
            for (const auto size : setup.ladder) lanes[i].executors.push_back(make_executor(size));
        }
        core_ = std::make_shared<ModelCore>(std::move(layout), costs(setup.ladder, setup.cost_us), std::move(lanes),
                                            ModelCore::Options{setup.queue, setup.budget});
        if (setup.policy) core_->set_policy(std::move(setup.policy));
        core_->start();
        // All lanes parked: what a test starts from. (Nobody can look at those of a model that holds batches.)
        if (setup.queue.max_queue_delay_ns > 0)
            std::this_thread::sleep_for(20ms);
        else
            CHECK(eventually([&] { return idle_lanes() == setup.lanes; }));
    }
    ~Model() { finish(); }
    Model(const Model&) = delete;
    Model& operator=(const Model&) = delete;

    // Installs this ladder; the lanes make executors for the sizes that they do not have yet.
    void install(const std::vector<std::uint32_t>& ladder, const std::vector<double>& cost_us = {}) {
        std::vector<std::vector<std::unique_ptr<Executor>>> lanes(setup.lanes);
        for (auto& executors : lanes)
            for (const auto size : ladder)
                executors.push_back(std::ranges::count(setup.ladder, size) > 0 ? nullptr : make_executor(size));
        core_->install(costs(ladder, cost_us), std::move(lanes));
        setup.ladder = ladder;
    }

    ModelCore* operator->() const noexcept { return core_.get(); }
    ModelCore& operator*() const noexcept { return *core_; }
    std::shared_ptr<ModelCore> share() const { return core_; }

    // How many lanes can be borrowed at this moment. Only while nothing is submitted.
    std::size_t idle_lanes() const {
        std::vector<int> borrowed;
        for (int lane = core_->try_borrow_lane(); lane >= 0; lane = core_->try_borrow_lane()) borrowed.push_back(lane);
        for (const int lane : borrowed) core_->return_lane(lane);
        return borrowed.size();
    }

    // A lane for the caller, as soon as one is parked. If it is the only one, what is submitted then is one batch.
    int borrow_lane() const {
        int lane = -1;
        CHECK(eventually([&] { return (lane = core_->try_borrow_lane()) >= 0; }));
        // Whatever was learned of the device, a lane's share of what waits has no limit until the lane is back.
        if (setup.lanes == 1) core_->set_max_queue_delay_ns(setup.queue.max_queue_delay_ns);
        return lane;
    }

    void write(const Ticket& ticket, float tag) const {
        for (std::size_t port = 0; port < core_->layout().inputs.size(); ++port) {
            auto* values = reinterpret_cast<float*>(core_->destination(ticket, port));
            for (std::uint32_t row = 0; row < ticket.rows; ++row)
                for (std::size_t i = 0; i < width; ++i)
                    values[row * width + i] = tag + static_cast<float>(row) + (port > 0 ? 0.5f : 0);
        }
    }
    // `rows` rows whose values are tag, tag + 1, ...
    Ticket submit(float tag, std::uint32_t rows = 1, const Terms& terms = {}) const {
        Ticket ticket;
        const Admission admission = try_submit(tag, rows, ticket, terms);
        CHECK(admission == Admission::ok);
        return ticket;
    }
    Admission try_submit(float tag, std::uint32_t rows, Ticket& ticket, const Terms& terms = {}) const {
        const Admission admission = core_->begin(rows, ticket, terms);
        if (admission != Admission::ok) return admission;
        write(ticket, tag);
        return core_->publish(ticket);
    }

    // The end of a request, whatever it is; `pending` when it does not come.
    static Outcome wait(Ticket& ticket, std::chrono::milliseconds limit = 20s) {
        const auto deadline = in(limit);
        while (ModelCore::outcome(ticket) == Outcome::pending)
            if (ModelCore::wait(ticket, deadline) == platform::WaitResult::timed_out) break;
        return ModelCore::outcome(ticket);
    }
    // Every value of every row is that row's own.
    bool has_own_result(const Ticket& ticket, float tag) const {
        const auto* values = reinterpret_cast<const float*>(core_->output(ticket, 0));
        for (std::uint32_t row = 0; row < ticket.rows; ++row)
            for (std::size_t i = 0; i < out_width; ++i)
                if (values[row * out_width + i] != tag + static_cast<float>(row) + 1) return false;
        return true;
    }
    // Waits, checks and gives back.
    Outcome finish(Ticket& ticket, float tag) const {
        const Outcome outcome = wait(ticket);
        if (outcome == Outcome::ok) CHECK(has_own_result(ticket, tag));
        core_->release(ticket);
        return outcome;
    }

    // Closes (again), and checks that nothing is left in use and that the lanes let go.
    void finish() {
        if (!core_) return;
        device->release();
        core_->close(in(20s));
        Dispatcher::InUse left{};
        eventually([&] {  // a lane that was left behind comes back
            left = core_->in_use();
            return left.slots + left.batches + left.requests + left.rows == 0;
        });
        CHECK_EQ(left.slots, 0u);
        CHECK_EQ(left.batches, 0u);
        CHECK_EQ(left.requests, 0u);
        CHECK_EQ(left.rows, 0u);
        const std::weak_ptr<ModelCore> gone = core_;
        core_.reset();
        CHECK(eventually([&] { return gone.expired(); }));
    }

    const std::size_t width, out_width;
    const std::shared_ptr<Device> device = std::make_shared<Device>();

  private:
    static CostTable costs(const std::vector<std::uint32_t>& ladder, std::vector<double> cost_us) {
        if (cost_us.empty())
            for (const auto size : ladder) cost_us.push_back(100.0 + size);
        return {ladder, std::move(cost_us)};
    }
    std::unique_ptr<Executor> make_executor(std::uint32_t size) const {
        const auto port = [&](const char* name, std::size_t length) {
            return Port{{name}, {size, static_cast<std::int64_t>(length)}, true, "f4", "f32", 32};
        };
        auto fake = std::make_shared<FakeCompiled>(std::vector(setup.inputs, port("x", width)),
                                                   std::vector{port("y", out_width)}, setup.behavior)
                        ->make_executor();
        if (setup.log) fake = std::make_unique<LoggingExecutor>(std::move(fake), device, size, width);
        if (setup.wrap) fake = setup.wrap(std::move(fake), size, width);
        return fake;
    }

    Setup setup;
    std::shared_ptr<ModelCore> core_;
};

}  // namespace ovengine::testing
