// Runs the cases whose suite is, or whose name contains, the first argument; all of them without one.
#include <chrono>
#include <exception>

#include "check.hpp"

int main(int argc, char** argv) {
    const std::string_view wanted = argc > 1 ? argv[1] : "";
    int passed = 0, failed = 0;
    for (const auto& test : check::cases()) {
        if (test.suite != wanted && test.name.find(wanted) == std::string::npos) continue;
        // Before it runs, so that a case that hangs is known by name.
        std::printf("%s: %s ", test.suite.c_str(), test.name.c_str());
        std::fflush(stdout);
        const auto start = std::chrono::steady_clock::now();
        const int before = check::failures.load();
        try {
            test.run();
        } catch (const check::Stop&) {
        } catch (const std::exception& error) {
            check::report(false, test.suite.c_str(), 0, error.what());
        }
        const bool good = check::failures.load() == before;
        ++(good ? passed : failed);
        const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
        std::printf("%s (%.0f ms)\n", good ? "ok" : "FAILED", took.count());
    }
    std::printf("%d passed, %d failed\n", passed, failed);
    return failed == 0 && passed > 0 ? 0 : 1;
}
