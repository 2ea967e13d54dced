// Everything at once, for a long time: every row carries a tag of its own, and every tag has to come back, once,
// with its own result. OVENGINE_STRESS_REQUESTS says how many requests.
#include <cstdlib>

#include "fixture.hpp"
#include "queue/bounded_ring.hpp"

using namespace ovengine;
using namespace ovengine::testing;

namespace {

std::uint32_t requests() {
    const char* const text = std::getenv("OVENGINE_STRESS_REQUESTS");
    return text != nullptr ? static_cast<std::uint32_t>(std::strtoul(text, nullptr, 10)) : 20'000;
}

struct Load {
    std::uint32_t requests;
    std::uint32_t jitter_per_mille = 0;
    std::uint32_t fail_every = 0;
    std::uint32_t terms_per_mille = 100;  // requests with terms
    std::uint32_t producers = 3, waiters = 2;
    bool changes_limits = false;
    Setup setup{};
};

// What became of a tag. Relaxed counters only: the test must not order what the core has to order.
struct Tag {
    std::atomic<std::uint8_t> runs{0}, ends{0};
};

class CountingExecutor final : public Executor {
  public:
    CountingExecutor(std::unique_ptr<Executor> fake, std::vector<Tag>& tags, std::uint32_t size, std::size_t width)
        : fake_(std::move(fake)), tags_(tags), size_(size), width_(width) {}
    void infer(std::uint32_t binding, std::byte* const* inputs, std::byte* const* outputs) override {
        const auto* values = reinterpret_cast<const float*>(inputs[0]);
        for (std::uint32_t row = 0; row < size_; ++row) {
            const auto tag = static_cast<std::size_t>(values[row * width_]);
            for (std::size_t i = 1; i < width_; ++i) CHECK(values[row * width_ + i] == values[row * width_]);
            if (!is_repeated(values, row, width_)) tags_[tag].runs.fetch_add(1, std::memory_order_relaxed);
        }
        fake_->infer(binding, inputs, outputs);
    }
    std::vector<ShapedOutput> infer_shaped(const std::vector<ShapedInput>& inputs) override {
        return fake_->infer_shaped(inputs);
    }

  private:
    const std::unique_ptr<Executor> fake_;
    std::vector<Tag>& tags_;
    const std::uint32_t size_;
    const std::size_t width_;
};

struct Sent {
    Ticket ticket;
    std::uint32_t tag = 0;
    bool cancelled = false;
    Terms terms{};
    std::vector<float> bulk;
};

Terms random_terms(std::uint64_t bits, const std::vector<std::shared_ptr<Group>>& groups) {
    Terms terms;
    if (bits % 2 == 0) terms.priority = static_cast<std::uint32_t>(1 + (bits >> 4) % kPriorities);
    if ((bits >> 8) % 4 == 0) terms.key = 1 + (bits >> 12) % 3;
    if ((bits >> 16) % 3 == 0) terms.deadline_ns = now_ns() + static_cast<std::int64_t>((bits >> 24) % 4'000'000);
    if ((bits >> 48) % 3 == 0) {
        terms.group = groups[(bits >> 52) % groups.size()];
        terms.latest_only = (bits >> 56) % 2 == 0;
    }
    return terms;
}

void run(Load load) {
    constexpr std::uint32_t kMaxRows = 40;  // of one request: jobs
    const std::uint32_t capacity = load.setup.ladder.back();
    // Floats count exactly up to 2^24.
    std::vector<Tag> tags(std::min<std::size_t>(std::size_t{load.requests} * kMaxRows / 4 + 1'000'000, 1u << 24));
    load.setup.behavior.fail_every = load.fail_every;
    load.setup.log = false;
    load.setup.wrap = [&tags](std::unique_ptr<Executor> fake, std::uint32_t size, std::size_t width) {
        return std::make_unique<CountingExecutor>(std::move(fake), tags, size, width);
    };
    const bool can_fail = load.fail_every != 0;
    Model model(std::move(load.setup));
    BoundedRing<Sent*> sent(256);
    std::atomic<std::uint32_t> next_tag{1}, left{load.requests}, producing{load.producers};
    std::array<std::atomic<std::uint32_t>, 8> outcomes{};
    const std::vector groups{std::make_shared<Group>("a"), std::make_shared<Group>("b"), std::make_shared<Group>("c")};

    const auto finish = [&](Sent& request) {
        const Outcome outcome = Model::wait(request.ticket);
        outcomes[static_cast<std::size_t>(outcome)].fetch_add(1, std::memory_order_relaxed);
        CHECK(outcome == Outcome::ok || (outcome == Outcome::cancelled && request.cancelled) ||
              (outcome == Outcome::failed && can_fail) ||
              (outcome == Outcome::expired && request.terms.deadline_ns <= now_ns() + 1'000'000) ||
              (outcome == Outcome::superseded && request.terms.latest_only));
        if (outcome == Outcome::ok) {
            CHECK(!request.cancelled);
            CHECK(model.has_own_result(request.ticket, static_cast<float>(request.tag)));
            for (std::uint32_t row = 0; row < request.ticket.rows; ++row) {
                const auto runs = tags[request.tag + row].runs.load(std::memory_order_relaxed);
                CHECK(can_fail ? runs >= 1 && runs <= 2 : runs == 1);
            }
        }
        if (request.ticket.job != nullptr)
            while (!request.ticket.job->quiet()) std::this_thread::yield();
        for (std::uint32_t row = 0; row < request.ticket.rows; ++row)
            CHECK_EQ(tags[request.tag + row].ends.fetch_add(1, std::memory_order_relaxed), 0);
        model->release(request.ticket);
    };

    const auto produce = [&] {
        while (left.load(std::memory_order_relaxed) > 0) {
            const std::uint64_t bits = random_bits();
            const bool is_job = bits % 64 == 0, is_lease = bits % 16 == 1, runs_itself = bits % 16 == 2;
            const bool cancels = (bits >> 8) % 8 == 0;
            const auto rows = static_cast<std::uint32_t>(1 + (bits >> 16) % (is_job                  ? kMaxRows
                                                                             : (bits >> 40) % 4 != 0 ? 1
                                                                                                     : capacity));
            const std::uint32_t tag = next_tag.fetch_add(rows, std::memory_order_relaxed);
            if (tag + rows > tags.size()) break;
            auto request = std::make_unique<Sent>();
            request->tag = tag;
            Ticket& ticket = request->ticket;
            const auto first = static_cast<float>(tag);
            Admission admission = Admission::full;
            Terms& terms = request->terms;
            if (!is_lease && (bits >> 30) % 1000 < load.terms_per_mille) terms = random_terms(random_bits(), groups);
            if (is_job) {
                request->bulk.resize(rows * model.width);
                for (std::size_t i = 0; i < request->bulk.size(); ++i)
                    request->bulk[i] = first + static_cast<float>(i / model.width);
                while (admission == Admission::full)
                    admission =
                        model->submit_rows({reinterpret_cast<std::byte*>(request->bulk.data())}, rows, ticket, terms);
                if (admission == Admission::unmeetable) continue;
            } else if (is_lease) {
                while (admission == Admission::full) admission = model->begin_lease(rows, ticket);
                model.write(ticket, first);
                if ((bits >> 24) % 16 == 0)
                    std::this_thread::sleep_for(std::chrono::microseconds((bits >> 32) % 30'000));
                if ((bits >> 28) % 4 == 0 || !model->publish_lease(ticket, admission)) {
                    model->abandon_lease(ticket);
                    continue;
                }
                if (admission == Admission::full) continue;
            } else {
                const int lane = runs_itself ? model->try_borrow_lane() : -1;
                while ((admission = model->begin(rows, ticket, terms)) == Admission::full)
                    if (lane < 0) model->wait_for_room(in(1s), terms.group.get());
                if (admission == Admission::unmeetable) {
                    if (lane >= 0) model->return_lane(lane);
                    continue;
                }
                model.write(ticket, first);
                if ((bits >> 24) % 32 == 0) {
                    model->abandon(ticket);
                    if (lane >= 0) model->return_lane(lane);
                    continue;
                }
                admission = model->publish(ticket, lane < 0);
                if (lane >= 0) model->run_borrowed(lane);
                if (admission == Admission::full) continue;
            }
            CHECK(admission == Admission::ok);
            left.fetch_sub(left.load(std::memory_order_relaxed) > 0 ? 1 : 0, std::memory_order_relaxed);
            if (cancels) {
                if ((bits >> 48) % 2 == 0) std::this_thread::yield();
                request->cancelled = ModelCore::cancel(ticket);
            }
            if ((bits >> 52) % 16 == 0) {
                // Given back without a look.
                if (ticket.job != nullptr) {
                    ModelCore::cancel(ticket);
                    while (!ticket.job->quiet()) std::this_thread::yield();
                }
                model->release(ticket);
                continue;
            }
            for (Sent* waiting = request.release(); !sent.try_push(waiting);) std::this_thread::yield();
        }
        producing.fetch_sub(1);
    };
    const auto wait = [&] {
        for (Sent* request = nullptr;;) {
            const bool last = producing.load() == 0;
            if (sent.try_pop(request)) {
                finish(*request);
                delete request;
            } else if (last) {
                return;
            } else {
                std::this_thread::yield();
            }
        }
    };

    const auto change_limits = [&] {
        while (producing.load() != 0) {
            const std::uint64_t bits = random_bits();
            model->set_max_batch_rows(static_cast<std::uint32_t>(1 + bits % capacity));
            model->set_max_queue_delay_ns((bits >> 16) % 2 == 0 ? 0
                                                                : static_cast<std::int64_t>((bits >> 20) % 400'000));
            model->set_max_queue_size(static_cast<std::uint32_t>((bits >> 40) % 8));
            std::this_thread::sleep_for(std::chrono::microseconds((bits >> 48) % 200));
        }
    };

    const auto start = platform::Clock::now();
    {
        const Jitter jitter(load.jitter_per_mille);
        std::vector<std::thread> threads;
        for (std::uint32_t i = 0; i < load.producers; ++i) threads.emplace_back(produce);
        for (std::uint32_t i = 0; i < load.waiters; ++i) threads.emplace_back(wait);
        if (load.changes_limits) threads.emplace_back(change_limits);
        for (auto& thread : threads) thread.join();
    }
    const std::chrono::duration<double> took = platform::Clock::now() - start;
    CHECK(model->close(in(20s)));
    CHECK_EQ(outcomes[static_cast<std::size_t>(Outcome::closed)].load(), 0u);
    for (const auto& group : groups) CHECK_EQ(group->approx_waiting() + group->approx_rows(), 0u);
    // No row ran twice, whatever became of its request.
    for (const auto& tag : tags) CHECK(tag.runs.load(std::memory_order_relaxed) <= (can_fail ? 2 : 1));
    std::printf("[%u requests in %.1f s: %u ok, %u cancelled, %u failed, %u expired, %u superseded] ", load.requests,
                took.count(), outcomes[1].load(), outcomes[2].load(), outcomes[3].load(), outcomes[6].load(),
                outcomes[7].load());
}

}  // namespace

TEST("every row comes back once with its own result") {
    run({.requests = requests(), .setup = {.ladder = {1, 4, 16}, .lanes = 2, .width = 3, .out_width = 2}});
}

TEST("the same while threads are held up at every racy place") {
    run({.requests = requests() / 10,
         .jitter_per_mille = 50,
         .setup = {.ladder = {1, 2, 8}, .lanes = 2, .width = 3, .out_width = 5}});
}

TEST("the same with a queue of three and one row to a batch") {
    run({.requests = requests() / 10,
         .jitter_per_mille = 20,
         .setup = {.ladder = {1}, .lanes = 3, .width = 2, .out_width = 2, .queue = {.max_queue_size = 3}}});
}

TEST("the same while batches are held back") {
    run({.requests = requests() / 20,
         .jitter_per_mille = 20,
         .setup = {
             .ladder = {1, 8}, .lanes = 2, .width = 2, .out_width = 2, .queue = {.max_queue_delay_ns = 200'000}}});
}

TEST("the same while somebody changes all limits") {
    run({.requests = requests() / 10,
         .jitter_per_mille = 20,
         .changes_limits = true,
         .setup = {.ladder = {1, 4, 16}, .lanes = 2, .width = 3, .out_width = 2}});
}

TEST("the same on a device that fails now and then") {
    run({.requests = requests() / 10,
         .jitter_per_mille = 20,
         .fail_every = 7,
         .setup = {.ladder = {1, 4}, .lanes = 2, .width = 3, .out_width = 2}});
}

TEST("the same with rows that are bound where they lie") {
    run({.requests = requests() / 20,
         .jitter_per_mille = 20,
         .setup = {.ladder = {1, 4}, .lanes = 2, .width = 5000, .out_width = 3000}});
}

TEST("the same where every request has terms of its own, on a device that takes its time") {
    run({.requests = requests() / 20,
         .jitter_per_mille = 20,
         .terms_per_mille = 900,
         .setup = {.ladder = {1, 4},
                   .cost_us = {20, 30},
                   .lanes = 2,
                   .width = 3,
                   .out_width = 2,
                   .behavior = {.service_time_us = 20},
                   .queue = {.max_queue_size = 200}}});
}
