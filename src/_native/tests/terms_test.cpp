// What requests ask for beside the inference of their rows: keys, priorities, deadlines, groups.
#include <algorithm>
#include <map>

#include "fixture.hpp"

using namespace ovengine;
using namespace ovengine::testing;

namespace {
// The key that a test gives to the request of a tag: tags of one hundred belong together.
std::uint64_t key_of(float tag) { return static_cast<std::uint64_t>(tag) / 100; }

// The tags that ran, in order, without padding.
std::vector<float> ran(const Device& device) {
    std::vector<float> tags;
    for (const auto& call : device.calls())
        for (const float tag : call.tags)
            if (tag != 0) tags.push_back(tag);
    return tags;
}
std::int64_t in_ns(std::chrono::nanoseconds time) { return now_ns() + time.count(); }

// A model of one row to a batch whose lane is busy with the row of tag 1, and a full open slot with tag 2.
struct Busy {
    Model model;
    Ticket first, open;
    explicit Busy(Setup setup = {}) : model(one_row(std::move(setup))) {
        model.device->hold();
        first = model.submit(1);
        CHECK(model.device->wait_until_busy());
        open = model.submit(2);
    }
    ~Busy() {
        model.device->release();
        const bool closed = model->closing();
        CHECK(model.finish(first, 1) == (closed ? Outcome::closed : Outcome::ok));
        CHECK(model.finish(open, 2) == (closed ? Outcome::closed : Outcome::ok));
    }
    static Setup one_row(Setup setup) {
        setup.ladder = {1};
        return setup;
    }
};
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

// --- Priorities ---

TEST("a higher priority goes first, also before what has rows of the open slot already") {
    Busy busy;
    Model& model = busy.model;
    std::vector<std::pair<Ticket, float>> tickets;
    const auto submit = [&](float tag, std::uint32_t priority) {
        tickets.emplace_back(model.submit(tag, 1, {.priority = priority}), tag);
    };
    submit(10, 9), submit(11, kDefaultPriority), submit(12, 4), submit(13, 1), submit(14, 4);
    model.device->release();
    for (auto& [ticket, tag] : tickets) CHECK(model.finish(ticket, tag) == Outcome::ok);
    CHECK(ran(*model.device) == std::vector<float>({1, 13, 12, 14, 2, 11, 10}));
}

TEST("requests of several priorities share a batch when there is room") {
    Model model;
    model.device->hold();
    Ticket first = model.submit(1);
    CHECK(model.device->wait_until_busy());
    Ticket low = model.submit(10, 1, {.priority = 9}), high = model.submit(20, 1, {.priority = 1}),
           plain = model.submit(30);
    model.device->release();
    CHECK(model.finish(first, 1) == Outcome::ok);
    CHECK(model.finish(low, 10) == Outcome::ok);
    CHECK(model.finish(high, 20) == Outcome::ok);
    CHECK(model.finish(plain, 30) == Outcome::ok);
    CHECK_EQ(model.device->calls().size(), 2u);
    CHECK(ran(*model.device) == std::vector<float>({1, 20, 30, 10}));
}

TEST("when the last request with terms has gone, plain ones are served in their order again") {
    Busy busy;
    Model& model = busy.model;
    std::vector<std::pair<Ticket, float>> tickets;
    for (const float tag : {10.0f, 11.0f, 12.0f}) tickets.emplace_back(model.submit(tag), tag);
    tickets.emplace_back(model.submit(5, 1, {.priority = 1}), 5.0f);
    for (const float tag : {13.0f, 14.0f}) tickets.emplace_back(model.submit(tag), tag);
    model.device->release();
    for (auto& [ticket, tag] : tickets) CHECK(model.finish(ticket, tag) == Outcome::ok);
    CHECK(ran(*model.device) == std::vector<float>({1, 5, 2, 10, 11, 12, 13, 14}));
}

// --- Deadlines ---

TEST("a request whose deadline comes while it waits is ended then, although no lane comes by, and never runs") {
    Busy busy;
    Model& model = busy.model;
    Ticket late = model.submit(50, 1, {.deadline_ns = in_ns(30ms)});
    Ticket later = model.submit(51, 1, {.deadline_ns = in_ns(10ms)});  // sooner than what is waited for already
    Ticket kept = model.submit(60, 1, {.deadline_ns = in_ns(60s)});
    CHECK(Model::wait(later) == Outcome::expired);
    CHECK(Model::wait(late) == Outcome::expired);
    CHECK(!ModelCore::cancel(late));
    CHECK(ModelCore::outcome(kept) == Outcome::pending);
    CHECK_EQ(model->expired_requests(), 2u);
    model->release(late);
    model->release(later);
    model.device->release();
    CHECK(model.finish(kept, 60) == Outcome::ok);
    CHECK(ran(*model.device) == std::vector<float>({1, 2, 60}));
}

TEST("the end of a deadline is told to notices, and leaves room in the queue") {
    Busy busy({.queue = {.max_queue_size = 1}});
    Model& model = busy.model;
    Ticket late = model.submit(50, 1, {.deadline_ns = in_ns(30ms)});
    Mailbox* const mailbox = new Mailbox;
    Notice notice{.mailbox = mailbox};
    CHECK(ModelCore::attach(late, &notice));
    Ticket next;
    CHECK(model.try_submit(60, 1, next) == Admission::full);
    CHECK(model->wait_for_room(in(20s)) != platform::WaitResult::timed_out);
    CHECK(eventually([&] { return mailbox->take_all() == &notice; }));
    mailbox->release();
    CHECK(model.try_submit(60, 1, next) == Admission::ok);
    model->release(late);
    model.device->release();
    CHECK(model.finish(next, 60) == Outcome::ok);
}

TEST("a deadline that cannot be met is refused at once: by what an inference takes, and by what waits") {
    Busy busy({.cost_us = {100'000}});
    Model& model = busy.model;
    Ticket ticket;
    CHECK(model->begin(1, ticket, {.deadline_ns = in_ns(50ms)}) == Admission::unmeetable);
    CHECK(model->begin(1, ticket, {.deadline_ns = in_ns(150ms)}) == Admission::unmeetable);  // one runs, one waits
    std::vector<Ticket> waiting;
    for (int i = 0; i < 5; ++i) waiting.push_back(model.submit(10, 1, {.deadline_ns = in_ns(100s)}));
    const Terms soon{.deadline_ns = in_ns(600ms)};
    CHECK(model->begin(1, ticket, soon) == Admission::ok);  // it goes before them
    model->abandon(ticket);
    for (int i = 0; i < 5; ++i) waiting.push_back(model.submit(10, 1, {.priority = 1}));
    CHECK(model->begin(1, ticket, soon) == Admission::unmeetable);  // those do
    CHECK(model->begin(1, ticket, {.priority = 1, .deadline_ns = in_ns(900ms)}) == Admission::ok);
    model->abandon(ticket);
    model.device->release();
    for (auto& each : waiting) CHECK(model.finish(each, 10) == Outcome::ok);
}

TEST("what full batches really take, one after the other, counts for deadlines before the cost table knows it") {
    // A table that says ten seconds, and a device that takes next to none.
    Model model(Busy::one_row({.cost_us = {10'000'000}}));
    const auto admitted = [&] {
        model.device->hold();
        std::vector<std::pair<Ticket, float>> tickets{{model.submit(1), 1.0f}};
        CHECK(model.device->wait_until_busy());
        for (float tag = 10; tag < 20; ++tag) tickets.emplace_back(model.submit(tag, 1, {.priority = 1}), tag);
        Ticket ticket;
        const Admission admission = model->begin(1, ticket, {.deadline_ns = in_ns(90s)});
        if (admission == Admission::ok) model->abandon(ticket);
        model.device->release();
        for (auto& [each, tag] : tickets) CHECK(model.finish(each, tag) == Outcome::ok);
        return admission;
    };
    CHECK(admitted() == Admission::unmeetable);
    for (int i = 0; i < 100; ++i) {
        Ticket ticket = model.submit(5);
        CHECK(model.finish(ticket, 5) == Outcome::ok);
    }
    CHECK(admitted() == Admission::ok);
}

TEST("a request that could only be late is not begun any more") {
    Busy busy({.cost_us = {30'000}});
    Model& model = busy.model;
    Ticket late = model.submit(50, 1, {.priority = 1, .deadline_ns = in_ns(70ms)});
    std::this_thread::sleep_for(50ms);
    model.device->release();
    CHECK(model.finish(late, 50) == Outcome::expired);
}

// --- Groups ---

TEST("a flooding group does not hold up a quiet one, nor keep it from the queue") {
    Busy busy({.queue = {.max_queue_size = 40}});
    Model& model = busy.model;
    const auto flood = std::make_shared<Group>("flood"), quiet = std::make_shared<Group>("quiet");
    std::vector<std::pair<Ticket, float>> tickets;
    Ticket ticket;
    float tag = 100;
    while (model.try_submit(tag, 1, ticket, {.group = flood}) == Admission::ok) tickets.emplace_back(ticket, tag++);
    CHECK_EQ(tickets.size(), 30u);  // a quarter is left
    for (const float each : {50.0f, 51.0f}) tickets.emplace_back(model.submit(each, 1, {.group = quiet}), each);
    model.device->release();
    for (auto& [each, its] : tickets) CHECK(model.finish(each, its) == Outcome::ok);
    const auto order = ran(*model.device);
    CHECK(std::find(order.begin(), order.end(), 50) - order.begin() <= 4);
    CHECK(std::find(order.begin(), order.end(), 51) - order.begin() <= 6);
    CHECK_EQ(flood->approx_waiting() + quiet->approx_waiting() + flood->approx_rows() + quiet->approx_rows(), 0u);
}

TEST("of a group's latest_only requests the newest runs, and the others are superseded at once") {
    Busy busy({.queue = {.max_queue_size = 2}});
    Model& model = busy.model;
    const auto camera = std::make_shared<Group>("camera");
    const Terms frame{.group = camera, .latest_only = true};
    Ticket kept = model.submit(40, 1, {.group = camera});  // not such a one
    std::vector<Ticket> frames;
    for (int i = 0; i < 10; ++i) {
        frames.push_back(model.submit(static_cast<float>(50 + i), 1, frame));  // more than the queue has room for
        for (int old = 0; old < i; ++old)
            CHECK(ModelCore::outcome(frames[static_cast<std::size_t>(old)]) == Outcome::superseded);
    }
    CHECK(ModelCore::cancel(frames.back()));
    frames.push_back(model.submit(60, 1, frame));
    model.device->release();
    for (std::size_t i = 0; i < 9; ++i) CHECK(model.finish(frames[i], 0) == Outcome::superseded);
    CHECK(model.finish(frames[9], 0) == Outcome::cancelled);
    CHECK(model.finish(frames[10], 60) == Outcome::ok);
    CHECK(model.finish(kept, 40) == Outcome::ok);
    CHECK_EQ(model->superseded_requests(), 9u);
    CHECK(ran(*model.device) == std::vector<float>({1, 2, 40, 60}));
}

TEST("close ends what waits with terms, heirs included") {
    Busy busy;
    Model& model = busy.model;
    const auto camera = std::make_shared<Group>("camera");
    Ticket old = model.submit(50, 1, {.group = camera, .latest_only = true});
    Ticket heir = model.submit(51, 1, {.group = camera, .latest_only = true});
    Ticket low = model.submit(52, 1, {.priority = 9}), timed = model.submit(53, 1, {.deadline_ns = in_ns(60s)});
    std::thread closer([&] { model->close(in(0s)); });
    CHECK(model.finish(old, 0) == Outcome::superseded);
    for (Ticket* ticket : {&heir, &low, &timed}) CHECK(model.finish(*ticket, 0) == Outcome::closed);
    CHECK(Model::wait(busy.first) == Outcome::closed);
    model.device->release();
    closer.join();
}

TEST("requests that were cancelled deep in the backlog make room for others") {
    Busy busy({.queue = {.max_queue_size = 20}});
    Model& model = busy.model;
    std::vector<Ticket> cancelled, kept;
    for (int i = 0; i < 15; ++i) cancelled.push_back(model.submit(9, 1, {.priority = 9}));
    for (auto& ticket : cancelled) {
        CHECK(ModelCore::cancel(ticket));
        model->release(ticket);
    }
    model.device->release();
    for (int i = 0; i < 60; ++i) {
        Ticket ticket = model.submit(10, 1, {.priority = 1});
        CHECK(model.finish(ticket, 10) == Outcome::ok);
    }
    CHECK(eventually([&] { return model->approx_waiting() == 0; }));
}

// --- Jobs ---

TEST("jobs wait for their turn like requests, expire, are superseded and closed") {
    Busy busy;
    Model& model = busy.model;
    const auto camera = std::make_shared<Group>("camera");
    std::vector<std::vector<float>> memory;
    const auto submit = [&](float tag, const Terms& terms) {
        auto& rows = memory.emplace_back(3 * model.width);
        for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = tag + static_cast<float>(i / model.width);
        Ticket ticket;
        CHECK(model->submit_rows({reinterpret_cast<std::byte*>(rows.data())}, 3, ticket, terms) == Admission::ok);
        return ticket;
    };
    memory.reserve(8);
    Ticket low = submit(10, {.priority = 9}), late = submit(20, {.deadline_ns = in_ns(20ms)});
    Ticket old = submit(30, {.group = camera, .latest_only = true}), plain = model.submit(40);
    Ticket older = submit(50, {.group = camera, .latest_only = true});
    Ticket newest = submit(60, {.priority = 1, .group = camera, .latest_only = true});
    Ticket dropped = submit(70, {.priority = 3}), high = submit(80, {.priority = 2});
    CHECK(ModelCore::cancel(dropped));
    CHECK(ModelCore::outcome(old) == Outcome::superseded && ModelCore::outcome(older) == Outcome::superseded);
    CHECK(Model::wait(late) == Outcome::expired);
    CHECK(eventually([&] { return late.job->quiet(); }));
    CHECK(older.job->quiet());
    model.device->release();
    CHECK(model.finish(high, 80) == Outcome::ok);
    CHECK(model.finish(plain, 40) == Outcome::ok);
    CHECK(model.finish(newest, 60) == Outcome::ok);
    CHECK(model.finish(low, 10) == Outcome::ok);
    for (Ticket* ticket : {&late, &old, &older, &dropped}) {
        CHECK(eventually([&] { return ticket->job->quiet(); }));
        model->release(*ticket);
    }
    const auto order = ran(*model.device);
    CHECK_EQ(order.size(), 12u);  // 1, 2, 40 and three jobs of three rows
    const auto at = [&](float tag) { return std::find(order.begin(), order.end(), tag) - order.begin(); };
    CHECK(at(80) < at(10) && at(60) < at(10) && at(40) < at(10));
    Ticket last = submit(90, {.priority = 9});
    CHECK(model.finish(last, 90) == Outcome::ok);
}

TEST("a job that waits with terms is closed like the others") {
    Busy busy;
    std::vector<float> rows(2 * busy.model.width, 5);
    Ticket ticket;
    CHECK(busy.model->submit_rows({reinterpret_cast<std::byte*>(rows.data())}, 2, ticket, {.priority = 9}) ==
          Admission::ok);
    std::thread closer([&] { busy.model->close(in(0s)); });
    CHECK(Model::wait(ticket) == Outcome::closed);
    CHECK(eventually([&] { return ticket.job->quiet(); }));
    busy.model->release(ticket);
    CHECK(Model::wait(busy.first) == Outcome::closed);
    busy.model.device->release();
    closer.join();
}

TEST("requests that were late make those that come after them be refused sooner") {
    // Takes five times as long as it is said to.
    Model model({.ladder = {1}, .cost_us = {1000}, .behavior = {.service_time_us = 5000}});
    const auto admitted = [&] {
        std::vector<Ticket> tickets;
        for (Ticket ticket; model->begin(1, ticket, {.deadline_ns = now_ns() + 40'000'000}) == Admission::ok;) {
            model.write(ticket, 1);
            CHECK(model->publish(ticket) == Admission::ok);
            tickets.push_back(ticket);
        }
        std::size_t in_time = 0;
        for (Ticket& ticket : tickets) in_time += model.finish(ticket, 1) == Outcome::ok;
        return std::pair(tickets.size(), in_time);
    };
    const auto first = admitted();
    CHECK(first.second < first.first);  // some expired
    for (int i = 0; i < 5; ++i) admitted();
    CHECK(admitted().first < first.first);
}
