// Cancelling: in the ring, in the open slot, in a batch that runs, and racing with all of these.
#include "fixture.hpp"

using namespace ovengine;
using namespace ovengine::testing;

TEST("a request cancelled in the ring never runs, and its place is free again") {
    Model model({.queue = {.max_queue_size = 2}});
    model.device->hold();
    Ticket first = model.submit(1);
    CHECK(model.device->wait_until_busy());
    Ticket filler = model.submit(2, 4);
    Ticket dropped = model.submit(50), kept = model.submit(60);
    CHECK(ModelCore::cancel(dropped));
    CHECK(ModelCore::outcome(dropped) == Outcome::cancelled);
    CHECK(Model::wait(dropped) == Outcome::cancelled);
    model.device->release();
    CHECK(model.finish(kept, 60) == Outcome::ok);
    CHECK(model.finish(first, 1) == Outcome::ok);
    CHECK(model.finish(filler, 2) == Outcome::ok);
    model->release(dropped);
    for (const auto& call : model.device->calls())
        CHECK(std::find(call.tags.begin(), call.tags.end(), 50) == call.tags.end());
}

TEST("nobody is told of a ticket that was given back") {
    Model model;
    Ticket ticket = model.submit(1);
    CHECK(model.finish(ticket, 1) == Outcome::ok);
    Notice notice;
    CHECK(!ModelCore::attach(ticket, &notice));
}

TEST("cancelling twice is harmless") {
    Model model;
    model.device->hold();
    Ticket first = model.submit(1);
    CHECK(model.device->wait_until_busy());
    Ticket open = model.submit(2, 4), queued = model.submit(6);
    for (Ticket* ticket : {&open, &queued}) {
        CHECK(ModelCore::cancel(*ticket));
        CHECK(!ModelCore::cancel(*ticket));
    }
    model.device->release();
    CHECK(model.finish(first, 1) == Outcome::ok);
    CHECK(model.finish(open, 2) == Outcome::cancelled);
    CHECK(model.finish(queued, 6) == Outcome::cancelled);
}

TEST("a request cancelled before sealing costs no inference, and its neighbours keep their results") {
    Model model;
    const int lane = model.borrow_lane();
    Ticket dropped = model.submit(50), kept = model.submit(60, 2);
    CHECK(ModelCore::cancel(dropped));
    CHECK(ModelCore::outcome(dropped) == Outcome::cancelled);
    model->return_lane(lane);
    CHECK(model.finish(kept, 60) == Outcome::ok);
    model->release(dropped);
    // All of a batch cancelled: no inference at all.
    const auto before = model.device->calls().size();
    CHECK_EQ(model.borrow_lane(), lane);
    Ticket lone = model.submit(70, 3);
    CHECK(ModelCore::cancel(lone));
    model->return_lane(lane);
    CHECK(model.finish(lone, 70) == Outcome::cancelled);
    CHECK(eventually([&] { return model.idle_lanes() == 1; }));
    CHECK_EQ(model.device->calls().size(), before);
}

TEST("a request cancelled while it runs is dropped, and its neighbours are not") {
    Model model;
    const int lane = model.borrow_lane();
    Ticket dropped = model.submit(50), kept = model.submit(60, 2);
    model.device->hold();
    model->return_lane(lane);
    CHECK(model.device->wait_until_busy());
    CHECK(ModelCore::cancel(dropped));
    CHECK(ModelCore::outcome(dropped) == Outcome::cancelled);
    CHECK(ModelCore::outcome(kept) == Outcome::pending);
    model->release(dropped);  // gone before its batch is
    model.device->release();
    CHECK(model.finish(kept, 60) == Outcome::ok);
}

TEST("a finished request can no longer be cancelled") {
    Model model;
    Ticket ticket = model.submit(5);
    CHECK(Model::wait(ticket) == Outcome::ok);
    CHECK(!ModelCore::cancel(ticket));
    CHECK(model.finish(ticket, 5) == Outcome::ok);
}

TEST("a request may be released at any time; whatever it was, nothing is left") {
    Model model({.lanes = 2});
    for (int round = 0; round < 200; ++round) {
        std::vector<Ticket> tickets;
        for (int i = 0; i < 12; ++i) tickets.push_back(model.submit(static_cast<float>(i), 1 + i % 3));
        for (auto& ticket : tickets) model->release(ticket);
    }
}

TEST("cancel races with everything: its answer is final, and so is every outcome") {
    Jitter jitter(150);
    Model model({.ladder = {1, 2, 8}, .lanes = 2, .log = false});
    std::vector<std::thread> clients;
    for (int client = 0; client < 3; ++client)
        clients.emplace_back([&, client] {
            for (int round = 0; round < 300; ++round) {
                const float tag = static_cast<float>(10'000 * client + 10 * round);
                Ticket ticket = model.submit(tag, 1 + static_cast<std::uint32_t>(round) % 4);
                // A second holder of the same ticket, as a future's other threads are.
                Ticket twin = ticket;
                std::atomic<int> cancelled{-1};
                Outcome seen = Outcome::pending;
                std::thread watcher([&] {
                    while (seen == Outcome::pending) seen = ModelCore::outcome(twin);
                });
                if (round % 3 == 0) std::this_thread::sleep_for(std::chrono::microseconds(round % 50));
                const bool won = ModelCore::cancel(ticket);
                watcher.join();
                CHECK_EQ(won, seen == Outcome::cancelled);
                CHECK_EQ(won, Model::wait(ticket) == Outcome::cancelled);
                CHECK(model.finish(ticket, tag) == seen);
            }
        });
    for (auto& client : clients) client.join();
}
