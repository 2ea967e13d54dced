"""The benchmark of wrong costs, once and in short: that it measures what it says, not how fast it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from bench import healing
from bench.healing import Effort, Factors


def test_a_model_with_spoilt_costs_answers_as_the_others_do() -> None:
    told: list[str] = []

    def one_size(sizes: Sequence[int]) -> list[Factors]:
        assert sizes[0] == 1
        return [{sizes[-1]: 0.25}]

    (outcome,) = healing.measure(healing.MODELS["tiny"], 4, one_size, Effort(0.01, 2, 0.01), told.append)
    assert outcome.clean.median > 0
    assert outcome.queue.median > 0
    assert set(outcome.ladder) >= {1}
    assert len(told) == 2


def test_each_size_is_spoilt_alone_and_all_together() -> None:
    first, *alone, again = islice(healing.spoilings([1, 4], seed=0), 6)
    assert set(first) == set(again) == {1, 4}
    assert first != again
    assert alone == [{1: 0.25}, {1: 4.0}, {4: 0.25}, {4: 4.0}]
    assert all(0.25 <= factor <= 4 for factor in (*first.values(), *again.values()))


def test_spoilt_costs_have_no_ladder_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "cost").mkdir()
    file = tmp_path / "cost" / "one.json"
    file.write_text(
        json.dumps({"value": {"seconds": {"1": 2.0, "4": 3.0}, "before": {"1": 2.0}, "plans": {"asked": [[1], "why"]}}})
    )
    assert healing.kept_sizes(tmp_path) == [1, 4]
    healing.spoil(tmp_path, {4: 0.25})
    assert json.loads(file.read_text())["value"] == {"seconds": {"1": 2.0, "4": 0.75}, "before": {}, "plans": {}}
