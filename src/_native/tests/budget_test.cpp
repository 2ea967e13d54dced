// The CPU budget: shares in order of arrival, and several models that keep to it together.
#include "fixture.hpp"

using namespace ovengine;
using namespace ovengine::testing;

namespace {

// How many inferences run at once, over all models.
struct Meter {
    std::atomic<int> now{0}, most{0}, calls{0};
};

class MeteredExecutor final : public Executor {
  public:
    MeteredExecutor(std::unique_ptr<Executor> fake, Meter& meter) : fake_(std::move(fake)), meter_(meter) {}
    void infer(std::uint32_t binding, std::byte* const* inputs, std::byte* const* outputs) override {
        const int now = meter_.now.fetch_add(1) + 1;
        for (int most = meter_.most.load(); now > most && !meter_.most.compare_exchange_weak(most, now);) {
        }
        fake_->infer(binding, inputs, outputs);
        meter_.calls.fetch_add(1);
        meter_.now.fetch_sub(1);
    }
    std::vector<ShapedOutput> infer_shaped(const std::vector<ShapedInput>& inputs) override {
        return fake_->infer_shaped(inputs);
    }

  private:
    const std::unique_ptr<Executor> fake_;
    Meter& meter_;
};

Setup metered(Meter& meter, const std::shared_ptr<CpuBudget>& budget, double service_time_us) {
    Setup setup{.lanes = 2, .behavior = {.service_time_us = service_time_us}, .budget = budget, .log = false};
    setup.wrap = [&meter](std::unique_ptr<Executor> fake, std::uint32_t, std::size_t) {
        return std::make_unique<MeteredExecutor>(std::move(fake), meter);
    };
    return setup;
}

}  // namespace

TEST("shares are given out in order of arrival, and nobody overtakes") {
    CpuBudget budget(2);
    CHECK(budget.try_take(1));
    CHECK(!budget.wanted());
    std::atomic<int> order{0};
    std::atomic<int> large{0}, small{0};
    std::thread first([&] {
        budget.take(2, 60s);
        large.store(++order);
        budget.give_back(2);
    });
    CHECK(eventually([&] { return budget.wanted(); }));
    CHECK(!budget.try_take(1));  // one is free, but the large share is next
    std::thread second([&] {
        budget.take(1, 60s);
        small.store(++order);
        budget.give_back(1);
    });
    budget.give_back(1);
    first.join();
    second.join();
    CHECK_EQ(large.load(), 1);
    CHECK_EQ(small.load(), 2);
    CHECK(budget.try_take(2));
}

TEST("who has waited long enough goes ahead, and the budget comes out even") {
    CpuBudget budget(1);
    budget.take(1);
    budget.take(1, 1ms);  // nobody gives anything back
    budget.give_back(1);
    CHECK(!budget.try_take(1));
    budget.give_back(1);
    CHECK(budget.try_take(1));
}

TEST("two models keep to one budget, and both get on") {
    Meter meter;
    const auto budget = std::make_shared<CpuBudget>(2);
    Model a(metered(meter, budget, 50)), b(metered(meter, budget, 400));
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i)
        threads.emplace_back([&, i] {
            const Model& model = i % 2 == 0 ? a : b;
            for (int request = 0; request < 100; ++request) {
                const auto tag = static_cast<float>(1000 * i + request);
                const int lane = i == 3 ? model->try_borrow_lane() : -1;
                Ticket ticket = model.submit(tag);
                if (lane >= 0) model->run_borrowed(lane);
                CHECK(model.finish(ticket, tag) == Outcome::ok);
            }
        });
    for (auto& thread : threads) thread.join();
    CHECK(meter.calls.load() >= 200);
    CHECK(meter.most.load() <= 2);
    // All is given back when the lanes rest.
    CHECK(eventually([&] {
        if (!budget->try_take(2)) return false;
        budget->give_back(2);
        return true;
    }));
}

TEST("a model that has a budget to itself uses all of it") {
    Model model({.lanes = 2, .budget = std::make_shared<CpuBudget>(2)});
    model.device->hold();
    std::vector<Ticket> tickets;
    for (int i = 0; i < 12; ++i) tickets.push_back(model.submit(static_cast<float>(i)));
    CHECK(model.device->wait_until_busy(2));
    model.device->release();
    for (int i = 0; i < 12; ++i)
        CHECK(model.finish(tickets[static_cast<std::size_t>(i)], static_cast<float>(i)) == Outcome::ok);
}

TEST("an inference that does not come back leaves the others their turn") {
    const auto budget = std::make_shared<CpuBudget>(1);
    Model stuck({.budget = budget}), other({.budget = budget});
    stuck.device->hold();
    Ticket held = stuck.submit(1);
    CHECK(stuck.device->wait_until_busy());
    Ticket served = other.submit(2);
    CHECK(other.finish(served, 2) == Outcome::ok);
    stuck.device->release();
    CHECK(stuck.finish(held, 1) == Outcome::ok);
}
