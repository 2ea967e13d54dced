// Which values the inputs of a model may be given in trial runs, so that no operator is led astray by them.
#pragma once

#include <openvino/core/model.hpp>
#include <vector>

#include "device/openvino_executor.hpp"

namespace ovengine {

// For each input in order.
std::vector<InputValues> input_values(const ov::Model& model);

}  // namespace ovengine
