// Memory runs out: whatever allocation of the core fails, each request ends, nothing leaks, and the next one is served.
#include "allocations.hpp"

#include <malloc.h>

#include <cstdlib>
#include <functional>
#include <new>

#include "fixture.hpp"

// --- operator new of this binary ---

namespace {
void* counted(void* memory) {
    if (memory == nullptr) throw std::bad_alloc();
    ovengine::testing::allocations.bytes.fetch_add(static_cast<std::int64_t>(malloc_usable_size(memory)));
    return memory;
}
void give_back(void* memory) noexcept {
    ovengine::testing::allocations.bytes.fetch_sub(static_cast<std::int64_t>(malloc_usable_size(memory)));
    std::free(memory);
}
}  // namespace

[[gnu::noinline]] void* operator new(std::size_t size) {
    return counted(ovengine::testing::allocation_fails() ? nullptr : std::malloc(size == 0 ? 1 : size));
}
[[gnu::noinline]] void* operator new(std::size_t size, std::align_val_t alignment) {
    const auto aligned = static_cast<std::size_t>(alignment);
    const std::size_t whole = (size + aligned) / aligned * aligned;
    return counted(ovengine::testing::allocation_fails() ? nullptr : std::aligned_alloc(aligned, whole));
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { give_back(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { give_back(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t) noexcept { give_back(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { give_back(memory); }

using namespace ovengine;
using namespace ovengine::testing;

namespace {

// A client that takes every answer that a request may have when memory is short.
class Client {
  public:
    explicit Client(Model& model) : model_(model) {}

    // `call` on a thread that has memory or not; a request that it hands over is this client's.
    void attempt(float tag, const std::function<Admission(Ticket&)>& call) {
        Ticket ticket;
        try {
            const Counted counted;
            if (call(ticket) != Admission::ok) return;
        } catch (const std::bad_alloc&) {
            return;  // nothing was taken
        }
        tickets_.emplace_back(ticket, tag);
    }
    void submit(float tag, std::uint32_t rows = 1, const Terms& terms = {}) {
        attempt(tag,
                [&](Ticket& ticket) { return write_and_publish(model_->begin(rows, ticket, terms), tag, ticket); });
    }
    void submit_rows(const std::vector<float>& rows, const Terms& terms = {}) {
        attempt(0, [&](Ticket& ticket) {
            auto* const memory = reinterpret_cast<std::byte*>(const_cast<float*>(rows.data()));
            return model_->submit_rows({memory}, static_cast<std::uint32_t>(rows.size() / model_.width), ticket, terms);
        });
    }

    // Each request ends, with its own result or an error.
    void finish() {
        for (auto& [ticket, tag] : tickets_) {
            const Outcome outcome = Model::wait(ticket);
            CHECK(outcome != Outcome::pending && outcome != Outcome::closed);
            if (outcome == Outcome::ok && ticket.job == nullptr) CHECK(model_.has_own_result(ticket, tag));
            if (outcome == Outcome::failed) CHECK(!ModelCore::completion(ticket)->failure(ticket.row).empty());
            if (ticket.job != nullptr) CHECK(eventually([&job = *ticket.job] { return job.quiet(); }));
            model_->release(ticket);
        }
        tickets_.clear();
    }

  private:
    Admission write_and_publish(Admission admission, float tag, Ticket& ticket) {
        if (admission != Admission::ok) return admission;
        try {
            model_.write(ticket, tag);
        } catch (const std::bad_alloc&) {
            model_->abandon(ticket);
            throw;
        }
        return model_->publish(ticket);
    }

    Model& model_;
    std::vector<std::pair<Ticket, float>> tickets_;
};

#if defined(__SANITIZE_THREAD__)
constexpr std::int64_t kStep = 7;  // ten times slower
#else
constexpr std::int64_t kStep = 1;
#endif

// Runs the scenario as often as it has allocations: each time another one fails, or that one and all that follow.
void with_each_failing(const std::function<Setup()>& setup, const std::function<void(Model&, Client&)>& scenario) {
    is_exempt = true;
    for (const bool all_that_follow : {false, true})
        // What threads allocate, and when, differs a little from run to run.
        for (std::int64_t n = 1, without = 0; without < 3 && CHECK(n < 5000); n += kStep) {
            Model model(setup());
            Client client(model);
            {
                const FailingAllocations failing(n, all_that_follow);
                scenario(model, client);
                model.device->release();
                client.finish();  // while memory is short
                // Nor does a lane still act on a shortage when it is over.
                CHECK(eventually([&] { return model.idle_lanes() == model->lane_count(); }));
                without = failing.happened() ? 0 : without + 1;
            }
            Ticket after = model.submit(7);
            CHECK(model.finish(after, 7) == Outcome::ok);
        }
}

}  // namespace

TEST("requests while memory is short") {
    with_each_failing([] { return Setup{.lanes = 2}; },
                      [](Model& model, Client& client) {
                          model.device->hold();
                          for (int i = 0; i < 24; ++i) client.submit(static_cast<float>(10 * i), 1 + i % 3);
                      });
}

TEST("requests of more than a row's memory, that are copied in and bound in place") {
    with_each_failing([] { return Setup{.width = 16 << 10, .out_width = 16 << 10}; },
                      [](Model&, Client& client) {
                          for (int i = 0; i < 6; ++i) client.submit(static_cast<float>(10 * i), i % 2 == 0 ? 4 : 1);
                      });
}

TEST("a blocking caller's own run while memory is short") {
    with_each_failing([] { return Setup{}; },
                      [](Model& model, Client& client) {
                          for (int i = 0; i < 4; ++i) {
                              const int lane = model->try_borrow_lane();
                              client.submit(static_cast<float>(i));
                              const Counted counted;
                              if (lane >= 0) model->run_borrowed(lane);
                          }
                      });
}

TEST("requests with terms while memory is short") {
    with_each_failing([] { return Setup{.lanes = 2}; },
                      [](Model& model, Client& client) {
                          const auto group = model->make_group("one"), other = model->make_group("other");
                          model.device->hold();
                          for (std::uint32_t i = 0; i < 40; ++i) {
                              Terms terms;
                              if (i % 3 == 0) terms.priority = 1 + i % kPriorities;
                              if (i % 4 == 1) terms.deadline_ns = now_ns() + 60'000'000'000;
                              if (i % 5 == 1) terms.group = i % 2 == 0 ? group : other;
                              if (i % 5 == 1 && i % 3 == 0) terms.latest_only = true;
                              if (i % 7 == 3) terms.key = 1 + i % 2;
                              client.submit(static_cast<float>(10 * i), 1 + i % 2, terms);
                          }
                      });
}

TEST("the latest of a group while memory is short") {
    with_each_failing([] { return Setup{}; },
                      [](Model& model, Client& client) {
                          Terms terms{.group = model->make_group("camera"), .latest_only = true};
                          model.device->hold();
                          client.submit(1);
                          for (std::uint32_t i = 0; i < 12; ++i) {
                              terms.priority = 4 + i % 3;
                              client.submit(static_cast<float>(10 * i), 1, terms);
                              if (i == 6) client.submit(1000, 4, {.priority = 9});
                          }
                      });
}

TEST("jobs while memory is short") {
    const std::vector<float> rows(4 * 30, 1.0f);
    with_each_failing([] { return Setup{.lanes = 2}; },
                      [&](Model& model, Client& client) {
                          model.device->hold();
                          client.submit_rows(rows);
                          client.submit(5);
                          for (const std::uint32_t priority : {3u, 9u})
                              client.submit_rows(rows, {.priority = priority});
                          client.attempt(0, [&](Ticket& ticket) {
                              const auto* const memory = reinterpret_cast<const std::byte*>(rows.data());
                              return model->submit_shaped({{memory, {5, 4}}}, ticket);
                          });
                          client.submit(6, 2);
                      });
}

TEST("sessions while memory is short") {
    const float value = 1;
    const ShapedInput input{reinterpret_cast<const std::byte*>(&value), {1}};
    with_each_failing(
        [] {
            Setup setup{.ladder = {1}, .lanes = 2};
            setup.sessions_from = [](std::shared_ptr<Device>, std::size_t) {
                return std::make_shared<FakeCompiled>(std::vector{Port{{"x"}, {1, 4}, true, "f4"}},
                                                      std::vector{Port{{"y"}, {1, 4}, true, "f4"}}, FakeBehavior{});
            };
            return setup;
        },
        [&](Model& model, Client& client) {
            std::vector<std::shared_ptr<Session>> sessions;
            for (int i = 0; i < 4; ++i) {
                std::shared_ptr<Session> session;
                try {
                    const Counted counted;
                    session = model->open_session();
                } catch (const std::bad_alloc&) {
                    continue;
                }
                sessions.push_back(std::move(session));
            }
            for (int i = 0; i < 12; ++i)
                for (const auto& session : sessions)
                    client.attempt(0,
                                   [&](Ticket& ticket) { return model->submit_in_session(session, {input}, ticket); });
            client.finish();
            sessions.clear();
            CHECK(eventually([&] { return model->sessions().count() == 0; }));  // a lane may still let go
            const auto next = model->open_session();
            CHECK(next != nullptr);
        });
}

TEST("leases that come too late while memory is short") {
    with_each_failing([] { return Setup{.ladder = {1, 8}}; },
                      [](Model& model, Client& client) {
                          for (int round = 0; round < 2; ++round) {
                              client.submit(1, 2);
                              Ticket lease;
                              try {
                                  const Counted counted;
                                  if (model->begin_lease(1, lease) != Admission::ok) continue;
                                  model.write(lease, 2);
                              } catch (const std::bad_alloc&) {
                                  model->abandon_lease(lease);
                                  continue;
                              }
                              client.submit(5, 2);
                              client.finish();  // which takes until the lease is lost
                              Admission admission{};
                              if (!model->publish_lease(lease, admission))
                                  model->abandon_lease(lease);
                              else
                                  CHECK(Model::wait(lease) != Outcome::pending), model->release(lease);
                          }
                      });
}

TEST("a ladder grows, or stays, while memory is short") {
    with_each_failing([] { return Setup{.ladder = {1}, .lanes = 2}; },
                      [](Model& model, Client& client) {
                          for (int i = 0; i < 4; ++i) client.submit(static_cast<float>(i));
                          try {
                              const Counted counted;
                              model.install({1, 4, 16});
                          } catch (const std::bad_alloc&) {
                          }
                          for (int i = 0; i < 4; ++i)
                              client.submit(static_cast<float>(i), std::min(3u, model->capacity()));
                          try {
                              const Counted counted;
                              model->refine();
                          } catch (const std::bad_alloc&) {
                          }
                      });
}

TEST("a model that there is no memory for leaves nothing behind") {
    is_exempt = true;
    for (std::int64_t n = 1; CHECK(n < 5000); ++n) {
        const FailingAllocations failing(n, false);
        std::shared_ptr<ModelCore> core;
        try {
            const Counted counted;
            std::vector<ModelCore::LaneConfig> lanes(2);
            const Port x{{"x"}, {1, 4}, true, "f4"}, y{{"y"}, {1, 4}, true, "f4"};
            for (auto& lane : lanes)
                lane.executors.push_back(
                    std::make_shared<FakeCompiled>(std::vector{x}, std::vector{y}, FakeBehavior{})->make_executor());
            core = std::make_shared<ModelCore>(RowLayout{{16}, {16}}, CostTable({1}, {1}), std::move(lanes),
                                               ModelCore::Options{});
            core->start();
        } catch (const std::bad_alloc&) {
        }
        if (core != nullptr) core->close(in(0s));
        const std::weak_ptr<ModelCore> gone = core;
        core.reset();
        CHECK(eventually([&] { return gone.expired(); }));
        if (!failing.happened()) break;
    }
}

TEST("what results have taken is given back when they go") {
    is_exempt = true;
    constexpr std::size_t kFloats = 64 << 10;  // 1 MiB a batch of four
    Model model({.out_width = kFloats});
    std::vector<Ticket> kept;
    for (int i = 0; i < 200; ++i) {
        kept.push_back(model.submit(static_cast<float>(i)));
        CHECK(Model::wait(kept.back()) == Outcome::ok);
    }
    const std::int64_t before = allocations.bytes.load();
    for (int i = 0; i < 200; ++i)
        CHECK(model.finish(kept[static_cast<std::size_t>(i)], static_cast<float>(i)) == Outcome::ok);
    Ticket after = model.submit(7);
    CHECK(model.finish(after, 7) == Outcome::ok);
    CHECK(before - allocations.bytes.load() > std::int64_t{100} << 20);  // of 200 MiB, 64 are kept
}

TEST("requests that wait for a batch that there is no memory for are told, and those after them are served") {
    is_exempt = true;
    Model model({.width = 4, .out_width = 4 << 10, .log = false});
    std::vector<Ticket> kept, refused;
    {
        const FailingAllocations failing(1, true);
        // The open batch has its memory; the one behind it has not.
        kept.push_back(model.submit(1));
        CHECK(Model::wait(kept[0]) == Outcome::ok);
        for (int i = 0; i < 3; ++i) {
            refused.push_back(model.submit(2));
            CHECK(Model::wait(refused.back()) == Outcome::no_memory);
            CHECK(!ModelCore::cancel(refused.back()));
        }
        CHECK_EQ(model->refused_requests(), 3u);
        Notice notice;
        CHECK(!ModelCore::attach(refused[0], &notice));
        CHECK(eventually([&] { return model.idle_lanes() == 1; }));
    }
    Ticket after = model.submit(5);
    CHECK(model.finish(after, 5) == Outcome::ok);
    CHECK(model.finish(kept[0], 1) == Outcome::ok);
    for (auto& ticket : refused) model->release(ticket);
}
