// Rungs: what one lane has of the ladder: an executor for each size, and the output memory that stays bound to it.
#pragma once

#include <cstddef>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "batch/slab.hpp"
#include "device/executor.hpp"
#include "ladder/ladder.hpp"

namespace ovengine {

// Owned by the lane's owner of the moment.
class Rungs {
  public:
    // `executors[i]` runs batches of `ladder.costs().sizes()[i]` rows; null for what succeed() will bring. Small
    // outputs are copied out of the lane's own memory, which stays bound; to bind a batch's would cost more.
    Rungs(std::shared_ptr<const Ladder> ladder, std::vector<std::unique_ptr<Executor>> executors,
          const std::vector<std::size_t>& output_row_bytes)
        : ladder_(std::move(ladder)) {
        for (auto& executor : executors) rungs_.push_back({std::move(executor), {}});
        const auto& sizes = ladder_->costs().sizes();
        rungs_.resize(sizes.size());
        const std::size_t row_bytes = std::accumulate(output_row_bytes.begin(), output_row_bytes.end(), std::size_t{0});
        copies_out_ = row_bytes * ladder_->capacity() <= kCopyOutBytes;
        for (std::size_t i = 0; i < rungs_.size() && copies_out_; ++i)
            rungs_[i].outputs.emplace(output_row_bytes, sizes[i]);
    }

    // Takes over from `before` what it has of the same sizes.
    void succeed(Rungs& before) noexcept {
        const auto& sizes = ladder_->costs().sizes();
        const auto& old = before.ladder_->costs().sizes();
        for (std::size_t i = 0; i < sizes.size(); ++i)
            for (std::size_t j = 0; j < old.size() && rungs_[i].executor == nullptr; ++j)
                if (old[j] == sizes[i]) {
                    rungs_[i].executor = std::move(before.rungs_[j].executor);
                    if (copies_out_ && before.copies_out_) rungs_[i].outputs = std::move(before.rungs_[j].outputs);
                }
    }

    const Ladder& ladder() const noexcept { return *ladder_; }
    const CostTable& costs() const noexcept { return ladder_->costs(); }
    Executor& executor(std::size_t step) const noexcept { return *rungs_[step].executor; }
    bool copies_out() const noexcept { return copies_out_; }
    // When copying out.
    const Slab& outputs(std::size_t step) const noexcept { return *rungs_[step].outputs; }

  private:
    static constexpr std::size_t kCopyOutBytes = std::size_t{32} << 10;

    struct Rung {
        std::unique_ptr<Executor> executor;
        std::optional<Slab> outputs;
    };

    std::shared_ptr<const Ladder> ladder_;
    std::vector<Rung> rungs_;
    bool copies_out_ = false;
};

}  // namespace ovengine
