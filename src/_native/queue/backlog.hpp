// Backlog: requests that wait in an order that is not that of their arrival.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <set>
#include <utility>

#include "queue/forecast.hpp"
#include "requests/group.hpp"
#include "requests/request.hpp"

namespace ovengine {

// Which request goes next:
//
//   1. The one of the highest priority. A lower one has waited for long enough when it arrived kAgeNs earlier for each
//      step between them: then the oldest of its priority goes. So nobody starves, and between requests that arrive
//      together the higher one always goes first.
//   2. Of those of one priority, one of the group that had the fewest rows, divided by its weight, since it began to
//      wait (start-time fair queueing, Goyal, Vin and Cheng, 1996); of groups that had the same, the one that waits for
//      its turn since longer ago. Requests without a group are a group.
//   3. Of those of one group, the one that is due first (see Forecast::due_ns).
//
// Under the dispatcher's lock. Holds no references: whoever removes a request has the one that came with add().
class Backlog {
  public:
    static constexpr std::int64_t kAgeNs = 1'000'000'000;

    // Shares of a group with `name`; positive.
    using Weight = std::function<double(const Group&)>;
    void set_weight(Weight weight) { weight_ = std::move(weight); }

    bool empty() const noexcept { return size_ == 0; }
    std::size_t size() const noexcept { return size_; }

    // Throws std::bad_alloc, here and in replace(): nothing has changed then.
    void add(Request* request) {
        // The newest, but for one that was held up on its way here.
        Request* older = classes_[request->terms().priority - 1].newest;
        while (older != nullptr && older->arrived_ns() > request->arrived_ns()) older = older->older;
        insert(request, older);
    }
    // `heir` gets the place of `request`, which is taken out.
    void replace(Request* request, Request* heir) {
        if (heir->terms().priority == request->terms().priority)
            insert(heir, request->older);
        else
            add(heir);
        remove(request);
    }

    // The first request in order that `accepts(request)`; null when there is none among the first few.
    template <class Accepts>
    Request* find(Accepts accepts) const {
        const std::size_t highest = highest_class(), aged = aged_class();
        if (highest == kPriorities) return nullptr;
        if (aged != highest && accepts(*classes_[aged].oldest)) return classes_[aged].oldest;
        int looks = kLooks;
        for (std::size_t i = highest; i < kPriorities; ++i)
            for (const Line* const line : classes_[i].lines)
                for (const auto& entry : line->waiting) {
                    if (accepts(*entry.request)) return entry.request;
                    if (--looks == 0) return nullptr;
                }
        return nullptr;
    }

    // Takes it out, and counts its rows as its group's.
    void take(Request* request) noexcept {
        Class& of = classes_[request->terms().priority - 1];
        Line& line = line_of(*request);
        auto place = of.lines.extract(&line);
        of.clock = std::max(of.clock, line.served);
        const Group* const group = request->terms().group.get();
        line.served += request->rows() / (group != nullptr && weight_ ? weight_(*group) : 1.0);
        line.turn = ++turns_;
        of.lines.insert(std::move(place));
        remove(request);
    }
    // Takes it out: it will not be run.
    void remove(Request* request) noexcept {
        Class& of = classes_[request->terms().priority - 1];
        Line& line = line_of(*request);
        line.waiting.erase(request->entry);
        if (line.waiting.empty()) of.lines.erase(&line);
        if (request->terms().deadline_ns != Terms::kNoDeadline)
            deadlines_.erase({request->terms().deadline_ns, request});
        (request->older != nullptr ? request->older->newer : of.oldest) = request->newer;
        (request->newer != nullptr ? request->newer->older : of.newest) = request->older;
        --size_;
    }

    // The one whose deadline comes first, or null.
    Request* first_deadline() const noexcept { return deadlines_.empty() ? nullptr : deadlines_.begin()->second; }

    // Calls `visit(request)` for each; it may remove that one.
    template <class Visit>
    void for_each(Visit visit) {
        for (Class& of : classes_)
            for (Request *next = nullptr, *request = of.oldest; request != nullptr; request = next) {
                next = request->newer;
                visit(request);
            }
    }

    // Does `request` go before rows without terms that arrived at `plain_ns`?
    static bool goes_before(const Request& request, std::int64_t plain_ns) noexcept {
        if (request.terms().priority == kDefaultPriority) return Forecast::due_ns(request) < plain_ns + kPatienceNs;
        return request.arrived_ns() + request.terms().priority * kAgeNs < plain_ns + kDefaultPriority * kAgeNs;
    }

  private:
    static constexpr std::int64_t kPatienceNs = Forecast::kPatienceNs;
    // Requests that are looked at for one that is accepted.
    static constexpr int kLooks = 256;

    struct GoesFirst {
        bool operator()(const Line* a, const Line* b) const noexcept {
            return std::pair(a->served, a->turn) < std::pair(b->served, b->turn);
        }
    };
    // Of one priority.
    struct Class {
        Request *oldest = nullptr, *newest = nullptr;
        std::set<Line*, GoesFirst> lines;  // those where somebody waits
        double clock = 0;                  // what the line had that was served last
    };

    void insert(Request* request, Request* older) {
        Class& of = classes_[request->terms().priority - 1];
        Line& line = line_of(*request);
        const bool is_first = line.waiting.empty();
        request->entry = {Forecast::due_ns(*request), ++order_, request};
        line.waiting.insert(request->entry);
        try {
            if (request->terms().deadline_ns != Terms::kNoDeadline)
                deadlines_.insert({request->terms().deadline_ns, request});
            if (is_first) {
                line.served = std::max(line.served, of.clock);
                line.turn = ++turns_;
                of.lines.insert(&line);
            }
        } catch (...) {
            line.waiting.erase(request->entry);
            deadlines_.erase({request->terms().deadline_ns, request});
            throw;
        }
        request->older = older;
        request->newer = older != nullptr ? older->newer : of.oldest;
        (older != nullptr ? older->newer : of.oldest) = request;
        (request->newer != nullptr ? request->newer->older : of.newest) = request;
        ++size_;
    }

    Line& line_of(const Request& request) noexcept {
        Group* const group = request.terms().group.get();
        return (group != nullptr ? *group : no_group_).line(request.terms().priority);
    }

    // kPriorities when nobody waits.
    std::size_t highest_class() const noexcept {
        std::size_t i = 0;
        while (i < kPriorities && classes_[i].oldest == nullptr) ++i;
        return i;
    }
    // The one whose oldest request is first by age; the higher one of equals.
    std::size_t aged_class() const noexcept {
        std::size_t best = kPriorities;
        std::int64_t best_ns = 0;
        for (std::size_t i = 0; i < kPriorities; ++i) {
            if (classes_[i].oldest == nullptr) continue;
            const std::int64_t ns = classes_[i].oldest->arrived_ns() + static_cast<std::int64_t>(i) * kAgeNs;
            if (best == kPriorities || ns < best_ns) best = i, best_ns = ns;
        }
        return best;
    }

    std::array<Class, kPriorities> classes_;
    Group no_group_{""};
    std::set<std::pair<std::int64_t, Request*>> deadlines_;
    Weight weight_;
    std::uint64_t order_ = 0, turns_ = 0;
    std::size_t size_ = 0;
};

}  // namespace ovengine
