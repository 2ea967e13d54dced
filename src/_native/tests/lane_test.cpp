// How a batch runs: padding, ladder steps, failures of single rows, large rows, the fake device itself.
#include "fixture.hpp"

using namespace ovengine;
using namespace ovengine::testing;

TEST("every row of a request gets its own result") {
    Model model;
    for (const std::uint32_t rows : {1u, 2u, 3u, 4u}) {
        Ticket ticket = model.submit(static_cast<float>(10 * rows), rows);
        CHECK(model.finish(ticket, static_cast<float>(10 * rows)) == Outcome::ok);
    }
}

TEST("all input ports are written, each with its own rows") {
    Model model({.inputs = 3});
    model.device->hold();
    Ticket first = model.submit(1);
    CHECK(model.device->wait_until_busy());
    std::vector<Ticket> others;
    for (int i = 0; i < 9; ++i) others.push_back(model.submit(static_cast<float>(10 * i)));
    model.device->release();
    CHECK(model.finish(first, 1) == Outcome::ok);
    for (int i = 0; i < 9; ++i)
        CHECK(model.finish(others[static_cast<std::size_t>(i)], static_cast<float>(10 * i)) == Outcome::ok);
}

TEST("padding is more of a row of the batch, also where another batch has written before") {
    Model model;
    Ticket full = model.submit(7, 4);
    CHECK(model.finish(full, 7) == Outcome::ok);
    // The slots take turns: all of them have been full, or have never been written.
    for (int round = 0; round < 4; ++round) {
        Ticket part = model.submit(50, 2);
        CHECK(model.finish(part, 50) == Outcome::ok);
        const auto calls = model.device->calls();
        CHECK(calls.back().values == std::vector<float>({50, 51, 50, 50}));
        Ticket again = model.submit(7, 4);
        CHECK(model.finish(again, 7) == Outcome::ok);
    }
}

TEST("a batch runs on the steps that its cost table says") {
    Model model({.ladder = {1, 2, 8}, .cost_us = {10, 11, 100}});
    Ticket ticket = model.submit(20, 5);
    CHECK(model.finish(ticket, 20) == Outcome::ok);
    std::vector<std::uint32_t> sizes;
    for (const auto& call : model.device->calls()) sizes.push_back(call.size);
    CHECK(sizes == std::vector<std::uint32_t>({2, 2, 1}));
}

TEST("large outputs and large inputs are bound where they lie, with the same results") {
    for (const std::size_t width : {std::size_t{3}, std::size_t{5000}, std::size_t{20'000}}) {
        Model model({.ladder = {1, 2, 4}, .cost_us = {10, 11, 100}, .width = width, .out_width = width + 1});
        model.device->hold();
        Ticket first = model.submit(1);
        CHECK(model.device->wait_until_busy());
        std::vector<std::pair<Ticket, float>> others;
        for (int i = 0; i < 7; ++i) {
            const float tag = static_cast<float>(10 * i);
            others.emplace_back(model.submit(tag, static_cast<std::uint32_t>(1 + i % 4)), tag);
        }
        model.device->release();
        CHECK(model.finish(first, 1) == Outcome::ok);
        for (auto& [ticket, tag] : others) CHECK(model.finish(ticket, tag) == Outcome::ok);
    }
}

TEST("a request in the ring may lend its own memory") {
    Model model({.width = 8000, .out_width = 2});
    model.device->hold();
    Ticket first = model.submit(1);
    CHECK(model.device->wait_until_busy());
    Ticket filler = model.submit(2, 4);
    std::vector<float> rows(4 * 8000);
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = 30 + static_cast<float>(i / 8000);
    Ticket shared;
    CHECK(model->begin(4, shared) == Admission::ok);
    REQUIRE(shared.request != nullptr);
    ModelCore::share(shared, {reinterpret_cast<std::byte*>(rows.data())});
    CHECK(model->publish(shared) == Admission::ok);
    model.device->release();
    CHECK(model.finish(first, 1) == Outcome::ok);
    CHECK(model.finish(filler, 2) == Outcome::ok);
    CHECK(model.finish(shared, 30) == Outcome::ok);
}

TEST("a poisoned row fails alone, and the message says which") {
    Model model({.ladder = {1, 8}, .behavior = {.poison = 1003.0f}});
    model.device->hold();
    Ticket first = model.submit(1);
    CHECK(model.device->wait_until_busy());
    Ticket good = model.submit(10, 2), bad = model.submit(1001, 4), also_good = model.submit(20);
    model.device->release();
    CHECK(model.finish(first, 1) == Outcome::ok);
    CHECK(model.finish(good, 10) == Outcome::ok);
    CHECK(model.finish(also_good, 20) == Outcome::ok);
    CHECK(Model::wait(bad) == Outcome::failed);
    CHECK(ModelCore::completion(bad)->failure(bad.row).starts_with("row 2: the fake device refuses"));
    model->release(bad);
    CHECK_EQ(model->lane_stats(0).failed.load(), 1u);
    CHECK_EQ(model->lane_stats(0).requests.load(), 3u);
}

TEST("a lone poisoned row is tried once") {
    Model model({.behavior = {.poison = 5.0f}});
    Ticket bad = model.submit(5);
    CHECK(model.finish(bad, 5) == Outcome::failed);
    CHECK_EQ(model.device->calls().size(), 1u);
}

TEST("a batch that fails by chance is rerun row by row, and nobody notices") {
    Model model({.ladder = {1, 4}, .behavior = {.fail_every = 2}});
    for (int round = 0; round < 6; ++round) {
        // The size-4 executor fails on every second call; each of its rows is run alone then, of which some fail.
        Ticket ticket = model.submit(100, 3);
        const Outcome outcome = Model::wait(ticket);
        CHECK(outcome == Outcome::ok || outcome == Outcome::failed);
        if (outcome == Outcome::ok) CHECK(model.has_own_result(ticket, 100));
        model->release(ticket);
    }
    CHECK(model->lane_stats(0).requests.load() >= 3);
}

TEST("after failures the lane goes on as before") {
    Model model({.behavior = {.poison = 3.0f}});
    for (int round = 0; round < 50; ++round) {
        Ticket bad = model.submit(3), good = model.submit(10);
        CHECK(model.finish(bad, 3) == Outcome::failed);
        CHECK(model.finish(good, 10) == Outcome::ok);
    }
}

TEST("a lane's statistics add up") {
    Model model;
    for (int i = 0; i < 10; ++i) {
        Ticket ticket = model.submit(static_cast<float>(i), 1 + static_cast<std::uint32_t>(i) % 3);
        CHECK(model.finish(ticket, static_cast<float>(i)) == Outcome::ok);
    }
    CHECK(eventually([&] { return model->lane_stats(0).requests.load() == 10; }));
    const LaneStats& stats = model->lane_stats(0);
    CHECK_EQ(stats.rows.load(), 19u);
    std::uint64_t reasons = 0;
    for (const auto& reason : stats.reasons) reasons += reason.load();
    CHECK_EQ(reasons, stats.batches.load());
    CHECK(stats.inference_ns.max() > 0);
}
