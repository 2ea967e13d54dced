// LateLeases: how a batch that is due goes on without leases that are not submitted yet.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <thread>

#include "batch/slot.hpp"
#include "platform/cpu.hpp"
#include "platform/futex.hpp"
#include "queue/dispatcher.hpp"

namespace ovengine {

// The rows that somebody wants move to a spare slot, and whoever still writes to the others keeps the old one.
// Functions that return a slot take the place of the one they are given; null means that there was no memory for a
// spare slot, and the requests have failed. Called by the lane's owner.
class LateLeases {
  public:
    explicit LateLeases(Dispatcher& dispatcher) : dispatcher_(dispatcher), layout_(dispatcher.layout()) {}

    // How long a batch that is due waits for its leases.
    static constexpr std::chrono::microseconds kLeaseGrace{10'000};

    // Waits for writers. They are in the middle of a copy, so this is short, except for leases: they get kLeaseGrace.
    Slot* await_published(Slot* slot, std::uint32_t rows) noexcept {
        const auto deadline = platform::Clock::now() + kLeaseGrace;
        for (int tries = 0; slot->word.published() != rows; ++tries) {
            if (tries < 100) {
                platform::relax();
            } else if (tries < 200) {
                std::this_thread::yield();
            } else if (platform::Clock::now() < deadline) {
                std::this_thread::sleep_for(std::chrono::microseconds(50));
            } else {
                return leave_behind(slot, rows);
            }
        }
        return slot;
    }

    Slot* move_wanted(Slot* slot, std::uint32_t rows) noexcept {
        Slot* const target = dispatcher_.spare_slot();
        target != nullptr ? copy_wanted(*slot, *target, rows) : fail_wanted(*slot->batch, rows);
        leave(slot);
        return target;
    }

    // The slot's memory is free again, unless somebody holds rows of it.
    void leave(Slot* slot) noexcept {
        if (slot->leave()) dispatcher_.give_back(slot);
    }

  private:
    Slot* leave_behind(Slot* slot, std::uint32_t rows) noexcept {
        Batch& batch = *slot->batch;
        std::uint32_t lost_rows = 0;
        // More than once: rows may have been claimed and not marked as a lease yet. All others have published or are
        // about to.
        while (slot->word.published() + lost_rows != rows) {
            for (std::uint32_t row = 0; row < rows; ++row)
                if (batch.transition(row, RowState::leased, RowState::lost)) lost_rows += batch.rows(row);
            std::this_thread::yield();
        }
        return lost_rows == 0 ? slot : move_wanted(slot, rows);
    }

    void copy_wanted(const Slot& slot, const Slot& target, std::uint32_t rows) const noexcept {
        const Batch& batch = *slot.batch;
        for (std::uint32_t row = 0; row < rows;) {
            // Rows without a state of their own are padding left by a cancelled request.
            const RowState state = batch.state(row);
            const std::uint32_t count = state == RowState::follower ? 1 : batch.rows(row);
            for (std::size_t port = 0; port < layout_.inputs.size(); ++port) {
                const std::size_t bytes = layout_.inputs[port];
                if (state == RowState::live || state == RowState::follower)
                    std::memcpy(target.inputs.port(port) + row * bytes, slot.inputs.port(port) + row * bytes,
                                count * bytes);
            }
            row += count;
        }
    }

    static void fail_wanted(Batch& batch, std::uint32_t rows) noexcept {
        for (std::uint32_t row = 0; row < rows; ++row)
            if (batch.state(row) == RowState::live)
                batch.fail(row, "there was no memory to run it apart from a lease that is still open");
    }

    Dispatcher& dispatcher_;
    const RowLayout& layout_;
};

}  // namespace ovengine
