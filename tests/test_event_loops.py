"""Awaiting under asyncio, uvloop, anyio and trio: a request is cancelled and timed out as an asyncio.Future is."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
import numpy as np
import openvino as ov
import pytest
import uvloop
from openvino import opset13 as ops

import ovengine
from support import EXACT, PATIENCE, double, fake, occupy, run_python, tagged

ROW = np.zeros(4, np.float32)
LONG_US = 300_000
SOON = 0.02
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
BACKENDS = {"asyncio": ("asyncio", {}), "uvloop": ("asyncio", {"use_uvloop": True})}

Start = Callable[[], Awaitable[Any]]
newer: Any = asyncio  # for what asyncio has since Python 3.11
since_3_11 = pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio has it since Python 3.11")


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """`asyncio.run` on each kind of loop; gives up instead of hanging."""

    def run(body: Coroutine[Any, Any, Any]) -> Any:
        loop = LOOPS[request.param]()
        try:
            return loop.run_until_complete(asyncio.wait_for(body, PATIENCE))
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    return run


# -- as asyncio.Future ------------------------------------------------------------------------------------------------
#
# Each case awaits what `start` makes, in the course of a cancellation, and tells what it saw. An asyncio.Future that
# nobody sets and a request that takes long must look the same.


async def told(awaitable: Awaitable[Any]) -> tuple[str, tuple[Any, ...]]:
    """How the awaitable ends, where it is awaited."""
    try:
        await awaitable
    except BaseException as error:
        return type(error).__name__, error.args
    return "ended", ()


def cancelling(task: Any) -> int:
    return int(task.cancelling()) if sys.version_info >= (3, 11) else 0


async def inside(start: Start, seen: list[Any]) -> None:
    try:
        await start()
    except BaseException as error:
        seen.append((type(error).__name__, error.args))
        raise


async def cancelled_with(start: Start, *messages: Any, after: float = SOON) -> Any:
    seen: list[Any] = []
    task = asyncio.ensure_future(inside(start, seen))
    if after:
        await asyncio.sleep(after)
    answers = [task.cancel(*message) for message in messages]
    return answers, cancelling(task), await told(task), seen, task.cancelled()


async def with_a_message(start: Start) -> Any:
    return await cancelled_with(start, ("why",))


async def without_a_message(start: Start) -> Any:
    return await cancelled_with(start, ())


async def with_an_object(start: Start) -> Any:
    return await cancelled_with(start, ({"reason": 1},))


async def twice(start: Start) -> Any:
    return await cancelled_with(start, ("first",), ("second",))


async def before_it_starts(start: Start) -> Any:
    return await cancelled_with(start, ("early",), after=0)


async def by_itself(start: Start) -> Any:
    async def body() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel("mine")
        await start()

    return await told(asyncio.ensure_future(body()))


async def swallowed(start: Start) -> Any:
    seen: list[Any] = []

    async def stubborn() -> str:
        try:
            await start()
        except asyncio.CancelledError as error:
            seen.append(error.args)
        task = asyncio.current_task()
        assert task is not None
        if sys.version_info >= (3, 11):
            seen.append((task.cancelling(), task.uncancel()))
        await asyncio.sleep(0)
        return "went on"

    task = asyncio.ensure_future(stubborn())
    await asyncio.sleep(SOON)
    task.cancel("please")
    return await task, seen, task.cancelled()


async def in_wait_for(start: Start) -> Any:
    return await told(asyncio.wait_for(start(), SOON))


async def in_wait_for_that_is_cancelled(start: Start) -> Any:
    return await cancelled_with(lambda: asyncio.wait_for(start(), PATIENCE), ("outer",))


async def in_gather(start: Start) -> Any:
    return await cancelled_with(lambda: asyncio.gather(start(), start()), ("all",))


async def in_gather_with_exceptions(start: Start) -> Any:
    tasks = [asyncio.ensure_future(told(start())) for _ in range(2)]
    gathered = asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(SOON)
    tasks[0].cancel("one")
    tasks[1].cancel("other")
    return await gathered


async def in_a_shield(start: Start) -> Any:
    inner = asyncio.ensure_future(told(start()))
    outcome = await cancelled_with(lambda: asyncio.shield(inner), ("shielded",))
    was_done = inner.done()
    inner.cancel("and now")
    return outcome, was_done, await inner


async def in_wait(start: Start) -> Any:
    tasks = [asyncio.ensure_future(told(start())) for _ in range(2)]
    done, pending = await asyncio.wait(tasks, timeout=SOON)
    for task in pending:
        task.cancel("late")
    return len(done), len(pending), [await task for task in tasks]


async def in_a_timeout(start: Start) -> Any:
    async def body() -> None:
        async with newer.timeout(SOON):
            await start()

    task = asyncio.ensure_future(body())
    return await told(task), cancelling(task)


async def in_timeouts_of_which_the_outer_one_ends(start: Start) -> Any:
    seen = []
    try:
        async with newer.timeout(SOON):
            try:
                async with newer.timeout(PATIENCE) as inner:
                    await start()
            finally:
                seen.append(inner.expired())
    except TimeoutError:
        seen.append("outer")
    return seen


async def in_a_timeout_that_is_cancelled(start: Start) -> Any:
    async def body() -> None:
        async with newer.timeout(PATIENCE):
            await start()

    return await cancelled_with(body, ("stop",))


async def in_a_task_group_that_fails(start: Start) -> Any:
    seen: list[Any] = []

    async def fail() -> None:
        await asyncio.sleep(SOON)
        raise LookupError("the sibling")

    try:
        async with newer.TaskGroup() as group:
            group.create_task(inside(start, seen))
            group.create_task(fail())
    except BaseException as error:
        seen.append([type(each).__name__ for each in getattr(error, "exceptions", [error])])
    return seen


CASES = [
    with_a_message,
    without_a_message,
    with_an_object,
    twice,
    before_it_starts,
    by_itself,
    swallowed,
    in_wait_for,
    in_wait_for_that_is_cancelled,
    in_gather,
    in_gather_with_exceptions,
    in_a_shield,
    in_wait,
]
CASES_SINCE_3_11 = [
    in_a_timeout,
    in_timeouts_of_which_the_outer_one_ends,
    in_a_timeout_that_is_cancelled,
    in_a_task_group_that_fails,
]
PARAMETERS = [pytest.param(case, id=case.__name__) for case in CASES]
PARAMETERS += [pytest.param(case, id=case.__name__, marks=since_3_11) for case in CASES_SINCE_3_11]


@pytest.mark.parametrize("kind", ["running", "claimed", "queued", "bulk"])
@pytest.mark.parametrize("case", PARAMETERS)
def test_cancellation_is_that_of_an_asyncio_future(
    case: Callable[[Start], Coroutine[Any, Any, Any]], kind: str, run: Callable[[Coroutine[Any, Any, Any]], Any]
) -> None:
    async def wanted() -> Any:
        return await case(lambda: asyncio.get_running_loop().create_future())

    with fake(1, service_time_us=LONG_US) as model:
        if kind != "running":
            occupy(model)
        if kind == "queued":
            model.submit(ROW)
        given = tagged(3) if kind == "bulk" else ROW
        assert run(case(lambda: model.ainfer(given))) == run(wanted())


def test_a_sessions_request_that_has_begun_goes_on_without_its_task(run: Callable[..., Any]) -> None:
    async def body() -> None:
        with model.session() as session:
            future = session.ainfer(x)
            task = asyncio.ensure_future(told(future))
            await asyncio.sleep(SOON)
            task.cancel("why")
            assert await task == ("CancelledError", ("why",))
            np.testing.assert_array_equal((await future)["count"], [1])
            np.testing.assert_array_equal((await session.ainfer(x))["count"], [2])

    with ovengine.load(counter()) as model:
        x = np.zeros((256, 512), np.float32)
        run(body())


def counter() -> ov.Model:
    """A model that counts its inferences, each of which takes long."""
    x = ops.parameter([256, 512], np.float32, name="x")
    state = ops.read_value(ops.constant(np.zeros(1, np.float32)), "n", ov.Type.f32, ov.PartialShape([1]))
    count = ops.add(state, ops.constant(np.ones(1, np.float32)))
    node: Any = x
    weights = ops.constant(np.eye(512, dtype=np.float32))
    for _ in range(100):
        node = ops.relu(ops.matmul(node, weights, False, False))
    count.output(0).set_names({"count"})
    return ov.Model([ops.result(count), ops.result(node)], [ops.assign(count, "n")], [x], "counter")


def test_a_task_that_is_cancelled_inside_amap_gets_the_message(run: Callable[..., Any]) -> None:
    async def over() -> None:
        async for _ in model.amap([ROW] * 3):
            pass

    with fake(1, service_time_us=LONG_US) as model:
        _, _, outcome, seen, was_cancelled = run(cancelled_with(over, ("why",)))
        assert (outcome, seen, was_cancelled) == (("CancelledError", ("why",)), [("CancelledError", ("why",))], True)


def test_requests_are_awaited_on_every_loop(run: Callable[..., Any]) -> None:
    async def body() -> None:
        results = await asyncio.gather(*(model.ainfer(tagged(1, first=i)) for i in range(200)))
        for i, result in enumerate(results):
            np.testing.assert_array_equal(result["y"], tagged(1, first=i) * 2)
        told = asyncio.Event()
        model.ainfer(ROW).add_done_callback(lambda _: told.set())
        await told.wait()

    with ovengine.load(double(), config=EXACT) as model:
        run(body())


# -- anyio ------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=BACKENDS)
def run_anyio(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """`anyio.run` on asyncio, with and without uvloop."""
    backend, options = BACKENDS[request.param]

    def run(function: Callable[..., Any], *arguments: Any) -> Any:
        async def bounded() -> Any:
            with anyio.fail_after(PATIENCE):
                return await function(*arguments)

        return anyio.run(bounded, backend=backend, backend_options=options)

    return run


async def in_move_on_after(start: Start) -> Any:
    with anyio.move_on_after(SOON) as scope:
        await start()
    return scope.cancelled_caught, scope.cancel_called


async def in_fail_after(start: Start) -> Any:
    async def body() -> None:
        with anyio.fail_after(SOON):
            await start()

    return (await told(body()))[0]


async def in_scopes_of_which_the_outer_one_ends(start: Start) -> Any:
    with anyio.move_on_after(SOON) as outer, anyio.move_on_after(PATIENCE) as inner:
        await start()
    return outer.cancelled_caught, inner.cancelled_caught


async def in_a_cancelled_task_group(start: Start) -> Any:
    seen: list[Any] = []

    async def child() -> None:
        try:
            await start()
        except BaseException as error:
            seen.append(type(error).__name__)
            raise

    async with anyio.create_task_group() as group:
        group.start_soon(child)
        group.start_soon(child)
        await anyio.sleep(SOON)
        group.cancel_scope.cancel()
    return seen


async def in_a_scope_that_is_cancelled_before(start: Start) -> Any:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await start()
    return scope.cancelled_caught


async def in_a_shielded_scope(start: Start) -> Any:
    with anyio.move_on_after(SOON) as outer:
        with anyio.move_on_after(3 * SOON, shield=True) as inner:
            await start()
        await anyio.sleep(PATIENCE)
    return outer.cancelled_caught, inner.cancelled_caught


async def again_after_a_scope(start: Start) -> Any:
    return [await in_move_on_after(start) for _ in range(3)]


async def in_a_scope_inside_a_task_that_is_cancelled(start: Start) -> Any:
    return (await cancelled_with(lambda: in_move_on_after_long(start), ("outer",)))[2:]


async def in_move_on_after_long(start: Start) -> None:
    with anyio.move_on_after(PATIENCE):
        await start()


SCOPES = [
    in_move_on_after,
    in_fail_after,
    in_scopes_of_which_the_outer_one_ends,
    in_a_cancelled_task_group,
    in_a_scope_that_is_cancelled_before,
    in_a_shielded_scope,
    again_after_a_scope,
    in_a_scope_inside_a_task_that_is_cancelled,
]


@pytest.mark.parametrize("kind", ["running", "claimed", "bulk"])
@pytest.mark.parametrize("case", SCOPES, ids=lambda case: case.__name__)
def test_scopes_of_anyio_end_as_with_an_asyncio_future(
    case: Callable[[Start], Any], kind: str, run_anyio: Callable[..., Any]
) -> None:
    with fake(1, service_time_us=LONG_US) as model:
        if kind != "running":
            occupy(model)
        given = tagged(3) if kind == "bulk" else ROW
        found = run_anyio(case, lambda: model.ainfer(given))
    assert found == run_anyio(case, lambda: asyncio.get_running_loop().create_future())


def test_a_request_outlives_a_scope_that_was_left_in_time(run_anyio: Callable[..., Any]) -> None:
    async def body() -> float:
        with anyio.move_on_after(PATIENCE):
            return float((await model.ainfer(ROW))["y"][0])
        return 0

    with fake(1, service_time_us=1000) as model:
        assert [run_anyio(body) for _ in range(3)] == [1.0] * 3


# -- trio -------------------------------------------------------------------------------------------------------------


def test_under_trio_awaiting_a_request_is_an_error_that_names_the_way() -> None:
    async def body() -> None:
        with pytest.raises(RuntimeError, match=r"asyncio's event loops only.*under trio.*to_thread\.run_sync"):
            await model.ainfer(ROW)

    with fake(1, service_time_us=LONG_US) as model:
        anyio.run(body, backend="trio")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_requests_run_in_worker_threads_of_anyio(backend: str) -> None:
    async def body() -> None:
        values: list[float] = []

        async def one(value: int) -> None:
            result = await anyio.to_thread.run_sync(model.infer, ROW + value)
            values.append(float(result["y"][0]))

        async with anyio.create_task_group() as group:
            for value in range(20):
                group.start_soon(one, value)
        assert sorted(values) == [value + 1.0 for value in range(20)]
        with anyio.move_on_after(SOON) as scope:
            await anyio.to_thread.run_sync(slow.infer, ROW, abandon_on_cancel=True)
        assert scope.cancelled_caught

    with fake(1, 4, service_time_us=1000) as model, fake(1, service_time_us=LONG_US) as slow:
        anyio.run(body, backend=backend)


def test_without_a_loop_awaiting_a_request_is_an_error() -> None:
    with fake(1, service_time_us=LONG_US) as model:
        coroutine = told(model.ainfer(ROW))
        with pytest.raises(StopIteration) as ended:
            coroutine.send(None)
        assert ended.value.value[0] == "RuntimeError"


# -- descriptors, and loops that go -----------------------------------------------------------------------------------

NO_DESCRIPTORS = """
import asyncio, os, resource, sys
import numpy as np, ovengine
from ovengine.testing import fake_model

model, x = fake_model((1,), service_time_us=50_000), np.zeros(4, np.float32)
limit = resource.getrlimit(resource.RLIMIT_NOFILE)
held = []

def take():
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, limit[1]))
    try:
        while True:
            held.append(os.open("/dev/null", 0))
    except OSError:
        pass

def give():
    while held:
        os.close(held.pop())

def refused(call):
    try:
        call()
    except OSError as error:
        assert error.errno == 24 and "ulimit" in str(error), error
    else:
        raise SystemExit("it was not refused")

async def main():
    async def wait():
        return (await model.ainfer(x))["y"][0]

    take()
    done, _ = await asyncio.wait([asyncio.ensure_future(wait()) for _ in range(3)], timeout=30)
    assert len(done) == 3
    for task in done:
        refused(task.result)
    give()
    assert await asyncio.wait_for(wait(), 30) == 1
    take()
    assert await asyncio.wait_for(wait(), 30) == 1  # the loop has its descriptor
    future, told = model.ainfer(x), []
    refused(lambda: future.add_done_callback(told.append))
    give()
    future.add_done_callback(told.append)
    while not told:
        await asyncio.sleep(0.001)
    assert told == [future]

if sys.argv[1] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
take()
futures = [model.submit(x) for _ in range(3)]
refused(lambda: list(ovengine.as_completed(futures)))
refused(lambda: ovengine.wait(futures))
assert [future.result()["y"][0] for future in futures] == [1] * 3
give()
assert len(list(ovengine.as_completed(futures))) == 3
"""


@pytest.mark.parametrize("loop", LOOPS)
def test_without_a_descriptor_left_a_wait_is_an_error_and_works_later(loop: str) -> None:
    ended = run_python(NO_DESCRIPTORS, loop)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_loop_that_nobody_closes_is_collected() -> None:
    with fake(1, service_time_us=1000) as model:
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(told(model.ainfer(ROW))) == ("ended", ())
        gone = weakref.ref(loop)
        del loop
        gc.collect()
        assert gone() is None
        # One that comes to lie at its place is another.
        for _ in range(20):
            loop = asyncio.new_event_loop()
            assert loop.run_until_complete(told(model.ainfer(ROW))) == ("ended", ())
            loop.close()
