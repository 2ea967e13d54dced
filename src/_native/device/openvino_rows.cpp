#include "device/openvino_rows.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <openvino/op/parameter.hpp>
#include <openvino/op/result.hpp>
#include <stdexcept>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "device/openvino_row_rules.hpp"

namespace ovengine {
namespace {

using Kind = RowState::Kind;

constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();
// Of the ways in which rows may lie in inputs that belong together, so many are followed.
constexpr std::size_t kMostWays = 8;

class RowSearch {
  public:
    RowSearch(const ov::Model& model, const std::vector<std::vector<Axis>>& choices)
        : model_(model), choices_(choices), order_(model.get_ordered_ops()) {
        if (choices.size() != model.get_parameters().size()) throw std::invalid_argument("choices are for each input");
        for (std::size_t input = 0; input < choices.size(); ++input) add_input(input);
        for (const auto& node : order_)
            if (!ov::is_type<ov::op::v0::Parameter>(node)) follow(*node);
    }

    RowProof run() {
        for (std::size_t family = 0; family < families_.size(); ++family)
            if (families_[family].parent == kNone) choose(families_[family]);
        RowProof found{{}, {}, false, {}};
        for (std::size_t input = 0; input < choices_.size(); ++input) {
            const Family& family = families_[root_of(input)];
            found.inputs.push_back(choices_[input][way_of(input, family.chosen)]);
            found.is_refuted = found.is_refuted || family.ways[family.chosen].mixed > 0;
        }
        bool is_proven = true;
        for (const auto& result : model_.get_results()) {
            const RowState& state = chosen_state(result->input_value(0));
            const bool has_rows = state.is(Kind::batched) && state.block == 1;
            found.outputs.push_back(has_rows ? Axis(state.axis) : std::nullopt);
            is_proven = is_proven && has_rows;
        }
        if (!is_proven) found.unproven = first_unproven();
        return found;
    }

  private:
    // One way in which rows may lie in all inputs of a family.
    struct Way {
        std::size_t left = 0, right = 0;  // of the two families that it is made of
        int mixed = 0, shared = 0;
        std::int64_t axes = 0;

        auto cost() const { return std::tuple(mixed, shared, axes); }
    };
    // Inputs that meet in an operator. At first each is a family; the first ones in `families_`.
    struct Family {
        std::vector<Way> ways;
        std::size_t parent = kNone;        // that it has become a part of
        std::vector<std::size_t> place{};  // by way of the parent, the own way
        std::size_t chosen = 0;
    };
    // Of one output of a node: its states by way of a family, or one where it depends on no input.
    struct Tensor {
        std::size_t family = kNone;
        std::vector<RowState> states;
    };

    void add_input(std::size_t input) {
        Family family;
        Tensor tensor{input, {}};
        const auto rank = model_.get_parameters()[input]->get_partial_shape().rank();
        if (choices_[input].empty()) throw std::invalid_argument("an input needs a choice");
        for (const Axis& axis : choices_[input]) {
            if (axis && (*axis < 0 || rank.is_dynamic() || *axis >= rank.get_length()))
                throw std::invalid_argument("an input has no such axis");
            family.ways.push_back({0, 0, 0, axis ? 0 : 1, axis.value_or(0)});
            tensor.states.push_back(axis ? batched(*axis, 1) : RowState{Kind::shared, 0, 1, std::nullopt});
        }
        families_.push_back(std::move(family));
        tensors_[model_.get_parameters()[input].get()].push_back(std::move(tensor));
    }

    void follow(ov::Node& node) {
        std::vector<std::size_t> met;
        for (const auto& input : node.input_values())
            if (const Tensor& tensor = at(input); tensor.family != kNone) {
                const std::size_t family = root_of(tensor.family);
                if (std::find(met.begin(), met.end(), family) == met.end()) met.push_back(family);
            }
        std::size_t family = met.empty() ? kNone : met.front();
        std::vector<Tensor>& outputs = tensors_[&node];
        for (std::size_t next = 1; next < met.size(); ++next)
            family = join(next == 1 ? family : narrow(family), met[next]);
        outputs.assign(node.get_output_size(), {family, {}});
        const std::size_t ways = family == kNone ? 1 : families_[family].ways.size();
        for (std::size_t way = 0; way < ways; ++way) follow(node, family, way, outputs);
        if (met.size() > 1) narrow(family);
    }

    void follow(ov::Node& node, std::size_t family, std::size_t way, std::vector<Tensor>& outputs) {
        std::vector<const RowState*> inputs;
        bool was_mixed = false;
        for (const auto& input : node.input_values()) {
            inputs.push_back(&state(input, way));
            was_mixed = was_mixed || inputs.back()->is(Kind::mixed);
        }
        const RowOperator op(node, std::move(inputs));
        bool is_mixed = false;
        for (std::size_t output = 0; output < outputs.size(); ++output) {
            outputs[output].states.push_back(row_state(op, output));
            is_mixed = is_mixed || outputs[output].states.back().is(Kind::mixed);
        }
        if (ov::is_type<ov::op::v0::Result>(&node)) {
            const RowState& last = outputs.front().states.back();
            // An output that all rows share is none of a batch.
            is_mixed = is_mixed || (!last.is(Kind::unknown) && !(last.is(Kind::batched) && last.block == 1));
        }
        if (family != kNone && is_mixed && !was_mixed) ++families_[family].ways[way].mixed;
    }

    // All ways of one with all ways of the other.
    std::size_t join(std::size_t left, std::size_t right) {
        const std::size_t joined = families_.size();
        families_.emplace_back();
        for (std::size_t a = 0; a < families_[left].ways.size(); ++a)
            for (std::size_t b = 0; b < families_[right].ways.size(); ++b) {
                const Way &one = families_[left].ways[a], &other = families_[right].ways[b];
                families_[joined].ways.push_back(
                    {a, b, one.mixed + other.mixed, one.shared + other.shared, one.axes + other.axes});
            }
        families_[left].parent = families_[right].parent = joined;
        for (const Way& way : families_[joined].ways) {
            families_[left].place.push_back(way.left);
            families_[right].place.push_back(way.right);
        }
        return joined;
    }

    // Goes on with the best ways of a family alone, as a new one.
    std::size_t narrow(std::size_t family) {
        const std::vector<Way>& ways = families_[family].ways;
        if (ways.size() <= kMostWays) return family;
        std::vector<std::size_t> kept(ways.size());
        std::iota(kept.begin(), kept.end(), 0);
        std::stable_sort(kept.begin(), kept.end(),
                         [&](std::size_t a, std::size_t b) { return ways[a].cost() < ways[b].cost(); });
        kept.resize(kMostWays);
        Family narrowed;
        for (const std::size_t way : kept) narrowed.ways.push_back(ways[way]);
        families_[family].parent = families_.size();
        families_[family].place = std::move(kept);
        families_.push_back(std::move(narrowed));
        return families_.size() - 1;
    }

    std::size_t root_of(std::size_t family) {
        const std::size_t parent = families_[family].parent;
        if (parent == kNone) return family;
        const std::size_t root = root_of(parent);
        if (parent != root) {
            std::vector<std::size_t> place;
            for (const std::size_t way : families_[parent].place) place.push_back(families_[family].place[way]);
            families_[family].place = std::move(place);
            families_[family].parent = root;
        }
        return root;
    }
    // The way of a family by that of its root.
    std::size_t way_of(std::size_t family, std::size_t way) {
        return root_of(family) == family ? way : families_[family].place[way];
    }

    Tensor& at(const ov::Output<ov::Node>& output) { return tensors_.at(output.get_node())[output.get_index()]; }
    const RowState& state(const ov::Output<ov::Node>& output, std::size_t way) {
        const Tensor& tensor = at(output);
        return tensor.family == kNone ? tensor.states.front() : tensor.states[way_of(tensor.family, way)];
    }
    const RowState& chosen_state(const ov::Output<ov::Node>& output) {
        const Tensor& tensor = at(output);
        return state(output, tensor.family == kNone ? 0 : families_[root_of(tensor.family)].chosen);
    }

    static void choose(Family& family) {
        const auto best = std::min_element(family.ways.begin(), family.ways.end(),
                                           [](const Way& a, const Way& b) { return a.cost() < b.cost(); });
        family.chosen = static_cast<std::size_t>(best - family.ways.begin());
    }

    std::string first_unproven() {
        const auto is_bad = [](const RowState& state) { return state.is(Kind::mixed) || state.is(Kind::unknown); };
        for (const auto& node : order_) {
            const auto outputs = node->outputs();
            const bool is_result = ov::is_type<ov::op::v0::Result>(node);
            if (std::any_of(outputs.begin(), outputs.end(), [&](const auto& one) {
                    return (is_result || !one.get_target_inputs().empty()) && is_bad(chosen_state(one));
                }))
                return std::string(node->get_type_name()) + " '" + node->get_friendly_name() + "'";
        }
        return "an output that is the same for all rows";
    }

    const ov::Model& model_;
    const std::vector<std::vector<Axis>>& choices_;
    const std::vector<std::shared_ptr<ov::Node>> order_;
    std::vector<Family> families_;
    std::unordered_map<const ov::Node*, std::vector<Tensor>> tensors_;
};

}  // namespace

RowProof prove_rows(const ov::Model& model, const std::vector<std::vector<Axis>>& choices) {
    try {
        return RowSearch(model, choices).run();
    } catch (const std::exception& error) {  // a graph of a kind that nobody has thought of
        return {{}, {}, false, error.what()};
    }
}

}  // namespace ovengine
