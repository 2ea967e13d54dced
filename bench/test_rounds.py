"""The choice of a peer."""

from __future__ import annotations

from functools import partial

from bench.contenders import Contender
from bench.rounds import best


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
    assert best(candidates, 0.0, lambda _: None).name == "steady"
    assert Scripted.open == before + 1


def test_only_candidate_needs_no_choice() -> None:
    assert best([partial(Scripted, "only", [1.0])], 0.0, lambda _: None).name == "only"
