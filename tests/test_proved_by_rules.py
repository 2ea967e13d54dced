"""Loading where rules for operators show that rows are independent: no trial runs for that, and many inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

import ovengine
from ovengine import _batch_axis, _proof
from ovengine._compiler import Compiler
from ovengine._core import Runtime
from ovengine.plan import BatchAxis
from ovengine.testing import TINY_MLP, mlp
from support import EXACT, ready, reference

Load = Callable[..., ovengine.Model]


def i64(value: Any) -> Any:
    return ops.constant(np.array(value, np.int64))


@pytest.fixture
def load() -> Iterator[Load]:
    """`Engine.load` in f32 at sizes 1 and 4 without a cache."""
    with ovengine.Engine(plugins=ovengine.Plugins(entry_points=False, disabled=())) as engine:

        def call(source: Any, **arguments: Any) -> ovengine.Model:
            arguments = {"config": EXACT, "batch_sizes": [1, 4], "cache_dir": None, **arguments}
            return ready(engine.load(source, **arguments))

        yield call


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What loads do that takes long, in order."""
    made: list[str] = []

    def count(where: Any, name: str) -> None:
        original = getattr(where, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            made.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(where, name, counted)

    for name in ("prove", "prove_size", "compare_kernels"):
        count(_proof, name)
    for name in ("_compile", "_for_trial"):
        count(Compiler, name)
    count(_batch_axis, "_with_rows")
    return made


def axis(model: ovengine.Model) -> BatchAxis:
    assert model.plan.axis is not None
    return model.plan.axis


@pytest.mark.parametrize("rows", [1, -1])
def test_rows_are_put_together_without_a_trial(load: Load, steps: list[str], rows: int) -> None:
    source = mlp(*TINY_MLP, rows=rows)
    model = load(source)
    assert axis(model).proof == "rules"
    assert "by rules, no operator mixes rows" in str(model.plan)
    assert not {"prove", "prove_size", "_for_trial"} & set(steps)
    assert model.plan.ladder == (1, 4)
    x = np.random.default_rng(0).standard_normal((9, TINY_MLP[0])).astype(np.float32)
    run = reference(source)
    futures = [model.submit(row[None]) for row in x]
    for row, future in zip(x, futures, strict=True):
        np.testing.assert_allclose(future.result()["y"], run(row[None])["y"], rtol=1e-5, atol=1e-6)


def test_trial_runs_are_made_where_no_rule_holds_and_where_they_are_asked_for(load: Load, steps: list[str]) -> None:
    x = ops.parameter([-1, 4], np.float32, name="x")
    rolled_by_none = ops.roll(x, i64([0]), i64([0]))  # which has no rule
    model = load(ov.Model([ops.result(rolled_by_none)], [x], "m"))
    assert (axis(model).batchable, axis(model).proof) == (True, "trial runs")
    assert "prove" in steps
    steps.clear()
    model = load(mlp(*TINY_MLP), verify="always")
    assert (axis(model).batchable, axis(model).proof) == (True, "trial runs")
    assert "prove" in steps
    model = load(ov.Model([ops.result(ops.softmax(x, 0))], [x], "m"))
    assert (axis(model).batchable, axis(model).proof) == (False, None)


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_kernels_of_larger_sizes_are_compared_all_the_same(
    load: Load, steps: list[str], monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    config = {"INFERENCE_PRECISION_HINT": precision}
    load(mlp(*TINY_MLP), batch_sizes=[1, 2, 4, 8], config=config)
    assert steps.count("compare_kernels") == 3
    compare = _proof.compare_kernels

    def fail_at_8(known: Any, larger: Any, *others: Any) -> _proof.Proof:
        wrong = larger.outputs[0].shape[0] == 8
        return _proof.Proof("rows alone", "not here") if wrong else compare(known, larger, *others)

    monkeypatch.setattr(_proof, "compare_kernels", fail_at_8)
    model = load(mlp(*TINY_MLP), batch_sizes=[1, 2, 4, 8], config=config)
    assert model.plan.ladder == (1, 2, 4)
    assert "check 'rows alone' failed at 8: not here" in str(model.plan)
    assert axis(model).proof == "rules"


def test_outputs_that_are_the_same_for_all_rows_need_no_trial_to_tell_them_apart(load: Load) -> None:
    x = ops.parameter([-1, 4], np.float32, name="x")
    constant = ops.add(ops.multiply(x, ops.constant(np.float32(0))), ops.constant(np.float32(3)))
    model = load(ov.Model([ops.result(constant)], [x], "m"))
    assert model.plan.ladder == (1, 4)
    np.testing.assert_array_equal(model(np.ones((9, 4), np.float32))[0], np.full((9, 4), 3))


# -- many inputs ------------------------------------------------------------------------------------------------------


def chain(count: int, rows: int) -> ov.Model:
    """One output of all inputs."""
    inputs = [ops.parameter([rows, 4], np.float32, name=f"x{i}") for i in range(count)]
    y = inputs[0]
    for x in inputs[1:]:
        y = ops.relu(ops.add(y, x))
    return ov.Model([ops.result(y)], inputs, "chain")


def decoder(count: int, rows: int) -> ov.Model:
    """Keys of earlier steps for each layer; each is given back with one more."""
    ids = ops.parameter([rows, 4], np.float32, name="ids")
    past = [ops.parameter([rows, 2, 3, 4], np.float32, name=f"past{i}") for i in range(count - 1)]
    new = ops.unsqueeze(ids, i64([1, 2]))
    keys = [ops.concat([each, ops.add(ops.gather(each, i64([0]), i64(2)), new)], 2) for each in past]
    return ov.Model([ops.result(y) for y in (ops.relu(ids), *keys)], [ids, *past], "decoder")


@pytest.mark.parametrize("rows", [1, -1])
@pytest.mark.parametrize("build", [chain, decoder])
def test_a_load_takes_as_many_steps_for_300_inputs_as_for_3(
    steps: list[str], build: Callable[[int, int], ov.Model], rows: int
) -> None:
    taken = []
    for count in (3, 300):
        steps.clear()
        with ovengine.load(build(count, rows), config={**EXACT, "NUM_STREAMS": 1}, batch_sizes=[1], cache_dir=None):
            taken.append(list(steps))
    assert taken[0] == taken[1]
    assert len(taken[0]) <= 5


def test_axes_that_only_the_operators_tell_are_found_for_many_inputs(steps: list[str]) -> None:
    # Of shapes that all differ and have the batch as the second of two dimensions of 1.
    count = 100
    inputs = [ops.parameter([1, 1, 2 + i], np.float32, name=f"x{i}") for i in range(count)]
    sums = [ops.reduce_sum(x, i64([0, 2]), keep_dims=False) for x in inputs]
    model = ov.Model([ops.result(y) for y in sums], inputs, "m")
    found = _batch_axis.examine(Runtime().adopt(model))
    assert found.inputs == (1,) * count
    assert found.outputs == (0,) * count
    assert found.proof == "rules"
    assert len(steps) <= 5


# -- agreement with trial runs ----------------------------------------------------------------------------------------

REAL: dict[str, dict[str | int, list[int | str]] | None] = {
    "face_landmarks": None,
    "magika": None,
    "silero_vad": None,
    "squeezenet": None,
    "text_direction": {"x": [-1, 3, 48, 192]},
}


@pytest.mark.parametrize("name", REAL)
def test_trial_runs_of_real_models_agree_with_the_rules(
    load: Load, real_model: Callable[[str], Path], name: str
) -> None:
    graph = Runtime().read_model(str(real_model(name)))
    shapes = REAL[name]
    if shapes is not None:
        graph = graph.reshaped(shapes)
    assert _batch_axis.examine(graph).proof == "rules"
    model = load(real_model(name), shapes=shapes, verify="always")
    assert (axis(model).batchable, axis(model).proof) == (True, "trial runs")


@pytest.mark.parametrize("name", ["face_detector", "face_detector_back", "iris_landmarks"])
def test_rules_do_not_prove_models_that_cannot_be_batched(real_model: Callable[[str], Path], name: str) -> None:
    graph = Runtime().read_model(str(real_model(name)))
    assert graph.prove_rows([[0, None] for _ in graph.inputs])[3] != ""
