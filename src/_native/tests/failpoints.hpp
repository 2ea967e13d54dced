// What happens at the core's OVENGINE_FAILPOINTs in a test: nothing, a random delay, or a full stop.
// Included before everything else (-include), so that the core's empty default does not apply.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#define OVENGINE_FAILPOINT(name) ::ovengine::testing::failpoint(name)

namespace ovengine::testing {

struct FailpointState {
    std::atomic<std::uint32_t> jitter_per_mille{0};
    std::atomic<int> gates{0};
    std::mutex mutex;
    std::condition_variable changed;
    struct Stop {
        std::string name;
        bool reached = false, open = false;
    };
    std::vector<Stop*> stops;
};
inline FailpointState failpoints;

inline std::uint64_t random_bits() noexcept {
    static std::atomic<std::uint64_t> seeds{0x9e3779b97f4a7c15};
    thread_local std::uint64_t state = seeds.fetch_add(0x9e3779b97f4a7c15, std::memory_order_relaxed);
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state;
}

inline void stop_at_gate(const char* name) {
    std::unique_lock lock(failpoints.mutex);
    for (auto* stop : failpoints.stops) {
        if (stop->reached || stop->name != name) continue;
        stop->reached = true;
        failpoints.changed.notify_all();
        failpoints.changed.wait(lock, [&] { return stop->open; });
        stop->open = false;  // seen: the gate may go
        failpoints.changed.notify_all();
        return;
    }
}

inline void failpoint(const char* name) {
    // relaxed throughout: a delay must not order anything that the core has to order itself.
    if (const auto jitter = failpoints.jitter_per_mille.load(std::memory_order_relaxed)) {
        const std::uint64_t bits = random_bits();
        if (bits % 1000 >= jitter) return;
        if ((bits >> 32) % 8 != 0) return std::this_thread::yield();
        std::this_thread::sleep_for(std::chrono::microseconds((bits >> 40) % 60));
    } else if (failpoints.gates.load(std::memory_order_relaxed) > 0) {
        stop_at_gate(name);
    }
}

// While it lives, threads are held up at random at every failpoint.
class Jitter {
  public:
    explicit Jitter(std::uint32_t per_mille) { failpoints.jitter_per_mille.store(per_mille); }
    ~Jitter() { failpoints.jitter_per_mille.store(0); }
    Jitter(const Jitter&) = delete;
    Jitter& operator=(const Jitter&) = delete;
};

// Stops the first thread that comes to the failpoint `name`, until open().
class Gate {
  public:
    explicit Gate(const char* name) {
        const std::lock_guard lock(failpoints.mutex);
        stop_.name = name;
        failpoints.stops.push_back(&stop_);
        failpoints.gates.fetch_add(1);
    }
    ~Gate() { open(); }
    Gate(const Gate&) = delete;
    Gate& operator=(const Gate&) = delete;

    // False when nobody came in time.
    bool wait_until_reached(std::chrono::milliseconds limit = std::chrono::seconds(20)) {
        std::unique_lock lock(failpoints.mutex);
        return failpoints.changed.wait_for(lock, limit, [&] { return stop_.reached; });
    }
    void open() {
        std::unique_lock lock(failpoints.mutex);
        if (!armed_) return;
        armed_ = false;
        failpoints.gates.fetch_sub(1);
        std::erase(failpoints.stops, &stop_);
        if (!stop_.reached) return;
        stop_.open = true;
        failpoints.changed.notify_all();
        failpoints.changed.wait(lock, [&] { return !stop_.open; });
    }

  private:
    FailpointState::Stop stop_;
    bool armed_ = true;
};

}  // namespace ovengine::testing
