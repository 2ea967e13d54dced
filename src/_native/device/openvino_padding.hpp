// Padding inside a model: one of its axes is padded to the next of a few lengths, and masks keep that from showing.
#pragma once

#include <cstdint>
#include <memory>
#include <openvino/core/model.hpp>
#include <vector>

namespace ovengine {

// Half of the shortest of `lengths`.
std::int64_t shortest_padded(const std::vector<std::int64_t>& lengths);

// A copy that takes the same inputs and gives the same outputs, and inside of which `axis` of input `index` has one of
// `lengths` (ascending; or its own length, beyond the last one and below shortest_padded()). A device that prepares
// itself for each new shape then meets only a few. Columns that are padding hold anything, but for operators that look
// across columns: before those they are filled with what does not count, and means are taken over the true length.
//
// Throws std::runtime_error at the first operator whose use of the axis is not known; what it does with values is for
// the caller to try out.
std::shared_ptr<ov::Model> padded_inside(const ov::Model& model, std::size_t index, std::int64_t axis,
                                         const std::vector<std::int64_t>& lengths);

}  // namespace ovengine
