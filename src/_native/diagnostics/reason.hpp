// reason(): what the exception that is being handled says.
#pragma once

#include <exception>

namespace ovengine {

// In a catch block, whatever is caught there; valid until its end.
inline const char* reason() noexcept {
    try {
        throw;
    } catch (const std::exception& error) {
        return error.what();
    } catch (...) {
        return "an exception that is no std::exception";
    }
}

}  // namespace ovengine
