"""Settings with what was measured of them, and which of two is better."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ovengine.profile import Settings
from ovengine.tuner._measuring import Facts, Turn

# A gain below this is not worth a setting of its own, however clear.
LEAST_GAIN = 0.02
AGREEING_PAIRS = 0.85


@dataclass(eq=False)
class Candidate:
    """One setting, and all that was measured of it.

    saturated: turns of the closed loop. offered, curve: turns of the open loop by rate, to decide and to show.
    deviation: largest difference of an output from f32, relative to its magnitude; None where not compared.
    refused: why it is out of the running; None while it is in.
    short_look: requests per second of the look that turns took the place of.
    """

    settings: Settings
    facts: Facts | None = None
    saturated: list[Turn] = field(default_factory=list)
    offered: list[dict[float, Turn]] = field(default_factory=list)
    curve: list[dict[float, Turn]] = field(default_factory=list)
    deviation: float | None = None
    refused: str | None = None
    short_look: float = 0.0

    @property
    def rate(self) -> float:
        """Requests per second at saturation: the median of the turns."""
        return statistics.median([turn.rate for turn in self.saturated]) if self.saturated else self.short_look

    @property
    def is_seen(self) -> bool:
        """Whether anything is known about it that is worth showing."""
        return self.rate > 0 or self.refused is not None

    def sustained(self, p99_ms: float) -> list[float]:
        """By turn, the load in requests per second that keeps the limit."""
        return [min(sustained(turn, p99_ms), self.rate) for turn in self.offered]


def sustained(offered: Mapping[float, Turn], p99_ms: float) -> float:
    """The load that keeps the limit; between the rates that were offered the latency is taken to grow exponentially."""
    below, latency = 0.0, 0.0
    for rate, seen in sorted(offered.items()):
        if seen.p99_ms > p99_ms:
            if not below:
                return 0.0
            return below + (rate - below) * math.log(p99_ms / latency) / math.log(seen.p99_ms / latency)
        below, latency = rate, seen.p99_ms
    return below


@dataclass(frozen=True)
class Found:
    """What came of a search.

    chosen, default: the winner, and `load` without settings; the same where nothing is better.
    candidates: all that were looked at, in that order.
    p99_ms: the limit that was asked for.
    complete: whether there was time to look at all.
    decided: whether settings were compared at length, rather than looked at.
    """

    chosen: Candidate
    default: Candidate
    candidates: tuple[Candidate, ...]
    p99_ms: float | None
    complete: bool
    decided: bool = True

    @property
    def meets_limit(self) -> bool:
        """Whether there is a load at which the winner keeps the limit; true without one."""
        return self.p99_ms is None or statistics.median(self.chosen.sustained(self.p99_ms) or [0.0]) > 0


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended a search; `result` is what was found before."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result


def clearly_better(values: Sequence[float], than: Sequence[float]) -> bool:
    """Whether the medians differ by more than LEAST_GAIN, and most pairs of turns agree on who is better.

    With seven turns each that happens by chance once in seventy times (Mann-Whitney). One disturbed turn does not hide
    a difference, as it would if the ranges had to be apart.
    """
    before = statistics.median(than)
    gain = statistics.median(values) - before
    wins = sum(value > other for value in values for other in than)
    return gain > LEAST_GAIN * abs(before) and wins >= AGREEING_PAIRS * len(values) * len(than)


def simplest_of_the_best(candidates: Sequence[Candidate], score: Callable[[Candidate], Sequence[float]]) -> Candidate:
    """The first that the best one does not clearly beat; the candidates are in order of simplicity."""
    best = max(candidates, key=lambda candidate: statistics.median(score(candidate)))
    return next(c for c in candidates if c is best or not clearly_better(score(best), score(c)))
