// What the binding would otherwise have to spell in Cython: construction, measuring, percentiles.
#pragma once

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "batch/mailbox.hpp"
#include "batch/slab.hpp"
#include "core/model_core.hpp"
#include "device/fake_executor.hpp"

namespace ovengine::bridge {

inline platform::Clock::time_point after(double seconds) {
    return platform::Clock::now() +
           std::chrono::duration_cast<platform::Clock::duration>(std::chrono::duration<double>(seconds));
}

inline platform::Deadline deadline_after(double seconds) {
    // Beyond a century it is forever, and would not fit the clock.
    if (!(seconds < 3e9)) return std::nullopt;
    return after(std::max(0.0, seconds));
}

// The same for Terms::deadline_ns.
inline std::int64_t deadline_ns_after(double seconds) {
    const platform::Deadline deadline = deadline_after(seconds);
    return deadline ? std::chrono::nanoseconds(deadline->time_since_epoch()).count() : Terms::kNoDeadline;
}
inline bool is_over(platform::Deadline deadline) { return deadline && platform::Clock::now() >= *deadline; }
inline platform::Deadline sooner(platform::Deadline deadline, std::int64_t deadline_ns) {
    if (deadline_ns == Terms::kNoDeadline) return deadline;
    const platform::Clock::time_point other{std::chrono::nanoseconds(deadline_ns)};
    return deadline ? std::min(*deadline, other) : other;
}

inline std::shared_ptr<CompiledModel> make_fake(const std::vector<Port>& inputs, const std::vector<Port>& outputs,
                                                FakeBehavior behavior, bool has_poison, float poison) {
    if (has_poison) behavior.poison = poison;
    return std::make_shared<FakeCompiled>(inputs, outputs, behavior);
}

inline std::size_t port_bytes(const Port& port) {
    std::size_t count = 1;
    for (const auto length : port.shape) count *= static_cast<std::size_t>(std::max<std::int64_t>(length, 0));
    return packed_bytes(count, port.bits);
}

inline void check_fits(const std::vector<Port>& ports, const std::vector<std::size_t>& row_bytes, std::size_t rows,
                       const std::string& kind) {
    if (ports.size() != row_bytes.size())
        throw std::invalid_argument("a compiled model has " + std::to_string(ports.size()) + " " + kind +
                                    "s, and the model has " + std::to_string(row_bytes.size()));
    for (std::size_t i = 0; i < ports.size(); ++i)
        if (port_bytes(ports[i]) > row_bytes[i] * rows)
            throw std::invalid_argument(kind + " " + std::to_string(i) + " of a compiled model takes " +
                                        std::to_string(port_bytes(ports[i])) + " bytes, and " + std::to_string(rows) +
                                        " rows of the model have " + std::to_string(row_bytes[i] * rows));
}

// Null, with errno, where there is no descriptor left for it.
inline Mailbox* try_make_mailbox() noexcept {
    try {
        return new Mailbox;
    } catch (const std::system_error& error) {
        errno = error.code().value();
    } catch (const std::bad_alloc&) {
        errno = ENOMEM;
    }
    return nullptr;
}

// Seconds of one infer(): after one warm-up, at least `min_runs` and as many as fit; the least mean of a stretch of
// them, because whatever else the machine does can only add to it. One that takes longer than `max_one` is an error.
inline double measure(const CompiledModel& model, const std::vector<ShapedInput>& given, int min_runs,
                      double max_seconds, double max_one) {
    std::vector<std::size_t> in, out;
    for (const auto& port : model.inputs()) in.push_back(port_bytes(port));
    for (const auto& port : model.outputs()) out.push_back(port_bytes(port));
    const auto first = platform::Clock::now();
    model.try_infer(given, max_one);
    if (platform::Clock::now() - first > std::chrono::seconds(1)) min_runs = 1;  // what takes long does not vary much
    const Slab inputs(in, 1, Slab::unset), outputs(out, 1);
    for (std::size_t port = 0; port < in.size(); ++port) std::memcpy(inputs.port(port), given[port].data, in[port]);
    const auto executor = model.make_executor();
    if (min_runs > 1) executor->infer(0, inputs.ports(), outputs.ports());
    const auto seconds = [](platform::Clock::duration time) { return std::chrono::duration<double>(time).count(); };
    // Of runs that are as long together, whatever the batch size: short ones would slip more often between the moments
    // at which something else has the CPU, and look cheaper than they are.
    constexpr double kStretchSeconds = 5e-3;
    double least = std::numeric_limits<double>::infinity();
    const auto begin = platform::Clock::now();
    auto last = begin;
    for (int runs = 0, in_stretch = 1; runs < min_runs || seconds(last - begin) < max_seconds; ++in_stretch) {
        executor->infer(0, inputs.ports(), outputs.ports());
        const auto now = platform::Clock::now();
        if (seconds(now - last) < kStretchSeconds) continue;
        least = std::min(least, seconds(now - last) / in_stretch);
        runs += in_stretch;
        in_stretch = 0;
        last = now;
    }
    return least;
}

inline bool has_state(const CompiledModel& model) { return !model.make_stateful()->states().empty(); }

struct KnownPolicies {
    std::mutex mutex;
    std::map<const ovengine_policy*, std::weak_ptr<const ovengine_policy>> policies;
};
// Never destroyed: models may outlive the interpreter.
inline KnownPolicies*& known_policies_pointer() {
    static KnownPolicies* known = new KnownPolicies;
    return known;
}
inline KnownPolicies& known_policies() { return *known_policies_pointer(); }
// In the child of a fork: a thread of the parent may have held the lock.
inline void forget_policies() { known_policies_pointer() = new KnownPolicies; }

// One for all models that use the policy at a time: the last one that is gone destroys it. Called with the GIL.
inline std::shared_ptr<const ovengine_policy> shared_policy(const ovengine_policy* policy,
                                                            std::function<void()> release) {
    KnownPolicies& known = known_policies();
    const std::lock_guard lock(known.mutex);
    auto& entry = known.policies[policy];
    if (auto shared = entry.lock()) {
        release();
        return shared;
    }
    const std::shared_ptr<const ovengine_policy> shared(policy, [release, &known](const ovengine_policy* last) {
        if (last->destroy != nullptr) last->destroy(last->context);
        {
            const std::lock_guard lock(known.mutex);  // not while release() waits for the GIL
            if (const auto found = known.policies.find(last); found != known.policies.end() && found->second.expired())
                known.policies.erase(found);
        }
        release();
    });
    entry = shared;
    return shared;
}

// Collects what a ModelCore is made of, one plain field at a time.
class Builder {
  public:
    std::vector<std::size_t> input_row_bytes, output_row_bytes;
    std::vector<std::uint32_t> sizes;
    std::vector<double> cost_us;
    std::uint32_t max_queue_size = 0;
    std::int64_t max_queue_delay_ns = 0;

    std::shared_ptr<CpuBudget> budget;

    // `ladder`: null where install() is to keep the executor that the lane has for this size. `cpus`: that one
    // inference keeps busy.
    // Throws std::invalid_argument for a model that would use more memory than a batch has.
    void add_lane(std::uint32_t device, const std::vector<std::shared_ptr<CompiledModel>>& ladder, std::uint32_t cpus) {
        ModelCore::LaneConfig lane{device, {}, cpus, ladder.front()};
        for (std::size_t size = 0; size < ladder.size(); ++size) {
            const auto& compiled = ladder[size];
            if (compiled != nullptr && !input_row_bytes.empty()) {
                check_fits(compiled->inputs(), input_row_bytes, sizes[size], "input");
                check_fits(compiled->outputs(), output_row_bytes, sizes[size], "output");
            }
            lane.executors.push_back(compiled == nullptr ? nullptr : compiled->make_executor());
        }
        lanes_.push_back(std::move(lane));
    }
    void set_policy(const std::string& kind) { kind_ = kind; }
    // `release(owner)` is called when nobody needs this owner of the policy any more.
    void set_native_policy(const ovengine_policy* policy, void (*release)(void*), void* owner) {
        native_ = shared_policy(policy, [release, owner] { release(owner); });
    }

    std::shared_ptr<ModelCore> build() {
        for (const auto& lane : lanes_)
            if (std::find(lane.executors.begin(), lane.executors.end(), nullptr) != lane.executors.end())
                throw std::invalid_argument("a lane has no compiled model for one of the batch sizes");
        ModelCore::Options options;
        options.budget = budget;
        options.queue = {max_queue_size, max_queue_delay_ns};
        auto core = std::make_shared<ModelCore>(RowLayout{input_row_bytes, output_row_bytes}, CostTable(sizes, cost_us),
                                                std::move(lanes_), options);
        if (native_)
            core->set_policy(std::make_unique<NativePolicy>(std::move(native_), core->lane_facts()));
        else if (kind_ == "round_robin")
            core->set_policy(std::make_unique<RoundRobinPolicy>());
        return core;
    }

    // Instead of build(): the sizes and lanes become those of a core that runs.
    void install(ModelCore& core) {
        std::vector<std::vector<std::unique_ptr<Executor>>> lanes;
        for (auto& lane : lanes_) lanes.push_back(std::move(lane.executors));
        core.install(CostTable(sizes, cost_us), std::move(lanes));
    }

  private:
    std::vector<ModelCore::LaneConfig> lanes_;
    std::string kind_ = "priority";
    std::shared_ptr<const ovengine_policy> native_;
};

struct Percentiles {
    double p50_us = 0, p90_us = 0, p99_us = 0, max_us = 0, mean_us = 0;
    std::uint64_t count = 0;
};

using LaneTotals = std::vector<std::shared_ptr<LaneStats>>;

inline Percentiles percentiles(const LaneTotals& lanes, Histogram LaneStats::* which) {
    std::array<std::uint64_t, Histogram::kBuckets> totals{};
    Percentiles result;
    double sum = 0;
    for (const auto& lane : lanes) {
        const Histogram& histogram = (*lane).*which;
        histogram.collect(totals);
        sum += static_cast<double>(histogram.sum());
        result.max_us = std::max(result.max_us, static_cast<double>(histogram.max()) / 1e3);
    }
    result.count = std::accumulate(totals.begin(), totals.end(), std::uint64_t{0});
    if (result.count == 0) return result;
    result.mean_us = sum / static_cast<double>(result.count) / 1e3;
    const auto at = [&](double fraction) {
        const auto rank = static_cast<std::uint64_t>(fraction * static_cast<double>(result.count - 1));
        std::uint64_t seen = 0;
        for (std::size_t i = 0; i < totals.size(); ++i)
            if ((seen += totals[i]) > rank) return std::min(Histogram::value(i) / 1e3, result.max_us);
        return result.max_us;
    };
    result.p50_us = at(0.50), result.p90_us = at(0.90), result.p99_us = at(0.99);
    return result;
}

inline Percentiles queue_percentiles(const LaneTotals& lanes) { return percentiles(lanes, &LaneStats::queue_ns); }
inline Percentiles inference_percentiles(const LaneTotals& lanes) {
    return percentiles(lanes, &LaneStats::inference_ns);
}

}  // namespace ovengine::bridge
