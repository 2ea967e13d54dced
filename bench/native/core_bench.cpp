// What one row costs in the core itself, beside the same with a mutex and a deque.
//
//     core_bench [--json] [--repeats N] [--rows N]
//
// The device takes no time. `one thread`: a caller claims, writes, publishes and completes rows of 64 bytes all by
// itself (it borrows the lane, as a blocking caller does), 16 to a batch and one to a batch. `two producers`: two
// threads submit, keeping up to 64 requests in flight each, and a lane runs the batches. The two versions take turns;
// each figure is the median of all repeats, in nanoseconds per row, with the lowest and the highest beside it.
// The core does per batch what the plain version does not: statistics (the clock is read three times), states for
// cancel and failure, and a result that does not have to be copied under a lock.
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <new>
#include <string>
#include <thread>

#include "core/model_core.hpp"

namespace {
std::atomic<std::uint64_t> allocations{0};
void* counted(std::size_t size, std::size_t alignment) {
    allocations.fetch_add(1, std::memory_order_relaxed);
    void* const memory = std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
}
}  // namespace

void* operator new(std::size_t size) { return counted(size, alignof(std::max_align_t)); }
void* operator new(std::size_t size, std::align_val_t alignment) {
    return counted(size, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

namespace {

using namespace ovengine;
using Clock = std::chrono::steady_clock;

constexpr std::uint32_t kBatch = 16, kInFlight = 64;
constexpr std::size_t kRowFloats = 16, kRowBytes = kRowFloats * sizeof(float);

// Both versions hand their rows to this: it only stamps each output row with the first value of its input row.
void infer(const std::byte* inputs, std::byte* outputs, std::uint32_t rows) {
    for (std::uint32_t row = 0; row < rows; ++row)
        std::memcpy(outputs + row * sizeof(float), inputs + row * kRowBytes, sizeof(float));
}

class NullExecutor final : public Executor {
  public:
    explicit NullExecutor(std::uint32_t size) : size_(size) {}
    void infer(std::uint32_t, std::byte* const* inputs, std::byte* const* outputs) override {
        ::infer(inputs[0], outputs[0], size_);
    }
    std::vector<ShapedOutput> infer_shaped(const std::vector<ShapedInput>&) override { return {}; }

  private:
    const std::uint32_t size_;
};

void expect(float got, float wanted) {
    if (got == wanted) return;
    std::fprintf(stderr, "a wrong row: %f instead of %f\n", got, wanted);
    std::exit(1);
}

// --- The core ---

class Core {
  public:
    Core() {
        std::vector<ModelCore::LaneConfig> lanes(1);
        lanes[0].device = 0;
        lanes[0].executors.push_back(std::make_unique<NullExecutor>(1));
        lanes[0].executors.push_back(std::make_unique<NullExecutor>(kBatch));
        core_ = std::make_shared<ModelCore>(RowLayout{{kRowBytes}, {sizeof(float)}}, CostTable({1, kBatch}, {1, 2}),
                                            std::move(lanes), ModelCore::Options{});
        core_->start();
    }
    ~Core() { core_->close(std::nullopt); }

    using Future = Ticket;
    Future submit(const float* row, bool wake = true) {
        Future ticket;
        do {
            while (core_->begin(1, ticket) != Admission::ok) core_->wait_for_room(std::nullopt);
            std::memcpy(core_->destination(ticket, 0), row, kRowBytes);
        } while (core_->publish(ticket, wake) != Admission::ok);
        return ticket;
    }
    float result(Future& ticket) {
        while (ModelCore::outcome(ticket) == Outcome::pending) ModelCore::wait(ticket, std::nullopt);
        float value;
        std::memcpy(&value, core_->output(ticket, 0), sizeof value);
        core_->release(ticket);
        return value;
    }
    // One batch in the caller's own thread.
    template <class SubmitAll>
    void run_here(SubmitAll submit_all) {
        int lane;
        while ((lane = core_->try_borrow_lane()) < 0) platform::relax();
        submit_all();
        core_->run_borrowed(lane);
    }

  private:
    std::shared_ptr<ModelCore> core_;
};

// --- The same with a mutex and a deque: what one would write first. A future is a pooled node. ---

class Plain {
  public:
    Plain() : lane_([this] { run_lane(); }) {}
    ~Plain() {
        {
            const std::lock_guard lock(mutex_);
            closing_ = true;
        }
        work_.notify_all();
        lane_.join();
        for (Node* node : pool_) delete node;
    }

    struct Node {
        float input[kRowFloats];
        float output = 0;
        bool done = false;
    };
    using Future = Node*;
    Future submit(const float* row, bool wake = true) {
        Node* node = nullptr;
        {
            const std::lock_guard lock(mutex_);
            if (!pool_.empty()) node = pool_.back(), pool_.pop_back();
        }
        if (node == nullptr) node = new Node;
        std::memcpy(node->input, row, kRowBytes);
        node->done = false;
        bool was_empty;
        {
            const std::lock_guard lock(mutex_);
            was_empty = queue_.empty();
            queue_.push_back(node);
        }
        if (wake && was_empty) work_.notify_one();
        return node;
    }
    float result(Future& node) {
        std::unique_lock lock(mutex_);
        done_.wait(lock, [&] { return node->done; });
        const float value = node->output;
        pool_.push_back(node);
        return value;
    }
    template <class SubmitAll>
    void run_here(SubmitAll submit_all) {
        {
            const std::lock_guard lock(mutex_);
            borrowed_ = true;
        }
        submit_all();
        std::unique_lock lock(mutex_);
        run_batch(lock);
        borrowed_ = false;
    }

  private:
    void run_batch(std::unique_lock<std::mutex>& lock) {
        std::uint32_t rows = 0;
        while (!queue_.empty() && rows < kBatch) batch_[rows++] = queue_.front(), queue_.pop_front();
        lock.unlock();
        for (std::uint32_t row = 0; row < rows; ++row)
            std::memcpy(inputs_ + row * kRowFloats, batch_[row]->input, kRowBytes);
        infer(reinterpret_cast<std::byte*>(inputs_), reinterpret_cast<std::byte*>(outputs_), rows);
        lock.lock();
        for (std::uint32_t row = 0; row < rows; ++row) batch_[row]->output = outputs_[row], batch_[row]->done = true;
        done_.notify_all();
    }
    void run_lane() {
        std::unique_lock lock(mutex_);
        for (;;) {
            work_.wait(lock, [&] { return closing_ || (!queue_.empty() && !borrowed_); });
            if (closing_) return;
            run_batch(lock);
        }
    }

    std::mutex mutex_;
    std::condition_variable work_, done_;
    std::deque<Node*> queue_;
    std::vector<Node*> pool_;
    bool closing_ = false, borrowed_ = false;
    Node* batch_[kBatch] = {};
    float inputs_[kBatch * kRowFloats] = {}, outputs_[kBatch] = {};
    std::thread lane_;
};

// --- The two kinds of work ---

template <class Version>
void one_thread(Version& version, std::uint32_t rows) {
    typename Version::Future futures[kBatch];
    float row[kRowFloats] = {};
    for (std::uint32_t first = 0; first < rows; first += kBatch) {
        version.run_here([&] {
            for (std::uint32_t i = 0; i < kBatch; ++i) {
                row[0] = static_cast<float>(first + i);
                futures[i] = version.submit(row, false);
            }
        });
        for (std::uint32_t i = 0; i < kBatch; ++i) expect(version.result(futures[i]), static_cast<float>(first + i));
    }
}

template <class Version>
void lone_row(Version& version, std::uint32_t rows) {
    float row[kRowFloats] = {};
    typename Version::Future future{};
    for (std::uint32_t i = 0; i < rows; ++i) {
        row[0] = static_cast<float>(i);
        version.run_here([&] { future = version.submit(row, false); });
        expect(version.result(future), static_cast<float>(i));
    }
}

template <class Version>
void two_producers(Version& version, std::uint32_t rows) {
    const auto produce = [&](std::uint32_t start) {
        typename Version::Future futures[kInFlight];
        float row[kRowFloats] = {};
        const std::uint32_t own = rows / 2;
        for (std::uint32_t i = 0; i < own + kInFlight; ++i) {
            if (i >= kInFlight) {
                const std::uint32_t oldest = i - kInFlight;
                expect(version.result(futures[oldest % kInFlight]), static_cast<float>(start + oldest));
            }
            if (i < own) {
                row[0] = static_cast<float>(start + i);
                futures[i % kInFlight] = version.submit(row);
            }
        }
    };
    std::thread other([&] { produce(1); });
    produce(7);
    other.join();
}

struct Figure {
    std::string work, version;
    std::vector<double> ns_per_row;
    double allocations_per_row = 0;
};

template <class Version>
void measure(Figure& figure, void (*work)(Version&, std::uint32_t), Version& version, std::uint32_t rows) {
    const std::uint64_t before = allocations.load();
    const auto start = Clock::now();
    work(version, rows);
    const std::chrono::duration<double, std::nano> took = Clock::now() - start;
    figure.ns_per_row.push_back(took.count() / rows);
    // Of the last repeat: everything is warm.
    figure.allocations_per_row = static_cast<double>(allocations.load() - before) / rows;
}

}  // namespace

int main(int argc, char** argv) {
    bool json = false;
    std::uint32_t repeats = 11, rows = 400'000;
    for (int i = 1; i < argc; ++i) {
        const std::string option = argv[i];
        if (option == "--json") {
            json = true;
        } else if ((option == "--repeats" || option == "--rows") && i + 1 < argc) {
            (option == "--rows" ? rows : repeats) = static_cast<std::uint32_t>(std::atoi(argv[++i]));
        } else {
            std::fprintf(stderr, "usage: core_bench [--json] [--repeats N] [--rows N]\n");
            return 2;
        }
    }
    rows = std::max(rows / (2 * kBatch), 1u) * 2 * kBatch;

    Core core;
    Plain plain;
    Figure figures[] = {{"one thread, batches of 16", "core", {}},
                        {"one thread, batches of 16", "mutex and deque", {}},
                        {"one thread, one row", "core", {}},
                        {"one thread, one row", "mutex and deque", {}},
                        {"two producers", "core", {}},
                        {"two producers", "mutex and deque", {}}};
    one_thread(core, rows / 8 / kBatch * kBatch), two_producers(core, rows / 8);
    one_thread(plain, rows / 8 / kBatch * kBatch), two_producers(plain, rows / 8);
    for (std::uint32_t repeat = 0; repeat < repeats; ++repeat) {
        measure(figures[0], one_thread<Core>, core, rows);
        measure(figures[1], one_thread<Plain>, plain, rows);
        measure(figures[2], lone_row<Core>, core, rows / 8);
        measure(figures[3], lone_row<Plain>, plain, rows / 8);
        measure(figures[4], two_producers<Core>, core, rows);
        measure(figures[5], two_producers<Plain>, plain, rows);
    }

    if (json)
        std::printf("[");
    else
        std::printf("%-28s %-16s %9s %17s %16s\n", "work", "version", "ns/row", "spread", "allocations/row");
    const char* separator = "";
    for (auto& figure : figures) {
        auto& all = figure.ns_per_row;
        std::sort(all.begin(), all.end());
        const double median = all[all.size() / 2];
        if (json)
            std::printf(
                "%s\n  {\"work\": \"%s\", \"version\": \"%s\", \"ns_per_row\": %.2f, \"min\": %.2f, "
                "\"max\": %.2f, \"repeats\": %zu, \"allocations_per_row\": %.6f}",
                separator, figure.work.c_str(), figure.version.c_str(), median, all.front(), all.back(), all.size(),
                figure.allocations_per_row);
        else
            std::printf("%-28s %-16s %9.1f %8.1f-%8.1f %16.6f\n", figure.work.c_str(), figure.version.c_str(), median,
                        all.front(), all.back(), figure.allocations_per_row);
        separator = ",";
    }
    if (json) std::printf("\n]\n");
    return 0;
}
