// Jobs: bulk requests in chunks over all lanes, and requests of a shape of their own.
#include <numeric>

#include "fixture.hpp"

using namespace ovengine;
using namespace ovengine::testing;

namespace {

// A bulk request whose row i holds tag + i.
struct Bulk {
    Bulk(const Model& model, std::uint32_t rows, float first) : tag(first), memory(rows * model.width) {
        for (std::size_t i = 0; i < memory.size(); ++i) memory[i] = tag + static_cast<float>(i / model.width);
        admission = model->submit_rows({reinterpret_cast<std::byte*>(memory.data())}, rows, ticket);
    }
    const float tag;
    std::vector<float> memory;
    Ticket ticket;
    Admission admission;
};

std::vector<std::uint32_t> cut(const ChunkSizes& sizes, std::uint32_t rows, std::uint32_t most = 256) {
    std::vector<std::uint32_t> chunks;
    for (; rows > 0; rows -= chunks.back()) chunks.push_back(std::min(rows, sizes.next(rows, most)));
    return chunks;
}

// An infer request of the caller's. A run of it waits to be let go.
class Own final : public Runnable {
  public:
    void run() override {
        ++runs;
        while (held.load(std::memory_order_acquire)) std::this_thread::yield();
        if (fails) throw std::runtime_error("the owner's tensor is too small");
    }
    std::atomic<int> runs{0};
    std::atomic<bool> held{false};
    bool fails = false;
};

}  // namespace

TEST("bulk rows are cut into large chunks first and small ones at the end") {
    // A row at 16 costs much more than at 64; at 64 about what it costs at 256.
    const CostTable table({1, 16, 64, 256}, {50, 100, 105, 400});
    using Chunks = std::vector<std::uint32_t>;
    const ChunkSizes two(table, 2);
    CHECK(cut(two, 1300) == (Chunks{256, 256, 256, 256, 64, 64, 64, 64, 16, 4}));
    CHECK(cut(two, 100) == (Chunks{64, 36}));
    CHECK(cut(two, 20) == (Chunks{16, 4}));
    CHECK(cut(two, 1) == (Chunks{1}));
    CHECK(cut(two, 200, 64) == (Chunks{64, 64, 64, 8}));
    CHECK(cut(two, 20, 15) == (Chunks{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}));
    const ChunkSizes one(table, 1);
    CHECK(cut(one, 1000) == (Chunks{256, 256, 256, 232}));
}

TEST("a bulk request of any number of rows gets every row's result") {
    for (const std::size_t width : {std::size_t{2}, std::size_t{6000}}) {
        Model model({.ladder = {1, 4, 16}, .lanes = 2, .width = width, .out_width = 2});
        for (const std::uint32_t rows : {0u, 1u, 3u, 4u, 15u, 16u, 17u, 33u, 100u}) {
            Bulk bulk(model, rows, 5);
            CHECK(bulk.admission == Admission::ok);
            CHECK(model.finish(bulk.ticket, 5) == Outcome::ok);
        }
    }
}

TEST("a bulk request is spread over the lanes") {
    Model model({.ladder = {1, 4}, .lanes = 2});
    model.device->hold();
    Bulk bulk(model, 32, 1);
    CHECK(model.device->wait_until_busy(2));
    model.device->release();
    CHECK(model.finish(bulk.ticket, 1) == Outcome::ok);
    const LaneStats &a = model->lane_stats(0), &b = model->lane_stats(1);
    CHECK(eventually([&] { return a.requests.load() + b.requests.load() == 1; }));
    CHECK_EQ(a.rows.load() + b.rows.load(), 32u);
}

TEST("a blocking caller runs its own bulk request beside the other lanes") {
    for (const std::uint32_t lanes : {1u, 2u}) {
        Model model({.ladder = {1, 4, 16}, .lanes = lanes});
        const int lane = model.borrow_lane();
        Bulk bulk(model, 1000, 1);
        CHECK(bulk.admission == Admission::ok);
        model->run_borrowed_job(lane, bulk.ticket, platform::Clock::now() + std::chrono::seconds(60));
        if (lanes == 1) CHECK(ModelCore::outcome(bulk.ticket) == Outcome::ok);
        CHECK(model.finish(bulk.ticket, 1) == Outcome::ok);
    }
}

TEST("a blocking caller whose time is over leaves the rest to the lane's own thread") {
    Model model({.ladder = {1, 4}, .lanes = 1});
    const int lane = model.borrow_lane();
    Bulk bulk(model, 1000, 1);
    Ticket small = model.submit(5000);
    model->run_borrowed_job(lane, bulk.ticket, platform::Clock::now());
    CHECK(model.finish(bulk.ticket, 1) == Outcome::ok);
    CHECK(model.finish(small, 5000) == Outcome::ok);
}

TEST("a bulk request does not starve small ones, nor they it") {
    Model model;
    model.device->hold();
    Bulk bulk(model, 400, 1000);
    CHECK(model.device->wait_until_busy());
    std::vector<Ticket> small;
    for (int i = 0; i < 20; ++i) small.push_back(model.submit(static_cast<float>(1 + i)));
    model.device->release();
    for (int i = 0; i < 20; ++i)
        CHECK(model.finish(small[static_cast<std::size_t>(i)], static_cast<float>(1 + i)) == Outcome::ok);
    CHECK(model.finish(bulk.ticket, 1000) == Outcome::ok);
    // They took turns: the small ones were through long before the bulk was.
    const auto calls = model.device->calls();
    std::size_t last_small = 0;
    for (std::size_t i = 0; i < calls.size(); ++i)
        if (calls[i].tags[0] < 1000) last_small = i;
    CHECK(last_small < 20);
}

TEST("a bulk request with a row that fails, fails, once, with that row and the reason") {
    Model model({.lanes = 2, .behavior = {.poison = 50.0f}});
    Bulk bulk(model, 100, 1);
    CHECK(Model::wait(bulk.ticket) == Outcome::failed);
    CHECK(bulk.ticket.job->failure(0).starts_with("row 49: the fake device refuses"));
    model->release(bulk.ticket);
    Bulk good(model, 40, 1);
    CHECK(model.finish(good.ticket, 1) == Outcome::ok);
}

TEST("a bulk request is served where its rows fail together and not alone") {
    Model model({.behavior = {.fail_every = 3}});
    for (int i = 0; i < 3; ++i) {
        Bulk bulk(model, 2, 1);
        CHECK(model.finish(bulk.ticket, 1) == Outcome::ok);
    }
}

TEST("a cancelled bulk request ends at once, is quiet soon, and its rest is skipped") {
    Model model({.lanes = 2});
    model.device->hold();
    Bulk bulk(model, 400, 1);
    CHECK(model.device->wait_until_busy(2));
    CHECK(!bulk.ticket.job->quiet());
    CHECK(ModelCore::cancel(bulk.ticket));
    CHECK(!ModelCore::cancel(bulk.ticket));
    CHECK(ModelCore::outcome(bulk.ticket) == Outcome::cancelled);
    model.device->release();
    CHECK(eventually([&] { return bulk.ticket.job->quiet(); }));
    CHECK(model.device->calls().size() < 20);
    model->release(bulk.ticket);
}

TEST("the last reference to a bulk request may be the lane's") {
    Model model({.lanes = 2});
    model.device->hold();
    Bulk bulk(model, 40, 1);
    CHECK(model.device->wait_until_busy(2));
    CHECK(ModelCore::cancel(bulk.ticket));
    model->release(bulk.ticket);
    model.device->release();
    CHECK(eventually([&] { return model.idle_lanes() == 2; }));
}

TEST("a request of a shape of its own runs alone and keeps its shape") {
    Model model({.ladder = {1}, .lanes = 2});
    std::vector<float> values(12);
    std::iota(values.begin(), values.end(), 1.0f);
    Ticket ticket;
    CHECK(model->submit_shaped({{reinterpret_cast<const std::byte*>(values.data()), {3, 4}}}, ticket) == Admission::ok);
    REQUIRE(Model::wait(ticket) == Outcome::ok);
    const auto& outputs = ticket.job->shaped_outputs();
    CHECK_EQ(outputs.size(), 1u);
    CHECK(outputs[0].shape == Dimensions({3, 4}));
    for (std::size_t i = 0; i < 12; ++i)
        CHECK_EQ(reinterpret_cast<const float*>(outputs[0].data.data())[i], values[i] + 1);
    model->release(ticket);
}

TEST("an infer request of the caller's is run once by a lane, and let go of") {
    Model model({.ladder = {1}, .lanes = 2});
    const auto own = std::make_shared<Own>();
    Ticket ticket;
    CHECK(model->submit_own(own, ticket) == Admission::ok);
    CHECK(ticket.job->own() == own.get());
    CHECK(Model::wait(ticket) == Outcome::ok);
    CHECK_EQ(own->runs.load(), 1);
    CHECK(!ModelCore::cancel(ticket));
    model->release(ticket);
    CHECK(eventually([&] { return own.use_count() == 1; }));
}

TEST("an infer request of the caller's that fails says why, and can be run again") {
    Model model({.ladder = {1}, .lanes = 1});
    const auto own = std::make_shared<Own>();
    own->fails = true;
    Ticket ticket;
    CHECK(model->submit_own(own, ticket) == Admission::ok);
    CHECK(Model::wait(ticket) == Outcome::failed);
    CHECK(ticket.job->failure(0) == "the owner's tensor is too small");
    model->release(ticket);
    own->fails = false;
    CHECK(model->submit_own(own, ticket) == Admission::ok);
    CHECK(Model::wait(ticket) == Outcome::ok);
    model->release(ticket);
    CHECK_EQ(own->runs.load(), 2);
}

TEST("an infer request of the caller's can be cancelled until it has begun") {
    Model model({.ladder = {1}, .lanes = 1});
    const auto first = std::make_shared<Own>(), second = std::make_shared<Own>();
    first->held = true;
    Ticket running, waiting;
    CHECK(model->submit_own(first, running) == Admission::ok);
    CHECK(eventually([&] { return first->runs.load() == 1; }));
    CHECK(model->submit_own(second, waiting) == Admission::ok);
    CHECK(!ModelCore::cancel(running));
    CHECK(ModelCore::cancel(waiting));
    CHECK(ModelCore::outcome(waiting) == Outcome::cancelled);
    first->held.store(false, std::memory_order_release);
    CHECK(Model::wait(running) == Outcome::ok);
    model->release(running);
    model->release(waiting);
    CHECK(eventually([&] { return first.use_count() == 1 && second.use_count() == 1; }));
    CHECK_EQ(second->runs.load(), 0);
}

TEST("a blocking caller runs its own infer request on its own thread") {
    Model model({.ladder = {1}, .lanes = 1});
    const int lane = model.borrow_lane();
    const auto own = std::make_shared<Own>();
    Ticket ticket;
    CHECK(model->submit_own(own, ticket, false) == Admission::ok);
    CHECK_EQ(own->runs.load(), 0);
    model->run_borrowed_job(lane, ticket, platform::Clock::now() + std::chrono::seconds(60));
    CHECK(ModelCore::outcome(ticket) == Outcome::ok);
    CHECK_EQ(own->runs.load(), 1);
    model->release(ticket);
}

TEST("a model that is closed ends infer requests that have not begun") {
    Model model({.ladder = {1}, .lanes = 1});
    const auto first = std::make_shared<Own>(), second = std::make_shared<Own>();
    first->held = true;
    Ticket running, waiting, late;
    CHECK(model->submit_own(first, running) == Admission::ok);
    CHECK(eventually([&] { return first->runs.load() == 1; }));
    CHECK(model->submit_own(second, waiting) == Admission::ok);
    CHECK(!model->close(platform::Clock::now()));
    CHECK(ModelCore::outcome(waiting) == Outcome::closed);
    CHECK(model->submit_own(second, late) == Admission::closed);
    first->held.store(false, std::memory_order_release);
    model->release(running);
    model->release(waiting);
    CHECK(eventually([&] { return first.use_count() == 1 && second.use_count() == 1; }));
    CHECK_EQ(second->runs.load(), 0);
}

TEST("many bulk requests at once, from many threads") {
    Model model({.ladder = {1, 8}, .lanes = 2});
    std::vector<std::thread> clients;
    for (int client = 0; client < 3; ++client)
        clients.emplace_back([&, client] {
            for (std::uint32_t i = 1; i < 40; ++i) {
                const float tag = static_cast<float>(1000 * client + 1);
                Bulk bulk(model, i, tag);
                if (i % 7 == 0) ModelCore::cancel(bulk.ticket);
                const Outcome outcome = Model::wait(bulk.ticket);
                CHECK(outcome == Outcome::ok || (outcome == Outcome::cancelled && i % 7 == 0));
                if (outcome == Outcome::ok) CHECK(model.has_own_result(bulk.ticket, tag));
                CHECK(eventually([&] { return bulk.ticket.job->quiet(); }));
                model->release(bulk.ticket);
            }
        });
    for (auto& client : clients) client.join();
}
