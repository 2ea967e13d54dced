"""The native core without Python and OpenVINO: builds and runs the microbenchmark of bench/native."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass

from bench import ROOT


@dataclass(frozen=True)
class CoreFigure:
    """Nanoseconds per row (median of the repeats, least, most) of one version of the core doing one work."""

    work: str
    version: str
    ns_per_row: float
    min: float
    max: float
    repeats: int
    allocations_per_row: float


def measure() -> list[CoreFigure]:
    """What `core_bench --json` prints."""
    for command in (["cmake", "--preset", "release"], ["cmake", "--build", "--preset", "release", "-t", "core_bench"]):
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    (program,) = (ROOT / "out" / "release").rglob("core_bench")
    printed = subprocess.run([str(program), "--json"], check=True, stdout=subprocess.PIPE, text=True).stdout
    return [CoreFigure(**figure) for figure in json.loads(printed)]
