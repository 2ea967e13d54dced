"""What tests of the running engine share: small models, busy fake devices, and Python in a process of its own."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as ops

import ovengine
from ovengine import _core
from ovengine.testing import fake_model

T = TypeVar("T")
A = TypeVar("A")
Array = npt.NDArray[Any]

EXACT = {"INFERENCE_PRECISION_HINT": "f32"}
"""Without it a CPU with AMX computes in bf16."""

PATIENCE = 60.0
"""Seconds after which a test gives up instead of hanging; nothing depends on how fast it is before."""


# -- models -----------------------------------------------------------------------------------------------------------


def network(inputs: dict[str, tuple[tuple[int, ...], Any]], build: Callable[..., dict[str, Any]]) -> ov.Model:
    """Build a model with a dynamic batch axis.

    Args:
        inputs: shape of one row and dtype, by name.
        build: from the input nodes to the output nodes by name.
    """
    parameters = []
    for name, (row, dtype) in inputs.items():
        parameter = ops.parameter([-1, *row], dtype, name=name)
        parameter.output(0).set_names({name})
        parameters.append(parameter)
    results = []
    for name, node in build(*parameters).items():
        node.output(0).set_names({name})
        results.append(ops.result(node))
    return ov.Model(results, parameters, "network")


def double(width: int = 4, dtype: Any = np.float32) -> ov.Model:
    """`y = 2 x`: each row carries its own tag to the result, exactly."""
    return network({"x": ((width,), dtype)}, lambda x: {"y": ops.multiply(x, ops.constant(np.array(2, dtype)))})


def two_in_two_out() -> ov.Model:
    """`total[n] = sum(a[n]) + sum(b[n])`, `scaled[n] = 3 a[n]`; a is `(n, 3)` f32, b `(n, 2, 2)` i32."""

    def build(a: Any, b: Any) -> dict[str, Any]:
        floats = ops.convert(b, "f32")
        total = ops.add(
            ops.reduce_sum(a, ops.constant(np.array([1])), True),
            ops.reshape(ops.reduce_sum(floats, ops.constant(np.array([1, 2])), False), ops.constant([-1, 1]), False),
        )
        return {"total": total, "scaled": ops.multiply(a, ops.constant(np.float32(3)))}

    return network({"a": ((3,), np.float32), "b": ((2, 2), np.int32)}, build)


def reference(model: Any) -> Callable[..., dict[str, Array]]:
    """The model in plain OpenVINO, f32: a function of its inputs in order, to copies of its outputs by name."""
    compiled = ov.Core().compile_model(model, "CPU", EXACT)

    def run(*inputs: Array) -> dict[str, Array]:
        found = compiled(list(inputs))
        return {output.any_name: np.array(found[output]) for output in compiled.outputs}

    return run


def tagged(count: int, width: int = 4, first: int = 0) -> Array:
    """Rows that all differ, each value exact in f32: `(count, width)`."""
    return np.arange(first * width, (first + count) * width, dtype=np.float32).reshape(count, width)


def ready(model: ovengine.Model) -> ovengine.Model:
    """With all of its batch sizes in use."""
    assert model.wait_ready(PATIENCE)
    return model


# -- fake devices -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def fake(*ladder: int, **arguments: Any) -> Iterator[ovengine.Model]:
    """A model on the fake device (`y = x + 1`), closed at the end without waiting for what is in flight."""
    model = fake_model(ladder or (1, 4, 16), **arguments)
    try:
        yield model
    finally:
        model.close(0)


def occupy(model: ovengine.Model, rows: int = 1) -> ovengine.Future:
    """A request that a lane of an otherwise idle, slow fake model is running when this returns."""
    future = model.submit(np.zeros((rows, *_row_shape(model)), np.float32))
    wait_until(lambda: _core.debug_counters()["slots"] > 0 or future.done())
    return future


def fill(submit: Callable[[], ovengine.Future]) -> list[ovengine.Future]:
    """Submit until the queue is full; what was accepted."""
    accepted: list[ovengine.Future] = []
    try:
        while len(accepted) < 100_000:
            accepted.append(submit())
    except ovengine.QueueFull:
        return accepted
    raise AssertionError("the queue is never full")


def _row_shape(model: ovengine.Model) -> tuple[int, ...]:
    shape = model.inputs[0].shape
    assert shape is not None
    return tuple(shape[1:])


# -- waiting, threads, processes --------------------------------------------------------------------------------------


def wait_until(condition: Callable[[], object]) -> None:
    """Until it is true; AssertionError when it never is."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.001)


def in_threads(functions: Iterable[Callable[[], T]]) -> list[T]:
    """Run all at once, each in a thread of its own; their results in order, or the first exception."""
    functions = list(functions)
    results: list[Any] = [None] * len(functions)
    errors: list[BaseException] = []
    start = threading.Barrier(len(functions))

    def run(index: int, function: Callable[[], T]) -> None:
        try:
            start.wait(PATIENCE)
            results[index] = function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=item, daemon=True) for item in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]
    return results


def each(function: Callable[[A], T], arguments: Iterable[A]) -> list[Callable[[], T]]:
    """The calls of a function with each of the arguments, for `in_threads`."""
    return [functools.partial(function, argument) for argument in arguments]


def run_python(
    code: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own; it must end by itself within PATIENCE. `environment`: besides this one's."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, **(environment or {})},
    )
