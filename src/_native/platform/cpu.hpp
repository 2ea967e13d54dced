// What depends on the processor: the spin hint, and the distance that keeps two words from sharing a cache line.
#pragma once

#include <cstddef>

namespace ovengine::platform {

// Two lines of 64 bytes: x86 prefetches lines in pairs, and ARM64 servers have lines of up to 128 bytes.
inline constexpr std::size_t kNoSharing = 128;

// Alignment of slabs: a full vector register, and what OpenVINO asks of memory that it binds without a copy.
inline constexpr std::size_t kSlabAlignment = 64;

inline void relax() noexcept {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}  // namespace ovengine::platform
