#include "device/openvino_constants.hpp"

#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <new>
#include <openvino/op/constant.hpp>
#include <openvino/op/util/multi_subgraph_base.hpp>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

namespace ovengine {
namespace {

using Constant = ov::op::v0::Constant;

constexpr std::size_t kAlignment = 64;  // of constants: the CPU plugin copies those that lie elsewhere
constexpr std::size_t kHugePage = std::size_t{2} << 20;

std::size_t rounded_up(std::size_t bytes, std::size_t step) { return (bytes + step - 1) / step * step; }

// The files that are mapped into this process, by where they are.
class MappedFiles {
  public:
    MappedFiles() {
        std::ifstream maps("/proc/self/maps");
        for (std::string line; std::getline(maps, line);) {
            std::istringstream words(line);
            std::string range, access, offset, device, inode, path;
            words >> range >> access >> offset >> device >> inode;
            std::getline(words >> std::ws, path);
            if (inode == "0") continue;  // no file
            const auto dash = range.find('-');
            files_[std::stoull(range.substr(0, dash), nullptr, 16)] = {std::stoull(range.substr(dash + 1), nullptr, 16),
                                                                       path};
        }
    }
    // The path of the file at this address; null where there is none.
    const std::string* at(const void* address) const {
        const auto place = reinterpret_cast<std::uintptr_t>(address);
        auto next = files_.upper_bound(place);
        if (next == files_.begin()) return nullptr;
        const auto& [end, path] = std::prev(next)->second;
        return place < end ? &path : nullptr;
    }

  private:
    std::map<std::uintptr_t, std::pair<std::uintptr_t, std::string>> files_;  // first address -> end, path
};

// Notices when one of some files is changed.
class Watch {
  public:
    void add(const std::string& path) { before_.emplace(path, version(path)); }
    void check() const {
        for (const auto& [path, before] : before_)
            if (version(path) != before)
                throw std::runtime_error(path + " was changed while it was read; load it again");
    }

  private:
    using Version = std::tuple<dev_t, ino_t, off_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t>;
    static Version version(const std::string& path) {
        struct stat found{};  // of zeros where the file is gone: the mapping keeps what was in it
        if (::stat(path.c_str(), &found) != 0) return {};
        return {found.st_dev,          found.st_ino,         found.st_size,        found.st_mtim.tv_sec,
                found.st_mtim.tv_nsec, found.st_ctim.tv_sec, found.st_ctim.tv_nsec};
    }
    std::map<std::string, Version> before_;
};

// A read of this process's memory that fails, instead of ending the process, where a mapped file has become shorter.
void copy_safely(std::byte* to, const void* from, std::size_t bytes) {
    for (std::size_t done = 0; done < bytes;) {
        const iovec local{to + done, bytes - done};
        const iovec remote{const_cast<std::byte*>(static_cast<const std::byte*>(from)) + done, bytes - done};
        const ssize_t copied = ::process_vm_readv(::getpid(), &local, 1, &remote, 1, 0);
        if (copied > 0) {
            done += static_cast<std::size_t>(copied);
        } else if (errno == EFAULT) {
            throw std::runtime_error("a file of weights became shorter while it was read; load it again");
        } else {  // a sandbox may forbid it
            std::memcpy(to + done, static_cast<const std::byte*>(from) + done, bytes - done);
            return;
        }
    }
}

void for_each_constant(const ov::Model& model, const std::function<void(const std::shared_ptr<Constant>&)>& act) {
    for (const auto& node : model.get_ops()) {
        if (const auto constant = ov::as_type_ptr<Constant>(node)) act(constant);
        if (const auto outer = ov::as_type_ptr<ov::op::util::MultiSubGraphOp>(node))
            for (const auto& body : outer->get_functions()) for_each_constant(*body, act);
    }
}

bool is_plain(const Constant& constant) {
    return constant.get_element_type() != ov::element::string && constant.get_byte_size() > 0;
}

}  // namespace

std::size_t mapped_bytes(const ov::Model& model) {
    const MappedFiles files;
    std::map<const void*, std::size_t> sizes;  // several constants may lie in one place
    for_each_constant(model, [&](const auto& constant) {
        if (is_plain(*constant) && files.at(constant->get_data_ptr()) != nullptr)
            sizes[constant->get_data_ptr()] = constant->get_byte_size();
    });
    std::size_t sum = 0;
    for (const auto& [place, bytes] : sizes) sum += bytes;
    return sum;
}

std::shared_ptr<ov::Model> with_own_constants(const ov::Model& model, bool all) {
    const auto copy = model.clone();  // shares the constants
    const MappedFiles files;
    Watch watch;
    std::map<std::pair<const void*, std::size_t>, std::size_t> offsets;  // of what is copied, in the new memory
    std::size_t bytes = 0;
    const auto is_copied = [&](const Constant& constant) {
        return is_plain(constant) && (all || files.at(constant.get_data_ptr()) != nullptr);
    };
    for_each_constant(*copy, [&](const auto& constant) {
        if (!is_copied(*constant)) return;
        if (const std::string* path = files.at(constant->get_data_ptr())) watch.add(*path);
        if (offsets.try_emplace({constant->get_data_ptr(), constant->get_byte_size()}, bytes).second)
            bytes += rounded_up(constant->get_byte_size(), kAlignment);
    });
    if (offsets.empty()) return copy;

    const std::size_t alignment = bytes < kHugePage ? kAlignment : kHugePage;
    const std::size_t size = rounded_up(bytes, alignment);
    const std::shared_ptr<void> memory(std::aligned_alloc(alignment, size), std::free);
    if (memory == nullptr) throw std::bad_alloc();
    if (alignment == kHugePage) ::madvise(memory.get(), size, MADV_HUGEPAGE);  // a fifth of the time
    auto* const begin = static_cast<std::byte*>(memory.get());
    for (const auto& [source, offset] : offsets) copy_safely(begin + offset, source.first, source.second);
    watch.check();

    for_each_constant(*copy, [&](const auto& constant) {
        if (!is_copied(*constant)) return;
        const std::size_t offset = offsets.at({constant->get_data_ptr(), constant->get_byte_size()});
        const auto own =
            std::make_shared<Constant>(constant->get_element_type(), constant->get_shape(), begin + offset, memory);
        own->set_friendly_name(constant->get_friendly_name());
        own->get_rt_info() = constant->get_rt_info();
        own->output(0).set_names(constant->output(0).get_names());
        own->output(0).get_rt_info() = constant->output(0).get_rt_info();
        for (auto& input : constant->output(0).get_target_inputs()) input.replace_source_output(own->output(0));
    });
    return copy;
}

}  // namespace ovengine
