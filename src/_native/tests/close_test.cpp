// The end: draining, deadlines, races, and a device that does not come back.
#include "fixture.hpp"

using namespace ovengine;
using namespace ovengine::testing;

namespace {
bool is_final(Outcome outcome) { return outcome == Outcome::ok || outcome == Outcome::closed; }
}  // namespace

TEST("close drains: every request gets its result") {
    Model model({.lanes = 2, .behavior = {.service_time_us = 200}});
    std::vector<std::pair<Ticket, float>> tickets;
    for (int i = 0; i < 60; ++i) {
        const float tag = static_cast<float>(10 * i);
        tickets.emplace_back(model.submit(tag, 1 + static_cast<std::uint32_t>(i) % 4), tag);
    }
    CHECK(model->close(std::nullopt));
    for (auto& [ticket, tag] : tickets) CHECK(model.finish(ticket, tag) == Outcome::ok);
}

TEST("after close nothing is admitted, and closing again gives the same answer") {
    Model model;
    CHECK(model->close(std::nullopt));
    Ticket ticket;
    CHECK(model.try_submit(1, 1, ticket) == Admission::closed);
    CHECK(model->begin_lease(1, ticket) == Admission::closed);
    float value = 0;
    CHECK(model->submit_rows({reinterpret_cast<std::byte*>(&value)}, 1, ticket) == Admission::closed);
    CHECK(model->submit_shaped({{reinterpret_cast<std::byte*>(&value), {1}}}, ticket) == Admission::closed);
    CHECK_EQ(model->try_borrow_lane(), -1);
    CHECK(model->close(in(1s)));
    std::atomic<bool> back{false};
    std::thread again([core = model.share(), &back] {
        CHECK(core->close(std::nullopt));
        back = true;
    });
    CHECK(eventually([&] { return back.load(); }, 5s));
    again.detach();
}

TEST("close with a deadline ends what has no result by then") {
    Model model({.behavior = {.service_time_us = 30'000}});
    std::vector<Ticket> tickets;
    for (int i = 0; i < 200; ++i) tickets.push_back(model.submit(static_cast<float>(i)));
    CHECK(!model->close(in(10ms)));
    std::size_t closed = 0;
    for (int i = 0; i < 200; ++i) {
        auto& ticket = tickets[static_cast<std::size_t>(i)];
        const Outcome outcome = ModelCore::outcome(ticket);
        CHECK(is_final(outcome));  // at once: close does not return before
        closed += outcome == Outcome::closed;
        CHECK(model.finish(ticket, static_cast<float>(i)) == outcome);
    }
    CHECK(closed > 150);
    CHECK_EQ(model->closed_requests(), closed);
    CHECK(!model->close(std::nullopt));
}

TEST("close tells the notices of what it ends") {
    Model model;
    model.device->hold();
    std::vector<Ticket> tickets{model.submit(1)};
    CHECK(model.device->wait_until_busy());
    tickets.insert(tickets.end(), {model.submit(2, 4), model.submit(6)});
    auto* mailbox = new Mailbox;
    std::vector<Notice> notices(3, Notice{nullptr, mailbox, nullptr});
    for (std::size_t i = 0; i < 3; ++i) CHECK(ModelCore::attach(tickets[i], &notices[i]));
    std::thread release([&] {
        std::this_thread::sleep_for(100ms);
        model.device->release();
    });
    CHECK(!model->close(in(0s)));
    release.join();
    int told = 0;
    for (const Notice* notice = mailbox->take_all(); notice != nullptr; notice = notice->next) ++told;
    CHECK_EQ(told, 3);
    for (auto& ticket : tickets) {
        CHECK(ModelCore::outcome(ticket) == Outcome::closed);
        model->release(ticket);
    }
    mailbox->release();
}

TEST("close does not wait forever for a device, and what comes back late changes nothing") {
    Model model;
    model.device->hold();
    std::vector<Ticket> tickets{model.submit(1)};
    CHECK(model.device->wait_until_busy());
    tickets.insert(tickets.end(), {model.submit(2, 3), model.submit(6)});
    const auto start = platform::Clock::now();
    CHECK(!model->close(in(10ms)));
    CHECK(platform::Clock::now() - start < 10s);
    for (auto& ticket : tickets) CHECK(ModelCore::outcome(ticket) == Outcome::closed);
    const std::weak_ptr<ModelCore> core = model.share();
    model.device->release();
    // The lane comes back, finds nothing to do, and leaves.
    CHECK(eventually([&] { return core.use_count() == 1; }));
    for (auto& ticket : tickets) {
        CHECK(ModelCore::outcome(ticket) == Outcome::closed);
        model->release(ticket);
    }
}

TEST("when several threads close a model, the shortest deadline holds for all") {
    Model model;
    model.device->hold();
    Ticket running = model.submit(1);
    CHECK(model.device->wait_until_busy());
    Ticket waiting = model.submit(2);
    std::vector<std::thread> patient;
    for (const platform::Deadline deadline : {platform::Deadline{}, platform::Deadline{in(1h)}})
        patient.emplace_back([&, deadline] { CHECK(!model->close(deadline)); });
    CHECK(eventually([&] { return model->closing(); }));
    CHECK(!model->close(in(10ms)));
    for (auto& thread : patient) thread.join();  // the device is still held
    for (Ticket* ticket : {&running, &waiting}) {
        CHECK(ModelCore::outcome(*ticket) == Outcome::closed);
        model->release(*ticket);
    }
    CHECK_EQ(model->closed_requests(), 2u);
}

TEST("a thread that stops waiting for the end leaves it to the next one") {
    for (const bool is_patient : {true, false}) {
        Model model;
        model.device->hold();
        Ticket ticket = model.submit(1), refused;
        CHECK(model.device->wait_until_busy());
        model->begin_close(std::nullopt);
        CHECK(!model->wait_closed(in(5ms)));
        CHECK(ModelCore::outcome(ticket) == Outcome::pending);
        CHECK(model.try_submit(2, 1, refused) == Admission::closed);
        if (is_patient) model.device->release();
        CHECK_EQ(model->close(is_patient ? std::nullopt : platform::Deadline(in(0s))), is_patient);
        CHECK(model.finish(ticket, 1) == (is_patient ? Outcome::ok : Outcome::closed));
        CHECK(model->wait_closed(in(0s)));
    }
}

TEST("a bulk request on a device that does not come back is closed like the others") {
    Model model;
    model.device->hold();
    std::vector<float> rows(40 * model.width, 1.0f);
    const std::vector<std::byte*> memory{reinterpret_cast<std::byte*>(rows.data())};
    // The first has its only chunk on the device; the second has chunks that no lane has begun.
    Ticket begun, waiting;
    REQUIRE(model->submit_rows(memory, 4, begun) == Admission::ok);
    CHECK(model.device->wait_until_busy());
    REQUIRE(model->submit_rows(memory, 40, waiting) == Admission::ok);
    CHECK(!model->close(in(0s)));
    for (Ticket* ticket : {&begun, &waiting}) {
        CHECK(ModelCore::outcome(*ticket) == Outcome::closed);
        CHECK_EQ(ticket->job->quiet(), ticket == &waiting);
    }
    model.device->release();
    for (Ticket* ticket : {&begun, &waiting}) {
        CHECK(eventually([&] { return ticket->job->quiet(); }));
        model->release(*ticket);
    }
}

TEST("a request between claim and begin is closed, not answered with what the memory held") {
    Model model;
    Gate gate("ModelCore::begin, claimed");
    Ticket ticket;
    std::thread client([&] {
        CHECK(model->begin(1, ticket) == Admission::ok);
        model.write(ticket, 5);
        model->publish(ticket);
    });
    REQUIRE(gate.wait_until_reached());
    model->close(in(10ms));
    gate.open();
    client.join();
    CHECK(Model::wait(ticket, 5s) == Outcome::closed);
    model->release(ticket);
}

TEST("a lease between begin and its mark is closed too") {
    Model model;
    Gate gate("ModelCore::begin_lease, begun");
    Ticket lease;
    std::thread client([&] { CHECK(model->begin_lease(1, lease) == Admission::ok); });
    REQUIRE(gate.wait_until_reached());
    model->close(in(10ms));
    gate.open();
    client.join();
    Admission admission{};
    if (model->publish_lease(lease, admission)) {
        CHECK(Model::wait(lease, 5s) == Outcome::closed);
        model->release(lease);
    } else {
        model->abandon_lease(lease);
    }
}

TEST("a request on its way into the ring is closed, and nobody waits for it forever") {
    Model model;
    model.device->hold();
    Ticket first = model.submit(1), late;
    CHECK(model.device->wait_until_busy());
    Ticket filler = model.submit(2, 4);
    Gate gate("Dispatcher::try_queue, counted");
    std::thread client([&] { CHECK(model.try_submit(9, 1, late) == Admission::ok); });
    REQUIRE(gate.wait_until_reached());
    std::thread closer([&] { model->close(in(10ms)); });
    std::this_thread::sleep_for(50ms);
    model.device->release();
    gate.open();
    client.join();
    closer.join();
    CHECK(is_final(model.finish(first, 1)));
    CHECK(is_final(model.finish(filler, 2)));
    CHECK(is_final(Model::wait(late, 5s)));
    model->release(late);
}

TEST("close with a lease outstanding and its neighbour published leaves no lane spinning") {
    for (const bool drain : {true, false}) {
        Model model;
        model.device->hold();
        Ticket busy = model.submit(50, 4), lease, neighbour;
        CHECK(model.device->wait_until_busy());
        REQUIRE(model->begin_lease(1, lease) == Admission::ok);
        neighbour = model.submit(7);
        const auto start = platform::Clock::now();
        std::thread closer([&] { model->close(in(drain ? 5s : 1ms)); });
        std::this_thread::sleep_for(20ms);
        model.device->release();
        closer.join();
        CHECK(platform::Clock::now() - start < 1900ms);  // the lane left by itself
        CHECK(is_final(model.finish(neighbour, 7)));
        CHECK(is_final(model.finish(busy, 50)));
        Admission admission{};
        CHECK(!model->publish_lease(lease, admission));
        model->abandon_lease(lease);
    }
}

TEST("an answer does not change when close comes a moment later") {
    Model model;
    Gate gate("Lane::run, completed");
    Ticket done = model.submit(5);
    REQUIRE(gate.wait_until_reached());
    CHECK(ModelCore::outcome(done) == Outcome::ok);
    std::thread closer([&] { model->close(in(0s)); });
    std::this_thread::sleep_for(50ms);
    CHECK(ModelCore::outcome(done) == Outcome::ok);
    gate.open();
    closer.join();
    CHECK(model.finish(done, 5) == Outcome::ok);
}

TEST("failures that are told early because of close can be read while the lane goes on") {
    Model model({.ladder = {1, 16}, .behavior = {.service_time_us = 20'000, .poison = 3.0f}});
    const int lane = model.borrow_lane();
    std::vector<Ticket> tickets;
    for (int i = 0; i < 16; ++i) tickets.push_back(model.submit(i % 2 == 0 ? 3.0f : 100.0f));
    model->return_lane(lane);
    CHECK(eventually([&] { return tickets[0].batch->state(tickets[0].row) == RowState::failed; }));
    std::thread reader([&] {
        CHECK(Model::wait(tickets[0]) == Outcome::failed);
        while (ModelCore::outcome(tickets[15]) == Outcome::pending) std::this_thread::yield();
        for (int i = 0; i < 2000; ++i) CHECK(!tickets[0].batch->failure(tickets[0].row).empty());
    });
    model->close(in(0s));
    reader.join();
    for (auto& ticket : tickets) model->release(ticket);
}

TEST("close races with submit, leases and jobs: every request ends") {
    for (int round = 0; round < 40; ++round) {
        Jitter jitter(100);
        Model model({.ladder = {1, 4}, .lanes = 2, .log = false});
        std::atomic<bool> go{false};
        std::vector<std::thread> clients;
        for (int client = 0; client < 3; ++client)
            clients.emplace_back([&, client] {
                std::vector<float> bulk(10 * model.width, 1.0f);
                while (!go.load()) std::this_thread::yield();
                for (int i = 0;; ++i) {
                    const float tag = static_cast<float>(100 * i + client);
                    Ticket ticket;
                    Admission admission = Admission::ok;
                    if (i % 8 == 3) {
                        admission = model->submit_rows({reinterpret_cast<std::byte*>(bulk.data())}, 10, ticket);
                    } else if (i % 8 == 5) {
                        admission = model->begin_lease(1, ticket);
                        if (admission == Admission::ok) {
                            model.write(ticket, tag);
                            if (!model->publish_lease(ticket, admission)) {
                                model->abandon_lease(ticket);
                                continue;
                            }
                        }
                    } else {
                        admission = model.try_submit(tag, 1 + static_cast<std::uint32_t>(i) % 4, ticket);
                    }
                    if (admission == Admission::closed) return;
                    if (admission == Admission::full) continue;
                    const Outcome outcome = Model::wait(ticket, 10s);
                    CHECK(is_final(outcome));
                    if (outcome == Outcome::ok && ticket.job == nullptr) CHECK(model.has_own_result(ticket, tag));
                    // The lanes may still be reading a closed job's memory.
                    if (ticket.job != nullptr) CHECK(eventually([&] { return ticket.job->quiet(); }));
                    model->release(ticket);
                }
            });
        go = true;
        std::this_thread::sleep_for(std::chrono::microseconds(random_bits() % 3000));
        model->close(round % 2 == 0 ? platform::Deadline(in(0s)) : std::nullopt);
        for (auto& client : clients) client.join();
    }
}
