// Which values an operator of OpenVINO takes on trust, such as indices, and within what bounds it may have them.
#pragma once

#include <cmath>
#include <limits>
#include <openvino/core/node.hpp>
#include <optional>
#include <vector>

namespace ovengine {

// Bounds of every element of a tensor, both included. Without a finite bound a floating-point element may be NaN, too.
// Nothing is within a range whose `low` is above its `high`.
struct Range {
    double low = -std::numeric_limits<double>::infinity();
    double high = std::numeric_limits<double>::infinity();

    bool holds(Range other) const { return low <= other.low && other.high <= high; }
    bool is_bounded() const { return std::isfinite(low) && std::isfinite(high); }
    bool operator==(const Range& other) const = default;
};

struct Need {
    std::size_t port;
    Range valid;
};

// What the operator needs of the values of its inputs, so that it neither leaves its memory nor takes unreasonably long
// or much; none of an input that is not listed. Nothing for an operator that is not known. Bodies are looked into by
// the caller.
std::optional<std::vector<Need>> needs_of(const ov::Node& node);

// Whether an infinite or undefined floating-point value may lead the operator astray.
bool fears_nan(const ov::Node& node);

}  // namespace ovengine
