// A device that needs no hardware: programmable service time and faults, for tests of the core and of plugins.
#pragma once

#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "device/executor.hpp"

namespace ovengine {

// Every output row repeats the values of its row of the first input, plus one, as f4; an output that is longer than
// the input row goes round again.
struct FakeBehavior {
    double service_time_us = 0;
    double service_time_per_row_us = 0;
    std::optional<float> poison{};  // a row that starts with this value makes infer() throw
    std::uint32_t fail_every = 0;   // every so many calls throw; 0: never
};

class FakeCompiled final : public CompiledModel, public std::enable_shared_from_this<FakeCompiled> {
  public:
    // Static shapes, the batch first; all f4.
    FakeCompiled(std::vector<Port> inputs, std::vector<Port> outputs, FakeBehavior behavior)
        : inputs_(std::move(inputs)), outputs_(std::move(outputs)), behavior_(behavior) {}

    const std::vector<Port>& inputs() const override { return inputs_; }
    const std::vector<Port>& outputs() const override { return outputs_; }
    std::string property(const std::string& name) const override { throw std::runtime_error("no property " + name); }
    std::string export_blob() const override { throw std::runtime_error("a fake device has no blob"); }
    std::unique_ptr<Executor> make_executor() const override {
        return std::make_unique<FakeExecutor>(shared_from_this());
    }
    std::unique_ptr<StatefulExecutor> make_stateful() const override {
        return std::make_unique<FakeStateful>(shared_from_this());
    }
    // Of its own shape; it takes as long as it takes.
    std::vector<ShapedOutput> try_infer(const std::vector<ShapedInput>& inputs, double) const override {
        std::vector<std::byte*> in, out;
        for (const auto& input : inputs) in.push_back(const_cast<std::byte*>(input.data));
        std::vector<ShapedOutput> outputs;
        for (const auto& port : outputs_) {
            std::size_t count = 1;
            for (const auto length : port.shape) count *= static_cast<std::size_t>(length);
            outputs.push_back({port.shape, std::vector<std::byte>(count * sizeof(float))});
        }
        for (auto& output : outputs) out.push_back(output.data.data());
        make_executor()->infer(0, in.data(), out.data());
        return outputs;
    }

  private:
    class FakeExecutor final : public Executor {
      public:
        explicit FakeExecutor(std::shared_ptr<const FakeCompiled> model) : model_(std::move(model)) {}

        void infer(std::uint32_t, std::byte* const* inputs, std::byte* const* outputs) override {
            const FakeBehavior& behavior = model_->behavior_;
            const auto batch = static_cast<std::size_t>(model_->inputs_[0].shape[0]);
            spend(behavior.service_time_us + behavior.service_time_per_row_us * static_cast<double>(batch));
            if (behavior.fail_every != 0 && ++calls_ % behavior.fail_every == 0)
                throw std::runtime_error("the fake device fails every " + std::to_string(behavior.fail_every) +
                                         ". call");
            const std::size_t in_row = row_size(model_->inputs_[0]);
            const auto* in = reinterpret_cast<const float*>(inputs[0]);
            for (std::size_t row = 0; row < batch; ++row)
                if (behavior.poison && in[row * in_row] == *behavior.poison)
                    throw std::runtime_error("the fake device refuses the value " + std::to_string(*behavior.poison));
            for (std::size_t port = 0; port < model_->outputs_.size(); ++port) {
                const std::size_t out_row = row_size(model_->outputs_[port]);
                auto* out = reinterpret_cast<float*>(outputs[port]);
                for (std::size_t row = 0; row < batch; ++row)
                    for (std::size_t i = 0; i < out_row; ++i)
                        out[row * out_row + i] = in[row * in_row + i % in_row] + 1;
            }
        }

        std::vector<ShapedOutput> infer_shaped(const std::vector<ShapedInput>& inputs) override {
            return infer_plus(inputs, 1);
        }

        std::vector<ShapedOutput> infer_plus(const std::vector<ShapedInput>& inputs, float plus) {
            spend(model_->behavior_.service_time_us);
            std::size_t count = 1;
            for (const auto length : inputs[0].shape) count *= static_cast<std::size_t>(length);
            const auto* in = reinterpret_cast<const float*>(inputs[0].data);
            if (model_->behavior_.poison && in[0] == *model_->behavior_.poison)
                throw std::runtime_error("the fake device refuses the value " +
                                         std::to_string(*model_->behavior_.poison));
            std::vector<std::byte> data(count * sizeof(float));
            for (std::size_t i = 0; i < count; ++i) {
                const float value = in[i] + plus;
                std::memcpy(data.data() + i * sizeof value, &value, sizeof value);
            }
            return std::vector<ShapedOutput>(model_->outputs_.size(), ShapedOutput{inputs[0].shape, data});
        }

      private:
        static std::size_t row_size(const Port& port) {
            std::size_t size = 1;
            for (std::size_t i = 1; i < port.shape.size(); ++i) size *= static_cast<std::size_t>(port.shape[i]);
            return size;
        }
        static void spend(double us) {
            if (us > 0) std::this_thread::sleep_for(std::chrono::duration<double, std::micro>(us));
        }

        const std::shared_ptr<const FakeCompiled> model_;
        std::uint32_t calls_ = 0;
    };

    // One variable `total` of one value: what is added instead of one, and then the sum of that and the first value.
    class FakeStateful final : public StatefulExecutor {
      public:
        explicit FakeStateful(std::shared_ptr<const FakeCompiled> model) : executor_(std::move(model)) {}

        const std::vector<Port>& states() const override { return states_; }
        std::vector<ShapedOutput> infer_shaped(const std::vector<ShapedInput>& inputs) override {
            auto outputs = executor_.infer_plus(inputs, total_);
            total_ += *reinterpret_cast<const float*>(inputs[0].data);
            return outputs;
        }
        void reset_state() override { total_ = kInitial; }
        ShapedOutput state(std::size_t) override {
            const auto* bytes = reinterpret_cast<const std::byte*>(&total_);
            return {{1}, {bytes, bytes + sizeof total_}};
        }
        void set_state(std::size_t, const ShapedInput& value) override {
            if (value.shape != Dimensions{1}) throw std::runtime_error("the fake device's state has one value");
            total_ = *reinterpret_cast<const float*>(value.data);
        }

      private:
        static constexpr float kInitial = 1;
        const std::vector<Port> states_{{{"total"}, {1}, true, "f4"}};
        FakeExecutor executor_;
        float total_ = kInitial;
    };

    const std::vector<Port> inputs_, outputs_;
    const FakeBehavior behavior_;
};

}  // namespace ovengine
