// One rule for each operator: how its outputs depend on the rows of a batch, if it is known how its inputs do.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <openvino/core/node.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "device/openvino_row_state.hpp"

namespace ovengine {

// The attributes of an operator by name; numbers as vectors of one element.
class Attributes {
  public:
    explicit Attributes(ov::Node& node);
    // Nothing where the operator has no such attribute.
    std::optional<std::vector<std::int64_t>> numbers(const std::string& name) const;
    std::optional<std::int64_t> number(const std::string& name) const;
    std::optional<std::string> text(const std::string& name) const;

  private:
    friend class AttributeReader;
    std::map<std::string, std::vector<std::int64_t>> numbers_;
    std::map<std::string, std::string> texts_;
};

// An operator with the states of its inputs.
class RowOperator {
  public:
    using Kind = RowState::Kind;
    RowOperator(ov::Node& node, std::vector<const RowState*> inputs) : node_(node), inputs_(std::move(inputs)) {}

    const ov::Node& node() const { return node_; }
    const Attributes& attributes() const {
        if (!attributes_) attributes_.emplace(node_);
        return *attributes_;
    }
    std::size_t size() const { return inputs_.size(); }
    const RowState& operator[](std::size_t port) const { return *inputs_[port]; }
    bool has(std::size_t port, Kind kind) const { return port < size() && inputs_[port]->is(kind); }
    bool any(Kind kind) const;
    // Whether all inputs but these are shared.
    bool others_are_shared(const std::vector<std::size_t>& ports) const;
    // The number of dimensions; -1 where it is not known.
    std::int64_t rank(std::size_t port) const;
    std::int64_t output_rank(std::size_t output = 0) const;
    // The length of a dimension that does not depend on rows; -1 where it is not known.
    std::int64_t length(std::size_t port, std::int64_t axis) const;
    // The elements of a small shared input.
    std::optional<std::vector<double>> values(std::size_t port) const;
    // The integers of a small input, where they do not depend on the values of rows.
    std::optional<Sizes> sizes(std::size_t port) const;
    // The same, where none depends on the number of rows either and all are known.
    std::optional<std::vector<std::int64_t>> integers(std::size_t port) const;
    // Those of an input (a shared one) or, where there is none, of an attribute; negative ones counted from the end of
    // `rank`.
    std::optional<std::vector<std::int64_t>> axes(std::size_t port, std::int64_t rank) const;
    std::optional<std::int64_t> axis(const std::string& attribute, std::int64_t rank) const;

  private:
    ov::Node& node_;
    std::vector<const RowState*> inputs_;
    mutable std::optional<Attributes> attributes_;
};

using RowRule = std::function<RowState(const RowOperator&, std::size_t output)>;
using RowRules = std::unordered_map<std::string_view, RowRule>;

// The state of an output. Sound whatever the graph: what is not known to hold is `unknown`.
RowState row_state(const RowOperator& op, std::size_t output);

inline RowState batched(std::int64_t axis, std::int64_t block) {
    return {RowState::Kind::batched, axis, block, std::nullopt};
}
inline RowState mixed() { return {RowState::Kind::mixed, 0, 1, std::nullopt}; }
inline RowState unknown() { return {RowState::Kind::unknown, 0, 1, std::nullopt}; }

// The rules for operators that compute, openvino_row_rules.cpp; and for those that move or pick elements,
// openvino_row_moves.cpp.
void add_computing_rules(RowRules& rules);
void add_moving_rules(RowRules& rules);

// Of operators on integers that may depend on the number of rows (shapes, for the most part), the outputs' integers.
// openvino_row_sizes.cpp.
std::optional<Sizes> computed_sizes(const RowOperator& op, std::size_t output);

}  // namespace ovengine
