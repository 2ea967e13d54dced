// A test framework of one page: named cases, checks that go on, requirements that do not.
#pragma once

#include <atomic>
#include <cstdio>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

// TEST("what is true") { CHECK(...); }
//
// A case belongs to the suite that its file is named for: lane_test.cpp is the suite `lane`.
// CHECK, CHECK_EQ: any thread; the case goes on. REQUIRE: the case's own thread; the case ends.
namespace check {

struct Case {
    std::string suite, name;
    void (*run)();
};

inline std::vector<Case>& cases() {
    static std::vector<Case> all;
    return all;
}

inline std::atomic<int> failures{0};

struct Stop {};

struct Register {
    Register(std::string_view file, const char* name, void (*run)()) {
        const auto start = file.find_last_of('/') + 1;
        cases().push_back({std::string(file.substr(start, file.rfind("_test.cpp") - start)), name, run});
    }
};

inline bool report(bool good, const char* file, int line, const std::string& what) {
    if (good) return true;
    failures.fetch_add(1, std::memory_order_relaxed);
    std::fprintf(stderr, "%s:%d: not so: %s\n", file, line, what.c_str());
    return false;
}

template <class A, class B>
std::string compared(const char* text, const A& a, const B& b) {
    std::ostringstream out;
    out << text << " (" << +a << " and " << +b << ")";
    return out.str();
}

}  // namespace check

#define CHECK_JOIN_(a, b) a##b
#define CHECK_JOIN(a, b) CHECK_JOIN_(a, b)
#define TEST_(name, id)                                                           \
    static void id();                                                             \
    static const check::Register CHECK_JOIN(id, _registered){__FILE__, name, id}; \
    static void id()
#define TEST(name) TEST_(name, CHECK_JOIN(test_of_line_, __LINE__))
#define CHECK(...) check::report(static_cast<bool>(__VA_ARGS__), __FILE__, __LINE__, #__VA_ARGS__)
#define CHECK_EQ(a, b)                                                                                                \
    [&](const auto& left, const auto& right) {                                                                        \
        return left == right || check::report(false, __FILE__, __LINE__, check::compared(#a " == " #b, left, right)); \
    }(a, b)
#define REQUIRE(...)                                  \
    do {                                              \
        if (!CHECK(__VA_ARGS__)) throw check::Stop{}; \
    } while (false)
