// Work: what a lane is given to do.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <numeric>
#include <vector>

#include "batch/slot.hpp"
#include "diagnostics/stats.hpp"
#include "ladder/trials.hpp"
#include "requests/job.hpp"
#include "requests/request.hpp"

namespace ovengine {

// Bytes of one row, port by port.
struct RowLayout {
    std::vector<std::size_t> inputs, outputs;

    std::size_t input_bytes() const { return std::accumulate(inputs.begin(), inputs.end(), std::size_t{0}); }
    std::size_t output_bytes() const { return std::accumulate(outputs.begin(), outputs.end(), std::size_t{0}); }
};

class Session;

// A sealed slot, or a chunk of a job.
struct Work {
    struct Gathered {
        Request* request;
        std::uint32_t row;
    };
    Slot* slot = nullptr;
    std::uint32_t rows = 0;
    LaneStats::Reason reason = LaneStats::idle;
    std::size_t trial = Trials::kNone;  // the size, by index, that the lane tries on it
    std::vector<Gathered> gathered;     // requests whose rows the lane has yet to copy, assign and publish; has_place()
    Job* job = nullptr;
    Job::Chunk chunk{};
    std::shared_ptr<Session> session;  // that the job is of

    Work() { gathered.reserve(kPlaces); }
    // For one more in `gathered`? There always is for some.
    bool has_place() noexcept {
        if (gathered.size() < gathered.capacity()) return true;
        try {
            gathered.reserve(2 * gathered.capacity());
            return true;
        } catch (const std::bad_alloc&) {
            return false;
        }
    }

  private:
    static constexpr std::size_t kPlaces = 64;
};

inline std::int64_t now_ns() noexcept { return platform::Clock::now().time_since_epoch().count(); }

}  // namespace ovengine
