#include <algorithm>
#include <limits>

#include "device/openvino_row_rules.hpp"

namespace ovengine {
namespace {

using Kind = RowState::Kind;

// The first input has the rows, and no other depends on the values of any.
bool is_of_first(const RowOperator& op) {
    for (std::size_t port = 1; port < op.size(); ++port)
        if (!op.has(port, Kind::shared) && !op.has(port, Kind::counted)) return false;
    return op.has(0, Kind::batched);
}

RowState transposed(const RowOperator& op, std::size_t) {
    const std::int64_t rank = op.rank(0);
    const auto order = op.integers(1);
    if (!op.has(0, Kind::batched) || !order || rank < 0) return unknown();
    if (order->empty()) return batched(rank - 1 - op[0].axis, op[0].block);
    const auto place = std::find(order->begin(), order->end(), op[0].axis);
    return place == order->end() ? unknown() : batched(place - order->begin(), op[0].block);
}

RowState squeezed(const RowOperator& op, std::size_t) {
    if (!op.has(0, Kind::batched) || op.size() < 2) return unknown();  // all dimensions of 1, also that of one row
    auto axes = op.axes(1, op.rank(0));
    if (!axes || axes->empty()) return unknown();
    std::sort(axes->begin(), axes->end());
    axes->erase(std::unique(axes->begin(), axes->end()), axes->end());
    const auto before = std::lower_bound(axes->begin(), axes->end(), op[0].axis);
    if (before != axes->end() && *before == op[0].axis) return mixed();
    for (const std::int64_t axis : *axes)
        if (op.length(0, axis) != 1) return unknown();  // it may be left as it is
    return batched(op[0].axis - (before - axes->begin()), op[0].block);
}

RowState unsqueezed(const RowOperator& op, std::size_t) {
    if (!op.has(0, Kind::batched) || op.rank(0) < 0) return unknown();
    const auto given = op.integers(1);
    if (!given) return unknown();
    auto axes = op.axes(1, op.rank(0) + static_cast<std::int64_t>(given->size()));
    if (!axes) return unknown();
    std::sort(axes->begin(), axes->end());
    if (std::adjacent_find(axes->begin(), axes->end()) != axes->end()) return unknown();
    std::int64_t axis = op[0].axis;
    for (const std::int64_t added : *axes)
        if (added <= axis) ++axis;
    return batched(axis, op[0].block);
}

constexpr std::int64_t kMostElements = std::int64_t{1} << 50;

// Rows stay whole where as many elements as before are between the begins of two rows.
RowState reshaped(const RowOperator& op, std::size_t) {
    if (!is_of_first(op) || op.rank(0) < 0) return unknown();
    const auto pattern = op.sizes(1);
    if (!pattern) return unknown();
    const RowState& rows = op[0];
    const bool copies = op.attributes().number("special_zero").value_or(0) != 0;
    std::int64_t total = rows.block, stride = rows.block;
    for (std::int64_t axis = 0; axis < op.rank(0); ++axis) {
        if (axis == rows.axis) continue;
        const std::int64_t length = op.length(0, axis);
        if (length <= 0 || total > kMostElements / length) return unknown();
        total *= length;
        if (axis > rows.axis) stride *= length;
    }
    std::vector<Size> to;
    std::optional<std::size_t> inferred;
    std::int64_t product = 1;  // of the dimensions, without the number of rows
    std::size_t counting = 0;
    for (std::size_t place = 0; place < pattern->size(); ++place) {
        Size size = (*pattern)[place];
        if (!size.is_known || (size.counts_rows() && (size.plus != 0 || size.times < 0))) return unknown();
        if (size.is(0) && copies) {
            const auto axis = static_cast<std::int64_t>(place);
            if (axis >= op.rank(0)) return unknown();
            size = axis == rows.axis ? Size{rows.block, 0} : Size{0, op.length(0, axis)};
        }
        to.push_back(size);
        if (size.is(-1)) {
            if (inferred) return unknown();
            inferred = place;
            continue;
        }
        const std::int64_t length = size.counts_rows() ? size.times : size.plus;
        if (length <= 0 || product > kMostElements / length) return unknown();
        product *= length;
        counting += size.counts_rows() ? 1 : 0;
    }
    if (counting > 1 || total % product != 0) return mixed();
    if (inferred) {
        to[*inferred] = counting == 0 ? Size{total / product, 0} : Size{0, total / product};
    } else if (counting == 0 || total != product) {
        return mixed();
    }
    std::int64_t after = 1;
    for (std::size_t place = to.size(); place-- > 0;) {
        if (to[place].counts_rows()) {
            const std::int64_t block = to[place].times;
            return block * after == stride ? batched(static_cast<std::int64_t>(place), block) : mixed();
        }
        after *= to[place].plus;
    }
    return unknown();
}

// Repeats what has one place along an axis: for each row, or within each.
RowState broadcast(const RowOperator& op, std::size_t) {
    const auto to = op.sizes(1);
    const auto mode = op.attributes().text("mode");
    const std::int64_t rank = op.rank(0);
    if (!to || !mode || rank < 0) return unknown();
    if (!op.has(1, Kind::shared) && !op.has(1, Kind::counted)) return unknown();
    auto most = static_cast<std::int64_t>(to->size());
    std::int64_t added = most - rank;
    std::vector<std::int64_t> places;  // of the input's dimensions
    if (*mode == "explicit") {
        const auto mapping = op.size() > 2 ? op.integers(2) : std::nullopt;
        if (!mapping || static_cast<std::int64_t>(mapping->size()) != rank) return unknown();
        places = *mapping;
    } else if ((*mode == "numpy" && added >= 0) || *mode == "bidirectional") {
        most = std::max(most, rank);
        for (std::int64_t axis = 0; axis < rank; ++axis) places.push_back(axis + most - rank);
        added = most - static_cast<std::int64_t>(to->size());
    } else {
        return unknown();
    }
    if (*mode != "bidirectional") added = 0;
    // Which dimension of the output becomes as many as there are rows.
    std::optional<std::int64_t> counting;
    for (std::size_t place = 0; place < to->size(); ++place)
        if ((*to)[place].counts_rows()) {
            if (counting || (*to)[place].plus != 0 || (*to)[place].times < 0) return unknown();
            counting = static_cast<std::int64_t>(place) + added;
        }
    if (op.has(0, Kind::batched)) {
        const std::int64_t place = places[static_cast<std::size_t>(op[0].axis)];
        if (counting) {
            const Size& size = (*to)[static_cast<std::size_t>(*counting - added)];
            return *counting == place && size.is_rows(op[0].block) ? batched(place, op[0].block) : mixed();
        }
        const std::int64_t asked = place - added;
        const bool is_left = *mode == "bidirectional" && (asked < 0 || (*to)[static_cast<std::size_t>(asked)].is(1));
        return is_left ? batched(place, op[0].block) : mixed();
    }
    if (!op.has(0, Kind::shared) || !counting) return unknown();
    for (std::size_t axis = 0; axis < places.size(); ++axis)
        if (places[axis] == *counting && op.length(0, static_cast<std::int64_t>(axis)) != 1) return unknown();
    return batched(*counting, (*to)[static_cast<std::size_t>(*counting - added)].times);
}

RowState tiled(const RowOperator& op, std::size_t) {
    const auto repeats = op.sizes(1);
    const std::int64_t rank = op.rank(0);
    if (!repeats || rank < 0) return unknown();
    const auto given = static_cast<std::int64_t>(repeats->size());
    const std::int64_t most = std::max(rank, given);
    std::optional<std::int64_t> counting;
    for (std::int64_t place = 0; place < given; ++place) {
        const Size& size = (*repeats)[static_cast<std::size_t>(place)];
        if (!size.counts_rows()) continue;
        if (counting || size.plus != 0 || size.times < 0) return unknown();
        counting = place + most - given;
    }
    if (op.has(0, Kind::batched)) {
        if (counting || !is_of_first(op)) return unknown();
        const std::int64_t place = op[0].axis + most - rank, asked = place - (most - given);
        const bool is_once = asked < 0 || (*repeats)[static_cast<std::size_t>(asked)].is(1);
        return is_once ? batched(place, op[0].block) : mixed();
    }
    if (!op.has(0, Kind::shared) || !counting) return unknown();
    const std::int64_t axis = *counting - (most - rank);
    if (axis >= 0 && op.length(0, axis) != 1) return unknown();
    return batched(*counting, (*repeats)[static_cast<std::size_t>(*counting - (most - given))].times);
}

RowState gathered(const RowOperator& op, std::size_t) {
    const std::int64_t ranks[] = {op.rank(0), op.rank(1)};
    const auto axes = op.axes(2, ranks[0]);
    if (ranks[0] < 0 || ranks[1] < 0 || !axes || axes->size() != 1 || !op.has(2, Kind::shared)) return unknown();
    std::int64_t beside = op.attributes().number("batch_dims").value_or(0);
    if (beside < 0) beside += ranks[1];
    const std::int64_t axis = axes->front();
    if (op.has(0, Kind::batched) && op.has(1, Kind::shared)) {
        if (op[0].axis == axis) return mixed();
        if (beside != 0) return unknown();
        return batched(op[0].axis < axis ? op[0].axis : op[0].axis - 1 + ranks[1], op[0].block);
    }
    if (op.has(0, Kind::shared) && op.has(1, Kind::batched))
        return op[1].axis >= beside ? batched(axis + op[1].axis - beside, op[1].block) : unknown();
    if (!op.has(0, Kind::batched) || !op.has(1, Kind::batched)) return unknown();
    const bool is_beside = op[0].axis == op[1].axis && op[0].axis < beside && op[0].block == op[1].block;
    return is_beside ? batched(op[0].axis, op[0].block) : mixed();
}

// Of places that are told by several indices each.
RowState gathered_at(const RowOperator& op, std::size_t) {
    const auto beside = op.attributes().number("batch_dims");
    if (!beside || *beside != 0 || op.rank(1) < 1 || !op.has(0, Kind::shared) || !op.has(1, Kind::batched))
        return unknown();
    return op[1].axis < op.rank(1) - 1 ? batched(op[1].axis, op[1].block) : mixed();
}

RowState gathered_elements(const RowOperator& op, std::size_t) {
    const auto axis = op.axis("axis", op.rank(0));
    if (!axis || !op.has(0, Kind::batched) || !op.has(1, Kind::batched)) return unknown();
    const bool fits = op[0].axis == op[1].axis && op[0].axis != *axis && op[0].block == op[1].block;
    return fits ? batched(op[0].axis, op[0].block) : mixed();
}

RowState scattered_elements(const RowOperator& op, std::size_t) {
    const auto axes = op.axes(3, op.rank(0));
    if (!axes || axes->size() != 1) return unknown();
    for (const std::size_t port : {0, 1, 2}) {
        if (!op.has(port, Kind::batched)) return unknown();
        if (op[port].axis != op[0].axis || op[port].block != op[0].block || op[port].axis == axes->front())
            return mixed();
    }
    return batched(op[0].axis, op[0].block);
}

// Whether all of the axis of the rows is taken, in order.
bool is_whole(const RowState& rows, const Size& begin, const Size& end) {
    const bool is_far = end.is_known && !end.counts_rows() && end.plus / rows.block >= kMostRows;
    return begin.is(0) && (is_far || end.is_rows(rows.block));
}

RowState sliced(const RowOperator& op, std::size_t) {
    if (!is_of_first(op) || op.rank(0) < 0) return unknown();
    const auto begin = op.sizes(1), end = op.sizes(2);
    const auto step = op.integers(3);
    std::optional<std::vector<std::int64_t>> axes;
    if (op.size() > 4) {
        axes = op.axes(4, op.rank(0));
    } else if (begin) {
        axes.emplace();
        for (std::size_t axis = 0; axis < begin->size(); ++axis) axes->push_back(static_cast<std::int64_t>(axis));
    }
    if (!axes) return unknown();
    const auto place = std::find(axes->begin(), axes->end(), op[0].axis);
    if (place == axes->end()) return op.others_are_shared({0}) ? batched(op[0].axis, op[0].block) : unknown();
    const auto at = static_cast<std::size_t>(place - axes->begin());
    if (!begin || !end || !step || begin->size() != axes->size() || end->size() != axes->size() ||
        step->size() != axes->size())
        return unknown();
    for (std::size_t i = 0; i < axes->size(); ++i)
        if (i != at && ((*begin)[i].counts_rows() || (*end)[i].counts_rows())) return unknown();
    return is_whole(op[0], (*begin)[at], (*end)[at]) && (*step)[at] == 1 ? batched(op[0].axis, op[0].block) : mixed();
}

RowState strided(const RowOperator& op, std::size_t) {
    if (!is_of_first(op) || op.rank(0) < 0) return unknown();
    const auto& places = op.node().get_input_partial_shape(1);
    const auto begin = op.sizes(1), end = op.sizes(2), step = op.sizes(3);
    if (places.is_dynamic() || places.size() != 1) return unknown();
    const auto count = static_cast<std::size_t>(places[0].get_length());
    const auto mask = [&](const char* name) {
        auto flags = op.attributes().numbers(name).value_or(std::vector<std::int64_t>());
        flags.resize(std::max(flags.size(), count), 0);
        return flags;
    };
    const auto from_begin = mask("begin_mask"), to_end = mask("end_mask"), adds = mask("new_axis_mask"),
               drops = mask("shrink_axis_mask"), skips = mask("ellipsis_mask");
    std::int64_t named = 0;
    for (std::size_t i = 0; i < count; ++i) named += skips[i] == 0 && adds[i] == 0 ? 1 : 0;
    // By the dimension that is looked at, of the input and of the output.
    std::int64_t in = 0, out = 0;
    std::optional<std::int64_t> found;
    bool skipped = false;
    for (std::size_t i = 0; i < count; ++i) {
        if (skips[i] != 0) {
            if (skipped || adds[i] != 0 || drops[i] != 0) return unknown();
            skipped = true;
            const std::int64_t span = op.rank(0) - named;
            if (op[0].axis >= in && op[0].axis < in + span) found = out + op[0].axis - in;
            in += span;
            out += span;
        } else if (adds[i] != 0) {
            if (drops[i] != 0) return unknown();
            ++out;
        } else if (in == op[0].axis) {
            const Size any{0, std::numeric_limits<std::int64_t>::max()};
            if (drops[i] != 0) return mixed();
            const bool is_known = (from_begin[i] != 0 || (begin && i < begin->size())) &&
                                  (to_end[i] != 0 || (end && i < end->size())) &&
                                  (op.size() < 4 || (step && i < step->size()));
            if (!is_known) return unknown();
            const Size first = from_begin[i] != 0 ? Size{0, 0} : (*begin)[i], last = to_end[i] != 0 ? any : (*end)[i];
            if (!is_whole(op[0], first, last) || (op.size() > 3 && !(*step)[i].is(1))) return mixed();
            found = out++;
            ++in;
        } else {
            const auto counts = [&](const std::optional<Sizes>& all, std::size_t port) {
                return !op.has(port, Kind::shared) && (!all || i >= all->size() || (*all)[i].counts_rows());
            };
            if ((from_begin[i] == 0 && counts(begin, 1)) || (to_end[i] == 0 && counts(end, 2))) return unknown();
            ++in;
            out += drops[i] != 0 ? 0 : 1;
        }
    }
    if (op.size() > 3 && !op.has(3, Kind::shared)) return unknown();
    if (in > op.rank(0)) return unknown();
    if (!found && op[0].axis >= in) found = out + op[0].axis - in;
    return found ? batched(*found, op[0].block) : unknown();
}

RowState padded(const RowOperator& op, std::size_t) {
    const auto before = op.sizes(1), after = op.sizes(2);
    if (!op.has(0, Kind::batched) || !op.others_are_shared({0}) || !before || !after) return unknown();
    const auto axis = static_cast<std::size_t>(op[0].axis);
    if (axis >= before->size() || axis >= after->size()) return unknown();
    if (!(*before)[axis].is_known || !(*after)[axis].is_known) return unknown();
    return (*before)[axis].is(0) && (*after)[axis].is(0) ? batched(op[0].axis, op[0].block) : mixed();
}

RowState resized(const RowOperator& op, std::size_t) {
    if (!is_of_first(op) || op.rank(0) < 0) return unknown();
    const RowState same = batched(op[0].axis, op[0].block);
    const std::string_view version = op.node().get_type_info().version_id;
    const bool is_oldest = version == "opset1", is_old = version == "opset4";
    for (const char* pads : {"pads_begin", "pads_end"}) {
        const auto lengths = op.attributes().numbers(pads);
        if (lengths && std::any_of(lengths->begin(), lengths->end(), [](std::int64_t by) { return by != 0; }))
            return unknown();
    }
    const std::size_t axes_port = is_oldest ? op.size() : is_old ? 3 : 2;
    std::optional<std::vector<std::int64_t>> axes;
    if (is_oldest || op.size() > axes_port) {
        axes = op.axes(axes_port, op.rank(0));
    } else {
        axes.emplace();
        for (std::int64_t axis = 0; axis < op.rank(0); ++axis) axes->push_back(axis);
    }
    if (!axes) return unknown();
    const auto place = std::find(axes->begin(), axes->end(), op[0].axis);
    if (place == axes->end()) return op.others_are_shared({0}) ? same : unknown();
    // By a factor of 1, which keeps each row, where places are not counted from the corners.
    if (is_oldest ||
        op.attributes().text("coordinate_transformation_mode").value_or("align_corners") == "align_corners")
        return unknown();
    const bool by_scales = op.attributes().text("shape_calculation_mode") == "scales";
    const auto at = static_cast<std::size_t>(place - axes->begin());
    if (!by_scales) {
        const auto sizes = op.sizes(1);
        if (!sizes || sizes->size() != axes->size()) return unknown();
        for (std::size_t i = 0; i < sizes->size(); ++i)
            if (i != at && (*sizes)[i].counts_rows()) return unknown();
        return (*sizes)[at].is_rows(op[0].block) ? same : mixed();
    }
    const auto scales = op.values(is_old ? 2 : 1);
    return scales && scales->size() == axes->size() && (*scales)[at] == 1 ? same : unknown();
}

RowState reversed_sequences(const RowOperator& op, std::size_t) {
    const auto batch = op.axis("batch_axis", op.rank(0)), sequence = op.axis("seq_axis", op.rank(0));
    if (!batch || !sequence || !op.has(0, Kind::batched)) return unknown();
    if (*sequence == op[0].axis) return mixed();
    const RowState same = batched(op[0].axis, op[0].block);
    if (*batch != op[0].axis) return op.has(1, Kind::shared) ? same : unknown();
    return op.has(1, Kind::batched) && op[1].block == op[0].block ? same : unknown();
}

RowState reversed(const RowOperator& op, std::size_t) {
    const auto axes = op.axes(1, op.rank(0));
    if (op.attributes().text("mode") != "index" || !op.has(0, Kind::batched) || !axes) return unknown();
    const bool is_reversed = std::find(axes->begin(), axes->end(), op[0].axis) != axes->end();
    return is_reversed ? mixed() : batched(op[0].axis, op[0].block);
}

RowState rolled(const RowOperator& op, std::size_t) {
    const auto axes = op.axes(2, op.rank(0));
    if (!op.has(0, Kind::batched) || !op.others_are_shared({0}) || !axes || axes->empty()) return unknown();
    const bool is_rolled = std::find(axes->begin(), axes->end(), op[0].axis) != axes->end();
    return is_rolled ? mixed() : batched(op[0].axis, op[0].block);
}

}  // namespace

void add_moving_rules(RowRules& rules) {
    rules.emplace("Broadcast", broadcast);
    rules.emplace("Gather", gathered);
    rules.emplace("GatherElements", gathered_elements);
    rules.emplace("GatherND", gathered_at);
    rules.emplace("Interpolate", resized);
    rules.emplace("Pad", padded);
    rules.emplace("Reshape", reshaped);
    rules.emplace("Reverse", reversed);
    rules.emplace("ReverseSequence", reversed_sequences);
    rules.emplace("Roll", rolled);
    rules.emplace("ScatterElementsUpdate", scattered_elements);
    rules.emplace("Slice", sliced);
    rules.emplace("Squeeze", squeezed);
    rules.emplace("StridedSlice", strided);
    rules.emplace("Tile", tiled);
    rules.emplace("Transpose", transposed);
    rules.emplace("Unsqueeze", unsqueezed);
}

}  // namespace ovengine
