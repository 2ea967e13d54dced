// Sessions: requests in order on one infer request, many sessions on a few lanes, and how both end.
#include "fixture.hpp"

using namespace ovengine;
using namespace ovengine::testing;

namespace {

// A session's executor behind the test's brake; counts how many of its inferences run at once.
class LoggingStateful final : public StatefulExecutor {
  public:
    LoggingStateful(std::unique_ptr<StatefulExecutor> fake, std::shared_ptr<Device> device)
        : fake_(std::move(fake)), device_(std::move(device)) {}

    const std::vector<Port>& states() const override { return fake_->states(); }
    std::vector<ShapedOutput> infer_shaped(const std::vector<ShapedInput>& inputs) override {
        CHECK(!running_.exchange(true, std::memory_order_acquire));
        const float first = *reinterpret_cast<const float*>(inputs[0].data);
        device_->enter({1, {first}, {first}, std::this_thread::get_id()});
        running_.store(false, std::memory_order_release);
        return fake_->infer_shaped(inputs);
    }
    void reset_state() override { fake_->reset_state(); }
    ShapedOutput state(std::size_t variable) override { return fake_->state(variable); }
    void set_state(std::size_t variable, const ShapedInput& value) override { fake_->set_state(variable, value); }

  private:
    const std::unique_ptr<StatefulExecutor> fake_;
    const std::shared_ptr<Device> device_;
    std::atomic<bool> running_{false};
};

class LoggingCompiled final : public CompiledModel {
  public:
    LoggingCompiled(std::shared_ptr<Device> device, FakeBehavior behavior)
        : fake_(std::make_shared<FakeCompiled>(std::vector{Port{{"x"}, {1, 4}, true, "f4"}},
                                               std::vector{Port{{"y"}, {1, 4}, true, "f4"}}, behavior)),
          device_(std::move(device)) {}

    const std::vector<Port>& inputs() const override { return fake_->inputs(); }
    const std::vector<Port>& outputs() const override { return fake_->outputs(); }
    std::string property(const std::string& name) const override { return fake_->property(name); }
    std::string export_blob() const override { return fake_->export_blob(); }
    std::unique_ptr<Executor> make_executor() const override { return fake_->make_executor(); }
    std::unique_ptr<StatefulExecutor> make_stateful() const override {
        return std::make_unique<LoggingStateful>(fake_->make_stateful(), device_);
    }

  private:
    const std::shared_ptr<FakeCompiled> fake_;
    const std::shared_ptr<Device> device_;
};

// A model whose lanes have a compiled model each, or share one.
Setup with_sessions(std::size_t lanes, bool shared = false, FakeBehavior behavior = {}) {
    Setup setup{.ladder = {1}, .lanes = lanes, .behavior = behavior};
    setup.sessions_from = [=, compiled = std::shared_ptr<const CompiledModel>()](std::shared_ptr<Device> device,
                                                                                 std::size_t) mutable {
        if (!compiled || !shared) compiled = std::make_shared<LoggingCompiled>(std::move(device), behavior);
        return compiled;
    };
    return setup;
}

// The owner of a session, which submits single values; what it expects is that the fake device adds them all up.
class Client {
  public:
    explicit Client(Model& model) : model_(model), session_(model->open_session()) {}

    Ticket submit(float value, bool wake = true) {
        Ticket ticket;
        CHECK(try_submit(value, ticket, wake) == Admission::ok);
        return ticket;
    }
    Admission try_submit(float value, Ticket& ticket, bool wake = true) {
        values_.push_back(std::make_unique<float>(value));
        return model_->submit_in_session(session_, {{reinterpret_cast<const std::byte*>(values_.back().get()), {1}}},
                                         ticket, wake);
    }
    static float value(const Ticket& ticket) {
        return *reinterpret_cast<const float*>(ticket.job->shaped_outputs()[0].data.data());
    }
    // Waits, and gives back; the result where it is ok.
    float finish(Ticket& ticket) {
        const bool ok = Model::wait(ticket) == Outcome::ok;
        CHECK(ok);
        const float result = ok ? value(ticket) : -1;
        model_->release(ticket);
        return result;
    }
    void hold() {
        bool reset = false;
        while (!model_->sessions().try_hold(*session_, reset)) model_->sessions().wait_for_rest(*session_, in(20s));
        if (reset) session_->executor().reset_state();
    }
    float total() {
        hold();
        const auto state = session_->executor().state(0);
        model_->let_go(session_);
        return *reinterpret_cast<const float*>(state.data.data());
    }
    std::shared_ptr<Session>& session() { return session_; }

  private:
    Model& model_;
    std::shared_ptr<Session> session_;
    std::vector<std::unique_ptr<float>> values_;
};

}  // namespace

TEST("a session's requests run in order, each from the state that the one before left") {
    Model model(with_sessions(2));
    Client client(model);
    std::vector<Ticket> tickets;
    for (int i = 0; i < 100; ++i) tickets.push_back(client.submit(1));
    for (int i = 0; i < 100; ++i)  // the sum so far, one to begin with, and the value
        CHECK_EQ(client.finish(tickets[static_cast<std::size_t>(i)]), static_cast<float>(i + 2));
    CHECK_EQ(client.total(), 101.0f);
}

TEST("sessions do not see each other's state") {
    Model model(with_sessions(2));
    std::vector<std::unique_ptr<Client>> clients;
    for (int i = 0; i < 10; ++i) clients.push_back(std::make_unique<Client>(model));
    for (int round = 0; round < 5; ++round)
        for (int i = 0; i < 10; ++i) {
            const auto step = static_cast<float>(1 << i);
            Ticket ticket = clients[static_cast<std::size_t>(i)]->submit(step);
            CHECK_EQ(clients[static_cast<std::size_t>(i)]->finish(ticket), 1 + step * static_cast<float>(round + 1));
        }
}

TEST("sessions are spread over the lanes, and each stays with its own") {
    Model model(with_sessions(2));
    std::vector<std::unique_ptr<Client>> clients;
    for (int i = 0; i < 4; ++i) clients.push_back(std::make_unique<Client>(model));
    std::uint64_t lanes[2] = {};
    for (const auto& client : clients) {
        const std::uint64_t own = model->lanes_of(*client->session());
        CHECK(own == 1 || own == 2);
        ++lanes[own - 1];
    }
    CHECK_EQ(lanes[0], 2u);
    CHECK_EQ(lanes[1], 2u);
    // Those that end make room.
    const std::uint64_t gone = model->lanes_of(*clients[0]->session());
    clients.erase(clients.begin());
    Client next(model);
    CHECK_EQ(model->lanes_of(*next.session()), gone);
}

TEST("where lanes share a compiled model, any of them runs any session, but never one session twice at once") {
    Model model(with_sessions(2, true));
    Client first(model), second(model);
    CHECK_EQ(model->lanes_of(*first.session()), 3u);
    model.device->hold();
    Ticket one = first.submit(1), two = first.submit(2);
    CHECK(model.device->wait_until_busy(1));
    Ticket other = second.submit(4);
    CHECK(model.device->wait_until_busy(2));  // the second lane took the other session, not the first one's next
    model.device->release();
    CHECK_EQ(first.finish(one), 2.0f);
    CHECK_EQ(first.finish(two), 4.0f);
    CHECK_EQ(second.finish(other), 5.0f);
}

TEST("a request that waits can be cancelled and leaves the state alone; one that runs cannot") {
    Model model(with_sessions(1));
    Client client(model);
    model.device->hold();
    Ticket running = client.submit(1), waiting = client.submit(10), last = client.submit(100);
    CHECK(model.device->wait_until_busy());
    CHECK(!ModelCore::cancel(running));
    CHECK(ModelCore::cancel(waiting));
    CHECK(!ModelCore::cancel(waiting));
    CHECK(ModelCore::outcome(waiting) == Outcome::cancelled);
    model.device->release();
    CHECK_EQ(client.finish(running), 2.0f);
    CHECK_EQ(client.finish(last), 102.0f);
    model->release(waiting);
}

TEST("a reset stands between the requests before it and those after, also when the next one is cancelled") {
    Model model(with_sessions(1));
    Client client(model);
    model.device->hold();
    Ticket before = client.submit(5);
    CHECK(model.device->wait_until_busy());
    model->sessions().reset(*client.session());
    Ticket cancelled = client.submit(7);
    Ticket after = client.submit(1);
    CHECK(ModelCore::cancel(cancelled));
    model.device->release();
    CHECK_EQ(client.finish(before), 6.0f);
    CHECK_EQ(client.finish(after), 2.0f);
    model->release(cancelled);
    model->sessions().reset(*client.session());
    CHECK_EQ(client.total(), 1.0f);
}

TEST("an inference that fails leaves the state as it was, and the session goes on") {
    Model model(with_sessions(1, false, {.poison = 13.0f}));
    Client client(model);
    Ticket good = client.submit(1), bad = client.submit(13), next = client.submit(1);
    CHECK_EQ(client.finish(good), 2.0f);
    CHECK(Model::wait(bad) == Outcome::failed);
    CHECK(bad.job->failure(0).starts_with("the fake device refuses"));
    CHECK_EQ(client.finish(next), 3.0f);
    model->release(bad);
}

TEST("the state waits for the requests before it, and can be set") {
    Model model(with_sessions(1));
    Client client(model);
    model.device->hold();
    Ticket first = client.submit(1);
    CHECK(model.device->wait_until_busy());
    std::atomic<bool> read{false};
    std::thread reader([&] {
        CHECK_EQ(client.total(), 2.0f);
        read.store(true);
    });
    CHECK(!read.load());
    model.device->release();
    reader.join();
    client.hold();
    const float start = 50;
    client.session()->executor().set_state(0, {reinterpret_cast<const std::byte*>(&start), {1}});
    Ticket next = client.submit(1);  // waits while the session is held
    CHECK(ModelCore::wait(next, in(20ms)) == platform::WaitResult::timed_out);
    model->let_go(client.session());
    CHECK_EQ(client.finish(next), 51.0f);
    CHECK_EQ(client.finish(first), 2.0f);
}

TEST("a session that is dropped finishes what it has, and is gone") {
    Model model(with_sessions(1));
    auto client = std::make_unique<Client>(model);
    const std::weak_ptr<Session> gone = client->session();
    model.device->hold();
    Ticket one = client->submit(1), two = client->submit(1);
    CHECK(model.device->wait_until_busy());
    client->session().reset();
    CHECK_EQ(model->sessions().count(), 1u);
    model.device->release();
    CHECK_EQ(client->finish(one), 2.0f);
    CHECK_EQ(client->finish(two), 3.0f);
    CHECK(eventually([&] { return gone.expired() && model->sessions().count() == 0; }));
}

TEST("sessions and plain requests take turns") {
    Model model(with_sessions(1));
    Client client(model);
    model.device->hold();
    std::vector<Ticket> in_session, plain;
    in_session.push_back(client.submit(1));
    CHECK(model.device->wait_until_busy());
    for (int i = 0; i < 30; ++i) plain.push_back(model.submit(static_cast<float>(1000 + i)));
    for (int i = 0; i < 30; ++i) in_session.push_back(client.submit(1));
    model.device->release();
    for (int i = 0; i < 30; ++i)
        CHECK(model.finish(plain[static_cast<std::size_t>(i)], static_cast<float>(1000 + i)) == Outcome::ok);
    for (auto& ticket : in_session) client.finish(ticket);
    const auto calls = model.device->calls();
    CHECK_EQ(calls.size(), 61u);
    for (std::size_t i = 2; i < 60; ++i)  // never two of a kind in a row while both wait
        CHECK((calls[i].tags[0] >= 1000) != (calls[i - 1].tags[0] >= 1000));
}

TEST("max_queue_size holds for sessions too, and room comes back") {
    Setup setup = with_sessions(1);
    setup.queue.max_queue_size = 3;
    Model model(std::move(setup));
    Client client(model);
    model.device->hold();
    std::vector<Ticket> tickets;
    tickets.push_back(client.submit(1));
    CHECK(model.device->wait_until_busy());
    for (int i = 0; i < 3; ++i) tickets.push_back(client.submit(1));
    Ticket ticket;
    CHECK(client.try_submit(1, ticket) == Admission::full);
    CHECK(ticket.job == nullptr);
    CHECK(model->wait_for_session_room(in(1ms)) == platform::WaitResult::timed_out);
    model.device->release();
    for (auto& accepted : tickets) client.finish(accepted);
    CHECK(model->wait_for_session_room(in(20s)) == platform::WaitResult::woken);
    CHECK_EQ(client.total(), 5.0f);
}

TEST("max_queue_size counts sessions and all others together, and whoever waits gets the room that either leaves") {
    Setup setup = with_sessions(1);
    setup.queue.max_queue_size = 3;
    Model model(std::move(setup));
    Client client(model), other(model);
    model.device->hold();
    Ticket running = client.submit(1), ticket;
    CHECK(model.device->wait_until_busy());
    Ticket open = model.submit(100);  // has a slot, and does not wait
    std::vector<Ticket> plain{model.submit(200)}, in_session{client.submit(1), other.submit(1)};
    CHECK_EQ(model->approx_waiting(), 3u);
    CHECK(model.try_submit(300, 1, ticket) == Admission::full);
    CHECK(client.try_submit(1, ticket) == Admission::full);
    CHECK(model->submit_shaped({}, ticket) == Admission::full);
    CHECK(model->wait_for_room(in(1ms)) == platform::WaitResult::timed_out);
    CHECK(model->wait_for_session_room(in(1ms)) == platform::WaitResult::timed_out);
    std::thread waits([&] {
        while (model.try_submit(400, 1, ticket) == Admission::full)
            CHECK(model->wait_for_room(in(20s)) != platform::WaitResult::timed_out);
    });
    Ticket last;
    std::thread waits_in_session([&] {
        while (other.try_submit(1, last) == Admission::full)
            CHECK(model->wait_for_session_room(in(20s)) != platform::WaitResult::timed_out);
    });
    model.device->release();
    waits.join(), waits_in_session.join();
    CHECK(model.finish(open, 100) == Outcome::ok);
    CHECK(model.finish(plain[0], 200) == Outcome::ok);
    CHECK(model.finish(ticket, 400) == Outcome::ok);
    for (Ticket* each : {&running, &in_session[0]}) client.finish(*each);
    for (Ticket* each : {&in_session[1], &last}) other.finish(*each);
    CHECK_EQ(client.total(), 3.0f);
    CHECK_EQ(other.total(), 3.0f);
}

TEST("sessions and producers at once never exceed max_queue_size together") {
    Setup setup = with_sessions(1);
    setup.queue.max_queue_size = 4;
    Model model(std::move(setup));
    for (int round = 0; round < 20; ++round) {
        Client first(model);
        model.device->hold();
        Ticket running = first.submit(1);
        CHECK(model.device->wait_until_busy());
        Ticket open = model.submit(1);
        std::atomic<int> accepted{0}, refused{0};
        std::vector<std::thread> threads;
        for (int i = 0; i < 4; ++i)
            threads.emplace_back([&, i] {
                Client client(model);
                std::vector<Ticket> mine;
                // Of two who come for the last place at once, both may be refused.
                while (accepted.load() < 4) {
                    Ticket ticket;
                    if ((i % 2 == 0 ? client.try_submit(1, ticket) : model.try_submit(10, 1, ticket)) != Admission::ok)
                        continue;
                    accepted.fetch_add(1);
                    mine.push_back(ticket);
                }
                for (int n = 0; n < 20; ++n) {
                    Ticket ticket;
                    CHECK((i % 2 == 0 ? client.try_submit(1, ticket) : model.try_submit(10, 1, ticket)) ==
                          Admission::full);
                }
                CHECK_EQ(accepted.load(), 4);
                for (refused.fetch_add(1); refused.load() < 4;) std::this_thread::yield();
                model.device->release();
                for (auto& ticket : mine) i % 2 == 0 ? void(client.finish(ticket)) : void(model.finish(ticket, 10));
            });
        for (auto& thread : threads) thread.join();
        first.finish(running);
        CHECK(model.finish(open, 1) == Outcome::ok);
    }
}

TEST("a caller that has the session's lane runs its request itself") {
    Model model(with_sessions(1));
    Client client(model);
    const int lane = model.borrow_lane();
    Ticket ticket = client.submit(1, false);
    model->run_borrowed_job(lane, ticket, platform::Clock::now() + 20s);
    CHECK(ModelCore::outcome(ticket) == Outcome::ok);
    CHECK(model.device->calls().front().thread == std::this_thread::get_id());
    CHECK_EQ(client.finish(ticket), 2.0f);
    CHECK_EQ(model->lane_stats(0).reasons[LaneStats::session].load(), 1u);
}

TEST("closing a session refuses new requests and ends those that are left") {
    Model model(with_sessions(1));
    Client client(model), other(model);
    model.device->hold();
    Ticket running = client.submit(1), waiting = client.submit(1), others = other.submit(1);
    CHECK(model.device->wait_until_busy());
    model->sessions().close(*client.session());
    Ticket refused;
    CHECK(client.try_submit(1, refused) == Admission::closed);
    model->end_session(*client.session());
    CHECK(ModelCore::outcome(running) == Outcome::closed);
    CHECK(ModelCore::outcome(waiting) == Outcome::closed);
    model.device->release();
    CHECK_EQ(other.finish(others), 2.0f);
    CHECK_EQ(model->closed_requests(), 2u);
    CHECK(running.job->quiet());  // the same lane ran the other session's after it
    model->release(running);
    model->release(waiting);
}

TEST("closing the model drains sessions, or ends what they have left at the deadline") {
    for (const bool in_time : {true, false}) {
        Model model(with_sessions(2));
        std::vector<std::unique_ptr<Client>> clients;
        std::vector<Ticket> tickets;
        model.device->hold();
        for (int i = 0; i < 4; ++i) {
            clients.push_back(std::make_unique<Client>(model));
            for (int k = 0; k < 3; ++k) tickets.push_back(clients.back()->submit(1));
        }
        CHECK(model.device->wait_until_busy(2));
        clients[0]->session().reset();  // dropped with requests that wait
        std::thread late([&] {
            if (!in_time) CHECK(eventually([&] { return model->closed_requests() > 0 || model->closing(); }));
            if (in_time) model.device->release();
        });
        CHECK_EQ(model->close(in(in_time ? 20s : 20ms)), in_time);
        late.join();
        model.device->release();
        for (auto& ticket : tickets) {
            const Outcome outcome = Model::wait(ticket);
            CHECK(outcome == (in_time ? Outcome::ok : Outcome::closed));
            CHECK(eventually([&] { return ticket.job->quiet(); }));
            model->release(ticket);
        }
        Ticket refused;
        CHECK(clients[1]->try_submit(1, refused) == Admission::closed);
    }
}

TEST("many sessions from many threads, with cancellations, resets and plain requests beside them") {
    for (const bool shared : {false, true}) {
        Setup setup = with_sessions(2, shared);
        setup.log = false;
        Model model(std::move(setup));
        std::vector<std::thread> threads;
        for (int thread = 0; thread < 4; ++thread)
            threads.emplace_back([&, thread] {
                for (int round = 0; round < 10; ++round) {
                    Client client(model);
                    std::vector<Ticket> tickets;
                    for (int i = 0; i < 20; ++i) {
                        if (i == 10) model->sessions().reset(*client.session());
                        tickets.push_back(client.submit(1));
                    }
                    Ticket plain = model.submit(static_cast<float>(1000 * thread + round));
                    float expected = 1;
                    for (std::size_t i = 0; i < tickets.size(); ++i) {
                        if (i == 10) expected = 1;
                        if (i % 5 == static_cast<std::size_t>(thread) && ModelCore::cancel(tickets[i])) {
                            model->release(tickets[i]);
                            continue;
                        }
                        expected += 1;
                        CHECK_EQ(client.finish(tickets[i]), expected);
                    }
                    CHECK_EQ(client.total(), expected);
                    CHECK(model.finish(plain, static_cast<float>(1000 * thread + round)) == Outcome::ok);
                }
            });
        for (auto& thread : threads) thread.join();
        CHECK(eventually([&] { return model->sessions().count() == 0; }));
    }
}
