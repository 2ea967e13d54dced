#include "device/openvino_values.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <set>
#include <utility>

#include "device/openvino_value_flow.hpp"
#include "device/openvino_value_ranges.hpp"

namespace ovengine {
namespace {

// Integers whose values nothing depends on; none that would leave a signed byte.
constexpr Range kUsual{-128, 127};
// Floating-point numbers that become places must have room for fractions of them.
constexpr double kSmallest = 1.0 / 1024;
// Each follows all values once more.
constexpr int kMostTrials = 2000;

// Large floating-point numbers are rounded to bf16, and must not be rounded up.
double rounded_down(double value) {
    const auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(value));
    return std::min<double>(std::bit_cast<float>(bits & 0xffff0000u), 32768);
}

Range at_first(const ov::element::Type& type) {
    if (type.is_real()) return {};
    if (type == ov::element::boolean) return {0, 1};
    return type.is_signed() ? kUsual : Range{0, kUsual.high};
}

// Narrows the ranges of the inputs until all needs are met, and then widens each as far as that lasts.
class Search {
  public:
    explicit Search(const ov::Model& model) : flow_(model) {
        for (const auto& input : model.inputs()) {
            ranges_.push_back(at_first(input.get_element_type()));
            candidates_.push_back({ranges_.back()});
        }
        chosen_.assign(ranges_.size(), 0);
        unknown_.resize(ranges_.size());
        for (std::size_t input = 0; input < ranges_.size(); ++input) add_candidates(model, input);
    }

    std::vector<InputValues> run() {
        narrow();
        for (std::size_t input = 0; input < ranges_.size(); ++input) widen(input);
        std::vector<InputValues> found;
        for (std::size_t input = 0; input < ranges_.size(); ++input)
            found.push_back({ranges_[input].low, ranges_[input].high, chosen_[input] == 0 && unknown_[input].empty(),
                             flow_.fearing_nan().has(input), unknown_[input]});
        return found;
    }

  private:
    // What one need asks for, from 0 and from 1 on, then ever smaller parts of it.
    void add_candidates(const ov::Model& model, std::size_t input) {
        const auto type = model.input(input).get_element_type();
        std::set<std::pair<double, double>> bounds;
        double least = std::numeric_limits<double>::infinity();
        for (const auto& each : flow_.needs())
            if (each.inputs.has(input) && each.need.valid.low <= each.need.valid.high) {
                const double high = std::isinf(each.need.valid.high) ? kUsual.high : each.need.valid.high;
                bounds.insert({each.need.valid.low, high});
                least = std::min(least, high);
            }
        if (bounds.empty()) return;
        auto& found = candidates_[input];
        const auto add = [&](double low, double high) {
            if (type.is_real()) high = rounded_down(high);
            if (low <= high) found.push_back({low, high});
        };
        std::vector<std::pair<double, double>> widest(bounds.begin(), bounds.end());
        std::stable_sort(widest.begin(), widest.end(),
                         [](auto a, auto b) { return a.second - a.first > b.second - b.first; });
        for (const auto& [low, high] : widest) {
            add(low, high);
            add(0, high);
            add(1, high);
        }
        for (double high = std::floor(least / 2); high >= 1; high = std::floor(high / 2)) {
            add(0, high);
            add(1, high);
        }
        for (double high = 0.5; type.is_real() && high >= kSmallest; high /= 2) add(0, high);
        add(0, 0);
        add(1, 1);
    }

    void narrow() {
        while (true) {
            std::set<std::size_t> narrowed;
            for (const auto& each : unmet()) {
                bool can = each.need.valid.low <= each.need.valid.high;
                for (std::size_t input = 0; can && input < ranges_.size(); ++input)
                    if (each.inputs.has(input) && has_narrower(input)) narrowed.insert(input);
                if (!can || std::none_of(narrowed.begin(), narrowed.end(),
                                         [&](std::size_t input) { return each.inputs.has(input); }))
                    give_up(each);
            }
            if (narrowed.empty()) return;
            for (const std::size_t input : narrowed) ranges_[input] = candidates_[input][++chosen_[input]];
        }
    }
    bool has_narrower(std::size_t input) const { return chosen_[input] + 1 < candidates_[input].size(); }

    // But for those that were given up.
    std::vector<ValueFlow::Unmet> unmet() {
        auto found = flow_.unmet(ranges_);
        std::erase_if(found, [&](const auto& each) { return hopeless_.count({each.node, each.need.port}) > 0; });
        return found;
    }

    void widen(std::size_t input) {
        for (std::size_t candidate = 0; candidate < chosen_[input] && trials_ < kMostTrials; ++candidate, ++trials_) {
            const Range narrow = std::exchange(ranges_[input], candidates_[input][candidate]);
            if (unmet().empty()) {
                chosen_[input] = candidate;
                return;
            }
            ranges_[input] = narrow;
        }
    }

    void give_up(const ValueFlow::Unmet& need) {
        hopeless_.insert({need.node, need.need.port});
        for (std::size_t input = 0; input < ranges_.size(); ++input)
            if (need.inputs.has(input) && unknown_[input].empty())
                unknown_[input] = std::string(need.node->get_type_name()) + " '" + need.node->get_friendly_name() + "'";
    }

    ValueFlow flow_;
    std::vector<Range> ranges_;
    std::vector<std::vector<Range>> candidates_;
    std::vector<std::size_t> chosen_;
    std::vector<std::string> unknown_;
    std::set<std::pair<const ov::Node*, std::size_t>> hopeless_;  // needs by node and input
    int trials_ = 0;
};

}  // namespace

std::vector<InputValues> input_values(const ov::Model& model) {
    try {
        return Search(model).run();
    } catch (const std::exception& error) {  // a graph of a kind that nobody has thought of
        return std::vector<InputValues>(model.inputs().size(), {0, 0, false, true, error.what()});
    }
}

}  // namespace ovengine
