"""What was measured of a model on this machine, kept from one load to the next: costs, memory, and what came of them.

With it a load measures nothing, and compiles only the batch sizes that it uses. It holds for one model, device and
OpenVINO release, and for the lanes, threads and CPUs that were measured with; anything else is measured anew.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ovengine._others import Others

if TYPE_CHECKING:
    from ovengine._cache import Cache
    from ovengine.config import LoadOptions
    from ovengine.hookspecs import Batcher

KIND = "cost"
# What is kept is measured anew when this changes. To be raised with the built-in batchers.
VERSION = 6
# Then it is measured anew: what a machine was busy with the first time must not count for good. Sooner where others
# took more than this share of the CPUs meanwhile: a ladder that was found then may be any, and what it does without
# nobody sees.
KEPT_SECONDS = 7 * 24 * 3600
BUSY_SHARE, KEPT_SECONDS_IF_BUSY = 0.1, 3600
# Batch sizes that are this many times as cheap, compared with each other, as they were measured to be.
UNLIKE = 3.0


class Kept(NamedTuple):
    """The tables of `CostTable`, and until when they hold, in seconds since the epoch."""

    seconds: dict[int | None, float]
    bytes: dict[int | None, int]
    plans: dict[str, tuple[tuple[int, ...], str]]
    until: float

    def is_fresh(self, now: float) -> bool:
        """Whether the machine is still what it was, as far as age tells; not if the clock was set back."""
        return now < self.until <= now + KEPT_SECONDS


class CostTable:
    """Seconds of an inference and bytes of a compiled model by batch size (None: the model as it is), and ladders with
    their reasons by the question that they answer (`question`). Without a key nothing is kept.
    """

    def __init__(self, cache: Cache, key: Mapping[str, Any] | None) -> None:
        self._cache = cache
        self._key = key
        self.seconds: dict[int | None, float] = {}
        self.bytes: dict[int | None, int] = {}
        self.plans: dict[str, tuple[tuple[int, ...], str]] = {}
        self.others = Others()  # to be watched while something is measured
        now = time.time()
        self._until = now + KEPT_SECONDS
        self._known: object = None
        if key is not None and (found := cache.load(KIND, key, _parse)) is not None and found.is_fresh(now):
            self.seconds, self.bytes, self.plans, self._until = found
            self._known = self._value()

    def save(self) -> None:
        """Keep what is new."""
        if self.others.share > BUSY_SHARE:
            self._until = min(self._until, time.time() + KEPT_SECONDS_IF_BUSY)
        value = self._value()
        if self._key is not None and value != self._known:
            self._known = value
            self._cache.save(KIND, self._key, value)

    def compare(self, seen_us: Mapping[int, float]) -> None:
        """Forget it all where lanes saw something else: it was measured at a moment that was unlike others. That all
        sizes take longer is of no account: so they do when a machine is busy, and the ladder remains the best.
        """
        ratios = [us * 1e-6 / self.seconds[size] for size, us in seen_us.items() if us > 0 and size in self.seconds]
        if ratios and max(ratios) > UNLIKE * min(ratios):
            self.seconds, self.bytes, self.plans, self._until = Kept({}, {}, {}, time.time())
            self.save()

    def _value(self) -> dict[str, Any]:
        return {
            "until": self._until,
            "seconds": {str(size or 0): seconds for size, seconds in self.seconds.items()},
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
    parts = [value[name] for name in ("seconds", "bytes", "plans")]
    if not all(isinstance(part, dict) for part in parts):
        raise TypeError("it has three tables")
    seconds: dict[int | None, float] = {int(size) or None: float(known) for size, known in parts[0].items()}
    held: dict[int | None, int] = {int(size) or None: int(count) for size, count in parts[1].items()}
    plans = {asked: (tuple(int(size) for size in ladder), str(why)) for asked, (ladder, why) in parts[2].items()}
    if not all(0 < known < math.inf for known in seconds.values()) or any(count < 0 for count in held.values()):
        raise ValueError("costs are positive")
    for ladder, _ in plans.values():
        if not ladder or list(ladder) != sorted(set(ladder)) or not set(ladder) <= seconds.keys():
            raise ValueError(f"{ladder} is no ladder of sizes that were measured")
    return Kept(seconds, held, plans, float(value["until"]))
