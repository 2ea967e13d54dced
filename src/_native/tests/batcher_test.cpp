// What becomes of the rows that wait, as a table: run now, wait, pad up, or split. In virtual time, on the whole core.
#include "virtual/simulation.hpp"

using namespace ovengine;
using namespace ovengine::testing;

namespace {

using Act = std::function<void(Simulation&)>;
Act rows(std::uint32_t count) {
    return [=](Simulation& now) { now.submit(count); };
}
Act bulk(std::uint32_t count) {
    return [=](Simulation& now) { now.submit_bulk(count); };
}
Act high(std::uint32_t count) {
    return [=](Simulation& now) { now.submit(count, {.priority = 1}); };
}
Act keyed(std::uint64_t key, std::uint32_t count) {
    return [=](Simulation& now) { now.submit(count, {.key = key}); };
}
Act due_in(std::int64_t us, std::uint32_t count) {
    return [=](Simulation& now) { now.submit(count, {.deadline_ns = now_ns() + us * 1000}); };
}
// The limits and the cost table may change at any time.
Act delay(std::int64_t us) {
    return [=](Simulation& now) { now.model->set_max_queue_delay_ns(us * 1000); };
}
Act most(std::uint32_t rows) {
    return [=](Simulation& now) { now.model->set_max_batch_rows(rows); };
}
Act costs(const Costs& costs) {
    return [=](Simulation& now) { now.set_costs(costs); };
}

struct Case {
    const char* what;
    Costs costs;                                        // of the ladder, microseconds
    std::vector<std::pair<std::int64_t, Act>> happens;  // at microseconds
    std::vector<Ran> ran;                               // {at microseconds, compiled size, rows}
    std::size_t lanes = 1;
};

// A batch of eight costs hardly more than one row; as much as eight alone; less by row up to four.
const Costs kGain{{1, 100}, {2, 105}, {4, 110}, {8, 120}}, kLoss{{1, 100}, {2, 210}, {4, 430}, {8, 900}},
    kStairs{{1, 10}, {2, 18}, {4, 30}, {8, 100}}, kHills{{1, 200}, {4, 240}, {16, 600}, {64, 1200}};

const Case kCases[] = {
    // --- Run now: with a delay of 0 a free lane takes what is there, and batches form because lanes are busy.
    {"a lone row runs at once", kGain, {{5, rows(1)}}, {{5, 1, 1}}},
    {"a delay of 0 never waits, however little there is",
     kGain,
     {{0, rows(1)}, {100, rows(1)}, {201, rows(1)}},
     {{0, 1, 1}, {100, 1, 1}, {201, 1, 1}}},
    {"what comes while the lane is busy runs together",
     kGain,
     {{0, rows(1)}, {10, rows(1)}, {50, rows(2)}, {99, rows(1)}},
     {{0, 1, 1}, {100, 4, 4}}},
    {"what does not fit into a batch makes the next one",
     kGain,
     {{0, rows(1)}, {1, rows(5)}, {2, rows(4)}, {3, rows(3)}},
     {{0, 1, 1}, {100, 8, 5}, {220, 8, 7}}},

    // --- Pad up or split: whatever costs least by the table.
    {"seven rows are padded to eight where eight cost hardly more", kGain, {{0, rows(7)}}, {{0, 8, 7}}},
    {"seven rows are four, two and one where eight cost more than that",
     kStairs,
     {{0, rows(7)}},
     {{0, 4, 4}, {30, 2, 2}, {48, 1, 1}}},
    {"eight rows are twice four where that costs less than eight", kStairs, {{0, rows(8)}}, {{0, 4, 4}, {30, 4, 4}}},
    {"three rows are padded to four, or two and one",
     {{1, 10}, {2, 18}, {4, 27}},
     {{0, rows(3)}, {100, costs({{1, 10}, {2, 18}, {4, 31}})}, {100, rows(3)}},
     {{0, 4, 3}, {100, 2, 2}, {118, 1, 1}}},
    {"two runs that save hardly anything are one", {{1, 10}, {2, 18}, {4, 29}}, {{0, rows(3)}}, {{0, 4, 3}}},
    {"lanes share what there is, where small batches cost no more by row",
     {{1, 100}, {4, 100}, {8, 200}},
     {{0, rows(1)},
      {10, rows(1)},
      {50, rows(1)},
      {50, rows(1)},
      {50, rows(1)},
      {50, rows(1)},
      {50, rows(1)},
      {50, rows(1)},
      {50, rows(1)}},
     {{0, 1, 1}, {10, 1, 1}, {100, 4, 4}, {110, 4, 3}},
     2},
    {"also where one batch of all would keep one lane busy, and that for less time",
     {{1, 100}, {4, 110}, {8, 120}},
     {{0, rows(1)},
      {10, rows(1)},
      {50, rows(1)},
      {50, rows(1)},
      {50, rows(1)},
      {50, rows(1)},
      {50, rows(1)},
      {50, rows(1)},
      {50, rows(1)}},
     {{0, 1, 1}, {10, 1, 1}, {100, 4, 4}, {110, 4, 3}},
     2},
    {"two rows run apart on two lanes, where one batch of both takes longer",
     {{1, 100}, {4, 190}},
     {{0, rows(1)}, {10, rows(1)}, {50, rows(1)}, {50, rows(1)}},
     {{0, 1, 1}, {10, 1, 1}, {100, 1, 1}, {110, 1, 1}},
     2},
    {"and together where it takes less",
     {{1, 100}, {4, 90}},
     {{0, rows(1)}, {10, rows(1)}, {50, rows(1)}, {50, rows(1)}},
     {{0, 4, 1}, {10, 4, 1}, {90, 4, 2}},
     2},
    {"of few rows that would be two runs, a lane takes one",
     kHills,
     {{0, rows(1)}, {10, rows(1)}, {50, rows(1)}, {50, rows(1)}, {50, rows(1)}, {50, rows(1)}, {50, rows(1)}},
     {{0, 1, 1}, {10, 1, 1}, {200, 4, 4}, {210, 1, 1}},
     2},
    {"also of more rows, where the rest is as much as another run",
     kHills,
     {{0, rows(1)},
      {10, rows(1)},
      {50, rows(1)},
      {50, rows(1)},
      {50, rows(1)},
      {50, rows(1)},
      {50, rows(1)},
      {50, rows(1)},
      {50, rows(1)},
      {50, rows(1)},
      {50, rows(1)},
      {50, rows(1)}},
     {{0, 1, 1}, {10, 1, 1}, {200, 4, 4}, {210, 4, 4}, {440, 4, 2}},
     2},
    {"where requests have several rows, they count as such",
     kHills,
     {{0, rows(1)}, {10, rows(1)}, {50, rows(2)}, {50, rows(2)}, {50, rows(2)}},
     {{0, 1, 1}, {10, 1, 1}, {200, 4, 4}, {210, 4, 2}},
     2},
    {"where batching is a loss rows run one by one", kLoss, {{0, rows(3)}}, {{0, 1, 1}, {100, 1, 1}, {200, 1, 1}}},
    {"a bulk request is cut into the sizes that are done first",
     kStairs,
     {{0, bulk(11)}},
     {{0, 4, 4}, {30, 4, 4}, {60, 2, 2}, {78, 1, 1}}},

    // --- Or padded to a size whose weights are in the caches, where that costs half as much again at most.
    {"rows run on a larger size that was wanted lately",
     kGain,
     {{0, rows(4)}, {200, rows(1)}},
     {{0, 4, 4}, {200, 4, 1}}},
    {"of several that were the smallest",
     kGain,
     {{0, rows(8)}, {200, rows(4)}, {400, rows(1)}},
     {{0, 8, 8}, {200, 8, 4}, {400, 4, 1}}},
    {"not on one that is dearer than that",
     {{1, 100}, {4, 160}},
     {{0, rows(4)}, {200, rows(1)}},
     {{0, 4, 4}, {200, 1, 1}}},
    {"not on a smaller one", kGain, {{0, rows(2)}, {200, rows(4)}}, {{0, 2, 2}, {200, 4, 4}}},
    {"a lane that takes larger sizes over has none of them in the caches",
     kGain,
     {{0, rows(4)}, {200, costs({{1, 100}, {2, 105}, {4, 110}, {8, 120}, {16, 130}})}, {200, rows(1)}},
     {{0, 4, 4}, {200, 1, 1}}},
    {"one that learns what they cost has",
     kGain,
     {{0, rows(4)}, {200, costs({{1, 200}, {2, 210}, {4, 220}, {8, 240}})}, {200, rows(1)}},
     {{0, 4, 4}, {200, 4, 1}}},

    // --- Only the sizes that are allowed are ever run.
    {"one row is padded to the smallest size allowed", {{4, 20}, {16, 50}}, {{0, rows(1)}}, {{0, 4, 1}}},
    {"five rows are two of the smaller size allowed, or one of the larger",
     {{4, 20}, {16, 50}},
     {{0, rows(5)}, {100, costs({{4, 20}, {16, 39}})}, {100, rows(5)}},
     {{0, 4, 4}, {20, 4, 1}, {100, 16, 5}}},

    // --- Wait: up to the delay, counted from the oldest row, and no longer than that pays.
    {"a partial batch is held until its oldest row has waited for the delay",
     kGain,
     {{0, delay(40)}, {10, rows(1)}, {30, rows(1)}, {49, rows(1)}},
     {{50, 4, 3}}},
    {"a batch that is full is not held",
     kGain,
     {{0, delay(1000)}, {0, rows(3)}, {10, rows(4)}, {20, rows(1)}},
     {{20, 8, 8}}},
    {"a batch is not held that the next request does not fit into, and neither is that one",
     kGain,
     {{0, delay(1000)}, {0, rows(5)}, {10, rows(4)}},
     {{10, 8, 5}, {130, 8, 4}}},
    {"a row whose delay is over when the lane comes back runs then",
     kGain,
     {{0, delay(50)}, {0, rows(8)}, {10, rows(1)}},
     {{0, 8, 8}, {120, 8, 1}}},
    {"a lane that comes back earlier waits for the rest of the delay",
     kGain,
     {{0, delay(500)}, {0, rows(8)}, {10, rows(1)}, {400, rows(1)}},
     {{0, 8, 8}, {510, 8, 2}}},
    {"a request with a deadline is not held, and neither is who shares its batch",
     kGain,
     {{0, delay(1000)}, {0, rows(1)}, {10, due_in(500, 1)}},
     {{10, 2, 2}}},

    // --- Live limits.
    {"a batch that is held goes when the delay becomes 0",
     kGain,
     {{0, delay(1000)}, {0, rows(2)}, {300, delay(0)}, {500, rows(1)}},
     {{300, 2, 2}, {500, 2, 1}}},
    {"a batch that is held goes when a shorter delay is over, or already was",
     kGain,
     {{0, delay(1000)}, {0, rows(2)}, {300, delay(400)}, {600, rows(1)}, {700, delay(50)}},
     {{400, 2, 2}, {700, 2, 1}}},
    {"a batch that is held waits for a longer delay",
     kGain,
     {{0, delay(100)}, {0, rows(2)}, {50, delay(1000)}},
     {{1000, 2, 2}}},
    {"a batch that is held goes when it has as many rows as are allowed by now",
     kGain,
     {{0, delay(1000)}, {0, rows(2)}, {200, most(3)}, {300, most(2)}},
     {{300, 2, 2}}},
    {"batches have as many rows as are allowed when they are made",
     kGain,
     {{0, rows(1)}, {1, rows(2)}, {2, rows(2)}, {3, rows(2)}, {4, rows(2)}, {50, most(4)}, {290, most(8)}},
     {{0, 1, 1}, {100, 8, 8}}},
    {"a bulk request is cut to what is allowed",
     kGain,
     {{0, most(4)}, {0, bulk(10)}},
     {{0, 4, 4}, {110, 4, 4}, {220, 2, 2}}},

    // --- A cost table that changes.
    {"a new cost table decides what is cut from then on",
     kStairs,
     {{0, rows(7)}, {100, costs({{1, 10}, {2, 18}, {4, 30}, {8, 50}})}, {100, rows(7)}},
     {{0, 4, 4}, {30, 2, 2}, {48, 1, 1}, {100, 8, 7}}},
    {"larger sizes take what waits together",
     {{1, 100}},
     {{0, rows(1)}, {1, rows(1)}, {2, rows(1)}, {3, rows(1)}, {50, costs(kGain)}},
     {{0, 1, 1}, {100, 1, 1}, {200, 2, 2}}},

    // --- Who shares a batch.
    {"only rows of one key run together",
     kGain,
     {{0, rows(1)}, {1, keyed(7, 1)}, {2, keyed(8, 1)}, {3, keyed(7, 1)}},
     {{0, 1, 1}, {100, 2, 2}, {205, 2, 1}}},
    {"rows of higher priority join the batch that is open as far as they fit",
     kGain,
     {{0, rows(1)}, {1, rows(6)}, {2, high(2)}, {3, high(3)}},
     {{0, 1, 1}, {100, 8, 8}, {220, 8, 3}}},
    {"rows of higher priority that do not fit into the batch that is open go before it",
     kGain,
     {{0, rows(1)}, {1, rows(7)}, {2, high(2)}},
     {{0, 1, 1}, {100, 2, 2}, {205, 8, 7}}},

    // --- More lanes: another one is woken where that is worth the 30 us that it takes.
    {"a second lane takes what is worth a wake-up",
     {{1, 100}},
     {{0, rows(1)}, {10, rows(1)}},
     {{0, 1, 1}, {10, 1, 1}},
     2},
    {"what is not worth a wake-up waits for the lane that is busy",
     {{1, 10}},
     {{0, rows(1)}, {1, rows(1)}, {2, rows(1)}, {3, rows(1)}},
     {{0, 1, 1}, {3, 1, 1}, {10, 1, 1}, {13, 1, 1}},
     2},
    {"two lanes end a bulk request together",
     {{1, 10}, {4, 20}},
     {{0, bulk(16)}},
     {{0, 4, 4}, {0, 4, 4}, {20, 4, 4}, {20, 4, 4}},
     2},
};

void show(const std::vector<Ran>& ran) {
    for (const auto& [at_us, size, rows] : ran)
        std::fprintf(stderr, " {%lld, %u, %u}", static_cast<long long>(at_us), size, rows);
}

}  // namespace

TEST("the batcher decides as the table says") {
    for (const Case& each : kCases) {
        Simulation simulation(each.costs, each.lanes);
        for (const auto& [at_us, act] : each.happens) {
            simulation.run_until(at_us);
            act(simulation);
        }
        simulation.finish();
        const auto ran = simulation.ran();
        if (CHECK(ran == each.ran)) continue;
        std::fprintf(stderr, "  %s: ran", each.what);
        show(ran);
        std::fprintf(stderr, " instead of");
        show(each.ran);
        std::fprintf(stderr, "\n");
    }
}

TEST("what a batch costs in fact decides how the next ones are cut") {
    // Said to be a gain at four, and a loss in truth.
    Simulation simulation(Costs{{1, 100}, {4, 160}}, 1, {{1, 100}, {4, 900}});
    for (int i = 0; i < 64; ++i) {
        simulation.submit(i % 2 == 0 ? 1 : 4);
        simulation.run_until(simulation.now_us() + 1000);
    }
    CHECK(simulation.ran()[1] == (Ran{simulation.ran()[1].at_us, 4, 4}));
    simulation.run_until(1'100'000);
    simulation.submit(1);
    simulation.run_until(1'200'000);
    simulation.submit(4);
    simulation.run_until(1'300'000);
    const auto ran = simulation.ran();
    for (std::uint32_t i = 0; i < 4; ++i)
        CHECK(ran[ran.size() - 4 + i] == (Ran{1'200'000 + 100 * std::int64_t{i}, 1, 1}));
    CHECK(std::abs(simulation.model->costs()[1].second - 900) < 50);
    simulation.finish();
}

TEST("a larger size counts as warm for sixteen batches after one that it was the best for") {
    Simulation simulation(kGain);
    const auto run = [&](std::uint32_t rows) {
        simulation.submit(rows);
        simulation.run_until(simulation.now_us() + 1000);
        return simulation.ran().back().size;
    };
    for (int i = 0; i < 3; ++i) CHECK_EQ(run(1), 1u);
    for (int again = 0; again < 2; ++again) {
        CHECK_EQ(run(8), 8u);
        // Not for ever, although it ran: nobody wanted it.
        for (int i = 0; i < 15; ++i) CHECK_EQ(run(1), 8u);
        for (int i = 0; i < 20; ++i) CHECK_EQ(run(1), 1u);
    }
    simulation.finish();
}

TEST("a size that nobody ran is taken to have changed as the others did") {
    Simulation simulation(Costs{{1, 1000}, {4, 1100}}, 1, {{1, 10}, {4, 40}});
    for (int i = 0; i < 64; ++i) {
        simulation.submit(1);
        simulation.run_until(simulation.now_us() + 1000);
    }
    simulation.model->refine();
    CHECK_EQ(std::lround(simulation.model->costs()[0].second), 10);
    CHECK_EQ(std::lround(simulation.model->costs()[1].second), 11);
    simulation.finish();
}

TEST("a size that is not run because it was measured badly is found out to be good") {
    // Said to take longer for 4 rows than four runs of one; in truth each run takes the same.
    Simulation simulation(Costs{{1, 20}, {4, 120}}, 1, {{1, 20}, {4, 20}});
    const auto run = [&] {
        const std::size_t before = simulation.ran().size();
        simulation.submit(4);
        simulation.run_until(simulation.now_us() + 1000);
        return simulation.ran().size() - before;
    };
    CHECK_EQ(run(), 4u);
    for (int i = 0; i < 200; ++i) run();
    simulation.model->refine();
    CHECK_EQ(run(), 1u);
    CHECK_EQ(simulation.ran().back().size, 4u);
    simulation.finish();
}

TEST("one inference that stood still does not make its size look bad") {
    const Costs costs{{1, 100}, {4, 160}};
    for (const int runs_before : {0, 1, 15, 64}) {  // at first there is no mean that the others would hold
        Simulation simulation(costs);
        const auto run = [&] {
            for (const std::uint32_t rows : {1u, 4u}) {
                simulation.submit(rows);
                simulation.run_until(simulation.now_us() + 50'000);
            }
        };
        for (int i = 0; i < runs_before; ++i) run();
        simulation.take({{1, 100}, {4, 500'000}});
        run();
        simulation.take(costs);
        for (int i = 0; i < 16; ++i) run();
        CHECK_EQ(simulation.ran().back().size, 4u);
        simulation.model->refine();
        run();
        CHECK_EQ(simulation.ran().back().size, 4u);
        simulation.finish();
    }
}

TEST("a request whose deadline comes while the lane is busy ends at that moment") {
    Simulation simulation(Costs{{1, 1000}});
    simulation.submit(1);
    simulation.run_until(1);
    const std::size_t late = simulation.submit(1, {.deadline_ns = now_ns() + 5'000'000});
    for (int i = 0; i < 9; ++i) simulation.submit(1, {.priority = 1});
    simulation.run_until(4999);
    CHECK(!simulation.is_done(late));  // it could only be late, but no lane has come by since
    simulation.run_until(5001);
    CHECK(simulation.is_done(late));
    simulation.finish(Outcome::expired);
    CHECK_EQ(simulation.ran().size(), 10u);
    CHECK_EQ(simulation.model->expired_requests(), 1u);
}
