// Follows values through a graph and the bodies in it, from its inputs to the operators that take them on trust.
#pragma once

#include <cstdint>
#include <openvino/core/model.hpp>
#include <openvino/op/util/multi_subgraph_base.hpp>
#include <string>
#include <unordered_map>
#include <vector>

#include "device/openvino_value_needs.hpp"

namespace ovengine {

// A set of inputs of the model.
class InputSet {
  public:
    explicit InputSet(std::size_t inputs = 0) : words_((inputs + 63) / 64) {}
    void add(std::size_t input) { words_[input / 64] |= std::uint64_t{1} << (input % 64); }
    bool has(std::size_t input) const { return (words_[input / 64] >> (input % 64) & 1) != 0; }
    bool empty() const;
    bool empty(std::size_t first) const;  // whether none of the first ones is in it
    // Whether that added any.
    bool add_all(const InputSet& others);

  private:
    std::vector<std::uint64_t> words_;
};

// One thread at a time. The model must stay as it is.
class ValueFlow {
  public:
    // An operator whose need of an input is not met by the values that the model's inputs may have.
    struct Unmet {
        const ov::Node* node;
        Need need;
        InputSet inputs;  // that the values come from
    };

    explicit ValueFlow(const ov::Model& model);

    // All needs of values that come from inputs of the model.
    const std::vector<Unmet>& needs() const { return needs_; }
    // Of which inputs values that are no numbers might lead an operator astray.
    const InputSet& fearing_nan() const { return fearing_nan_; }
    // Those that are not met where each input of the model is in its range.
    std::vector<Unmet> unmet(const std::vector<Range>& inputs);

  private:
    using Subgraphs = ov::op::util::MultiSubGraphOp;
    struct Value {
        InputSet inputs;  // of the model; one beyond them for a body's
        Range range;
        bool is_fixed = false;  // the range depends on no input, and is known
    };
    struct Known {
        std::vector<Value> outputs;
        std::vector<Need> needs;  // of values that come from inputs
        bool matters = true;      // for any need
    };

    const std::vector<std::shared_ptr<ov::Node>>& order(const ov::Model& model);
    Value& at(const ov::Output<ov::Node>& output) { return known_.at(output.get_node()).outputs[output.get_index()]; }

    void follow_inputs(const ov::Model& model);
    void follow_inputs(const Subgraphs& node);
    bool collect_needs(const ov::Model& model);
    void leave_out_what_does_not_matter();

    // `checks`: whether needs that are not met count.
    void follow_ranges(const ov::Model& model, bool checks);
    void follow_ranges(const Subgraphs& node, bool checks);
    void enter(const Subgraphs& node, int body, Range trips);
    bool repeat(const Subgraphs& node, int body, bool widens);
    Range range(const ov::Output<ov::Node>& output);

    const ov::Model& model_;
    const std::size_t inputs_;
    std::unordered_map<const ov::Model*, std::vector<std::shared_ptr<ov::Node>>> orders_;
    std::unordered_map<const ov::Node*, Known> known_;
    std::vector<Unmet> needs_, unmet_;
    InputSet fearing_nan_;
};

}  // namespace ovengine
