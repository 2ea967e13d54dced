"""The API used by many at once: threads, event loops, tasks, and several models."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import ovengine
from support import EXACT, PATIENCE, double, each, fake, in_threads, ready, tagged

THREADS = 16


@pytest.fixture(scope="module")
def model() -> Iterator[ovengine.Model]:
    """`y = 2 x` on OpenVINO."""
    with ready(ovengine.load(double(), config=EXACT)) as model:
        yield model


def test_sixteen_threads_use_every_way_in_at_once(model: ovengine.Model) -> None:
    def check(result: ovengine.Result, rows: Any) -> None:
        np.testing.assert_array_equal(result["y"], rows * 2)

    def call(rows: Any) -> None:
        check(model(rows), rows)

    def submit(rows: Any) -> None:
        futures = [model.submit(rows + i, share_inputs=bool(i % 2)) for i in range(5)]
        for i, future in enumerate(futures):
            check(future.result(PATIENCE), rows + i)

    def bulk(rows: Any) -> None:
        many = np.concatenate([rows] * 30)
        check(model.infer_rows(many), many)

    def lease(rows: Any) -> None:
        with model.lease(1) as lease:
            lease["x"][...] = rows[0]
            future = lease.submit()
        check(future.result(), rows[:1])

    def mapped(rows: Any) -> None:
        for i, result in enumerate(model.map(rows + i for i in range(10))):
            check(result, rows + i)

    def task(rows: Any) -> None:
        async def body() -> None:
            for result in await asyncio.gather(*(model.ainfer(rows) for _ in range(5))):
                check(result, rows)

        asyncio.run(asyncio.wait_for(body(), PATIENCE))

    def completed(rows: Any) -> None:
        futures = {model.submit(rows + i): i for i in range(5)}
        for future in ovengine.as_completed(futures):
            check(future.result(), rows + futures[future])

    def cancelled(rows: Any) -> None:
        futures = [model.submit(rows + i) for i in range(5)]
        agreed = [future.cancel() for future in futures]
        for i, future in enumerate(futures):
            if not agreed[i]:
                check(future.result(), rows + i)

    ways: list[Callable[[Any], None]] = [call, submit, bulk, lease, mapped, task, completed, cancelled]

    def work(thread: int) -> None:
        for i in range(40):
            ways[(thread + i) % len(ways)](tagged(1 + i % 4, first=thread * 10_000 + i * 10))

    in_threads(each(work, range(THREADS)))


@pytest.mark.parametrize("policy", ["priority", "round_robin"])
@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("max_queue_delay_us", [0, 300])
def test_no_row_goes_astray_between_lanes(policy: str, lanes: int, max_queue_delay_us: int) -> None:
    with fake(1, 4, 16, lanes=lanes, policy=policy, max_queue_delay_us=max_queue_delay_us, service_time_us=20) as model:

        def work(thread: int) -> None:
            futures = []
            for i in range(300):
                rows = tagged(1 + i % 7, first=thread * 10_000 + i * 10)
                futures.append((rows, model.submit(rows)))
                if len(futures) > 20:
                    rows, future = futures.pop(0)
                    np.testing.assert_array_equal(future.result(PATIENCE)["y"], rows + 1)
            for rows, future in futures:
                np.testing.assert_array_equal(future.result(PATIENCE)["y"], rows + 1)

        in_threads(each(work, range(8)))
        model.close()
        stats = model.stats()
        assert stats.requests == 8 * 300
        assert stats.rows >= sum(1 + i % 7 for i in range(300)) * 8


def test_two_event_loops_and_threads_share_a_model(model: ovengine.Model) -> None:
    async def loop(first: int) -> None:
        async def one(i: int) -> None:
            rows = tagged(1 + i % 3, first=first + i)
            np.testing.assert_array_equal((await model.ainfer(rows))["y"], rows * 2)

        for _ in range(5):
            await asyncio.gather(*(one(i) for i in range(200)))

    def thread(first: int) -> None:
        for i in range(500):
            rows = tagged(1 + i % 3, first=first + i)
            np.testing.assert_array_equal(model(rows)["y"], rows * 2)

    loops = each(lambda first: asyncio.run(asyncio.wait_for(loop(first), PATIENCE)), (0, 10_000))
    in_threads(loops + each(thread, (20_000, 30_000)))


def test_a_thousand_tasks_at_once(model: ovengine.Model) -> None:
    async def one(i: int) -> None:
        rows = tagged(1 + i % 3, first=i)
        for _ in range(3):
            np.testing.assert_array_equal((await model.ainfer(rows))["y"], rows * 2)

    async def body() -> None:
        await asyncio.gather(*(one(i) for i in range(1000)))

    asyncio.run(asyncio.wait_for(body(), PATIENCE))


def test_tasks_that_time_out_take_nobody_with_them(model: ovengine.Model) -> None:
    async def one(i: int) -> bool:
        rows = tagged(2, first=i)
        try:
            result = await asyncio.wait_for(model.ainfer(rows), 0 if i % 3 == 0 else 1e-5 if i % 3 == 1 else PATIENCE)
        except asyncio.TimeoutError:
            assert i % 3 < 2
            return False
        np.testing.assert_array_equal(result["y"], rows * 2)
        return True

    async def body() -> None:
        for _ in range(5):
            outcomes = await asyncio.gather(*(one(i) for i in range(300)))
            assert all(outcomes[2::3])

    asyncio.run(asyncio.wait_for(body(), PATIENCE))


def test_several_models_are_used_at_once() -> None:
    with fake(1, 4, name="a") as a, fake(1, 16, name="b") as b, ready(ovengine.load(double(), config=EXACT)) as c:

        def work(seed: int) -> None:
            for i in range(100):
                rows = tagged(1, first=seed * 1000 + i)
                futures = [model.submit(rows) for model in (a, b, c)]
                assert set(ovengine.wait(futures)[0]) == set(futures)
                for future, expected in zip(futures, (rows + 1, rows + 1, rows * 2), strict=True):
                    np.testing.assert_array_equal(future.result()["y"], expected)

        in_threads(each(work, range(4)))


def test_models_are_loaded_used_and_closed_in_many_threads() -> None:
    def work(seed: int) -> None:
        for i in range(5):
            with fake(1, 4, service_time_us=100) as model:
                rows = tagged(3, first=seed * 10 + i)
                np.testing.assert_array_equal(model(rows)["y"], rows + 1)
                model.submit(rows)

    in_threads(each(work, range(8)))


def test_a_model_closed_under_many_threads_tells_every_one_of_them() -> None:
    for lanes in (1, 3):
        for timeout in (None, 0):
            with fake(1, 4, 16, lanes=lanes, service_time_us=200) as model:
                running = threading.Barrier(9)

                def work(seed: int, model: ovengine.Model = model, running: threading.Barrier = running) -> int:
                    running.wait(PATIENCE)
                    right = 0
                    futures = []
                    try:
                        for i in range(100_000):
                            rows = tagged(1 + i % 3, first=seed * 1000 + i)
                            if i % 5 == 0:
                                np.testing.assert_array_equal(model(rows)["y"], rows + 1)
                            elif i % 7 == 0:
                                model.infer_rows(np.concatenate([rows] * 20))
                            else:
                                futures.append((rows, model.submit(rows)))
                            right += 1
                    except ovengine.EngineClosed:
                        for rows, future in futures:
                            if future.exception(PATIENCE) is None:
                                np.testing.assert_array_equal(future.result()["y"], rows + 1)
                            else:
                                assert isinstance(future.exception(), ovengine.EngineClosed)
                        return right
                    raise AssertionError("it was never closed")

                def close(
                    model: ovengine.Model = model,
                    running: threading.Barrier = running,
                    timeout: float | None = timeout,
                ) -> int:
                    running.wait(PATIENCE)
                    threading.Event().wait(0.02)
                    model.close(timeout)
                    return 0

                in_threads([*each(work, range(8)), close])
