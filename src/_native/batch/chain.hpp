// Chain: a line of things that are linked through themselves, so that to join it takes no memory.
#pragma once

#include <cstddef>

namespace ovengine {

// First in, first out, linked through `T::next`; each thing is in one chain at most, and belongs to somebody else.
// Under its user's lock.
template <class T>
class Chain {
  public:
    bool empty() const noexcept { return first_ == nullptr; }
    std::size_t size() const noexcept { return size_; }
    T* front() const noexcept { return first_; }

    void push_back(T* item) noexcept {
        item->next = nullptr;
        (last_ != nullptr ? last_->next : first_) = item;
        last_ = item;
        ++size_;
    }
    void push_front(T* item) noexcept {
        item->next = first_;
        first_ = item;
        if (last_ == nullptr) last_ = item;
        ++size_;
    }
    // Null when there is none.
    T* pop_front() noexcept {
        T* const item = first_;
        if (item == nullptr) return nullptr;
        first_ = item->next;
        if (first_ == nullptr) last_ = nullptr;
        --size_;
        return item;
    }
    // False when it is not in here.
    bool remove(const T* item) noexcept {
        T* before = nullptr;
        for (T* each = first_; each != nullptr; before = each, each = each->next) {
            if (each != item) continue;
            (before != nullptr ? before->next : first_) = each->next;
            if (last_ == each) last_ = before;
            --size_;
            return true;
        }
        return false;
    }

  private:
    T *first_ = nullptr, *last_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace ovengine
