"""A million requests, each with its own tag: none lost, none doubled, none swapped."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

import ovengine
from support import EXACT, double, each, in_threads, ready

REQUESTS = 1_000_000
WIDTH = 4


@pytest.mark.timeout(300)
@pytest.mark.parametrize("threads", [1, 4])
def test_a_million_requests_come_back_once_each_with_their_own_rows(threads: int) -> None:
    # Whole numbers below 2^24 and twice them are exact in f32. Each thread checks its results in blocks, so that most
    # of the time goes to the engine.
    count = REQUESTS // threads
    block = 5000
    window = 3000

    def work(thread: int) -> int:
        rng = np.random.default_rng(thread)
        pending: deque[ovengine.Future] = deque()
        got = np.empty((block, WIDTH), np.float32)
        received = 0
        expected = np.empty((block, WIDTH), np.float32)

        def take() -> None:
            nonlocal received
            got[received % block] = pending.popleft().result()["y"]
            received += 1
            if received % block == 0:
                np.testing.assert_array_equal(got, (rows_of(thread, received - block) * 2).astype(np.float32))

        def rows_of(thread: int, first: int) -> np.ndarray:
            tags = np.arange(first, first + block)
            expected[:, 0] = tags
            expected[:, 1] = thread
            expected[:, 2] = tags % 1000
            expected[:, 3] = tags // 1000
            return expected

        for first in range(0, count, block):
            rows = rows_of(thread, first).copy()
            for i in range(block):
                pending.append(model.submit(rows[i]))
                if len(pending) > window:
                    take()
            rng.shuffle(rows)  # what was submitted is the engine's own copy by now
        while pending:
            take()
        return received

    with ready(ovengine.load(double(WIDTH), config=EXACT)) as model:
        assert in_threads(each(work, range(threads))) == [count] * threads
        model.close()
        stats = model.stats()
        assert stats.requests == count * threads
        assert stats.rows >= count * threads
        assert not any(stats.failures.values())
        assert not any(stats.rejections.values())
        assert stats.pending_requests == 0


@pytest.mark.timeout(300)
def test_the_resident_set_does_not_grow_with_the_number_of_requests() -> None:
    row = np.zeros(WIDTH, np.float32)

    def serve(model: ovengine.Model, count: int) -> None:
        pending: deque[ovengine.Future] = deque()
        for i in range(count):
            if i % 3 == 0:
                model(row)
            future = model.submit(row)
            if i % 7 == 0:
                future.cancel()
            elif i % 5 == 0:
                future.add_done_callback(lambda future: None)
            pending.append(future)
            if len(pending) > 1000:
                pending.popleft().done()
        del pending
        model.submit(row).result()

    with ready(ovengine.load(double(WIDTH), config=EXACT)) as model:
        serve(model, 10_000)
        before = resident_bytes()
        serve(model, 300_000)
        # One of the 48 bytes of a lost notice for each request would be 14 MB.
        assert resident_bytes() - before < 10e6


def resident_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096
