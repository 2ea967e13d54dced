// What a C++ user would write by hand: threads that each take a batch of rows, and call infer() in place on a compiled
// model of their own, with one stream. The yardstick for bench/, which drives it through stdin and stdout:
//
//     native_loop MODEL ROWS.bin N PRECISION THREADS
//
//     sweep SECONDS   ->  "BATCH ROWS_PER_S" for every batch size, then "best BATCH"; later runs use the best
//     run PASSES      ->  seconds for so many passes over the N rows
//     dump PATH       ->  "ok"; the answers of the last pass, as they lie in memory
//
// One input and one output, batch first, f32. Rows are copied into the batch and answers out of it: same as the work
// that it is compared with.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <fstream>
#include <iostream>
#include <limits>
#include <openvino/openvino.hpp>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

class Loop {
  public:
    Loop(const std::string& model, const std::string& rows_file, std::size_t rows, std::string precision,
         std::size_t threads)
        : model_(core_.read_model(model)), rows_(rows), precision_(std::move(precision)), workers_(threads) {
        prepare(1);
        input_width_ = workers_[0].get_input_tensor().get_size();
        output_width_ = workers_[0].get_output_tensor().get_size();
        inputs_.resize(rows * input_width_);
        outputs_.resize(rows * output_width_);
        std::ifstream file(rows_file, std::ios::binary);
        file.read(reinterpret_cast<char*>(inputs_.data()), static_cast<std::streamsize>(bytes(inputs_)));
        if (!file) throw std::runtime_error(rows_file + " is shorter than " + std::to_string(bytes(inputs_)) + " B");
    }

    // Each thread its own compiled model: two threads in one compiled model would share its graph and its locks.
    void prepare(std::size_t batch) {
        auto model = model_->clone();
        ov::PartialShape shape = model->input().get_partial_shape();
        shape[0] = static_cast<ov::Dimension::value_type>(batch);
        model->reshape(shape);
        for (ov::InferRequest& worker : workers_)
            worker = core_
                         .compile_model(model, "CPU",
                                        {{"INFERENCE_PRECISION_HINT", precision_},
                                         {"NUM_STREAMS", "1"},
                                         {"INFERENCE_NUM_THREADS", "1"},
                                         {"ENABLE_CPU_PINNING", "NO"}})
                         .create_infer_request();
        batch_ = batch;
    }

    // Seconds for `passes` passes over all rows.
    double run(std::size_t passes) {
        const std::size_t batches = (rows_ + batch_ - 1) / batch_;
        std::atomic<std::size_t> next{0};
        const auto work = [&](ov::InferRequest& request) {
            float* const input = request.get_input_tensor().data<float>();
            float* const output = request.get_output_tensor().data<float>();
            for (std::size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < passes * batches;) {
                const std::size_t first = i % batches * batch_;
                const std::size_t count = std::min(batch_, rows_ - first);
                std::memcpy(input, &inputs_[first * input_width_], count * input_width_ * sizeof(float));
                request.infer();
                std::memcpy(&outputs_[first * output_width_], output, count * output_width_ * sizeof(float));
            }
        };
        std::fill(outputs_.begin(), outputs_.end(), std::numeric_limits<float>::quiet_NaN());
        const auto begin = Clock::now();
        std::vector<std::thread> threads;
        for (std::size_t i = 1; i < workers_.size(); ++i) threads.emplace_back(work, std::ref(workers_[i]));
        work(workers_[0]);
        for (std::thread& thread : threads) thread.join();
        return seconds_since(begin);
    }

    void sweep(double seconds) {
        std::size_t best = 1;
        double most = 0;
        for (std::size_t batch = 1; batch <= 256; batch *= 2) {
            prepare(batch);
            run(1);
            std::size_t passes = 0;
            double elapsed = 0;
            for (; elapsed < seconds; ++passes) elapsed += run(1);
            const double rate = static_cast<double>(passes * rows_) / elapsed;
            std::cout << batch << ' ' << rate << '\n';
            if (rate > most) most = rate, best = batch;
        }
        prepare(best);
        run(1);
        std::cout << "best " << best << std::endl;
    }

    void dump(const std::string& path) const {
        std::ofstream file(path, std::ios::binary);
        file.write(reinterpret_cast<const char*>(outputs_.data()), static_cast<std::streamsize>(bytes(outputs_)));
        if (!file.flush()) throw std::runtime_error("cannot write " + path);
    }

  private:
    static std::size_t bytes(const std::vector<float>& values) { return values.size() * sizeof(float); }

    ov::Core core_;
    std::shared_ptr<ov::Model> model_;
    const std::size_t rows_;
    const std::string precision_;
    std::vector<ov::InferRequest> workers_;
    std::size_t batch_ = 1, input_width_ = 0, output_width_ = 0;
    std::vector<float> inputs_, outputs_;
};

void serve(Loop& loop) {
    std::string command;
    while (std::cin >> command) {
        if (command == "sweep") {
            double seconds = 0;
            std::cin >> seconds;
            loop.sweep(seconds);
        } else if (command == "run") {
            std::size_t passes = 0;
            std::cin >> passes;
            std::cout << loop.run(passes) << std::endl;
        } else if (command == "dump") {
            std::string path;
            std::getline(std::cin >> std::ws, path);
            loop.dump(path);
            std::cout << "ok" << std::endl;
        } else {
            throw std::runtime_error("no command " + command);
        }
    }
}

}  // namespace

int main(int argc, char** argv) try {
    if (argc != 6) throw std::runtime_error("native_loop MODEL ROWS.bin N PRECISION THREADS");
    Loop loop(argv[1], argv[2], std::stoul(argv[3]), argv[4], std::stoul(argv[5]));
    serve(loop);
} catch (const std::exception& error) {
    std::cerr << "native_loop: " << error.what() << '\n';
    return 1;
}
