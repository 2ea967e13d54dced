// FreeList: things to be used again, given back by any thread and taken by one at a time.
#pragma once

#include <atomic>
#include <cstddef>

namespace ovengine {

// A stack of `T`, linked through `T::next_free`. give: any thread. take: one thread at a time (the caller's lock).
// The taker empties the shared stack in one exchange into a list of its own, so no pop ever races with a push (ABA).
template <class T>
class FreeList {
  public:
    void give(T* item) noexcept {
        T* head = shared_.load(std::memory_order_relaxed);
        do {
            item->next_free = head;
            // release: the item's last use happens before its next, see take().
        } while (!shared_.compare_exchange_weak(head, item, std::memory_order_release, std::memory_order_relaxed));
    }

    // Null when nothing was given back since.
    T* take() noexcept {
        if (own_ == nullptr) {
            own_ = shared_.exchange(nullptr, std::memory_order_acquire);  // pairs with give()
            for (const T* item = own_; item != nullptr; item = item->next_free) ++own_count_;
        }
        T* const item = own_;
        if (item == nullptr) return nullptr;
        own_ = item->next_free;
        --own_count_;
        return item;
    }
    // The taker's: how many there are besides those that were given back since it last found none.
    std::size_t own_count() const noexcept { return own_count_; }

    // How many are here. Only while nobody gives or takes.
    std::size_t count_at_rest() const noexcept {
        std::size_t count = 0;
        for (const T* item = own_; item != nullptr; item = item->next_free) ++count;
        for (const T* item = shared_.load(std::memory_order_acquire); item != nullptr; item = item->next_free) ++count;
        return count;
    }

  private:
    std::atomic<T*> shared_{nullptr};
    T* own_ = nullptr;
    std::size_t own_count_ = 0;
};

}  // namespace ovengine
