"""Fixtures for all tests."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

import models
from ovengine import _batch_axis, _core

pytest_plugins = ["ovengine.testing", "queues", "trials"]


class SignalStack(ctypes.Structure):
    """What sigaltstack(2) takes."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


_signal_stack = SignalStack()


@pytest.hookimpl(trylast=True)  # after pytest's own faulthandler has set it
def pytest_configure() -> None:
    """Hear SIGINT, which a process behind a shell ignores, and note the stack on which this thread takes signals."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(_signal_stack)) == 0


@pytest.fixture(autouse=True)
def _usual_signal_stack() -> None:
    """Plain OpenVINO leaves a signal stack behind that is freed with one of its cores: the next signal would crash."""
    ctypes.CDLL(None).sigaltstack(ctypes.byref(_signal_stack), None)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests learn about models stays among them, also in the processes that they start."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OVENGINE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def without_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trial runs have to show whether rows are independent: no operator has a rule that tells."""
    monkeypatch.setattr(_batch_axis, "_by_rules", lambda graph, axes: None)


@pytest.fixture(scope="session")
def real_model() -> Callable[[str], Path]:
    """Path of a real model or clip by its name in `models.REAL`; skips where its package is missing.

    `make test` installs them all and sets OVENGINE_REQUIRE_MODELS, so that there a gap is a failure.
    """

    def find(name: str) -> Path:
        try:
            return models.find(name)
        except FileNotFoundError as error:
            if os.environ.get("OVENGINE_REQUIRE_MODELS"):
                raise
            pytest.skip(str(error))

    return find


@pytest.fixture(scope="session")
def tiny_mlp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """IR of the 16-16-4 MLP, batch dimension dynamic."""
    return models.save(models.mlp(*models.TINY_MLP), tmp_path_factory.mktemp("tiny") / "tiny.xml")


@pytest.fixture
def echo(tmp_path: Path) -> Callable[..., Path]:
    """Makes a model whose output is its input, of a shape and dtype."""

    def make(*shape: int, dtype: Any = np.float32) -> Path:
        x = ops.parameter(list(shape), dtype, name="x")
        x.output(0).set_names({"x"})
        y = ops.add(x, ops.constant(np.zeros((), dtype)))
        y.output(0).set_names({"y"})
        return models.save(ov.Model([ops.result(y)], [x], "echo"), tmp_path / f"echo{'_'.join(map(str, shape))}.xml")

    return make


@pytest.fixture(autouse=True, scope="session")
def _short_measurements() -> Iterator[None]:
    """Hundreds of models are loaded, and what their sizes cost matters to few tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ovengine._compiler.MEASURE_SECONDS", 0.01)
        yield


@pytest.fixture(autouse=True)
def _nothing_left_in_use() -> Iterator[None]:
    """What a test took of slots, batches, rows and requests, it gives back: its debug counters end as they began."""
    before = _core.debug_counters()
    yield
    patience = time.monotonic() + 2.0
    while (left := _difference(_core.debug_counters(), before)) and time.monotonic() < patience:
        gc.collect()  # an exception's traceback may hold futures in a cycle
        time.sleep(0.01)
    assert not left, f"left in use: {left}"


def _difference(now: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    return {name: count - before.get(name, 0) for name, count in now.items() if count > before.get(name, 0)}
