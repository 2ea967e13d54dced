// Policy: which idle lane takes a batch. The built-in kinds, and plugins through ovengine_policy.h.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "diagnostics/stats.hpp"
#include "lanes/idle_lanes.hpp"
#include "ovengine_policy.h"
#include "requests/group.hpp"

namespace ovengine {

// What the policy may know of a lane.
struct LaneFacts {
    std::uint32_t device;
    const LaneStats* stats;
};

// Thread-safe, never blocks. `idle` has at least one bit set; the answer is always one of them.
class Policy {
  public:
    virtual ~Policy() = default;
    virtual std::uint32_t select(std::uint64_t idle, std::uint32_t pending_rows) noexcept = 0;
    // The group's share beside the others'; positive. Under the dispatcher's lock.
    virtual double weight(const Group&) noexcept { return 1; }
    // Answers that named no idle lane, or were no weight.
    virtual std::uint64_t faults() const noexcept { return 0; }

  protected:
    static std::uint32_t first(std::uint64_t idle) noexcept {
        return static_cast<std::uint32_t>(std::countr_zero(idle));
    }
};

// The first idle lane in the plan's order: preferred devices first, and the same lane as long as it keeps up.
class PriorityPolicy final : public Policy {
  public:
    std::uint32_t select(std::uint64_t idle, std::uint32_t) noexcept override { return first(idle); }
};

// The next idle lane after the one chosen last.
class RoundRobinPolicy final : public Policy {
  public:
    std::uint32_t select(std::uint64_t idle, std::uint32_t) noexcept override {
        // relaxed: two threads that choose at once may choose alike; only one will get the lane.
        const std::uint32_t start = (last_.load(std::memory_order_relaxed) + 1) % IdleLanes::kMaxLanes;
        const std::uint32_t lane = (first(std::rotr(idle, static_cast<int>(start))) + start) % IdleLanes::kMaxLanes;
        last_.store(lane, std::memory_order_relaxed);
        return lane;
    }

  private:
    std::atomic<std::uint32_t> last_{IdleLanes::kMaxLanes - 1};
};

// A plugin's. `policy` stays valid as long as it is held; its deleter calls `destroy`.
class NativePolicy final : public Policy {
  public:
    NativePolicy(std::shared_ptr<const ovengine_policy> policy, std::vector<LaneFacts> lanes)
        : policy_(std::move(policy)), lanes_(std::move(lanes)) {}

    std::uint32_t select(std::uint64_t idle, std::uint32_t pending_rows) noexcept override {
        std::array<ovengine_lane_view, IdleLanes::kMaxLanes> views;
        for (std::size_t i = 0; i < lanes_.size(); ++i)
            views[i] = {lanes_[i].device, static_cast<std::uint32_t>(idle >> i & 1), lanes_[i].stats->batches.load(),
                        lanes_[i].stats->rows.load()};
        const ovengine_dispatch dispatch{sizeof dispatch, static_cast<std::uint32_t>(lanes_.size()), views.data(),
                                         pending_rows, 1};
        const std::int32_t lane = policy_->select_lane(policy_->context, &dispatch);
        if (lane == OVENGINE_ANY_LANE) return first(idle);
        if (lane < 0 || static_cast<std::size_t>(lane) >= lanes_.size() || (idle >> lane & 1) == 0) {
            faults_.add(1);
            return first(idle);
        }
        return static_cast<std::uint32_t>(lane);
    }
    double weight(const Group& group) noexcept override {
        if (policy_->struct_size <= OVENGINE_POLICY_LEAST_SIZE || policy_->group_weight == nullptr) return 1;
        const ovengine_group_view view{sizeof view, group.approx_waiting(), group.name().c_str(), group.name().size()};
        const double weight = policy_->group_weight(policy_->context, &view);
        if (std::isfinite(weight) && weight > 0) return weight;
        faults_.add(1);
        return 1;
    }
    std::uint64_t faults() const noexcept override { return faults_.load(); }

  private:
    const std::shared_ptr<const ovengine_policy> policy_;
    const std::vector<LaneFacts> lanes_;
    SharedCounter faults_;
};

}  // namespace ovengine
