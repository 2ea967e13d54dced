// The parts without threads of their own: claim word, ring, event, mailbox, lists, tables, histogram, policies.
#include <poll.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <random>
#include <set>
#include <thread>

#include "batch/claim_word.hpp"
#include "batch/event.hpp"
#include "batch/free_list.hpp"
#include "batch/mailbox.hpp"
#include "check.hpp"
#include "diagnostics/stats.hpp"
#include "ladder/cost_table.hpp"
#include "lanes/policy.hpp"
#include "queue/bounded_ring.hpp"

using namespace ovengine;
using namespace std::chrono_literals;

namespace {

platform::Deadline in(std::chrono::nanoseconds time) { return platform::Clock::now() + time; }

bool is_readable(int fd) {
    pollfd waiting{fd, POLLIN, 0};
    return poll(&waiting, 1, 0) == 1;
}

std::size_t length(const Notice* notice) {
    std::size_t count = 0;
    for (; notice != nullptr; notice = notice->next) ++count;
    return count;
}

}  // namespace

// --- ClaimWord ---

TEST("a claim word hands out each row once, up to its capacity") {
    ClaimWord word;
    CHECK_EQ(word.try_claim(1, 8), ClaimWord::kNone);  // not open yet
    word.open();
    CHECK_EQ(word.try_claim(3, 8), 0u);
    CHECK_EQ(word.try_claim(4, 8), 3u);
    CHECK_EQ(word.try_claim(2, 8), ClaimWord::kNone);  // one is left
    CHECK_EQ(word.try_claim(1, 8), 7u);
    CHECK_EQ(word.try_claim(1, 8), ClaimWord::kNone);
    CHECK_EQ(word.approx_claimed(), 8u);
}

TEST("a sealed claim word refuses claims until it is opened again, empty") {
    ClaimWord word;
    word.open();
    CHECK_EQ(word.try_claim(2, 4), 0u);
    word.publish(2);
    CHECK_EQ(word.seal(), 2u);
    CHECK_EQ(word.try_claim(1, 4), ClaimWord::kNone);
    CHECK_EQ(word.seal(), 2u);  // once more changes nothing
    word.open();
    CHECK_EQ(word.published(), 0u);
    CHECK_EQ(word.try_claim(4, 4), 0u);
}

TEST("claims from many threads over many epochs never overlap and never pass the capacity") {
    constexpr std::uint32_t kCapacity = 16, kEpochs = 300;
    ClaimWord word;
    std::vector<std::atomic<std::uint32_t>> owners(kCapacity);
    std::atomic<bool> stop{false};
    std::vector<std::thread> claimers;
    for (std::uint32_t id = 1; id <= 3; ++id)
        claimers.emplace_back([&, id] {
            while (!stop.load(std::memory_order_relaxed)) {
                const std::uint32_t row = word.try_claim(id, kCapacity);
                if (row == ClaimWord::kNone) {
                    std::this_thread::yield();
                    continue;
                }
                for (std::uint32_t i = row; i < row + id; ++i) CHECK_EQ(owners[i].exchange(id), 0u);
                word.publish(id);
            }
        });
    for (std::uint32_t epoch = 0; epoch < kEpochs; ++epoch) {
        word.open();
        while (word.approx_claimed() < epoch % kCapacity) std::this_thread::yield();
        const std::uint32_t rows = word.seal();
        CHECK(rows <= kCapacity);
        while (word.published() != rows) std::this_thread::yield();
        for (std::uint32_t i = 0; i < kCapacity; ++i) CHECK_EQ(owners[i].exchange(0) != 0, i < rows);
    }
    stop = true;
    for (auto& claimer : claimers) claimer.join();
}

// --- BoundedRing ---

TEST("a ring is first in, first out, and says full and empty") {
    BoundedRing<int> ring(3);
    CHECK_EQ(ring.capacity(), 4u);
    int value = 0;
    for (int round = 0; round < 5; ++round) {
        CHECK(!ring.try_pop(value));
        for (int i = 0; i < 4; ++i) CHECK(ring.try_push(round * 10 + i));
        CHECK(!ring.try_push(99));
        CHECK_EQ(ring.approx_size(), 4u);
        for (int i = 0; i < 4; ++i) CHECK(ring.try_pop(value) && value == round * 10 + i);
    }
}

TEST("a ring keeps each producer's order among many producers and consumers") {
    constexpr std::uint32_t kProducers = 3, kConsumers = 2, kEach = 4000;
    BoundedRing<std::uint32_t> ring(8);
    std::atomic<std::uint32_t> popped{0};
    std::vector<std::vector<std::uint32_t>> seen(kConsumers);
    std::vector<std::thread> threads;
    for (std::uint32_t producer = 0; producer < kProducers; ++producer)
        threads.emplace_back([&, producer] {
            for (std::uint32_t i = 0; i < kEach; ++i)
                while (!ring.try_push(producer << 24 | i)) std::this_thread::yield();
        });
    for (std::uint32_t consumer = 0; consumer < kConsumers; ++consumer)
        threads.emplace_back([&, consumer] {
            for (std::uint32_t value = 0; popped.load() < kProducers * kEach;) {
                if (!ring.try_pop(value)) {
                    std::this_thread::yield();
                    continue;
                }
                seen[consumer].push_back(value);
                popped.fetch_add(1);
            }
        });
    for (auto& thread : threads) thread.join();
    std::set<std::uint32_t> all;
    for (const auto& values : seen) {
        std::uint32_t next[kProducers] = {};
        for (const auto value : values) {
            CHECK(all.insert(value).second);
            CHECK((value & 0xffffff) >= next[value >> 24]);
            next[value >> 24] = (value & 0xffffff) + 1;
        }
    }
    CHECK_EQ(all.size(), kProducers * kEach);
}

// --- Event ---

TEST("waiting for an event ends at the deadline, and at once when it has happened") {
    Event event;
    const auto start = platform::Clock::now();
    CHECK(event.wait(in(20ms)) == platform::WaitResult::timed_out);
    CHECK(platform::Clock::now() - start >= 20ms);
    CHECK(event.wait(in(-1ms)) == platform::WaitResult::timed_out);
    CHECK(!event.is_set());
    event.set();
    CHECK(event.is_set());
    CHECK(event.wait(std::nullopt) == platform::WaitResult::woken);
    CHECK(event.wait(in(-1ms)) == platform::WaitResult::woken);
    event.reset();
    CHECK(!event.is_set());
}

TEST("an event wakes all who wait for it") {
    for (int round = 0; round < 50; ++round) {
        Event event;
        int data = 0;
        std::vector<std::thread> waiters;
        for (int i = 0; i < 4; ++i)
            waiters.emplace_back([&, i] {
                if (i % 2 != 0) std::this_thread::sleep_for(std::chrono::microseconds(50 * i));
                while (event.wait(in(20s)) != platform::WaitResult::woken) CHECK(event.is_set());
                CHECK_EQ(data, 42);
            });
        if (round % 2 != 0) std::this_thread::sleep_for(200us);
        data = 42;
        event.set();
        for (auto& waiter : waiters) waiter.join();
    }
}

TEST("an event passes on the notices attached before it, and refuses those after") {
    Event event;
    Notice a, b, c, late;
    CHECK(event.try_attach(&a, &a));
    b.next = &c;
    CHECK(event.try_attach(&b, &c));
    CHECK_EQ(length(event.set()), 3u);
    CHECK(!event.try_attach(&late, &late));
    event.reset();
    CHECK(event.try_attach(&late, &late));
    CHECK(event.set() == &late);
}

TEST("a list of notices that comes too late is not tied to those that came in time") {
    Event event;
    Notice early, first, last;
    first.next = &last;
    CHECK(event.try_attach(&early, &early));
    testing::Gate gate("Event::try_attach");
    std::thread attaching([&] { CHECK(!event.try_attach(&first, &last)); });
    REQUIRE(gate.wait_until_reached());
    CHECK(event.set() == &early);
    gate.open();
    attaching.join();
    CHECK_EQ(length(&first), 2u);
}

TEST("attach and set at once: each notice is passed on or refused, never both or neither") {
    for (int round = 0; round < 500; ++round) {
        Event event;
        Notice notices[3];
        std::atomic<int> taken{0};
        std::vector<std::thread> threads;
        for (auto& notice : notices)
            threads.emplace_back([&] {
                if (event.try_attach(&notice, &notice))
                    taken.fetch_add(1);
                else
                    CHECK(event.is_set());
            });
        const std::size_t passed = length(event.set());
        for (auto& thread : threads) thread.join();
        CHECK_EQ(passed, static_cast<std::size_t>(taken.load()));
    }
}

// --- Mailbox ---

TEST("a mailbox raises its descriptor once for each time it turns non-empty") {
    auto* mailbox = new Mailbox;
    Notice notices[5];
    for (int turn = 0; turn < 3; ++turn) {
        CHECK(!is_readable(mailbox->fd()));
        for (auto& notice : notices) mailbox->deliver(&notice);
        std::uint64_t raised = 0;
        CHECK_EQ(read(mailbox->fd(), &raised, sizeof raised), static_cast<ssize_t>(sizeof raised));
        CHECK_EQ(raised, 1u);
        CHECK_EQ(length(mailbox->take_all()), 5u);
        CHECK(mailbox->take_all() == nullptr);
    }
    mailbox->release();
}

TEST("a mailbox loses no notice that comes while it is emptied") {
    constexpr int kThreads = 3, kEach = 3000;
    auto* mailbox = new Mailbox;
    std::vector<Notice> notices(kThreads * kEach);
    std::vector<std::thread> threads;
    for (int thread = 0; thread < kThreads; ++thread)
        threads.emplace_back([&, thread] {
            for (int i = 0; i < kEach; ++i) mailbox->deliver(&notices[static_cast<std::size_t>(thread * kEach + i)]);
        });
    std::size_t taken = 0;
    while (taken < notices.size()) {
        pollfd waiting{mailbox->fd(), POLLIN, 0};
        if (!CHECK_EQ(poll(&waiting, 1, 20'000), 1)) break;  // nothing raised it: a notice would be lost
        taken += length(mailbox->take_all());
    }
    for (auto& thread : threads) thread.join();
    CHECK_EQ(taken, notices.size());
    mailbox->release();
}

// --- FreeList, IdleLanes ---

namespace {
struct Node {
    Node* next_free = nullptr;
    std::atomic<int> users{0};
};
}  // namespace

TEST("a free list gives each thing to one taker at a time") {
    constexpr int kNodes = 8, kTakes = 20'000;
    FreeList<Node> list;
    CHECK(list.take() == nullptr);
    std::vector<Node> nodes(kNodes);
    for (auto& node : nodes) list.give(&node);
    CHECK_EQ(list.count_at_rest(), static_cast<std::size_t>(kNodes));
    BoundedRing<Node*> taken(kNodes);
    std::atomic<bool> done{false};
    std::vector<std::thread> givers;
    for (int i = 0; i < 2; ++i)
        givers.emplace_back([&] {
            for (Node* node = nullptr; !done.load() || taken.approx_size() > 0;) {
                if (!taken.try_pop(node)) {
                    std::this_thread::yield();
                    continue;
                }
                CHECK_EQ(node->users.fetch_sub(1), 1);
                list.give(node);
            }
        });
    for (int i = 0; i < kTakes;) {
        Node* const node = list.take();
        if (node == nullptr) {
            std::this_thread::yield();
            continue;
        }
        CHECK_EQ(node->users.fetch_add(1), 0);
        while (!taken.try_push(node)) std::this_thread::yield();
        ++i;
    }
    done = true;
    for (auto& giver : givers) giver.join();
    CHECK_EQ(list.count_at_rest(), static_cast<std::size_t>(kNodes));
}

TEST("an idle lane is taken by one of many") {
    IdleLanes idle;
    CHECK(!idle.try_take(5));
    idle.put(5);
    idle.put(63);
    CHECK_EQ(idle.load(), std::uint64_t{1} << 5 | std::uint64_t{1} << 63);
    CHECK(idle.try_take(63) && !idle.try_take(63));
    for (int round = 0; round < 200; ++round) {
        std::atomic<int> takers{0};
        std::vector<std::thread> threads;
        for (int i = 0; i < 3; ++i) threads.emplace_back([&] { takers.fetch_add(idle.try_take(5)); });
        for (auto& thread : threads) thread.join();
        CHECK_EQ(takers.load(), 1);
        idle.put(5);
    }
}

// --- CostTable ---

TEST("a cost table refuses a ladder without order, sizes or costs") {
    const auto refuses = [](std::vector<std::uint32_t> sizes, std::vector<double> costs) {
        try {
            CostTable(std::move(sizes), std::move(costs));
            return false;
        } catch (const std::invalid_argument&) {
            return true;
        }
    };
    CHECK(refuses({}, {}));
    CHECK(refuses({4, 1}, {1, 2}));
    CHECK(refuses({1, 4}, {1}));
    CHECK(refuses({0, 4}, {1, 2}));
    CHECK(refuses({1, CostTable::kMostRows + 1}, {1, 2}));
    std::vector<std::uint32_t> many(CostTable::kMostSizes + 1);
    std::iota(many.begin(), many.end(), 1);
    CHECK(refuses(many, std::vector(many.size(), 1.0)));
}

TEST("the largest ladder there may be is cut like any other") {
    // Random sizes with the cost of a batch beside that of its rows, so that all kinds of cuts pay.
    std::mt19937 random(3);
    std::set<std::uint32_t> chosen{1, CostTable::kMostRows};
    while (chosen.size() < CostTable::kMostSizes) chosen.insert(1 + random() % CostTable::kMostRows);
    const std::vector<std::uint32_t> sizes(chosen.begin(), chosen.end());
    std::vector<double> costs;
    for (const auto size : sizes) costs.push_back(20 + size * (0.5 + static_cast<double>(random() % 100) / 100));
    const CostTable table(sizes, costs);
    for (std::uint32_t rows = 1; rows <= table.capacity(); rows += 1 + random() % 64) {
        double us = 0;
        std::uint32_t covered = 0;
        std::size_t before = sizes.size();
        for (const std::size_t step : table.steps(rows)) {
            CHECK(covered < rows && step <= before);
            before = step;
            covered += sizes[step];
            us += costs[step];
        }
        CHECK(covered >= rows && covered <= table.capacity());
        CHECK(std::abs(us - table.run_us(rows)) < 0.3);  // whole nanoseconds
        CHECK(us <= costs[table.covering(rows)]);
    }
}

TEST("sizes of which nothing is known are run whole") {
    const CostTable table({1, 4, 16}, {0, 0, 0});
    for (std::uint32_t rows = 1; rows <= 16; ++rows) {
        CHECK_EQ(table.steps(rows).size(), 1u);
        CHECK_EQ(table.steps(rows).front(), table.covering(rows));
    }
}

TEST("a cost table finds the cheapest steps, and padding stays inside the slot") {
    std::mt19937 random(7);
    for (int round = 0; round < 300; ++round) {
        // A random ladder and random costs, monotone or not.
        std::set<std::uint32_t> chosen;
        while (chosen.size() < 1 + random() % 4) chosen.insert(1 + random() % 12);
        const std::vector<std::uint32_t> sizes(chosen.begin(), chosen.end());
        std::vector<double> costs;
        for (std::size_t i = 0; i < sizes.size(); ++i) costs.push_back(1 + static_cast<double>(random() % 40));
        const CostTable table(sizes, costs);
        const std::uint32_t capacity = sizes.back();
        CHECK_EQ(table.capacity(), capacity);
        for (std::uint32_t rows = 1; rows <= capacity; ++rows) {
            // All ways to cover `rows` without writing behind the slot; the last step may be padded.
            const std::function<double(std::uint32_t)> best = [&](std::uint32_t first) {
                if (first >= rows) return 0.0;
                double least = INFINITY;
                for (std::size_t i = 0; i < sizes.size(); ++i)
                    if (first + sizes[i] <= capacity) least = std::min(least, costs[i] + best(first + sizes[i]));
                return least;
            };
            double cost = 0;
            std::uint32_t covered = 0;
            for (const std::size_t step : table.steps(rows)) {
                CHECK(covered < rows);  // no step for padding alone
                covered += sizes[step];
                cost += costs[step];
            }
            CHECK(covered >= rows && covered <= capacity);
            // One run is preferred to several that are hardly faster.
            if (table.steps(rows).size() == 1)
                CHECK(0.95 * cost <= best(0));
            else
                CHECK(cost == best(0) && cost <= 0.95 * costs[table.covering(rows)]);
        }
    }
}

TEST("the grain of a ladder is the smallest size that is about as cheap by row as any") {
    CHECK_EQ(CostTable({1}, {7}).grain(), 1u);
    CHECK_EQ(CostTable({1, 4, 16}, {10, 11, 12}).grain(), 16u);
    CHECK_EQ(CostTable({1, 4, 16}, {10, 21, 80}).grain(), 4u);
    CHECK_EQ(CostTable({1, 4, 16}, {10, 45, 200}).grain(), 1u);
}

// --- Histogram ---

TEST("a histogram keeps every duration to within one part in 32") {
    std::mt19937_64 random(11);
    for (int i = 0; i < 200'000; ++i) {
        const std::uint64_t ns = random() >> (random() % 64);
        const std::size_t index = Histogram::index(ns);
        CHECK(index < Histogram::kBuckets);
        CHECK(std::abs(Histogram::value(index) - static_cast<double>(ns)) <= static_cast<double>(ns) / 32);
    }
    CHECK(Histogram::index(UINT64_MAX) < Histogram::kBuckets);
    for (std::uint64_t ns = 0; ns < 70'000; ++ns) {
        const auto step = Histogram::index(ns + 1) - Histogram::index(ns);
        CHECK(step <= 1);  // ascending, without a gap
    }
}

TEST("a histogram collects counts, sum and maximum") {
    const auto histogram = std::make_unique<Histogram>();
    for (const std::uint64_t ns : {3u, 3u, 1000u}) histogram->add(ns);
    std::array<std::uint64_t, Histogram::kBuckets> totals{};
    histogram->collect(totals);
    histogram->collect(totals);
    CHECK_EQ(totals[3], 4u);
    CHECK_EQ(totals[Histogram::index(1000)], 2u);
    CHECK_EQ(histogram->sum(), 1006u);
    CHECK_EQ(histogram->max(), 1000u);
}

TEST("the figures of two lanes add up") {
    const auto total = std::make_unique<LaneStats>(), other = std::make_unique<LaneStats>();
    for (LaneStats* lane : {total.get(), other.get()}) {
        lane->requests.add(2);
        lane->rows.add(5);
        lane->reasons[LaneStats::bulk].add(1);
    }
    total->queue_ns.add(1000);
    other->queue_ns.add(3);
    other->queue_ns.add(2000);
    total->add(*other);
    CHECK_EQ(total->requests.load(), 4u);
    CHECK_EQ(total->rows.load(), 10u);
    CHECK_EQ(total->reasons[LaneStats::bulk].load(), 2u);
    std::array<std::uint64_t, Histogram::kBuckets> buckets{};
    total->queue_ns.collect(buckets);
    CHECK_EQ(buckets[3], 1u);
    CHECK_EQ(buckets[Histogram::index(1000)], 1u);
    CHECK_EQ(total->queue_ns.sum(), 3003u);
    CHECK_EQ(total->queue_ns.max(), 2000u);
}

// --- Policies ---

TEST("priority takes the first idle lane, round robin the next one") {
    PriorityPolicy priority;
    CHECK_EQ(priority.select(0b1100, 1), 2u);
    CHECK_EQ(priority.select(0b1100, 1), 2u);
    RoundRobinPolicy turns;
    for (const std::uint32_t lane : {0u, 1u, 3u, 0u, 1u}) CHECK_EQ(turns.select(0b1011, 1), lane);
    CHECK_EQ(turns.select(std::uint64_t{1} << 63, 1), 63u);
    CHECK_EQ(turns.select(~std::uint64_t{0}, 1), 0u);
}

TEST("a native policy sees the lanes, and a wrong answer is a fault and not a choice") {
    struct Context {
        std::int32_t answer = 0;
        std::uint32_t idle = 0, pending_rows = 0, destroyed = 0;
        std::uint64_t rows = 0;
    } context;
    const ovengine_policy policy{OVENGINE_POLICY_ABI_VERSION,
                                 sizeof(ovengine_policy),
                                 &context,
                                 [](void* given, const ovengine_dispatch* dispatch) {
                                     auto& seen = *static_cast<Context*>(given);
                                     seen.idle = 0;
                                     for (std::uint32_t i = 0; i < dispatch->lane_count; ++i)
                                         seen.idle |= dispatch->lanes[i].idle << i;
                                     seen.pending_rows = dispatch->pending_rows;
                                     seen.rows = dispatch->lanes[1].rows;
                                     return seen.answer;
                                 },
                                 [](void* given) { ++static_cast<Context*>(given)->destroyed; },
                                 nullptr};
    const auto stats = std::make_unique<std::array<LaneStats, 3>>();
    (*stats)[1].rows.add(17);
    {
        NativePolicy native({&policy, [](const ovengine_policy* p) { p->destroy(p->context); }},
                            {{0, &(*stats)[0]}, {0, &(*stats)[1]}, {1, &(*stats)[2]}});
        context.answer = 2;
        CHECK_EQ(native.select(0b110, 9), 2u);
        CHECK_EQ(context.idle, 0b110u);
        CHECK_EQ(context.pending_rows, 9u);
        CHECK_EQ(context.rows, 17u);
        context.answer = OVENGINE_ANY_LANE;
        CHECK_EQ(native.select(0b110, 9), 1u);
        CHECK_EQ(native.faults(), 0u);
        for (const std::int32_t wrong : {0, 3, -2, 1'000'000}) {
            context.answer = wrong;
            CHECK_EQ(native.select(0b110, 9), 1u);
        }
        CHECK_EQ(native.faults(), 4u);
    }
    CHECK_EQ(context.destroyed, 1u);
}
