"""Loading models of many inputs, up to the first result: ovengine beside plain OpenVINO.

Plain OpenVINO makes kernels for a dynamic batch in the first inference, ovengine for one row in `load`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops
from pytest_benchmark.fixture import BenchmarkFixture

import ovengine

INPUTS, FEW_INPUTS = 300, 10
ROUNDS = 5
Answer = Callable[[ov.Model, Sequence[np.ndarray[Any, Any]]], list[np.ndarray[Any, Any]]]


def chain(count: int) -> ov.Model:
    """One output of all inputs."""
    inputs = [ops.parameter([-1, 8], np.float32, name=f"x{i}") for i in range(count)]
    y = inputs[0]
    for x in inputs[1:]:
        y = ops.relu(ops.add(y, x))
    return ov.Model([ops.result(y)], inputs, "chain")


def decoder(count: int) -> ov.Model:
    """Keys of earlier steps for each layer; each is given back with one more step."""
    ids = ops.parameter([-1, 8], np.float32, name="ids")
    past = [ops.parameter([-1, 2, 4, 8], np.float32, name=f"past{i}") for i in range(count - 1)]
    new = ops.unsqueeze(ids, ops.constant(np.array([1, 2])))
    keys = [ops.concat([each, ops.add(each, new)], 2) for each in past]
    return ov.Model([ops.result(y) for y in (ops.relu(ids), *keys)], [ids, *past], "decoder")


def by_openvino(model: ov.Model, x: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    compiled = ov.Core().compile_model(model, "CPU")
    return [np.array(y) for y in compiled(list(x)).values()]


def by_ovengine(model: ov.Model, x: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    with ovengine.load(model, cache_dir=None, batch_sizes=[1]) as loaded:
        result = loaded(list(x))
        return [np.array(result[index]) for index in range(len(result))]


@pytest.mark.parametrize("answer", [by_openvino, by_ovengine])
@pytest.mark.parametrize("build", [chain, decoder])
def test_many_inputs_are_loaded(benchmark: BenchmarkFixture, build: Callable[[int], ov.Model], answer: Answer) -> None:
    model = build(FEW_INPUTS if benchmark.disabled else INPUTS)
    rng = np.random.default_rng(0)
    shapes = [[1, *port.get_partial_shape()[1:].to_shape()] for port in model.inputs]
    x = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    benchmark.group = f"load {build.__name__}, {INPUTS} inputs"
    found = benchmark.pedantic(answer, args=(model, x), rounds=ROUNDS, warmup_rounds=1)  # type: ignore[no-untyped-call]
    for a, b in zip(found, by_openvino(model, x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-2)
