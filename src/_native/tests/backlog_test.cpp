// The order of a backlog, on a clock of the test's own: priorities, ageing, shares, deadlines, places that are taken.
#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <tuple>
#include <vector>

#include "check.hpp"
#include "queue/backlog.hpp"

using namespace ovengine;

namespace {

constexpr std::int64_t kMs = 1'000'000;

std::uint32_t random_below(std::uint32_t limit) {
    return static_cast<std::uint32_t>(ovengine::testing::random_bits() >> 16) % limit;
}

// A backlog, its requests by number, and a clock.
struct Queue {
    Backlog backlog;
    std::deque<Request> requests;
    std::int64_t now = 3'600'000'000'000;

    std::size_t add(Terms terms = {}, std::uint32_t rows = 1) {
        Request& request = requests.emplace_back();
        request.begin(rows, now);
        request.set_terms(terms);
        backlog.add(&request);
        return requests.size() - 1;
    }
    std::size_t number(const Request* request) const {
        for (std::size_t i = 0; i < requests.size(); ++i)
            if (&requests[i] == request) return i;
        return SIZE_MAX;
    }
    std::size_t next() {
        Request* const request = backlog.find([](const Request&) { return true; });
        if (request == nullptr) return SIZE_MAX;
        backlog.take(request);
        return number(request);
    }
    std::vector<std::size_t> rest() {
        std::vector<std::size_t> order;
        while (!backlog.empty()) order.push_back(next());
        return order;
    }
};

std::shared_ptr<Group> group(const char* name) { return std::make_shared<Group>(name); }
using Order = std::vector<std::size_t>;

}  // namespace

TEST("higher priorities go first, equal ones in order of arrival") {
    Queue queue;
    for (const std::uint32_t priority : {5u, 9u, 1u, 5u, 2u, 1u, 9u}) {
        queue.add({.priority = priority});
        queue.now += kMs;
    }
    CHECK(queue.rest() == Order({2, 5, 4, 0, 3, 1, 6}));
}

TEST("of one priority the earliest deadline goes first, and those without one are due in a second") {
    Queue queue;
    const auto due = [&](std::int64_t ms) { return Terms{.deadline_ns = queue.now + ms * kMs}; };
    queue.add();
    queue.add(due(500));
    queue.add(due(20));
    queue.add(due(900));
    queue.add(due(60'000));  // a deadline is no reason to wait longer than without
    queue.now += kMs;
    queue.add();
    CHECK(queue.rest() == Order({2, 1, 3, 0, 4, 5}));
}

TEST("a request that has waited for its age goes before younger ones of higher priority") {
    Queue queue;
    queue.add({.priority = 7});
    queue.now += 2 * Backlog::kAgeNs - kMs;
    queue.add({.priority = 5});  // not quite two steps later
    CHECK_EQ(queue.next(), 1u);
    queue.now += 2 * kMs;
    queue.add({.priority = 5});
    CHECK_EQ(queue.next(), 0u);
    CHECK_EQ(queue.next(), 2u);
}

// The bound on starvation: whoever goes before a request that waits arrived, for each step of priority that it is
// higher, at most kAgeNs later.
TEST("however many of higher priority come, nobody is overtaken by one that came more than its age later") {
    for (int round = 0; round < 10; ++round) {
        Queue queue;
        std::vector<bool> done;
        for (int step = 0; step < 400; ++step) {
            for (std::uint32_t n = random_below(4); n > 0; --n) {
                queue.add({.priority = 1 + random_below(random_below(2) ? 9 : 2)});
                done.push_back(false);
            }
            queue.now += random_below(400) * kMs;
            const std::size_t next = queue.next();
            if (next == SIZE_MAX) continue;
            done[next] = true;
            const auto rank = [&](std::size_t i) {
                return queue.requests[i].arrived_ns() + queue.requests[i].terms().priority * Backlog::kAgeNs;
            };
            for (std::size_t i = 0; i < done.size(); ++i) {
                if (done[i]) continue;
                const auto& waiting = queue.requests[i].terms();
                const auto& taken = queue.requests[next].terms();
                if (taken.priority < waiting.priority) CHECK(rank(next) <= rank(i));
                if (taken.priority == waiting.priority)
                    CHECK(queue.requests[next].arrived_ns() <= queue.requests[i].arrived_ns());
                if (taken.priority > waiting.priority) CHECK(rank(next) < rank(i));
            }
        }
    }
}

TEST("a flood with deadlines keeps a request without one waiting for no more than a second") {
    Queue queue;
    queue.add();
    for (std::int64_t waited = 0;; waited += kMs) {
        queue.now += kMs;
        for (int i = 0; i < 2; ++i) queue.add({.deadline_ns = queue.now + 5 * kMs});
        while (queue.backlog.first_deadline()->terms().deadline_ns <= queue.now)
            queue.backlog.remove(queue.backlog.first_deadline());
        if (queue.next() != 0) continue;
        CHECK(waited > 900 * kMs && waited <= 1000 * kMs);
        break;
    }
}

TEST("a flooding group and a quiet one take turns, and so does who has no group") {
    Queue queue;
    const auto flood = group("flood"), quiet = group("quiet");
    for (int i = 0; i < 6; ++i) queue.add({.group = flood});  // 0 to 5
    queue.add({.group = quiet});                              // 6
    queue.add({.group = quiet});                              // 7
    queue.add();                                              // 8
    for (const std::size_t next : {0u, 6u, 8u, 1u, 7u}) CHECK_EQ(queue.next(), next);
    // The quiet one comes again when it had its share: it gets the next turn, and nothing for the time it was away.
    for (int i = 0; i < 3; ++i) queue.add({.group = quiet});
    std::size_t of_quiet = 0;
    for (int i = 0; i < 2; ++i) of_quiet += queue.requests[queue.next()].terms().group == quiet;
    CHECK_EQ(of_quiet, 1u);
}

// The bound of start-time fair queueing: of groups that wait all the time, none gets ahead of another by more than one
// request of each, in rows divided by weights.
TEST("groups share by their weights, whatever the sizes of their requests") {
    for (int round = 0; round < 30; ++round) {
        Queue queue;
        const double weights[] = {1, 2, 5};
        const std::shared_ptr<Group> groups[] = {group("0"), group("1"), group("2")};
        constexpr std::uint32_t kMostRows = 8;
        queue.backlog.set_weight([&](const Group& each) { return weights[each.name()[0] - '0']; });
        double served[3] = {};
        for (int i = 0; i < 3; ++i) queue.add({.group = groups[i]}, 1 + random_below(kMostRows));
        for (int step = 0; step < 500; ++step) {
            // Each keeps one or more waiting.
            for (int i = 0; i < 3; ++i) queue.add({.group = groups[i]}, 1 + random_below(kMostRows));
            const Request& taken = queue.requests[queue.next()];
            const auto who = static_cast<std::size_t>(taken.terms().group->name()[0] - '0');
            served[who] += taken.rows() / weights[who];
            for (std::size_t i = 0; i < 3; ++i)
                for (std::size_t j = 0; j < 3; ++j)
                    CHECK(served[i] - served[j] <= kMostRows / weights[i] + kMostRows / weights[j] + 1e-9);
        }
    }
}

TEST("only those that are accepted are found, in order, and the others keep their places") {
    Queue queue;
    for (const std::uint64_t key : {1u, 2u, 1u, 3u, 2u, 1u}) queue.add({.key = key});
    const auto take = [&](std::uint64_t key) {
        Request* const request = queue.backlog.find([&](const Request& each) { return each.terms().key == key; });
        if (request == nullptr) return SIZE_MAX;
        queue.backlog.take(request);
        return queue.number(request);
    };
    CHECK_EQ(take(2), 1u);
    CHECK_EQ(take(2), 4u);
    CHECK_EQ(take(2), SIZE_MAX);
    CHECK(queue.rest() == Order({0, 2, 3, 5}));
}

// Against the rules as a list would follow them.
TEST("whatever is added and taken out, the order is that of the rules") {
    for (int round = 0; round < 40; ++round) {
        Queue queue;
        std::vector<std::size_t> waiting;
        const std::shared_ptr<Group> groups[] = {nullptr, group("a"), group("b")};
        std::map<std::pair<std::uint32_t, const Group*>, double> served;
        std::map<std::pair<std::uint32_t, const Group*>, int> turn;
        int turns = 0;
        std::map<std::uint32_t, double> clock;
        const auto line = [&](std::size_t i) {
            const Terms& terms = queue.requests[i].terms();
            return std::pair(terms.priority, static_cast<const Group*>(terms.group.get()));
        };
        const auto active = [&](std::size_t i) {
            return std::any_of(waiting.begin(), waiting.end(), [&](std::size_t j) { return line(j) == line(i); });
        };
        for (int step = 0; step < 300; ++step) {
            queue.now += random_below(300) * kMs;
            for (std::uint32_t n = random_below(3); n > 0; --n) {
                Terms terms{.priority = 4 + random_below(3), .group = groups[random_below(3)]};
                if (random_below(2)) terms.deadline_ns = queue.now + (1 + random_below(2000)) * kMs;
                const std::size_t i = queue.add(terms, 1 + random_below(4));
                if (!active(i)) {
                    served[line(i)] = std::max(served[line(i)], clock[terms.priority]);
                    turn[line(i)] = ++turns;
                }
                waiting.push_back(i);
            }
            if (waiting.empty()) continue;
            if (random_below(4) == 0) {
                const std::size_t at = random_below(static_cast<std::uint32_t>(waiting.size()));
                queue.backlog.remove(&queue.requests[waiting[at]]);
                waiting.erase(waiting.begin() + static_cast<std::ptrdiff_t>(at));
                continue;
            }
            const auto request = [&](std::size_t i) -> const Request& { return queue.requests[i]; };
            const auto rank = [&](std::size_t i) {
                return request(i).arrived_ns() + request(i).terms().priority * Backlog::kAgeNs;
            };
            std::size_t aged = waiting[0], highest = waiting[0];
            for (const std::size_t i : waiting) {
                if (std::tuple(rank(i), request(i).terms().priority, i) <
                    std::tuple(rank(aged), request(aged).terms().priority, aged))
                    aged = i;
                if (request(i).terms().priority < request(highest).terms().priority) highest = i;
            }
            std::optional<std::size_t> best;
            for (const std::size_t i : waiting) {
                if (request(i).terms().priority != request(highest).terms().priority) continue;
                const auto order = [&](std::size_t j) {
                    return std::tuple(served[line(j)], turn[line(j)], Forecast::due_ns(request(j)), j);
                };
                if (!best || order(i) < order(*best)) best = i;
            }
            const bool by_age = request(aged).terms().priority != request(highest).terms().priority;
            const std::size_t next = queue.next();
            CHECK_EQ(next, by_age ? aged : *best);
            const std::uint32_t priority = request(next).terms().priority;
            clock[priority] = std::max(clock[priority], served[line(next)]);
            served[line(next)] += request(next).rows();
            turn[line(next)] = ++turns;
            std::erase(waiting, next);
        }
        CHECK_EQ(queue.backlog.size(), waiting.size());
    }
}

TEST("the first deadline is known, whoever goes first") {
    Queue queue;
    CHECK(queue.backlog.first_deadline() == nullptr);
    queue.add();
    queue.add({.priority = 9, .deadline_ns = queue.now + 10 * kMs});
    queue.add({.priority = 1, .deadline_ns = queue.now + 20 * kMs});
    CHECK_EQ(queue.number(queue.backlog.first_deadline()), 1u);
    CHECK_EQ(queue.next(), 2u);
    CHECK_EQ(queue.next(), 0u);
    CHECK_EQ(queue.number(queue.backlog.first_deadline()), 1u);
    CHECK_EQ(queue.next(), 1u);
    CHECK(queue.backlog.first_deadline() == nullptr);
}

// --- latest_only: Group::offer ---

namespace {
struct Newest {
    std::shared_ptr<Group> of = group("camera");
    std::deque<Request> frames;
    std::vector<Request*> queued;
    bool has_room = true;

    Group::Offered offer(std::int64_t now) {
        Request& frame = frames.emplace_back();
        frame.begin(1, now);
        frame.set_terms({.group = of, .latest_only = true});
        return of->offer(&frame, [&](Request* request) {
            if (has_room) queued.push_back(request);
            return has_room;
        });
    }
};
}  // namespace

TEST("a newer frame takes the place of the one that waits, whose end is told at once") {
    Newest newest;
    CHECK(newest.offer(100).accepted);
    CHECK(newest.offer(200).superseded);
    CHECK(newest.frames[0].state() == Request::State::superseded && newest.frames[0].event().is_set());
    const auto third = newest.offer(300);
    CHECK(third.accepted && third.superseded);
    CHECK(third.dropped == &newest.frames[1]);  // it was never in the queue
    CHECK_EQ(newest.queued.size(), 1u);
    // A lane comes to the place.
    Request* const heir = newest.of->heir(newest.queued[0]);
    CHECK(heir == &newest.frames[2]);
    CHECK_EQ(heir->arrived_ns(), 100);  // so a fast camera is not pushed back by its own frames
    CHECK(newest.of->heir(newest.queued[0]) == nullptr);
    // It is the place itself now, until a lane has it.
    CHECK(newest.offer(400).superseded);
    CHECK(newest.of->heir(heir) == &newest.frames[3]);
    CHECK(newest.frames[3].try_take());
    CHECK(!newest.offer(500).superseded);
    CHECK_EQ(newest.queued.size(), 2u);
    newest.of->forget(&newest.frames[3]);  // late: the place is another's
    CHECK(newest.offer(600).superseded);
}

TEST("a frame that was cancelled keeps nobody from the queue, and one that finds no room leaves no trace") {
    Newest newest;
    CHECK(newest.offer(100).accepted);
    CHECK(newest.frames[0].cancel());
    CHECK(!newest.offer(200).superseded);
    CHECK_EQ(newest.queued.size(), 2u);
    CHECK(newest.offer(300).superseded);
    CHECK(newest.frames[2].cancel());
    const auto next = newest.offer(400);  // the place is still there
    CHECK(next.accepted && !next.superseded && next.dropped == &newest.frames[2]);
    CHECK(newest.of->heir(&newest.frames[1]) == &newest.frames[3]);
    newest.of->forget(&newest.frames[3]);
    newest.has_room = false;
    CHECK(!newest.offer(500).accepted);
    newest.has_room = true;
    CHECK(newest.offer(600).accepted);
    CHECK(newest.queued.back() == &newest.frames[5]);
}

// --- Forecast ---

TEST("the forecast counts what goes first, by priority and by when it is due") {
    Forecast forecast;
    std::deque<Request> requests;
    const std::int64_t now = 3'600'000'000'000;
    const auto enter = [&](Terms terms, std::uint32_t rows, std::int64_t arrived) {
        Request& request = requests.emplace_back();
        request.begin(rows, arrived);
        request.set_terms(terms);
        forecast.enter(request);
    };
    const Terms urgent{.deadline_ns = now + 50 * kMs}, patient{.deadline_ns = now + 5000 * kMs};
    enter({.priority = 1}, 2, now);
    enter({.priority = 9}, 7, now);
    enter({}, 3, now);                                // due in a second
    enter({}, 1, now - 990 * kMs);                    // due in 10 ms
    enter({.deadline_ns = now + 20 * kMs}, 4, now);   // before
    enter({.deadline_ns = now + 500 * kMs}, 8, now);  // behind an urgent one
    CHECK_EQ(forecast.rows_ahead(urgent, 1, 100, now), 2u + 1 + 4);
    CHECK_EQ(forecast.rows_ahead(patient, 1, 100, now), 2u + 3 + 1 + 4 + 8 + 100);
    CHECK_EQ(forecast.rows_ahead({.priority = 1}, 1, 100, now), 2u);
    CHECK_EQ(forecast.rows_ahead({.priority = 9}, 1, 100, now), 2u + 16 + 7 + 100);
    for (const Request& request : requests) forecast.leave(request);
    CHECK_EQ(forecast.rows_ahead({.priority = 9}, 1, 0, now), 0u);
}

TEST("a flood of one group is not ahead of another group's requests") {
    Forecast forecast;
    const auto flood = group("flood"), quiet = group("quiet");
    std::deque<Request> requests(1000);
    const std::int64_t now = 3'600'000'000'000;
    for (Request& request : requests) {
        request.begin(1, now);
        request.set_terms({.deadline_ns = now + 10 * kMs, .group = flood});
        forecast.enter(request);
    }
    const Terms terms{.deadline_ns = now + 100 * kMs, .group = quiet};
    CHECK(forecast.rows_ahead(terms, 1, 0, now) <= 2);
    CHECK_EQ(forecast.rows_ahead({.deadline_ns = now + 100 * kMs, .group = flood}, 1, 0, now), 1000u);
}

TEST("what is kept in reserve lets few be late, however far estimates are off") {
    std::mt19937_64 random(5);
    for (const double error : {0.02, 0.05, 0.07}) {  // on average, of the estimate
        std::exponential_distribution<double> off(1 / error);
        Forecast forecast;
        std::size_t late = 0;
        constexpr std::size_t kLearning = 100'000, kThen = 200'000;
        for (std::size_t i = 0; i < kLearning + kThen; ++i) {
            const bool is_late = off(random) > forecast.reserve();
            forecast.learn(is_late ? 0 : 1, is_late ? 1 : 0);
            if (i >= kLearning) late += is_late;
        }
        CHECK(late > kThen / 1000 && late < kThen / 200);
    }
}

TEST("what is kept in reserve has limits") {
    Forecast forecast;
    const double first = forecast.reserve();
    forecast.learn(0, 1);
    CHECK(forecast.reserve() > first);
    forecast.learn(0, 1'000'000);
    CHECK(forecast.reserve() <= 0.5);
    forecast.learn(100'000'000, 0);
    CHECK(forecast.reserve() > 0 && forecast.reserve() < 0.05);
}
