"""The tuner: which settings of `load` are best for a model on this machine, found by measuring.

    tuning = ovengine.tune("model.onnx", p99_ms=5)
    print(tuning.why)                                   # one sentence: what to use, and why
    tuning.profile.save("model.profile.json")
    model = ovengine.load("model.onnx")                 # with the profile, which is in the cache, too
    model = ovengine.load("model.onnx", profile="model.profile.json")

Where to read on: _search.py, the stages; _schedule.py, their time; _candidates.py, which setting is better;
_measuring.py, what is measured; _space.py, what may be chosen; _report.py, tables, HTML and curves; ../profile.py, the
file.
"""

from __future__ import annotations

from ovengine.tuner._candidates import Candidate, Interrupted
from ovengine.tuner._tune import MOST_DATA, Progress, Tuning, tune

__all__ = ["MOST_DATA", "Candidate", "Interrupted", "Progress", "Tuning", "tune"]
