"""Contenders take turns, round by round; what is compared are the ratios within each round.

Whatever else the machine does meets all of a round alike, as long as it lasts longer than a round. What it does not
meet alike shows in the spread of the ratios, which is reported with their median.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.contenders import Contender

Say = Callable[[str], None]
"""Told what is being done; called from the measuring thread, between measurements."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median of some values, their quartiles and extremes."""

    median: float
    lower: float
    upper: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        least, lower, median, upper, most = np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).tolist()
        return cls(median, lower, upper, least, most)


def seconds_of(contender: Contender, passes: int) -> float:
    """Time of one run, whose answers are then compared."""
    begin = time.perf_counter()
    contender.run(passes)
    seconds = time.perf_counter() - begin
    contender.check()
    return seconds


def passes_in(contender: Contender, seconds: float) -> int:
    """Passes that take about so long, after warming up."""
    seconds_of(contender, 1)
    passes = 1
    while (taken := seconds_of(contender, passes)) < seconds / 4:
        passes *= 4
    return max(1, round(passes * seconds / taken))


def us_per_request(contender: Contender, passes: int) -> float:
    """Time of one run, divided by the requests answered in it."""
    return seconds_of(contender, passes) * 1e6 / (passes * len(contender.work.inputs))


def best(candidates: Sequence[Callable[[], Contender]], seconds: float, tell: Say) -> Contender:
    """The fastest of them in two runs of so many seconds each; the others are closed again."""
    if len(candidates) == 1:
        return candidates[0]()
    fastest: Contender | None = None
    least_us = 0.0
    for make in candidates:
        contender = make()
        tell(f"{contender.name}: {contender.detail}")
        passes = passes_in(contender, seconds)
        us = min(us_per_request(contender, passes) for _ in range(2))
        if fastest is None or us < least_us:
            loser, fastest, least_us = fastest, contender, us
        else:
            loser = contender
        if loser is not None:
            loser.close()
    assert fastest is not None, "no candidates"
    return fastest


def order(keys: Sequence[str], index: int) -> list[str]:
    """Whose turn it is in a round."""
    first = index % len(keys)
    rotated = [*keys[first:], *keys[:first]]
    return rotated[::-1] if index // len(keys) % 2 else rotated


def take_turns(contenders: Mapping[str, Contender], rounds: int, seconds: float, tell: Say) -> dict[str, list[float]]:
    """Microseconds per request of each contender, one value a round.

    Args:
        contenders: by the name that they have in the result. Each round begins with another one, and every other round
            goes backwards, so that all have all of the others as predecessors.
        rounds: after a round that does not count.
        seconds: about how long one turn takes.
        tell: told of every round.
    """
    passes = {key: passes_in(contender, seconds) for key, contender in contenders.items()}
    taken: dict[str, list[float]] = {key: [] for key in contenders}
    for index in range(rounds + 1):
        tell(f"round {index} of {rounds}" if index else "warming up")
        for key in order(list(contenders), index):
            us = us_per_request(contenders[key], passes[key])
            if index:
                taken[key].append(us)
    return taken
