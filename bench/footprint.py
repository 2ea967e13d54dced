"""Memory after many requests, and CPU time at rest: `python -m bench.footprint`, a process of its own.

Prints one JSON object.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import models
from bench import ROOT, work
from bench.contenders import Pipelined

FEW, MANY = 10_000, 1_000_000
PORTION = 100
"""Twice as many requests are in flight: few enough that FEW take all pools to their high-water mark."""
REST_SECONDS = 3.0
SAME_MEMORY_KIB = 512
"""The same but for this: half a byte a request."""
NO_CPU_PERCENT = 0.1
"""No CPU but for this: one tick of the kernel's clock in `REST_SECONDS` is more."""


@dataclass(frozen=True)
class Footprint:
    """Resident set in KiB after FEW and after MANY requests; CPU time at rest, in percent of one core."""

    few_kib: int
    many_kib: int
    idle_percent: float

    @property
    def steady(self) -> bool:
        """Whether more requests did not take more memory."""
        return self.many_kib - self.few_kib <= SAME_MEMORY_KIB

    @property
    def idle(self) -> bool:
        """Whether a loaded model takes no CPU time."""
        return self.idle_percent <= NO_CPU_PERCENT


def measure() -> Footprint:
    """In a process of its own: this one may hold whatever its benchmarks left."""
    command = [sys.executable, "-m", "bench.footprint"]
    printed = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return Footprint(**json.loads(printed))


def main() -> None:
    """Measure this process."""
    tiny = work.mlp("tiny", models.TINY_MLP, PORTION * 2)
    contender = Pipelined(tiny, portion=PORTION)
    requests = len(tiny.inputs)
    contender.run(FEW // requests)
    few_kib = _resident_kib()
    contender.run((MANY - FEW) // requests)
    many_kib = _resident_kib()
    contender.check()

    time.sleep(0.2)
    wall, used = time.monotonic(), time.process_time()
    time.sleep(REST_SECONDS)
    idle_percent = 100 * (time.process_time() - used) / (time.monotonic() - wall)
    contender.close()
    print(json.dumps({"few_kib": few_kib, "many_kib": many_kib, "idle_percent": idle_percent}))


def _resident_kib() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


if __name__ == "__main__":
    main()
