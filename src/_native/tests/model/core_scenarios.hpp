// What threads may do to the whole core, with one lane or two and a device that takes no time.
#pragma once

#include "scenario.hpp"

namespace ovengine::scenarios {

// A row is one number, its tag. What the client did before it submitted the tag, the device must see, and the client
// what the device did.
struct Shadow {
    Plain written[32], run[32];
    bool has_keys = false;  // tags of different tens must not run together
};

class NullExecutor final : public Executor {
  public:
    NullExecutor(std::uint32_t size, Shadow& shadow) : size_(size), shadow_(shadow) {}
    void infer(std::uint32_t, std::byte* const* inputs, std::byte* const* outputs) override {
        std::memcpy(outputs[0], inputs[0], size_ * sizeof(float));
        std::size_t first = 0;
        for (std::uint32_t row = 0; row < size_; ++row) {
            const auto* tags = reinterpret_cast<const float*>(inputs[0]);
            const auto tag = static_cast<std::size_t>(tags[row]);
            if (std::find(tags, tags + row, tags[row]) != tags + row) continue;  // padding repeats a row
            EXPECT(!shadow_.has_keys || first == 0 || first / 10 == tag / 10);
            first = tag;
            EXPECT(int(shadow_.written[tag]($)) == 1);
            EXPECT(int(shadow_.run[tag]($)) == 0);
            shadow_.run[tag]($) = 1;
        }
    }
    std::vector<ShapedOutput> infer_shaped(const std::vector<ShapedInput>&) override { return {}; }
    const std::uint32_t size_;
    Shadow& shadow_;
};

struct Core {
    Shadow shadow;
    std::shared_ptr<ModelCore> core;
    model::atomic<std::uint32_t> clients{0};
    void make(std::uint32_t capacity, std::uint32_t count, std::size_t lane_count = 1, std::uint32_t limit = 2,
              std::shared_ptr<const CompiledModel> sessions_from = nullptr) {
        for (int tag = 0; tag < 32; ++tag) shadow.written[tag]($) = shadow.run[tag]($) = 0;
        std::vector<std::uint32_t> sizes{capacity};
        std::vector<ModelCore::LaneConfig> lanes(lane_count);
        for (auto& lane : lanes) {
            lane.device = 0;
            lane.sessions_from = sessions_from;
            lane.executors.push_back(std::make_unique<NullExecutor>(capacity, shadow));
        }
        core = std::make_shared<ModelCore>(RowLayout{{sizeof(float)}, {sizeof(float)}}, CostTable(sizes, {1.0}),
                                           std::move(lanes),
                                           ModelCore::Options{{.max_queue_size = limit, .ring_capacity = limit}});
        core->lanes_.running_.store(static_cast<std::uint32_t>(lane_count), std::memory_order_relaxed);
        clients.store(count, std::memory_order_relaxed);
    }
    void run_lane(std::uint32_t index) {
        core->lanes_.run_lane(index);
        core->lanes_.running_.fetch_sub(1, std::memory_order_acq_rel);  // as Lanes::start_thread() does
    }
    // The last client sends the lane home.
    void leave() {
        if (clients.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
        core->lanes_.stopping_.store(true, std::memory_order_seq_cst);
        core->lanes_.wake_all();
    }
    void check_rest() {
        core->dispatcher_.close_waiting();  // requests that were cancelled in the ring, and no lane came by since
        const auto left = core->in_use();
        EXPECT(left.slots == 0 && left.batches == 0 && left.requests == 0);
    }
    void write(Ticket& ticket, float value) {
        shadow.written[static_cast<int>(value)]($) = 1;
        std::memcpy(core->destination(ticket, 0), &value, sizeof value);
    }
    Ticket submit(float value, const Terms& terms = {}) {
        Ticket ticket;
        for (;;) {
            while (core->begin(1, ticket, terms) != Admission::ok) core->wait_for_room(std::nullopt);
            write(ticket, value);
            if (core->publish(ticket) == Admission::ok) return ticket;
            core->wait_for_room(std::nullopt);
        }
    }
    void expect_result(Ticket& ticket, float value) {
        while (ModelCore::outcome(ticket) == Outcome::pending) ModelCore::wait(ticket, std::nullopt);
        EXPECT(ModelCore::outcome(ticket) == Outcome::ok);
        float got = 0;
        std::memcpy(&got, core->output(ticket, 0), sizeof got);
        EXPECT(got == value);
        EXPECT(int(shadow.run[static_cast<int>(value)]($)) == 1);
    }
};

// submit / run / park: every request is run and nobody sleeps for ever, with batches of one (ring) and of two.
template <int kCapacity>
struct CoreSubmit : rl::test_suite<CoreSubmit<kCapacity>, 3>, Core {
    void before() { make(kCapacity, 2); }
    void thread(unsigned index) {
        if (index == 2) return run_lane(0);
        for (int i = 0; i < 2; ++i) {
            const float value = static_cast<float>(10 * index + i + 1);
            Ticket ticket = submit(value);
            expect_result(ticket, value);
            core->release(ticket);
        }
        leave();
    }
    void after() { check_rest(); }
};

// The same with two lanes, of which one may park while the other one opens the next slot.
struct CoreTwoLanes : rl::test_suite<CoreTwoLanes, 4>, Core {
    void before() { make(2, 2, 2); }
    void thread(unsigned index) {
        if (index >= 2) return run_lane(index - 2);
        for (int i = 0; i < 2; ++i) {
            const float value = static_cast<float>(10 * index + i + 1);
            Ticket ticket = submit(value);
            expect_result(ticket, value);
            core->release(ticket);
        }
        leave();
    }
    void after() { check_rest(); }
};

// wait_for_room / gather: a queue of one, and nobody waits for room that is there.
struct CoreRoom : rl::test_suite<CoreRoom, 3>, Core {
    void before() { make(1, 2, 1, 1); }
    void thread(unsigned index) {
        if (index == 2) return run_lane(0);
        const float value = static_cast<float>(10 * index + 1);
        Ticket first = submit(value), second = submit(value + 1);
        expect_result(first, value);
        expect_result(second, value + 1);
        core->release(first);
        core->release(second);
        leave();
    }
    void after() { check_rest(); }
};

// A job in two chunks beside a request; the job is cancelled or not.
template <bool kCancel>
struct CoreJob : rl::test_suite<CoreJob<kCancel>, 4>, Core {
    void before() { make(1, 2, 2); }
    void thread(unsigned index) {
        if (index >= 2) return run_lane(index - 2);
        if (index == 0) {
            float rows[2] = {5, 6};
            shadow.written[5]($) = shadow.written[6]($) = 1;
            Ticket ticket;
            while (core->submit_rows({reinterpret_cast<std::byte*>(rows)}, 2, ticket) != Admission::ok)
                core->wait_for_room(std::nullopt);
            const bool won = kCancel && ModelCore::cancel(ticket);
            while (ModelCore::outcome(ticket) == Outcome::pending) ModelCore::wait(ticket, std::nullopt);
            EXPECT(ModelCore::outcome(ticket) == (won ? Outcome::cancelled : Outcome::ok));
            if (!won) {
                EXPECT(std::memcmp(core->output(ticket, 0), rows, sizeof rows) == 0);
                EXPECT(int(shadow.run[5]($)) == 1 && int(shadow.run[6]($)) == 1);
            }
            while (!ticket.job->quiet()) model::yield();
            shadow.written[5]($) = shadow.written[6]($) = 2;  // the caller's memory is its own again
            core->release(ticket);
        } else {
            Ticket ticket = submit(1);
            expect_result(ticket, 1);
            core->release(ticket);
        }
        leave();
    }
    void after() { check_rest(); }
};

// offer / gather / heir: of requests that take each other's place, each ends once, and is run or superseded.
struct CoreTerms : rl::test_suite<CoreTerms, 3>, Core {
    std::shared_ptr<Group> group;
    void before() {
        make(1, 2);
        group = std::make_shared<Group>("");
    }
    void thread(unsigned index) {
        if (index == 2) return run_lane(0);
        for (int i = 0; i < 2; ++i) {
            const float value = static_cast<float>(10 * index + i + 1);
            Ticket ticket;
            const Terms terms{.priority = index + 1, .group = group, .latest_only = true};
            Admission admission = Admission::full;
            while (admission == Admission::full) {
                while (core->begin(1, ticket, terms) != Admission::ok) core->wait_for_room(std::nullopt);
                write(ticket, value);
                admission = core->publish(ticket);
                if (admission == Admission::full) core->wait_for_room(std::nullopt);
            }
            while (ModelCore::outcome(ticket) == Outcome::pending) ModelCore::wait(ticket, std::nullopt);
            const Outcome outcome = ModelCore::outcome(ticket);
            EXPECT(outcome == Outcome::ok || outcome == Outcome::superseded);
            if (outcome == Outcome::ok) expect_result(ticket, value);
            EXPECT(int(shadow.run[static_cast<int>(value)]($)) == (outcome == Outcome::ok));
            core->release(ticket);
        }
        leave();
    }
    void after() {
        group.reset();
        check_rest();
    }
};

// Requests of two keys and plain ones: each is run, and never beside one of another key.
struct CoreKeys : rl::test_suite<CoreKeys, 3>, Core {
    void before() {
        make(2, 2, 1, 4);
        shadow.has_keys = true;
    }
    void thread(unsigned index) {
        if (index == 2) return run_lane(0);
        Ticket keyed = submit(index == 0 ? 11.0f : 21.0f, {.key = 1 + index});
        Ticket other = index == 0 ? submit(12, {.key = 1}) : submit(1);
        expect_result(keyed, index == 0 ? 11.0f : 21.0f);
        expect_result(other, index == 0 ? 12.0f : 1.0f);
        core->release(keyed);
        core->release(other);
        leave();
    }
    void after() { check_rest(); }
};

// Requests of a session, in order, and a plain one: nobody sleeps over any of them.
struct CoreSession : rl::test_suite<CoreSession, 3>, Core {
    std::shared_ptr<Session> session;
    void before() {
        const Port port{{"x"}, {1}, true, "f4"};
        make(1, 2, 1, 4, std::make_shared<FakeCompiled>(std::vector{port}, std::vector{port}, FakeBehavior{}));
        session = core->open_session();
    }
    void thread(unsigned index) {
        if (index == 2) return run_lane(0);
        if (index == 1) {
            Ticket ticket = submit(1);
            expect_result(ticket, 1);
            core->release(ticket);
            return leave();
        }
        const float one = 1;
        Ticket tickets[2];
        for (Ticket& ticket : tickets)
            EXPECT(core->submit_in_session(session, {{reinterpret_cast<const std::byte*>(&one), {1}}}, ticket) ==
                   Admission::ok);
        float sum = 1;  // the fake device's initial state, to which each request adds its value
        for (Ticket& ticket : tickets) {
            while (ModelCore::outcome(ticket) == Outcome::pending) ModelCore::wait(ticket, std::nullopt);
            EXPECT(ModelCore::outcome(ticket) == Outcome::ok);
            const auto& output = ticket.job->shaped_outputs()[0].data;
            EXPECT(*reinterpret_cast<const float*>(output.data()) == ++sum);
            core->release(ticket);
        }
        leave();
    }
    void after() {
        session.reset();
        check_rest();
    }
};

// install / run: the ladder grows beside a request, and what only the larger size holds runs on that.
struct CoreInstall : rl::test_suite<CoreInstall, 3>, Core {
    void before() { make(1, 2); }
    void thread(unsigned index) {
        if (index == 2) return run_lane(0);
        if (index == 0) {
            Ticket ticket = submit(1);
            expect_result(ticket, 1);
            core->release(ticket);
        } else {
            std::vector<std::vector<std::unique_ptr<Executor>>> executors(1);
            executors[0].push_back(nullptr);
            executors[0].push_back(std::make_unique<NullExecutor>(2, shadow));
            core->install(CostTable({1, 2}, {1.0, 1.5}), std::move(executors));
            Ticket ticket;
            while (core->begin(2, ticket) != Admission::ok) core->wait_for_room(std::nullopt);
            const float rows[2] = {11, 12};
            shadow.written[11]($) = shadow.written[12]($) = 1;
            std::memcpy(core->destination(ticket, 0), rows, sizeof rows);
            if (core->publish(ticket) == Admission::ok) {
                while (ModelCore::outcome(ticket) == Outcome::pending) ModelCore::wait(ticket, std::nullopt);
                EXPECT(ModelCore::outcome(ticket) == Outcome::ok);
                EXPECT(std::memcmp(core->output(ticket, 0), rows, sizeof rows) == 0);
                EXPECT(int(shadow.run[11]($)) == 1 && int(shadow.run[12]($)) == 1);
                core->release(ticket);
            }
        }
        leave();
    }
    void after() { check_rest(); }
};

// caller-runs: a lane goes from its thread to a caller and back while another one submits.
struct CoreBorrow : rl::test_suite<CoreBorrow, 3>, Core {
    void before() { make(2, 2); }
    void thread(unsigned index) {
        if (index == 2) return run_lane(0);
        const float value = static_cast<float>(index + 1);
        if (index == 0) {
            const int lane = core->try_borrow_lane();
            if (lane >= 0) {
                Ticket ticket;
                EXPECT(core->begin(1, ticket) == Admission::ok);
                write(ticket, value);
                EXPECT(core->publish(ticket, false) == Admission::ok);
                core->run_borrowed(lane);
                expect_result(ticket, value);
                core->release(ticket);
            }
        } else {
            Ticket ticket = submit(value);
            expect_result(ticket, value);
            core->release(ticket);
        }
        leave();
    }
    void after() { check_rest(); }
};

// cancel / gather / seal / complete, with a neighbour that keeps its result.
struct CoreCancel : rl::test_suite<CoreCancel, 3>, Core {
    void before() { make(1, 2); }
    void thread(unsigned index) {
        if (index == 2) return run_lane(0);
        const float value = static_cast<float>(index + 1);
        Ticket ticket = submit(value);
        if (index == 0) {
            const bool won = ModelCore::cancel(ticket);
            while (ModelCore::outcome(ticket) == Outcome::pending) ModelCore::wait(ticket, std::nullopt);
            EXPECT((ModelCore::outcome(ticket) == Outcome::cancelled) == won);
            if (!won) expect_result(ticket, value);
        } else {
            expect_result(ticket, value);
        }
        core->release(ticket);
        leave();
    }
    void after() { check_rest(); }
};

// lease lost / publish / memory that is held on: it is run or lost, its neighbour is run, and a late writer's memory is
// used again only when all have let go.
struct CoreLease : rl::test_suite<CoreLease, 3>, Core {
    void before() { make(2, 2); }
    void thread(unsigned index) {
        if (index == 2) return run_lane(0);
        if (index == 0) {
            Ticket lease;
            EXPECT(core->begin_lease(1, lease) == Admission::ok);
            const float value = 5;
            write(lease, value);
            Admission admission{};
            float kept = 0;
            std::byte* const memory = core->destination(lease, 0);
            Slot* const held = rl::rand(2) == 0 ? core->hold(lease) : nullptr;
            // Slow by chance, so that the lane waits, and gives up, at any moment.
            for (unsigned i = rl::rand(40); i > 0; --i) model::yield();
            std::memcpy(&kept, memory, sizeof kept);
            EXPECT(kept == value);
            if (core->publish_lease(lease, admission)) {
                if (admission == Admission::ok) {
                    expect_result(lease, value);
                    core->release(lease);
                }
            } else {
                std::memcpy(&kept, memory, sizeof kept);
                EXPECT(kept == value);
                core->abandon_lease(lease);
            }
            if (held != nullptr) {
                for (unsigned i = rl::rand(20); i > 0; --i) model::yield();
                std::memcpy(&kept, memory, sizeof kept);
                EXPECT(kept == value);
                core->let_go(held);
            }
        } else {
            for (int i = 0; i < 2; ++i) {
                Ticket ticket = submit(static_cast<float>(7 + i));
                expect_result(ticket, static_cast<float>(7 + i));
                core->release(ticket);
            }
        }
        leave();
    }
    void after() { check_rest(); }
};

// close / submit: whatever was admitted ends, also what was on its way into the ring.
struct CoreClose : rl::test_suite<CoreClose, 3>, Core {
    void before() { make(1, 1); }
    void thread(unsigned index) {
        if (index == 2) return run_lane(0);
        if (index == 1) {
            core->close(platform::Clock::now());
            return;
        }
        for (int i = 0; i < 2; ++i) {
            Ticket ticket;
            const float value = static_cast<float>(i + 1);
            if (core->begin(1, ticket) != Admission::ok) return;
            write(ticket, value);
            if (core->publish(ticket) != Admission::ok) return;
            while (ModelCore::outcome(ticket) == Outcome::pending) ModelCore::wait(ticket, std::nullopt);
            const Outcome outcome = ModelCore::outcome(ticket);
            EXPECT(outcome == Outcome::ok || outcome == Outcome::closed);
            if (outcome == Outcome::ok) expect_result(ticket, value);
            core->release(ticket);
        }
    }
    void after() { check_rest(); }
};

}  // namespace ovengine::scenarios
