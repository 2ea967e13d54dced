"""Futures: outcome, cancellation, callbacks, and waiting for several of them."""

from __future__ import annotations

import contextvars
import functools
import gc
import logging
import sys
import threading
import time
import weakref
from typing import Any

import numpy as np
import pytest

import ovengine
from ovengine import _core
from support import PATIENCE, each, fake, in_threads, occupy, run_python, tagged, wait_until

ROW = np.zeros(4, np.float32)
SLOW_US = 100_000


# -- outcome ----------------------------------------------------------------------------------------------------------


def test_a_future_goes_from_pending_to_done() -> None:
    with fake(1, service_time_us=SLOW_US) as model:
        future = occupy(model)
        assert not future.done()
        assert not future.cancelled()
        assert "pending" in repr(future)
        result = future.result()
        assert future.done()
        assert not future.cancelled()
        assert "done" in repr(future)
        assert future.exception() is None
        assert future.result() is result


def test_result_and_exception_time_out_and_can_be_asked_again() -> None:
    with fake(1, service_time_us=SLOW_US) as model:
        future = occupy(model)
        for ask in (future.result, future.exception):
            with pytest.raises(TimeoutError, match=r"within 0.001 s; the request goes on, cancel\(\) gives it up"):
                ask(0.001)
            with pytest.raises(ovengine.InferenceTimeout):
                ask(timeout=0)
        assert (future.result(float("inf"))["y"] == 1).all()


def test_many_threads_may_ask_one_future() -> None:
    for _ in range(20):
        with fake(1, service_time_us=3000) as model:
            occupy(model)
            # One is claimed in a batch, the others wait in the queue: two different places to wait at.
            for future in [model.submit(tagged(1)[0]) for _ in range(3)]:
                results = in_threads([future.result] * 6 + each(_ask_twice, [future]))
                assert all(result is results[0] for result in results)
                assert results[0]["y"].tolist() == [1, 2, 3, 4]


def _ask_twice(future: ovengine.Future) -> ovengine.Result:
    assert future.exception() is None
    return future.result()


def test_a_future_that_nobody_keeps_is_run_or_given_up_without_a_trace() -> None:
    with fake(1, 4, service_time_us=1000) as model:
        for _ in range(200):
            model.submit(ROW)
        assert (model.submit(ROW).result()["y"] == 1).all()
        wait_until(lambda: not any(_core.debug_counters().values()))


def test_results_are_right_although_others_are_dropped() -> None:
    with fake(1, 4, 16, service_time_us=500) as model:
        kept = []
        for i in range(2000):
            future = model.submit(np.full(4, i, np.float32))
            if i % 3 == 0:
                kept.append((i, future))
        for i, future in kept:
            assert (future.result()["y"] == i + 1).all()


# -- cancellation -----------------------------------------------------------------------------------------------------


def test_a_request_that_waits_is_cancelled_at_once() -> None:
    with fake(1, service_time_us=SLOW_US) as model:
        running = occupy(model)
        claimed, queued = model.submit(ROW), model.submit(ROW)
        for future in (claimed, queued):
            assert future.cancel()
            assert future.cancelled()
            assert future.done()
            assert "cancelled" in repr(future)
            assert future.cancel()  # as in concurrent.futures: it is cancelled
            for ask in (future.result, future.exception):
                with pytest.raises(ovengine.Cancelled, match="was cancelled"):
                    ask()
        assert (running.result()["y"] == 1).all()
        model.close()
        assert model.stats().failures["cancelled"] >= 1
        assert model.stats().failures["inference"] == 0


def test_what_is_running_is_cancelled_too_and_its_result_dropped() -> None:
    with fake(1, service_time_us=SLOW_US) as model:
        running = occupy(model)
        assert running.cancel()
        with pytest.raises(ovengine.Cancelled):
            running.result()


def test_what_is_done_is_not_cancelled() -> None:
    with fake() as model:
        future = model.submit(ROW)
        result = future.result()
        assert not future.cancel()
        assert not future.cancelled()
        assert future.result() is result


def test_neighbours_of_a_cancelled_row_get_their_own_results() -> None:
    with fake(1, 4, 16, service_time_us=1000) as model:
        occupy(model)
        futures = [model.submit(np.full((1 + i % 3, 4), i, np.float32)) for i in range(300)]
        cancelled = {i for i in range(0, 300, 2) if futures[i].cancel()}
        assert cancelled
        for i, future in enumerate(futures):
            if i in cancelled:
                assert future.cancelled()
            else:
                assert (future.result()["y"] == i + 1).all()
                assert future.result()["y"].shape == (1 + i % 3, 4)


def test_a_bulk_request_is_cancelled() -> None:
    with fake(1, 4, service_time_us=20_000) as model:
        future = model.submit(np.zeros((100, 4), np.float32))
        assert future.cancel()
        assert future.cancelled()
        with pytest.raises(ovengine.Cancelled):
            future.result()
        assert (model(ROW)["y"] == 1).all()


def test_cancelling_wakes_those_who_wait() -> None:
    with fake(1, service_time_us=SLOW_US) as model:
        occupy(model)
        for future in (model.submit(ROW), model.submit(ROW), model.submit(np.zeros((20, 4), np.float32))):
            waiting = threading.Event()

            def wait(future: ovengine.Future = future, waiting: threading.Event = waiting) -> None:
                waiting.set()
                with pytest.raises(ovengine.Cancelled):
                    future.result(PATIENCE)

            def cancel(future: ovengine.Future = future, waiting: threading.Event = waiting) -> None:
                waiting.wait(PATIENCE)
                assert future.cancel()

            in_threads([wait, wait, cancel])


def test_exactly_one_of_cancel_and_completion_wins() -> None:
    with fake(1, 4, service_time_us=50) as model:
        for _ in range(300):
            futures = [model.submit(np.full(4, i, np.float32)) for i in range(12)]
            agreed = [future.cancel() for future in futures]
            for i, (future, cancelled) in enumerate(zip(futures, agreed, strict=True)):
                assert future.cancelled() == cancelled
                if not cancelled:
                    assert (future.result()["y"] == i + 1).all()


def test_cancelling_from_many_threads_is_one_cancellation() -> None:
    with fake(1, service_time_us=20_000) as model:
        running = occupy(model)
        calls: list[ovengine.Future] = []
        future = model.submit(ROW)
        future.add_done_callback(calls.append)
        assert in_threads([future.cancel] * 8) == [True] * 8
        running.result()
        wait_until(lambda: len(calls) == 1)
        model.close()
        assert calls == [future]


# -- callbacks --------------------------------------------------------------------------------------------------------


def test_callbacks_run_once_each_in_order_with_the_future() -> None:
    with fake(1, service_time_us=SLOW_US) as model:
        future = occupy(model)
        seen: list[Any] = []
        done = threading.Event()
        for i in range(5):
            future.add_done_callback(functools.partial(lambda i, future: seen.append((i, future)), i))
        future.add_done_callback(lambda future: done.set())
        assert done.wait(PATIENCE)
        assert seen == [(i, future) for i in range(5)]
        future.add_done_callback(lambda future: seen.append("late"))
        assert seen[-1] == "late"  # at once


@pytest.mark.parametrize("kind", ["claimed", "queued", "bulk"])
def test_callbacks_are_told_of_every_kind_of_request(kind: str) -> None:
    with fake(1, service_time_us=10_000) as model:
        occupy(model)
        claimed, queued = model.submit(ROW), model.submit(ROW)
        future = {"claimed": claimed, "queued": queued, "bulk": model.submit(np.zeros((5, 4), np.float32))}[kind]
        done = threading.Event()
        future.add_done_callback(lambda future: done.set())
        assert done.wait(PATIENCE)
        assert future.done()
        assert (future.result()["y"] == 1).all()


def test_a_callback_that_raises_is_logged_and_the_others_run(caplog: pytest.LogCaptureFixture) -> None:
    def fail(error: BaseException, future: ovengine.Future) -> None:
        raise error

    with fake(1, service_time_us=20_000) as model, caplog.at_level(logging.ERROR, "ovengine"):
        # Also those that are no Exception: they must not end the thread that runs all callbacks.
        for error in (ValueError("boom"), SystemExit(3), KeyboardInterrupt()):
            future = occupy(model)
            done = threading.Event()
            future.add_done_callback(functools.partial(fail, error))
            future.add_done_callback(lambda future, done=done: done.set())  # type: ignore[misc]  # a default argument
            assert done.wait(PATIENCE)
            assert (future.result()["y"] == 1).all()
    assert "boom" in caplog.text
    assert "SystemExit: 3" in caplog.text


def test_a_removed_callback_is_not_called() -> None:
    with fake(1, service_time_us=SLOW_US) as model:
        future = occupy(model)
        seen: list[Any] = []
        done = threading.Event()
        future.add_done_callback(seen.append)
        future.add_done_callback(seen.append)
        future.add_done_callback(lambda future: done.set())
        assert future.remove_done_callback(seen.append) == 2
        assert future.remove_done_callback(seen.append) == 0
        assert done.wait(PATIENCE)
        assert seen == []


def test_a_callback_may_submit_and_wait_for_nothing() -> None:
    with fake() as model:
        seen: list[float] = []
        done = threading.Event()

        def follow(future: ovengine.Future) -> None:
            value = float(future.result()["y"][0])
            seen.append(value)
            if value >= 100:
                done.set()
            else:
                model.submit(future.result()["y"]).add_done_callback(follow)

        model.submit(ROW).add_done_callback(follow)
        assert done.wait(PATIENCE)
        assert seen == [float(i) for i in range(1, 101)]


def test_a_callback_may_cancel_its_future_and_add_another() -> None:
    with fake(1, service_time_us=20_000) as model:
        future = occupy(model)
        seen: list[Any] = []
        done = threading.Event()

        def first(future: ovengine.Future) -> None:
            seen.append(future.cancel())
            future.add_done_callback(lambda future: seen.append("second"))
            done.set()

        future.add_done_callback(first)
        assert done.wait(PATIENCE)
        assert seen == [False, "second"]


def test_cancelling_runs_the_callbacks_in_the_cancelling_thread() -> None:
    with fake(1, service_time_us=SLOW_US) as model:
        running = occupy(model)
        future = model.submit(ROW)
        seen: list[Any] = []
        future.add_done_callback(lambda future: seen.append((future.cancelled(), threading.current_thread())))
        assert future.cancel()
        assert seen == [(True, threading.current_thread())]
        running.result()
        model.close()
        assert len(seen) == 1


def test_callbacks_added_from_many_threads_all_run_once() -> None:
    for service_time_us in [0, 100, 1000] * 20:
        with fake(1, service_time_us=service_time_us) as model:
            model.submit(ROW)
            future = model.submit(ROW)
            calls: list[int] = []

            def add(thread: int, future: ovengine.Future = future, calls: list[int] = calls) -> None:
                for i in range(10):
                    future.add_done_callback(lambda future, i=i: calls.append(thread * 10 + i))  # type: ignore[misc]

            in_threads([functools.partial(add, thread) for thread in range(4)])
            wait_until(lambda calls=calls: len(calls) >= 40)  # type: ignore[misc]  # a default argument
            assert sorted(calls) == list(range(40))


def test_a_callback_runs_in_the_context_that_it_was_given() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    context = contextvars.copy_context()
    context.run(variable.set, "given")
    with fake(1, service_time_us=20_000) as model:
        future = occupy(model)
        seen: list[str] = []
        done = threading.Event()
        future.add_done_callback(lambda future: seen.append(variable.get()), context=context)
        future.add_done_callback(lambda future: done.set())
        assert done.wait(PATIENCE)
        future.add_done_callback(lambda future: seen.append(variable.get()), context=context)
        assert seen == ["given", "given"]


def test_a_callback_that_holds_its_future_leaves_no_cycle() -> None:
    with fake(1, service_time_us=10_000) as model:
        future = occupy(model)
        done = threading.Event()
        held = [future]

        def tell(_: ovengine.Future) -> None:
            assert held is not None
            done.set()

        future.add_done_callback(tell)
        del tell
        assert done.wait(PATIENCE)
        held.clear()
        del future
        wait_until(lambda: not any(_core.debug_counters().values()))


# -- as_completed and wait --------------------------------------------------------------------------------------------


def test_as_completed_yields_each_future_once_as_it_comes() -> None:
    with fake(1, service_time_us=2000) as model:
        futures = [model.submit(np.full(4, i, np.float32)) for i in range(20)]
        futures.append(model.submit(np.zeros((3, 4), np.float32)))
        seen = []
        for future in ovengine.as_completed([*futures, *futures]):
            assert future.done()
            seen.append(future)
        assert sorted(map(id, seen)) == sorted(map(id, futures))


def test_as_completed_yields_in_the_order_of_completion() -> None:
    with fake(1, service_time_us=5000) as model:
        futures = [model.submit(np.full(4, i, np.float32)) for i in range(20)]
        done_before = [future for future in futures if future.done()]
        order = [float(future.result()["y"][0]) for future in ovengine.as_completed(futures)]
        assert order[len(done_before) :] == sorted(order[len(done_before) :])


def test_as_completed_takes_futures_of_several_models() -> None:
    with fake(1, service_time_us=3000) as one, fake(1, 4) as other:
        futures = [model.submit(ROW) for model in (one, other) for _ in range(10)]
        assert set(ovengine.as_completed(iter(futures))) == set(futures)


def test_as_completed_of_nothing_is_nothing() -> None:
    assert list(ovengine.as_completed([])) == []
    assert ovengine.wait([]) == (set(), set())


def test_as_completed_times_out_for_all_that_is_left() -> None:
    with fake(1, service_time_us=SLOW_US) as model:
        futures = [model.submit(ROW) for _ in range(3)]
        with pytest.raises(TimeoutError, match=r"3 of the futures are not done within 0\.01 s"):
            list(ovengine.as_completed(futures, timeout=0.01))
        with pytest.raises(ovengine.InferenceTimeout):
            list(ovengine.as_completed(futures, timeout=0))
        assert len(list(ovengine.as_completed(futures, timeout=float("inf")))) == 3
        assert len(list(ovengine.as_completed(futures, timeout=0))) == 3


def test_as_completed_may_be_left_midway_and_taken_up_again() -> None:
    with fake(1, service_time_us=3000) as model:
        futures = [model.submit(ROW) for _ in range(10)]
        for _ in range(3):
            for _future in ovengine.as_completed(futures):
                break
        abandoned = ovengine.as_completed(futures)
        next(abandoned)
        del abandoned
        never_started = ovengine.as_completed(futures)
        del never_started
        assert len(list(ovengine.as_completed(futures))) == 10


def test_as_completed_yields_failed_and_cancelled_futures_too() -> None:
    with fake(1, service_time_us=3000, poison=13.0) as model:
        occupy(model)
        futures = [model.submit(np.full(4, value, np.float32)) for value in (1, 13, 2, 3)]
        futures[3].cancel()
        outcomes = {
            futures.index(future): "cancelled" if future.cancelled() else type(future.exception()).__name__
            for future in ovengine.as_completed(futures)
        }
        assert outcomes == {0: "NoneType", 1: "InferenceError", 2: "NoneType", 3: "cancelled"}


def test_as_completed_and_wait_refuse_what_is_no_future() -> None:
    for call in (ovengine.wait, lambda futures: list(ovengine.as_completed(futures))):
        with pytest.raises(TypeError, match="Future"):
            call([1])  # type: ignore[list-item]  # what the test is about


def test_wait_for_all() -> None:
    with fake(1, service_time_us=2000) as model:
        futures = [model.submit(ROW) for _ in range(10)]
        done, not_done = ovengine.wait(futures)
        assert done == set(futures)
        assert not_done == set()


def test_wait_for_the_first() -> None:
    with fake(1, service_time_us=50_000) as model:
        futures = [model.submit(ROW) for _ in range(4)]
        done, not_done = ovengine.wait(futures, return_when="FIRST_COMPLETED")
        assert done
        assert done | not_done == set(futures)
        assert all(future.done() for future in done)
        done, not_done = ovengine.wait(futures, return_when="FIRST_COMPLETED")
        assert done  # at once


def test_wait_for_the_first_exception() -> None:
    with fake(1, service_time_us=20_000, poison=13.0) as model:
        futures = [model.submit(np.full(4, value, np.float32)) for value in (1, 2, 13, 3, 4, 5, 6)]
        done, not_done = ovengine.wait(futures, return_when="FIRST_EXCEPTION")
        assert futures[2] in done
        assert futures[6] in not_done
        done, not_done = ovengine.wait(futures[3:], return_when="FIRST_EXCEPTION")
        assert not not_done


def test_a_cancelled_future_is_no_exception_to_wait_for() -> None:
    with fake(1, service_time_us=20_000) as model:
        futures = [model.submit(ROW) for _ in range(4)]
        futures[2].cancel()
        _, not_done = ovengine.wait(futures, return_when="FIRST_EXCEPTION")
        assert not not_done


def test_wait_gives_back_what_is_done_when_its_time_is_up() -> None:
    with fake(1, service_time_us=SLOW_US) as model:
        futures = [model.submit(ROW) for _ in range(3)]
        done, not_done = ovengine.wait(futures, timeout=0)
        assert not done
        assert not_done == set(futures)
        futures[0].result()
        done, not_done = ovengine.wait(futures, timeout=0)
        assert futures[0] in done
        assert futures[2] in not_done


def test_wait_refuses_an_unknown_condition() -> None:
    with pytest.raises(ValueError, match="'SOMETIME'; it is ALL_COMPLETED, FIRST_COMPLETED or FIRST_EXCEPTION"):
        ovengine.wait([], return_when="SOMETIME")


def test_many_threads_wait_for_the_same_futures() -> None:
    with fake(1, 4, service_time_us=2000) as model:
        futures = [model.submit(ROW) for _ in range(50)]
        waits = [lambda: len(ovengine.wait(futures)[0]), lambda: len(list(ovengine.as_completed(futures)))]
        assert in_threads(waits * 4) == [50] * 8


def test_an_answer_may_be_taken_while_the_thread_for_callbacks_starts() -> None:
    # It starts with the first callback of a process, and lets other threads run meanwhile.
    code = """
import threading
import numpy as np
from ovengine.testing import fake_model

class Slow(threading.Thread):
    def start(self):
        super().start()
        future.result()  # as another thread might

with fake_model((1,), service_time_us=20_000) as model:
    future = model.submit(np.zeros(4, np.float32))
    threading.Thread = Slow
    told = []
    future.add_done_callback(told.append)
    assert told == [future]
"""
    process = run_python(code)
    assert process.returncode == 0, process.stderr


# -- nothing is left --------------------------------------------------------------------------------------------------


def test_what_was_submitted_is_referred_to_by_nobody_afterwards() -> None:
    with fake(1, 4, row_shape=(100,), service_time_us=200) as model:
        array = np.zeros((3, 100), np.float32)
        before = sys.getrefcount(array), sys.getrefcount(model)
        for share in (False, True):
            futures = [model.submit(array, share_inputs=share) for _ in range(50)]
            futures += [model.submit(array.astype(np.float64), share_inputs=share) for _ in range(5)]
            futures.append(model.submit(np.concatenate([array] * 20), share_inputs=share))
            for future in futures[::2]:
                future.result()["y"]
            del futures, future
        model(array)
        model.infer_rows(array)
        gc.collect()
        wait_until(lambda: (sys.getrefcount(array), sys.getrefcount(model)) == before)


def test_requests_leave_no_python_objects_behind() -> None:
    called: list[None] = []

    def some(model: ovengine.Model) -> None:
        for share in (False, True):
            futures = [model.submit(ROW, share_inputs=share) for _ in range(40)]
            for future in futures[:20]:
                future.add_done_callback(lambda future: called.append(None))
            futures[31].cancel()
            ovengine.wait(futures)
            for _ in ovengine.as_completed(futures):
                break
            for future in futures[::2]:
                future.exception()
                future.result()["y"]
        with pytest.raises(ovengine.InputError):
            model(np.zeros(5))

    def blocks_after_rounds() -> int:
        for _ in range(50):
            some(model)
        wait_until(lambda: len(called) == 50 * 2 * 20)
        called.clear()
        gc.collect()
        return sys.getallocatedblocks()

    with fake(1, 4) as model:
        # 50 rounds of more than 100 objects each: a leak of one of them a round would show. What is freed may stay
        # behind for the next of its kind, a thousand of them; how many at once there were is up to the threads.
        counts = [blocks_after_rounds()]
        while len(counts) < 20 and (len(counts) < 2 or counts[-1] - counts[-2] >= 50):
            counts.append(blocks_after_rounds())
        assert counts[-1] - counts[-2] < 50, counts


def test_a_future_is_gone_with_its_last_reference() -> None:
    class Marker:
        pass

    with fake(1, service_time_us=5000) as model:
        future = occupy(model)
        marker = Marker()
        gone = weakref.ref(marker)
        future.add_done_callback(lambda future, marker=marker: None)  # type: ignore[misc]  # a default argument
        del marker
        future.result()
        del future
        wait_until(lambda: gone() is None)


def test_futures_dropped_while_they_are_waited_for_elsewhere_do_no_harm() -> None:
    # Deallocation, cancellation and completion of the same batches race here, from several threads.
    with fake(1, 4, service_time_us=100) as model:
        stop = time.monotonic() + 1.0

        def churn(seed: int) -> None:
            rng = np.random.default_rng(seed)
            while time.monotonic() < stop:
                futures = [model.submit(np.full(4, i, np.float32)) for i in range(20)]
                for i in rng.permutation(20):
                    action = rng.integers(4)
                    if action == 0:
                        futures[i].cancel()
                    elif action == 1:
                        futures[i].add_done_callback(lambda future: future.cancelled() or future.exception())
                    elif action == 2 and not futures[i].cancelled():
                        assert (futures[i].result()["y"] == i + 1).all()
                del futures

        in_threads(each(churn, range(4)))
