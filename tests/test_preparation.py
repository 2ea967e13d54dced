"""A model serves while larger batches are prepared behind it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import ovengine
from ovengine import _compiler, _preparation
from ovengine._preparation import Preparation
from ovengine.errors import EngineClosed
from ovengine.hookspecs import BatchContext
from ovengine.testing import TINY_MLP, mlp
from support import EXACT, PATIENCE, Array, in_threads, ready, reference, tagged, wait_until


class Gated:
    """A batcher that waits for the test before it measures anything."""

    name = "gated"

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Event()

    def plan(self, context: BatchContext) -> ovengine.BatchPlan:
        cost_us = {1: context.measure(1) * 1e6}
        context.measure(2)  # leaves the loading thread here
        self.entered.set()
        assert self.gate.wait(PATIENCE)
        cost_us |= {size: context.measure(size) * 1e6 for size in (4, 16)}
        return ovengine.BatchPlan(tuple(cost_us), cost_us, why="the gate was opened")

    @ovengine.hookimpl
    def ovengine_batchers(self) -> list[Any]:
        return [self]


@pytest.fixture
def gated(ovengine_engine: Callable[..., ovengine.Engine]) -> tuple[Gated, ovengine.Engine]:
    batcher = Gated()
    return batcher, ovengine_engine(batcher)


def test_it_serves_before_and_while_and_after_larger_batches_come(gated: tuple[Gated, ovengine.Engine]) -> None:
    batcher, engine = gated
    model: Any = engine.load(mlp(*TINY_MLP), batcher="gated", config=EXACT)
    rows = np.random.default_rng(0).standard_normal((64, 16), np.float32)
    expected = reference(mlp(*TINY_MLP))(rows)["y"]
    assert model.plan.ladder == (1,)
    assert not model.wait_ready(0)

    def check(got: Array) -> None:
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)

    check(model(rows)["y"])
    assert batcher.entered.wait(PATIENCE)
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            futures = [model.submit(row) for row in rows]
            check(np.stack([future.result(PATIENCE)["y"] for future in futures]))

    def open_gate() -> None:
        try:
            batcher.gate.set()
            assert model.wait_ready(PATIENCE)
            check(model(rows)["y"])
        finally:
            stop.set()

    in_threads([serve, serve, open_gate])
    assert model.plan.ladder == (1, 4, 16)
    assert "the gate was opened" in str(model.plan)
    assert set(model._costs()) == {1, 4, 16}
    before = model.stats()
    check(model(rows)["y"])
    after = model.stats()
    assert after.batches - before.batches < 64


def test_a_lease_of_more_rows_than_there_are_yet_waits_for_them(gated: tuple[Gated, ovengine.Engine]) -> None:
    batcher, engine = gated
    model = engine.load(mlp(*TINY_MLP), batcher="gated", config=EXACT)
    threading.Timer(0.05, batcher.gate.set).start()
    with model.lease(16) as lease:
        lease["x"][...] = tagged(16, 16)
        assert lease.submit().result(PATIENCE)["y"].shape == (16, 4)


def test_closing_ends_the_preparation_and_tells_who_waits(gated: tuple[Gated, ovengine.Engine]) -> None:
    batcher, engine = gated
    model = engine.load(mlp(*TINY_MLP), batcher="gated", config=EXACT)
    assert batcher.entered.wait(PATIENCE)
    model.close()
    with pytest.raises(EngineClosed, match="closed before all batch sizes were ready"):
        model.wait_ready(PATIENCE)
    batcher.gate.set()
    # The next one has its turn.
    assert ready(engine.load(mlp(*TINY_MLP), max_batch_size=2, batcher="fixed")).plan.ladder == (1, 2)
    assert model.plan.ladder == (1,)


def test_a_model_without_larger_batches_is_ready_at_once(ovengine_engine: Callable[..., ovengine.Engine]) -> None:
    engine = ovengine_engine()
    for options in ({"batcher": "none"}, {"max_batch_size": 1}):
        model = engine.load(mlp(*TINY_MLP), **options)
        assert model.wait_ready(0)
        assert model.plan.ladder == (1,)


# -- Preparation itself -----------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_preparation, "NOTICE_SECONDS", 0.01)


def no_thread(self: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_work_that_is_begun_as_other_work_ends_is_waited_for_too() -> None:
    preparation, turn, gate = Preparation("model"), threading.Lock(), threading.Event()
    last = threading.Event()

    threads: list[threading.Thread] = []

    def first() -> None:
        threads.append(threading.current_thread())
        preparation.start(second, turn)

    def second() -> None:
        assert gate.wait(PATIENCE)
        last.set()

    preparation.start(first, turn)
    wait_until(lambda: threads and not threads[0].is_alive())
    assert not preparation.wait(0)
    assert not preparation.done
    gate.set()
    assert preparation.wait(PATIENCE)
    assert last.is_set()


def test_a_preparation_that_fails_is_told_to_who_waits(caplog: pytest.LogCaptureFixture) -> None:
    preparation, turn = Preparation("model"), threading.Lock()

    def fail() -> None:
        raise ValueError("the reason")

    preparation.start(fail, turn)
    for _ in range(2):
        with pytest.raises(ovengine.ModelError, match=r"'model' goes on as it is, because .*ValueError"):
            preparation.wait(PATIENCE)
    assert "its preparation failed" in caplog.text
    preparation.start(lambda: None, turn)
    assert preparation.wait(PATIENCE)


def test_a_model_serves_when_its_preparation_has_failed(
    ovengine_engine: Callable[..., ovengine.Engine], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("the reason")

    monkeypatch.setattr(ovengine.Model, "_grow", fail)
    model = ovengine_engine().load(mlp(*TINY_MLP), batcher="fixed", max_batch_size=4)
    with pytest.raises(ovengine.ModelError, match="the reason"):
        model.wait_ready(PATIENCE)
    assert model(np.zeros((4, 16), np.float32))["y"].shape == (4, 4)
    assert "the reason" in caplog.text


@pytest.mark.usefixtures("quick")
def test_a_model_does_not_wait_for_ever_for_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_preparation, "PATIENCE_SECONDS", 0.02)
    preparation, turn, done = Preparation("model"), threading.Lock(), threading.Event()
    with turn:
        preparation.start(done.set, turn)
        assert preparation.wait(PATIENCE)
        assert done.is_set()


@pytest.mark.usefixtures("quick")
def test_a_model_that_is_closed_leaves_the_line() -> None:
    preparation, turn, done = Preparation("model"), threading.Lock(), threading.Event()
    with turn:
        preparation.start(done.set, turn)
        thread = preparation._runs[0].thread
        preparation.stop(EngineClosed("closed"))
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert not done.is_set()
    with pytest.raises(EngineClosed):
        preparation.wait(PATIENCE)


def test_a_model_serves_when_no_thread_can_be_started_for_its_preparation(
    ovengine_engine: Callable[..., ovengine.Engine], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = ovengine_engine()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        model = engine.load(mlp(*TINY_MLP), batcher="fixed", max_batch_size=4)
        assert model(np.zeros((4, 16), np.float32))["y"].shape == (4, 4)
        with pytest.raises(ovengine.ModelError, match="can't start new thread"):
            model.wait_ready(PATIENCE)
    assert model.plan.ladder == (1,)
    assert "can't start new thread" in caplog.text


def test_the_end_waits_only_so_long_for_a_preparation() -> None:
    preparation, turn, gate = Preparation("model"), threading.Lock(), threading.Event()

    def work() -> None:
        assert gate.wait(PATIENCE)

    preparation.start(work, turn)
    try:
        assert not Preparation.join_all(time.monotonic() + 0.01)
    finally:
        gate.set()
    assert preparation.wait(PATIENCE)


def test_models_are_compiled_by_as_many_threads_as_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda self: no_thread(self) if started else start(self))
    started: list[int] = []

    def work(item: int) -> int:
        started.append(item)
        return 2 * item

    assert _compiler.at_once(work, range(5), threads=4) == [0, 2, 4, 6, 8]
    assert _compiler.at_once(work, range(5), threads=4) == [0, 2, 4, 6, 8]
