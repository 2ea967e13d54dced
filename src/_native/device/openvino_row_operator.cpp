#include <algorithm>
#include <cmath>
#include <limits>
#include <openvino/core/attribute_visitor.hpp>
#include <string_view>
#include <unordered_set>

#include "device/openvino_known_values.hpp"
#include "device/openvino_row_rules.hpp"

namespace ovengine {

// Larger tensors hold no shapes.
constexpr std::size_t kMostSizes = 256;

class AttributeReader final : public ov::AttributeVisitor {
  public:
    explicit AttributeReader(Attributes& into) : into_(into) {}

    void on_adapter(const std::string&, ov::ValueAccessor<void>&) override {}
    void on_adapter(const std::string& name, ov::ValueAccessor<std::string>& one) override {
        into_.texts_[name] = one.get();
    }
    void on_adapter(const std::string& name, ov::ValueAccessor<bool>& one) override { keep(name, one.get()); }
    void on_adapter(const std::string& name, ov::ValueAccessor<std::int8_t>& one) override { keep(name, one.get()); }
    void on_adapter(const std::string& name, ov::ValueAccessor<std::int16_t>& one) override { keep(name, one.get()); }
    void on_adapter(const std::string& name, ov::ValueAccessor<std::int32_t>& one) override { keep(name, one.get()); }
    void on_adapter(const std::string& name, ov::ValueAccessor<std::int64_t>& one) override { keep(name, one.get()); }
    void on_adapter(const std::string& name, ov::ValueAccessor<std::uint64_t>& one) override {
        keep(name, static_cast<std::int64_t>(one.get()));
    }
    void on_adapter(const std::string& name, ov::ValueAccessor<std::vector<std::int32_t>>& all) override {
        into_.numbers_[name].assign(all.get().begin(), all.get().end());
    }
    void on_adapter(const std::string& name, ov::ValueAccessor<std::vector<std::int64_t>>& all) override {
        into_.numbers_[name] = all.get();
    }
    void on_adapter(const std::string& name, ov::ValueAccessor<std::vector<std::uint64_t>>& all) override {
        into_.numbers_[name].assign(all.get().begin(), all.get().end());
    }

  private:
    void keep(const std::string& name, std::int64_t value) { into_.numbers_[name] = {value}; }

    Attributes& into_;
};

Attributes::Attributes(ov::Node& node) {
    AttributeReader reader(*this);
    node.visit_attributes(reader);
}
std::optional<std::vector<std::int64_t>> Attributes::numbers(const std::string& name) const {
    const auto found = numbers_.find(name);
    return found == numbers_.end() ? std::nullopt : std::optional(found->second);
}
std::optional<std::int64_t> Attributes::number(const std::string& name) const {
    const auto found = numbers_.find(name);
    return found == numbers_.end() || found->second.size() != 1 ? std::nullopt : std::optional(found->second.front());
}
std::optional<std::string> Attributes::text(const std::string& name) const {
    const auto found = texts_.find(name);
    return found == texts_.end() ? std::nullopt : std::optional(found->second);
}

bool RowOperator::any(Kind kind) const {
    return std::any_of(inputs_.begin(), inputs_.end(), [&](const RowState* state) { return state->is(kind); });
}

bool RowOperator::others_are_shared(const std::vector<std::size_t>& ports) const {
    for (std::size_t port = 0; port < size(); ++port)
        if (std::find(ports.begin(), ports.end(), port) == ports.end() && !has(port, Kind::shared)) return false;
    return true;
}

std::int64_t RowOperator::rank(std::size_t port) const {
    const auto& shape = node_.get_input_partial_shape(port);
    return shape.rank().is_static() ? static_cast<std::int64_t>(shape.size()) : -1;
}

std::int64_t RowOperator::output_rank(std::size_t output) const {
    const auto& shape = node_.get_output_partial_shape(output);
    return shape.rank().is_static() ? static_cast<std::int64_t>(shape.size()) : -1;
}

std::int64_t RowOperator::length(std::size_t port, std::int64_t axis) const {
    if (axis < 0 || axis >= rank(port)) return -1;
    const auto& dimension = node_.get_input_partial_shape(port)[static_cast<std::size_t>(axis)];
    return dimension.is_static() ? dimension.get_length() : -1;
}

std::optional<std::vector<double>> RowOperator::values(std::size_t port) const {
    if (!has(port, Kind::shared)) return std::nullopt;
    const auto& shape = node_.get_input_partial_shape(port);
    if (shape.is_dynamic() || ov::shape_size(shape.to_shape()) > kMostSizes) return std::nullopt;
    return known_values(node_.input_value(port));
}

std::optional<Sizes> RowOperator::sizes(std::size_t port) const {
    if (port >= size()) return std::nullopt;
    if (inputs_[port]->sizes) return inputs_[port]->sizes;
    const auto values = this->values(port);
    if (!values) return std::nullopt;
    Sizes found;
    constexpr double kMost = 9.2e18;
    for (const double value : *values) {
        if (std::isnan(value) || (std::abs(value) < kMost && value != std::floor(value))) return std::nullopt;
        using Limits = std::numeric_limits<std::int64_t>;
        found.push_back({0, value >= kMost    ? Limits::max()
                            : value <= -kMost ? Limits::min()
                                              : static_cast<std::int64_t>(value)});
    }
    return found;
}

std::optional<std::vector<std::int64_t>> RowOperator::integers(std::size_t port) const {
    const auto found = sizes(port);
    if (!found) return std::nullopt;
    std::vector<std::int64_t> values;
    for (const Size& size : *found) {
        if (!size.is_known || size.counts_rows()) return std::nullopt;
        values.push_back(size.plus);
    }
    return values;
}

std::optional<std::vector<std::int64_t>> RowOperator::axes(std::size_t port, std::int64_t rank) const {
    auto found = port < size() ? integers(port) : attributes().numbers("axes");
    if (!found || rank < 0) return std::nullopt;
    for (std::int64_t& axis : *found) {
        if (axis < 0) axis += rank;
        if (axis < 0 || axis >= rank) return std::nullopt;
    }
    return found;
}

std::optional<std::int64_t> RowOperator::axis(const std::string& attribute, std::int64_t rank) const {
    auto found = attributes().number(attribute);
    if (!found || rank < 0) return std::nullopt;
    if (*found < 0) *found += rank;
    if (*found < 0 || *found >= rank) return std::nullopt;
    return found;
}

namespace {

using Kind = RowState::Kind;

const RowRules& rules() {
    static const RowRules known = [] {
        RowRules made;
        add_computing_rules(made);
        add_moving_rules(made);
        return made;
    }();
    return known;
}

// Operators from elsewhere may have the name of one of OpenVINO's.
bool is_openvinos(const ov::Node& node) {
    const char* version = node.get_type_info().version_id;
    return version != nullptr &&
           (std::string_view(version).rfind("opset", 0) == 0 || std::string_view(version) == "ie_internal_opset");
}

// Whether equal inputs give equal outputs.
bool repeats(const ov::Node& node) {
    static const std::unordered_set<std::string_view> others{
        "RandomUniform", "Multinomial", "ReadValue", "Assign", "If", "Loop", "TensorIterator"};
    return others.count(node.get_type_name()) == 0;
}

bool is_elementwise(std::string_view type) {
    static const std::unordered_set<std::string_view> known{
        "Abs",       "Add",     "Ceiling",      "Convert", "Divide",    "Equal",      "Floor",
        "FloorMod",  "Greater", "GreaterEqual", "Less",    "LessEqual", "LogicalAnd", "LogicalNot",
        "LogicalOr", "Maximum", "Minimum",      "Mod",     "Multiply",  "Negative",   "NotEqual",
        "Power",     "Select",  "Sqrt",         "Subtract"};
    return known.count(type) > 0;
}

RowState with_sizes(const RowOperator& op, std::size_t output, Kind otherwise) {
    RowState state{otherwise, 0, 1, computed_sizes(op, output)};
    if (state.sizes && state.sizes->size() > kMostSizes) state.sizes.reset();
    if (!state.sizes) return state;
    const bool counts =
        std::any_of(state.sizes->begin(), state.sizes->end(), [](const Size& size) { return size.counts_rows(); });
    state.kind = counts ? Kind::counted : Kind::shared;
    return state;
}

RowState shape_of(const RowOperator& op) {
    const RowState& source = op[0];
    const std::int64_t rank = op.rank(0);
    if (source.is(Kind::mixed) || source.is(Kind::unknown)) return source;
    if (rank < 0) return source.is(Kind::batched) ? unknown() : RowState{Kind::shared, 0, 1, std::nullopt};
    RowState state{source.is(Kind::batched) ? Kind::counted : Kind::shared, 0, 1, Sizes()};
    for (std::int64_t axis = 0; axis < rank; ++axis) {
        const std::int64_t length = op.length(0, axis);
        if (source.is(Kind::batched) && axis == source.axis)
            state.sizes->push_back({source.block, 0});
        else
            state.sizes->push_back({0, std::max<std::int64_t>(length, 0), length >= 0});
    }
    return state;
}

}  // namespace

RowState row_state(const RowOperator& op, std::size_t output) {
    const std::string_view type = op.node().get_type_name();
    if (!is_openvinos(op.node())) return unknown();
    if (type == "ShapeOf") return shape_of(op);
    // The other input gives no more than a type.
    if (type == "ConvertLike") return {op[0].kind, op[0].axis, op[0].block, std::nullopt};
    if (op.any(Kind::mixed)) return mixed();
    if (op.any(Kind::unknown)) return unknown();
    const auto rule = rules().find(type);
    const auto by_rule = [&] { return rule == rules().end() ? unknown() : rule->second(op, output); };
    if (op.any(Kind::batched)) return by_rule();
    if (!repeats(op.node())) return unknown();
    if (!op.any(Kind::counted)) {
        bool any_sizes = false;
        for (std::size_t port = 0; port < op.size(); ++port) any_sizes = any_sizes || op[port].sizes;
        return any_sizes ? with_sizes(op, output, Kind::shared) : RowState{Kind::shared, 0, 1, std::nullopt};
    }
    const RowState state = with_sizes(op, output, is_elementwise(type) ? Kind::counted : Kind::unknown);
    // Which may give rows their dimension.
    return state.is(Kind::unknown) && (type == "Broadcast" || type == "Tile") ? by_rule() : state;
}

}  // namespace ovengine
