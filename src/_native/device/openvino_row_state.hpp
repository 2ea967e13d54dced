// What a tensor inside a graph has to do with the rows of a batch.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace ovengine {

// An integer that may depend on the number of rows n: `times * n + plus`. One that is not known depends on nothing.
struct Size {
    std::int64_t times = 0, plus = 0;
    bool is_known = true;

    bool counts_rows() const { return times != 0; }
    bool is(std::int64_t value) const { return is_known && times == 0 && plus == value; }
    // Whether it is `block` for each row.
    bool is_rows(std::int64_t block) const { return times == block && plus == 0; }
    bool operator==(const Size&) const = default;
};
// The elements of a small tensor of integers, in order.
using Sizes = std::vector<Size>;

// No batch has more rows.
inline constexpr std::int64_t kMostRows = std::int64_t{1} << 24;

// Holds for any number of rows n from 1 to kMostRows.
struct RowState {
    enum class Kind {
        // The same whatever the rows are, and however many.
        shared,
        // The shape does not depend on the rows; the values depend on n and on no row's values.
        counted,
        // The dimension `axis` is `block * n`, and no other depends on n. The part of row i, `block` places long,
        // starts
        // at `i * block`; it depends on the values of row i and on what is shared, in the same way for all i and n.
        batched,
        // Rows are mixed, told apart by their place, or refused if there is another number of them.
        mixed,
        // There is no rule, or what the rule needs to know is not in the graph.
        unknown,
    };
    Kind kind = Kind::unknown;
    std::int64_t axis = 0, block = 1;
    // Where the values are known, of `shared` and `counted`.
    std::optional<Sizes> sizes;

    bool is(Kind other) const { return kind == other; }
};

}  // namespace ovengine
