// What threads may do to the queue of a core, and to the thread that keeps deadlines.
#pragma once

#include "scenario.hpp"

namespace ovengine::scenarios {

// try_queue / close_waiting: a request on its way into the ring is cleared by the closer or by its own thread.
struct QueueClose : rl::test_suite<QueueClose, 2> {
    std::unique_ptr<Dispatcher> dispatcher;
    model::atomic<bool> closed{false};
    Request* request;
    void before() {
        dispatcher = std::make_unique<Dispatcher>(RowLayout{{4}, {4}}, 1,
                                                  Dispatcher::Options{.max_queue_size = 2, .ring_capacity = 2});
        request = dispatcher->queue().make_request();
        request->begin(1, 0);
    }
    void thread(unsigned index) {
        if (index == 0) {
            EXPECT(dispatcher->queue().try_queue(request));
            if (closed.load(std::memory_order_seq_cst)) dispatcher->close_waiting();
        } else {
            closed.store(true, std::memory_order_seq_cst);
            dispatcher->close_waiting();
        }
    }
    void after() {
        EXPECT(request->state() == Request::State::closed);
        dispatcher->queue().drop(request);
    }
};

// Of a request in the ring and one that waits elsewhere, only one has the last place. Both may be refused.
struct QueueElsewhere : rl::test_suite<QueueElsewhere, 2> {
    std::unique_ptr<Queue> queue;
    model::atomic<std::int64_t> elsewhere{0};
    Request* request;
    Plain accepted[2];
    void before() {
        queue = std::make_unique<Queue>(1, 2);
        queue->count_elsewhere(elsewhere);
        request = queue->make_request();
        request->begin(1, 0);
    }
    void thread(unsigned index) {
        if (index == 0) {
            accepted[0]($) = queue->try_queue(request);
        } else {
            elsewhere.fetch_add(1, std::memory_order_seq_cst);  // as Sessions::add() does
            accepted[1]($) = !queue->is_full_elsewhere(1);
            if (int(accepted[1]($)) == 0) elsewhere.fetch_sub(1, std::memory_order_relaxed);
        }
    }
    void after() {
        EXPECT(int(accepted[0]($)) + int(accepted[1]($)) <= 1);
        if (int(accepted[0]($)) == 0) return queue->discard(request);
        queue->close();
        queue->drop(request);
    }
};

// notice / run: a request that is counted, queued and noticed while the keeper looks is found: nobody sleeps over it.
struct KeeperNotice : rl::test_suite<KeeperNotice, 2> {
    DeadlineKeeper keeper;
    model::atomic<int> counted{0}, queued{0};
    void thread(unsigned index) {
        if (index == 0) {
            counted.fetch_add(1, std::memory_order_seq_cst);
            queued.store(1, std::memory_order_release);
            keeper.notice(1);
            return;
        }
        bool found = false, first = true;
        keeper.run(
            [&]() -> std::int64_t {
                found = queued.load(std::memory_order_acquire) == 1;
                // At first another one is due.
                const bool any = counted.load(std::memory_order_seq_cst) == 1 || std::exchange(first, false);
                return any ? 1 : Terms::kNoDeadline;
            },
            [&] { return found; });
    }
};

// wake / run: what is told with the epoch is seen, or the keeper would sleep for ever.
struct KeeperStop : rl::test_suite<KeeperStop, 2> {
    DeadlineKeeper keeper;
    model::atomic<bool> stopping{false};
    void thread(unsigned index) {
        if (index == 0) {
            stopping.store(true, std::memory_order_relaxed);
            keeper.wake();
            return;
        }
        keeper.run([] { return Terms::kNoDeadline; }, [&] { return stopping.load(std::memory_order_relaxed); });
    }
};

}  // namespace ovengine::scenarios
