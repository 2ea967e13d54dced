// Limits that change while requests run: rows of a batch, delay, queue size.
#include "fixture.hpp"

using namespace ovengine;
using namespace ovengine::testing;

namespace {
constexpr std::int64_t kForeverNs = 3'600'000'000'000;  // a delay that must not be what ends a test

// Rows of each batch or chunk, in order; a ladder of one size makes each of them one inference.
std::vector<std::size_t> batches(const Device& device) {
    std::vector<std::size_t> rows;
    for (const auto& call : device.calls())
        rows.push_back(call.tags.size() - static_cast<std::size_t>(std::count(call.tags.begin(), call.tags.end(), 0)));
    return rows;
}
using Rows = std::vector<std::size_t>;

// Requests of one model, to be finished together.
struct Requests {
    Model& model;
    std::vector<std::pair<Ticket, float>> tickets{};

    void submit(float tag, std::uint32_t rows = 1) { tickets.emplace_back(model.submit(tag, rows), tag); }
    void finish() {
        for (auto& [ticket, tag] : tickets) CHECK(model.finish(ticket, tag) == Outcome::ok);
        tickets.clear();
    }
};
}  // namespace

TEST("the rows of a batch follow the limit down and up") {
    Model model({.ladder = {8}});
    Requests requests{model};
    Rows expected;
    for (const std::uint32_t limit : {8u, 2u, 3u, 8u}) {
        model->set_max_batch_rows(limit);
        CHECK_EQ(model->max_batch_rows(), limit);
        model.device->hold();
        requests.submit(1);
        CHECK(model.device->wait_until_busy());
        for (int i = 0; i < 24; ++i) requests.submit(static_cast<float>(2 + i));
        model.device->release();
        requests.finish();
        expected.push_back(1);
        expected.insert(expected.end(), 24 / limit, limit);
        CHECK(batches(*model.device) == expected);
    }
    // Out of range is the nearest that there is.
    model->set_max_batch_rows(0);
    CHECK_EQ(model->max_batch_rows(), 1u);
    model->set_max_batch_rows(9);
    CHECK_EQ(model->max_batch_rows(), 8u);
}

TEST("requests that were accepted under a higher limit run whole, each in a batch of its own") {
    Model model({.ladder = {8}});
    Requests requests{model};
    model.device->hold();
    requests.submit(1);
    CHECK(model.device->wait_until_busy());
    requests.submit(10, 7);  // rows of the open slot
    requests.submit(20, 5);  // these two wait
    requests.submit(30, 3);
    model->set_max_batch_rows(2);
    requests.submit(40);
    requests.submit(50);
    model.device->release();
    requests.finish();
    CHECK(batches(*model.device) == Rows({1, 7, 5, 3, 2}));
}

TEST("a request that is larger than a batch may be by now is served") {
    Model model({.ladder = {8}});
    model->set_max_batch_rows(2);
    Ticket ticket = model.submit(10, 8);
    CHECK(model.finish(ticket, 10) == Outcome::ok);
    Ticket lease;
    REQUIRE(model->begin_lease(5, lease) == Admission::ok);
    model.write(lease, 20);
    Admission admission = Admission::full;
    REQUIRE(model->publish_lease(lease, admission) && admission == Admission::ok);
    CHECK(model.finish(lease, 20) == Outcome::ok);
    CHECK(batches(*model.device) == Rows({8, 5}));
}

TEST("bulk requests are cut to the limit") {
    for (const bool has_smaller_size : {true, false}) {
        Model model({.ladder = has_smaller_size ? std::vector<std::uint32_t>{4, 8} : std::vector<std::uint32_t>{8}});
        model->set_max_batch_rows(4);
        std::vector<float> rows(20 * model.width);
        for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = 1 + static_cast<float>(i / model.width);
        Ticket ticket;
        CHECK(model->submit_rows({reinterpret_cast<std::byte*>(rows.data())}, 20, ticket) == Admission::ok);
        CHECK(model.finish(ticket, 1) == Outcome::ok);
        CHECK(batches(*model.device) == Rows({4, 4, 4, 4, 4}));
        CHECK_EQ(model.device->calls().front().size, has_smaller_size ? 4u : 8u);
    }
}

TEST("a batch that is held goes when the limit falls to what it has") {
    Model model({.queue = {.max_queue_delay_ns = kForeverNs}});
    Requests requests{model};
    requests.submit(1);
    requests.submit(2);
    model->set_max_batch_rows(3);
    CHECK(model.device->calls().empty());
    model->set_max_batch_rows(2);
    requests.finish();
    CHECK_EQ(model->lane_stats(0).reasons[LaneStats::full].load(), 1u);
}

TEST("a batch that is held goes when the delay falls") {
    for (const std::int64_t delay_ns : {0, 1'000'000}) {
        Model model({.queue = {.max_queue_delay_ns = kForeverNs}});
        Requests requests{model};
        requests.submit(1);
        model->set_max_queue_delay_ns(delay_ns);
        requests.finish();
    }
}

TEST("a lane that is about to sleep notices that the delay fell") {
    // Before it enters the idle set nobody can wake it, so it has to look; afterwards whoever changes the delay does.
    for (const char* const place : {"ModelCore::run_lane, before put", "ModelCore::run_lane, put"}) {
        Model model({.queue = {.max_queue_delay_ns = kForeverNs}});
        Requests requests{model};
        Gate gate(place);
        requests.submit(1);
        REQUIRE(gate.wait_until_reached());
        model->set_max_queue_delay_ns(0);
        gate.open();
        requests.finish();
    }
}

TEST("a delay can be put in force later") {
    Model model;
    Requests requests{model};
    requests.submit(1);
    requests.finish();
    model->set_max_queue_delay_ns(kForeverNs);
    CHECK_EQ(model->try_borrow_lane(), -1);
    for (int i = 0; i < 4; ++i) requests.submit(static_cast<float>(2 + i));
    requests.finish();
    CHECK(batches(*model.device) == Rows({1, 4}));
    model->set_max_queue_delay_ns(0);
    requests.submit(9);
    requests.finish();
}

TEST("the queue's size follows the limit, and what waits already stays") {
    Model model({.queue = {.max_queue_size = 2}});
    Requests requests{model};
    model.device->hold();
    requests.submit(1);
    CHECK(model.device->wait_until_busy());
    requests.submit(10, 4);
    const auto is_refused = [&] {
        Ticket ticket;
        return model.try_submit(99, 1, ticket) == Admission::full;
    };
    for (const std::uint32_t limit : {2u, 5u}) {
        model->set_max_queue_size(limit);
        while (model->approx_waiting() < limit) requests.submit(20);
        CHECK(is_refused());
    }
    model->set_max_queue_size(1);
    CHECK(is_refused());
    CHECK_EQ(model->approx_waiting(), 5u);
    // As many as the ring holds, which is not less because a smaller limit was given at first.
    model->set_max_queue_size(0);
    CHECK_EQ(model->ring_capacity(), std::size_t{Dispatcher::kRingCapacity});
    while (model->approx_waiting() < Dispatcher::kRingCapacity) requests.submit(20);
    CHECK(is_refused());
    model.device->release();
    requests.finish();
}

TEST("who waits for room goes on when the queue's size is raised") {
    Model model({.queue = {.max_queue_size = 1}});
    Requests requests{model};
    model.device->hold();
    requests.submit(1);
    CHECK(model.device->wait_until_busy());
    requests.submit(10, 4);
    requests.submit(20);
    Ticket waited;
    std::thread waiter([&] {
        while (model.try_submit(30, 1, waited) == Admission::full)
            CHECK(model->wait_for_room(in(20s)) != platform::WaitResult::timed_out);
    });
    model->set_max_queue_size(2);
    waiter.join();  // although no lane has made room
    model.device->release();
    requests.finish();
    CHECK(model.finish(waited, 30) == Outcome::ok);
}
