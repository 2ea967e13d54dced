"""The choice of a peer."""

from __future__ import annotations

from functools import partial

import pytest

from bench.contenders import Contender
from bench.rounds import best, play


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scripted, "open", 0)
    monkeypatch.setattr("bench.stolen.CALM", 1.0)


class Scripted(Contender):
    """Takes no time and says what it is told to: these microseconds, and the last of them from then on."""

    open: int = 0

    def __init__(self, name: str, us: list[float]) -> None:
        self.name, self.detail = name, ""
        self._us = us
        Scripted.open += 1

    def run(self, passes: int) -> None:
        pass

    def measure(self, passes: int) -> float:
        return self._us.pop(0) if len(self._us) > 1 else self._us[0]

    def check(self) -> None:
        pass

    def close(self) -> None:
        Scripted.open -= 1


def test_best_is_fastest_most_of_the_time_not_once() -> None:
    lucky, steady, slow = [5.0, *[12.0] * 7], [10.0], [30.0]
    # A contender is made anew for the final; its luck is not.
    candidates = [
        partial(Scripted, "slow", slow),
        partial(Scripted, "lucky", lucky),
        partial(Scripted, "steady", steady),
    ]
    before = Scripted.open
    assert best(candidates, 0.0, lambda _: None)().name == "steady"
    assert Scripted.open == before + 1


def test_only_candidate_needs_no_choice() -> None:
    only = partial(Scripted, "only", [1.0])
    assert best([only], 0.0, lambda _: None) is only


def test_contenders_are_made_in_both_orders_and_each_round_has_both() -> None:
    made: list[str] = []

    def make(name: str) -> Scripted:
        made.append(name)
        return Scripted(name, [2.0])

    turns, field = play({name: partial(make, name) for name in ("ours", "theirs")}, 5, 0.0, lambda _: None)
    assert made == ["ours", "theirs", "theirs", "ours"]
    assert turns.values == [{"ours": 2.0, "theirs": 2.0}] * 6
    assert (set(field), Scripted.open) == ({"ours", "theirs"}, 0)
