"""Files and objects that a model was loaded from may change: its answers stay those of the model that was loaded."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

import ovengine
from models import mlp, save
from ovengine import _memory
from ovengine._core import Runtime
from ovengine.errors import ModelError
from support import EXACT, PATIENCE, Array, ready, reference

Change = Callable[[Path], None]


def embedding(seed: int, ids: int, table: Array | None = None, shared: bool = False) -> ov.Model:
    """A table that the compiled model reads as it runs; `(rows, ids)` i32 to `(rows, ids, 64)`."""
    if table is None:
        table = np.random.default_rng(seed).standard_normal((1000, 64)).astype(np.float32)
    x = ops.parameter([-1, ids], np.int32, name="x")
    y = ops.gather(ops.constant(table, shared_memory=shared), x, ops.constant(np.array(0)))
    return ov.Model([ops.result(y)], [x], "embedding")


def choosing(seed: int) -> ov.Model:
    """Weights in the bodies of an If: `(rows, 8)` f32 to `(rows, 64)`, by whether the sum is positive."""
    weights = np.random.default_rng(seed).standard_normal((2, 8, 64)).astype(np.float32)
    x = ops.parameter([-1, 8], np.float32, name="x")
    bodies, inputs = [], []
    for each in weights:
        inner = ops.parameter([-1, 8], np.float32)
        inputs.append(inner)
        bodies.append(ov.Model([ops.result(ops.matmul(inner, ops.constant(each), False, False))], [inner], "body"))
    total = ops.reduce_sum(x, ops.constant(np.array([0, 1])), keep_dims=False)
    choice = ops.if_op(ops.greater(total, ops.constant(np.float32(0))).output(0))
    choice.set_then_body(bodies[0])
    choice.set_else_body(bodies[1])
    choice.set_input(x.output(0), inputs[0], inputs[1])
    y = choice.set_output(bodies[0].results[0], bodies[1].results[0])
    return ov.Model([ops.result(y)], [x], "choosing")


def numbers(rows: int, width: int) -> Array:
    return np.random.default_rng(3).standard_normal((rows, width)).astype(np.float32)


def ids(rows: int, width: int) -> Array:
    return np.random.default_rng(3).integers(0, 1000, (rows, width), dtype=np.int32)


SOURCES: dict[str, tuple[Callable[[int], ov.Model], Array]] = {
    "batched": (lambda seed: mlp(64, 128, 8, seed=seed), numbers(20, 64)),
    "one row": (lambda seed: mlp(64, 128, 8, rows=1, seed=seed), numbers(20, 64)),
    "a table": (lambda seed: embedding(seed, 4), ids(20, 4)),
    "dynamic": (lambda seed: embedding(seed, -1), ids(20, 6)),
    "in bodies": (choosing, numbers(1, 8)),
}


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest) -> tuple[Callable[[int], ov.Model], Array]:
    return SOURCES[request.param]


def check(model: ovengine.Model, x: Array, right: ov.Model) -> None:
    """At once, and when all that is compiled later is."""
    wanted = np.concatenate([next(iter(reference(right)(row[None]).values())) for row in x])
    for _ in range(12):  # a shape that comes often gets a model of its own
        found = np.concatenate([np.asarray(model(row[None])) for row in x])
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    ready(model)
    for _ in range(2):
        np.testing.assert_allclose(np.asarray(model.infer_rows(x)), wanted, rtol=1e-4, atol=1e-5)
        futures = [model.submit(row[None]) for row in x]
        found = np.concatenate([np.asarray(future.result(PATIENCE)) for future in futures])
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


# -- files ------------------------------------------------------------------------------------------------------------


def overwrite(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(np.full(size // 4, 1e3, np.float32).tobytes())


def truncate(path: Path) -> None:
    os.truncate(path, 0)


def remove(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    other = path.with_suffix(".new")
    shutil.copyfile(path, other)
    overwrite(other)
    other.replace(path)


@pytest.mark.parametrize("change", [overwrite, truncate, remove, replace])
def test_a_file_of_weights_that_changes_after_the_load(
    tmp_path: Path, source: tuple[Callable[[int], ov.Model], Array], change: Change
) -> None:
    build, x = source
    path = save(build(1), tmp_path / "m.xml")
    with ovengine.load(path, config=EXACT, max_batch_size=4) as model:
        change(path.with_suffix(".bin"))
        check(model, x, build(1))


@pytest.mark.parametrize("change", [overwrite, truncate])
def test_a_file_that_a_model_of_the_callers_was_read_from(
    tmp_path: Path, source: tuple[Callable[[int], ov.Model], Array], change: Change
) -> None:
    build, x = source
    path = save(build(1), tmp_path / "m.xml")
    read = ov.Core().read_model(path)
    with ovengine.load(read, config=EXACT, max_batch_size=4) as model:
        change(path.with_suffix(".bin"))
        check(model, x, build(1))


@pytest.mark.parametrize("change", [overwrite, truncate])
def test_external_data_of_an_onnx_model(tmp_path: Path, change: Change) -> None:
    onnx = pytest.importorskip("onnx")
    table = np.random.default_rng(1).standard_normal((1000, 64)).astype(np.float32)
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Gather", ["table", "x"], ["y"])],
        "g",
        [info("x", onnx.TensorProto.INT32, ["n", 4])],
        [info("y", onnx.TensorProto.FLOAT, ["n", 4, 64])],
        [onnx.numpy_helper.from_array(table, "table")],
    )
    path = tmp_path / "m.onnx"
    opset = [onnx.helper.make_opsetid("", 17)]
    made = onnx.helper.make_model(graph, opset_imports=opset, ir_version=9)
    onnx.save(made, path, save_as_external_data=True, location="weights.data", size_threshold=0)
    with ovengine.load(path, config=EXACT, max_batch_size=4) as model:
        change(tmp_path / "weights.data")
        check(model, ids(20, 4), embedding(0, 4, table))


@pytest.fixture
def mapped(tmp_path: Path) -> tuple[Any, Path]:
    """A graph whose weights lie in a file, and that file."""
    path = save(mlp(2048, 2048, 8), tmp_path / "m.xml")
    return Runtime().read_model(str(path)), path.with_suffix(".bin")


def test_weights_are_copied_once(mapped: tuple[Any, Path]) -> None:
    graph, _ = mapped
    assert graph.borrowed_bytes == graph.constant_bytes > 2048 * 2048 * 4
    own = graph.with_own_constants()
    assert own.borrowed_bytes == 0
    assert own.content() == graph.content()
    assert own.reshaped({0: [4, 2048]}).borrowed_bytes == 0


def test_a_file_that_is_truncated_during_the_load_is_an_error(mapped: tuple[Any, Path]) -> None:
    graph, file = mapped
    os.truncate(file, 100)
    with pytest.raises(ModelError, match="became shorter while it was read; load it again"):
        graph.with_own_constants()


def test_a_file_that_is_written_during_the_load_is_an_error(mapped: tuple[Any, Path]) -> None:
    graph, file = mapped
    over = threading.Event()

    def write() -> None:
        moment = 0
        while not over.is_set():
            os.utime(file, ns=(moment, moment))
            moment += 1

    def read() -> None:
        for _ in range(1000):  # it may be written between two of them
            graph.with_own_constants()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with pytest.raises(ModelError, match=r"m\.bin was changed while it was read; load it again"):
            read()
    finally:
        over.set()
        writer.join()


def test_weights_stay_in_their_file_where_there_is_no_room_for_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(mlp(64, 128, 8), tmp_path / "m.xml")
    monkeypatch.setattr(_memory, "budget_bytes", lambda limit: 10_000)
    with ovengine.load(path, config=EXACT, batcher="none") as model:
        assert "weights: shared with their file or owner" in str(model.plan)
        np.testing.assert_allclose(model(numbers(2, 64))["y"], reference(mlp(64, 128, 8))(numbers(2, 64))["y"], 1e-4)


# -- models in memory -------------------------------------------------------------------------------------------------


def preprocess(model: ov.Model) -> None:
    steps = ov.preprocess.PrePostProcessor(model)
    steps.input(0).preprocess().scale(2.0)
    steps.build()


def cut(model: ov.Model) -> None:
    model.reshape({0: [2, *model.input(0).partial_shape[1:]]})


def rewire(model: ov.Model) -> None:
    result = model.get_results()[0]
    doubled = ops.add(result.input_value(0), result.input_value(0))
    result.input(0).replace_source_output(doubled.output(0))


@pytest.mark.parametrize("change", [preprocess, cut, rewire])
def test_a_model_that_its_owner_changes_after_the_load(change: Callable[[ov.Model], None]) -> None:
    for _ in range(2):  # the second time the proof comes from the cache
        source = mlp(64, 128, 8, rows=1)
        with ovengine.load(source, config=EXACT, max_batch_size=4) as model:
            change(source)
            check(model, numbers(20, 64), mlp(64, 128, 8))


@pytest.mark.parametrize("width", [4, -1])
def test_an_array_that_a_constant_shares_with_its_owner(width: int) -> None:
    table = np.random.default_rng(1).standard_normal((1000, 64)).astype(np.float32)
    with ovengine.load(
        embedding(0, width, before := table.copy(), shared=True), config=EXACT, max_batch_size=4
    ) as model:
        before[...] = 0
        check(model, ids(20, 4), embedding(0, 4, table))
