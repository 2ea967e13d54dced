"""Proof before batching: each way in which rows can depend on each other is found out, named, and run apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

import ovengine
from ovengine import _core, _proof
from ovengine._core import Compiled, Runtime, fake_compiled
from ovengine._values import InputValues, Values
from ovengine.errors import CacheWarning
from ovengine.testing import TINY_MLP, mlp
from support import EXACT, Array, each, in_threads, network, ready, reference

pytestmark = pytest.mark.usefixtures("without_rules")

Build = Callable[[Any], Any]

ANY = Values([InputValues(-np.inf, np.inf, True, False, "")])
"""Of one input, on whose values nothing depends."""


@pytest.fixture(scope="module")
def engine() -> Iterator[ovengine.Engine]:
    with ovengine.Engine(plugins=ovengine.Plugins(entry_points=False, disabled=())) as made:
        yield made


@pytest.fixture
def load(engine: ovengine.Engine, tmp_path: Path) -> Iterator[Callable[..., ovengine.Model]]:
    """`Engine.load` in f32 at sizes 1 and 4, each test with a cache of its own; models are closed after the test."""
    loaded: list[ovengine.Model] = []

    def call(source: Any, **arguments: Any) -> ovengine.Model:
        arguments = {
            "config": EXACT, "batcher": "fixed", "max_batch_size": 4, "cache_dir": tmp_path / "cache", **arguments
        }  # fmt: skip
        model = engine.load(source, **arguments)
        loaded.append(model)
        return ready(model)

    yield call
    for model in loaded:
        model.close(timeout=10)


def axis(model: ovengine.Model) -> ovengine.plan.BatchAxis:
    assert model.plan.axis is not None
    return model.plan.axis


def f32(value: Any) -> Any:
    return ops.constant(np.array(value, np.float32))


def i64(value: Any) -> Any:
    return ops.constant(np.array(value, np.int64))


def row_count(x: Any) -> Any:
    return ops.gather(ops.shape_of(x), i64(0), i64(0))


def places(x: Any) -> Any:
    """0, 1, 2, ... for the rows, `(n, 1)`."""
    return ops.unsqueeze(ops.range(i64(0), row_count(x), i64(1), "f32"), i64(1))


# -- rows that depend on each other: by the check that finds it -------------------------------------------------------


def batch_norm_in_training_form(x: Any) -> Any:
    mean = ops.reduce_mean(x, i64([0]), keep_dims=True)
    centred = ops.subtract(x, mean)
    variance = ops.reduce_mean(ops.multiply(centred, centred), i64([0]), keep_dims=True)
    return ops.divide(centred, ops.sqrt(ops.add(variance, f32(1e-5))))


def rows_of_fixed_number(x: Any) -> Any:
    """A hard-coded Reshape that still takes any number of rows, but mixes them."""
    return ops.reshape(ops.transpose(x, i64([1, 0])), i64([-1, 8]), False)


def attention_over_rows(x: Any) -> Any:
    weights = ops.softmax(ops.matmul(x, x, False, True), 1)
    return ops.matmul(weights, x, False, False)


def convolution_along_rows(x: Any) -> Any:
    kernel = np.random.default_rng(0).standard_normal((8, 8, 3)).astype(np.float32)
    columns = ops.unsqueeze(ops.transpose(x, i64([1, 0])), i64(0))
    found = ops.convolution(columns, ops.constant(kernel), [1], [1], [1], [1])
    return ops.transpose(ops.squeeze(found, i64(0)), i64([1, 0]))


def rolled(x: Any) -> Any:
    return ops.roll(x, i64([1]), i64([0]))


def reversed_rows(x: Any) -> Any:
    return ops.strided_slice(x, i64([-1, 0]), i64([-1000, 8]), i64([-1, 1]), [0, 1], [1, 1])


def shuffled(x: Any) -> Any:
    """Rows gathered in the order of their first values."""
    order = ops.topk(
        ops.squeeze(ops.slice(x, i64([0]), i64([1]), i64([1]), i64([1])), i64(1)), row_count(x), 0, "max", "value"
    ).output(1)
    return ops.gather(x, order, i64(0))


def highest_of_each_column(x: Any) -> Any:
    return ops.topk(x, row_count(x), 0, "max", "value").output(0)


def first_row_added(x: Any) -> Any:
    return ops.add(x, ops.slice(x, i64([0]), i64([1]), i64([1]), i64([0])))


def normalised_over_everything(x: Any) -> Any:
    return ops.mvn(x, i64([0, 1]), True, 1e-6, "inside_sqrt")


ROWS_ALONE: dict[str, Build] = {
    "softmax": lambda x: ops.softmax(x, 0),
    "log_softmax": lambda x: ops.log_softmax(x, 0),
    "cumulative sum": lambda x: ops.cum_sum(x, i64(0)),
    "mean": lambda x: ops.subtract(x, ops.reduce_mean(x, i64([0]), keep_dims=True)),
    "largest": lambda x: ops.divide(x, ops.reduce_max(ops.abs(x), i64([0, 1]), keep_dims=True)),
    "norm": lambda x: ops.normalize_l2(x, i64([0]), 1e-6, "add"),
    "count": lambda x: ops.divide(x, ops.convert(row_count(x), "f32")),
    "place": lambda x: ops.add(x, places(x)),
    "batch norm": batch_norm_in_training_form,
    "reshape": rows_of_fixed_number,
    "attention": attention_over_rows,
    "convolution": convolution_along_rows,
    "roll": rolled,
    "reversed": reversed_rows,
    "shuffled": shuffled,
    "topk": highest_of_each_column,
    "first row": first_row_added,
    "mvn": normalised_over_everything,
}


def doubled_where_any_row_is_empty(x: Any) -> Any:
    weight = ops.reduce_sum(ops.abs(x), i64([1]), keep_dims=True)
    empty = ops.equal(ops.reduce_min(weight, i64([0]), keep_dims=True), f32(0))
    return ops.select(empty, ops.multiply(x, f32(2)), x)


def halved_where_any_row_is_large(x: Any) -> Any:
    large = ops.greater(ops.reduce_max(x, i64([0, 1]), keep_dims=True), f32(50))
    return ops.select(large, ops.multiply(x, f32(0.5)), x)


def with_a_trace_of_the_mean(x: Any) -> Any:
    return ops.add(x, ops.multiply(ops.reduce_mean(x, i64([0]), keep_dims=True), f32(1e-20)))


def noisy(x: Any) -> Any:
    return ops.add(x, ops.random_uniform(ops.shape_of(x), f32(0), f32(1), "f32"))


FOUND_BY: list[tuple[str, str, Build]] = [
    *(("rows alone", name, build) for name, build in ROWS_ALONE.items()),
    # Too little to be told from rounding, but not by a row that moves.
    ("row position", "a little of the place", lambda x: ops.add(x, ops.multiply(places(x), f32(2e-4)))),
    ("padding", "an empty row", doubled_where_any_row_is_empty),
    ("other rows", "a large row", halved_where_any_row_is_large),
    ("other rows", "a trace", with_a_trace_of_the_mean),
    ("repeatability", "noise", noisy),
    ("distinct rows", "a constant", lambda x: ops.add(ops.multiply(x, f32(0)), f32(3))),
    ("output shapes", "rows in one", lambda x: ops.reshape(x, i64([1, -1]), False)),
    ("output shapes", "pairs of rows", lambda x: ops.matmul(x, x, False, True)),
    ("output shapes", "one row of all", lambda x: ops.reduce_max(x, i64([0]), keep_dims=True)),
    ("output shapes", "values", lambda x: ops.transpose(ops.non_zero(x, "i64"), i64([1, 0]))),
    ("reshape", "a hard-coded shape", lambda x: ops.add(ops.reshape(x, i64([1, 8]), False), f32(1))),
]  # fmt: skip


def static(build: Build, rows: int, width: int = 8) -> ov.Model:
    x = ops.parameter([rows, width], np.float32, name="x")
    x.output(0).set_names({"x"})
    y = build(x)
    y = getattr(y, "node", y) if not hasattr(y, "output") else y
    result = ops.result(y)
    result.input(0).get_source_output().set_names({"y"})
    return ov.Model([result], [x], "m")


@pytest.mark.parametrize(("check", "name", "build"), FOUND_BY, ids=[f"{check}: {name}" for check, name, _ in FOUND_BY])
def test_rows_that_depend_on_each_other_are_found_out_and_run_apart(
    load: Callable[..., ovengine.Model], check: str, name: str, build: Build
) -> None:
    source = static(build, 1)
    model = load(source)
    assert axis(model).failed == check
    assert not axis(model).batchable
    assert f"check {check!r} failed: " in str(model.plan)
    assert model.plan.ladder == (1,)
    if check in ("repeatability", "output shapes"):
        return
    x = np.random.default_rng(1).standard_normal((6, 8)).astype(np.float32)
    run = reference(source)
    futures = [model.submit(row[None]) for row in x]
    for row, future in zip(x, futures, strict=True):
        np.testing.assert_allclose(future.result()["y"], run(row[None])["y"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["softmax", "cumulative sum", "place", "roll"])
def test_where_the_batch_is_dynamic_already_the_proof_comes_before_the_first_request(
    load: Callable[..., ovengine.Model], engine: ovengine.Engine, proofs: list[str], tmp_path: Path, name: str
) -> None:
    source = static(ROWS_ALONE[name], -1)
    with engine.load(source, config=EXACT, cache_dir=tmp_path) as model:
        assert proofs == ["prove"]
        assert axis(model).failed == "rows alone"
        assert model.wait_ready(0)
        x = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)
        run = reference(source)
        futures = [model.submit(x[:n]) for n in (1, 2, 3)]
        for n, future in zip((1, 2, 3), futures, strict=True):  # the rows of one request are meant to be seen together
            np.testing.assert_allclose(future.result()["y"], run(x[:n])["y"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["face_detector", "face_detector_back"])
def test_the_face_detector_is_found_out_by_its_shapes(
    load: Callable[..., ovengine.Model], real_model: Callable[[str], Path], name: str
) -> None:
    model = load(real_model(name))
    assert axis(model).failed == "output shapes"
    assert "check 'output shapes' failed: output 'regressors' does not keep the batch axis: " in str(model.plan)


def test_a_model_with_state_is_named_so(load: Callable[..., ovengine.Model]) -> None:
    x = ops.parameter([1, 4], np.float32, name="x")
    total = ops.add(x, ops.read_value(f32(np.zeros((1, 4))), "sum"))
    assert axis(load(ov.Model([ops.result(total)], [ops.assign(total, "sum")], [x], "sum"))).failed == "state"


# -- rows that do not: no false alarm ---------------------------------------------------------------------------------

RNG = np.random.default_rng(7)


def weights(*shape: int) -> Any:
    return f32(RNG.standard_normal(shape) / np.sqrt(shape[-1]))


def lstm(x: Any) -> Any:
    state = ops.broadcast(f32(0), ops.concat([ops.unsqueeze(row_count(x), i64(0)), i64([1, 8])], 0))
    lengths = ops.broadcast(i64(5), ops.unsqueeze(row_count(x), i64(0)))
    found = ops.lstm_sequence(
        x, state, state, lengths, weights(1, 32, 8), weights(1, 32, 8), weights(1, 32), 8, "forward"
    )
    return ops.relu(found.output(0))


def own_attention(x: Any) -> Any:
    return ops.matmul(ops.softmax(ops.matmul(x, x, False, True), 2), x, False, False)


def classifier(x: Any) -> Any:
    maps = ops.relu(ops.convolution(x, weights(8, 3, 3, 3), [1, 1], [1, 1], [1, 1], [1, 1]))
    pooled = ops.reduce_mean(ops.max_pool(maps, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2]).output(0), i64([2, 3]))
    return ops.softmax(ops.matmul(pooled, weights(8, 5), False, False), 1)


def enlarged(x: Any) -> Any:
    return ops.interpolate(x, i64([8, 8]), "linear", "sizes", axes=i64([2, 3]))


def channels_apart(x: Any) -> Any:
    return ops.group_convolution(x, weights(4, 1, 1, 3, 3), [1, 1], [0, 0], [0, 0], [1, 1])


ROW_WISE: dict[str, tuple[tuple[int, ...], Any, Build]] = {
    "elementwise": ((6,), np.float32, lambda x: ops.tanh(ops.add(ops.multiply(x, f32(2)), f32(1)))),
    "matmul": ((6,), np.float32, lambda x: ops.matmul(x, weights(6, 4), False, False)),
    "softmax": ((6,), np.float32, lambda x: ops.softmax(x, 1)),
    "cumulative sum": ((6,), np.float32, lambda x: ops.cum_sum(x, i64(1))),
    "topk": ((6,), np.float32, lambda x: ops.relu(ops.topk(x, i64(3), 1, "max", "value").output(0))),
    "argmax": ((6,), np.float32, lambda x: ops.abs(ops.topk(x, i64(1), 1, "max", "value").output(1))),
    "layer norm": ((3, 6), np.float32, lambda x: ops.mvn(x, i64([2]), True, 1e-6, "inside_sqrt")),
    "one hot": ((3,), np.int64, lambda x: ops.one_hot(x, i64(4), f32(1), f32(0), -1)),
    "embedding": ((5,), np.int64, lambda x: ops.gather(weights(200, 6), x, i64(0))),
    "reduce": ((3, 6), np.float32, lambda x: ops.reduce_max(x, i64([1]), keep_dims=False)),
    "split and concat": ((6,), np.float32, lambda x: ops.concat(list(reversed(ops.split(x, i64(1), 3).outputs())), 1)),
    "pad": ((6,), np.float32, lambda x: ops.pad(x, i64([0, 1]), i64([0, 2]), "edge")),
    "reshape": ((6, 2), np.float32, lambda x: ops.reshape(x, i64([0, 4, 3]), True)),
    "transpose": ((3, 6), np.float32, lambda x: ops.transpose(x, i64([0, 2, 1]))),
    "gather elements": ((6,), np.float32, lambda x: ops.gather(x, i64([5, 0, 0]), i64(1))),
    "lstm": ((5, 8), np.float32, lstm),
    "attention": ((5, 8), np.float32, own_attention),
    "classifier": ((3, 12, 12), np.float32, classifier),
    "interpolate": ((3, 4, 4), np.float32, enlarged),
    "group convolution": ((4, 9, 9), np.float32, channels_apart),
    "bytes": ((6,), np.uint8, lambda x: ops.multiply(ops.convert(x, "f32"), f32(0.5))),
    "flags": ((6,), np.bool_, lambda x: ops.logical_not(x)),
    "half": ((6,), np.float16, lambda x: ops.multiply(x, ops.constant(np.float16(3)))),
}  # fmt: skip


@pytest.mark.parametrize("name", ROW_WISE)
def test_rows_that_do_not_are_batched_and_equal_plain_openvino(load: Callable[..., ovengine.Model], name: str) -> None:
    shape, dtype, build = ROW_WISE[name]
    source = network({"x": (shape, dtype)}, lambda x: {"y": build(x)})
    model = load(source)
    assert str(axis(model)).startswith("inputs and outputs keep a leading batch dimension")
    assert "4 rows together equal rows alone" in str(model.plan)
    assert model.plan.ladder == (1, 4)
    rng = np.random.default_rng(1)
    drawn = rng.standard_normal((12, *shape)) if np.dtype(dtype).kind == "f" else rng.integers(0, 2, (12, *shape))
    x: Array = drawn.astype(dtype)
    expected = np.concatenate([reference(source)(row[None])["y"] for row in x])

    def client(first: int) -> None:
        futures = [(row, model.submit(x[row])) for row in range(first, 12, 3)]
        for row, future in futures:
            np.testing.assert_allclose(future.result()["y"], expected[row], rtol=1e-4, atol=1e-5)

    in_threads(each(client, range(3)))
    np.testing.assert_allclose(model(x)["y"], expected, rtol=1e-4, atol=1e-5)


# -- along another axis than the first guess --------------------------------------------------------------------------


def test_another_axis_is_tried_when_the_first_guess_fails_its_proof(load: Callable[..., ovengine.Model]) -> None:
    source = static(ROWS_ALONE["cumulative sum"], 4, 4)  # columns are what does not depend on each other
    model = load(source)
    assert model.plan.ladder == (1, 4)
    assert axis(model).inputs == axis(model).outputs == (1,)
    assert "with input axes 0 instead, check 'rows alone' failed: " in str(model.plan)
    x = np.random.default_rng(1).standard_normal((4, 9)).astype(np.float32)
    np.testing.assert_allclose(model(x)["y"], np.cumsum(x, 0), rtol=1e-5, atol=1e-6)


def test_rows_that_are_served_already_are_put_together_along_another_axis(load: Callable[..., ovengine.Model]) -> None:
    x = ops.parameter([1, 1, 8], np.float32, name="x")
    y = ops.cum_sum(ops.multiply(x, f32(2)), i64(0))  # of a sequence: [time, row, 8]
    y.output(0).set_names({"y"})
    model = load(ov.Model([ops.result(y)], [x], "m"))
    assert model.plan.ladder == (1, 4)
    assert "batch axis of x 1, y 1" in str(model.plan)
    assert "with input axes 0 instead, check 'rows alone' failed: " in str(model.plan)
    rows = np.random.default_rng(1).standard_normal((6, 1, 8)).astype(np.float32)
    assert model.inputs[0].shape == (-1, 1, 8)  # as it was while no rows were put together
    np.testing.assert_array_equal(model(rows)["y"], 2 * rows)
    futures = [model.submit(row[None]) for row in rows]
    for row, future in zip(rows, futures, strict=True):
        np.testing.assert_array_equal(future.result()["y"], 2 * row[None])


# -- larger sizes -----------------------------------------------------------------------------------------------------


def from_five_rows(build: Build) -> Build:
    return lambda x: ops.select(ops.greater(row_count(x), i64(4)), build(x), x)


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize(
    ("check", "build"),
    [
        ("rows alone", ROWS_ALONE["roll"]),
        ("rows alone", lambda x: ops.multiply(x, f32(1.5))),
        ("padding", doubled_where_any_row_is_empty),
        ("other rows", with_a_trace_of_the_mean),
    ],
    ids=["roll", "another factor", "padding", "trace"],
)
def test_the_ladder_is_cut_at_the_first_size_that_fails(
    load: Callable[..., ovengine.Model], check: str, build: Build, precision: str
) -> None:
    config = {"INFERENCE_PRECISION_HINT": precision}
    model = load(
        static(from_five_rows(build), 1), batch_sizes=[1, 2, 4, 8, 16], max_batch_size=None, batcher=None, config=config
    )
    assert model.plan.ladder == tuple(model.plan.batch.cost_us) == (1, 2, 4)
    assert axis(model).batchable
    assert f"ladder: up to 4 check {check!r} failed at 8: " in " ".join(str(model.plan).split())
    x = np.random.default_rng(1).standard_normal((16, 8)).astype(np.float32)
    np.testing.assert_allclose(model(x)["y"], x, rtol=1e-2, atol=1e-2)


# -- in a coarser precision -------------------------------------------------------------------------------------------

BF16 = {"INFERENCE_PRECISION_HINT": "bf16"}


def skip_without_bf16(precision: str) -> None:
    if precision != "bf16":
        pytest.skip("this CPU does not compute in bf16")


def test_the_precision_in_effect_is_proven_too(load: Callable[..., ovengine.Model]) -> None:
    model = load(mlp(*TINY_MLP), config=BF16)
    skip_without_bf16(*model.plan.precision)
    assert model.plan.ladder == (1, 4)


def test_answers_that_rounding_changes_much_are_no_leak(
    load: Callable[..., ovengine.Model], real_model: Callable[[str], Path]
) -> None:
    """Magika in bf16 is far off for random bytes, and its kernel for 16 rows errs otherwise than that for one."""
    model = load(real_model("magika"), config=BF16, max_batch_size=16)
    skip_without_bf16(*model.plan.precision)
    assert model.plan.ladder == (1, 16)


@pytest.mark.parametrize(
    "build",
    [*ROWS_ALONE.values(), doubled_where_any_row_is_empty, halved_where_any_row_is_large, with_a_trace_of_the_mean],
    ids=[*ROWS_ALONE, "an empty row", "a large row", "a trace"],
)
def test_rows_that_depend_on_each_other_are_found_out_in_bf16_alone(build: Build) -> None:
    single, batched = (compiled(static(build, 1), rows, BF16) for rows in (1, 4))
    skip_without_bf16(single.property("INFERENCE_PRECISION_HINT"))
    proof = _proof.prove(single, batched, ANY, "bf16", compiled(static(build, 1), 1))
    assert proof.failed in [name for name, _ in _proof.CHECKS]


def test_what_does_not_show_in_bf16_shows_in_f32(load: Callable[..., ovengine.Model]) -> None:
    (build,) = (build for check, _, build in FOUND_BY if check == "row position")
    assert axis(load(static(build, 1), config=BF16)).failed == "row position"


EXACTLY = np.array([[1.0, 2.0], [3.0, np.inf]], np.float32)


@pytest.mark.parametrize(
    ("error_alone", "error", "good"),
    [(0.0, 0.0, True), (0.0, 0.02, True), (0.0, 0.1, False), (0.5, 1.4, True), (0.5, 1.7, False), (0.5, np.nan, False)],
)
def test_rows_together_are_about_as_accurate_as_rows_alone(error_alone: float, error: float, good: bool) -> None:
    alone, found = EXACTLY.copy(), EXACTLY.copy()
    alone[1, 0] += error_alone
    found[0, 1] -= error
    assert _proof._as_accurate(found, alone, EXACTLY, 2**-6) == good
    found[1, 1] = 5.0
    assert not _proof._as_accurate(found, alone, EXACTLY, 2**-6)


def test_classes_together_are_about_as_often_right_as_classes_alone() -> None:
    exact = np.arange(8)
    assert _proof._as_accurate(exact, exact, exact, 0.1)
    assert not _proof._as_accurate(np.append(exact[:-1], 0), exact, exact, 0.1)
    assert _proof._as_accurate(np.append(exact[:-2], [0, 0]), np.append(9, exact[1:]), exact, 0.1)


# -- prove() on its own -----------------------------------------------------------------------------------------------


def compiled(source: ov.Model, rows: int, properties: dict[str, str] = EXACT) -> Compiled:
    runtime = Runtime()
    graph = runtime.adopt(source)
    shape = graph.inputs[0].shape
    assert shape is not None
    return runtime.compile(graph.reshaped({0: (rows, *shape[1:])}), "CPU", properties)


def test_a_size_is_proven_against_a_smaller_one() -> None:
    small, large = (compiled(mlp(*TINY_MLP), rows) for rows in (4, 10))
    assert _proof.prove_size(small, large, ANY).holds
    assert _proof.prove(small, large, ANY).holds
    other = compiled(mlp(*TINY_MLP, seed=1), 10)
    assert _proof.prove_size(small, other, ANY).failed == "rows alone"


def test_a_model_that_fails_on_made_up_rows_is_not_proven() -> None:
    shapes = [("x", (4, 3), np.float32)], [("y", (4, 3), np.float32)]
    single = fake_compiled([("x", (1, 3), np.float32)], [("y", (1, 3), np.float32)])
    assert _proof.prove(single, fake_compiled(*shapes), ANY).holds
    proof = _proof.prove(single, fake_compiled(*shapes, fail_every=1), ANY)
    assert proof.failed == _proof.TRIAL_RUN
    assert "trial inference failed" in proof.why


# -- once for each model, device and release --------------------------------------------------------------------------


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The trials that are made, in order."""
    made: list[str] = []
    for name in ("prove", "prove_size"):
        original = getattr(_proof, name)

        def counted(*args: Any, name: str = name, original: Any = original) -> Any:
            made.append(name)
            return original(*args)

        monkeypatch.setattr(_proof, name, counted)
    return made


def test_the_outcome_is_paid_for_once(load: Callable[..., ovengine.Model], proofs: list[str]) -> None:
    first = load(mlp(*TINY_MLP), max_batch_size=8)
    assert proofs == ["prove", "prove_size"]
    assert str(axis(load(mlp(*TINY_MLP), max_batch_size=8))) == str(axis(first))
    load(mlp(*TINY_MLP), max_batch_size=8, config={**EXACT, "NUM_STREAMS": 1})
    assert proofs == ["prove", "prove_size"]
    load(mlp(*TINY_MLP), max_batch_size=6)
    assert proofs == ["prove", "prove_size", "prove_size"]  # another size only


def test_a_refusal_is_kept_as_well(load: Callable[..., ovengine.Model], proofs: list[str]) -> None:
    first, second = (axis(load(static(ROWS_ALONE["softmax"], 1))) for _ in range(2))
    assert first == second
    assert first.failed == "rows alone"
    assert proofs == ["prove"]


def test_whatever_may_change_it_is_proven_anew(
    load: Callable[..., ovengine.Model], proofs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load(mlp(*TINY_MLP))
    for arguments in ({"source": mlp(*TINY_MLP, seed=1)}, {"source": mlp(16, 16, 5)}):
        load(**arguments)
    load(mlp(*TINY_MLP), config={**EXACT, "EXECUTION_MODE_HINT": "ACCURACY"})
    assert proofs == ["prove"] * 4
    monkeypatch.setattr("ovengine._compiler.openvino_version", "another release")
    load(mlp(*TINY_MLP))
    monkeypatch.setattr(_proof, "VERSION", 0)
    load(mlp(*TINY_MLP))
    assert proofs == ["prove"] * 6


def test_verify_always_and_off(load: Callable[..., ovengine.Model], proofs: list[str]) -> None:
    load(mlp(*TINY_MLP), verify="always")
    load(mlp(*TINY_MLP), verify="always")
    assert proofs == ["prove"] * 2
    load(mlp(*TINY_MLP))
    assert proofs == ["prove"] * 2  # what was proven always is known now
    model = load(mlp(*TINY_MLP, seed=3), verify="off")
    assert proofs == ["prove"] * 2
    assert model.plan.ladder == (1, 4)
    assert "not verified (verify='off')" in str(model.plan)


def test_without_a_cache_each_load_proves(
    load: Callable[..., ovengine.Model], proofs: list[str], tmp_path: Path
) -> None:
    for _ in range(2):
        load(mlp(*TINY_MLP), cache_dir=None)
    assert proofs == ["prove"] * 2
    assert not (tmp_path / "cache").exists()


def test_a_corrupt_outcome_is_a_warning_and_proven_anew(
    load: Callable[..., ovengine.Model], proofs: list[str], tmp_path: Path
) -> None:
    load(mlp(*TINY_MLP))
    (path,) = (tmp_path / "cache" / "proof").glob("*.json")
    entry = json.loads(path.read_text())
    for value in ({"failed": 3, "why": "x"}, {"why": "x"}, None):
        path.write_text(json.dumps({**entry, "value": value}))
        with pytest.warns(CacheWarning, match=path.name):
            assert load(mlp(*TINY_MLP)).plan.ladder == (1, 4)
    assert proofs == ["prove"] * 4
    assert json.loads(path.read_text()) == entry


def test_equal_models_have_equal_content_however_they_came_to_be(tmp_path: Path) -> None:
    runtime = Runtime()
    contents = {runtime.adopt(mlp(*TINY_MLP)).content() for _ in range(2)}
    assert len(contents) == 1
    ov.save_model(mlp(*TINY_MLP), tmp_path / "mlp.xml", compress_to_fp16=False)
    assert len({runtime.read_model(str(tmp_path / "mlp.xml")).content() for _ in range(2)}) == 1
    others = [mlp(*TINY_MLP, seed=1), mlp(*TINY_MLP, rows=1), mlp(16, 16, 4, 4)]
    assert len(contents | {runtime.adopt(other).content() for other in others}) == 4
    assert isinstance(_core.openvino_version, str)
