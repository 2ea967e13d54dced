// Proves from the operators of a graph that the rows of a batch are independent, and finds the axes that they lie
// along.
#pragma once

#include <openvino/core/model.hpp>
#include <vector>

#include "device/openvino_executor.hpp"

namespace ovengine {

// `choices`: for each input the axes that its rows may lie along, the most plausible first; none: all rows share it.
//
// One pass through the graph in all of these ways at once. Inputs that meet in an operator decide for each other, so
// the work grows with the number of operators and not with the number of combinations.
RowProof prove_rows(const ov::Model& model, const std::vector<std::vector<Axis>>& choices);

}  // namespace ovengine
