"""Contenders take turns, round by round; what is compared are the ratios within each round.

Whatever else the machine does meets all of a round alike, as long as it lasts longer than a round. What it does not
meet alike shows in the spread of the ratios, which is reported with their median. Rounds of which a hypervisor took a
part are run again (`stolen.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from bench.contenders import Contender
from bench.stolen import PATIENCE, Runs, undisturbed
from bench.work import Work

FINALISTS = 3
FINAL_ROUNDS = 6
CAPACITY_RUNS = 8
"""A load is a part of what the best of them shows: a poor moment would make it a lesser part than it says."""

Make = Callable[[], Contender]
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


def least_us_of(contender: Contender, passes: int, runs: int = 2) -> float:
    """The least of some runs."""
    return min(undisturbed(lambda _: us_of(contender, passes), runs).values)


def best(candidates: Sequence[Make], seconds: float, tell: Say) -> Make:
    """The fastest of them.

    Those that were fastest in two runs of so many seconds each take turns in a final: the best of many runs by
    themselves is the luckiest as well.
    """
    if len(candidates) == 1:
        return candidates[0]
    found: list[tuple[float, Make]] = []
    for make in candidates:
        contender = make()
        try:
            tell(f"{contender.name}: {contender.detail}")
            found.append((least_us_of(contender, passes_in(contender, seconds)), make))
        finally:
            contender.close()
    found.sort(key=lambda one: one[0])
    finalists = {str(place): make for place, (_, make) in enumerate(found[:FINALISTS])}
    tell("final")
    turns, _ = play(finalists, FINAL_ROUNDS, seconds, tell)
    return finalists[min(finalists, key=lambda key: Spread.of([taken[key] for taken in turns.values]).median)]


def with_capacity(candidates: Sequence[Callable[[Work], Contender]], work: Work, seconds: float, tell: Say) -> Work:
    """The work with what the fastest of them can serve of it; as it is without candidates, where no load is offered."""
    if not candidates:
        return work
    tell("capacity")
    contender = best([partial(make, work) for make in candidates], seconds, tell)()
    try:
        passes = passes_in(contender, seconds)
        return replace(work, capacity=1e6 / least_us_of(contender, passes, CAPACITY_RUNS))
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


def take_turns(
    contenders: Mapping[str, Contender], rounds: int, seconds: float, tell: Say, first: int = 0
) -> Runs[Mapping[str, float]]:
    """What is compared of each contender, in microseconds, and its other figures, by name: one value a round.

    Args:
        contenders: by the name that they have in the result. Each round begins with another one, and every other round
            goes backwards, so that all have all of the others as predecessors.
        rounds: after a round that does not count.
        seconds: about how long one turn takes.
        tell: told of every round.
        first: the number of the round that does not count.
    """
    passes = {key: passes_in(contender, seconds) for key, contender in contenders.items()}

    def take(index: int) -> Mapping[str, float]:
        tell(f"round {index}: {rounds} undisturbed ones are wanted" if index else "warming up")
        taken: dict[str, float] = {}
        for key in order(sorted(contenders), first + index):
            contender = contenders[key]
            contender.seed = first + index
            taken[key] = us_of(contender, passes[key])
            taken |= {name_of(key, figure): value for figure, value in contender.figures().items()}
        return taken

    take(0)
    return undisturbed(take, rounds)


def play(
    makes: Mapping[str, Make], rounds: int, seconds: float, tell: Say
) -> tuple[Runs[Mapping[str, float]], Mapping[str, Contender]]:
    """What `take_turns` finds, in two halves: contenders are made in the given order, and then in that from its end.

    Who is made first is not as fast as those after it, though it be the same (of two ResNet-50, by 3 to 5 %).

    Args:
        makes: the contenders, by name.
        rounds: of both halves together; one more where they are odd.
        seconds: about how long one turn takes.
        tell: told of every round.

    Returns:
        The rounds, and the contenders of the second half, closed.
    """
    contenders: dict[str, Contender] = {}
    halves: list[Runs[Mapping[str, float]]] = []
    half = -(-rounds // 2)
    for keys in (list(makes), list(makes)[::-1]):
        contenders = {}
        try:
            for key in keys:
                contenders[key] = makes[key]()
            halves.append(take_turns(contenders, half, seconds, tell, first=len(halves) * PATIENCE * half))
        finally:
            for contender in contenders.values():
                contender.close()
    values = [taken for runs in halves for taken in runs.values]
    return Runs(values, sum(runs.set_aside for runs in halves), sum(runs.stolen for runs in halves) / 2), contenders
