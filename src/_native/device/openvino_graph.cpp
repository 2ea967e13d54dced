#include "device/openvino_graph.hpp"

#include <algorithm>
#include <functional>
#include <numeric>
#include <openvino/core/layout.hpp>
#include <openvino/core/symbol.hpp>
#include <openvino/op/constant.hpp>
#include <openvino/op/parameter.hpp>
#include <openvino/op/result.hpp>
#include <openvino/op/transpose.hpp>
#include <openvino/op/util/multi_subgraph_base.hpp>
#include <openvino/pass/serialize.hpp>
#include <sstream>
#include <streambuf>
#include <string_view>

namespace ovengine {
namespace {

// A stream that keeps a hash of what is written instead of the bytes.
class HashingBuffer final : public std::streambuf {
  public:
    std::size_t hash() const noexcept { return hash_; }

  protected:
    std::streamsize xsputn(const char* data, std::streamsize size) override {
        constexpr std::hash<std::string_view> hash;
        const std::size_t both[] = {hash_, hash({data, static_cast<std::size_t>(size)})};
        hash_ = hash({reinterpret_cast<const char*>(both), sizeof both});
        written_ += size;
        return size;
    }
    int_type overflow(int_type character) override {
        const char byte = traits_type::to_char_type(character);
        xsputn(&byte, 1);
        return character;
    }
    pos_type seekoff(off_type, std::ios_base::seekdir, std::ios_base::openmode) override { return written_; }

  private:
    std::size_t hash_ = 0;
    std::streamoff written_ = 0;
};

// Names that OpenVINO makes up count what the process has made before.
void drop_made_up_names(const ov::Model& model) {
    std::size_t index = 0;
    for (const auto& node : model.get_ordered_ops()) {
        node->set_friendly_name(std::to_string(index++));
        node->get_rt_info().erase("fused_names_0");
        if (const auto inner = ov::as_type_ptr<ov::op::util::MultiSubGraphOp>(node))
            for (const auto& body : inner->get_functions()) drop_made_up_names(*body);
    }
}

// The order of dimensions in which `axis` comes first, or (inverse) goes back to its place.
std::shared_ptr<ov::op::v0::Constant> order(std::int64_t axis, std::int64_t rank, bool inverse) {
    std::vector<std::int64_t> dimensions(static_cast<std::size_t>(rank));
    std::iota(dimensions.begin(), dimensions.end(), 0);
    const auto begin = dimensions.begin();
    if (inverse)
        std::rotate(begin, begin + 1, begin + axis + 1);
    else
        std::rotate(begin, begin + axis, begin + axis + 1);
    return ov::op::v0::Constant::create(ov::element::i64, {dimensions.size()}, dimensions);
}

}  // namespace

std::string content(const ov::Model& model) {
    const auto copy = model.clone();  // shares the constants
    copy->set_friendly_name("model");
    copy->get_rt_info().clear();
    drop_made_up_names(*copy);
    HashingBuffer weights;
    std::ostream weights_stream(&weights);
    std::ostringstream structure;
    ov::pass::Serialize(structure, weights_stream).run_on_model(copy);
    structure << weights.hash();
    return structure.str();
}

bool is_quantized(const ov::Node& node) {
    const std::string_view type = node.get_type_info().name;
    if (type == "FakeQuantize" || type == "FakeConvert") return true;
    if (type != "Constant" && type != "Convert") return false;
    const ov::element::Type element = node.get_output_element_type(0);
    return element != ov::element::boolean && element.is_static() && element != ov::element::string &&
           element.bitwidth() <= 8;
}

std::size_t tensor_bytes(const ov::Model& model) {
    const auto bytes = [](const ov::Output<ov::Node>& output) {
        const auto& shape = output.get_partial_shape();
        if (shape.rank().is_dynamic() || !output.get_element_type().is_static()) return 0.0;
        double count = 1;
        for (const auto& dimension : shape)
            count *= static_cast<double>(std::max<std::int64_t>(dimension.get_min_length(), 1));
        return count * static_cast<double>(output.get_element_type().bitwidth()) / 8;
    };
    double ports = 0, most = 0;
    for (const auto& node : model.get_ordered_ops()) {
        if (ov::is_type<ov::op::v0::Constant>(node)) continue;
        double held = 0;
        for (const auto& output : node->outputs()) held += bytes(output);
        for (const auto& input : node->input_values())
            if (!ov::is_type<ov::op::v0::Constant>(input.get_node())) held += bytes(input);
        if (ov::is_type<ov::op::v0::Result>(node)) {
            ports += held / 2;  // its input is its output
            continue;
        }
        if (ov::is_type<ov::op::v0::Parameter>(node)) ports += held;
        most = std::max(most, held);
    }
    return static_cast<std::size_t>(std::min(ports + most, 1e18));
}

std::map<std::size_t, Axis> layout_batch_axes(const ov::Model& model) {
    std::map<std::size_t, Axis> axes;
    for (std::size_t index = 0; index < model.inputs().size(); ++index) {
        const auto layout = ov::layout::get_layout(model.input(index));
        if (layout.empty()) continue;
        Axis& axis = axes[index];
        if (!ov::layout::has_batch(layout)) continue;
        axis = ov::layout::batch_idx(layout);
        const auto rank = model.input(index).get_partial_shape().rank();
        if (*axis < 0 && rank.is_static()) *axis += rank.get_length();
    }
    return axes;
}

std::vector<std::vector<std::int64_t>> symbolic_batch_axes(const ov::Model& model, const std::vector<Axis>& inputs) {
    const auto copy = model.clone();
    const auto batch = std::make_shared<ov::Symbol>();
    std::map<ov::Output<ov::Node>, ov::PartialShape> shapes;
    for (std::size_t index = 0; index < inputs.size(); ++index) {
        ov::PartialShape shape = copy->input(index).get_partial_shape();
        if (!inputs[index]) continue;
        ov::Dimension& dimension = shape[static_cast<std::size_t>(*inputs[index])];
        dimension = ov::Dimension::dynamic();
        dimension.set_symbol(batch);
        shapes[copy->input(index)] = shape;
    }
    copy->reshape(shapes);
    std::vector<std::vector<std::int64_t>> axes;
    for (const auto& output : copy->outputs()) {
        axes.emplace_back();
        const auto& shape = output.get_partial_shape();
        for (std::size_t axis = 0; shape.rank().is_static() && axis < shape.size(); ++axis)
            if (ov::symbol::are_equal(shape[axis].get_symbol(), batch))
                axes.back().push_back(static_cast<std::int64_t>(axis));
    }
    return axes;
}

std::shared_ptr<ov::Model> batch_first(const ov::Model& model, const std::vector<Axis>& inputs,
                                       const std::vector<Axis>& outputs) {
    const auto copy = model.clone();
    for (std::size_t index = 0; index < inputs.size(); ++index) {
        const auto axis = inputs[index].value_or(0);
        if (axis == 0) continue;
        const auto old = copy->get_parameters()[index];
        ov::PartialShape shape = old->get_partial_shape();
        const auto rank = static_cast<std::int64_t>(shape.size());
        std::rotate(shape.begin(), shape.begin() + axis, shape.begin() + axis + 1);
        const auto parameter = std::make_shared<ov::op::v0::Parameter>(old->get_element_type(), shape);
        parameter->set_friendly_name(old->get_friendly_name());
        const auto names = old->output(0).get_names();
        const auto transposed = std::make_shared<ov::op::v1::Transpose>(parameter, order(axis, rank, true));
        old->output(0).replace(transposed->output(0));
        transposed->output(0).set_names({});
        parameter->output(0).set_names(names);
        copy->replace_parameter(index, parameter);
    }
    for (std::size_t index = 0; index < outputs.size(); ++index) {
        const auto axis = outputs[index].value_or(0);
        if (axis == 0) continue;
        const auto result = copy->get_results()[index];
        const auto source = result->input_value(0);
        const auto names = result->output(0).get_names();
        const auto rank = static_cast<std::int64_t>(source.get_partial_shape().size());
        const auto transposed = std::make_shared<ov::op::v1::Transpose>(source, order(axis, rank, false));
        result->input(0).replace_source_output(transposed->output(0));
        result->output(0).set_names(names);
    }
    copy->validate_nodes_and_infer_types();
    return copy;
}

}  // namespace ovengine
