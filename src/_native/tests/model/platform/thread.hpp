// The checker's threads are simulated: there is nothing to tell the system about them.
#pragma once

#include <string>

namespace ovengine::platform {

inline void block_signals() noexcept {}
inline void name_this_thread(const std::string&) noexcept {}
inline void do_not_preempt() noexcept {}

}  // namespace ovengine::platform
