"""What others take of the CPUs while something is measured: a figure of a busy moment says little about the next."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# In the first line of /proc/stat: user, nice, system, irq, softirq and steal; guests' time is in that of users.
_BUSY = (1, 2, 3, 6, 7, 8)


def busy_seconds(stat: Path = Path("/proc/stat")) -> float:
    """CPU time that was not idle, of all CPUs since the system started (proc_stat(5)); what a hypervisor took away for
    other guests counts. 0 where the system does not say.
    """
    try:
        fields = stat.read_text().split("\n", 1)[0].split()
        return sum(int(fields[place]) for place in _BUSY) / _TICKS_PER_S
    except (OSError, ValueError, IndexError):
        return 0.0


class Others:
    """The share of the system's CPU time that went to other processes and guests, over some stretches of time.

    Args:
        busy: the clock of all CPUs together, seconds.
        own: that of this process.
        wall: that on the wall.
        cpus: of the system.
    """

    def __init__(
        self,
        busy: Callable[[], float] = busy_seconds,
        own: Callable[[], float] = time.process_time,
        wall: Callable[[], float] = time.perf_counter,
        cpus: int = os.cpu_count() or 1,
    ) -> None:
        self._clocks = busy, own, wall
        self._cpus = cpus
        self._taken = self._watched = 0.0

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """While something is measured. One at a time."""
        before = [clock() for clock in self._clocks]
        try:
            yield
        finally:
            busy, own, wall = (clock() - begin for clock, begin in zip(self._clocks, before, strict=True))
            self._taken += busy - own
            self._watched += wall

    @property
    def share(self) -> float:
        """From 0 to 1. The clock of the CPUs goes by ticks of some milliseconds: of a short time it says little."""
        return min(1.0, max(0.0, self._taken / (self._watched * self._cpus))) if self._watched > 0 else 0.0
