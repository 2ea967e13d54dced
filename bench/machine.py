"""What was measured on: the facts without which a figure means little."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openvino as ov

# Of the many flags, those that decide how OpenVINO's CPU plugin computes.
ISA = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "avx512_fp16": "AVX-512 FP16",
    "amx_tile": "AMX",
    "asimd": "NEON",
    "sve": "SVE",
}


@dataclass(frozen=True)
class Machine:
    """One computer and what runs on it."""

    cpu: str
    cores: int
    isa: tuple[str, ...]
    memory_gib: int
    system: str
    python: str
    openvino: str
    numpy: str
    others_percent: float
    """CPU time, of all cores, that others took in the second before: what the figures had to share."""

    @classmethod
    def here(cls) -> Machine:
        """Of this process."""
        fields = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, value in fields.items()}
        flags = (fields.get("flags") or fields.get("Features") or "").split()
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return cls(
            cpu=fields.get("model name") or platform.machine(),
            cores=len(os.sched_getaffinity(0)),
            isa=tuple(name for flag, name in ISA.items() if flag in flags),
            memory_gib=round(memory / 2**30),
            system="Linux " + ".".join(platform.release().split(".")[:2]),
            python=platform.python_version(),
            openvino=ov.get_version(),
            numpy=np.__version__,
            others_percent=round(_busy_percent(), 1),
        )

    @property
    def lacks(self) -> str:
        """What other CPUs of this kind have and this one has not, for those who compare figures."""
        return "; no AMX" if "AVX2" in self.isa and "AMX" not in self.isa else ""

    @property
    def brief(self) -> str:
        """In a few words."""
        widest = next((name for name in ("AMX", "AVX-512", "AVX2", "SVE", "NEON") if name in self.isa), self.cpu)
        return f"{self.cores} cores ({widest}{self.lacks})"


def _busy_percent(seconds: float = 1.0) -> float:
    """Of all cores, while this process sleeps."""

    def times() -> tuple[int, int]:
        user, nice, system, idle, iowait, *rest = map(int, Path("/proc/stat").read_text().split()[1:9])
        return user + nice + system + sum(rest), idle + iowait

    busy, free = times()
    time.sleep(seconds)
    busy, free = (now - before for now, before in zip(times(), (busy, free), strict=True))
    return 100 * busy / max(1, busy + free)
