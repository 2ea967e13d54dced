// A file descriptor that an event loop can poll and any thread can raise (Linux: eventfd).
#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <system_error>

namespace ovengine::platform {

class SignalFd {
  public:
    SignalFd() : fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
        if (fd_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
    }
    ~SignalFd() { close(fd_); }
    SignalFd(const SignalFd&) = delete;
    SignalFd& operator=(const SignalFd&) = delete;

    int fd() const noexcept { return fd_; }
    void raise() noexcept {
        const std::uint64_t one = 1;
        // Fails only when the counter is at its limit, and then the descriptor is readable anyway.
        [[maybe_unused]] const auto written = write(fd_, &one, sizeof one);
    }
    void clear() noexcept {
        std::uint64_t count = 0;
        [[maybe_unused]] const auto got = read(fd_, &count, sizeof count);
    }

  private:
    int fd_;
};

}  // namespace ovengine::platform
