// Who waits and who goes: order, limits, delay, caller-runs, wake-ups.
#include "fixture.hpp"

using namespace ovengine;
using namespace ovengine::testing;

namespace {
// The tags of all rows that ran, in order, without padding.
std::vector<float> ran(const Device& device) {
    std::vector<float> tags;
    for (const auto& call : device.calls())
        for (const float tag : call.tags)
            if (tag != 0) tags.push_back(tag);
    return tags;
}
}  // namespace

TEST("a backlog runs in order of arrival, in full batches") {
    Model model;
    model.device->hold();
    std::vector<Ticket> tickets{model.submit(1)};
    CHECK(model.device->wait_until_busy());
    for (int i = 2; i <= 18; ++i) tickets.push_back(model.submit(static_cast<float>(i)));
    CHECK_EQ(model->approx_waiting(), 13u);  // the open slot holds four
    model.device->release();
    for (std::size_t i = 0; i < tickets.size(); ++i)
        CHECK(model.finish(tickets[i], static_cast<float>(i + 1)) == Outcome::ok);
    std::vector<float> expected;
    for (int i = 1; i <= 18; ++i) expected.push_back(static_cast<float>(i));
    CHECK(ran(*model.device) == expected);
    CHECK_EQ(model.device->calls().size(), 6u);  // 1, four times 4, 1
}

TEST("what comes to a model at rest is written into its batch, with any number of lanes") {
    for (const std::size_t lanes : {1u, 2u, 5u}) {
        Model model({.lanes = lanes});
        for (const float tag : {1.0f, 2.0f, 3.0f}) {
            Ticket ticket = model.submit(tag);
            CHECK(ticket.batch != nullptr && ticket.request == nullptr);
            CHECK(model.finish(ticket, tag) == Outcome::ok);
            CHECK(eventually([&] { return model.idle_lanes() == lanes; }));
        }
    }
}

TEST("a request that finds no room keeps its place for the next batch") {
    Model model;
    model.device->hold();
    std::vector<std::pair<Ticket, float>> tickets{{model.submit(1), 1.0f}};
    CHECK(model.device->wait_until_busy());
    float tag = 10;
    for (const std::uint32_t rows : {3u, 2u, 1u, 4u, 2u, 2u}) {
        tickets.emplace_back(model.submit(tag, rows), tag);
        tag += 10;
    }
    model.device->release();
    for (auto& [ticket, first] : tickets) CHECK(model.finish(ticket, first) == Outcome::ok);
    CHECK(ran(*model.device) == std::vector<float>({1, 10, 11, 12, 20, 21, 30, 40, 41, 42, 43, 50, 51, 60, 61}));
}

TEST("max_queue_size is exact: so many wait, one more is refused at once") {
    for (const std::uint32_t limit : {1u, 3u, 64u}) {
        Model model({.queue = {.max_queue_size = limit}});
        model.device->hold();
        std::vector<Ticket> tickets{model.submit(1)};
        CHECK(model.device->wait_until_busy());
        tickets.push_back(model.submit(2, 4));  // the open slot
        for (std::uint32_t i = 0; i < limit; ++i) tickets.push_back(model.submit(6));
        Ticket refused;
        CHECK(model.try_submit(99, 1, refused) == Admission::full);
        CHECK(model->begin_lease(1, refused) == Admission::full);
        model.device->release();
        for (std::size_t i = 0; i < tickets.size(); ++i)
            CHECK(model.finish(tickets[i], i == 0 ? 1.0f : i == 1 ? 2.0f : 6.0f) == Outcome::ok);
        Ticket again = model.submit(5);
        CHECK(model.finish(again, 5) == Outcome::ok);
    }
}

TEST("many producers at once never exceed max_queue_size") {
    Model model({.queue = {.max_queue_size = 5}});
    model.device->hold();
    Ticket first = model.submit(1);
    CHECK(model.device->wait_until_busy());
    Ticket filler = model.submit(2, 4);
    std::atomic<int> accepted{0};
    std::vector<std::thread> producers;
    for (int i = 0; i < 4; ++i)
        producers.emplace_back([&] {
            std::vector<Ticket> mine;
            for (int n = 0; n < 50; ++n) {
                Ticket ticket;
                if (model.try_submit(10, 1, ticket) != Admission::ok) continue;
                accepted.fetch_add(1);
                mine.push_back(ticket);
            }
            while (accepted.load() < 5) std::this_thread::yield();
            model.device->release();
            for (auto& ticket : mine) CHECK(model.finish(ticket, 10) == Outcome::ok);
        });
    for (auto& producer : producers) producer.join();
    CHECK(accepted.load() >= 5);
    CHECK(model.finish(first, 1) == Outcome::ok);
    CHECK(model.finish(filler, 2) == Outcome::ok);
}

TEST("without a limit a producer waits for room, and gets it") {
    Model model({.ladder = {1, 64}, .width = 1, .out_width = 1, .log = false});
    // Far more than the ring holds.
    constexpr std::uint32_t kRequests = 3 * Dispatcher::kRingCapacity;
    std::thread producer, consumer;
    std::vector<Ticket> tickets(kRequests);
    std::atomic<std::uint32_t> submitted{0};
    producer = std::thread([&] {
        for (std::uint32_t i = 0; i < kRequests; ++i) {
            while (model.try_submit(static_cast<float>(i), 1, tickets[i]) == Admission::full)
                CHECK(model->wait_for_room(in(20s)) != platform::WaitResult::timed_out);
            submitted.store(i + 1, std::memory_order_release);
        }
    });
    for (std::uint32_t i = 0; i < kRequests; ++i) {
        while (submitted.load(std::memory_order_acquire) <= i) std::this_thread::yield();
        if (!CHECK(model.finish(tickets[i], static_cast<float>(i)) == Outcome::ok)) break;
    }
    producer.join();
}

TEST("room that cancelled requests leave wakes those who wait for it") {
    Model model;
    model.device->hold();
    std::vector<Ticket> tickets{model.submit(1)};
    CHECK(model.device->wait_until_busy());
    tickets.push_back(model.submit(2, 4));
    Ticket ticket;
    while (model.try_submit(6, 1, ticket) == Admission::ok) tickets.push_back(ticket);
    std::atomic<bool> has_room{false};
    std::thread waiter([&] {
        Ticket mine;
        while (model.try_submit(7, 1, mine) == Admission::full)
            if (model->wait_for_room(in(5s)) == platform::WaitResult::timed_out) return;
        has_room = true;
        CHECK(model.finish(mine, 7) == Outcome::ok);
    });
    std::this_thread::sleep_for(50ms);
    // Nothing of what waits is left to run: no batch will be made of it.
    for (std::size_t i = 2; i < tickets.size(); ++i) CHECK(ModelCore::cancel(tickets[i]));
    model.device->release();
    waiter.join();
    CHECK(has_room.load());
    for (auto& each : tickets) model->release(each);
}

TEST("a partial batch is held for max_queue_delay, from its oldest row on") {
    Model model({.queue = {.max_queue_delay_ns = 40'000'000}});
    for (int round = 0; round < 2; ++round) {
        const auto start = platform::Clock::now();
        Ticket first = model.submit(1);
        std::this_thread::sleep_for(20ms);
        Ticket second = model.submit(2);
        CHECK(model.finish(first, 1) == Outcome::ok);
        const auto took = platform::Clock::now() - start;
        CHECK(took >= 40ms && took < 2s);
        CHECK(ModelCore::outcome(second) == Outcome::ok);  // the same batch
        CHECK(model.finish(second, 2) == Outcome::ok);
    }
    CHECK_EQ(model->lane_stats(0).reasons[LaneStats::delay].load(), 2u);
    CHECK_EQ(model.device->calls().size(), 2u);
}

TEST("a held batch goes at once when it is full") {
    Model model({.queue = {.max_queue_delay_ns = 10'000'000'000}});
    for (int round = 0; round < 20; ++round) {
        std::vector<Ticket> tickets;
        for (int i = 0; i < 4; ++i) tickets.push_back(model.submit(static_cast<float>(1 + i)));
        for (int i = 0; i < 4; ++i)
            CHECK(model.finish(tickets[static_cast<std::size_t>(i)], static_cast<float>(1 + i)) == Outcome::ok);
    }
    CHECK_EQ(model->lane_stats(0).reasons[LaneStats::full].load(), 20u);
}

TEST("a held batch goes at once when the next request does not fit, and no lane spins over it") {
    Model model({.queue = {.max_queue_delay_ns = 1'000'000'000}});
    const auto start = platform::Clock::now();
    Ticket first = model.submit(1, 2), second = model.submit(10, 3);
    CHECK(model.finish(first, 1) == Outcome::ok);
    CHECK(platform::Clock::now() - start < 900ms);
    CHECK(model.finish(second, 10) == Outcome::ok);
}

TEST("the clock of a held batch starts although its first row is late") {
    Model model({.queue = {.max_queue_delay_ns = 20'000'000}});
    Ticket late, early;
    REQUIRE(model->begin_lease(1, late) == Admission::ok);
    early = model.submit(2);
    CHECK(Model::wait(early, 2s) == Outcome::ok);
    CHECK(model.finish(early, 2) == Outcome::ok);
    model->abandon_lease(late);
}

TEST("closing does not wait for the delay") {
    Model model({.queue = {.max_queue_delay_ns = 30'000'000'000}});
    Ticket ticket = model.submit(1);
    CHECK(model->close(in(20s)));
    CHECK(model.finish(ticket, 1) == Outcome::ok);
}

// --- Caller-runs ---

TEST("a caller that finds a lane free runs its rows itself") {
    Model model;
    const int lane = model.borrow_lane();
    CHECK(model->try_borrow_lane() == -1);
    Ticket ticket;
    CHECK(model->begin(2, ticket) == Admission::ok);
    model.write(ticket, 5);
    CHECK(model->publish(ticket, false) == Admission::ok);
    model->run_borrowed(lane);
    CHECK(ModelCore::outcome(ticket) == Outcome::ok);
    CHECK(model.finish(ticket, 5) == Outcome::ok);
    CHECK(model.device->calls().front().thread == std::this_thread::get_id());
    CHECK_EQ(model->lane_stats(0).reasons[LaneStats::caller].load(), 1u);
    CHECK_EQ(model.idle_lanes(), 1u);
}

TEST("rows of others ride along with the caller's") {
    Model model;
    const int lane = model.borrow_lane();
    Ticket other = model.submit(9), mine;
    CHECK(model->begin(1, mine) == Admission::ok);
    model.write(mine, 5);
    CHECK(model->publish(mine, false) == Admission::ok);
    model->run_borrowed(lane);
    CHECK(ModelCore::outcome(other) == Outcome::ok);
    CHECK(model.finish(other, 9) == Outcome::ok);
    CHECK(model.finish(mine, 5) == Outcome::ok);
    CHECK_EQ(model.device->calls().size(), 1u);
}

TEST("what others submitted while the lane was borrowed is handed to its thread") {
    Model model;
    for (const bool run : {true, false}) {
        const int lane = model.borrow_lane();
        std::vector<Ticket> others;
        for (int i = 0; i < 9; ++i) others.push_back(model.submit(static_cast<float>(1 + i)));
        if (run)
            model->run_borrowed(lane);
        else
            model->return_lane(lane);
        for (int i = 0; i < 9; ++i)
            CHECK(model.finish(others[static_cast<std::size_t>(i)], static_cast<float>(1 + i)) == Outcome::ok);
        CHECK(eventually([&] { return model.idle_lanes() == 1; }));
    }
}

TEST("no lane is lent while batches are held or somebody waits") {
    Model holding({.queue = {.max_queue_delay_ns = 1'000'000}});
    CHECK_EQ(holding->try_borrow_lane(), -1);
}

// --- Which lane, and wake-ups ---

TEST("the priority policy prefers the first lanes, round robin takes turns") {
    for (const bool turns : {false, true}) {
        Setup setup{.lanes = 3};
        if (turns) setup.policy = std::make_unique<RoundRobinPolicy>();
        Model model(std::move(setup));
        for (int i = 0; i < 9; ++i) {
            Ticket ticket = model.submit(1);
            CHECK(model.finish(ticket, 1) == Outcome::ok);
            // To look for idle lanes is to take a turn.
            if (turns)
                std::this_thread::sleep_for(2ms);
            else
                CHECK(eventually([&] { return model.idle_lanes() == 3; }));
        }
        std::uint64_t lanes_used = 0;
        for (std::size_t lane = 0; lane < 3; ++lane) lanes_used += model->lane_stats(lane).batches.load() > 0;
        if (turns)
            CHECK(lanes_used >= 2);
        else
            CHECK_EQ(model->lane_stats(0).batches.load(), 9u);
    }
}

TEST("a second lane is woken when the rows that wait are worth it") {
    // Rows of 1 ms each: far more than a wake-up costs.
    Model model({.ladder = {1, 4}, .cost_us = {1000, 4000}, .lanes = 2});
    model.device->hold();
    std::vector<Ticket> tickets;
    for (int i = 0; i < 8; ++i) tickets.push_back(model.submit(static_cast<float>(1 + i)));
    CHECK(model.device->wait_until_busy(2));
    model.device->release();
    for (int i = 0; i < 8; ++i)
        CHECK(model.finish(tickets[static_cast<std::size_t>(i)], static_cast<float>(1 + i)) == Outcome::ok);
}

TEST("an idle model uses no processor time") {
    Model model({.lanes = 2});
    for (int i = 0; i < 5; ++i) {
        Ticket ticket = model.submit(1);
        CHECK(model.finish(ticket, 1) == Outcome::ok);
    }
    CHECK(eventually([&] { return model.idle_lanes() == 2; }));
    const auto used = [] {
        timespec time{};
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
        return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
    };
    const auto before = used();
    std::this_thread::sleep_for(200ms);
    CHECK(used() - before < 20ms);
}
