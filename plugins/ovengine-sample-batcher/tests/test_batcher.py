"""The batcher, on costs that are made up."""

from __future__ import annotations

from ovengine_sample_batcher import LatencyBatcher

from ovengine.testing import batch_context


def test_it_stays_within_its_time() -> None:
    plan = LatencyBatcher().plan(batch_context(lambda size: 1000.0 * size))
    assert plan.ladder == (1, 2, 4, 8)


def test_a_slow_model_runs_row_by_row() -> None:
    assert LatencyBatcher().plan(batch_context({1: 50_000.0})).ladder == (1,)


def test_it_honours_the_callers_limit() -> None:
    assert LatencyBatcher().plan(batch_context(lambda size: 1.0, max_batch_size=5)).ladder == (1, 2, 4)
