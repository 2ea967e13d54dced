// The values inside a graph that depend on constants and shapes alone.
#pragma once

#include <openvino/core/node.hpp>
#include <optional>
#include <vector>

namespace ovengine {

// All elements of a small tensor; nothing where it is large, or depends on an input, a state or chance.
std::optional<std::vector<double>> known_values(const ov::Output<ov::Node>& output);

}  // namespace ovengine
