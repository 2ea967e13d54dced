"""A model serves while larger batches are prepared behind it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import ovengine
from ovengine.errors import EngineClosed
from ovengine.hookspecs import BatchContext
from ovengine.testing import TINY_MLP, mlp
from support import EXACT, PATIENCE, Array, in_threads, ready, reference, tagged


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
