// The checker's threads do not outlive a scenario.
#pragma once

namespace ovengine::platform {

struct AtWork {
    AtWork() noexcept {}
    ~AtWork() {}
};

}  // namespace ovengine::platform
