"""Batch axes: found wherever they are, by layouts, symbols and moving shapes; rows are put together along them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

import ovengine
from ovengine import _batch_axis
from ovengine._core import Runtime
from ovengine.plan import BatchAxis
from support import EXACT, Array, each, in_threads, ready, reference

Shape = list[int]


def model_of(inputs: dict[str, Shape], build: Callable[..., Any], layouts: dict[str, str] | None = None) -> ov.Model:
    """A model with output `y`."""
    parameters = []
    for name, shape in inputs.items():
        parameter = ops.parameter(shape, np.float32, name=name)
        parameter.output(0).set_names({name})
        if layouts and name in layouts:
            parameter.set_layout(ov.Layout(layouts[name]))
        parameters.append(parameter)
    y = build(*parameters)
    y.output(0).set_names({"y"})
    return ov.Model([ops.result(y)], parameters, "m")


def i64(value: Any) -> Any:
    return ops.constant(np.array(value, np.int64))


def examine(model: ov.Model) -> BatchAxis:
    return _batch_axis.examine(Runtime().adopt(model))


def merged(x: Any, state: Any) -> Any:
    """`(n, 4)` and `(2, n, 4)` to `(n, 4)`."""
    return ops.add(x, ops.reduce_sum(state, i64([0]), keep_dims=False))


def columns(x: Any) -> Any:
    """Each column on its own: rows are columns here."""
    return ops.softmax(ops.multiply(x, ops.constant(np.float32(3))), 0)


def times(x: Any, factor: Any) -> Any:
    return ops.multiply(x, factor)


FOUND: list[tuple[str, ov.Model, list[int | None], list[int]]] = [
    ("in front", model_of({"x": [1, 8]}, ops.relu), [0], [0]),
    ("dynamic", model_of({"x": [-1, 8]}, ops.relu), [0], [0]),
    ("several rows", model_of({"x": [5, 8]}, ops.relu), [0], [0]),
    ("dynamic at the end", model_of({"x": [8, -1]}, columns), [1], [1]),
    ("one at the end, by layout", model_of({"x": [8, 1]}, columns, {"x": "CN"}), [1], [1]),
    ("in the middle of one input", model_of({"x": [1, 4], "state": [2, 1, 4]}, merged), [0, 1], [0]),
    ("the same, dynamic", model_of({"x": [-1, 4], "state": [2, -1, 4]}, merged), [0, 1], [0]),
    ("moved to the end", model_of({"x": [1, 4]}, lambda x: ops.transpose(x, i64([1, 0]))), [0], [1]),
    ("the first of two ones", model_of({"x": [1, 1, 4]}, ops.relu), [0], [0]),
    ("by its layout", model_of({"x": [1, 1, 4]}, ops.relu, {"x": "CNW"}), [1], [1]),
    ("by a layout from the end", model_of({"x": [4, 1, 1]}, ops.relu, {"x": "...N"}), [2], [2]),
    ("a scalar beside", model_of({"x": [-1, 4], "f": []}, times), [0, None], [0]),
    ("a vector beside", model_of({"x": [1, 4], "f": [4]}, times), [0, None], [0]),
    ("a static input beside", model_of({"x": [-1, 4], "f": [1, 4]}, times), [0, None], [0]),
    ("rows of both", model_of({"x": [1, 4], "f": [1, 4]}, times), [0, 0], [0]),
    ("one of both, by layout", model_of({"x": [1, 4], "f": [1, 4]}, times, {"f": "HW"}), [0, None], [0]),
]


@pytest.mark.parametrize(("name", "model", "inputs", "outputs"), FOUND, ids=[found[0] for found in FOUND])
def test_the_batch_axis_of_each_port_is_found(
    name: str, model: ov.Model, inputs: list[int | None], outputs: list[int]
) -> None:
    axis = examine(model)
    assert axis.inputs == tuple(inputs)
    assert axis.outputs == tuple(outputs)


@pytest.mark.usefixtures("without_rules")
def test_symbols_tell_the_same_as_shapes_where_they_are_kept() -> None:
    assert "by symbols and shapes" in examine(model_of({"x": [1, 4], "state": [2, 1, 4]}, merged)).why
    graph = Runtime().adopt(model_of({"x": [1, 4]}, lambda x: ops.transpose(x, i64([1, 0]))))
    assert graph.symbolic_batch_axes([0]) == ((1,),)
    assert graph.symbolic_batch_axes([1]) == ((0,),)


def test_layouts_are_told_by_input() -> None:
    model = model_of(
        {"a": [1, 4], "b": [1, 4], "c": [4, 1]}, lambda a, b, c: ops.matmul(ops.add(a, b), c, False, False)
    )
    model.inputs[0].node.set_layout(ov.Layout("NC"))
    model.inputs[2].node.set_layout(ov.Layout("CH"))
    assert Runtime().adopt(model).layout_batch_axes() == {0: 0, 2: None}


@pytest.mark.parametrize(
    ("model", "check", "why"),
    [
        (model_of({"x": [-1, -1]}, ops.relu), "input shapes", "'x' has a dynamic dimension 1"),
        (model_of({"x": [4, 4], "f": [2, 4, 4]}, times), "input shapes", "no common batch dimension (x [4,4], f"),
        (model_of({"x": [1, 4]}, lambda x: ops.squeeze(x, i64(0))), "output shapes", "no batch dimension of 1"),
        (model_of({"x": [1, 4]}, lambda x: ops.matmul(x, x, False, True)), "output shapes", "[1,1] becomes [2,2]"),
    ],
)  # fmt: skip
def test_what_has_no_batch_axis_is_named(model: ov.Model, check: str, why: str) -> None:
    axis = examine(model)
    assert (axis.batchable, axis.failed) == (False, check)
    assert why in axis.why


# -- many inputs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choices", [[[0, 1, None]] * 4, [[0], [1, 2], [0, None], [2, 1, 0], [None]], [[0, 3], [1, 2]]])
def test_guesses_come_as_if_all_were_made_and_sorted(choices: list[list[int | None]]) -> None:
    choices = [sorted(axes, key=lambda axis: (axis is None, axis or 0)) for axes in choices]
    combinations = list(itertools.product(*choices))
    combinations.sort(key=lambda axes: (axes.count(None), sum(axis or 0 for axis in axes)))
    assert list(_batch_axis._best_first(choices, [1] * len(choices))) == combinations


@pytest.mark.parametrize(
    ("shapes", "axes"),
    [
        ([[-1, 4]] * 300, [0] * 300),
        ([[1, 1, 4]] * 100, [0] * 100),
        ([[-1, 4], [3, -1, 4], [2, 3, -1]] * 40, [0, 1, 2] * 40),
        ([[1, 4], [1, 2, 4], [4]] * 40, [0, 0, None] * 40),
    ],
    ids=["dynamic", "ones", "at any axis", "some shared"],
)
def test_the_batch_axes_of_many_inputs_are_found(shapes: list[Shape], axes: list[int | None]) -> None:
    parameters = [ops.parameter(shape, np.float32, name=f"x{i}") for i, shape in enumerate(shapes)]
    batched = [parameter for parameter, axis in zip(parameters, axes, strict=True) if axis is not None]
    results: list[Any] = [ops.result(ops.relu(parameter)) for parameter in batched]
    for parameter, axis in zip(parameters, axes, strict=True):
        if axis is None:
            results.append(ops.result(ops.add(batched[0], parameter)))
    found = examine(ov.Model(results, parameters, "m"))
    assert found.inputs == tuple(axes)
    assert found.outputs == (*(axis for axis in axes if axis is not None), *[0] * axes.count(None))


def test_a_decoder_with_a_cache_for_each_layer_is_loaded() -> None:
    # As GPT-2 is exported: the batch and the length so far are both dynamic, so shapes alone do not tell them apart.
    ids, mask = (ops.parameter([-1, -1], np.float32, name=name) for name in ("ids", "mask"))
    past = [ops.parameter([-1, 2, -1, 4], np.float32, name=f"past{i}") for i in range(48)]
    results = [ops.result(ops.relu(ids)), ops.result(ops.relu(mask))]
    results += [ops.result(ops.concat([each, each], 2)) for each in past]
    with ovengine.load(ov.Model(results, [ids, mask, *past], "decoder"), config=EXACT) as model:
        assert model.plan.mode == "dynamic"
        rng = np.random.default_rng(0)
        x = [rng.standard_normal((3, 5)).astype(np.float32) for _ in range(2)]
        x += [rng.standard_normal((3, 2, 7, 4)).astype(np.float32) for _ in past]
        found = model(x)
        np.testing.assert_array_equal(found[1], np.maximum(x[1], 0))
        np.testing.assert_array_equal(found[49], np.concatenate([x[-1], x[-1]], 2))


# -- put together along them ------------------------------------------------------------------------------------------


@pytest.fixture
def load() -> Iterator[Callable[..., ovengine.Model]]:
    with ovengine.Engine(plugins=ovengine.Plugins(entry_points=False, disabled=())) as engine:
        yield lambda source: ready(engine.load(source, config=EXACT, batcher="fixed", max_batch_size=4))


def rows_of(tensor: ovengine.TensorInfo, n: int, rng: np.random.Generator) -> Array:
    shape = [n if dimension < 0 else dimension for dimension in tensor.shape or ()]
    return rng.standard_normal(shape).astype(np.float32)


BATCHED = [found for found in FOUND if None not in found[2] and found[0] != "several rows"]


@pytest.mark.parametrize(("name", "source", "inputs", "outputs"), BATCHED, ids=[found[0] for found in BATCHED])
def test_rows_along_any_axis_are_batched_and_equal_plain_openvino(
    load: Callable[..., ovengine.Model], name: str, source: ov.Model, inputs: list[int], outputs: list[int]
) -> None:
    model = load(source)
    assert model.plan.ladder == (1, 4)
    assert [tensor.batch_axis for tensor in model.inputs] == inputs
    assert [tensor.batch_axis for tensor in model.outputs] == outputs
    assert all(tensor.shape and tensor.shape[tensor.batch_axis or 0] == -1 for tensor in model.inputs)
    rng = np.random.default_rng(2)
    x = [rows_of(tensor, 9, rng) for tensor in model.inputs]
    run = reference(source)
    single = [[np.take(array, [row], axis) for array, axis in zip(x, inputs, strict=True)] for row in range(9)]
    alone = [run(*row)["y"] for row in single]
    expected = np.concatenate(alone, axis=outputs[0])
    np.testing.assert_allclose(model(x)["y"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.infer_rows(x)["y"], expected, rtol=1e-5, atol=1e-6)

    def client(first: int) -> None:
        futures = [(row, model.submit(single[row])) for row in range(first, 9, 3)]
        for row, future in futures:
            np.testing.assert_allclose(future.result()["y"], alone[row], rtol=1e-5, atol=1e-6)
            sample = [array.squeeze(axis) for array, axis in zip(single[row], inputs, strict=True)]
            np.testing.assert_allclose(model(sample)["y"], expected.take(row, outputs[0]), rtol=1e-5, atol=1e-6)

    in_threads(each(client, range(3)))


def test_large_results_are_views_along_their_axis(load: Callable[..., ovengine.Model]) -> None:
    model = load(model_of({"x": [2000, -1]}, columns))
    x = np.random.default_rng(0).standard_normal((2000, 3)).astype(np.float32)
    y = model(x)["y"]
    expected = np.exp(3 * x) / np.exp(3 * x).sum(0)
    assert y.base is not None
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-6)
    small = load(model_of({"x": [8, -1]}, columns))(x[:8])
    assert small["y"] is small["y"]
    np.testing.assert_allclose(small["y"], np.exp(3 * x[:8]) / np.exp(3 * x[:8]).sum(0), rtol=1e-4, atol=1e-6)


# -- inputs that all rows of a request share --------------------------------------------------------------------------


def scaled(x: Any, table: Any, factor: Any) -> Any:
    """`(n, 4)`, `(4, 3)` and `()` to `(n, 3)`."""
    return ops.multiply(ops.matmul(x, table, False, False), factor)


SHARED = {"x": [-1, 4], "table": [4, 3], "factor": []}


def test_a_shared_input_is_taken_whole_by_requests_of_any_number_of_rows(load: Callable[..., ovengine.Model]) -> None:
    model = load(model_of(SHARED, scaled))
    assert model.plan.ladder == (1, 4)
    assert [tensor.batch_axis for tensor in model.inputs] == [0, None, None]
    assert [tensor.shape for tensor in model.inputs] == [(-1, 4), (4, 3), ()]
    assert "batch axis of x 0, table none: shared, factor none: shared, y 0" in str(model.plan)
    rng = np.random.default_rng(0)
    table = rng.standard_normal((4, 3)).astype(np.float32)
    for rows in (1, 2, 3, 4, 5, 40):
        x = rng.standard_normal((rows, 4)).astype(np.float32)
        inputs: dict[str, Any] = {"x": x, "table": table, "factor": 0.5}
        for result in (model(inputs), model.submit(inputs).result(), model.infer_rows(inputs)):
            np.testing.assert_allclose(result["y"], x @ table * 0.5, rtol=1e-5, atol=1e-6)
        shared = model.submit({**inputs, "factor": np.float32(2)}, share_inputs=True)
        np.testing.assert_allclose(shared.result()["y"], x @ table * 2, rtol=1e-5, atol=1e-6)
        sample: Any = [x[0], table, 3]
        np.testing.assert_allclose(model(sample)["y"], x[0] @ table * 3, rtol=1e-5, atol=1e-6)
    with pytest.raises(ovengine.InputError, match=r"'table' has shape \(2, 4, 3\); the model takes \(4, 3\)"):
        model([x[:2], np.stack([table, table]), np.array(3)])


def test_requests_whose_shared_inputs_differ_never_share_a_batch(load: Callable[..., ovengine.Model]) -> None:
    model = load(model_of(SHARED, scaled))
    rng = np.random.default_rng(0)
    tables = rng.standard_normal((3, 4, 3)).astype(np.float32)
    x = rng.standard_normal((400, 4)).astype(np.float32)

    def client(first: int) -> None:
        mine = np.random.default_rng(first)
        pending = []
        for row in range(first, 400, 4):
            table, factor, rows = tables[mine.integers(3)], np.float32(mine.integers(1, 3)), int(mine.integers(1, 4))
            part = x[row : row + rows]
            pending.append((model.submit([part, table, factor]), part @ table * factor))
            if row % 5 == 0:
                np.testing.assert_allclose(model([part, table, factor])["y"], pending[-1][1], rtol=1e-4, atol=1e-5)
        for future, expected in pending:
            np.testing.assert_allclose(future.result()["y"], expected, rtol=1e-4, atol=1e-5)

    in_threads(each(client, range(4)))
    stats = model.stats()
    assert stats.rows > stats.batches  # those that are equal still do


def test_there_may_be_more_contents_of_shared_inputs_than_are_told_apart(load: Callable[..., ovengine.Model]) -> None:
    model = load(model_of({"x": [-1, 4], "f": []}, times))
    x = np.ones((1, 4), np.float32)
    futures = [(model.submit([x, factor]), factor) for factor in [*range(700), *range(700)]]
    for future, factor in futures:
        np.testing.assert_array_equal(future.result()["y"], x * factor)


def test_a_lease_has_the_shared_inputs_once(load: Callable[..., ovengine.Model]) -> None:
    model = load(model_of(SHARED, scaled))
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    futures = []
    for factor in (1, 2):
        with model.lease(3) as lease:
            assert (lease["x"].shape, lease["table"].shape, lease["factor"].shape) == ((3, 4), (4, 3), ())
            lease["x"][...], lease["table"][...], lease["factor"][...] = x, table, factor
            futures.append(lease.submit())
    with model.lease(2):
        pass  # given back
    for factor, future in zip((1, 2), futures, strict=True):
        np.testing.assert_allclose(future.result()["y"], x @ table * factor, rtol=1e-5)


def summed_along(x: Any, along: Any) -> Any:
    return ops.cum_sum(x, along)


def test_a_shared_input_that_may_decide_to_mix_rows_is_found_out() -> None:
    x = ops.parameter([-1, 4], np.float32, name="x")
    along = ops.parameter([], np.int32, name="along")
    x.output(0).set_names({"x"})
    along.output(0).set_names({"along"})
    y = summed_along(x, along)
    y.output(0).set_names({"y"})
    source = ov.Model([ops.result(y)], [x, along], "m")
    with ovengine.Engine() as engine, engine.load(source, config=EXACT, cache_dir=None) as model:
        assert model.plan.axis is not None
        assert (model.plan.mode, model.plan.axis.failed) == ("dynamic", "rows alone")
        rows = np.ones((3, 4), np.float32)
        np.testing.assert_array_equal(model([rows, np.array(0)])["y"], np.cumsum(rows, 0))
        np.testing.assert_array_equal(model([rows, np.array(1)])["y"], np.cumsum(rows, 1))
