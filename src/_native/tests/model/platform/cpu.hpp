// Sharing of cache lines is nothing to a model checker; waiting is.
#pragma once

#include "checker.hpp"

namespace ovengine::platform {
inline constexpr std::size_t kNoSharing = 8;
inline constexpr std::size_t kSlabAlignment = 64;
inline void relax() noexcept { model::yield(); }
}  // namespace ovengine::platform
