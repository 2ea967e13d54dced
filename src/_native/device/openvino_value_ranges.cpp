#include "device/openvino_value_ranges.hpp"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <openvino/op/clamp.hpp>
#include <openvino/op/cum_sum.hpp>
#include <openvino/op/scatter_elements_update.hpp>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include "device/openvino_known_values.hpp"

namespace ovengine {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr Range kAny{};
constexpr Range kFlag{0, 1};
// Floating-point numbers may be rounded to bf16, and must not become infinite in f16.
constexpr double kRounding = 1.0 / 128;
constexpr double kMostReal = 32768;
// The CPU plugin computes all integers in 32 bits, some of them as floating-point numbers.
constexpr double kMostComputed = 1 << 24;

using Inputs = std::function<Range(std::size_t)>;
using Rule = std::function<Range(const ov::Output<const ov::Node>&, const Inputs&)>;

Range hull(std::initializer_list<double> values) { return {std::min(values), std::max(values)}; }
Range join(Range a, Range b) { return {std::min(a.low, b.low), std::max(a.high, b.high)}; }

Range add(Range a, Range b) { return {a.low + b.low, a.high + b.high}; }
Range subtract(Range a, Range b) { return {a.low - b.high, a.high - b.low}; }
Range multiply(Range a, Range b) { return hull({a.low * b.low, a.low * b.high, a.high * b.low, a.high * b.high}); }
Range divide(Range a, Range b) {
    if (b.low <= 0 && b.high >= 0) return kAny;
    return multiply(a, hull({1 / b.low, 1 / b.high}));
}
Range times(Range a, double count) { return multiply(a, {count, count}); }
Range magnitude(Range a) {
    const double most = std::max(std::abs(a.low), std::abs(a.high));
    return {a.low > 0 ? a.low : a.high < 0 ? -a.high : 0, most};
}

double elements(const ov::PartialShape& shape) {
    return shape.is_static() ? static_cast<double>(ov::shape_size(shape.to_shape())) : kInfinity;
}
double longest(const ov::PartialShape& shape) {
    if (shape.rank().is_dynamic()) return kInfinity;
    double length = 0;
    for (const auto& dimension : shape) {
        const auto most = dimension.get_max_length();
        length = std::max(length, most < 0 ? kInfinity : static_cast<double>(most));
    }
    return length;
}

// A rule for the ranges of the first two inputs, or of the first one, where they are bounded.
Rule two(Range (*rule)(Range, Range)) {
    return [rule](const auto&, const Inputs& in) {
        const Range a = in(0);
        if (!a.is_bounded()) return kAny;
        const Range b = in(1);
        return b.is_bounded() ? rule(a, b) : kAny;
    };
}
Rule one(Range (*rule)(Range)) {
    return [rule](const auto&, const Inputs& in) {
        const Range a = in(0);
        return a.is_bounded() ? rule(a) : kAny;
    };
}
Rule first() {
    return [](const auto&, const Inputs& in) { return in(0); };
}
Rule of_inputs(std::vector<std::size_t> ports) {
    return [ports](const auto&, const Inputs& in) {
        Range all = in(ports.front());
        for (const std::size_t port : ports) all = join(all, in(port));
        return all;
    };
}
// Within bounds that hold whatever the numbers are, unless they are undefined.
Rule bounded(Range bounds) {
    return [bounds](const auto&, const Inputs& in) { return in(0).is_bounded() ? bounds : kAny; };
}

// The remainder has the sign of the dividend, or of the divisor in FloorMod.
Range remainder(const ov::Output<const ov::Node>& output, const Inputs& in, bool of_divisor) {
    const Range divisor = in(1), dividend = in(0);
    const bool is_real = output.get_element_type().is_real();
    if (!divisor.is_bounded() || divisor.low <= 0 || !dividend.is_bounded()) return kAny;
    if (!is_real && magnitude(dividend).high > kMostComputed) return kAny;
    const double most = divisor.high - (is_real ? 0 : 1);
    if (of_divisor) return {0, most};
    return {dividend.low >= 0 ? 0 : -most, dividend.high <= 0 ? 0 : most};
}

Range concatenated(const ov::Output<const ov::Node>& output, const Inputs& in) {
    Range all = in(0);
    for (std::size_t port = 1; port < output.get_node()->get_input_size(); ++port) all = join(all, in(port));
    return all;
}
Range converted(const ov::Output<const ov::Node>& output, const Inputs& in) {
    const Range range = in(0);
    if (output.get_element_type() == ov::element::boolean) return kFlag;
    // Whether it cuts off or rounds.
    return output.get_element_type().is_integral() ? Range{std::floor(range.low), std::ceil(range.high)} : range;
}
Range summed(const ov::Output<const ov::Node>& output, const Inputs& in) {
    const double count = elements(output.get_node()->get_input_partial_shape(0)) / elements(output.get_partial_shape());
    return std::isfinite(count) && in(0).is_bounded() ? times(in(0), count) : kAny;
}
Range summed_so_far(const ov::Output<const ov::Node>& output, const Inputs& in) {
    const double count = longest(output.get_partial_shape());
    const Range each = in(0);
    if (!std::isfinite(count) || !each.is_bounded()) return kAny;
    const Range sums = join(each, times(each, count));  // of one to all
    const auto& sum = dynamic_cast<const ov::op::v0::CumSum&>(*output.get_node());
    return sum.is_exclusive() ? join({0, 0}, sums) : sums;
}
Range clamped(const ov::Output<const ov::Node>& output, const Inputs& in) {
    const Range range = in(0);
    const auto& clamp = dynamic_cast<const ov::op::v0::Clamp&>(*output.get_node());
    if (output.get_element_type().is_real() && !range.is_bounded()) return kAny;
    return {std::clamp(range.low, clamp.get_min(), clamp.get_max()),
            std::clamp(range.high, clamp.get_min(), clamp.get_max())};
}
// Of floating-point numbers, one that is undefined may win.
Range least(const ov::Output<const ov::Node>& output, const Inputs& in) {
    const Range a = in(0), b = in(1);
    if (output.get_element_type().is_real() && (!a.is_bounded() || !b.is_bounded())) return kAny;
    return {std::min(a.low, b.low), std::min(a.high, b.high)};
}
Range most(const ov::Output<const ov::Node>& output, const Inputs& in) {
    const Range a = in(0), b = in(1);
    if (output.get_element_type().is_real() && (!a.is_bounded() || !b.is_bounded())) return kAny;
    return {std::max(a.low, b.low), std::max(a.high, b.high)};
}
Range largest_with_places(const ov::Output<const ov::Node>& output, const Inputs& in) {
    if (output.get_index() == 0) return in(0);
    return {0, longest(output.get_node()->get_input_partial_shape(0)) - 1};
}
Range places(const ov::Output<const ov::Node>& output, const Inputs&) {
    return {0, longest(output.get_node()->get_input_partial_shape(0)) - 1};
}
Range lengths(const ov::Output<const ov::Node>& output, const Inputs&) {
    const auto& shape = output.get_node()->get_input_partial_shape(0);
    if (shape.rank().is_dynamic()) return kAny;
    double shortest = kInfinity;
    for (const auto& dimension : shape) shortest = std::min(shortest, static_cast<double>(dimension.get_min_length()));
    return {shape.size() == 0 ? 0 : shortest, longest(shape)};
}
Range between_buckets(const ov::Output<const ov::Node>& output, const Inputs&) {
    return {0, longest(output.get_node()->get_input_partial_shape(1))};
}
Range in_sequence(const ov::Output<const ov::Node>& output, const Inputs&) {
    return {0, longest(output.get_node()->get_input_partial_shape(0))};
}
Range scattered(const ov::Output<const ov::Node>& output, const Inputs& in) {
    using Reduction = ov::op::v12::ScatterElementsUpdate::Reduction;
    const auto* reduced = dynamic_cast<const ov::op::v12::ScatterElementsUpdate*>(output.get_node());
    const bool replaces = reduced == nullptr || reduced->get_reduction() == Reduction::NONE;
    return replaces && std::string_view(output.get_node()->get_type_info().version_id) != "opset15" ? join(in(0), in(2))
                                                                                                    : kAny;
}

const std::unordered_map<std::string_view, Rule>& rules() {
    static const std::unordered_map<std::string_view, Rule> known = [] {
        std::unordered_map<std::string_view, Rule> made{
            {"Abs", one(magnitude)},
            {"Add", two(add)},
            {"Subtract", two(subtract)},
            {"Multiply", two(multiply)},
            {"Divide", two(divide)},
            {"Mod", [](const auto& output, const Inputs& in) { return remainder(output, in, false); }},
            {"FloorMod", [](const auto& output, const Inputs& in) { return remainder(output, in, true); }},
            {"Negative", one([](Range a) { return Range{-a.high, -a.low}; })},
            {"Minimum", least},
            {"Maximum", most},
            {"Clamp", clamped},
            {"Relu", one([](Range a) { return Range{std::max(a.low, 0.0), std::max(a.high, 0.0)}; })},
            {"Floor", one([](Range a) { return Range{std::floor(a.low), std::floor(a.high)}; })},
            {"Ceiling", one([](Range a) { return Range{std::ceil(a.low), std::ceil(a.high)}; })},
            {"Round", one([](Range a) { return Range{std::floor(a.low), std::ceil(a.high)}; })},
            {"SquaredDifference", two([](Range a, Range b) {
                 const Range by = magnitude(subtract(a, b));
                 return multiply(by, by);
             })},
            {"Sqrt", one([](Range a) { return a.low < 0 ? kAny : Range{std::sqrt(a.low), std::sqrt(a.high)}; })},
            {"Sign", bounded({-1, 1})},
            {"Sigmoid", bounded(kFlag)},
            {"Softmax", bounded(kFlag)},
            {"HardSigmoid", bounded(kFlag)},
            {"HSigmoid", bounded(kFlag)},
            {"Tanh", bounded({-1, 1})},
            {"Sin", bounded({-1, 1})},
            {"Cos", bounded({-1, 1})},
            {"Convert", converted},
            {"ConvertLike", converted},
            {"Concat", concatenated},
            {"Select", of_inputs({1, 2})},
            {"Pad",
             [](const ov::Output<const ov::Node>& output, const Inputs& in) {
                 return output.get_node()->get_input_size() > 3 ? join(in(0), in(3)) : join(in(0), {0, 0});
             }},
            {"OneHot", of_inputs({2, 3})},
            {"Range", of_inputs({0, 1})},
            {"ReduceSum", summed},
            {"CumSum", summed_so_far},
            {"TopK", largest_with_places},
            {"NonZero", places},
            {"ShapeOf", lengths},
            {"Bucketize", between_buckets},
            {"SearchSorted", in_sequence},
            {"ScatterUpdate", of_inputs({0, 2})},
            {"ScatterElementsUpdate", scattered},
            {"ScatterNDUpdate", scattered},
            {"SliceScatter", of_inputs({0, 1})},
            {"Eye", [](const auto&, const Inputs&) { return kFlag; }},
        };
        for (const std::string_view flags :
             {"Equal", "NotEqual", "Less", "LessEqual", "Greater", "GreaterEqual", "LogicalAnd", "LogicalOr",
              "LogicalXor", "LogicalNot", "Xor", "ReduceLogicalAnd", "ReduceLogicalOr", "IsNaN", "IsInf", "IsFinite"})
            made.emplace(flags, [](const auto&, const Inputs&) { return kFlag; });
        for (const std::string_view moved :
             {"Broadcast", "DepthToSpace",    "Gather",    "GatherElements", "GatherND", "Identity", "Parameter",
              "ReduceMax", "ReduceMean",      "ReduceMin", "Reshape",        "Result",   "Reverse",  "ReverseSequence",
              "Roll",      "ShuffleChannels", "Slice",     "SpaceToDepth",   "Split",    "Squeeze",  "StridedSlice",
              "Tile",      "Transpose",       "Unsqueeze", "VariadicSplit"})
            made.emplace(moved, first());
        return made;
    }();
    return known;
}

bool rounds(std::string_view type) {
    static const std::unordered_set<std::string_view> known{
        "Add",      "Subtract",  "Multiply",   "Divide", "Mod",     "FloorMod",   "SquaredDifference",
        "Sqrt",     "ReduceSum", "ReduceMean", "CumSum", "Sigmoid", "Softmax",    "HardSigmoid",
        "HSigmoid", "Tanh",      "Sin",        "Cos",    "Convert", "ConvertLike"};
    return known.count(type) > 0;
}

}  // namespace

Range any_value(const ov::element::Type& type) {
    if (type == ov::element::boolean) return kFlag;
    if (type == ov::element::u8) return {0, 255};
    if (type == ov::element::i8) return {-128, 127};
    return kAny;
}

Range range_of(const ov::Output<const ov::Node>& output, const std::function<Range(std::size_t)>& input) {
    const std::string_view type = output.get_node()->get_type_name();
    const ov::element::Type& element = output.get_element_type();
    const auto rule = rules().find(type);
    if (rule == rules().end()) return any_value(element);
    Range range = rule->second(output, input);
    if (element == ov::element::boolean) return kFlag;
    if (element.is_real()) {
        if (rounds(type))
            range = {range.low - std::abs(range.low) * kRounding, range.high + std::abs(range.high) * kRounding};
        return range.is_bounded() && std::max(-range.low, range.high) <= kMostReal ? range : kAny;
    }
    range = {std::floor(range.low), std::ceil(range.high)};
    if (rounds(type) && range.is_bounded() && magnitude(range).high > kMostComputed) return any_value(element);
    if (element.is_integral_number() && !element.is_signed() && range.low < 0) return any_value(element);
    return any_value(element).holds(range) ? range : any_value(element);
}

}  // namespace ovengine
