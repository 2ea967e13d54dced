"""What an experiment is, and what is claimed of its outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.contenders import Contender
from bench.work import Work

OURS = "ovengine"


@dataclass(frozen=True)
class Claim:
    """One line of the table: a ratio of speeds (ours over the peer's), or of latencies; or a figure of ours alone.

    target: to be reached, or for latencies not to be exceeded; None where the figure is for information only.
    ceiling: a contender as fast as the machine allows; its ratio to the peer is reported as what could be had.
    figure, unit: which of the contender's own figures it is, where there is no peer.
    headline: one of the few that the README shows.
    """

    what: str
    peer: str
    target: float | None = None
    ours: str = OURS
    latency: bool = False
    ceiling: str | None = None
    figure: str = ""
    unit: str = "x"
    headline: bool = False


@dataclass(frozen=True)
class Experiment:
    """Contenders that take turns on one work.

    field: each contender's candidates, of which the fastest takes part.
    capacity: where a load is offered, those of which the fastest says what can be served.
    seconds, rounds: how much longer its turns are, and how many more rounds it has, than others.
    """

    name: str
    work: Callable[[], Work]
    field: Mapping[str, Sequence[Callable[[Work], Contender]]]
    claims: Sequence[Claim]
    capacity: Sequence[Callable[[Work], Contender]] = ()
    seconds: float = 1.0
    rounds: int = 1
