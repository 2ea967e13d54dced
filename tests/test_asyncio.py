"""Awaiting requests: tasks, timeouts, cancellation, loops that come and go, and `amap`."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterator
from typing import Any, TypeVar

import numpy as np
import pytest

import ovengine
from ovengine import _core
from support import EXACT, PATIENCE, Array, double, each, fake, fill, in_threads, occupy, ready, tagged, wait_until

T = TypeVar("T")
ROW = np.zeros(4, np.float32)
SLOW_US = 100_000


def run(body: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` that gives up instead of hanging."""
    return asyncio.run(asyncio.wait_for(body, PATIENCE))


async def first_value(awaitable: Awaitable[ovengine.Result]) -> float:
    return float((await awaitable)["y"].flat[0])


# -- awaiting ---------------------------------------------------------------------------------------------------------


def test_ainfer_and_submitted_futures_are_awaited() -> None:
    async def body() -> None:
        rows = tagged(3)
        for awaitable in (model.ainfer(rows), model.submit(rows), model.ainfer(rows, share_inputs=True)):
            np.testing.assert_array_equal((await awaitable)["y"], rows * 2)
        np.testing.assert_array_equal((await model.ainfer(tagged(50)))["y"], tagged(50) * 2)

    with ready(ovengine.load(double(), config=EXACT)) as model:
        run(body())


def test_a_future_is_awaited_more_than_once_and_after_it_is_done() -> None:
    async def body() -> None:
        future = model.ainfer(ROW)
        result = await future
        assert await future is result
        assert future.result() is result

    with fake(1, service_time_us=20_000) as model:
        run(body())


def test_two_tasks_await_one_future() -> None:
    async def body() -> None:
        future = model.ainfer(ROW)
        results = await asyncio.gather(*(asyncio.create_task(first_value(future)) for _ in range(5)))
        assert results == [1.0] * 5

    with fake(1, service_time_us=20_000) as model:
        run(body())


@pytest.mark.parametrize("kind", ["claimed", "queued", "bulk"])
def test_every_kind_of_request_wakes_its_task(kind: str) -> None:
    async def body() -> None:
        occupy(model)
        futures = {"claimed": model.ainfer(ROW), "queued": model.ainfer(ROW)}
        futures["bulk"] = model.ainfer(np.zeros((5, 4), np.float32))
        assert await first_value(futures[kind]) == 1

    with fake(1, service_time_us=10_000) as model:
        run(body())


def test_the_loop_goes_on_while_a_request_is_awaited() -> None:
    async def body() -> None:
        future = asyncio.ensure_future(first_value(model.ainfer(ROW)))
        turns = 0
        while not future.done():
            await asyncio.sleep(0.001)
            turns += 1
        assert turns > 3

    with fake(1, service_time_us=SLOW_US) as model:
        run(body())


def test_asyncios_own_tools_take_futures() -> None:
    async def body() -> None:
        def futures() -> list[Any]:
            return [model.ainfer(np.full(4, i, np.float32)) for i in range(10)]

        results = await asyncio.gather(*futures())
        assert [float(result["y"][0]) for result in results] == [i + 1.0 for i in range(10)]
        values = [await first_value(coming) for coming in asyncio.as_completed(futures())]
        assert sorted(values) == [i + 1.0 for i in range(10)]
        assert await first_value(asyncio.wait_for(model.ainfer(ROW), PATIENCE)) == 1
        assert await first_value(asyncio.shield(model.ainfer(ROW))) == 1
        assert await first_value(asyncio.ensure_future(model.ainfer(ROW))) == 1
        done, pending = await asyncio.wait([asyncio.ensure_future(future) for future in futures()])
        assert len(done) == 10
        assert not pending

    with fake(1, 4, service_time_us=5000) as model:
        run(body())


def test_asyncio_wait_is_woken_by_futures_themselves() -> None:
    # From Python 3.11 on asyncio.wait() calls add_done_callback() itself, on the loop's thread, and expects the call
    # to come back there.
    async def body() -> None:
        futures: list[Any] = [model.ainfer(ROW) for _ in range(5)]
        done, pending = await asyncio.wait(futures)
        assert len(done) == 5
        assert not pending
        slow: Any = model.ainfer(ROW)
        done, pending = await asyncio.wait([slow], timeout=0.001)
        assert not done
        assert await first_value(slow) == 1

    with fake(1, 4, service_time_us=20_000) as model:
        run(body())


def test_a_callback_added_on_a_loop_runs_on_it_in_its_context() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    async def body() -> None:
        future = model.ainfer(ROW)
        seen: list[Any] = []
        told = asyncio.Event()

        def callback(future: ovengine.Future) -> None:
            seen.append((threading.current_thread(), variable.get(), future.done()))
            told.set()

        def removed(future: ovengine.Future) -> None:
            raise AssertionError("it was removed")

        variable.set("set")
        future.add_done_callback(callback)
        future.add_done_callback(removed)
        assert future.remove_done_callback(removed) == 1
        await told.wait()
        future.add_done_callback(callback)
        assert len(seen) == 1  # not before this turn of the loop is over
        told.clear()
        await told.wait()
        assert seen == [(threading.current_thread(), "set", True)] * 2

    with fake(1, service_time_us=20_000) as model:
        run(body())


def test_errors_are_raised_where_they_are_awaited() -> None:
    async def body() -> None:
        with pytest.raises(ovengine.InferenceError, match=r"refuses the value 13"):
            await model.ainfer(np.full(4, 13, np.float32))
        with pytest.raises(ovengine.InputError):
            await model.ainfer(np.zeros(5, np.float32))
        results = await asyncio.gather(
            *(model.ainfer(np.full(4, value, np.float32)) for value in (1, 13, 2)), return_exceptions=True
        )
        assert [type(result).__name__ for result in results] == ["Result", "InferenceError", "Result"]
        future = model.ainfer(ROW)
        model.close(0)
        with pytest.raises(ovengine.EngineClosed):
            await future
        with pytest.raises(ovengine.EngineClosed):
            await model.ainfer(ROW)

    with fake(1, 4, poison=13.0, service_time_us=1000) as model:
        run(body())


def test_ainfer_never_waits_for_room() -> None:
    async def body() -> None:
        occupied = occupy(model)
        futures = fill(lambda: model.ainfer(ROW))
        assert len(futures) == 4  # one in the open slot, three behind it
        await asyncio.gather(occupied, *futures)

    with fake(1, max_queue_size=3, service_time_us=SLOW_US) as model:
        run(body())


# -- cancellation and timeouts ----------------------------------------------------------------------------------------


def test_cancelling_a_task_cancels_its_request() -> None:
    async def body() -> None:
        occupied = occupy(model)
        for future in (model.ainfer(ROW), model.ainfer(ROW), model.ainfer(np.zeros((5, 4), np.float32))):
            task = asyncio.ensure_future(first_value(future))
            await asyncio.sleep(0)
            assert task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()
            assert future.cancelled()
        assert await first_value(occupied) == 1

    with fake(1, service_time_us=SLOW_US) as model:
        run(body())


def test_a_task_that_is_cancelled_before_it_starts_does_not_hang() -> None:
    async def body() -> None:
        task = asyncio.ensure_future(first_value(model.ainfer(ROW)))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with fake(1, service_time_us=20_000) as model:
        run(body())


def test_a_task_that_is_cancelled_as_its_result_comes_is_cancelled() -> None:
    async def body() -> None:
        task = asyncio.ensure_future(first_value(future := model.ainfer(ROW)))
        await asyncio.sleep(0)
        future.exception()  # blocks the loop: the result is there, and the task does not know it yet
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await first_value(future) == 1

    with fake(1, service_time_us=20_000) as model:
        run(body())


def test_a_task_may_swallow_its_cancellation_and_go_on() -> None:
    async def stubborn() -> float:
        try:
            return await first_value(model.ainfer(ROW))
        except asyncio.CancelledError:
            return await first_value(model.ainfer(ROW + 1))

    async def body() -> None:
        occupy(model)
        task = asyncio.ensure_future(stubborn())
        await asyncio.sleep(0)
        task.cancel()
        assert await task == 2

    with fake(1, service_time_us=20_000) as model:
        run(body())


def test_cancelling_one_of_two_tasks_cancels_the_request_of_both() -> None:
    # As with an asyncio.Future; asyncio.shield() is there for those who want otherwise.
    async def body() -> None:
        occupy(model)
        future = model.ainfer(ROW)
        one, other = (asyncio.ensure_future(first_value(future)) for _ in range(2))
        await asyncio.sleep(0)
        one.cancel()
        outcomes = await asyncio.gather(one, other, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError, ovengine.Cancelled]
        shielded = model.ainfer(ROW)
        one, other = (
            asyncio.ensure_future(first_value(asyncio.shield(shielded))),
            asyncio.ensure_future(first_value(shielded)),
        )
        await asyncio.sleep(0)
        one.cancel()
        assert await other == 1

    with fake(1, service_time_us=SLOW_US) as model:
        run(body())


def test_wait_for_gives_the_request_up_when_its_time_is_over() -> None:
    async def body() -> None:
        for _ in range(3):
            future = model.ainfer(ROW)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(future, 0.001)
            assert future.cancelled()
        assert await first_value(asyncio.wait_for(model.ainfer(ROW), PATIENCE)) == 1

    with fake(1, service_time_us=SLOW_US) as model:
        run(body())


def test_a_future_that_another_thread_cancels_wakes_its_task() -> None:
    async def body() -> None:
        occupy(model)
        for future in (model.ainfer(ROW), model.ainfer(ROW)):
            thread = threading.Thread(target=future.cancel)
            task = asyncio.ensure_future(first_value(future))
            await asyncio.sleep(0)
            thread.start()
            with pytest.raises(ovengine.Cancelled):
                await task
            thread.join()

    with fake(1, service_time_us=SLOW_US) as model:
        run(body())


def test_a_thousand_tasks_get_their_own_rows_or_are_cancelled() -> None:
    async def one(i: int) -> str:
        rows = tagged(1 + i % 3, first=i)
        await asyncio.sleep(0)
        try:
            result = await asyncio.wait_for(model.ainfer(rows), 0.0005 if i % 4 == 0 else PATIENCE)
        except asyncio.TimeoutError:
            return "late"
        np.testing.assert_array_equal(result["y"], rows + 1)
        return "right"

    async def body() -> None:
        outcomes = await asyncio.gather(*(one(i) for i in range(1000)))
        assert {outcomes[i] for i in range(1000) if i % 4} == {"right"}

    with fake(1, 4, 16, service_time_us=200) as model:
        run(body())


# -- loops ------------------------------------------------------------------------------------------------------------


def test_two_loops_in_two_threads_share_a_model() -> None:
    async def body(first: int) -> None:
        for _ in range(20):
            values = await asyncio.gather(*(first_value(model.ainfer(tagged(1, first=first + i))) for i in range(50)))
            assert values == [(first + i) * 4 * 2 for i in range(50)]

    with ready(ovengine.load(double(), config=EXACT)) as model:
        in_threads(each(lambda first: run(body(first)), (0, 1000)))


def test_a_future_of_one_loop_is_awaited_on_another() -> None:
    async def submit() -> ovengine.Future:
        return model.ainfer(ROW)

    async def submit_and_await() -> tuple[ovengine.Future, float]:
        future = model.ainfer(ROW)
        return future, await first_value(future)

    with fake(1, service_time_us=20_000) as model:
        assert run(first_value(run(submit()))) == 1
        future, value = run(submit_and_await())
        assert value == run(first_value(future)) == 1


def test_one_future_is_awaited_on_two_loops_at_once_and_asked_by_a_thread() -> None:
    with fake(1, service_time_us=50_000) as model:
        occupy(model)
        for future in (model.submit(ROW), model.submit(ROW)):
            awaits = each(lambda future: run(first_value(future)), [future, future])
            asks = each(lambda future: float(future.result()["y"][0]), [future])
            assert in_threads(awaits + asks) == [1.0] * 3


def test_many_loops_one_after_the_other_leave_nothing_behind() -> None:
    with fake(1, 4) as model:
        for i in range(50):
            assert run(first_value(model.ainfer(ROW + i))) == i + 1


def test_a_loop_that_is_closed_with_requests_pending_leaves_nothing_behind(
    recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    with fake(1, service_time_us=20_000) as model:
        loop = asyncio.new_event_loop()
        future = model.submit(ROW)

        async def start(future: ovengine.Future) -> asyncio.Task[float]:
            task = asyncio.ensure_future(first_value(future))
            future.add_done_callback(lambda future: None)
            await asyncio.sleep(0)
            return task

        task = loop.run_until_complete(start(future))
        loop.close()
        assert (future.result()["y"] == 1).all()
        del task, future
        gc.collect()
        caplog.clear()  # asyncio's complaint about the task
        assert run(first_value(model.ainfer(ROW))) == 1
        wait_until(lambda: not any(_core.debug_counters().values()))


def test_a_debugging_loop_has_nothing_to_complain_about(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        futures: list[Any] = [model.ainfer(ROW) for _ in range(20)]
        await asyncio.gather(*futures[:10])
        await asyncio.wait(futures)
        assert [float(result["y"][0]) async for result in model.amap([ROW] * 20)] == [1.0] * 20

    with fake(1, 4, service_time_us=1000) as model:
        asyncio.run(asyncio.wait_for(body(), PATIENCE), debug=True)
    assert not [record for record in caplog.records if "took" not in record.getMessage()]


# -- amap -------------------------------------------------------------------------------------------------------------


def samples(count: int) -> Iterator[Array]:
    return (np.full(4, i, np.float32) for i in range(count))


async def slowly(count: int) -> AsyncIterator[Array]:
    for sample in samples(count):
        await asyncio.sleep(0.001)
        yield sample


async def values(results: AsyncIterator[ovengine.Result]) -> list[int]:
    return [int(result["y"][0]) async for result in results]


@pytest.mark.parametrize("source", [samples, slowly])
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("window", [None, 1, 3])
def test_amap_gives_every_result(source: Any, ordered: bool, window: int | None) -> None:
    with fake(1, 4, service_time_us=500) as model:
        got = run(values(model.amap(source(40), ordered=ordered, window=window)))
        assert (got if ordered else sorted(got)) == list(range(1, 41))
        assert run(values(model.amap(source(0), ordered=ordered, window=window))) == []


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_amap_reads_no_further_than_its_window(kind: str) -> None:
    async def body() -> None:
        taken = 0

        def plain() -> Iterator[Array]:
            nonlocal taken
            for sample in samples(100):
                taken += 1
                yield sample

        async def asynchronous() -> AsyncIterator[Array]:
            for sample in plain():
                yield sample

        given = 0
        async for _ in model.amap(plain() if kind == "plain" else asynchronous(), window=4):
            given += 1
            assert taken <= given + 4

    with fake(1, service_time_us=300) as model:
        run(body())


def test_results_of_amap_do_not_wait_for_the_next_item() -> None:
    async def body() -> None:
        gate = asyncio.Event()

        async def gated() -> AsyncIterator[Array]:
            yield ROW
            await gate.wait()
            yield ROW + 1

        results = model.amap(gated())
        assert await first_value(anext(results)) == 1
        gate.set()
        assert await first_value(anext(results)) == 2
        with pytest.raises(StopAsyncIteration):
            await anext(results)

    with fake(1, 4) as model:
        run(body())


@pytest.mark.parametrize("ordered", [True, False])
def test_leaving_amap_midway_cancels_what_is_in_flight(ordered: bool) -> None:
    async def body() -> None:
        for source in (samples, slowly):
            results: Any = model.amap(source(100), ordered=ordered, window=8)
            async for _ in results:
                break
            await results.aclose()
        assert await first_value(model.ainfer(ROW)) == 1

    with fake(1, service_time_us=2000) as model:
        run(body())
        model.close()
        assert model.stats().requests < 40


@pytest.mark.parametrize("ordered", [True, False])
def test_the_first_error_ends_amap(ordered: bool) -> None:
    async def failing() -> AsyncIterator[Array]:
        yield ROW
        raise LookupError("no more")

    async def body() -> None:
        with pytest.raises(ovengine.InferenceError):
            await values(model.amap([ROW, ROW + 13, ROW], ordered=ordered))
        with pytest.raises(ovengine.InputError):
            await values(model.amap([ROW, np.zeros(5), ROW], ordered=ordered))
        with pytest.raises(LookupError, match="no more"):
            await values(model.amap(failing(), ordered=ordered))

    with fake(1, 4, poison=13.0) as model:
        run(body())


@pytest.mark.parametrize("ordered", [True, False])
def test_amap_waits_for_room_in_a_small_queue(ordered: bool) -> None:
    async def body() -> None:
        occupied = [model.submit(ROW) for _ in range(2)]
        for source in (samples, slowly):
            assert sorted(await values(model.amap(source(30), ordered=ordered))) == list(range(1, 31))
        await asyncio.gather(*occupied)

    with fake(1, max_queue_size=2, service_time_us=500) as model:
        run(body())


def test_cancelling_a_task_inside_amap_cancels_what_is_in_flight() -> None:
    async def body() -> None:
        for source in (samples, slowly):
            task = asyncio.ensure_future(values(model.amap(source(1000), window=8)))
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with fake(1, service_time_us=2000) as model:
        run(body())
        model.close()
        assert model.stats().requests < 200


@pytest.mark.parametrize("ordered", [True, False])
def test_a_coroutine_may_block_its_loop_with_map(ordered: bool) -> None:
    async def body() -> None:
        got = [int(result["y"][0]) for result in model.map(samples(100), ordered=ordered)]
        assert sorted(got) == list(range(1, 101))
        futures = [model.submit(ROW) for _ in range(10)]
        assert len(ovengine.wait(futures)[0]) == len(list(ovengine.as_completed(futures))) == 10

    with fake(1, 4, service_time_us=1000) as model:
        run(body())


@pytest.mark.parametrize("window", [0, -1, 1.5, True, "8"])
def test_amap_refuses_a_window_that_is_none(window: Any) -> None:
    with fake() as model, pytest.raises(ovengine.ConfigError, match="window must be None or an integer of at least 1"):
        model.amap([], window=window)
