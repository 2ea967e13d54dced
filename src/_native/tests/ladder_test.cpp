// The ladder while requests run: more sizes, and the cost that is seen instead of the one that was measured.
#include "fixture.hpp"

using namespace ovengine;
using namespace ovengine::testing;

namespace {

void observe(const Ladder& ladder, std::size_t lane, std::size_t step, double us, int runs = 100) {
    for (int i = 0; i < runs; ++i) ladder.observe(lane, step, static_cast<std::int64_t>(us * 1e3));
}

}  // namespace

TEST("a ladder that costs what was measured stays as it is") {
    const Ladder ladder(CostTable({1, 4}, {10, 20}), 2);
    CHECK(ladder.refined() == nullptr);
    observe(ladder, 0, 0, 10.4);
    observe(ladder, 1, 1, 19.3);
    CHECK(ladder.refined() == nullptr);
    observe(ladder, 0, 1, 1000, 3);  // too few to tell
    CHECK(ladder.refined() == nullptr);
}

TEST("a ladder takes over what its sizes were seen to cost, and judges the others alike") {
    const Ladder ladder(CostTable({1, 4, 16}, {10, 20, 30}), 2);
    observe(ladder, 0, 0, 30);
    observe(ladder, 1, 0, 50);  // the lanes' mean is 40: four times what was known
    observe(ladder, 0, 1, 20);  // as known
    const auto refined = ladder.refined();
    REQUIRE(refined != nullptr);
    CHECK(std::abs(refined->costs().cost_us(0) - 40) < 0.1);
    CHECK(std::abs(refined->costs().cost_us(1) - 20) < 0.1);
    CHECK(std::abs(refined->costs().cost_us(2) - 60) < 0.1);  // the geometric mean of 4 and 1
    CHECK(refined->refined() == nullptr);
}

TEST("a model gets larger sizes while it rests") {
    for (const std::size_t lanes : {std::size_t{1}, std::size_t{2}}) {
        Model model({.ladder = {1}, .lanes = lanes});
        Ticket before = model.submit(1);
        CHECK(model.finish(before, 1) == Outcome::ok);
        CHECK_EQ(model->capacity(), 1u);
        model.install({1, 4, 16});
        CHECK_EQ(model->capacity(), 16u);
        for (const std::uint32_t rows : {1u, 16u, 3u, 5u}) {
            Ticket ticket = model.submit(100, rows);
            CHECK(model.finish(ticket, 100) == Outcome::ok);
        }
        const auto calls = model.device->calls();
        CHECK_EQ(calls.back().size, 16u);  // 100 us and one a row: padding up is cheaper than two runs
    }
}

TEST("what waits while the ladder grows is served, be it larger than the batch that is open") {
    Model model({.ladder = {2}});
    model.device->hold();
    std::vector<std::pair<Ticket, float>> tickets;
    const auto submit = [&](float tag, std::uint32_t rows) { tickets.emplace_back(model.submit(tag, rows), tag); };
    submit(10, 1);
    CHECK(model.device->wait_until_busy());
    submit(20, 1);  // in the open batch
    submit(30, 2);  // in the ring
    model.install({2, 8});
    submit(40, 8);
    submit(50, 1);
    model.device->release();
    for (auto& [ticket, tag] : tickets) CHECK(model.finish(ticket, tag) == Outcome::ok);
}

TEST("a lease that was handed out before the ladder grew keeps its memory") {
    Model model({.ladder = {2}});
    Ticket lease;
    CHECK(model->begin_lease(1, lease) == Admission::ok);
    model.install({2, 4});
    model.write(lease, 5);
    Admission admission{};
    CHECK(model->publish_lease(lease, admission) && admission == Admission::ok);
    CHECK(model.finish(lease, 5) == Outcome::ok);
    Ticket after = model.submit(7, 4);
    CHECK(model.finish(after, 7) == Outcome::ok);
}

TEST("a new ladder has to fit") {
    Model model({.ladder = {1, 4}, .lanes = 2});
    const auto refused = [&](const std::vector<std::uint32_t>& sizes, std::size_t lanes) {
        try {
            model->install(CostTable(sizes, std::vector(sizes.size(), 1.0)),
                           std::vector<std::vector<std::unique_ptr<Executor>>>(lanes));
            return false;
        } catch (const std::invalid_argument&) {
            return true;
        }
    };
    CHECK(refused({1, 2}, 2));
    CHECK(refused({1, 4}, 1));
    CHECK(!refused({1, 4}, 2));
    Ticket ticket = model.submit(1, 4);
    CHECK(model.finish(ticket, 1) == Outcome::ok);
}

TEST("the ladder may grow while everybody submits") {
    Model model({.ladder = {1}, .lanes = 2});
    std::atomic<bool> stop{false};
    std::vector<std::thread> threads;
    for (int producer = 0; producer < 2; ++producer)
        threads.emplace_back([&, producer] {
            for (std::uint32_t i = 0; !stop.load(); ++i) {
                const auto tag = static_cast<float>(1000 * producer + i % 500);
                Ticket ticket = model.submit(tag, 1 + i % std::min(4u, model->capacity()));
                CHECK(model.finish(ticket, tag) == Outcome::ok);
            }
        });
    std::vector<float> rows(64 * model.width, 1);
    for (std::uint32_t size = 2; size <= 64; size *= 2) {
        std::vector<std::uint32_t> ladder;
        for (std::uint32_t known = 1; known <= size; known *= 2) ladder.push_back(known);
        model.install(ladder);
        model->refine();
        Ticket ticket = model.submit(5, size);
        CHECK(model.finish(ticket, 5) == Outcome::ok);
        Ticket bulk;
        CHECK(model->submit_rows({reinterpret_cast<std::byte*>(rows.data())}, 64, bulk) == Admission::ok);
        CHECK(Model::wait(bulk) == Outcome::ok);
        model->release(bulk);
    }
    stop.store(true);
    for (auto& thread : threads) thread.join();
}

TEST("a size is known when it was run often, or for long") {
    const Ladder ladder(CostTable({1, 4}, {10, 20'000}), 2);
    observe(ladder, 0, 0, 10, 15);
    CHECK(!ladder.is_known(0));
    observe(ladder, 0, 0, 10, 1);
    CHECK(ladder.is_known(0) && ladder.is_known(0, 0) && !ladder.is_known(1, 0));
    observe(ladder, 1, 1, 20'000, 1);
    CHECK(!ladder.is_known(1));
    observe(ladder, 1, 1, 20'000, 1);
    CHECK(ladder.is_known(1, 1));
    ladder.forget(1, 1);
    CHECK(!ladder.is_known(1));
}

TEST("what lanes know of a ladder they know of a better one") {
    const Ladder ladder(CostTable({1, 4}, {10, 20}), 2);
    observe(ladder, 0, 0, 30);
    const auto refined = ladder.refined();
    REQUIRE(refined != nullptr);
    CHECK(refined->is_known(0, 0) && !refined->is_known(1, 0) && !refined->is_known(1));
}
