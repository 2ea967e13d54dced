// What requests ask for beside the inference of their rows: a key of their own.
#include <map>

#include "fixture.hpp"

using namespace ovengine;
using namespace ovengine::testing;

namespace {
// The key that a test gives to the request of a tag: tags of one hundred belong together.
std::uint64_t key_of(float tag) { return static_cast<std::uint64_t>(tag) / 100; }
}  // namespace

TEST("only requests of equal key share a batch, and each gets its own result") {
    Model model;
    model.device->hold();
    std::vector<std::pair<Ticket, float>> tickets{{model.submit(1), 1.0f}};
    CHECK(model.device->wait_until_busy());
    for (const float tag : {2.0f, 100.0f, 110.0f, 3.0f, 200.0f, 4.0f, 210.0f, 220.0f, 120.0f, 5.0f, 6.0f, 7.0f, 8.0f})
        tickets.emplace_back(model.submit(tag, 1, {.key = key_of(tag)}), tag);
    model.device->release();
    for (auto& [ticket, tag] : tickets) CHECK(model.finish(ticket, tag) == Outcome::ok);
    std::size_t rows = 0;
    for (const auto& call : model.device->calls()) {
        const std::uint64_t key = key_of(call.tags.front());
        for (const float tag : call.tags) {
            CHECK(tag == 0 || key_of(tag) == key);
            rows += tag != 0;
        }
    }
    CHECK_EQ(rows, tickets.size());
}

TEST("requests of one key fill a batch") {
    Model model;
    model.device->hold();
    Ticket first = model.submit(1);
    CHECK(model.device->wait_until_busy());
    std::vector<Ticket> tickets;
    for (int i = 0; i < 8; ++i) tickets.push_back(model.submit(static_cast<float>(100 + i), 1, {.key = 1}));
    model.device->release();
    CHECK(model.finish(first, 1) == Outcome::ok);
    for (int i = 0; i < 8; ++i)
        CHECK(model.finish(tickets[static_cast<std::size_t>(i)], static_cast<float>(100 + i)) == Outcome::ok);
    CHECK_EQ(model.device->calls().size(), 3u);  // 1, 4, 4
}

TEST("a lone request with a key runs on an idle model, and so does the lane of a caller") {
    Model model;
    Ticket ticket = model.submit(100, 2, {.key = 1});
    CHECK(model.finish(ticket, 100) == Outcome::ok);
    const int lane = model.borrow_lane();
    CHECK(model->begin(1, ticket, {.key = 2}) == Admission::ok);
    model.write(ticket, 200);
    CHECK(model->publish(ticket, false) == Admission::ok);
    model->run_borrowed(lane);
    CHECK(ModelCore::outcome(ticket) == Outcome::ok);
    CHECK(model.finish(ticket, 200) == Outcome::ok);
}

TEST("a request with a key does not wait for rows that are leased") {
    Model model;
    Ticket lease;
    REQUIRE(model->begin_lease(1, lease) == Admission::ok);
    Ticket ticket = model.submit(100, 1, {.key = 1});
    CHECK(model.finish(ticket, 100) == Outcome::ok);
    model.write(lease, 5);
    Admission admission{};
    CHECK(model->publish_lease(lease, admission));
    CHECK(model.finish(lease, 5) == Outcome::ok);
}

TEST("keyed requests that are cancelled leave nothing behind") {
    Model model;
    for (int round = 0; round < 50; ++round) {
        std::vector<Ticket> tickets;
        for (int i = 0; i < 12; ++i)
            tickets.push_back(model.submit(static_cast<float>(i), 1, {.key = static_cast<std::uint64_t>(1 + i % 3)}));
        for (std::size_t i = 0; i < tickets.size(); ++i) {
            if (i % 4 != 3) ModelCore::cancel(tickets[i]);
            const Outcome outcome = model.finish(tickets[i], static_cast<float>(i));
            CHECK(outcome == Outcome::ok || (outcome == Outcome::cancelled && i % 4 != 3));
        }
    }
}
