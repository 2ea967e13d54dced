"""ovengine beside OpenVINO's own ways, on the same work.

    work.py         models, rows and the right answers
    contenders.py   the ways of getting those answers; own_loop.py: the one in C++; peers.py: settings of OpenVINO's
    open_loop.py    requests that come when they come; overload.py: more of them than can be served
    claims.py       what an experiment and a claim are
    experiments.py  which contenders meet on which work; batching.py, under_load.py: the same of two themes
    rounds.py       taking turns, and ratios with their spread; stolen.py: which rounds count
    footprint.py    memory after many requests, CPU time at rest: in a process of its own
    widths.py       images of ten thousand widths: its own program; healing.py: kept costs that are wrong: another one
    core.py         the native core without Python and OpenVINO (bench/native)
    machine.py, report.py, __main__.py   `python -m bench`: the table, docs/benchmarks.md, README.md
    test_*.py       the same contenders under pytest-benchmark: `pytest bench`

What counts as answered: the caller holds an array of the outputs. Answers of every round are compared with those of
plain OpenVINO.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "out" / "bench"
"""Where programs are built."""

# models.py belongs to the tests.
sys.path.append(str(ROOT / "tests"))
