"""Contenders take turns, round by round; what is compared are the ratios within each round.

Whatever else the machine does meets all of a round alike, as long as it lasts longer than a round. What it does not
meet alike shows in the spread of the ratios, which is reported with their median.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from bench.contenders import Contender
from bench.work import Work

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


def us_of(contender: Contender, passes: int) -> float:
    """What is compared, of one run whose answers are right."""
    us = contender.measure(passes)
    contender.check()
    return us


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
        us = min(us_of(contender, passes) for _ in range(2))
        if fastest is None or us < least_us:
            loser, fastest, least_us = fastest, contender, us
        else:
            loser = contender
        if loser is not None:
            loser.close()
    assert fastest is not None, "no candidates"
    return fastest


def with_capacity(candidates: Sequence[Callable[[Work], Contender]], work: Work, seconds: float, tell: Say) -> Work:
    """The work with what the fastest of them can serve of it; as it is without candidates, where no load is offered."""
    if not candidates:
        return work
    tell("capacity")
    contender = best([partial(make, work) for make in candidates], seconds, tell)
    try:
        passes = passes_in(contender, seconds)
        return replace(work, capacity=1e6 / min(us_of(contender, passes) for _ in range(2)))
    finally:
        contender.close()


def order(keys: Sequence[str], index: int) -> list[str]:
    """Whose turn it is in a round."""
    first = index % len(keys)
    rotated = [*keys[first:], *keys[:first]]
    return rotated[::-1] if index // len(keys) % 2 else rotated


def name_of(key: str, figure: str) -> str:
    """Of one of a contender's own figures, among what `take_turns` found."""
    return f"{key}: {figure}" if figure else key


def take_turns(contenders: Mapping[str, Contender], rounds: int, seconds: float, tell: Say) -> dict[str, list[float]]:
    """What is compared of each contender, in microseconds, and its other figures: one value a round.

    Args:
        contenders: by the name that they have in the result. Each round begins with another one, and every other round
            goes backwards, so that all have all of the others as predecessors.
        rounds: after a round that does not count.
        seconds: about how long one turn takes.
        tell: told of every round.
    """
    passes = {key: passes_in(contender, seconds) for key, contender in contenders.items()}
    taken: defaultdict[str, list[float]] = defaultdict(list)
    for index in range(rounds + 1):
        tell(f"round {index} of {rounds}" if index else "warming up")
        for key in order(list(contenders), index):
            contender = contenders[key]
            contender.seed = index
            us = us_of(contender, passes[key])
            if index:
                taken[key].append(us)
                for figure, value in contender.figures().items():
                    taken[name_of(key, figure)].append(value)
    return taken
