// A cost table that is wrong: what lanes run in spite of it, and how soon it is right. In virtual time, on the whole
// core.
#include <cmath>
#include <random>

#include "virtual/simulation.hpp"

using namespace ovengine;
using namespace ovengine::testing;

namespace {

// What the device takes, as it was measured of models for which batching pays, pays a little, and does not.
struct Case {
    const char* what;
    Costs costs;
    std::int64_t healed_after_us;
};
const Case kCases[] = {
    {"weights are fetched once for a batch", {{1, 154}, {4, 122}, {16, 397}, {64, 1545}}, 200'000},
    {"rows get cheaper", {{1, 38}, {4, 77}, {16, 245}, {64, 910}}, 200'000},
    {"rows get hardly cheaper", {{1, 456}, {4, 1686}, {16, 6680}}, 1'000'000},
    {"rows get dearer", {{1, 2050}, {4, 8700}}, 2'000'000},
};
constexpr std::size_t kLanes = 2;

std::int64_t look_us(const Costs& costs) { return std::max<std::int64_t>(10, std::llround(costs.at(1)) / 8); }

// Rows that are answered in a second, after `before_us` of serving as many clients.
double speed(const Costs& said, const Costs& costs, std::size_t clients, std::int64_t before_us) {
    Simulation simulation(said, kLanes, costs);
    simulation.vary(0.1);
    simulation.serve(clients, before_us, look_us(costs));
    const std::int64_t begin_us = simulation.now_us();
    const auto rows = simulation.serve(clients, begin_us + before_us / 2, look_us(costs));
    const double seconds = static_cast<double>(simulation.now_us() - begin_us) / 1e6;
    simulation.finish();
    return static_cast<double>(rows) / seconds;
}

Costs spoilt(Costs costs, const std::vector<double>& factors) {
    std::size_t i = 0;
    for (auto& [size, us] : costs) us *= factors[i++];
    return costs;
}

// Each size alone is said to cost a quarter or four times as much; then, so many times, all of them anything in
// between.
std::vector<std::vector<double>> spoilings(std::size_t sizes, int all_together) {
    std::vector<std::vector<double>> found;
    for (std::size_t size = 0; size < sizes; ++size)
        for (const double factor : {0.25, 4.0}) found.emplace_back(sizes, 1.0)[size] = factor;
    std::mt19937 bits(1);
    std::uniform_real_distribution<double> log_factor(-2, 2);
    for (int i = 0; i < all_together; ++i)
        for (auto& factor : found.emplace_back(sizes)) factor = std::exp2(log_factor(bits));
    return found;
}

}  // namespace

TEST("whatever the table says at first, a model is soon as fast as with the right one") {
    for (const auto& [what, costs, healed_after_us] : kCases)
        for (const std::size_t clients : {2, 4, 64}) {
            const double right = speed(costs, costs, clients, healed_after_us);
            for (const auto& factors : spoilings(costs.size(), clients == 4 ? 0 : 2)) {
                const double healed = speed(spoilt(costs, factors), costs, clients, healed_after_us);
                if (CHECK(healed >= 0.97 * right)) continue;
                std::fprintf(stderr, "  %s, %zu clients: %.0f instead of %.0f rows a second with", what, clients,
                             healed, right);
                for (const double factor : factors) std::fprintf(stderr, " %.2f", factor);
                std::fprintf(stderr, "\n");
            }
        }
}

TEST("a size that is not the best is tried now and then, and takes hardly any time") {
    for (const double us : {420.0, 900.0}) {  // instead of four runs of 100: little more, and far more
        const Costs costs{{1, 100}, {4, us}};
        Simulation simulation(costs);
        const auto runs_of_four = [&] {
            return std::ranges::count_if(simulation.ran(), [](const Ran& each) { return each.size == 4; });
        };
        const auto serve_until = [&](std::int64_t until_us) { simulation.serve(4, until_us, 10); };
        serve_until(200'000);
        const auto at_first = runs_of_four();
        CHECK(at_first >= 16 && at_first <= 40);
        serve_until(2'200'000);
        const double share = static_cast<double>(runs_of_four() - at_first) * us / 2'000'000;
        CHECK(share <= 0.01);
        CHECK((share > 0) == (us < 2 * 4 * 100));
        simulation.finish();
    }
}

TEST("a size that gets good after a while is found out") {
    Simulation simulation(Costs{{1, 100}, {4, 420}});
    const auto best_size = [&] {
        const auto ran = simulation.ran();
        std::size_t rows_of_four = 0;
        for (std::size_t i = ran.size() - 100; i < ran.size(); ++i) rows_of_four += ran[i].size == 4;
        return rows_of_four > 90 ? 4 : 1;
    };
    simulation.serve(4, 300'000, 10);
    CHECK_EQ(best_size(), 1);
    simulation.take({{1, 100}, {4, 150}});
    simulation.serve(4, 3'000'000, 10);
    CHECK_EQ(best_size(), 4);
    simulation.finish();
}

TEST("a lone caller's rows are never padded for a trial") {
    Simulation simulation(Costs{{1, 100}, {4, 101}, {16, 102}});
    simulation.serve(1, 500'000, 10);
    for (const Ran& each : simulation.ran()) CHECK_EQ(each.size, 1u);
    simulation.finish();
}

TEST("a ladder that begins with a larger size has that tried at least") {
    Simulation simulation(Costs{{4, 400}, {8, 410}, {16, 800}}, 2);
    simulation.serve(1, 100'000, 50);
    simulation.serve(12, 200'000, 50);
    simulation.finish();
}
