"""Garbage collection: what refers back to a model or a future, and is dropped with it, is collected with it."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from openvino import opset13 as ops

import ovengine
from ovengine import _core
from ovengine.testing import fake_model
from support import PATIENCE, network, occupy, run_python, tagged, wait_until

ROW = np.zeros(4, np.float32)
SLOW_US = 50_000


@pytest.fixture(autouse=True, params=[None, 1], ids=["", "at each allocation"])
def _threshold(request: pytest.FixtureRequest) -> Iterator[None]:
    """As usual, and with a collection after nearly each allocation of a container."""
    before = gc.get_threshold()
    if request.param is not None:
        gc.set_threshold(request.param)
    yield
    gc.set_threshold(*before)


class Holder:
    """Refers to anything, and so is part of cycles; hashable, and callable as a done callback."""

    def __init__(self, *held: Any) -> None:
        self.held: list[Any] = [self, *held]

    def __call__(self, future: ovengine.Future) -> None:
        self.held.append(future)


class Tagged(np.ndarray[Any, Any]):
    """An array with attributes."""

    holder: Any = None


def collected(*references: weakref.ref[Any]) -> None:
    """Wait until all are gone."""

    def gone() -> bool:
        gc.collect()
        return all(reference() is None for reference in references)

    wait_until(gone)


def tagged_row(holder: Any) -> Tagged:
    row: Tagged = Tagged((4,), np.float32)
    row[...] = 0
    row.holder = holder
    return row


# -- what users hang on to a model ------------------------------------------------------------------------------------


def group_key(model: ovengine.Model) -> Any:
    holder = Holder(model)
    model.submit(ROW, group=holder).result()
    return holder


def group_key_in_a_tuple(model: ovengine.Model) -> Any:
    holder = Holder(model)
    model.submit(ROW, group=("camera", holder), latest_only=True).result()
    return holder


def result_of_a_model(model: ovengine.Model) -> Any:
    holder = Holder(model)
    holder.held.append(model.submit(ROW).result())
    model.cache = holder  # type: ignore[attr-defined]
    return holder


def future_of_a_model(model: ovengine.Model) -> Any:
    holder = Holder(model, model.submit(ROW))
    model.cache = holder  # type: ignore[attr-defined]
    return holder


def session_of_a_model(model: ovengine.Model) -> Any:
    session = model.session()
    session(ROW)
    holder = Holder(session, session.state)
    model.cache = holder  # type: ignore[attr-defined]
    return holder


def callback_that_has_run(model: ovengine.Model) -> Any:
    holder = Holder()
    future = model.submit(ROW)
    holder.held.append(future)
    future.add_done_callback(holder)
    future.result()
    return holder


def callback_that_has_yet_to_run(model: ovengine.Model) -> Any:
    holder = Holder()
    occupy(model)
    future = model.submit(ROW)
    holder.held += [future, model]
    future.add_done_callback(holder)
    return holder


def kept_array_of_a_result(model: ovengine.Model) -> Any:
    occupy(model)
    holder = Holder(model)
    future = model.submit(tagged_row(holder), share_inputs=True)
    holder.held.append(future)
    future.result()
    return holder


def kept_array_that_nobody_asks_for(model: ovengine.Model) -> Any:
    occupy(model)
    holder = Holder(model)
    future = model.submit(tagged_row(holder), share_inputs=True)
    holder.held.append(future)
    wait_until(future.done)
    return holder


def kept_array_of_a_cancelled_request(model: ovengine.Model) -> Any:
    occupy(model)
    holder = Holder(model)
    future = model.submit(tagged_row(holder), share_inputs=True)
    holder.held.append(future)
    assert future.cancel()
    return holder


def kept_array_of_a_request_that_runs(model: ovengine.Model) -> Any:
    holder = Holder(model)
    rows = np.zeros((40, 4), np.float32).view(Tagged)
    rows.holder = holder
    future = model.submit(rows, share_inputs=True)
    holder.held.append(future)
    wait_until(lambda: model.stats().batches or future.done() or _core.debug_counters()["slots"] == 0)
    return holder


def kept_array_of_a_closed_model(model: ovengine.Model) -> Any:
    occupy(model)
    holder = Holder(model)
    future = model.submit(tagged_row(holder), share_inputs=True)
    holder.held.append(future)
    model.close(0)
    return holder


def array_that_fails(model: ovengine.Model) -> Any:
    occupy(model)
    holder = Holder(model)
    row = tagged_row(holder)
    row[...] = 13
    future = model.submit(row, share_inputs=True)
    holder.held.append(future)
    holder.held.append(future.exception())
    return holder


def lease_that_is_open(model: ovengine.Model) -> Any:
    lease = model.lease()
    holder = Holder(lease, lease["x"], lease["x"][0])
    model.cache = holder  # type: ignore[attr-defined]
    return holder


def lease_that_is_over(model: ovengine.Model) -> Any:
    lease = model.lease()
    holder = Holder(lease, lease["x"], lease["x"][0])
    holder.held.append(lease.submit())
    return holder


def lease_in_the_ring(model: ovengine.Model) -> Any:
    occupy(model)
    model.submit(ROW)
    lease = model.lease()
    return Holder(lease, lease["x"], model)


def as_completed_midway(model: ovengine.Model) -> Any:
    occupy(model)
    holder = Holder(model)
    futures = [model.submit(ROW) for _ in range(3)]
    iterator = ovengine.as_completed(futures)
    holder.held += [futures, iterator, next(iterator)]
    return holder


def map_midway(model: ovengine.Model) -> Any:
    holder = Holder(model)
    results = model.map([ROW] * 10, window=3, group=holder)
    holder.held += [results, next(results)]
    return holder


def task_that_awaits(model: ovengine.Model) -> Any:
    async def body() -> Holder:
        occupy(model)
        holder = Holder(model)
        future = model.ainfer(ROW, group=holder)
        holder.held.append(future)

        async def wait() -> Any:
            return holder, await future

        holder.held.append(task := asyncio.ensure_future(wait()))
        await task
        return holder

    return asyncio.run(body())


PATHS = [
    group_key,
    group_key_in_a_tuple,
    result_of_a_model,
    future_of_a_model,
    session_of_a_model,
    callback_that_has_run,
    callback_that_has_yet_to_run,
    kept_array_of_a_result,
    kept_array_that_nobody_asks_for,
    kept_array_of_a_cancelled_request,
    kept_array_of_a_request_that_runs,
    kept_array_of_a_closed_model,
    array_that_fails,
    lease_that_is_open,
    lease_that_is_over,
    lease_in_the_ring,
    as_completed_midway,
    map_midway,
    task_that_awaits,
]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
def test_a_cycle_through_a_model_is_collected(path: Callable[[ovengine.Model], Any]) -> None:
    model = fake_model((1, 4), service_time_us=SLOW_US, poison=13.0)
    holder, gone = weakref.ref(path(model)), weakref.ref(model)
    del model
    collected(holder, gone)


@pytest.mark.parametrize(
    "path", [group_key, callback_that_has_yet_to_run, lease_that_is_open], ids=lambda p: p.__name__
)
def test_a_cycle_through_a_loaded_model_is_collected(path: Callable[[ovengine.Model], Any]) -> None:
    model = ovengine.load(network({"x": ((4,), np.float32)}, lambda x: {"y": ops.multiply(x, x)}))
    model.wait_ready()
    holder, gone = weakref.ref(path(model)), weakref.ref(model)
    del model
    collected(holder, gone)


def test_a_model_with_row_classes_is_collected() -> None:
    model = ovengine.load(network({"x": ((-1,), np.float32)}, lambda x: {"y": ops.multiply(x, x)}))
    for _ in range(64):
        model(tagged(1, 3))
    model.wait_ready(PATIENCE)
    holder = Holder(model)
    model.submit(tagged(1, 3), group=holder).result()
    gone: list[weakref.ref[Any]] = [weakref.ref(each) for each in (model, holder, *model._class_models)]
    del model, holder
    collected(*gone)


# -- the request goes on ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 40], ids=["queued", "bulk"])
def test_arrays_of_a_dropped_request_stay_until_the_core_has_read_them(rows: int) -> None:
    model = fake_model((1, 4), service_time_us=SLOW_US)
    occupy(model)
    array = np.zeros((rows, 4), np.float32).view(Tagged)
    array.holder = holder = Holder()
    alive = weakref.ref(holder)
    del holder
    model.submit(array, share_inputs=True)  # the future is dropped at once
    del array
    wait_until(lambda: model.stats().pending_requests == 0)
    collected(alive)
    assert (model(ROW)["y"] == 1).all()
    model.close()


def test_a_finalizer_may_use_and_revive_what_is_collected() -> None:
    revived: list[Any] = []

    class Reviver:
        def __init__(self, *held: Any) -> None:
            self.held = [self, *held]

        def __del__(self) -> None:
            revived.append(self.held)

    model = fake_model((1, 4), service_time_us=1000)
    lease = model.lease()
    reviver = Reviver(model, model.submit(ROW), model.session(), lease, lease["x"], model.submit(ROW).result())
    model.cache = reviver  # type: ignore[attr-defined]
    del model, lease, reviver
    wait_until(lambda: gc.collect() >= 0 and revived)
    _, model, future, session, lease, array, result = revived.pop()
    assert (future.result()["y"] == 1).all()
    assert (session(ROW)["y"] == 1).all()
    array[...] = 2
    lease.release()
    assert not array.flags.writeable
    assert (result["y"] == 1).all()
    model.close()


def test_requests_are_right_while_everything_is_collected() -> None:
    model = fake_model((1, 4, 16), service_time_us=100)
    kept = []
    for i in range(60):
        holder = Holder(model)
        lease = model.lease()
        lease["x"][...] = i
        view = lease["x"][0, 1:]
        futures = [model.submit(np.full(4, i + j, np.float32), group=holder, share_inputs=True) for j in range(5)]
        for future in futures:
            future.add_done_callback(holder)
            holder.held.append(future)
        last = lease.submit()
        kept.append(view)
        assert [float(future.result()["y"][0]) for future in futures] == [i + j + 1.0 for j in range(5)]
        assert (last.result()["y"] == i + 1).all()
    model.close()


def test_results_outlive_their_model() -> None:
    model = fake_model((1, 4), row_shape=(1000,))
    result = model(np.full((2, 1000), 3, np.float32))
    array = result["y"]
    gone = weakref.ref(model)
    del model
    collected(gone)
    assert (result["y"] == 4).all()
    del result
    assert (array == 4).all()


CYCLES_AT_EXIT = """
import gc
import numpy as np
from ovengine.testing import fake_model

class Holder:
    pass

if {disable}:
    gc.disable()
for _ in range(20):
    model = fake_model((1, 4), service_time_us=20_000)
    holder = Holder()
    lease = model.lease()
    future = model.submit(np.zeros((9, 4), np.float32), share_inputs=True, group=holder)
    future.add_done_callback(lambda _, holder=holder: holder)
    model.holder, holder.held = holder, [model, lease, lease["x"], future, model.session(), model.submit(np.zeros(4))]
print("ended")
"""


@pytest.mark.parametrize("disable", [True, False])
def test_cycles_that_are_left_at_the_interpreters_end_do_no_harm(disable: bool) -> None:
    ended = run_python(CYCLES_AT_EXIT.replace("{disable}", str(disable)))
    assert (ended.returncode, ended.stdout) == (0, "ended\n"), ended.stderr
