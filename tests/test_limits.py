"""`Model.set`: limits that change while requests run."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import ovengine
from support import PATIENCE, double, fake, fill, in_threads, occupy, run_python, tagged, wait_until

HOUR_US = 3_600_000_000


def test_a_held_batch_goes_when_the_delay_is_set_to_zero() -> None:
    with fake(1, 4, max_queue_delay_us=HOUR_US) as model:
        rows = tagged(2)
        futures = [model.submit(row) for row in rows]
        assert not any(future.done() for future in futures)
        model.set(max_queue_delay_us=0)
        for row, future in zip(rows, futures, strict=True):
            assert np.array_equal(future.result(PATIENCE)["y"], row + 1)
        assert model.plan.batch.max_queue_delay_us == 0


def test_a_delay_that_is_set_holds_batches_until_they_are_full() -> None:
    with fake(1, 4) as model:
        model.set(max_queue_delay_us=HOUR_US)
        futures = [model.submit(row) for row in tagged(3)]
        assert not any(future.done() for future in futures)
        futures.append(model.submit(tagged(1)[0]))
        assert [future.result(PATIENCE)["y"].shape for future in futures] == [(4,)] * 4
        assert model.stats().dispatch["full"] == 1


@pytest.mark.parametrize("limit", [1, 3, 4])
def test_batches_have_no_more_rows_than_was_set(limit: int) -> None:
    with fake(1, 4, 16, service_time_us=20_000) as model:
        model.set(max_batch_size=limit)
        first = occupy(model)
        futures = [model.submit(row) for row in tagged(24)]
        for row, future in zip(tagged(24), futures, strict=True):
            assert np.array_equal(future.result(PATIENCE)["y"], row + 1)
        first.result(PATIENCE)
        assert model.stats().batches >= 1 + 24 // limit


def test_a_request_of_more_rows_than_a_batch_is_run_in_parts() -> None:
    with fake(1, 4, 16) as model:
        rows = tagged(16)
        model.set(max_batch_size=4)
        assert np.array_equal(model.submit(rows).result(PATIENCE)["y"], rows + 1)
        assert np.array_equal(model.infer(rows)["y"], rows + 1)
        assert model.stats().dispatch["bulk"] == 8
        with pytest.raises(ovengine.InputError, match="a batch of model 'fake' has 1 to 4"):
            model.lease(5)
        model.set(max_batch_size=None)
        with model.lease(16) as lease:
            lease["x"][:] = rows
            assert np.array_equal(lease.submit().result(PATIENCE)["y"], rows + 1)


def test_the_queues_size_can_be_raised_lowered_and_lifted() -> None:
    with fake(1, max_queue_size=2, service_time_us=300_000) as model:
        row = tagged(1)[0]
        first = occupy(model)
        accepted = fill(lambda: model.submit(row))
        model.set(max_queue_size=5)
        more = fill(lambda: model.submit(row))
        assert len(more) == 3
        model.set(max_queue_size=1)
        with pytest.raises(ovengine.QueueFull, match="there is room for 1;"):
            model.submit(row)
        model.set(max_queue_size=None)
        more.append(model.submit(row))
        assert model.plan.max_queue_size is None
        for future in [first, *accepted, *more]:
            future.cancel()


def test_a_limit_ends_the_waiting_for_room() -> None:
    with fake(1, service_time_us=1_000_000) as model:
        row = tagged(1)[0]
        first = occupy(model)
        futures = [model.submit(row) for _ in range(model._ring_capacity + 1)]
        outcome: list[object] = []

        def wait_for_room() -> None:
            try:
                outcome.append(model.submit(row))
            except ovengine.QueueFull as error:
                outcome.append(error)

        waiter = threading.Thread(target=wait_for_room, daemon=True)
        waiter.start()
        waiter.join(0.05)
        model.set(max_queue_size=3)
        waiter.join(PATIENCE)
        assert isinstance(outcome[0], ovengine.QueueFull)
        for future in [first, *futures]:
            future.cancel()


def test_the_plan_shows_what_is_in_force_and_the_old_one_stays_as_it_was() -> None:
    with fake(1, 4, 16) as model:
        before = model.plan
        assert "at most" not in str(before)
        model.set(max_batch_size=8, max_queue_delay_us=150, max_queue_size=70)
        assert (model.plan.max_batch_size, model.plan.most_rows, model.plan.ladder) == (8, 8, (1, 4, 16))
        assert "at most 70 requests wait, a batch has at most 8 rows" in str(model.plan)
        assert "a partial batch is held for 150 us" in str(model.plan)
        assert (before.max_batch_size, before.most_rows, before.max_queue_size) == (None, 16, None)
        model.set()
        assert model.plan.max_queue_size == 70


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_batch_size": 17}, r"max_batch_size=17 is more than the largest batch of the plan, 16 rows.*load\(\)"),
        ({"max_batch_size": 0}, "max_batch_size must be None or an integer of at least 1"),
        ({"max_batch_size": 2.5}, "max_batch_size"),
        ({"max_queue_delay_us": -1}, "max_queue_delay_us"),
        ({"max_queue_delay_us": None}, "0 never waits"),
        ({"max_queue_delay_us": HOUR_US + 1}, "max_queue_delay_us must be at most 3600000000"),
        ({"max_queue_size": True}, "max_queue_size"),
        ({"max_queue_size": 16385}, r"max_queue_size=16385 is more than the 16384 requests.*load\(\)"),
    ],
)
def test_a_limit_out_of_range_is_an_error_and_nothing_changes(limits: dict[str, Any], words: str) -> None:
    with fake(1, 4, 16) as model:
        before = model.plan
        with pytest.raises(ovengine.ConfigError, match=words):
            model.set(**{"max_queue_delay_us": 7, **limits})
        assert model.plan is before


def test_a_closed_model_has_no_limits_to_set() -> None:
    with fake(1) as model:
        model.close()
        with pytest.raises(ovengine.EngineClosed):
            model.set(max_queue_delay_us=1)


def test_limits_change_under_load_and_every_row_keeps_its_own_result() -> None:
    rows = tagged(400)
    done = threading.Event()
    with ovengine.load(double(), device="CPU", batcher="fixed", max_batch_size=16, max_queue_size=10_000) as model:

        def produce() -> None:
            futures = [model.submit(rows[first : first + 1 + first % 7]) for first in range(0, 390)]
            for first, future in enumerate(futures):
                assert np.array_equal(future.result(PATIENCE)["y"], 2 * rows[first : first + 1 + first % 7])

        def change() -> None:
            turn = 0
            while not done.is_set():
                turn += 1
                model.set(max_batch_size=1 + turn % 16, max_queue_delay_us=turn % 3 * 50)
                model.set(max_queue_size=5000 + turn % 9)

        def produce_all() -> None:
            try:
                in_threads([produce] * 3)
            finally:
                done.set()

        in_threads([produce_all, change])
        wait_until(lambda: model.stats().pending_requests == 0)
        assert model.stats().requests == 3 * 390


# -- in signal handlers -----------------------------------------------------------------------------------------------


def test_limits_that_a_signal_handler_sets_amid_a_set_are_in_force_after_it() -> None:
    process = run_python(
        """
import signal
import ovengine
from ovengine.testing import fake_model

model = fake_model((1, 4))
put_in_force = type(model)._put_in_force
signals = ["before", "after"]

def interrupted(self, plan):
    where = signals.pop(0) if signals else ""
    if where == "before":
        signal.raise_signal(signal.SIGUSR1)
    put_in_force(self, plan)
    if where == "after":
        signal.raise_signal(signal.SIGUSR2)

type(model)._put_in_force = interrupted
signal.signal(signal.SIGUSR1, lambda *_: model.set(max_queue_size=7, max_batch_size=3))
signal.signal(signal.SIGUSR2, lambda *_: model.set(max_queue_size=8))
model.set(max_queue_delay_us=5)
plan = model.plan
print(plan.batch.max_queue_delay_us, plan.max_batch_size, plan.max_queue_size, model.lease(3).rows)
try:
    model.lease(4)
except ovengine.InputError as error:
    print(error)
"""
    )
    assert process.stderr == ""
    assert process.stdout == "5 3 8 3\na lease of 4 rows; a batch of model 'fake' has 1 to 3\n"


def test_a_handler_may_set_limits_at_any_moment() -> None:
    process = run_python(
        """
import signal
from ovengine.testing import fake_model

model = fake_model((1, 4))
count = 0

def handler(*_):
    global count
    count += 1
    model.set(max_queue_size=count)

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
while count < 300:
    model.set(max_queue_delay_us=count)
    model.set(max_batch_size=1 + count % 4)
signal.setitimer(signal.ITIMER_REAL, 0)
model.set(max_queue_delay_us=0)
assert model.plan.max_queue_size == count, (model.plan.max_queue_size, count)
print("end")
"""
    )
    assert (process.stdout, process.stderr) == ("end\n", "")


def test_a_handler_may_do_what_it_has_interrupted() -> None:
    # Whatever takes a lock in Python is entered anew by a handler, in the middle of itself.
    process = run_python(
        """
import signal, threading
import numpy as np
from ovengine import _memory, engine, plugins
from ovengine.testing import fake_model

ROW = np.zeros(4, np.float32)
model = fake_model((1, 4), service_time_us=50_000)
told = []

def enter(call, owner, name):
    # Calls it, and again from a handler at the first call of owner.name.
    def interrupted(*args, **kwargs):
        setattr(owner, name, inner)
        signal.raise_signal(signal.SIGUSR1)
        return inner(*args, **kwargs)

    inner = getattr(owner, name)
    signal.signal(signal.SIGUSR1, lambda *_: call())
    setattr(owner, name, interrupted)
    call()
    assert getattr(owner, name) is inner, name

def called_back():
    model.submit(ROW).add_done_callback(lambda future: told.append(threading.get_ident()))

enter(called_back, threading.Thread, "start")
enter(engine.default_engine, engine, "Engine")
enter(engine._Process.cpu_budget, engine, "available_cpus")
enter(plugins.default, plugins, "Plugins")
for lock in (_memory._windows_lock, plugins._default_lock, engine._default_lock):
    with lock:
        assert lock.acquire(blocking=False)
        lock.release()
model.close()
while len(told) < 2:
    pass
print("end")
"""
    )
    assert (process.stdout, process.stderr) == ("end\n", "")
