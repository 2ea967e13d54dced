// The OpenVINO side: reading, reshaping and compiling models. Only its .cpp and what else is named openvino_* include
// openvino.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "device/executor.hpp"

namespace ovengine {

// An axis of a shape, or none.
using Axis = std::optional<std::int64_t>;

// What an input may be given in trial runs: values between `low` and `high`, both included.
struct InputValues {
    double low, high;     // infinite where floating-point numbers may be anything
    bool is_free;         // nothing depends on the values
    bool fears_nan;       // an operator may be led astray by values that are no numbers
    std::string unknown;  // what takes values that it is not known how to make up; empty where nothing does
};

// Whether rows along these axes are independent.
struct RowProof {
    std::vector<Axis> inputs, outputs;  // the axes of rows; none where all share a tensor, or it is not known
    bool is_refuted;                    // an operator mixes rows along these axes and along all others
    std::string unproven;               // the first operator whose rule does not hold, or that has none; empty: proved
};

// A model before compilation; immutable. Wraps a shared ov::Model.
class Graph {
  public:
    struct Impl;
    explicit Graph(std::shared_ptr<const Impl> impl);
    const std::string& name() const;
    const std::vector<Port>& inputs() const;
    const std::vector<Port>& outputs() const;
    std::size_t constant_bytes() const;
    bool has_state() const;
    // Whether values inside are rounded to integers, or weights are.
    bool is_quantized() const;
    // Bytes of constants that somebody else may change: those in mapped files, and all of an adopted model.
    std::size_t borrowed_bytes() const;
    // A copy with these constants in memory of its own. Throws std::runtime_error where a file changes as it is read.
    std::shared_ptr<Graph> with_own_constants() const;
    // A reshaped copy; keys are input indices, shapes as ov::PartialShape reads them: "[1..8,3,?]". Throws
    // std::runtime_error with OpenVINO's reason.
    std::shared_ptr<Graph> reshaped(const std::map<std::size_t, std::string>& shapes) const;
    // See openvino_graph.hpp.
    std::string content() const;
    std::size_t tensor_bytes() const;
    std::map<std::size_t, Axis> layout_batch_axes() const;
    std::vector<std::vector<std::int64_t>> symbolic_batch_axes(const std::vector<Axis>& inputs) const;
    std::shared_ptr<Graph> batch_first(const std::vector<Axis>& inputs, const std::vector<Axis>& outputs) const;
    // See openvino_padding.hpp.
    std::shared_ptr<Graph> padded_inside(std::size_t input, std::int64_t axis,
                                         const std::vector<std::int64_t>& lengths) const;
    // See openvino_values.hpp.
    std::vector<InputValues> input_values() const;
    // See openvino_rows.hpp.
    RowProof prove_rows(const std::vector<std::vector<Axis>>& choices) const;
    const Impl& impl() const { return *impl_; }

  private:
    std::shared_ptr<const Impl> impl_;
};

using Properties = std::map<std::string, std::string>;

// Owns an ov::Core. Thread-safe. Every method throws std::runtime_error with OpenVINO's reason.
class Runtime {
  public:
    Runtime();
    ~Runtime();
    std::vector<std::string> available_devices() const;
    std::string device_property(const std::string& device, const std::string& name) const;
    std::map<std::string, bool> supported_properties(const std::string& device) const;
    void register_plugin(const std::string& library, const std::string& device);
    void set_property(const std::string& device, const Properties& properties);
    std::shared_ptr<Graph> read_model(const std::string& path, const std::string& weights) const;
    std::shared_ptr<Graph> read_model_bytes(const std::string& model, const char* weights, std::size_t size) const;
    // `model` is an `ov::Model*`. The graph is a copy, but for the constants, which it shares and keeps alive.
    std::shared_ptr<Graph> adopt(const void* model) const;
    std::shared_ptr<CompiledModel> compile(const Graph& graph, const std::string& device, const Properties& properties);
    std::shared_ptr<CompiledModel> import_blob(const std::string& blob, const std::string& device,
                                               const Properties& properties);

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

// `model` is an `ov::CompiledModel*`; the result shares what it stands for, and outlives it.
std::shared_ptr<CompiledModel> adopt_compiled(const void* model);

std::string openvino_version();
// The std::type_info of ov::Model, ov::CompiledModel and ov::Tensor, for pybind11's conduit.
const void* openvino_model_type_info();
const void* openvino_compiled_model_type_info();
const void* openvino_tensor_type_info();

}  // namespace ovengine
