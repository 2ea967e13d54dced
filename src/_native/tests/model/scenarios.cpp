// What threads may do to each other, played through by Relacy on the real headers. See README.md.
//
//     model_check [--iterations N] [--weaken FILE:LINE:PART:ORDER] [--sites] [--verbose] [SCENARIO...]
#include "checker.hpp"

// After all of the standard library's: the scenarios reach into the classes under test.
#define private public
#include "batch.hpp"
#include "bounded_ring.hpp"
#include "claim_word.hpp"
#include "event.hpp"
#include "fake_executor.hpp"
#include "free_list.hpp"
#include "idle_lanes.hpp"
#include "mailbox.hpp"
#include "model_core.hpp"
#undef private

namespace {

using namespace ovengine;

// Plain memory that a race on is an error.
using Plain = rl::var<int>;
#define EXPECT(condition) RL_ASSERT(condition)

// claim / claim / seal: rows are handed out once, nobody claims a sealed slot, what was published is seen, and a
// claimer sees the batch that its epoch belongs to.
template <int kClaimers>
struct Claims : rl::test_suite<Claims<kClaimers>, kClaimers + 1> {
    ClaimWord word;
    Plain batch, rows[2];
    Plain claimed_in[3];

    void before() {
        batch($) = 1;
        rows[0]($) = rows[1]($) = 0;
        for (auto& count : claimed_in) count($) = 0;
        word.open();
    }
    void thread(unsigned index) {
        if (index < kClaimers) {
            const std::uint32_t row = word.try_claim(1, 2);
            if (row == ClaimWord::kNone) return;
            EXPECT(row < 2);
            const int epoch = batch($);
            EXPECT(epoch == 1 || epoch == 2);
            EXPECT(int(rows[row]($)) == 0);
            rows[row]($) = epoch;
            word.publish(1);
            return;
        }
        for (int epoch = 1; epoch <= 2; ++epoch) {
            const std::uint32_t count = word.seal();
            EXPECT(count <= 2);
            while (word.published() != count) model::yield();
            for (std::uint32_t row = 0; row < 2; ++row) {
                EXPECT((int(rows[row]($)) == epoch) == (row < count));
                rows[row]($) = 0;
            }
            batch($) = epoch + 1;
            if (epoch == 1) word.open();
        }
    }
};

// The same with a claim that was prepared in an earlier epoch: it must not succeed in a later one (ABA).
struct StaleClaim : rl::test_suite<StaleClaim, 2> {
    ClaimWord word;
    Plain row;
    void before() {
        row($) = 0;
        word.open();
    }
    void thread(unsigned index) {
        if (index == 0) {
            for (int i = 0; i < 2; ++i) {
                const std::uint32_t first = word.try_claim(1, 1);
                if (first == ClaimWord::kNone) continue;
                EXPECT(first == 0 && int(row($)) == 0);
                row($) = 1;
                word.publish(1);
            }
        } else {
            for (int epoch = 0; epoch < 3; ++epoch) {
                const std::uint32_t count = word.seal();
                while (word.published() != count) model::yield();
                EXPECT(int(row($)) == int(count));
                row($) = 0;
                word.open();
            }
        }
    }
};

// publish / park: a row that was published is run, although the lane was about to sleep (no lost wake-up: a deadlock).
struct PublishPark : rl::test_suite<PublishPark, 3> {
    ClaimWord word;
    IdleLanes idle;
    model::atomic<std::uint32_t> signal{0};
    Plain rows[2], owner;
    void before() {
        rows[0]($) = rows[1]($) = 0;
        owner($) = 0;
        word.open();
    }
    void thread(unsigned index) {
        if (index < 2) {
            const std::uint32_t row = word.try_claim(1, 2);
            rows[row]($) = 1;
            word.publish(1);
            if (idle.load() != 0 && idle.try_take(0)) {
                owner($) = int(index) + 1;  // the lane is this thread's now, and is handed over
                signal.store(1, std::memory_order_release);
                platform::futex_wake(signal, 1);
            }
            return;
        }
        for (std::uint32_t seen = 0; seen < 2;) {
            const std::uint32_t published = word.published();
            for (; seen < published; ++seen) {
            }
            if (seen == 2) break;
            owner($) = 0;
            idle.put(0);
            if (word.published() > seen && idle.try_take(0)) continue;
            while (signal.exchange(0, std::memory_order_acquire) == 0) platform::futex_wait(signal, 0, std::nullopt);
            EXPECT(int(owner($)) != 0);
        }
        EXPECT(word.seal() == 2);
        EXPECT(int(rows[0]($)) + int(rows[1]($)) == 2);
    }
};

// A lane that changes hands: its state belongs to whoever took it out of the set.
struct LaneOwner : rl::test_suite<LaneOwner, 3> {
    IdleLanes idle;
    Plain state;
    void before() {
        state($) = 0;
        idle.put(3);
    }
    void thread(unsigned) {
        for (int i = 0; i < 2; ++i) {
            if ((idle.load() & 1u << 3) == 0 || !idle.try_take(3)) continue;
            state($) = int(state($)) + 1;
            idle.put(3);
        }
    }
};

// complete / wait: whoever waits sees the event and what led to it; nobody sleeps on.
template <bool kTimed>
struct CompleteWait : rl::test_suite<CompleteWait<kTimed>, 3> {
    Event event;
    Plain data;
    void before() { data($) = 0; }
    void thread(unsigned index) {
        if (index == 0) {
            data($) = 42;
            EXPECT(event.set() == nullptr);
            return;
        }
        if (kTimed && index == 1) {
            // Looks, waits for a while, looks again.
            if (event.wait(platform::Clock::now()) == platform::WaitResult::woken) {
                EXPECT(event.is_set());
                EXPECT(int(data($)) == 42);
            } else if (event.is_set()) {
                EXPECT(int(data($)) == 42);
            }
            return;
        }
        while (event.wait(std::nullopt) != platform::WaitResult::woken) {
        }
        EXPECT(int(data($)) == 42);
    }
};

// attach / set: a notice is passed on, or refused and then the event is seen to have happened.
struct AttachSet : rl::test_suite<AttachSet, 3> {
    Event event;
    Notice notices[2];
    Plain data, future[2], passed, attached;
    void before() {
        data($) = future[0]($) = future[1]($) = 0;
        passed($) = attached($) = 0;
    }
    void thread(unsigned index) {
        if (index == 2) {
            data($) = 42;
            int count = 0;
            for (Notice* notice = event.set(); notice != nullptr; notice = notice->next) {
                EXPECT(int(future[notice - notices]($)) == 7);
                future[notice - notices]($) = 8;
                ++count;
            }
            passed($) = count;
            return;
        }
        future[index]($) = 7;
        if (event.try_attach(&notices[index], &notices[index])) return;
        future[index]($) = 9;
        EXPECT(event.is_set());
        EXPECT(int(data($)) == 42);
    }
    void after() {
        int refused = 0;
        for (auto& each : future) {
            EXPECT(int(each($)) == 8 || int(each($)) == 9);
            refused += int(each($)) == 9;
        }
        EXPECT(int(passed($)) + refused == 2);
    }
};

// deliver / take_all: the descriptor is raised while there is anything, and the mailbox lives for as long as needed.
struct Deliver : rl::test_suite<Deliver, 3> {
    Mailbox* mailbox;
    Notice notices[2];
    Plain payload[2];
    void before() {
        mailbox = new Mailbox;
        for (int i = 0; i < 2; ++i) {
            payload[i]($) = 0;
            notices[i].mailbox = mailbox;
            mailbox->retain();
        }
    }
    void thread(unsigned index) {
        if (index < 2) {
            payload[index]($) = 7;
            deliver_all(&notices[index]);
            return;
        }
        for (int left = 2; left > 0;) {
            while (!mailbox->signal_.is_raised()) model::yield();
            for (Notice* notice = mailbox->take_all(); notice != nullptr; --left) {
                EXPECT(int(payload[notice - notices]($)) == 7);
                Notice* const next = notice->next;
                mailbox->release();
                notice = next;
            }
        }
        mailbox->release();
    }
};

// give / take: a thing is taken by one, and its last use comes before its next.
struct Item {
    Item* next_free = nullptr;
    Plain used;
};
struct GiveTake : rl::test_suite<GiveTake, 3> {
    FreeList<Item> list;
    Item items[2];
    void before() {
        for (auto& item : items) item.used($) = 0;
    }
    void thread(unsigned index) {
        if (index < 2) {
            items[index].used($) = 1;
            list.give(&items[index]);
            return;
        }
        for (int taken = 0; taken < 3;) {
            Item* const item = list.take();
            if (item == nullptr) {
                model::yield();
                continue;
            }
            EXPECT(int(item->used($)) == 1);
            item->used($) = 2;
            // The first one comes by once more.
            if (taken++ == 0) {
                item->used($) = 1;
                list.give(item);
            }
        }
    }
};

// push / pop: what goes in comes out once, in order, in both directions of a cell's use.
struct Tracked {
    Tracked() { value($) = 0; }
    Tracked(int given) { value($) = given; }
    Tracked(const Tracked& other) { value($) = int(other.value($)); }
    Tracked& operator=(const Tracked& other) {
        value($) = int(other.value($));
        return *this;
    }
    mutable Plain value;
};
struct PushPop : rl::test_suite<PushPop, 3> {
    std::unique_ptr<BoundedRing<Tracked>> ring;
    Plain seen[4];
    void before() {
        ring = std::make_unique<BoundedRing<Tracked>>(2);
        for (auto& each : seen) each($) = 0;
    }
    void thread(unsigned index) {
        if (index < 2) {
            for (int i = 0; i < 2; ++i)
                while (!ring->try_push(Tracked(int(index) * 2 + i + 1))) model::yield();
            return;
        }
        int last[2] = {};
        for (int count = 0; count < 4;) {
            Tracked got;
            if (!ring->try_pop(got)) {
                model::yield();
                continue;
            }
            const int value = got.value($);
            EXPECT(value >= 1 && value <= 4);
            EXPECT(int(seen[value - 1]($)) == 0);
            seen[value - 1]($) = 1;
            EXPECT(last[(value - 1) / 2] < value);
            last[(value - 1) / 2] = value;
            ++count;
        }
    }
};
struct PopPop : rl::test_suite<PopPop, 3> {
    std::unique_ptr<BoundedRing<Tracked>> ring;
    model::atomic<std::uint32_t> popped{0};
    Plain seen[3];
    void before() {
        ring = std::make_unique<BoundedRing<Tracked>>(2);
        for (auto& each : seen) each($) = 0;
    }
    void thread(unsigned index) {
        if (index == 0) {
            for (int i = 0; i < 3; ++i)
                while (!ring->try_push(Tracked(i + 1))) model::yield();
            return;
        }
        while (popped.load(std::memory_order_relaxed) < 3) {
            Tracked got;
            if (!ring->try_pop(got)) {
                model::yield();
                continue;
            }
            const int value = got.value($);
            EXPECT(value >= 1 && value <= 3 && int(seen[value - 1]($)) == 0);
            seen[value - 1]($) = 1;
            popped.fetch_add(1, std::memory_order_relaxed);
        }
    }
};

// settle / release: the memory is reused once, by the last one, after everybody's last look.
struct Shared final : Completion {
    Outcome outcome(std::uint32_t) const noexcept override { return Outcome::ok; }
    bool cancel(std::uint32_t) noexcept override { return false; }
    std::string failure(std::uint32_t) const override { return {}; }
    void recycle() noexcept override {
        recycled($) = int(recycled($)) + 1;
        for (auto& each : memory) each($) = 9;
    }
    Plain recycled, memory[3];
};
struct SettleRelease : rl::test_suite<SettleRelease, 3> {
    Shared shared;
    void before() {
        shared.recycled($) = 0;
        for (auto& each : shared.memory) each($) = 0;
    }
    void thread(unsigned index) {
        shared.memory[index]($) = int(shared.memory[index]($)) + 1;
        if (index == 0)
            shared.settle(3);
        else
            shared.release(index);  // of one row, and of two
    }
    void after() { EXPECT(int(shared.recycled($)) == 1); }
};

// cancel / complete / look: what was told once stays so, and `ok` comes with the result.
struct CancelComplete : rl::test_suite<CancelComplete, 3> {
    FreeList<Batch> home;
    std::vector<std::size_t> outputs{4};
    std::unique_ptr<Batch> batch;
    Plain result, cancelled;
    void before() {
        batch = std::make_unique<Batch>(home, outputs, 1);
        batch->begin(0, 1);
        result($) = cancelled($) = 0;
    }
    void thread(unsigned index) {
        if (index == 0) {
            const bool won = batch->cancel(0);
            cancelled($) = won;
            // It may be about to be told only, but not `cancelled`.
            if (!won) EXPECT(batch->outcome(0) != Outcome::cancelled);
        } else if (index == 1) {
            if (batch->state(0) == RowState::live) result($) = 42;
            batch->complete();
        } else {
            const Outcome first = batch->outcome(0), second = batch->outcome(0);
            EXPECT(first == Outcome::pending || first == second);
            if (second == Outcome::ok) EXPECT(int(result($)) == 42);
        }
    }
    void after() { EXPECT((batch->outcome(0) == Outcome::cancelled) == (int(cancelled($)) != 0)); }
};

// --- The whole core, with one lane and a device that takes no time ---

// A row is one number, its tag. What the client did before it submitted the tag, the device must see, and the client
// what the device did.
struct Shadow {
    Plain written[32], run[32];
};

class NullExecutor final : public Executor {
  public:
    NullExecutor(std::uint32_t size, Shadow& shadow) : size_(size), shadow_(shadow) {}
    void infer(std::uint32_t, std::byte* const* inputs, std::byte* const* outputs) override {
        std::memcpy(outputs[0], inputs[0], size_ * sizeof(float));
        for (std::uint32_t row = 0; row < size_; ++row) {
            const auto tag = static_cast<std::size_t>(reinterpret_cast<const float*>(inputs[0])[row]);
            if (tag == 0) continue;
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
    void make(std::uint32_t capacity, std::uint32_t count, std::size_t lane_count = 1, std::uint32_t limit = 2) {
        for (int tag = 0; tag < 32; ++tag) shadow.written[tag]($) = shadow.run[tag]($) = 0;
        std::vector<std::uint32_t> sizes{capacity};
        std::vector<ModelCore::LaneConfig> lanes(lane_count);
        for (auto& lane : lanes) {
            lane.device = 0;
            lane.executors.push_back(std::make_unique<NullExecutor>(capacity, shadow));
        }
        core = std::make_shared<ModelCore>(RowLayout{{sizeof(float)}, {sizeof(float)}}, CostTable(sizes, {1.0}),
                                           std::move(lanes),
                                           ModelCore::Options{{.max_queue_size = limit, .ring_capacity = limit}});
        core->running_.store(static_cast<std::uint32_t>(lane_count), std::memory_order_relaxed);
        clients.store(count, std::memory_order_relaxed);
    }
    // The last client sends the lane home.
    void leave() {
        if (clients.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
        core->stopping_.store(true, std::memory_order_seq_cst);
        core->wake_all();
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
    Ticket submit(float value) {
        Ticket ticket;
        for (;;) {
            while (core->begin(1, ticket) != Admission::ok) core->wait_for_room(std::nullopt);
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
        if (index == 2) return core->run_lane(0);
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
        if (index >= 2) return core->run_lane(index - 2);
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
        if (index == 2) return core->run_lane(0);
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
        if (index >= 2) return core->run_lane(index - 2);
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

// try_queue / close_waiting: a request on its way into the ring is cleared by the closer or by its own thread.
struct QueueClose : rl::test_suite<QueueClose, 2> {
    std::unique_ptr<Dispatcher> dispatcher;
    model::atomic<bool> closed{false};
    Request* request;
    void before() {
        dispatcher = std::make_unique<Dispatcher>(RowLayout{{4}, {4}}, 1,
                                                  Dispatcher::Options{.max_queue_size = 2, .ring_capacity = 2});
        request = dispatcher->make_request();
        request->begin(1, 0);
    }
    void thread(unsigned index) {
        if (index == 0) {
            EXPECT(dispatcher->try_queue(request));
            if (closed.load(std::memory_order_seq_cst)) dispatcher->close_waiting();
        } else {
            closed.store(true, std::memory_order_seq_cst);
            dispatcher->close_waiting();
        }
    }
    void after() {
        EXPECT(request->state() == Request::State::closed);
        dispatcher->drop(request);
    }
};

// notice / run: a request that is counted, queued and noticed while the keeper looks is found: nobody sleeps over it.
struct KeeperNotice : rl::test_suite<KeeperNotice, 2> {
    DeadlineKeeper keeper;
    model::atomic<int> counted{0}, queued{0};
    void thread(unsigned index) {
        if (index == 0) {
            counted.fetch_add(1, std::memory_order_seq_cst);
            queued.store(1, std::memory_order_release);
            keeper.notice(1);
            return;
        }
        bool found = false, first = true;
        keeper.run(
            [&]() -> std::int64_t {
                found = queued.load(std::memory_order_acquire) == 1;
                // At first another one is due.
                const bool any = counted.load(std::memory_order_seq_cst) == 1 || std::exchange(first, false);
                return any ? 1 : Terms::kNoDeadline;
            },
            [&] { return found; });
    }
};

// offer / gather / heir: of requests that take each other's place, each ends once, and is run or superseded.
struct CoreTerms : rl::test_suite<CoreTerms, 3>, Core {
    std::shared_ptr<Group> group;
    void before() {
        make(1, 2);
        group = std::make_shared<Group>("");
    }
    void thread(unsigned index) {
        if (index == 2) return core->run_lane(0);
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

// caller-runs: a lane goes from its thread to a caller and back while another one submits.
struct CoreBorrow : rl::test_suite<CoreBorrow, 3>, Core {
    void before() { make(2, 2); }
    void thread(unsigned index) {
        if (index == 2) return core->run_lane(0);
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
        if (index == 2) return core->run_lane(0);
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

// lease lost / publish: it is run or lost, its neighbour is run, and a late writer's memory is used again only when it
// has let go.
struct CoreLease : rl::test_suite<CoreLease, 3>, Core {
    void before() { make(2, 2); }
    void thread(unsigned index) {
        if (index == 2) return core->run_lane(0);
        if (index == 0) {
            Ticket lease;
            EXPECT(core->begin_lease(1, lease) == Admission::ok);
            const float value = 5;
            write(lease, value);
            Admission admission{};
            float kept = 0;
            // Slow by chance, so that the lane waits, and gives up, at any moment.
            for (unsigned i = rl::rand(40); i > 0; --i) model::yield();
            std::memcpy(&kept, core->destination(lease, 0), sizeof kept);
            EXPECT(kept == value);
            if (core->publish_lease(lease, admission)) {
                if (admission == Admission::ok) {
                    expect_result(lease, value);
                    core->release(lease);
                }
            } else {
                std::memcpy(&kept, core->destination(lease, 0), sizeof kept);
                EXPECT(kept == value);
                core->abandon_lease(lease);
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
        if (index == 2) return core->run_lane(0);
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

struct Scenario {
    const char* name;
    bool (*run)(rl::test_params&);
    unsigned iterations;
};
const Scenario scenarios[] = {
    {"claims", rl::simulate<Claims<2>>, 300'000},
    {"stale_claim", rl::simulate<StaleClaim>, 300'000},
    {"publish_park", rl::simulate<PublishPark>, 300'000},
    {"lane_owner", rl::simulate<LaneOwner>, 200'000},
    {"complete_wait", rl::simulate<CompleteWait<false>>, 300'000},
    {"complete_wait_timed", rl::simulate<CompleteWait<true>>, 300'000},
    {"attach_set", rl::simulate<AttachSet>, 300'000},
    {"deliver", rl::simulate<Deliver>, 200'000},
    {"give_take", rl::simulate<GiveTake>, 200'000},
    {"push_pop", rl::simulate<PushPop>, 200'000},
    {"pop_pop", rl::simulate<PopPop>, 200'000},
    {"settle_release", rl::simulate<SettleRelease>, 200'000},
    {"cancel_complete", rl::simulate<CancelComplete>, 200'000},
    {"core_submit", rl::simulate<CoreSubmit<2>>, 40'000},
    {"core_submit_ring", rl::simulate<CoreSubmit<1>>, 40'000},
    {"core_two_lanes", rl::simulate<CoreTwoLanes>, 40'000},
    {"core_room", rl::simulate<CoreRoom>, 40'000},
    {"core_job", rl::simulate<CoreJob<false>>, 20'000},
    {"core_job_cancel", rl::simulate<CoreJob<true>>, 20'000},
    {"queue_close", rl::simulate<QueueClose>, 100'000},
    {"keeper_notice", rl::simulate<KeeperNotice>, 100'000},
    {"core_terms", rl::simulate<CoreTerms>, 40'000},
    {"core_borrow", rl::simulate<CoreBorrow>, 40'000},
    {"core_cancel", rl::simulate<CoreCancel>, 40'000},
    {"core_lease", rl::simulate<CoreLease>, 40'000},
    {"core_close", rl::simulate<CoreClose>, 40'000},
};

std::memory_order order_of(const std::string& name) {
    for (const auto order : {std::memory_order_relaxed, std::memory_order_acquire, std::memory_order_release,
                             std::memory_order_acq_rel, std::memory_order_seq_cst})
        if (name == model::name_of(order)) return order;
    throw std::invalid_argument("no memory order " + name);
}

}  // namespace

int main(int argc, char** argv) {
    unsigned iterations = 0;
    bool verbose = false;
    std::set<std::string> wanted;
    for (int i = 1; i < argc; ++i) {
        const std::string option = argv[i];
        if (option == "--sites") {
            model::record_sites = true;
        } else if (option == "--verbose") {
            verbose = true;
        } else if (option == "--iterations" && i + 1 < argc) {
            iterations = static_cast<unsigned>(std::stoul(argv[++i]));
        } else if (option == "--weaken" && i + 1 < argc) {
            static std::vector<std::string> parts;
            std::istringstream text(argv[++i]);
            for (std::string part; std::getline(text, part, ':');) parts.push_back(part);
            if (parts.size() != 4) throw std::invalid_argument("--weaken FILE:LINE:PART:ORDER");
            const auto line = static_cast<unsigned>(std::stoul(parts[1]));
            model::weakened = {model::Site{parts[0].c_str(), line, parts[2].c_str()}, order_of(parts[3])};
        } else {
            wanted.insert(option);
        }
    }
    int passed = 0, failed = 0;
    for (const auto& scenario : scenarios) {
        if (!wanted.empty() && !wanted.contains(scenario.name)) continue;
        model::sites.clear();
        rl::ostringstream output;
        rl::test_params params;
        params.iteration_count = iterations != 0 ? iterations : scenario.iterations;
        params.execution_depth_limit = 20'000;
        params.output_stream = params.progress_stream = &output;
        const auto start = std::chrono::steady_clock::now();
        const bool good = scenario.run(params);
        const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
        std::printf("%s: %s (%lu executions, %.1f s)\n", scenario.name, good ? "ok" : "FAILED",
                    static_cast<unsigned long>(params.stop_iteration), took.count());
        if (!good && verbose) std::printf("%s\n", output.str().c_str());
        for (const auto& [site, access] : model::sites)
            std::printf("site %s %s:%u:%s %s %s\n", scenario.name, site.file, site.line, site.part, access.operation,
                        model::name_of(access.order));
        ++(good ? passed : failed);
        std::fflush(stdout);
    }
    std::printf("%d passed, %d failed\n", passed, failed);
    return failed == 0 && passed > 0 ? 0 : 1;
}
