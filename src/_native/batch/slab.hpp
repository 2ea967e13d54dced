// Slab: aligned memory for the rows of one batch, one region per port.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "platform/cpu.hpp"

namespace ovengine {

// `rows` rows of every port, each port's region aligned and contiguous.
class Slab {
  public:
    // `unset`: for memory that is written before anybody reads it, and large enough for the difference to show.
    enum Fill { zeros, unset };

    Slab() = default;
    Slab(const std::vector<std::size_t>& row_bytes, std::size_t rows, Fill fill = zeros) {
        std::size_t total = 0;
        std::vector<std::size_t> offsets;
        for (const auto bytes : row_bytes) {
            offsets.push_back(total);
            const std::size_t size = bytes * rows;
            total += (size + platform::kSlabAlignment - 1) / platform::kSlabAlignment * platform::kSlabAlignment;
        }
        // Never empty, so that a port of zero bytes still has an address.
        total = total == 0 ? platform::kSlabAlignment : total;
        memory_.reset(static_cast<std::byte*>(::operator new(total, std::align_val_t{platform::kSlabAlignment})));
        if (fill == zeros) std::memset(memory_.get(), 0, total);
        for (const auto offset : offsets) ports_.push_back(memory_.get() + offset);
    }

    std::byte* port(std::size_t index) const noexcept { return ports_[index]; }
    std::byte* const* ports() const noexcept { return ports_.data(); }

  private:
    struct Free {
        void operator()(std::byte* memory) const noexcept {
            ::operator delete(memory, std::align_val_t{platform::kSlabAlignment});
        }
    };
    std::unique_ptr<std::byte, Free> memory_;
    std::vector<std::byte*> ports_;
};

}  // namespace ovengine
