// What threads may do to one class at a time.
#pragma once

#include "scenario.hpp"

namespace ovengine::scenarios {

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

}  // namespace ovengine::scenarios
