"""A device that fails, is slow, or has more to do than it can: a typed error for whom it concerns, and nobody else."""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

import ovengine
from support import EXACT, PATIENCE, each, fake, fill, in_threads, occupy, wait_until

ROW = np.zeros(4, np.float32)
POISON = 13.0
SLOW_US = 100_000


def rows_of(*values: float) -> Any:
    """One row for each value, filled with it."""
    return np.repeat(np.array(values, np.float32)[:, None], 4, axis=1)


# -- infer() that throws ----------------------------------------------------------------------------------------------


def test_a_failing_inference_is_an_error_that_says_why() -> None:
    with fake(1, 4, poison=POISON) as model:
        for call in (model, model.infer, lambda x: model.submit(x).result(), model.infer_rows):
            with pytest.raises(RuntimeError, match=r"inference on model 'fake' failed: .*refuses the value 13"):
                call(rows_of(POISON))
        future = model.submit(rows_of(POISON))
        assert isinstance(future.exception(), ovengine.InferenceError)
        assert future.done()
        assert not future.cancelled()
        assert not future.cancel()
        assert "failed" in repr(future)
        with pytest.raises(ovengine.InferenceError):
            future.result()
        assert (model(ROW)["y"] == 1).all()
        model.close()
        assert model.stats().failures["inference"] >= 5


@pytest.mark.parametrize("summed", [False, True])
def test_an_inference_that_fails_for_its_values_is_an_error_on_the_real_device(summed: bool) -> None:
    # OpenVINO's infer() passes over such a failure where it has one thread, and gives out the result before it.
    x, target = ops.parameter([6], np.float32, name="x"), ops.parameter([2], np.int64, name="target")
    y = ops.reshape(x, target, False)
    if summed:  # all that is seen from outside is static
        y = ops.reduce_sum(y, ops.constant(np.array([0, 1])), keep_dims=False)
    model = ov.Model([ops.result(y)], [x, target], "reshape_on_demand")
    with ovengine.load(model, config=EXACT) as loaded:
        good, bad = ([np.arange(6, dtype=np.float32) + 1, np.array(shape)] for shape in ([2, 3], [4, 4]))
        for _ in range(3):
            expected = good[0].sum() if summed else good[0].reshape(2, 3)
            np.testing.assert_array_equal(np.asarray(loaded(good)), expected)
            for call in (loaded, lambda inputs: loaded.submit(inputs).result(PATIENCE)):
                with pytest.raises(ovengine.InferenceError, match="reshape_on_demand"):
                    call(bad)


@pytest.mark.parametrize("ladder", [(1, 4, 16), (16,), (4,), (1,), (1, 3, 7)])
def test_only_the_poisoned_rows_of_a_batch_fail(ladder: tuple[int, ...]) -> None:
    with fake(*ladder, poison=POISON, service_time_us=1000) as model:
        for _ in range(3):
            occupy(model)  # so that what follows is put together
            values = [float(POISON if i % 5 == 2 else i) for i in range(40)]
            futures = [model.submit(rows_of(value)) for value in values]
            for value, future in zip(values, futures, strict=True):
                if value == POISON:
                    assert isinstance(future.exception(), ovengine.InferenceError)
                else:
                    assert (future.result()["y"] == value + 1).all()


def test_a_request_of_several_rows_fails_as_one_and_names_the_row() -> None:
    with fake(1, 4, 16, poison=POISON, service_time_us=1000) as model:
        occupy(model)
        before, bad, after = (model.submit(rows_of(*values)) for values in ((1, 2, 3), (4, 5, POISON, 6), (7, 8, 9)))
        assert before.result()["y"][:, 0].tolist() == [2.0, 3.0, 4.0]
        assert after.result()["y"][:, 0].tolist() == [8.0, 9.0, 10.0]
        with pytest.raises(ovengine.InferenceError, match="row 2: "):
            bad.result()


def test_a_device_that_fails_now_and_then_fails_nothing_that_a_second_try_saves() -> None:
    # Batches are tried row by row when they fail; a single row that fails is not tried again.
    with fake(4, fail_every=3, service_time_us=500) as model:
        futures = [model.submit(np.full((2, 4), i, np.float32)) for i in range(100)]
        failed = 0
        for i, future in enumerate(futures):
            if future.exception() is None:
                assert (future.result()["y"] == i + 1).all()
            else:
                failed += 1
        assert failed < 100


def test_failures_reach_many_threads_each_its_own() -> None:
    with fake(1, 4, 16, lanes=2, poison=POISON, service_time_us=100) as model:

        def call(seed: int) -> None:
            for i in range(100):
                value = POISON if (i + seed) % 4 == 0 else float(1000 * seed + i + 100)
                if value == POISON:
                    with pytest.raises(ovengine.InferenceError):
                        model(rows_of(value))
                else:
                    assert (model(rows_of(value, value))["y"] == value + 1).all()

        in_threads(each(call, range(6)))


def test_a_poisoned_lease_and_shared_inputs_fail_alone_too() -> None:
    with fake(1, 4, poison=POISON, service_time_us=1000) as model:
        occupy(model)
        good = model.submit(rows_of(1), share_inputs=True)
        bad = model.submit(rows_of(POISON), share_inputs=True)
        with model.lease() as lease:
            lease["x"][...] = POISON
            leased = lease.submit()
        for future in (bad, leased):
            assert isinstance(future.exception(), ovengine.InferenceError)
        assert (good.result()["y"] == 2).all()


def test_a_cancelled_poisoned_row_fails_nobody() -> None:
    with fake(16, poison=POISON, service_time_us=5000) as model:
        occupy(model)
        futures = [model.submit(rows_of(value)) for value in (1, POISON, 2)]
        assert futures[1].cancel()
        assert (futures[0].result()["y"] == 2).all()
        assert (futures[2].result()["y"] == 3).all()
        model.close()
        assert model.stats().failures["inference"] == 0


# -- overload ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 8, 100])
def test_the_queue_is_full_exactly_at_its_size(size: int) -> None:
    with fake(1, max_queue_size=size, service_time_us=500_000) as model:
        occupy(model)
        futures = fill(lambda: model.submit(ROW))
        assert len(futures) == size + 1  # one in the open slot, the others in the queue
        for call in (model.submit, model.ainfer, model):
            with pytest.raises(
                ovengine.QueueFull, match=rf"{size} requests wait for model 'fake', and there is room for {size};"
            ):
                call(ROW)
        assert model.stats().rejections["queue_full"] == 4
        assert model.stats().pending_requests == size
        for future in futures:
            assert future.cancel()


def test_the_queue_is_full_exactly_at_its_size_from_many_threads() -> None:
    with fake(1, max_queue_size=50, service_time_us=500_000) as model:
        occupy(model)
        accepted = in_threads([lambda: fill(lambda: model.submit(ROW))] * 8)
        assert sum(map(len, accepted)) == 51
        for futures in accepted:
            for future in futures:
                future.cancel()


def test_there_is_room_again_when_the_queue_has_been_served() -> None:
    with fake(1, 4, max_queue_size=5, service_time_us=1000) as model:
        for _ in range(5):
            for future in fill(lambda: model.submit(ROW)):
                assert (future.result()["y"] == 1).all()


def test_the_order_of_a_backlog_is_that_of_submission() -> None:
    with fake(1, service_time_us=1000) as model:
        occupy(model)
        order: list[int] = []
        futures = [model.submit(ROW) for _ in range(30)]
        for i, future in enumerate(futures):
            future.add_done_callback(lambda future, i=i: order.append(i))  # type: ignore[misc]  # a default argument
        wait_until(lambda: len(order) == 30)
        assert order == sorted(order)


def test_blocking_callers_wait_for_room_or_time_out() -> None:
    with fake(1, service_time_us=1_000_000) as model:
        occupy(model)
        futures = [model.submit(ROW) for _ in range((1 << 14) + 1)]
        with pytest.raises(ovengine.InferenceTimeout, match=r"no room in the queue of model 'fake' within 0.001 s"):
            model.infer(ROW, timeout=0.001)
        with pytest.raises(ovengine.QueueFull, match=r"there is room for \d+; submit less"):
            model.ainfer(ROW)
        for future in futures:
            future.cancel()
        assert (model.infer(ROW, timeout=PATIENCE)["y"] == 1).all()


# -- a slow device at the end -----------------------------------------------------------------------------------------


def test_close_waits_for_all_that_is_pending() -> None:
    with fake(1, service_time_us=5000) as model:
        futures = [model.submit(np.full(4, i, np.float32)) for i in range(20)]
        futures.append(model.submit(np.zeros((5, 4), np.float32)))
        assert model.close()
        assert [future.exception() for future in futures] == [None] * 21
        assert model.stats().failures["engine_closed"] == 0


def test_close_gives_up_at_its_deadline_and_resolves_the_rest() -> None:
    with fake(1, service_time_us=SLOW_US) as model:
        running = occupy(model)
        futures = [running, *(model.submit(ROW) for _ in range(20)), model.submit(np.zeros((5, 4), np.float32))]
        assert not model.close(0.01)
        assert model.closed
        assert all(future.done() for future in futures)
        outcomes = [type(future.exception()).__name__ for future in futures]
        assert set(outcomes) <= {"NoneType", "EngineClosed"}
        assert outcomes[-1] == "EngineClosed"
        assert model.stats().failures["engine_closed"] == outcomes.count("EngineClosed")
        for future in futures[-2:]:
            with pytest.raises(ovengine.EngineClosed, match="'fake' was closed before the request was served"):
                future.result()
            assert not future.cancel()


def test_close_does_not_wait_for_a_device_that_does_not_come_back() -> None:
    with fake(1, service_time_us=30_000_000) as model:
        running = occupy(model)
        begin = time.monotonic()
        assert not model.close(0)
        with pytest.raises(ovengine.EngineClosed):
            running.result(PATIENCE)
        assert time.monotonic() - begin < 25  # it would take 30 s


def test_giving_up_does_not_wait_for_the_device_either() -> None:
    bulk = np.zeros((50, 4), np.float32)
    with fake(1, 4, service_time_us=30_000_000) as model:
        begin = time.monotonic()
        for call in (model.infer, model.infer_rows):
            for x in (ROW, bulk):
                with pytest.raises(ovengine.InferenceTimeout):
                    call(x, timeout=0.01)
        for x in (ROW, bulk, bulk[:3]):
            model.submit(x, share_inputs=True)
        assert time.monotonic() - begin < 25  # it would take 30 s
        model.close(0)
        # The device may still be reading what was passed: it is kept.
        assert sys.getrefcount(bulk) > 3


def test_those_who_wait_are_woken_by_close() -> None:
    with fake(1, service_time_us=SLOW_US) as model:
        occupy(model)
        futures = [model.submit(ROW) for _ in range(3)] + [model.submit(np.zeros((9, 4), np.float32))]
        told: list[Any] = []
        waiting = threading.Barrier(len(futures) + 1)
        for future in futures:
            future.add_done_callback(told.append)

        def wait(future: ovengine.Future) -> str:
            waiting.wait(PATIENCE)
            return type(future.exception(PATIENCE)).__name__

        def close() -> str:
            waiting.wait(PATIENCE)
            model.close(0)
            return "closed"

        waits: list[Callable[[], str]] = [functools.partial(wait, future) for future in futures]
        outcomes = in_threads([*waits, close])
        assert set(outcomes) <= {"NoneType", "EngineClosed", "closed"}
        wait_until(lambda: len(told) == len(futures))
