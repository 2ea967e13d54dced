"""What was measured of a model on this machine, kept from one load to the next: costs, memory, and what came of them.

With it a load knows its batch sizes at once, and compiles no others. It holds for one model, device and OpenVINO
release, and for the lanes, threads and CPUs that were measured with; anything else is measured anew.

What one load measured may be of a moment when the machine was busy. So the next one measures again, behind the model
that serves already, and later ones go on until two in a row agree. From then on nothing is measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ovengine._cache import Cache
    from ovengine.config import LoadOptions
    from ovengine.hookspecs import Batcher

KIND = "cost"
# What is kept is measured anew when this changes. To be raised with the built-in batchers.
VERSION = 6
# Then it is measured anew.
KEPT_SECONDS = 7 * 24 * 3600
# Two loads agree when no batch size got more than so many times as dear beside another. That all take longer is of no
# account: so they do when a machine is busy, and the ladder remains the best.
ALIKE = 1.25


class Kept(NamedTuple):
    """The tables of `CostTable`, and until when they hold, in seconds since the epoch."""

    seconds: dict[int | None, float]
    before: dict[int | None, float]
    bytes: dict[int | None, int]
    plans: dict[str, tuple[tuple[int, ...], str]]
    until: float

    def is_fresh(self, now: float) -> bool:
        """Whether the machine is still what it was, as far as age tells; not if the clock was set back."""
        return now < self.until <= now + KEPT_SECONDS


class CostTable:
    """Seconds of an inference and bytes of a compiled model by batch size (None: the model as it is), and ladders with
    their reasons by the question that they answer (`question`). Without a key nothing is kept.

    before: the seconds that were known before those; what a load measured that was not sure of them.
    """

    def __init__(self, cache: Cache, key: Mapping[str, Any] | None) -> None:
        self._cache = cache
        self._key = key
        self.seconds: dict[int | None, float] = {}
        self.before: dict[int | None, float] = {}
        self.bytes: dict[int | None, int] = {}
        self.plans: dict[str, tuple[tuple[int, ...], str]] = {}
        self._is_kept = False
        now = time.time()
        self._until = now + KEPT_SECONDS
        self._known: object = None
        if key is not None and (found := cache.load(KIND, key, _parse)) is not None and found.is_fresh(now):
            self.seconds, self.before, self.bytes, self.plans, self._until = found
            self._known = self._value()
            self._is_kept = True

    @property
    def in_doubt(self) -> bool:
        """Whether it is of an earlier load, and that was the only one, or did not agree with the one before."""
        if not self._is_kept:
            return False
        ratios = [seconds / self.before[size] for size, seconds in self.seconds.items() if size in self.before]
        # A size is compared with another one, where there is another one.
        enough = min(2, max(len(self.seconds), len(self.before)))
        return len(ratios) < max(1, enough) or max(ratios) > ALIKE * min(ratios)

    def measure_anew(self) -> None:
        """Forget costs and ladders; what is measured now is compared with what was known."""
        self.before, self.seconds, self.plans, self._is_kept = self.seconds, {}, {}, False
        self._until = time.time() + KEPT_SECONDS

    def save(self) -> None:
        """Keep what is new."""
        value = self._value()
        if self._key is not None and value != self._known:
            self._known = value
            self._cache.save(KIND, self._key, value)

    def _value(self) -> dict[str, Any]:
        return {
            "until": self._until,
            "seconds": {str(size or 0): seconds for size, seconds in self.seconds.items()},
            "before": {str(size or 0): seconds for size, seconds in self.before.items()},
            "bytes": {str(size or 0): count for size, count in self.bytes.items()},
            "plans": {question: [list(ladder), why] for question, (ladder, why) in self.plans.items()},
        }


def question(batcher: Batcher, options: LoadOptions) -> str | None:
    """What a ladder is the answer to; None where it is to be found anew: a plugin may have changed its mind, and what a
    memory limit costs is said each time.
    """
    if not type(batcher).__module__.startswith("ovengine.builtin.") or options.memory_limit is not None:
        return None
    return f"{batcher.name} {options.hint.value} {options.max_batch_size} {options.batch_sizes}"


def _parse(value: Any) -> Kept:
    parts = [value["seconds"], value.get("before", {}), value["bytes"], value["plans"]]
    if not all(isinstance(part, dict) for part in parts):
        raise TypeError("it has four tables")
    seconds, before = ({int(size) or None: float(known) for size, known in part.items()} for part in parts[:2])
    held: dict[int | None, int] = {int(size) or None: int(count) for size, count in parts[2].items()}
    plans = {asked: (tuple(int(size) for size in ladder), str(why)) for asked, (ladder, why) in parts[3].items()}
    known = [*seconds.values(), *before.values()]
    if not all(0 < one < math.inf for one in known) or any(count < 0 for count in held.values()):
        raise ValueError("costs are positive")
    for ladder, _ in plans.values():
        if not ladder or list(ladder) != sorted(set(ladder)) or not set(ladder) <= seconds.keys():
            raise ValueError(f"{ladder} is no ladder of sizes that were measured")
    return Kept(seconds, before, held, plans, float(value["until"]))
