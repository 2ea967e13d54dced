// What priorities and groups are promised, as bounds that hold for whatever comes: in virtual time, on the whole core.
#include <numeric>
#include <random>

#include "virtual/simulation.hpp"

using namespace ovengine;
using namespace ovengine::testing;

namespace {

constexpr std::int64_t kAgeUs = Backlog::kAgeNs / 1000;

// The same in each run.
class Chance {
  public:
    explicit Chance(std::uint32_t seed) : bits_(seed) {}
    std::uint32_t below(std::uint32_t limit) { return static_cast<std::uint32_t>(bits_() % limit); }

  private:
    std::mt19937 bits_;
};

struct Arrival {
    std::int64_t at_us;
    std::uint32_t priority, rows;
};

}  // namespace

// Ageing. Of the requests that come after a request of priority p and run before it, all are of a higher priority q,
// and came no more than p - q seconds later. So it is overtaken by no more rows than
//
//   the sum over q < p of the rows of priority q that arrive within p - q seconds after it
//
// however long the flood lasts.
TEST("nobody is overtaken by more than what comes within its age") {
    for (std::uint32_t seed = 1; seed <= 8; ++seed) {
        Chance chance(seed);
        Simulation simulation(Costs{{1, 60'000}, {4, 100'000}});
        std::vector<Arrival> arrivals;
        std::int64_t now_us = 0;
        // More than the lane can do at first, so that the backlog grows to tens of seconds, and then less.
        for (int i = 0; i < 500; ++i) {
            now_us += chance.below(i < 350 ? 60'000 : 150'000);
            const std::uint32_t priority = chance.below(3) > 0 ? 1 + chance.below(3) : 1 + chance.below(kPriorities);
            arrivals.push_back({now_us, priority, 1 + chance.below(4)});
            simulation.run_until(now_us);
            CHECK_EQ(simulation.submit(arrivals.back().rows, {.priority = priority}), arrivals.size() - 1);
        }
        simulation.finish();
        const auto order = simulation.order();
        REQUIRE(order.size() == arrivals.size());
        std::uint32_t most = 0;
        for (std::size_t place = 0; place < order.size(); ++place) {
            const Arrival& late = arrivals[order[place]];
            std::uint32_t overtaken_by = 0, bound = 0;
            for (std::size_t before = 0; before < place; ++before)
                if (order[before] > order[place]) overtaken_by += arrivals[order[before]].rows;
            for (std::size_t i = order[place] + 1; i < arrivals.size(); ++i) {
                const std::int64_t steps = std::int64_t{late.priority} - arrivals[i].priority;
                if (steps > 0 && arrivals[i].at_us <= late.at_us + steps * kAgeUs) bound += arrivals[i].rows;
            }
            CHECK(overtaken_by <= bound);
            most = std::max(most, overtaken_by);
        }
        CHECK(most > 50);  // there was something to be bounded
    }
}

// What a request of the lowest priority waits for at most, while one flood of the highest lasts: those that came up to
// eight seconds after it, and the batch that runs when its turn comes.
TEST("a request of the lowest priority runs through a flood of the highest") {
    Simulation simulation(Costs{{1, 10'000}, {4, 10'000}});
    // Two batches' worth for each that is run: at eight seconds there are eight more seconds to run.
    const auto flood_until = [&](std::int64_t until_us) {
        for (std::int64_t at_us = simulation.now_us(); at_us < until_us; at_us += 5'000) {
            simulation.run_until(at_us);
            simulation.submit(4, {.priority = 1});
        }
    };
    flood_until(100'000);
    const std::size_t low = simulation.submit(1, {.priority = kPriorities});
    const std::int64_t came_us = simulation.now_us();
    flood_until(came_us + 8 * kAgeUs);
    CHECK(!simulation.is_done(low));
    const std::int64_t rest_us = 10'000 * static_cast<std::int64_t>(simulation.model->approx_waiting());
    flood_until(came_us + 8 * kAgeUs + rest_us);
    simulation.run_until(came_us + 8 * kAgeUs + rest_us + 30'000);
    CHECK(simulation.is_done(low));
    simulation.finish();
}

// Shares (start-time fair queueing, Goyal, Vin and Cheng, 1996). While group f waits, of any R rows that are run its
// share is at least
//
//   w(f) / W * (R - n * L) - L
//
// with w its weight, W and n the sum of the weights and the number of all groups, whether they wait or not, and L the
// rows of the largest request.
TEST("over any while that a group waits, it has its share") {
    constexpr std::uint32_t kLargest = 6;
    const std::vector<double> weights{1, 2, 5, 0.5};
    const double all_weights = std::accumulate(weights.begin(), weights.end(), 0.0);
    for (std::uint32_t seed = 1; seed <= 40; ++seed) {
        Chance chance(seed);
        Backlog backlog;
        std::deque<Request> requests;
        std::vector<std::shared_ptr<Group>> groups;
        for (std::size_t i = 0; i < weights.size(); ++i) groups.push_back(std::make_shared<Group>(std::to_string(i)));
        const auto number = [](const Group& group) { return static_cast<std::size_t>(group.name()[0] - '0'); };
        backlog.set_weight([&](const Group& group) { return weights[number(group)]; });
        std::vector<std::size_t> waiting(weights.size());
        struct Served {
            std::size_t group;
            std::uint32_t rows;
            std::vector<bool> waited;  // group by group, before it
        };
        std::vector<Served> served;
        std::int64_t now_ns = 1;
        while (served.size() < 300) {
            // Groups come in bursts and are gone for a while; the last is there nearly always.
            for (std::size_t i = 0; i < groups.size(); ++i) {
                const bool bursts = chance.below(i + 1 == groups.size() ? 2 : 12) == 0;
                for (std::uint32_t n = bursts ? chance.below(12) : 0; n > 0; --n, ++waiting[i]) {
                    Request& request = requests.emplace_back();
                    request.begin(1 + chance.below(kLargest), ++now_ns);
                    request.set_terms({.group = groups[i]});
                    backlog.add(&request);
                }
            }
            Request* const next = backlog.find([](const Request&) { return true; });
            if (next == nullptr) continue;
            const std::size_t group = number(*next->terms().group);
            if (chance.below(10) == 0) {  // cancelled
                backlog.remove(next);
            } else {
                std::vector<bool> waited;
                for (const std::size_t count : waiting) waited.push_back(count > 0);
                served.push_back({group, next->rows(), waited});
                backlog.take(next);
            }
            --waiting[group];
        }
        for (std::size_t f = 0; f < groups.size(); ++f)
            for (std::size_t first = 0; first < served.size(); ++first) {
                double own = 0, rows = 0;
                for (std::size_t i = first; i < served.size() && served[i].waited[f]; ++i) {
                    rows += served[i].rows;
                    if (served[i].group == f) own += served[i].rows;
                    const double others = static_cast<double>(groups.size()) * kLargest;
                    CHECK(own >= weights[f] / all_weights * (rows - others) - kLargest - 1e-9);
                }
            }
    }
}

// The same on the whole core, where rows go batch by batch: what a batch has that was begun when the group came to
// wait, and the open slot, count as one more request.
TEST("a quiet group has its share beside floods, whenever it comes") {
    constexpr std::uint32_t kLargest = 4;
    for (std::uint32_t seed = 1; seed <= 6; ++seed) {
        Chance chance(seed);
        Simulation simulation(Costs{{1, 1000}, {4, 1200}, {8, 1500}});
        std::vector<std::shared_ptr<Group>> groups;
        for (const char* name : {"quiet", "flood", "other flood"}) groups.push_back(simulation.model->make_group(name));
        std::vector<std::pair<std::size_t, std::uint32_t>> requests;  // group and rows
        std::vector<std::pair<std::size_t, std::size_t>> bursts;      // of the quiet one: first request, and how many
        const auto submit = [&](std::size_t group) {
            requests.emplace_back(group, 1 + chance.below(kLargest));
            return simulation.submit(requests.back().second, {.group = groups[group]});
        };
        for (std::int64_t now_us = 0; now_us < 300'000; now_us += 1 + chance.below(1000)) {
            simulation.run_until(now_us);
            for (const std::size_t flood : {std::size_t{1}, std::size_t{2}})
                for (std::uint32_t n = chance.below(4); n > 0; --n) submit(flood);
            if (chance.below(60) > 0) continue;
            bursts.emplace_back(requests.size(), 1 + chance.below(20));
            for (std::size_t n = bursts.back().second; n > 0; --n) submit(0);
        }
        simulation.finish();
        const auto order = simulation.order();
        std::vector<std::size_t> place(requests.size());
        for (std::size_t i = 0; i < order.size(); ++i) place[order[i]] = i;
        for (const auto& [first, count] : bursts) {
            // From the place of its first request to that of its last one, a group waits all the time.
            double own = 0, rows = 0;
            for (std::size_t i = place[first]; i <= place[first + count - 1]; ++i) {
                rows += requests[order[i]].second;
                if (requests[order[i]].first == 0) own += requests[order[i]].second;
                CHECK(own >= (rows - 3 * kLargest - 8 - 8) / 3.0 - kLargest - 1e-9);
            }
        }
        CHECK(bursts.size() > 3);
    }
}
