#include "device/openvino_value_flow.hpp"

#include <algorithm>
#include <openvino/op/loop.hpp>
#include <openvino/op/result.hpp>
#include <string_view>

#include "device/openvino_known_values.hpp"
#include "device/openvino_value_ranges.hpp"

namespace ovengine {
namespace {

using Subgraphs = ov::op::util::MultiSubGraphOp;

// What a loop may take that ends by itself.
constexpr double kMostTrips = 1e6;
// Values that go round in a loop are followed so often; after that they may be any.
constexpr int kMostRounds = 64, kUsualRounds = 4;

const ov::op::v5::Loop* as_loop(const ov::Node& node) { return dynamic_cast<const ov::op::v5::Loop*>(&node); }
bool is_shape_of(const ov::Node& node) { return std::string_view(node.get_type_name()) == "ShapeOf"; }

ov::Output<ov::Node> parameter(const ov::Model& body, std::size_t index) {
    return body.get_parameters().at(index)->output(0);
}
ov::Output<ov::Node> result(const ov::Model& body, std::size_t index) {
    return body.get_results().at(index)->input_value(0);
}

}  // namespace

bool InputSet::empty(std::size_t first) const {
    for (std::size_t input = 0; input < first; ++input)
        if (has(input)) return false;
    return true;
}
bool InputSet::empty() const {
    return std::all_of(words_.begin(), words_.end(), [](std::uint64_t word) { return word == 0; });
}
bool InputSet::add_all(const InputSet& others) {
    bool grew = false;
    for (std::size_t i = 0; i < words_.size(); ++i) {
        grew = grew || (others.words_[i] & ~words_[i]) != 0;
        words_[i] |= others.words_[i];
    }
    return grew;
}

ValueFlow::ValueFlow(const ov::Model& model)
    : model_(model), inputs_(model.inputs().size()), fearing_nan_(inputs_ + 1) {
    for (const auto& node : order(model)) known_[node.get()];
    for (std::size_t index = 0; index < inputs_; ++index) {
        auto& outputs = known_[model.get_parameters()[index].get()].outputs;
        outputs.assign(1, {InputSet(inputs_ + 1), {}});
        outputs.front().inputs.add(index);
    }
    follow_inputs(model);
    collect_needs(model);
    leave_out_what_does_not_matter();
}

const std::vector<std::shared_ptr<ov::Node>>& ValueFlow::order(const ov::Model& model) {
    auto& nodes = orders_[&model];
    if (nodes.empty()) nodes = model.get_ordered_ops();
    return nodes;
}

// -- where values come from -------------------------------------------------------------------------------------------

void ValueFlow::follow_inputs(const ov::Model& model) {
    for (const auto& node : order(model)) {
        Known& known = known_[node.get()];
        if (known.outputs.empty()) known.outputs.assign(node->get_output_size(), {InputSet(inputs_ + 1), {}});
        if (is_shape_of(*node)) continue;
        if (const auto* inner = dynamic_cast<const Subgraphs*>(node.get())) {
            follow_inputs(*inner);
            continue;
        }
        for (const auto& input : node->input_values())
            for (Value& value : known.outputs) value.inputs.add_all(at(input).inputs);
    }
}

void ValueFlow::follow_inputs(const Subgraphs& node) {
    // How often a loop runs, or which body of two, decides about all that comes of it.
    InputSet deciding(inputs_ + 1);
    deciding.add_all(at(node.input_value(0)).inputs);
    const auto* loop = as_loop(node);
    if (loop != nullptr) deciding.add_all(at(node.input_value(1)).inputs);
    const bool decides = loop != nullptr || node.get_functions().size() > 1;
    for (int body = 0; body < static_cast<int>(node.get_functions().size()); ++body) {
        const ov::Model& inside = *node.get_functions()[body];
        for (const auto& parameter : inside.get_parameters())
            if (auto& outputs = known_[parameter.get()].outputs; outputs.empty()) {
                outputs.assign(1, {InputSet(inputs_ + 1), {}});
                outputs.front().inputs.add(inputs_);  // it may be another value each time
            }
        for (const auto& input : node.get_input_descriptions(body))
            at(parameter(inside, input->m_body_parameter_index))
                .inputs.add_all(at(node.input_value(input->m_input_index)).inputs);
        if (loop != nullptr && loop->get_special_body_ports().current_iteration_input_idx >= 0)
            at(parameter(inside, loop->get_special_body_ports().current_iteration_input_idx)).inputs.add_all(deciding);
        for (bool grew = true; grew;) {
            grew = false;
            follow_inputs(inside);
            for (const auto& input : node.get_input_descriptions(body))
                if (const auto* merged = dynamic_cast<const Subgraphs::MergedInputDescription*>(input.get()))
                    grew = at(parameter(inside, merged->m_body_parameter_index))
                               .inputs.add_all(at(result(inside, merged->m_body_value_index)).inputs) ||
                           grew;
        }
        if (loop != nullptr && loop->get_special_body_ports().body_condition_output_idx >= 0)
            deciding.add_all(at(result(inside, loop->get_special_body_ports().body_condition_output_idx)).inputs);
        auto& outputs = known_.at(&node).outputs;
        for (const auto& output : node.get_output_descriptions(body))
            outputs[output->m_output_index].inputs.add_all(at(result(inside, output->m_body_value_index)).inputs);
    }
    if (decides)
        for (Value& value : known_.at(&node).outputs) value.inputs.add_all(deciding);
}

bool ValueFlow::collect_needs(const ov::Model& model) {
    const std::size_t before = needs_.size();
    for (const auto& node : order(model)) {
        const auto trusted = needs_of(*node);
        const auto note = [&](Need need, const InputSet& inputs) {
            if (inputs.empty(inputs_)) return;
            known_.at(node.get()).needs.push_back(need);
            needs_.push_back({node.get(), need, inputs});
        };
        for (std::size_t port = 0; port < node->get_input_size(); ++port) {
            const InputSet& inputs = at(node->input_value(port)).inputs;
            if (!trusted) note({port, {1, 0}}, inputs);
            if (fears_nan(*node)) fearing_nan_.add_all(inputs);
        }
        if (trusted)
            for (const Need& need : *trusted) note(need, at(node->input_value(need.port)).inputs);
        const auto* inner = dynamic_cast<const Subgraphs*>(node.get());
        if (inner == nullptr) continue;
        bool matters = false;
        for (const auto& body : inner->get_functions()) matters = collect_needs(*body) || matters;
        known_.at(node.get()).matters = matters;
        const auto* loop = as_loop(*node);
        const auto condition = loop == nullptr ? -1 : loop->get_special_body_ports().body_condition_output_idx;
        if (condition < 0 || !at(node->input_value(0)).inputs.empty(inputs_)) continue;
        // Bounded by nothing but a condition on values, it may run for ever.
        const auto trips = known_values(node->input_value(0));
        if (!trips || trips->empty() || trips->front() < 0 || trips->front() > kMostTrips)
            note({1, {1, 0}}, at(result(*loop->get_function(), condition)).inputs);
    }
    return needs_.size() > before;
}

void ValueFlow::leave_out_what_does_not_matter() {
    const auto& nodes = order(model_);
    for (auto node = nodes.rbegin(); node != nodes.rend(); ++node) {
        Known& known = known_.at(node->get());
        const bool is_inner = dynamic_cast<const Subgraphs*>(node->get()) != nullptr;
        known.matters = (is_inner && known.matters) || !known.needs.empty();
        for (const auto& output : (*node)->outputs())
            for (const auto& user : output.get_target_inputs()) {
                const auto found = known_.find(user.get_node());  // not one that no output depends on
                known.matters = known.matters || (found != known_.end() && found->second.matters);
            }
    }
}

// -- ranges -----------------------------------------------------------------------------------------------------------

std::vector<ValueFlow::Unmet> ValueFlow::unmet(const std::vector<Range>& inputs) {
    unmet_.clear();
    for (std::size_t index = 0; index < inputs_; ++index)
        at(model_.get_parameters()[index]->output(0)).range = inputs[index];
    follow_ranges(model_, true);
    return unmet_;
}

void ValueFlow::follow_ranges(const ov::Model& model, bool checks) {
    for (const auto& node : order(model)) {
        Known& known = known_.at(node.get());
        if (!known.matters || node->get_input_size() == 0) continue;
        for (const Need& need : known.needs)
            if (checks && !need.valid.holds(range(node->input_value(need.port)))) {
                const auto same = [&](const Unmet& each) {
                    return each.node == node.get() && each.need.port == need.port;
                };
                unmet_.push_back(*std::find_if(needs_.begin(), needs_.end(), same));
            }
        if (const auto* inner = dynamic_cast<const Subgraphs*>(node.get())) {
            follow_ranges(*inner, checks);
            continue;
        }
        for (const auto& output : node->outputs())
            if (Value& value = at(output); !value.inputs.empty())
                value.range = range_of(output, [&](std::size_t port) { return range(node->input_value(port)); });
    }
}

void ValueFlow::follow_ranges(const Subgraphs& node, bool checks) {
    const bool is_loop = node.get_functions().size() == 1;
    const Range trips = as_loop(node) != nullptr ? range(node.input_value(0)) : Range{};
    const bool is_short = trips.low >= 0 && trips.high <= kMostRounds;
    auto& outputs = known_.at(&node).outputs;
    std::vector<bool> is_known(outputs.size());
    for (int body = 0; body < static_cast<int>(node.get_functions().size()); ++body) {
        const ov::Model& inside = *node.get_functions()[body];
        enter(node, body, trips);
        for (int round = 1; is_loop; ++round) {
            follow_ranges(inside, false);
            if (is_short && round >= trips.high) break;
            if (!repeat(node, body, !is_short && round >= kUsualRounds)) break;
        }
        follow_ranges(inside, checks);
        for (const auto& output : node.get_output_descriptions(body)) {
            Range& found = outputs[output->m_output_index].range;
            const Range more = range(result(inside, output->m_body_value_index));
            found = is_known[output->m_output_index]
                        ? Range{std::min(found.low, more.low), std::max(found.high, more.high)}
                        : more;
            is_known[output->m_output_index] = true;
        }
        // A loop that does not run once gives what it was given.
        for (const auto& input : node.get_input_descriptions(body))
            if (const auto* merged = dynamic_cast<const Subgraphs::MergedInputDescription*>(input.get()))
                for (const auto& output : node.get_output_descriptions(body))
                    if (output->m_body_value_index == merged->m_body_value_index) {
                        Range& found = outputs[output->m_output_index].range;
                        const Range given = at(parameter(inside, merged->m_body_parameter_index)).range;
                        found = {std::min(found.low, given.low), std::max(found.high, given.high)};
                    }
    }
}

void ValueFlow::enter(const Subgraphs& node, int body, Range trips) {
    const ov::Model& inside = *node.get_functions()[body];
    for (const auto& input : node.get_input_descriptions(body))
        at(parameter(inside, input->m_body_parameter_index)).range = range(node.input_value(input->m_input_index));
    const auto* loop = as_loop(node);
    if (loop != nullptr && loop->get_special_body_ports().current_iteration_input_idx >= 0)
        at(parameter(inside, loop->get_special_body_ports().current_iteration_input_idx)).range =
            trips.low >= 0 ? Range{0, std::max(0.0, trips.high - 1)} : Range{};
}

// Hands the values that go round back to the begin of the body; whether they may be others than before.
bool ValueFlow::repeat(const Subgraphs& node, int body, bool widens) {
    const ov::Model& inside = *node.get_functions()[body];
    bool changed = false;
    for (const auto& input : node.get_input_descriptions(body)) {
        const auto* merged = dynamic_cast<const Subgraphs::MergedInputDescription*>(input.get());
        if (merged == nullptr) continue;
        const auto again = parameter(inside, merged->m_body_parameter_index);
        const Range more = range(result(inside, merged->m_body_value_index));
        Range& known = at(again).range;
        if (known.holds(more)) continue;
        known = widens ? any_value(again.get_element_type())
                       : Range{std::min(known.low, more.low), std::max(known.high, more.high)};
        changed = true;
    }
    return changed;
}

Range ValueFlow::range(const ov::Output<ov::Node>& output) {
    Value& value = at(output);
    if (!value.inputs.empty() || value.is_fixed) return value.range;
    value.is_fixed = true;  // also while it is being found, which ends whatever goes round
    const auto known = known_values(output);
    if (known && !known->empty()) {
        const auto [low, high] = std::minmax_element(known->begin(), known->end());
        value.range = {*low, *high};
    } else if (output.get_node()->get_input_size() > 0 &&
               dynamic_cast<const Subgraphs*>(output.get_node()) == nullptr) {
        value.range = range_of(output, [&](std::size_t port) { return range(output.get_node()->input_value(port)); });
    }
    return value.range;
}

}  // namespace ovengine
