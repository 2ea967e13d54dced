// A compiled model that is made anew when an inference has failed; here an int that counts how often it was made.
#include "device/renewable.hpp"

#include <thread>
#include <vector>

#include "check.hpp"

using ovengine::Renewable;

namespace {

template <class Call>
std::string refusal(Call call) {
    try {
        call();
    } catch (const std::runtime_error& error) {
        return error.what();
    }
    return "";
}

}  // namespace

TEST("all go on with a new model after a failure, and it is made once") {
    Renewable<int> model(1, [](int& old) { return old + 1; });
    std::uint64_t generation = 0;
    CHECK_EQ(model.get(generation), 1);
    std::vector<std::thread> lanes;
    for (int lane = 0; lane < 4; ++lane) lanes.emplace_back([&] { model.renew(generation); });
    for (auto& lane : lanes) lane.join();
    CHECK(!model.is_latest(generation));
    CHECK_EQ(model.get(generation), 2);
    CHECK(model.is_latest(generation));
}

TEST("a model that cannot be made anew is an error for all who ask, until it can be") {
    bool can = false;
    Renewable<int> model(1, [&](int& old) {
        if (!can) throw std::runtime_error("no memory for it");
        return old + 1;
    });
    std::uint64_t generation = 0;
    model.get(generation);
    model.renew(generation);
    for (int i = 0; i < 3; ++i) {
        CHECK(!model.is_latest(generation));
        CHECK(refusal([&] { model.get(generation); }).ends_with("could not be compiled anew: no memory for it"));
        CHECK_EQ(generation, 0u);
        model.renew(generation);  // of those who have the old one still: it has failed already
    }
    can = true;
    CHECK_EQ(model.get(generation), 2);
    CHECK(model.is_latest(generation));
}

TEST("a model that nobody can make anew stays") {
    Renewable<int> model(1, {});
    std::uint64_t generation = 0;
    model.renew(generation);
    CHECK(model.is_latest(generation));
    CHECK_EQ(model.get(), 1);
}
