"""ovengine runs OpenVINO models for many small concurrent requests.

    import ovengine

    model = ovengine.load("model.onnx")
    y = model(x)                          # blocking
    future = model.submit(x)              # a Future: result(), cancel(), or await it
    y = await model.ainfer(x)             # on an event loop
    for y in model.map(samples): ...      # lazily, many in flight

Requests of all threads and event loops are put together into batches where that pays, by native code that runs
without the GIL. Python decides once, at load time: `print(model.plan)` shows what, and why.

Where to read on, in the order of a request's life:
    engine.py       Engine and load
    _planner.py     one load: loader, devices, batch axis, batcher, policy; the Plan that comes of it (plan.py)
    model.py        Model: what Python adds to the native core; stats.py, what it counts
    _core.pyi       the native core, as Python sees it
    tuner/          `tune`, and profile.py, what it leaves for `load`
    hookspecs.py    what plugins can do; builtin/ holds those that come with the package
    errors.py       everything that is raised
"""

from __future__ import annotations

from pathlib import Path

from ovengine import _release  # noqa: F401  # before anything that needs the extension
from ovengine._buckets import Buckets
from ovengine._core import Future, Lease, Result, Session, as_completed, wait
from ovengine._inspection import Inspection
from ovengine.config import Hint
from ovengine.engine import Engine, load
from ovengine.errors import (
    CacheWarning,
    Cancelled,
    ConfigError,
    DeadlineExceeded,
    DeadlineUnmeetable,
    EngineClosed,
    ForkedError,
    InferenceError,
    InferenceTimeout,
    InputError,
    InputTypeError,
    LeaseLost,
    ModelError,
    ModelNotFoundError,
    OutOfMemory,
    OvengineError,
    PluginError,
    PluginWarning,
    PropertyError,
    QueueFull,
    Superseded,
    UnknownDeviceError,
    UnknownPluginError,
)
from ovengine.hookspecs import Blob, hookimpl
from ovengine.model import Model
from ovengine.plan import BatchPlan, DevicePlan, Plan, TensorInfo
from ovengine.plugins import Plugins
from ovengine.profile import Profile
from ovengine.stats import ModelStats
from ovengine.tuner import Tuning, tune

__all__ = [
    "BatchPlan",
    "Blob",
    "Buckets",
    "CacheWarning",
    "Cancelled",
    "ConfigError",
    "DeadlineExceeded",
    "DeadlineUnmeetable",
    "DevicePlan",
    "Engine",
    "EngineClosed",
    "ForkedError",
    "Future",
    "Hint",
    "InferenceError",
    "InferenceTimeout",
    "InputError",
    "InputTypeError",
    "Inspection",
    "Lease",
    "LeaseLost",
    "Model",
    "ModelError",
    "ModelNotFoundError",
    "ModelStats",
    "OutOfMemory",
    "OvengineError",
    "Plan",
    "PluginError",
    "PluginWarning",
    "Plugins",
    "Profile",
    "PropertyError",
    "QueueFull",
    "Result",
    "Session",
    "Superseded",
    "TensorInfo",
    "Tuning",
    "UnknownDeviceError",
    "UnknownPluginError",
    "as_completed",
    "get_include",
    "hookimpl",
    "load",
    "tune",
    "wait",
]


def get_include() -> str:
    """Return the directory of `ovengine_policy.h`, which native scheduler policies are compiled with."""
    # In an editable install the package has two places, and the header is in the built one.
    candidates = [Path(place) / "include" for place in __path__]
    return str(next((path for path in candidates if path.is_dir()), candidates[0]))


def __getattr__(name: str) -> object:
    if name == "__version__":  # read only on demand: it takes milliseconds
        from importlib.metadata import version

        return version("ovengine")
    raise AttributeError(f"module 'ovengine' has no attribute {name!r}")
