// What is asked of an ov::Model, and changed in copies of it, before it is compiled.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <openvino/core/model.hpp>
#include <string>
#include <vector>

#include "device/openvino_executor.hpp"

namespace ovengine {

// The structure of the model and a hash of its weights: equal for models that compute the same by the same graph, in
// whatever order they were read. Throws where a node cannot be written as IR.
std::string content(const ov::Model& model);

// Whether a node rounds values to few levels, or holds weights that are rounded so.
bool is_quantized(const ov::Node& node);

// Of all inputs and outputs, and of the largest tensors that one operator has at once: an inference takes no less.
std::size_t tensor_bytes(const ov::Model& model);

// By input index, for inputs that have a layout only: where its batch (N) is.
std::map<std::size_t, Axis> layout_batch_axes(const ov::Model& model);

// The axes of each output that keep the symbol of the batch, when it is put on these axes of the inputs. Symbols get
// lost in some operators, and then there is no such axis.
std::vector<std::vector<std::int64_t>> symbolic_batch_axes(const ov::Model& model, const std::vector<Axis>& inputs);

// A copy whose inputs and outputs have their batch axis first; transposed inside where it is another one. The model
// may have been reshaped before, not after.
std::shared_ptr<ov::Model> batch_first(const ov::Model& model, const std::vector<Axis>& inputs,
                                       const std::vector<Axis>& outputs);

}  // namespace ovengine
