// The core's atomics, mutexes and futexes as Relacy's, so that the real headers run under the model checker.
//
// tests/model/CMakeLists.txt copies the headers word for word but for `std::atomic<`, `std::mutex` and yielding, which
// become the names below. Each access knows its line (std::source_location), so that one order can be weakened at run
// time (--weaken), without a change to the code: a scenario that still passes then does not need that order.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <iostream>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <numeric>
#include <optional>
#include <set>
#include <source_location>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include <relacy/relacy.hpp>
// Relacy's own names for these would reach into the headers under test.
#undef new
#undef delete
#undef malloc
#undef calloc
#undef realloc
#undef free
#undef assert
#undef errno
#undef memory_order_relaxed
#undef memory_order_consume
#undef memory_order_acquire
#undef memory_order_release
#undef memory_order_acq_rel
#undef memory_order_seq_cst

// Relacy replaces the plain forms only, and finds memory that is used after it was freed through them.
inline void operator delete(void* memory, std::size_t) noexcept { ::operator delete(memory); }
inline void operator delete[](void* memory, std::size_t) noexcept { ::operator delete[](memory); }

namespace ovengine::model {

// One order of one access: a compare-exchange has two, and `both` weakens them together.
struct Site {
    const char* file = "";
    unsigned line = 0;
    const char* part = "";  // order, success, failure, both
    bool operator<(const Site& other) const {
        const int by_file = std::strcmp(file, other.file), by_part = std::strcmp(part, other.part);
        return by_file != 0 ? by_file < 0 : line != other.line ? line < other.line : by_part < 0;
    }
    bool operator==(const Site& other) const { return !(*this < other) && !(other < *this); }
};

struct Access {
    const char* operation;
    std::memory_order order;
};
inline rl::map<Site, Access>::type sites;  // what was seen; not in the memory that Relacy watches
inline std::optional<std::pair<Site, std::memory_order>> weakened;
inline bool record_sites = false;

inline const char* name_of(std::memory_order order) {
    switch (order) {
        case std::memory_order_relaxed: return "relaxed";
        case std::memory_order_consume: return "consume";
        case std::memory_order_acquire: return "acquire";
        case std::memory_order_release: return "release";
        case std::memory_order_acq_rel: return "acq_rel";
        default: return "seq_cst";
    }
}

inline rl::memory_order checked(std::memory_order order) {
    switch (order) {
        case std::memory_order_relaxed: return rl::mo_relaxed;
        case std::memory_order_consume: return rl::mo_consume;
        case std::memory_order_acquire: return rl::mo_acquire;
        case std::memory_order_release: return rl::mo_release;
        case std::memory_order_acq_rel: return rl::mo_acq_rel;
        default: return rl::mo_seq_cst;
    }
}

inline std::memory_order effective(const char* operation, const char* part, std::memory_order order,
                                   const std::source_location& where) {
    if (!record_sites && !weakened) return order;
    const char* const slash = std::strrchr(where.file_name(), '/');
    const char* const file = slash != nullptr ? slash + 1 : where.file_name();
    if (record_sites) sites.insert({Site{file, where.line(), part}, Access{operation, order}});
    if (weakened && (weakened->first == Site{file, where.line(), part} ||
                     (std::strcmp(part, "order") != 0 && weakened->first == Site{file, where.line(), "both"}))) {
        // A failed exchange cannot release.
        if (std::strcmp(part, "failure") == 0 && weakened->second == std::memory_order_release)
            return std::memory_order_relaxed;
        return weakened->second;
    }
    return order;
}

inline rl::debug_info info(const std::source_location& where) {
    return {where.function_name(), where.file_name(), where.line()};
}

using Where = std::source_location;

template <class T>
class atomic {
    // Relacy wants integers.
    using Raw = std::conditional_t<(sizeof(T) > 4), std::uint64_t, std::uint32_t>;
    static Raw raw(T value) {
        if constexpr (std::is_pointer_v<T>)
            return reinterpret_cast<Raw>(value);
        else
            return static_cast<Raw>(value);
    }
    static T cooked(Raw value) {
        if constexpr (std::is_pointer_v<T>)
            return reinterpret_cast<T>(value);
        else
            return static_cast<T>(value);
    }

  public:
    atomic() : value_(Raw{0}) {}
    atomic(T value) : value_(raw(value)) {}

    T load(std::memory_order order, Where where = Where::current()) const {
        return cooked(value_.load(checked(effective("load", "order", order, where)), info(where)));
    }
    void store(T value, std::memory_order order, Where where = Where::current()) {
        value_.store(raw(value), checked(effective("store", "order", order, where)), info(where));
    }
    T exchange(T value, std::memory_order order, Where where = Where::current()) {
        return rmw<rl::rmw_type_swap>("exchange", raw(value), order, where);
    }
    T fetch_add(T value, std::memory_order order, Where where = Where::current()) {
        return rmw<rl::rmw_type_add>("fetch_add", raw(value), order, where);
    }
    T fetch_sub(T value, std::memory_order order, Where where = Where::current()) {
        return rmw<rl::rmw_type_sub>("fetch_sub", raw(value), order, where);
    }
    T fetch_or(T value, std::memory_order order, Where where = Where::current()) {
        return rmw<rl::rmw_type_or>("fetch_or", raw(value), order, where);
    }
    T fetch_and(T value, std::memory_order order, Where where = Where::current()) {
        return rmw<rl::rmw_type_and>("fetch_and", raw(value), order, where);
    }
    bool compare_exchange_weak(T& expected, T value, std::memory_order success, std::memory_order failure,
                               Where where = Where::current()) {
        return compare_exchange<true>(expected, value, success, failure, where);
    }
    bool compare_exchange_strong(T& expected, T value, std::memory_order success, std::memory_order failure,
                                 Where where = Where::current()) {
        return compare_exchange<false>(expected, value, success, failure, where);
    }
    bool compare_exchange_strong(T& expected, T value, std::memory_order order, Where where = Where::current()) {
        const auto failure = order == std::memory_order_acq_rel   ? std::memory_order_acquire
                             : order == std::memory_order_release ? std::memory_order_relaxed
                                                                  : order;
        return compare_exchange<false>(expected, value, order, failure, where);
    }

    // The futex: compares with the newest value, as the kernel does, and orders nothing.
    bool sleep_while(T expected, bool timed, bool& timed_out) {
        rl::context& context = rl::ctx();
        context.sched();
        {
            rl::preemption_disabler alone(context);
            if (value_.rmw(rl::rmw_type_t<rl::rmw_type_add>(), Raw{0}, rl::mo_relaxed, $) != raw(expected))
                return false;
        }
        timed_out = value_.wait(context, timed, true, $) == rl::unpark_reason_timeout;
        return true;
    }
    void wake(int threads) {
        rl::ctx().sched();
        value_.wake(rl::ctx(), std::min(threads, 100), $);
    }

  private:
    template <rl::rmw_type_e kType>
    T rmw(const char* operation, Raw operand, std::memory_order order, const Where& where) {
        return cooked(value_.rmw(rl::rmw_type_t<kType>(), operand, checked(effective(operation, "order", order, where)),
                                 info(where)));
    }
    template <bool kWeak>
    bool compare_exchange(T& expected, T value, std::memory_order success, std::memory_order failure,
                          const Where& where) {
        auto strong = effective("compare_exchange", "success", success, where);
        const auto weak = effective("compare_exchange", "failure", failure, where);
        // Relacy knows no exchange that acquires only when it fails: it acquires always then.
        if (weak == std::memory_order_acquire && strong == std::memory_order_release)
            strong = std::memory_order_acq_rel;
        if (weak == std::memory_order_acquire && strong == std::memory_order_relaxed)
            strong = std::memory_order_acquire;
        Raw seen = raw(expected);
        const bool done =
            value_.compare_exchange(rl::bool_t<kWeak>(), seen, raw(value), checked(strong), checked(weak), info(where));
        expected = cooked(seen);
        return done;
    }

    rl::atomic<Raw> value_;
};

// Memory that is not atomic: an access that is not ordered with another one is an error.
template <class T>
class plain {
  public:
    plain() { value_($) = T{}; }
    plain(T value) { value_($) = value; }
    plain(const plain& other) { value_($) = T(other); }
    plain& operator=(T value) {
        value_($) = value;
        return *this;
    }
    plain& operator=(const plain& other) { return *this = T(other); }
    operator T() const { return value_($); }
    T operator->() const { return value_($); }

  private:
    mutable rl::var<T> value_;
};

class mutex {
  public:
    void lock() { mutex_.lock($); }
    void unlock() { mutex_.unlock($); }

  private:
    rl::mutex mutex_;
};

// Whoever waits by looking again and again lets others run.
inline void yield() { rl::yield(1, $); }
template <class Duration>
void sleep_for(Duration) {
    yield();
}

}  // namespace ovengine::model
