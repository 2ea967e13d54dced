"""Trial runs and measurements give operators no value that they do not take, whatever the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openvino as ov
import pytest
from openvino import opset8, opset15
from openvino import opset13 as ops

import ovengine
from ovengine import _memory, _proof
from ovengine._core import Runtime
from support import EXACT, Array
from trials import F32, I32, I64, RNG, f32, gathered, i64, model, table

INF = float("inf")


def ranges(source: ov.Model) -> list[Any]:
    """What `Graph.input_values` says of each input: its bounds, "free", or what relies on it."""
    found = []
    for low, high, free, _, unknown in Runtime().adopt(source).input_values():
        found.append(unknown.split()[0] if unknown else "free" if free else (low, high))
    return found


# -- what the graph says ----------------------------------------------------------------------------------------------

Build = Callable[..., Any]


def positions(ids: Any) -> Any:
    """As RoBERTa counts them: what is no padding, from the padding's number on."""
    mask = ops.convert(ops.not_equal(ids, i64(1)), "i64")
    return ops.add(ops.multiply(ops.cum_sum(mask, i64(1)), mask), i64(1))


def lookup(ids: Any) -> Any:
    return ops.add(gathered(table(100), ids), gathered(table(14), positions(ids)))


FOUND: list[tuple[str, dict[str, tuple[Sequence[int], Any]], Build, list[Any]]] = [
    ("no index", {"x": ([1, 5], I64)}, lambda x: ops.one_hot(x, i64(4), f32(1), f32(0), -1), ["free"]),
    ("embedding", {"x": ([1, 5], I64)}, lambda x: gathered(table(30), x), [(0, 29)]),
    ("along another axis", {"x": ([5], I64)}, lambda x: gathered(table(30, 7), x, 1), [(0, 6)]),
    ("counted from the end", {"x": ([5], I64)}, lambda x: gathered(table(30, 7), x, -1), [(0, 6)]),
    ("counted from one", {"x": ([1, 5], I64)}, lambda x: gathered(table(30), ops.subtract(x, i64(1))), [(1, 29)]),
    ("floating-point ids", {"x": ([1, 5], F32)}, lambda x: gathered(table(25), ops.convert(x, "i64")), [(0, 24)]),
    ("ids beyond bf16", {"x": ([1, 5], F32)}, lambda x: gathered(table(999), ops.convert(x, "i64")), [(0, 996)]),
    ("a fraction of the table", {"x": ([1], F32)},
     lambda x: gathered(table(100), ops.convert(ops.multiply(x, f32(99)), "i64")), [(0, 0.5)]),
    ("hashed", {"x": ([1, 5], I64)}, lambda x: gathered(table(30), ops.floor_mod(x, i64(30))), ["free"]),
    ("clamped", {"x": ([1, 5], I64)}, lambda x: gathered(table(30), ops.clamp(x, 0, 29)), ["free"]),
    ("positions", {"x": ([1, 8], I64)}, lookup, [(0, 99)]),
    ("positions by a mask", {"mask": ([1, 8], I64)},
     lambda mask: gathered(table(14), ops.subtract(ops.cum_sum(mask, i64(1)), i64(1))), [(1, 1)]),
    ("the largest", {"x": ([1, 9], F32)},
     lambda x: gathered(table(9), ops.topk(x, i64(1), 1, "max", "none").output(1)), ["free"]),
    ("a computed place", {"x": ([1, 4], F32)},
     lambda x: gathered(table(9), ops.convert(ops.matmul(x, table(4), False, False), "i64")), ["Gather"]),
    ("two that are added", {"a": ([5], I64), "b": ([5], I64)},
     lambda a, b: gathered(table(51), ops.add(a, b)), [(0, 25), (0, 25)]),
    ("a table of places", {"x": ([5], I64)},
     lambda x: gathered(table(9), ops.gather(i64([8, 3, 0]), x, i64(0))), [(0, 2)]),
    ("elements", {"x": ([2, 6], F32), "i": ([2, 3], I64)}, lambda x, i: ops.gather_elements(x, i, 1), ["free", (0, 5)]),
    ("points", {"x": ([7, 3], F32), "i": ([4, 2], I64)}, lambda x, i: ops.gather_nd(x, i, 0), ["free", (0, 2)]),
    ("points of each row", {"x": ([7, 3, 5], F32), "i": ([7, 2, 1], I64)},
     lambda x, i: opset8.gather_nd(x, i, 1), ["free", (0, 2)]),
    ("scattered points", {"x": ([2, 2], F32), "i": ([1, 1], I64), "u": ([1, 2], F32)},
     ops.scatter_nd_update, ["free", (0, 1), "free"]),
    ("scattered elements", {"x": ([2, 6], F32), "i": ([2, 3], I64), "u": ([2, 3], F32)},
     lambda x, i, u: ops.scatter_elements_update(x, i, u, i64(1)), ["free", (0, 5), "free"]),
    ("scattered rows", {"x": ([6, 2], F32), "i": ([3], I64), "u": ([3, 2], F32)},
     lambda x, i, u: ops.scatter_update(x, i, u, i64(0)), ["free", (0, 5), "free"]),
    ("bags", {"i": ([2, 3], I64)}, lambda i: opset15.embedding_bag_packed(table(12), i), [(0, 11)]),
    ("bags with offsets", {"i": ([6], I64), "o": ([3], I64)},
     lambda i, o: opset15.embedding_bag_offsets(table(12), i, o, i64(0)), [(0, 11), (0, 0)]),
    ("an axis", {"x": ([2, 3, 4], F32), "axis": ([], I64)}, ops.cum_sum, ["free", (0, 2)]),
    ("lengths", {"x": ([1, 5, 3], F32), "n": ([1], I64)},
     lambda x, n: ops.reverse_sequence(x, n, 0, 1), ["free", (1, 5)]),
    ("a divisor", {"a": ([4], I32), "b": ([4], I32)}, ops.divide, ["free", (1, 127)]),
    ("a divisor of fractions", {"a": ([4], F32), "b": ([4], F32)}, ops.divide, ["free", "free"]),
    ("repeats", {"x": ([1, 3], F32), "n": ([2], I64)}, ops.tile, ["free", (1, 4)]),
    ("a shape", {"x": ([4, 3], F32), "shape": ([2], I64)},
     lambda x, shape: ops.reshape(x, shape, False), ["free", (1, 4)]),
    ("a number of steps", {"n": ([], I64)}, lambda n: ops.range(i64(0), n, i64(1), "i64"), [(0, 4)]),
    ("an order of axes", {"x": ([2, 3], F32), "order": ([2], I64)}, ops.transpose, ["free", "Transpose"]),
    ("regions", {"x": ([2, 3, 9, 9], F32), "rois": ([4, 4], F32), "i": ([4], I32)},
     lambda x, rois, i: ops.roi_align(x, rois, i, 2, 2, 2, 1.0, "avg", "asymmetric"), ["free", (0, 64), (0, 1)]),
    ("regions that are computed", {"x": ([2, 3, 9, 9], F32), "rois": ([4, 4], F32), "i": ([4], I32)},
     lambda x, rois, i: ops.roi_align(x, ops.exp(rois), i, 2, 2, 2, 1.0, "avg", "asymmetric"),
     ["free", "ROIAlign", (0, 1)]),
]  # fmt: skip


@pytest.mark.parametrize(("inputs", "build", "expected"), [case[1:] for case in FOUND], ids=[case[0] for case in FOUND])
def test_bounds_of_the_inputs_follow_from_the_graph(
    inputs: dict[str, tuple[Sequence[int], Any]], build: Build, expected: list[Any]
) -> None:
    assert ranges(model(inputs, build)) == expected


def test_every_operator_of_openvino_has_a_rule() -> None:
    """One that is new has to be looked at: whether it relies on the values of an input."""
    source = (Path(__file__).parents[1] / "src/_native/device/openvino_value_needs.cpp").read_text()
    tables = (Path(ov.__file__).parent / "include/openvino/opsets").glob("opset*_tbl.hpp")
    operators = {
        line.partition("(")[2].partition(",")[0]
        for table in tables
        for line in table.read_text().splitlines()
        if line.startswith("_OPENVINO_OP_REG(")
    }
    assert len(operators) > 200
    assert {name for name in operators if f'"{name}"' not in source} == set()


# -- what loading does ------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A model made for one row; its inputs for `rows`; whether an input has only values that the model takes."""

    inputs: dict[str, tuple[Sequence[int], Any]]
    build: Build
    draw: Callable[[int], dict[str, Array]]
    bounds: dict[str, tuple[float, float]]


def integers(low: int, high: int, *shape: int) -> Array:
    return RNG.integers(low, high, shape, endpoint=True)


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


LOADED: dict[str, Case] = {
    "embedding": Case(
        {"x": ([1, 5], I64)}, lambda x: gathered(table(30), x), lambda n: {"x": integers(0, 29, n, 5)}, {"x": (0, 29)}
    ),
    "counted from one": Case(
        {"x": ([1, 5], I64)},
        lambda x: gathered(table(30), ops.subtract(x, i64(1))),
        lambda n: {"x": integers(1, 30, n, 5)},
        {"x": (1, 30)},
    ),
    "floating-point ids": Case(
        {"x": ([1, 5], F32)},
        lambda x: gathered(table(700), ops.convert(x, "i64")),
        lambda n: {"x": integers(0, 699, n, 5).astype(np.float32)},
        {"x": (0, 699)},
    ),
    "positions": Case({"x": ([1, 8], I64)}, lookup, lambda n: {"x": integers(0, 99, n, 8)}, {"x": (0, 99)}),
    "elements": Case(
        {"x": ([1, 6], F32), "i": ([1, 3], I64)},
        lambda x, i: ops.gather_elements(x, i, 1),
        lambda n: {"x": floats(n, 6), "i": integers(0, 5, n, 3)},
        {"i": (0, 5)},
    ),
    "points": Case(
        {"x": ([1, 3, 5], F32), "i": ([1, 2, 1], I64)},
        lambda x, i: opset8.gather_nd(x, i, 1),
        lambda n: {"x": floats(n, 3, 5), "i": integers(0, 2, n, 2, 1)},
        {"i": (0, 2)},
    ),
    "scattered elements": Case(
        {"x": ([1, 6], F32), "i": ([1, 1], I64), "u": ([1, 1], F32)},
        lambda x, i, u: ops.scatter_elements_update(x, i, u, i64(1)),
        lambda n: {"x": floats(n, 6), "i": integers(0, 5, n, 1), "u": floats(n, 1)},
        {"i": (0, 5)},
    ),
    "bags": Case(
        {"i": ([1, 3], I64)},
        lambda i: opset15.embedding_bag_packed(table(12), i),
        lambda n: {"i": integers(0, 11, n, 3)},
        {"i": (0, 11)},
    ),
    "rotary positions": Case(
        {"x": ([1, 4, 6], F32), "p": ([1, 4], I64)},
        lambda x, p: ops.multiply(x, gathered(table(50, 6), p)),
        lambda n: {"x": floats(n, 4, 6), "p": integers(0, 49, n, 4)},
        {"p": (0, 49)},
    ),
    "lengths": Case(
        {"x": ([1, 5, 3], F32), "n": ([1], I64)},
        lambda x, n: ops.reverse_sequence(x, n, 0, 1),
        lambda n: {"x": floats(n, 5, 3), "n": integers(1, 5, n)},
        {"n": (1, 5)},
    ),
    "a divisor": Case(
        {"a": ([1, 4], I32), "b": ([1, 4], I32)},
        ops.divide,
        lambda n: {"a": integers(1, 99, n, 4).astype(I32), "b": integers(1, 9, n, 4).astype(I32)},
        {"b": (1, INF)},
    ),
}


@pytest.mark.usefixtures("without_rules")
@pytest.mark.parametrize("name", LOADED)
def test_models_with_indices_are_batched_and_tried_on_valid_ones_alone(
    load_cold: Callable[..., ovengine.Model], tried: list[dict[str, Array]], name: str
) -> None:
    case = LOADED[name]
    source = model(case.inputs, case.build)
    loaded = load_cold(source)
    assert loaded.plan.ladder == (1, 4), str(loaded.plan)
    assert len(tried) > 20
    for inputs in tried:
        for port, (low, high) in case.bounds.items():
            assert ((inputs[port] >= low) & (inputs[port] <= high)).all(), (port, inputs[port])
    run = ov.Core().compile_model(source, "CPU", EXACT)
    rows = [case.draw(1) for _ in range(11)]
    futures = [loaded.submit(row) for row in rows]
    for row, future in zip(rows, futures, strict=True):
        np.testing.assert_allclose(future.result()["y"], run(row)["y"], rtol=1e-4, atol=1e-5)


def test_padding_at_run_time_is_valid_where_zero_is_not(load_cold: Callable[..., ovengine.Model]) -> None:
    """Three rows on a size of four: the fourth would have the index -1."""
    source = model({"x": ([1, 5], I64)}, lambda x: gathered(table(30), ops.subtract(x, i64(1))))
    loaded = load_cold(source)
    run = ov.Core().compile_model(source, "CPU", EXACT)
    x = integers(1, 30, 3, 5)
    np.testing.assert_allclose(loaded(x)["y"], np.concatenate([run(row[None])["y"] for row in x]))


def unknown_place(x: Any) -> Any:
    return gathered(table(9), ops.convert(ops.matmul(x, table(4), False, False), "i64"))


@pytest.mark.parametrize("rows", [1, -1, 3])
def test_where_no_values_are_known_nothing_is_run_and_the_plan_says_so(
    load_cold: Callable[..., ovengine.Model], tried: list[dict[str, Array]], rows: int
) -> None:
    loaded = load_cold(model({"x": ([rows, 4], F32)}, unknown_place))
    assert not tried
    axis = loaded.plan.axis
    assert axis is not None
    assert axis.failed == "input values"
    assert loaded.plan.ladder == (1,)
    assert "no valid values of input 'x' are known: Gather" in str(loaded.plan)
    x = np.zeros((abs(rows), 4), np.float32)  # whose place is the first
    assert loaded(x)["y"].shape == (abs(rows), 4, 4)


def loop(batch: int | str) -> bytes:
    """`y = x + n x`, by a loop of n turns."""
    from onnx import TensorProto, helper

    def info(name: str, kind: int, shape: list[Any]) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    nodes = [helper.make_node("Add", ["a", "x"], ["a2"]), helper.make_node("Identity", ["c"], ["c2"])]
    real, whole, flag = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
    inside = [info("i", whole, []), info("c", flag, []), info("a", real, [batch, 4])]
    body = helper.make_graph(nodes, "body", inside, [info("c2", flag, []), info("a2", real, [batch, 4])])
    graph = helper.make_graph(
        [helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)],
        "graph",
        [info("x", real, [batch, 4]), info("n", whole, [])],
        [info("y", real, [batch, 4])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(made.SerializeToString())


@pytest.mark.parametrize("batch", [1, 3, "N"])
def test_a_loop_is_tried_for_a_few_turns_only(
    load_cold: Callable[..., ovengine.Model], tried: list[dict[str, Array]], batch: int | str
) -> None:
    loaded = load_cold(loop(batch))
    for inputs in tried:
        assert ((inputs["n"] >= 1) & (inputs["n"] <= 4)).all()
    rows = batch if isinstance(batch, int) else 1
    x = np.ones((rows, 4), np.float32)
    np.testing.assert_array_equal(loaded({"x": x, "n": np.array(3)})["y"], 4 * x)


def test_a_condition_runs_both_branches(
    load_cold: Callable[..., ovengine.Model], tried: list[dict[str, Array]]
) -> None:
    """The index that one branch needs is the narrower one."""
    flag, ids = ops.parameter([1], np.bool_, name="flag"), ops.parameter([1, 3], np.int64, name="ids")
    bodies, inner = [], []
    for rows in (20, 7):
        inside = ops.parameter([1, 3], np.int64)
        inner.append(inside)
        bodies.append(ov.Model([ops.result(gathered(table(rows), inside))], [inside], f"{rows} rows"))
    either = opset8.if_op(flag)
    either.set_then_body(bodies[0])
    either.set_else_body(bodies[1])
    either.set_input(ids.output(0), inner[0], inner[1])
    y = either.set_output(bodies[0].get_results()[0], bodies[1].get_results()[0])
    source = ov.Model([ops.result(y)], [flag, ids], "either")
    assert ranges(source) == ["free", (0, 6)]
    load_cold(source)
    assert all(inputs["ids"].max() <= 6 for inputs in tried)


def test_a_node_that_no_output_depends_on_is_left_out() -> None:
    x = ops.parameter([1, 3], np.int64, name="x")
    unused = ops.convert(x, "f32")
    y = gathered(table(5), x)
    assert ranges(ov.Model([ops.result(y)], [x], "m")) == [(0, 4)]
    assert unused.get_output_size() == 1  # it is still there


# -- limits -----------------------------------------------------------------------------------------------------------


def slow(steps: int = 400, rows: int = 1) -> ov.Model:
    """Of many operators, between which an inference can be cancelled."""
    weights = f32(RNG.standard_normal((64, 64)) / 8)

    def build(x: Any) -> Any:
        for _ in range(steps):
            x = ops.sin(ops.matmul(x, weights, False, False))
        return x

    return model({"x": ([rows, 64], F32)}, build)


def test_an_inference_that_takes_too_long_is_given_up() -> None:
    runtime = Runtime()
    source = runtime.adopt(slow(rows=2000))  # some 0.1 s
    compiled = runtime.compile(source, "CPU", {**EXACT, "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1})
    x = [np.ones((2000, 64), np.float32)]
    expected = compiled.run(x)[0]
    for attempt in (lambda: compiled.run(x, max_seconds=0), lambda: compiled.measure(x, max_one=0)):
        with pytest.raises(ovengine.InferenceError, match="it takes longer than 0 s"):
            attempt()
    np.testing.assert_array_equal(compiled.run(x)[0], expected)  # and leaves nothing behind


@pytest.mark.usefixtures("without_rules")
def test_a_proof_that_takes_too_long_ends_and_the_model_serves(
    load_cold: Callable[..., ovengine.Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_proof, "MOST_SECONDS", 0)
    loaded = load_cold(slow())
    assert loaded.plan.ladder == (1,)
    assert "check 'trial run' failed: " in str(loaded.plan)
    assert "all trial runs together take longer than 0 s" in str(loaded.plan)
    assert loaded(np.ones((1, 64), np.float32))["y"].shape == (1, 64)


@pytest.mark.parametrize("rows", [1, -1])
def test_what_there_is_no_memory_for_is_not_tried(
    load_cold: Callable[..., ovengine.Model], tried: list[dict[str, Array]], monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(_memory, "available_memory_bytes", lambda: 100_000)
    loaded = load_cold(model({"x": ([rows, 64], F32)}, lambda x: ops.matmul(x, table(64, 4096), False, False)))
    assert all(len(inputs["x"]) == 1 for inputs in tried)
    assert loaded.plan.ladder == (1,)
    assert "a trial run would take" in str(loaded.plan)
    assert loaded(np.ones((1, 64), np.float32))["y"].shape == (1, 4096)


def test_the_largest_tensors_count_as_memory() -> None:
    graph = Runtime().adopt(model({"x": ([1, 64], F32)}, lambda x: ops.matmul(x, table(64, 4096), False, False)))
    assert graph.tensor_bytes == 2 * 4 * (64 + 4096)
