// Lane: one execution context on a device: the executors of its ladder, and how a batch runs on them.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "batch/slab.hpp"
#include "device/executor.hpp"
#include "diagnostics/failpoint.hpp"
#include "diagnostics/reason.hpp"
#include "diagnostics/stats.hpp"
#include "ladder/cutter.hpp"
#include "ladder/rungs.hpp"
#include "ladder/trials.hpp"
#include "lanes/lane_pace.hpp"
#include "lanes/late_leases.hpp"
#include "queue/dispatcher.hpp"
#include "requests/session.hpp"

namespace ovengine {

// Owned by one thread at a time: the lane's own, or a blocking caller that took it out of IdleLanes.
class Lane {
  public:
    Lane(std::uint32_t index, std::uint32_t device, Rungs rungs, Dispatcher& dispatcher)
        : index_(index),
          device_(device),
          dispatcher_(dispatcher),
          layout_(dispatcher.layout()),
          late_leases_(dispatcher),
          rungs_(std::move(rungs)),
          cutter_(rungs_.costs()),
          trials_(rungs_.costs()) {
        input_pointers_.reserve(layout_.inputs.size());
        output_pointers_.reserve(layout_.outputs.size());
    }

    std::uint32_t index() const noexcept { return index_; }
    std::uint32_t device() const noexcept { return device_; }
    const LaneStats& stats() const noexcept { return stats_; }
    // When the last inference ended. The owner's.
    std::int64_t ended_ns() const noexcept { return ended_ns_; }
    // What it would like to run. The owner's.
    Trials& trials() noexcept { return trials_; }

    // Other rungs, and what the lane needs to go on with them; made by whoever installs them.
    struct Next {
        explicit Next(Rungs next) : rungs(std::move(next)), cutter(rungs.costs()), trials(rungs.costs()) {}
        Rungs rungs;
        Cutter cutter;
        Trials trials;
    };
    // Any thread: for the lane's owner to take over before it runs anything else.
    void install(Next next) noexcept {
        const std::lock_guard lock(next_mutex_);
        if (next_) next.rungs.succeed(next_->rungs);
        next_.emplace(std::move(next));
        has_next_.store(true, std::memory_order_release);  // pairs with run()
    }

    const LanePace& pace() const noexcept { return pace_; }

    // Runs `work` to its end: every future that it concerns is resolved, and the slot is free again.
    void run(Work& work) noexcept {
        // acquire: pairs with install(). Work that only the new rungs can hold is made after they were installed.
        if (has_next_.load(std::memory_order_acquire)) take_over();
        if (work.job != nullptr)
            run_chunk(work);
        else
            run_batch(work);
    }

    // Any thread: ends the requests of the batch that is being run with Outcome::closed, without waiting for the
    // device; how many there were.
    std::size_t close_current() noexcept {
        const std::lock_guard lock(current_mutex_);
        std::size_t closed = 0;
        if (current_job_ != nullptr) return current_job_->end(Outcome::closed) ? 1 : 0;
        if (current_ == nullptr) return 0;
        for (std::uint32_t row = 0; row < current_rows_; ++row)
            closed += current_->transition(row, RowState::live, RowState::closed);
        current_->complete();
        return closed;
    }

  private:
    static constexpr std::size_t kBindBytes = std::size_t{64} << 10;
    // Bindings that are not a slot's: single rows and chunks in the lane's scratch, parts of a slot, callers' memory.
    enum Binding : std::uint32_t { kScratch = 0, kPart = 1, kForeign = 2 };
    static_assert(kForeign < Slots::kFirstId);

    void take_over() noexcept {
        const std::lock_guard lock(next_mutex_);
        Rungs& rungs = next_->rungs;
        if (rungs.ladder().capacity() > rungs_.ladder().capacity()) scratch_.reset();
        if (rungs.costs().sizes() != table().sizes()) {
            cutter_ = std::move(next_->cutter);
            trials_ = std::move(next_->trials);
        }
        rungs.succeed(rungs_);
        rungs_ = std::move(rungs);
        next_.reset();
        has_next_.store(false, std::memory_order_relaxed);  // under the lock
    }

    void run_batch(Work& work) noexcept {
        Slot* slot = work.slot;
        Batch& batch = *slot->batch;
        const Request* const foreign = foreign_memory(work);
        deadlines_ns_.clear();
        for (const auto& [request, row] : work.gathered) {
            if (request->terms().deadline_ns != Terms::kNoDeadline) note_deadline(request->terms().deadline_ns);
            if (request != foreign) copy_in(*request, *slot, row);
            request->assign(&batch, row);
            slot->word.publish(request->rows());
        }
        if (foreign == nullptr) dispatcher_.give_back_gathered(work);
        if (slot->word.published() != work.rows) slot = late_leases_.await_published(slot, work.rows);

        OVENGINE_FAILPOINT("Lane::run, published");
        set_current(&batch, work.rows);
        const std::int64_t start_ns = now_ns();
        std::int64_t end_ns = start_ns;
        std::uint32_t wanted = 0, requests = 0;
        for (std::uint32_t row = 0; row < work.rows; ++row) {
            wanted += batch.state(row) == RowState::live;
            requests += batch.state(row) != RowState::follower;
        }
        // A row that was given up takes a copy of another one, which its holder must not see.
        if (wanted > 0 && wanted != requests && slot->is_held()) {
            slot = late_leases_.move_wanted(slot, work.rows);
            if (slot == nullptr) wanted = 0;  // they have failed
        }
        const double expected_us = table().run_us(work.rows);
        if (wanted > 0) {
            pace_.begin(start_ns, expected_us);
            if (foreign != nullptr)
                end_ns = run_foreign(work, batch, start_ns);
            else if (slot->capacity < table().capacity())
                end_ns = run_outgrown(*slot, batch, work.rows, wanted == requests);
            else
                end_ns = run_steps(*slot, batch, work, wanted == requests, start_ns);
        }
        const std::int64_t free_ns = std::exchange(ended_ns_, end_ns);
        if (!deadlines_ns_.empty()) {
            const auto late = static_cast<std::size_t>(
                std::ranges::count_if(deadlines_ns_, [end_ns](std::int64_t deadline) { return deadline < end_ns; }));
            dispatcher_.queue().learn(deadlines_ns_.size() - late, late);
        }
        if (wanted > 0 && work.reason == LaneStats::full && work.trial == Trials::kNone)
            pace_.keep(expected_us, end_ns - std::max(free_ns, batch.opened_ns()));
        if (expected_us == 0) pace_.note_unknown(end_ns - start_ns);
        if (slot != nullptr) late_leases_.leave(slot);
        dispatcher_.finish_rows(work.rows);
        if (foreign != nullptr) dispatcher_.give_back_gathered(work);
        // Before anybody is told: from here on close_current() leaves the rows as they are.
        set_current(nullptr, 0);
        record(batch, work, start_ns, end_ns);
        batch.complete();
        OVENGINE_FAILPOINT("Lane::run, completed");
        batch.settle(work.rows);
    }

    // For what is learned from them; one that there is no memory for is left out.
    void note_deadline(std::int64_t deadline_ns) noexcept {
        try {
            deadlines_ns_.push_back(deadline_ns);
        } catch (const std::bad_alloc&) {
        }
    }

    void set_current(Batch* batch, std::uint32_t rows) noexcept {
        const std::lock_guard lock(current_mutex_);
        current_ = batch;
        current_rows_ = rows;
    }
    void set_current(Job* job) noexcept {
        const std::lock_guard lock(current_mutex_);
        current_job_ = job;
    }

    // A large request that is a whole batch is run where its input lies, instead of being copied once more.
    const Request* foreign_memory(const Work& work) const noexcept {
        if (work.gathered.size() != 1) return nullptr;
        const Request& request = *work.gathered.front().request;
        const auto steps = table().steps(work.rows);
        const bool whole = request.rows() == work.rows && steps.is_one() && table().sizes()[steps.front()] == work.rows;
        return whole && layout_.input_bytes() * work.rows >= kBindBytes ? &request : nullptr;
    }

    void copy_in(Request& request, Slot& slot, std::uint32_t row) const noexcept {
        for (std::size_t port = 0; port < layout_.inputs.size(); ++port)
            std::memcpy(slot.inputs.port(port) + row * layout_.inputs[port], request.sources()[port],
                        request.rows() * layout_.inputs[port]);
    }

    // Padding is more of a row that somebody wants: zeros may be no valid input, and operators do not check.
    void repeat_row(std::byte* const* inputs, std::uint32_t row, std::uint32_t first,
                    std::uint32_t last) const noexcept {
        for (std::size_t port = 0; port < layout_.inputs.size(); ++port)
            for (std::uint32_t to = first; to < last; ++to)
                std::memcpy(inputs[port] + to * layout_.inputs[port], inputs[port] + row * layout_.inputs[port],
                            layout_.inputs[port]);
    }

    // Rows that nobody wants may never have been written: others take their place. False where none is wanted.
    bool replace_unwanted(const Slab& inputs, const Batch& batch, std::uint32_t first,
                          std::uint32_t last) const noexcept {
        const auto state_of = [&](std::uint32_t row) {
            while (row > 0 && batch.state(row) == RowState::follower) --row;
            return batch.state(row);
        };
        std::uint32_t wanted = first;
        while (wanted < last && state_of(wanted) != RowState::live) ++wanted;
        if (wanted == last) return false;
        for (std::uint32_t row = first; row < last; ++row)
            if (row != wanted && state_of(row) != RowState::live) repeat_row(inputs.ports(), wanted, row, row + 1);
        return true;
    }

    // From `start_ns` to the end, which is returned.
    std::int64_t run_steps(Slot& slot, Batch& batch, const Work& work, bool all_wanted,
                           std::int64_t start_ns) noexcept {
        std::uint32_t first = 0;
        for (const std::size_t step : steps_of(work)) {
            const std::uint32_t size = table().sizes()[step];
            const std::uint32_t count = std::min(size, work.rows - first);
            if (!all_wanted && !replace_unwanted(slot.inputs, batch, first, first + count)) {
                first += count;
                continue;
            }
            repeat_row(slot.inputs.ports(), first, first + count, first + size);
            try {
                if (first == 0)
                    infer(step, slot.id, slot.inputs.ports(), batch, 0, count);
                else
                    infer(step, kPart, offset(slot.inputs.ports(), first), batch, first, count);
            } catch (...) {
                rerun_singly(slot.inputs.ports(), batch, first, count, size, reason());
            }
            first += count;
            start_ns = observe(step, start_ns);
        }
        return start_ns;
    }

    // The sizes to run a batch on.
    CostTable::Steps steps_of(const Work& work) noexcept {
        const bool tries = trials_.is_trying(work.trial) && table().fits(work.trial, work.rows);
        return tries ? CostTable::Steps::all(table(), work.trial, work.rows) : cutter_.cut(table(), work.rows);
    }

    // An inference has ended now; when that is.
    std::int64_t observe(std::size_t step, std::int64_t start_ns) noexcept {
        const std::int64_t end_ns = now_ns();
        trials_.observe(rungs_.ladder(), index_, step, end_ns - start_ns);
        return end_ns;
    }

    std::int64_t run_foreign(Work& work, Batch& batch, std::int64_t start_ns) noexcept {
        std::byte* const* inputs = work.gathered.front().request->sources().data();
        const std::size_t step = table().steps(work.rows).front();
        try {
            infer(step, kForeign, inputs, batch, 0, work.rows);
        } catch (...) {
            rerun_singly(inputs, batch, 0, work.rows, work.rows, reason());
        }
        return observe(step, start_ns);
    }

    // A slot from before the ladder grew has no room for the padding that the new one may want.
    std::int64_t run_outgrown(Slot& slot, Batch& batch, std::uint32_t rows, bool all_wanted) noexcept {
        if (!all_wanted) replace_unwanted(slot.inputs, batch, 0, rows);
        try {
            infer_alone(slot.inputs.ports(), batch.outputs(), 0, rows);
        } catch (...) {
            rerun_singly(slot.inputs.ports(), batch, 0, rows, rows, reason());
        }
        return now_ns();
    }

    void infer(std::size_t step, std::uint32_t binding, std::byte* const* inputs, Batch& batch, std::uint32_t first,
               std::uint32_t count) {
        if (!rungs_.copies_out()) {
            rungs_.executor(step).infer(binding, inputs, offset_outputs(batch.outputs(), first));
            return;
        }
        rungs_.executor(step).infer(binding, inputs, rungs_.outputs(step).ports());
        for (std::size_t port = 0; port < layout_.outputs.size(); ++port)
            std::memcpy(batch.output(port) + first * layout_.outputs[port], rungs_.outputs(step).port(port),
                        count * layout_.outputs[port]);
    }

    // infer() threw for these rows together: each is tried alone once, so that only the row at fault fails.
    void rerun_singly(std::byte* const* inputs, Batch& batch, std::uint32_t first, std::uint32_t count,
                      std::uint32_t size, const char* why) noexcept {
        std::uint32_t head = 0;
        for (std::uint32_t row = 0; row < first + count; ++row) {
            if (batch.state(row) != RowState::follower) head = row;
            if (row < first || batch.state(head) != RowState::live) continue;
            if (size == 1) {
                batch.fail(head, why);
                continue;
            }
            try {
                infer_alone(offset(inputs, row), batch.outputs(), row, 1);
            } catch (...) {
                batch.fail(head, row - head, reason());
            }
        }
    }

    // `count` rows at `inputs` through the lane's scratch memory into row `first` of `outputs`.
    void infer_alone(std::byte* const* inputs, std::byte* const* outputs, std::uint32_t first, std::uint32_t count) {
        if (!scratch_) scratch_.emplace(layout_, table().capacity());
        std::uint32_t done = 0;
        for (const std::size_t step : table().steps(count)) {
            const std::uint32_t size = table().sizes()[step];
            const std::uint32_t part = std::min(size, count - done);
            const std::int64_t start_ns = now_ns();
            for (std::size_t port = 0; port < layout_.inputs.size(); ++port) {
                const std::size_t bytes = layout_.inputs[port];
                std::memcpy(scratch_->inputs.port(port), inputs[port] + done * bytes, part * bytes);
            }
            repeat_row(scratch_->inputs.ports(), 0, part, size);
            rungs_.executor(step).infer(kScratch, scratch_->inputs.ports(), scratch_->outputs.ports());
            for (std::size_t port = 0; port < layout_.outputs.size(); ++port) {
                const std::size_t bytes = layout_.outputs[port];
                std::memcpy(outputs[port] + (first + done) * bytes, scratch_->outputs.port(port), part * bytes);
            }
            done += part;
            observe(step, start_ns);
        }
    }

    void run_chunk(Work& work) noexcept {
        Job& job = *work.job;
        const Job::Chunk chunk = work.chunk;
        set_current(&job);
        const std::int64_t start_ns = now_ns();
        try {
            if (work.session != nullptr)
                run_in_session(work.session->executor(), job);
            else if (job.own() != nullptr)
                run_own(job);
            else if (!job.stopped() && job.is_shaped())
                job.shaped_outputs() = rungs_.executor(0).infer_shaped(job.shaped_inputs());
            else if (!job.stopped())
                run_rows(job, chunk);
        } catch (...) {
            job.fail(reason());
        }
        ended_ns_ = now_ns();
        pace_.note_unknown(ended_ns_ - start_ns);
        stats_.inference_ns.add(static_cast<std::uint64_t>(ended_ns_ - start_ns));
        stats_.rows.add(chunk.count);
        stats_.batches.add(1);
        stats_.reasons[work.reason].add(1);
        set_current(nullptr);
        if (job.finish(chunk.count)) {
            stats_.requests.add(1);
            if (job.outcome(0) == Outcome::failed) stats_.failed.add(1);
            if (job.outcome(0) == Outcome::cancelled) stats_.cancelled.add(1);
            if (job.outcome(0) == Outcome::closed) stats_.closed.add(1);
            job.settle(1);
        }
    }

    static void run_in_session(StatefulExecutor& executor, Job& job) {
        // Also for one that was cancelled: those behind it rely on the reset.
        if (job.resets_state()) executor.reset_state();
        if (job.try_begin() && !job.stopped()) job.shaped_outputs() = executor.infer_shaped(job.shaped_inputs());
    }

    static void run_own(Job& job) {
        if (job.try_begin() && !job.stopped()) job.own()->run();
    }

    void run_rows(Job& job, Job::Chunk chunk) {
        const auto steps = table().steps(chunk.count);
        std::vector<std::byte*> inputs, outputs;
        for (std::size_t port = 0; port < layout_.inputs.size(); ++port)
            inputs.push_back(job.input(port) + chunk.first * layout_.inputs[port]);
        for (std::size_t port = 0; port < layout_.outputs.size(); ++port)
            outputs.push_back(job.output(port) + chunk.first * layout_.outputs[port]);
        const bool whole = steps.is_one() && table().sizes()[steps.front()] == chunk.count;
        try {
            if (whole && layout_.input_bytes() * chunk.count >= kBindBytes) {
                const std::int64_t start_ns = now_ns();
                rungs_.executor(steps.front()).infer(kForeign, inputs.data(), outputs.data());
                observe(steps.front(), start_ns);
            } else {
                infer_alone(inputs.data(), outputs.data(), 0, chunk.count);
            }
        } catch (const std::exception& error) {
            if (job.rows() == 1) throw;
            if (chunk.count == 1) throw std::runtime_error(about_row(chunk.first, error));
            rerun_rows(job, chunk, inputs.data(), outputs.data());
        }
    }

    // As rerun_singly(): one row at fault ends the job, which names it.
    void rerun_rows(Job& job, Job::Chunk chunk, std::byte* const* inputs, std::byte* const* outputs) {
        for (std::uint32_t row = 0; row < chunk.count && !job.stopped(); ++row) try {
                infer_alone(offset(inputs, row), outputs, row, 1);
            } catch (const std::exception& error) {
                throw std::runtime_error(about_row(chunk.first + row, error));
            }
    }

    static std::string about_row(std::uint32_t row, const std::exception& error) {
        return "row " + std::to_string(row) + ": " + error.what();
    }

    void record(const Batch& batch, const Work& work, std::int64_t start_ns, std::int64_t end_ns) noexcept {
        for (std::uint32_t row = 0; row < work.rows; ++row) switch (batch.state(row)) {
                case RowState::follower:
                case RowState::padding: continue;
                case RowState::cancelled: stats_.cancelled.add(1); break;
                case RowState::lost: stats_.lost.add(1); break;
                case RowState::failed: stats_.failed.add(1); break;
                case RowState::closed: stats_.closed.add(1); break;
                default: stats_.requests.add(1);
            }
        stats_.rows.add(work.rows);
        stats_.batches.add(1);
        stats_.reasons[work.reason].add(1);
        stats_.queue_ns.add(static_cast<std::uint64_t>(std::max<std::int64_t>(0, start_ns - batch.opened_ns())));
        stats_.inference_ns.add(static_cast<std::uint64_t>(end_ns - start_ns));
    }

    std::byte* const* offset(std::byte* const* ports, std::uint32_t first) noexcept {
        return shift(ports, layout_.inputs, first, input_pointers_);
    }
    std::byte* const* offset_outputs(std::byte* const* ports, std::uint32_t first) noexcept {
        return first == 0 ? ports : shift(ports, layout_.outputs, first, output_pointers_);
    }
    static std::byte* const* shift(std::byte* const* ports, const std::vector<std::size_t>& row_bytes,
                                   std::uint32_t first, std::vector<std::byte*>& into) noexcept {
        into.clear();
        for (std::size_t port = 0; port < row_bytes.size(); ++port)
            into.push_back(ports[port] + first * row_bytes[port]);
        return into.data();
    }

    const CostTable& table() const noexcept { return rungs_.costs(); }

    const std::uint32_t index_, device_;
    Dispatcher& dispatcher_;
    const RowLayout& layout_;
    LateLeases late_leases_;
    Rungs rungs_;
    Cutter cutter_;
    Trials trials_;
    std::mutex next_mutex_;
    std::optional<Next> next_;
    std::atomic<bool> has_next_{false};
    struct Scratch {
        Scratch(const RowLayout& layout, std::uint32_t rows)
            : inputs(layout.inputs, rows), outputs(layout.outputs, rows) {}
        const Slab inputs, outputs;
    };
    std::optional<Scratch> scratch_;
    std::vector<std::byte*> input_pointers_, output_pointers_;  // room for all of them from the start
    std::vector<std::int64_t> deadlines_ns_;                    // of the batch
    std::mutex current_mutex_;                                  // of the lane's owner and close(): free but for that
    Job* current_job_ = nullptr;
    Batch* current_ = nullptr;
    std::uint32_t current_rows_ = 0;
    std::int64_t ended_ns_ = 0;
    LaneStats stats_;
    LanePace pace_;
};

}  // namespace ovengine
