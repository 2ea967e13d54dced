"""The caller's own requests are what a model is tried on, where nobody can tell which values are valid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

import ovengine
from support import EXACT, Array, ready
from trials import F32, RNG, f32, gathered, i64, model, table


def place(x: Any) -> Any:
    """Rows of a table by what comes out of a matrix product, in whole numbers, and the row itself."""
    identity = np.eye(4, 1, dtype=np.float32)
    index = ops.squeeze(ops.convert(ops.matmul(x, ops.constant(identity), False, False), "i64"), i64(1))
    return ops.add(gathered(table(9), index), x)


def requests(count: int, rows: int = 1) -> list[Array]:
    """Whose first number is a place in the table."""
    made = RNG.uniform(0, 8.9, (count, rows, 4)).astype(np.float32)
    return list(made)


@pytest.mark.usefixtures("without_rules")
@pytest.mark.parametrize("rows", [1, -1])
def test_samples_batch_a_model_whose_valid_values_nobody_can_tell(
    load_cold: Callable[..., ovengine.Model], tried: list[dict[str, Array]], rows: int
) -> None:
    source = model({"x": ([rows, 4], F32)}, place)
    samples = requests(8, rows=2)
    loaded = load_cold(source, samples=samples)
    assert loaded.plan.ladder == (1, 4), str(loaded.plan)
    assert len(tried) > 20
    known = {tuple(row) for row in np.concatenate(samples)}
    for inputs in tried:
        assert {tuple(row) for row in inputs["x"]} <= known
    run = ov.Core().compile_model(source, "CPU", EXACT)
    futures = [(x, loaded.submit(x)) for x in requests(11)]
    for x, future in futures:
        np.testing.assert_allclose(future.result()["y"], run(x)["y"], rtol=1e-5, atol=1e-6)


def test_samples_may_be_one_request_of_several_rows(load_cold: Callable[..., ovengine.Model]) -> None:
    source = model({"x": ([1, 4], F32)}, place)
    for samples in (requests(1, rows=6)[0], {"x": requests(1, rows=6)[0]}, [{0: x[0]} for x in requests(6)]):
        assert load_cold(source, samples=samples).plan.ladder == (1, 4)


@pytest.mark.usefixtures("without_rules")
def test_inputs_of_a_sample_stay_together(
    load_cold: Callable[..., ovengine.Model], tried: list[dict[str, Array]]
) -> None:
    """The second input is valid only beside the first one of the same row."""

    def build(first: Any, second: Any) -> Any:
        index = ops.convert(ops.matmul(ops.subtract(second, first), f32(np.ones((1, 1))), False, False), "i64")
        return ops.add(ops.squeeze(gathered(table(3, 1), index), i64(2)), first)

    source = model({"a": ([1, 1], F32), "b": ([1, 1], F32)}, build)
    pairs = [(10.0 * n, 10.0 * n + n % 3) for n in range(12)]
    samples = [[np.full((1, 1), a, np.float32), np.full((1, 1), b, np.float32)] for a, b in pairs]
    assert load_cold(source, samples=samples).plan.ladder == (1, 4)
    assert len(tried) > 20
    for inputs in tried:
        assert {(float(a), float(b)) for a, b in zip(inputs["a"].flat, inputs["b"].flat, strict=True)} <= set(pairs)


@pytest.mark.usefixtures("without_rules")
def test_samples_that_are_all_the_same_tell_nothing(load_cold: Callable[..., ovengine.Model]) -> None:
    loaded = load_cold(model({"x": ([1, 4], F32)}, place), samples=[np.ones((1, 4), np.float32)])
    assert loaded.plan.axis is not None
    assert loaded.plan.axis.failed == "distinct rows"


@pytest.mark.usefixtures("without_rules")
def test_an_outcome_is_kept_for_the_same_samples_only(load_cold: Callable[..., ovengine.Model], tmp_path: Path) -> None:
    source = model({"x": ([1, 4], F32)}, place)
    same, various = [np.ones((1, 4), np.float32)], requests(6)
    for samples, ladder in ((same, (1,)), (various, (1, 4)), (same, (1,)), (None, (1,))):
        assert load_cold(source, samples=samples, cache_dir=tmp_path).plan.ladder == ladder


ONE = np.ones((1, 4), np.float32)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (7, "samples must be a list of requests as `submit` takes them, not int"),
        ("x", "samples must be a list of requests"),
        ([], "at least one request"),
        ([{"z": ONE}], r"samples\[0\]: the model has no input 'z'"),
        ([{"a": ONE}], r"samples\[0\]: no value for input 'b'"),
        ([ONE], r"samples\[0\]: one array for 2 inputs"),
        ([[ONE, ONE], [ONE, ONE, ONE]], r"samples\[1\]: 3 values for 2 inputs"),
        ([[ONE, "text"]], r"samples\[0\]: input 'b' takes numbers of dtype float32"),
        ([[ONE.astype(complex), ONE]], r"samples\[0\]: input 'a' takes numbers of dtype float32, not complex128"),
        ([[ONE, [[1, 2], [3]]]], r"samples\[0\]: input 'b' is not an array"),
        ([[ONE, ONE], [ONE, ONE[0, 0]]], r"samples\[1\] has the shapes a \[1, 4\], b \[\]; the model takes a \[n, 4\]"),
        ([[ONE, np.ones((1, 5))]], r"samples\[0\] has the shapes a \[1, 4\], b \[1, 5\]"),
        ([[ONE, np.ones((2, 4))]], r"samples\[0\] has the shapes a \[1, 4\], b \[2, 4\]"),
        ([[ONE[:0], ONE[:0]]], r"samples\[0\] has the shapes a \[0, 4\]"),
    ],
)
@pytest.mark.parametrize("rows", [1, -1])
def test_samples_that_are_no_requests_are_an_error(
    load_cold: Callable[..., ovengine.Model], rows: int, samples: Any, message: str
) -> None:
    source = model({"a": ([rows, 4], F32), "b": ([rows, 4], F32)}, ops.add)
    with pytest.raises(ovengine.ConfigError, match=message):
        load_cold(source, samples=samples)


def test_samples_of_a_dynamic_model_may_have_any_shape_that_fits(load_cold: Callable[..., ovengine.Model]) -> None:
    source = model({"x": ([-1, -1, 4], F32)}, lambda x: ops.reduce_sum(x, i64([0]), False))
    samples = [np.ones((n, 2 * n, 4), np.float32) for n in (1, 2)]
    assert load_cold(source, samples=samples).plan.mode == "dynamic"
    with pytest.raises(ovengine.ConfigError, match=r"x \[4\]; the model takes x \[\?, \?, 4\]"):
        load_cold(source, samples=[*samples, samples[0][0, 0]])


def test_samples_are_taken_as_submit_takes_them(load_cold: Callable[..., ovengine.Model]) -> None:
    """Other dtypes, lists of numbers, rows without a batch axis, OpenVINO's tensors."""
    source = model({"x": ([1, 4], F32)}, place)
    rows = requests(4)
    samples = [rows[0].astype(np.float64), rows[1][0].tolist(), ov.Tensor(rows[2]), {"x": rows[3][0]}]
    samples[1] = [samples[1]]  # a list is one value for each input
    assert load_cold(source, samples=samples).plan.ladder == (1, 4)


def test_samples_may_change_after_the_load() -> None:
    """Larger sizes are tried behind it, on copies."""
    source, samples = model({"x": ([1, 4], F32)}, place), requests(6)
    with ovengine.load(source, samples=samples, config=EXACT, batch_sizes=[1, 4], cache_dir=None) as loaded:
        for sample in samples:
            sample[:] = 1e9
        assert ready(loaded).plan.ladder == (1, 4)
