// In which range the outputs of an operator are, by the ranges of its inputs.
#pragma once

#include <functional>

#include "device/openvino_value_needs.hpp"

namespace ovengine {

// Of all values that the element type has.
Range any_value(const ov::element::Type& type);

// Of an output; any value where there is no rule for the operator. `input` gives the range of an input, and is asked
// for no more of them than the answer depends on.
Range range_of(const ov::Output<const ov::Node>& output, const std::function<Range(std::size_t)>& input);

}  // namespace ovengine
