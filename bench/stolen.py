"""CPU time that a hypervisor gave to other guests: what was measured meanwhile says little, and is measured again.

Linux counts it as `steal` in /proc/stat, in ticks of 10 ms (proc_stat(5)). A run is judged by that alone, never by its
outcome, and all contenders of a round are judged together. Where nothing is stolen, nothing is repeated.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")

CALM = 0.0025
"""Of the CPU time: what may be stolen of a run that counts. 1 % doubles a 99th percentile; a short run has no tick."""
PATIENCE = 2
"""Runs at most, for each that is wanted."""

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Runs(Generic[T]):
    """What the runs that count gave; how many do not count; how much of the CPU time was stolen of those that do."""

    values: list[T]
    set_aside: int
    stolen: float


def stolen_ticks(stat: Path = Path("/proc/stat")) -> int:
    """Of all CPUs, since the system started; 0 where the system does not say."""
    try:
        fields = stat.read_text().split("\n", 1)[0].split()
    except OSError:
        return 0
    return int(fields[8]) if len(fields) > 8 else 0


def undisturbed(
    run: Callable[[int], T],
    wanted: int,
    *,
    ticks: Callable[[], int] = stolen_ticks,
    seconds: Callable[[], float] = time.perf_counter,
) -> Runs[T]:
    """The results of `wanted` runs: the first calm ones, or if they are too few, those with the least stolen as well.

    Args:
        run: is told its number, from 1.
        wanted: at least 1.
        ticks: the clock of what is stolen.
        seconds: the clock.
    """
    cpus = os.cpu_count() or 1
    found: list[tuple[float, T]] = []
    calm = 0
    while calm < wanted and len(found) < PATIENCE * wanted:
        stolen, begin = ticks(), seconds()
        value = run(len(found) + 1)
        share = (ticks() - stolen) / (TICKS_PER_S * cpus * max(seconds() - begin, 1e-9))
        found.append((share, value))
        calm += share <= CALM
    found.sort(key=lambda one: max(one[0], CALM))
    kept = found[:wanted]
    return Runs([value for _, value in kept], len(found) - wanted, sum(share for share, _ in kept) / wanted)
