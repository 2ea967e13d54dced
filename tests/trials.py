"""Small models whose inputs are relied upon, and what a load runs them on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

import ovengine
from ovengine import _proof, _values
from ovengine._core import Compiled, Port
from support import EXACT, Array, ready

RNG = np.random.default_rng(3)
I64, F32, I32 = np.int64, np.float32, np.int32


def f32(value: Any) -> Any:
    return ops.constant(np.array(value, np.float32))


def i64(value: Any) -> Any:
    return ops.constant(np.array(value, np.int64))


def table(rows: int, width: int = 4) -> Any:
    return f32(RNG.standard_normal((rows, width)))


def model(inputs: dict[str, tuple[Sequence[int], Any]], build: Callable[..., Any]) -> ov.Model:
    """Of inputs by name, shape and dtype; one output `y`."""
    parameters = []
    for name, (shape, dtype) in inputs.items():
        parameter = ops.parameter(list(shape), dtype, name=name)
        parameter.output(0).set_names({name})
        parameters.append(parameter)
    y = build(*parameters)
    (y if isinstance(y, ov.Output) else y.output(0)).set_names({"y"})
    return ov.Model([ops.result(y)], parameters, "m")


def gathered(data: Any, indices: Any, axis: int = 0) -> Any:
    return ops.gather(data, indices, i64(axis))


class Recorder:
    """A compiled model that remembers what it was run on."""

    def __init__(self, compiled: Compiled, seen: list[dict[str, Array]]) -> None:
        self._compiled = compiled
        self._seen = seen
        self.inputs = compiled.inputs
        self.outputs = compiled.outputs

    def run(self, inputs: Sequence[Array], *, max_seconds: float) -> list[Array]:
        self._seen.append(by_name(self.inputs, inputs))
        return self._compiled.run(inputs, max_seconds=max_seconds)


def by_name(ports: Sequence[Port], inputs: Sequence[Array]) -> dict[str, Array]:
    return {port.name: array for port, array in zip(ports, inputs, strict=True)}


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Array]]:
    """All that models are run on while they are loaded, by input."""
    found: list[dict[str, Array]] = []
    begin, measured = _proof._Trial.__init__, _values.Values.to_measure

    def recorded(self: Any, single: Any, batched: Any, values: Any, precision: str, exact: Any) -> None:
        wrapped = [one and Recorder(one, found) for one in (single, batched, exact)]
        begin(self, wrapped[0], wrapped[1], values, precision, wrapped[2])  # type: ignore[arg-type]

    def to_measure(self: _values.Values, ports: Sequence[Port]) -> list[Array]:
        found.append(by_name(ports, made := measured(self, ports)))
        return made

    monkeypatch.setattr(_proof._Trial, "__init__", recorded)
    monkeypatch.setattr(_values.Values, "to_measure", to_measure)
    return found


@pytest.fixture
def load_cold() -> Iterator[Callable[..., ovengine.Model]]:
    """`ovengine.load` with a cold cache, in f32, at sizes 1 and 4; all is prepared when it returns."""
    loaded: list[ovengine.Model] = []
    with ovengine.Engine(plugins=ovengine.Plugins(entry_points=False, disabled=())) as engine:

        def call(source: Any, **arguments: Any) -> ovengine.Model:
            arguments = {"config": EXACT, "batch_sizes": [1, 4], "cache_dir": None, **arguments}
            loaded.append(engine.load(source, **arguments))
            return ready(loaded[-1])

        yield call
