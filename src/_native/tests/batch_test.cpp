// Batch, Request and Job by themselves: states, references, notices, failures.
#include <poll.h>

#include "fixture.hpp"

using namespace ovengine;
using namespace ovengine::testing;

TEST("a batch goes back to its list when the core and all futures have let go, in any order") {
    FreeList<Batch> home;
    const std::vector<std::size_t> outputs{4};
    const auto batch = std::make_unique<Batch>(home, outputs, 4);
    for (int order = 0; order < 3; ++order) {
        batch->begin(0, 1);
        batch->begin(1, 3);
        if (order == 0) batch->release(1);
        batch->complete();
        if (order == 1) batch->settle(4), batch->release(1);
        if (order == 1) CHECK(home.take() == nullptr);
        batch->release(3);
        if (order == 2) batch->release(1);
        if (order != 1) CHECK(home.take() == nullptr);
        if (order != 1) batch->settle(4);
        REQUIRE(home.take() == batch.get());
        batch->open();
        CHECK(!batch->done() && batch->state(0) == RowState::follower);
    }
}

TEST("the outcome of a row follows its state, and is ok only when the batch is done") {
    FreeList<Batch> home;
    const std::vector<std::size_t> outputs{4};
    Batch batch(home, outputs, 8);
    for (std::uint32_t row = 0; row < 5; ++row) batch.begin(row, 1);
    CHECK(batch.cancel(1));
    CHECK(!batch.cancel(1));
    batch.fail(2, "why");
    CHECK(batch.transition(3, RowState::live, RowState::closed));
    batch.lease(4, 1);
    CHECK(!batch.cancel(4));
    CHECK(batch.transition(4, RowState::leased, RowState::lost));
    CHECK(batch.outcome(0) == Outcome::pending);
    CHECK(batch.outcome(1) == Outcome::cancelled);
    batch.complete();
    batch.complete();  // only the first counts
    CHECK(batch.outcome(0) == Outcome::ok);
    CHECK(batch.outcome(2) == Outcome::failed && batch.failure(2) == "why" && batch.failure(0).empty());
    CHECK(batch.outcome(3) == Outcome::closed);
    CHECK(batch.outcome(4) == Outcome::lease_lost);
    CHECK(!batch.cancel(0));
}

TEST("cancel is false once the batch has answered, even when it began before") {
    FreeList<Batch> home;
    const std::vector<std::size_t> outputs{4};
    Batch batch(home, outputs, 1);
    batch.begin(0, 1);
    Gate gate("Batch::cancel");
    bool cancelled = false;
    std::thread canceller([&] { cancelled = batch.cancel(0); });
    REQUIRE(gate.wait_until_reached());
    std::thread lane([&] { batch.complete(); });
    // The lane may wait for the canceller, but may not answer `ok` first and let it change that afterwards.
    std::this_thread::sleep_for(20ms);
    const Outcome seen = batch.outcome(0);
    gate.open();
    canceller.join();
    lane.join();
    const Outcome last = batch.outcome(0);
    CHECK(seen == Outcome::pending || seen == last);
    CHECK_EQ(cancelled, last == Outcome::cancelled);
}

namespace {
struct Inbox {
    Mailbox* mailbox = new Mailbox;
    ~Inbox() { mailbox->release(); }
    bool is_raised() const {
        pollfd waiting{mailbox->fd(), POLLIN, 0};
        return poll(&waiting, 1, 0) == 1;
    }
};
}  // namespace

TEST("a request's notices follow it into its batch") {
    FreeList<Batch> home;
    const std::vector<std::size_t> outputs{4};
    Batch batch(home, outputs, 1);
    Inbox inbox;
    Notice first{nullptr, inbox.mailbox, nullptr}, second = first, late = first;
    Request request;
    request.begin(1, 0);
    CHECK(request.event().try_attach(&first, &first));
    CHECK(request.event().try_attach(&second, &second));
    CHECK(request.try_take() && !request.cancel() && !request.close());
    batch.begin(0, 1);
    request.assign(&batch, 0);
    CHECK(request.event().is_set() && request.state() == Request::State::assigned && request.batch() == &batch);
    CHECK(!inbox.is_raised());
    CHECK(!request.event().try_attach(&late, &late));
    CHECK(batch.event().try_attach(&late, &late));
    batch.complete();
    CHECK(inbox.is_raised());
    int count = 0;
    for (const Notice* notice = inbox.mailbox->take_all(); notice != nullptr; notice = notice->next) ++count;
    CHECK_EQ(count, 3);
    CHECK(!request.release() && request.release());
}

TEST("cancelling and closing a request tell its notices at once") {
    for (const bool cancel : {true, false}) {
        Inbox inbox;
        Notice notice{nullptr, inbox.mailbox, nullptr};
        Request request;
        request.begin(1, 0);
        CHECK(request.event().try_attach(&notice, &notice));
        CHECK(cancel ? request.cancel() : request.close());
        CHECK(inbox.is_raised() && inbox.mailbox->take_all() == &notice);
        CHECK(request.event().is_set() && request.batch() == nullptr);
        CHECK(!request.try_take() && !request.cancel() && !request.close());
    }
}

TEST("a mailbox outlives the thread that raises it") {
    auto* mailbox = new Mailbox;
    Notice notice{nullptr, mailbox, nullptr};
    mailbox->retain();  // the notice's
    Gate gate("Mailbox::deliver, pushed");
    std::thread lane([&] { deliver_all(&notice); });
    REQUIRE(gate.wait_until_reached());
    // The owner takes the notice before the descriptor is raised, and is gone.
    CHECK(mailbox->take_all() == &notice);
    mailbox->release();
    mailbox->release();
    gate.open();  // the lane must not touch freed memory now (AddressSanitizer)
    lane.join();
}
