"""Runs that a hypervisor disturbed are repeated, by what was stolen alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.stolen import TICKS_PER_S, Runs, stolen_ticks, undisturbed


def played(stolen_shares: Sequence[float], wanted: int) -> Runs[int]:
    """Runs of a second each, of which so much is stolen; the value of each is its number."""
    now_s, now_ticks = 0.0, 0

    def run(number: int) -> int:
        nonlocal now_s, now_ticks
        now_s += 1
        now_ticks += round(stolen_shares[number - 1] * TICKS_PER_S * (os.cpu_count() or 1))
        return number

    return undisturbed(run, wanted, ticks=lambda: now_ticks, seconds=lambda: now_s)


def test_calm_runs_are_not_repeated() -> None:
    assert played([0, 0, 0], wanted=3) == Runs([1, 2, 3], set_aside=0, stolen=0)


def test_disturbed_runs_are_replaced_by_calm_ones() -> None:
    assert played([0, 0.5, 0, 0.3, 0], wanted=3) == Runs([1, 3, 5], set_aside=2, stolen=0)


def test_where_calm_ones_are_too_few_the_least_disturbed_count() -> None:
    runs = played([0.5, 0.1, 0.4, 0, 0.3, 0.2], wanted=3)
    assert (runs.values, runs.set_aside) == ([4, 2, 6], 3)
    assert runs.stolen == pytest.approx(0.1)


def test_steal_is_the_eighth_column(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 2 30 4000 5 0 7 89 0 0\ncpu0 50 1 15 2000 2 0 3 44 0 0\n")
    assert stolen_ticks(stat) == 89


@pytest.mark.parametrize("text", ["cpu  100 2 30 4000\n", None])
def test_system_that_does_not_say_steals_nothing(tmp_path: Path, text: str | None) -> None:
    stat = tmp_path / "stat"
    if text is not None:
        stat.write_text(text)
    assert stolen_ticks(stat) == 0
