// Leases: rows written in place, in time, too late, or never.
#include "fixture.hpp"

using namespace ovengine;
using namespace ovengine::testing;

TEST("a published lease is a request like any other") {
    Model model;
    Ticket lease;
    REQUIRE(model->begin_lease(2, lease) == Admission::ok);
    REQUIRE(lease.slot != nullptr);
    model.write(lease, 5);
    Admission admission{};
    CHECK(model->publish_lease(lease, admission) && admission == Admission::ok);
    CHECK(model.finish(lease, 5) == Outcome::ok);
}

TEST("an abandoned lease becomes padding and its neighbours go on") {
    Model model;
    Ticket lease, neighbour;
    REQUIRE(model->begin_lease(1, lease) == Admission::ok);
    model.write(lease, 66);
    neighbour = model.submit(7);
    model->abandon_lease(lease);
    CHECK(model.finish(neighbour, 7) == Outcome::ok);
    // Alone in its batch, too.
    REQUIRE(model->begin_lease(4, lease) == Admission::ok);
    model->abandon_lease(lease);
    Ticket after = model.submit(8);
    CHECK(model.finish(after, 8) == Outcome::ok);
}

TEST("what nobody has written is not run: rows of others are in its place") {
    Model model({.ladder = {1, 8}});
    const int lane = model.borrow_lane();  // so that all get into one batch
    Ticket first, second;
    REQUIRE(model->begin_lease(2, first) == Admission::ok);
    Ticket wanted = model.submit(10, 2);
    REQUIRE(model->begin_lease(1, second) == Admission::ok);
    Ticket cancelled = model.submit(20, 1);
    model->abandon_lease(first);
    model->abandon_lease(second);
    CHECK(ModelCore::cancel(cancelled));
    model->return_lane(lane);
    CHECK(model.finish(wanted, 10) == Outcome::ok);
    model->release(cancelled);
    CHECK(model.device->calls().back().values == std::vector<float>({10, 10, 10, 11, 10, 10, 10, 10}));
}

TEST("a lease that is too slow is lost, and its neighbours are not") {
    Model model({.ladder = {1, 8}});
    for (int round = 0; round < 3; ++round) {
        Ticket lease, before = model.submit(100 + static_cast<float>(round));
        CHECK(model.finish(before, 100 + static_cast<float>(round)) == Outcome::ok);
        const int lane = model.borrow_lane();  // so that all get into one batch
        Ticket left = model.submit(10, 2);
        REQUIRE(model->begin_lease(2, lease) == Admission::ok);
        Ticket right = model.submit(20, 2);
        model->return_lane(lane);
        CHECK(model.finish(left, 10) == Outcome::ok);
        CHECK(model.finish(right, 20) == Outcome::ok);
        CHECK(model.device->calls().back().values == std::vector<float>({10, 11, 10, 10, 20, 21, 10, 10}));
        // The late writer still has its rows to itself, however many batches come by.
        const std::byte* const rows = model->destination(lease, 0);
        model.write(lease, 999);
        for (int i = 0; i < 20; ++i) {
            Ticket other = model.submit(30);
            CHECK(model.finish(other, 30) == Outcome::ok);
        }
        CHECK_EQ(reinterpret_cast<const float*>(rows)[0], 999.0f);
        Admission admission{};
        CHECK(!model->publish_lease(lease, admission));
        CHECK(ModelCore::outcome(lease) == Outcome::lease_lost);
        model->abandon_lease(lease);
    }
    CHECK(model->lane_stats(0).lost.load() == 3);
}

TEST("two lost leases free their slot once, when the last one lets go") {
    Model model({.ladder = {1, 8}});
    Ticket first, second;
    REQUIRE(model->begin_lease(1, first) == Admission::ok);
    REQUIRE(model->begin_lease(1, second) == Admission::ok);
    Ticket other = model.submit(5);
    CHECK(model.finish(other, 5) == Outcome::ok);
    model->abandon_lease(first);
    for (int i = 0; i < 10; ++i) {
        Ticket more = model.submit(6);
        CHECK(model.finish(more, 6) == Outcome::ok);
    }
    model.write(second, 77);
    model->abandon_lease(second);
}

TEST("a lease is waited for a moment before it is lost") {
    Model model;
    Ticket lease, other;
    REQUIRE(model->begin_lease(1, lease) == Admission::ok);
    other = model.submit(5);
    std::this_thread::sleep_for(2ms);
    model.write(lease, 6);
    Admission admission{};
    // Where the machine was too busy to come back in time, it is lost; never anything else.
    if (model->publish_lease(lease, admission)) {
        CHECK(model.finish(lease, 6) == Outcome::ok);
    } else {
        model->abandon_lease(lease);
    }
    CHECK(model.finish(other, 5) == Outcome::ok);
}

TEST("a lone lease may take its time") {
    Model model;
    Ticket lease;
    REQUIRE(model->begin_lease(1, lease) == Admission::ok);
    std::this_thread::sleep_for(60ms);
    model.write(lease, 6);
    Admission admission{};
    CHECK(model->publish_lease(lease, admission));
    CHECK(model.finish(lease, 6) == Outcome::ok);
}

TEST("a lease does not keep a larger request behind it from running") {
    Model model;
    Ticket lease, large;
    REQUIRE(model->begin_lease(2, lease) == Admission::ok);
    large = model.submit(10, 3);  // no room beside the lease
    CHECK(Model::wait(large, 2s) == Outcome::ok);
    CHECK(model.finish(large, 10) == Outcome::ok);
    model->abandon_lease(lease);
}

TEST("a lease that is marked late is lost all the same") {
    Model model;
    Gate gate("ModelCore::begin_lease, begun");
    Ticket lease;
    std::thread lessee([&] { CHECK(model->begin_lease(1, lease) == Admission::ok); });
    REQUIRE(gate.wait_until_reached());
    Ticket other = model.submit(5);
    std::this_thread::sleep_for(3 * LateLeases::kLeaseGrace);
    gate.open();
    lessee.join();
    CHECK(Model::wait(other, 2s) == Outcome::ok);
    model->abandon_lease(lease);
    CHECK(model.finish(other, 5) == Outcome::ok);
}

TEST("a lease under backlog has memory of its own and no hurry") {
    Model model;
    model.device->hold();
    Ticket first = model.submit(1);
    CHECK(model.device->wait_until_busy());
    Ticket filler = model.submit(2, 4);
    Ticket lease, dropped;
    REQUIRE(model->begin_lease(2, lease) == Admission::ok);
    REQUIRE(model->begin_lease(1, dropped) == Admission::ok);
    CHECK(lease.slot == nullptr && lease.request != nullptr);
    model.write(lease, 40);
    model->abandon_lease(dropped);
    model.device->release();
    CHECK(model.finish(first, 1) == Outcome::ok);
    CHECK(model.finish(filler, 2) == Outcome::ok);
    std::this_thread::sleep_for(15ms);
    Admission admission{};
    CHECK(model->publish_lease(lease, admission) && admission == Admission::ok);
    CHECK(model.finish(lease, 40) == Outcome::ok);
}

TEST("memory of a lease that somebody may still write to is not used again, whatever became of the lease") {
    enum class End { published, abandoned, lost };
    for (const End end : {End::published, End::abandoned, End::lost}) {
        Model model({.ladder = {1, 8}});
        Ticket lease;
        REQUIRE(model->begin_lease(2, lease) == Admission::ok);
        model.write(lease, 5);
        auto* const rows = reinterpret_cast<float*>(model->destination(lease, 0));
        Slot* const first = model->hold(lease);
        Slot* const second = model->hold(lease);
        CHECK(first == lease.slot && second == lease.slot);
        Ticket neighbour;
        if (end == End::published) {
            Admission admission{};
            REQUIRE(model->publish_lease(lease, admission));
            CHECK(model.finish(lease, 5) == Outcome::ok);
        } else {
            if (end == End::abandoned) model->abandon_lease(lease);
            neighbour = model.submit(7);
            CHECK(model.finish(neighbour, 7) == Outcome::ok);
            if (end == End::lost) model->abandon_lease(lease);
        }
        for (int i = 0; i < 20; ++i) {
            rows[0] = rows[1] = 999;
            Ticket other = model.submit(30, 2);
            CHECK(model.finish(other, 30) == Outcome::ok);
            CHECK(rows[0] == 999 && rows[1] == 999);
        }
        CHECK_EQ(model->in_use().slots, 1u);
        model->let_go(first);
        CHECK_EQ(model->in_use().slots, 1u);
        model->let_go(second);
        CHECK_EQ(model->in_use().slots, 0u);
    }
}

TEST("rows that are held while their batch runs and those that come meanwhile keep out of each other's way") {
    Model model({.ladder = {1, 4}});
    std::atomic<bool> ended{false};
    std::thread holder([&] {
        for (int i = 0; i < 2000; ++i) {
            Ticket lease;
            if (model->begin_lease(1, lease) != Admission::ok) continue;
            if (lease.slot == nullptr) {
                model->abandon_lease(lease);
                continue;
            }
            Slot* const slot = model->hold(lease);
            auto* const row = reinterpret_cast<float*>(model->destination(lease, 0));
            model.write(lease, 500);
            Admission admission{};
            if (i % 2 == 0 || !model->publish_lease(lease, admission))
                model->abandon_lease(lease);
            else
                CHECK(model.finish(lease, 500) == Outcome::ok);
            if (i % 2 == 0) *row = 600;  // of a request that nobody wants
            model->let_go(slot);
        }
        ended = true;
    });
    while (!ended) {
        Ticket other = model.submit(30);
        CHECK(model.finish(other, 30) == Outcome::ok);
    }
    holder.join();
    CHECK_EQ(model->in_use().slots, 0u);
}
