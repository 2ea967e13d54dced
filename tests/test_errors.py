"""The tree of errors, and the package's public names."""

from __future__ import annotations

import asyncio
import concurrent.futures
import pickle
import re

import pytest

import ovengine
from ovengine import errors

BUILT_IN = {
    "ModelNotFoundError": FileNotFoundError,
    "ModelError": ValueError,
    "UnknownDeviceError": ValueError,
    "UnknownPluginError": ValueError,
    "ConfigError": ValueError,
    "PropertyError": ValueError,
    "PluginError": RuntimeError,
    "InputError": ValueError,
    "InputTypeError": TypeError,
    "QueueFull": RuntimeError,
    "InferenceTimeout": TimeoutError,
    "DeadlineUnmeetable": TimeoutError,
    "DeadlineExceeded": TimeoutError,
    "Superseded": concurrent.futures.CancelledError,
    "Cancelled": concurrent.futures.CancelledError,
    "InferenceError": RuntimeError,
    "OutOfMemory": MemoryError,
    "LeaseLost": RuntimeError,
    "EngineClosed": RuntimeError,
    "ForkedError": RuntimeError,
}

PUBLIC = [
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


@pytest.mark.parametrize("name", BUILT_IN)
def test_each_error_is_also_the_builtin_that_a_user_would_catch(name: str) -> None:
    error = getattr(errors, name)
    assert issubclass(error, errors.OvengineError)
    assert issubclass(error, BUILT_IN[name])
    with pytest.raises(BUILT_IN[name], match="what, where"):
        raise error("what, where")


def test_the_tree_is_complete_and_drawn_in_the_docstring() -> None:
    assert set(errors.__all__) == {*BUILT_IN, "CacheWarning", "OvengineError", "PluginWarning"}
    drawn = re.findall(r"[├└]── (\w+) +([\w.]+)", errors.__doc__ or "")
    assert {name: base.rpartition(".")[2] for name, base in drawn} == {
        name: base.__name__ for name, base in BUILT_IN.items()
    }


def test_errors_survive_pickling_with_their_text() -> None:
    for name in BUILT_IN:
        error = pickle.loads(pickle.dumps(getattr(errors, name)("why it failed")))
        assert type(error).__name__ == name
        assert str(error) == "why it failed"


def test_cancelled_is_not_taken_for_the_cancellation_of_the_awaiting_task() -> None:
    assert not issubclass(errors.Cancelled, asyncio.CancelledError)


def test_the_public_names_are_pinned() -> None:
    assert ovengine.__all__ == PUBLIC
    for name in PUBLIC:
        assert getattr(ovengine, name) is not None


def test_every_error_is_reachable_from_the_package() -> None:
    for name in errors.__all__:
        assert getattr(ovengine, name) is getattr(errors, name)


def test_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert ovengine.__version__ == version("ovengine")
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ovengine.nonsense
