#include <algorithm>
#include <limits>
#include <map>
#include <string_view>

#include "device/openvino_row_rules.hpp"

namespace ovengine {
namespace {

constexpr Size kUnknown{0, 0, false};
// Above it nothing is computed; far from an overflow.
constexpr std::int64_t kMost = std::int64_t{1} << 40;

bool is_large(Size a) { return a.times > kMost || a.plus > kMost || a.times < -kMost || a.plus < -kMost; }

// Nothing for what depends on the number of rows in another way.
using Result = std::optional<Size>;
using Binary = Result (*)(Size, Size);

// What is computed of sizes that are no more than not known, is not known either.
template <Binary function>
Result both(Size a, Size b) {
    if (!a.counts_rows() && !b.counts_rows() && (!a.is_known || !b.is_known)) return kUnknown;
    if (!a.is_known || !b.is_known || is_large(a) || is_large(b)) return std::nullopt;
    return function(a, b);
}

Result add(Size a, Size b) { return Size{a.times + b.times, a.plus + b.plus}; }
Result subtract(Size a, Size b) { return Size{a.times - b.times, a.plus - b.plus}; }
Result multiply(Size a, Size b) {
    if (a.counts_rows() && b.counts_rows()) return std::nullopt;
    if (a.counts_rows()) std::swap(a, b);
    constexpr std::int64_t kMostFactor = std::int64_t{1} << 20;
    if (std::max(std::abs(a.plus), std::max(std::abs(b.times), std::abs(b.plus))) > kMostFactor) return std::nullopt;
    return Size{a.plus * b.times, a.plus * b.plus};
}
Result divide(Size a, Size b) {
    if (b.times != 0)
        return b.plus == 0 && a.plus == 0 && a.times % b.times == 0 ? Result({0, a.times / b.times}) : std::nullopt;
    if (b.plus == 0 || a.times % b.plus != 0 || a.plus % b.plus != 0)
        return a.times == 0 ? Result(kUnknown) : std::nullopt;
    return Size{a.times / b.plus, a.plus / b.plus};
}

// -1, 0 or 1 where a is less than, equal to or greater than b for any number of rows.
std::optional<int> compare(Size a, Size b) {
    const Size by{a.times - b.times, a.plus - b.plus};
    if (by.times == 0) return by.plus < 0 ? -1 : by.plus > 0 ? 1 : 0;
    const std::int64_t first = by.times + by.plus;  // for one row; from there on it goes away from zero or towards it
    if (by.times > 0 && first > 0) return 1;
    if (by.times < 0 && first < 0) return -1;
    return std::nullopt;
}
template <bool if_less, bool if_equal, bool if_greater>
Result compared(Size a, Size b) {
    const auto order = compare(a, b);
    if (!order) return std::nullopt;
    return Size{0, *order < 0 ? if_less : *order == 0 ? if_equal : if_greater};
}
Result most(Size a, Size b) {
    // Not less for one row, and from there on.
    if (a.times >= b.times && a.times + a.plus >= b.times + b.plus) return a;
    if (b.times >= a.times && b.times + b.plus >= a.times + a.plus) return b;
    return std::nullopt;
}
Result least(Size a, Size b) {
    if (a.times <= b.times && a.times + a.plus <= b.times + b.plus) return a;
    if (b.times <= a.times && b.times + b.plus <= a.times + a.plus) return b;
    return std::nullopt;
}

std::optional<Sizes> elementwise(const RowOperator& op, Result (*function)(Size, Size)) {
    const auto a = op.sizes(0), b = op.sizes(1);
    if (!a || !b || a->empty() || b->empty()) return std::nullopt;
    if (a->size() != b->size() && a->size() != 1 && b->size() != 1) return std::nullopt;
    // Elements in order are all that is kept of a shape.
    if (op.rank(0) > 1 || op.rank(1) > 1) return std::nullopt;
    Sizes found;
    for (std::size_t i = 0; i < std::max(a->size(), b->size()); ++i) {
        const Result one = function((*a)[a->size() == 1 ? 0 : i], (*b)[b->size() == 1 ? 0 : i]);
        if (!one) return std::nullopt;
        found.push_back(*one);
    }
    return found;
}

std::optional<Sizes> selected(const RowOperator& op) {
    const auto which = op.sizes(0), a = op.sizes(1), b = op.sizes(2);
    if (!which || !a || !b || op.rank(0) > 1 || op.rank(1) > 1 || op.rank(2) > 1) return std::nullopt;
    const std::size_t count = std::max({which->size(), a->size(), b->size()});
    Sizes found;
    for (std::size_t i = 0; i < count; ++i) {
        const auto at = [&](const Sizes& all) -> const Size* {
            return all.size() == 1 ? &all[0] : all.size() == count ? &all[i] : nullptr;
        };
        const Size *flag = at(*which), *yes = at(*a), *no = at(*b);
        if (flag == nullptr || yes == nullptr || no == nullptr) return std::nullopt;
        if (flag->counts_rows() || !flag->is_known) return std::nullopt;
        found.push_back(flag->plus != 0 ? *yes : *no);
    }
    return found;
}

std::optional<Sizes> gathered(const RowOperator& op) {
    const auto from = op.sizes(0);
    const auto places = op.integers(1), axis = op.integers(2);
    if (!from || !places || !axis || op.rank(0) != 1 || op.rank(1) > 1) return std::nullopt;
    Sizes found;
    for (std::int64_t place : *places) {
        if (place < 0) place += static_cast<std::int64_t>(from->size());
        if (place < 0 || place >= static_cast<std::int64_t>(from->size())) return std::nullopt;
        found.push_back((*from)[static_cast<std::size_t>(place)]);
    }
    return found;
}

std::optional<Sizes> concatenated(const RowOperator& op) {
    Sizes found;
    for (std::size_t port = 0; port < op.size(); ++port) {
        const auto part = op.sizes(port);
        if (!part || op.rank(port) != 1) return std::nullopt;
        found.insert(found.end(), part->begin(), part->end());
    }
    return found;
}

std::optional<Sizes> sliced(const RowOperator& op, bool is_strided) {
    const auto from = op.sizes(0);
    const auto begin = op.integers(1), end = op.integers(2);
    const auto step = op.size() > 3 ? op.integers(3) : std::vector<std::int64_t>{1};
    if (!from || !begin || !end || !step || op.rank(0) != 1) return std::nullopt;
    if (begin->size() != 1 || end->size() != 1 || step->size() != 1 || step->front() <= 0) return std::nullopt;
    const auto length = static_cast<std::int64_t>(from->size());
    std::int64_t first = begin->front(), last = end->front();
    if (is_strided) {
        const auto flag = [&](const char* name) {
            const auto mask = op.attributes().numbers(name);
            return mask && !mask->empty() && mask->front() != 0;
        };
        if (flag("new_axis_mask") || flag("ellipsis_mask")) return std::nullopt;
        if (flag("shrink_axis_mask")) {
            if (first < 0) first += length;
            if (flag("begin_mask") || first < 0 || first >= length) return std::nullopt;
            return Sizes{(*from)[static_cast<std::size_t>(first)]};
        }
        if (flag("begin_mask")) first = 0;
        if (flag("end_mask")) last = length;
    }
    if (first < 0) first += length;
    if (last < 0) last += length;
    first = std::clamp<std::int64_t>(first, 0, length);
    last = std::clamp<std::int64_t>(last, 0, length);
    Sizes found;
    for (std::int64_t place = first; place < last; place += step->front())
        found.push_back((*from)[static_cast<std::size_t>(place)]);
    return found;
}

std::optional<Sizes> part(const RowOperator& op, std::size_t output) {
    const auto from = op.sizes(0);
    if (!from || op.rank(0) != 1) return std::nullopt;
    std::size_t first = 0;
    for (std::size_t i = 0; i <= output; ++i) {
        const auto& shape = op.node().get_output_partial_shape(i);
        if (shape.is_dynamic()) return std::nullopt;
        const std::size_t length = ov::shape_size(shape.to_shape());
        if (i == output && first + length <= from->size())
            return Sizes(from->begin() + static_cast<std::ptrdiff_t>(first),
                         from->begin() + static_cast<std::ptrdiff_t>(first + length));
        first += length;
    }
    return std::nullopt;
}

std::optional<Sizes> product(const RowOperator& op) {
    const auto factors = op.sizes(0);
    const auto axes = op.axes(1, op.rank(0));
    if (!factors || op.rank(0) != 1 || !axes || *axes != std::vector<std::int64_t>{0}) return std::nullopt;
    Size found{0, 1};
    for (const Size& factor : *factors) {
        const Result next = both<multiply>(found, factor);
        if (!next) return std::nullopt;
        found = *next;
    }
    return Sizes{found};
}

// Fills a shape with one number, as ConstantOfShape does.
std::optional<Sizes> repeated(const RowOperator& op) {
    const auto one = op.sizes(0);
    const auto& shape = op.node().get_output_partial_shape(0);
    if (!one || one->size() != 1 || shape.is_dynamic() || op.any(RowState::Kind::counted)) return std::nullopt;
    return Sizes(ov::shape_size(shape.to_shape()), one->front());
}

std::optional<Sizes> same(const RowOperator& op) { return op.sizes(0); }

// Integers are kept whatever they are converted to, but for flags and small types.
std::optional<Sizes> converted(const RowOperator& op) {
    const auto type = op.node().get_output_element_type(0);
    if (!type.is_static() || type.bitwidth() < 32) return std::nullopt;
    return op.sizes(0);
}

}  // namespace

std::optional<Sizes> computed_sizes(const RowOperator& op, std::size_t output) {
    static const std::map<std::string_view, Result (*)(Size, Size)> functions{
        {"Add", both<add>},
        {"Subtract", both<subtract>},
        {"Multiply", both<multiply>},
        {"Divide", both<divide>},
        {"Maximum", both<most>},
        {"Minimum", both<least>},
        {"Equal", both<compared<false, true, false>>},
        {"NotEqual", both<compared<true, false, true>>},
        {"Less", both<compared<true, false, false>>},
        {"LessEqual", both<compared<true, true, false>>},
        {"Greater", both<compared<false, false, true>>},
        {"GreaterEqual", both<compared<false, true, true>>},
    };
    const std::string_view type = op.node().get_type_name();
    if (const auto function = functions.find(type); function != functions.end())
        return elementwise(op, function->second);
    if (type == "Convert") return converted(op);
    if (type == "Squeeze" || type == "Unsqueeze" || type == "Reshape")
        return op.others_are_shared({0}) ? same(op) : std::nullopt;
    if (type == "Gather") return gathered(op);
    if (type == "Concat") return concatenated(op);
    if (type == "Slice") return sliced(op, false);
    if (type == "StridedSlice") return sliced(op, true);
    if (type == "Split" || type == "VariadicSplit") return part(op, output);
    if (type == "ReduceProd") return product(op);
    if (type == "Select") return selected(op);
    if (type == "Broadcast") return repeated(op);
    return std::nullopt;
}

}  // namespace ovengine
