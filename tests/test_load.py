"""Loading: every kind of source, what can be wrong with it, and the mode in which a model comes to run."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

import ovengine
from ovengine import _batch_axis, _proof
from ovengine._core import Runtime
from ovengine.errors import (
    ConfigError,
    EngineClosed,
    InputError,
    ModelError,
    ModelNotFoundError,
    PropertyError,
    UnknownDeviceError,
    UnknownPluginError,
)
from ovengine.testing import TINY_MLP, mlp

F32 = {"INFERENCE_PRECISION_HINT": "f32"}


@pytest.fixture(scope="module")
def engine() -> Iterator[ovengine.Engine]:
    with ovengine.Engine(plugins=ovengine.Plugins(entry_points=False, disabled=())) as made:
        yield made


@pytest.fixture
def load(engine: ovengine.Engine) -> Iterator[Callable[..., ovengine.Model]]:
    """`Engine.load` in f32 unless told otherwise; its models are closed after the test."""
    loaded: list[ovengine.Model] = []

    def call(source: Any, **arguments: Any) -> ovengine.Model:
        arguments.setdefault("config", F32)
        model = engine.load(source, **arguments)
        loaded.append(model)
        assert model.wait_ready(60)
        return model

    yield call
    for model in loaded:
        model.close(timeout=10)


def rows_of(tensor: ovengine.TensorInfo, n: int, seed: int = 0) -> np.ndarray[Any, Any]:
    assert tensor.shape is not None
    shape = [n if d < 0 else d for d in tensor.shape]
    return np.random.default_rng(seed).standard_normal(shape).astype(tensor.dtype)


def plain(model: ov.Model, *inputs: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    compiled = ov.Core().compile_model(model, "CPU", F32)
    result = compiled(list(inputs))
    return [np.array(result[i]) for i in range(len(compiled.outputs))]


def why(model: ovengine.Model, what: str) -> str:
    return next(decision.why for decision in model.plan.decisions if decision.what == what)


def chosen(model: ovengine.Model, what: str) -> str:
    return next(decision.choice for decision in model.plan.decisions if decision.what == what)


def parameter(name: str, shape: list[int], dtype: Any = np.float32) -> Any:
    node = ops.parameter(shape, dtype, name=name)
    node.output(0).set_names({name})
    return node


def model_of(outputs: dict[str, Any], inputs: list[Any], name: str = "m") -> ov.Model:
    results = []
    for output, node in outputs.items():
        node.output(0).set_names({output})
        results.append(ops.result(node))
    return ov.Model(results, inputs, name)


# -- sources ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX model `y = x @ w`, its batch dimension dynamic."""
    onnx = pytest.importorskip("onnx")
    weights = np.arange(12, dtype=np.float32).reshape(4, 3)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 4])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 3])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    path = tmp_path_factory.mktemp("onnx") / "product.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_an_ir_by_path(load: Callable[..., ovengine.Model], tiny_mlp: Path) -> None:
    for source in (tiny_mlp, str(tiny_mlp)):
        model = load(source)
        x = rows_of(model.inputs[0], 5)
        np.testing.assert_allclose(model(x)["y"], plain(ov.Core().read_model(tiny_mlp), x)[0], rtol=1e-5, atol=1e-5)
        assert chosen(model, "loader") == "ir"
        assert model.name == "tiny"


def test_onnx_by_path_and_as_bytes(load: Callable[..., ovengine.Model], onnx_file: Path) -> None:
    data = onnx_file.read_bytes()
    for source in (onnx_file, data, bytearray(data), memoryview(data)):
        model = load(source)
        assert chosen(model, "loader") == "onnx"
        np.testing.assert_allclose(model(np.ones((2, 4), np.float32))["y"], [[18, 22, 26]] * 2)


def test_an_openvino_model_is_taken_as_it_is_and_left_as_it_was(load: Callable[..., ovengine.Model]) -> None:
    source = mlp(*TINY_MLP)
    model = load(source)
    assert chosen(model, "loader") == "openvino"
    assert source.inputs[0].get_partial_shape() == ov.PartialShape([-1, 16])
    x = rows_of(model.inputs[0], 3)
    np.testing.assert_allclose(model(x)["y"], plain(source, x)[0], rtol=1e-5, atol=1e-5)
    del source  # the engine shares it with its owner
    np.testing.assert_allclose(model(x)["y"].shape, (3, 4))


def test_a_blob_by_path_and_as_bytes(load: Callable[..., ovengine.Model], tmp_path: Path) -> None:
    source = mlp(*TINY_MLP, rows=1)
    data = ov.Core().compile_model(source, "CPU", F32).export_model().getvalue()
    path = tmp_path / "mlp.blob"
    path.write_bytes(data)
    for blob in (path, data):
        model = load(blob)
        assert chosen(model, "loader") == "blob"
        assert model.plan.mode == "rows"
        x = rows_of(model.inputs[0], 3)
        expected = np.concatenate([plain(source, row[None])[0] for row in x])
        np.testing.assert_allclose(model(x)["y"], expected, rtol=1e-5, atol=1e-5)


def test_a_blob_from_openvinos_cache(load: Callable[..., ovengine.Model], tmp_path: Path) -> None:
    source = mlp(*TINY_MLP, rows=4)
    ov.Core().compile_model(source, "CPU", {**F32, "CACHE_DIR": str(tmp_path)})
    (blob,) = tmp_path.glob("*.blob")
    model = load(blob)
    assert model.plan.mode == "whole"  # compiled for four rows, and not to be tried at another size
    x = np.ones((4, 16), np.float32)
    np.testing.assert_allclose(model(x)["y"], plain(source, x)[0], rtol=1e-5, atol=1e-5)


def test_any_other_format_that_openvino_reads(
    load: Callable[..., ovengine.Model], real_model: Callable[[str], Path]
) -> None:
    model = load(real_model("iris_landmarks"))
    assert chosen(model, "loader") == "frontend"
    assert model.inputs[0].shape is not None
    assert model.inputs[0].shape[1:] == (64, 64, 3)


def test_a_model_that_the_caller_names(load: Callable[..., ovengine.Model], tiny_mlp: Path) -> None:
    model = load(tiny_mlp, name="front door")
    assert model.name == model.plan.name == "front door"
    assert "front door" in repr(model)


def test_openvinos_python_bindings_are_not_imported_to_load_a_file(tiny_mlp: Path) -> None:
    code = f"""
import sys, numpy as np, ovengine
with ovengine.load({str(tiny_mlp)!r}) as model:
    assert model(np.ones((2, 16), np.float32))["y"].shape == (2, 4)
assert "openvino" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# -- what can be wrong with a source ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["none.xml", "none.onnx", "none.blob", "none.tflite", "none", "none/none.xml", "a\0b"])
def test_a_missing_file(load: Callable[..., ovengine.Model], tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="no model file at"):
        load(str(tmp_path / name))


@pytest.mark.parametrize("suffix", ["xml", "onnx", "blob", "tflite", "pb", "dat"])
def test_an_empty_file(load: Callable[..., ovengine.Model], tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"empty.{suffix}"
    path.touch()
    with pytest.raises(ModelError, match="empty"):
        load(path)


@pytest.mark.parametrize("suffix", ["xml", "onnx", "blob", "tflite", "pb", "dat"])
def test_a_foreign_file(load: Callable[..., ovengine.Model], tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"foreign.{suffix}"
    path.write_bytes(b"%PDF-1.7 this is something else altogether\n" * 50)
    with pytest.raises(ModelError, match=r"foreign|blob"):
        load(path)


def test_a_foreign_xml_file(load: Callable[..., ovengine.Model], tmp_path: Path) -> None:
    path = tmp_path / "page.xml"
    path.write_text("<html><body>hello</body></html>")
    with pytest.raises(ModelError, match="not an OpenVINO IR"):
        load(path)


def test_truncated_files(
    load: Callable[..., ovengine.Model], tmp_path: Path, tiny_mlp: Path, real_model: Callable[[str], Path]
) -> None:
    sources = [tiny_mlp, real_model("silero_vad"), real_model("iris_landmarks")]
    blob = tmp_path / "whole.blob"
    blob.write_bytes(ov.Core().compile_model(mlp(*TINY_MLP, rows=1), "CPU").export_model().getvalue())
    for source in (*sources, blob):
        for share in (0.1, 0.5, 0.9):
            data = source.read_bytes()
            path = tmp_path / f"torn{source.suffix}"
            path.write_bytes(data[: int(len(data) * share)])
            with pytest.raises(ModelError):
                load(path)


def test_an_ir_without_or_with_torn_weights(
    load: Callable[..., ovengine.Model], tmp_path: Path, tiny_mlp: Path
) -> None:
    path = tmp_path / "tiny.xml"
    path.write_bytes(tiny_mlp.read_bytes())
    with pytest.raises(ModelNotFoundError, match=r"tiny\.bin"):
        load(path)
    weights = tiny_mlp.with_suffix(".bin").read_bytes()
    path.with_suffix(".bin").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ModelError):
        load(path)


def test_bytes_that_are_no_model(load: Callable[..., ovengine.Model]) -> None:
    with pytest.raises(ModelError, match="empty"):
        load(b"")
    with pytest.raises(ModelError):
        load(b"nonsense" * 100)
    with pytest.raises(ModelError):
        load(b"RR_UPCVO" + bytes(500))


@pytest.mark.parametrize("source", [None, 42, object(), ["model.onnx"]])
def test_something_that_is_no_source(load: Callable[..., ovengine.Model], source: object) -> None:
    with pytest.raises(ModelError, match=f"no loader takes a source of type {type(source).__name__}"):
        load(source)


def test_a_model_that_the_frontend_refuses(load: Callable[..., ovengine.Model], tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("NoSuchOperation", ["x"], ["y"], domain="nowhere")],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 4])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 4])],
    )
    data = onnx.helper.make_model(graph, ir_version=9).SerializeToString()
    with pytest.raises(ModelError, match="NoSuchOperation"):
        load(data)


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argument", ["loader", "device_selector", "batcher", "scheduler"])
def test_an_unknown_plugin_is_found_out_before_anything_is_compiled(
    load: Callable[..., ovengine.Model], tiny_mlp: Path, argument: str
) -> None:
    with pytest.raises(UnknownPluginError, match=r"unknown .* 'nonsense'.*; available: "):
        load(tiny_mlp, **{argument: "nonsense"})


def test_an_unknown_device(load: Callable[..., ovengine.Model], tiny_mlp: Path) -> None:
    with pytest.raises(UnknownDeviceError, match=r"available: .*CPU"):
        load(tiny_mlp, device="TPU")


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"NUM_STREAM": 1}, "NUM_STREAM'.*NUM_STREAMS"),
        ({"FULL_DEVICE_NAME": "x"}, "FULL_DEVICE_NAME.*can be read, but not set"),
        ({"INFERENCE_PRECISION_HINT": "f31"}, "INFERENCE_PRECISION_HINT='f31'"),
        ({"INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": "perhaps"}, "ENABLE_CPU_PINNING='perhaps'"),
        ({"NUM_STREAMS": "several"}, "NUM_STREAMS must be"),
    ],
)
def test_a_property_that_openvino_refuses_is_named(
    load: Callable[..., ovengine.Model], tiny_mlp: Path, config: dict[str, Any], text: str
) -> None:
    with pytest.raises(PropertyError, match=text):
        load(tiny_mlp, config=config)


def test_properties_reach_openvino(load: Callable[..., ovengine.Model], tiny_mlp: Path) -> None:
    assert load(tiny_mlp, config={"INFERENCE_PRECISION_HINT": "f32"}).plan.precision == ("f32",)


def test_the_hint_in_any_case_and_in_config(load: Callable[..., ovengine.Model], tiny_mlp: Path) -> None:
    assert len(load(tiny_mlp, hint="Latency").plan.lanes) == 1
    model = load(tiny_mlp, config={"PERFORMANCE_HINT": "LATENCY"})
    assert model.plan.hint is ovengine.Hint.LATENCY
    with pytest.raises(ConfigError, match="hint"):
        load(tiny_mlp, hint="fast")


def test_streams_decide_the_lanes(load: Callable[..., ovengine.Model], tiny_mlp: Path) -> None:
    assert len(load(tiny_mlp, config={"NUM_STREAMS": 3}).plan.lanes) == 3


@pytest.mark.parametrize("limit", [1, 2, 3, 10])
def test_max_batch_size_is_honoured_exactly(load: Callable[..., ovengine.Model], tiny_mlp: Path, limit: int) -> None:
    model = load(tiny_mlp, max_batch_size=limit)
    assert model.plan.ladder[-1] == limit  # this model gets cheaper per row at any size
    x = rows_of(model.inputs[0], 25)
    expected = plain(ov.Core().read_model(tiny_mlp), x)[0]
    np.testing.assert_allclose(model(x)["y"], expected, rtol=1e-4, atol=1e-5)


def test_the_batcher_fixed(load: Callable[..., ovengine.Model], tiny_mlp: Path) -> None:
    model = load(tiny_mlp, batcher="fixed", max_batch_size=6, max_queue_delay_us=500)
    assert model.plan.ladder == (1, 6)
    assert model.plan.batch.max_queue_delay_us == 500
    with pytest.raises(ConfigError, match="max_batch_size"):
        load(tiny_mlp, batcher="fixed")


def test_shapes_by_name_by_index_and_alone(
    load: Callable[..., ovengine.Model], real_model: Callable[[str], Path]
) -> None:
    path = real_model("text_direction")
    assert load(path).plan.mode == "dynamic"
    for shapes in ({"x": (-1, 3, 48, 192)}, {0: [1, 3, 48, 192]}, (-1, 3, 48, 192)):
        model = load(path, shapes=shapes, max_batch_size=4)
        assert model.plan.mode == "rows"
        assert model.inputs[0].shape == (-1, 3, 48, 192)


def test_shapes_that_do_not_fit(load: Callable[..., ovengine.Model], tiny_mlp: Path) -> None:
    with pytest.raises(InputError, match="no input 'z'; it has 'x'"):
        load(tiny_mlp, shapes={"z": (1, 16)})
    with pytest.raises(ModelError):
        load(tiny_mlp, shapes={"x": (1, 17)})


# -- modes: which rows may share an inference -------------------------------------------------------------------------


def test_a_static_batch_of_one_is_batched_when_rows_are_independent(load: Callable[..., ovengine.Model]) -> None:
    source = mlp(*TINY_MLP, rows=1)
    model = load(source)
    assert model.plan.mode == "rows"
    assert model.plan.ladder[-1] > 1
    x = rows_of(model.inputs[0], 40)
    expected = np.concatenate([plain(source, row[None])[0] for row in x])
    np.testing.assert_allclose(model(x)["y"], expected, rtol=1e-4, atol=1e-5)


def test_a_static_batch_of_five_is_batched_when_rows_are_independent(load: Callable[..., ovengine.Model]) -> None:
    model = load(mlp(*TINY_MLP, rows=5))
    assert model.plan.mode == "rows"
    assert model(rows_of(model.inputs[0], 3))["y"].shape == (3, 4)


def test_a_face_detector_that_folds_its_batch_axis_runs_row_by_row(
    load: Callable[..., ovengine.Model], real_model: Callable[[str], Path]
) -> None:
    path = real_model("face_detector")
    model = load(path)
    assert model.plan.mode == "rows"
    assert model.plan.ladder == (1,)
    assert "does not keep the batch axis" in why(model, "batch axis")
    x = rows_of(model.inputs[0], 3)
    source = ov.Core().read_model(path)
    for row, boxes in enumerate(model(x)["regressors"]):
        np.testing.assert_allclose(boxes, plain(source, x[row : row + 1])[0][0], rtol=1e-3, atol=1e-2)


def test_a_voice_detector_whose_state_has_another_batch_axis_runs_rows(
    load: Callable[..., ovengine.Model], real_model: Callable[[str], Path]
) -> None:
    model = load(real_model("silero_vad"))
    assert model.plan.mode == "rows"
    assert [tensor.shape for tensor in model.inputs] == [(-1, 576), (2, -1, 128)]
    assert [tensor.batch_axis for tensor in (*model.inputs, *model.outputs)] == [0, 1, 0, 1]
    assert "batch axis of input 0, state 1, output 0, stateN 1" in why(model, "batch axis")
    result = model({"input": np.zeros((1, 576), np.float32), "state": np.zeros((2, 1, 128), np.float32)})
    assert result[1].shape == (2, 1, 128)


def softmax_over_rows(rows: int) -> ov.Model:
    x = parameter("x", [rows, 8])
    return model_of({"y": ops.softmax(x, 0)}, [x])


def mean_of_batch_removed(rows: int) -> ov.Model:
    x = parameter("x", [rows, 8])
    mean = ops.reduce_mean(x, ops.constant(np.array([0])), keep_dims=True)
    return model_of({"y": ops.subtract(x, ops.multiply(mean, ops.constant(np.float32(1e-3))))}, [x])


def rows_reversed(rows: int) -> ov.Model:
    x = parameter("x", [rows, 8])
    reversed_rows = ops.strided_slice(x, [-1, 0], [-1000, 8], [-1, 1], [0, 1], [1, 1])
    return model_of({"y": ops.multiply(reversed_rows, ops.constant(np.float32(2)))}, [x])


def divided_by_row_count(rows: int) -> ov.Model:
    x = parameter("x", [rows, 8])
    count = ops.convert(ops.gather(ops.shape_of(x), ops.constant(0), ops.constant(0)), "f32")
    return model_of({"y": ops.divide(x, count)}, [x])


def position_added(rows: int) -> ov.Model:
    x = parameter("x", [rows, 8])
    count = ops.gather(ops.shape_of(x), ops.constant(0), ops.constant(0))
    positions = ops.range(ops.constant(np.int64(0)), count, ops.constant(np.int64(1)), "f32")
    return model_of({"y": ops.add(x, ops.unsqueeze(positions, ops.constant(1)))}, [x])


CROSS_ROW = [softmax_over_rows, mean_of_batch_removed, rows_reversed, divided_by_row_count, position_added]


@pytest.mark.parametrize("build", CROSS_ROW)
def test_rows_that_depend_on_each_other_are_never_put_together(
    load: Callable[..., ovengine.Model], build: Callable[[int], ov.Model]
) -> None:
    # Made for one row: a request of several is as many inferences.
    model = load(build(1))
    assert (model.plan.mode, model.plan.ladder) == ("rows", (1,))
    x = rows_of(model.inputs[0], 3)
    expected = np.concatenate([plain(build(1), row[None])[0] for row in x])
    np.testing.assert_allclose(model(x)["y"], expected, rtol=1e-4, atol=1e-6)
    # Made for any number of rows: a request is one inference over all of its rows, and no others.
    model = load(build(-1))
    assert model.plan.mode == "dynamic"
    futures = [model.submit(x + i) for i in range(5)]
    for i, future in enumerate(futures):
        np.testing.assert_allclose(future.result()["y"], plain(build(-1), x + i)[0], rtol=1e-4, atol=1e-6)
    # Made for exactly three rows.
    model = load(build(3))
    assert model.plan.mode == "whole"
    np.testing.assert_allclose(model(x)["y"], plain(build(3), x)[0], rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("without_rules")
def test_an_output_that_is_the_same_for_all_rows_proves_nothing(load: Callable[..., ovengine.Model]) -> None:
    x = parameter("x", [1, 8])
    zero = ops.multiply(x, ops.constant(np.float32(0)))
    model = load(model_of({"y": ops.add(zero, ops.constant(np.float32(3)))}, [x]))
    assert model.plan.ladder == (1,)


def test_a_parameter_of_the_model_beside_its_rows_is_shared_by_them(load: Callable[..., ovengine.Model]) -> None:
    x, factor = parameter("x", [-1, 8]), parameter("factor", [1])
    model = load(model_of({"y": ops.multiply(x, factor)}, [x, factor]))
    assert model.plan.mode == "rows"
    assert [tensor.batch_axis for tensor in model.inputs] == [0, None]
    rows = np.ones((3, 8), np.float32)
    np.testing.assert_allclose(model({"x": rows, "factor": np.full(1, 2, np.float32)})["y"], rows * 2)


def test_an_output_without_the_batch_axis_runs_whole(load: Callable[..., ovengine.Model]) -> None:
    x = parameter("x", [1, 8])
    total = ops.reduce_sum(x, ops.constant(np.array([0, 1])), keep_dims=False)
    model = load(model_of({"total": total}, [x]))
    assert model.plan.mode == "whole"
    assert "output 'total' [] has no batch dimension" in why(model, "batch axis")
    assert float(np.asarray(model(np.ones((1, 8), np.float32)))) == 8.0


def test_an_output_whose_shape_depends_on_values_runs_dynamic(load: Callable[..., ovengine.Model]) -> None:
    x = parameter("x", [1, 8])
    model = load(model_of({"where": ops.non_zero(x, "i64")}, [x]))
    assert model.plan.mode == "dynamic"
    array = np.zeros((1, 8), np.float32)
    array[0, [2, 5]] = 1
    np.testing.assert_array_equal(model(array)["where"], [[0, 0], [2, 5]])


def test_several_inputs_of_several_types(load: Callable[..., ovengine.Model]) -> None:
    x, index, flag = (
        parameter("x", [-1, 4]),
        parameter("index", [-1, 2], np.int64),
        parameter("flag", [-1, 1], np.bool_),
    )
    picked = ops.gather_elements(x, index, 1)
    y = ops.select(flag, picked, ops.negative(picked))
    model = load(model_of({"y": y}, [x, index, flag]))
    assert model.plan.mode == "rows"
    assert model.plan.ladder[-1] > 1
    rng = np.random.default_rng(1)
    values = rng.standard_normal((9, 4)).astype(np.float32)
    indices, flags = rng.integers(0, 4, (9, 2)), rng.integers(0, 2, (9, 1)).astype(bool)
    expected = np.where(flags, 1, -1) * np.take_along_axis(values, indices, 1)
    inputs: dict[str, Any] = {"x": values, "index": indices, "flag": flags}
    np.testing.assert_allclose(model(inputs)["y"], expected)


def test_a_model_with_state_starts_each_request_afresh(load: Callable[..., ovengine.Model]) -> None:
    x = parameter("x", [1, 4])
    start = ops.constant(np.zeros((1, 4), np.float32))
    before = ops.read_value(start, "sum")
    total = ops.add(x, before)
    assign = ops.assign(total, "sum")
    total.output(0).set_names({"y"})
    model = load(ov.Model([ops.result(total)], [assign], [x], "sum"))
    assert model.plan.mode == "whole"
    assert "state" in why(model, "batch axis")
    for _ in range(5):
        np.testing.assert_array_equal(model(np.ones((1, 4), np.float32))["y"], np.ones((1, 4)))


def test_a_dynamic_rank_is_an_error_that_says_how_to_mend_it(load: Callable[..., ovengine.Model]) -> None:
    x = ops.parameter(ov.PartialShape.dynamic(), np.float32, name="x")
    x.output(0).set_names({"x"})
    source = model_of({"y": ops.relu(x)}, [x])
    with pytest.raises(ModelError, match="'x' has a dynamic rank; give the shapes"):
        load(source)
    assert load(source, shapes={"x": (-1, 3)}).plan.mode == "rows"


@pytest.mark.parametrize(
    "shape", [[-1, "1..8"], ["?", "1..8"], "[?,1..8]", "?, 1..8", ov.PartialShape([-1, ov.Dimension(1, 8)])]
)
def test_dimensions_may_have_bounds(load: Callable[..., ovengine.Model], shape: Any) -> None:
    x = parameter("x", [-1, -1])
    model = load(model_of({"y": ops.relu(x)}, [x]), shapes={"x": shape})
    assert model.plan.mode == "dynamic"
    assert "x [?,1..8]" in str(model.plan).replace("-1", "?")
    for width in (1, 8):
        array = np.full((2, width), width, np.float32)
        np.testing.assert_array_equal(model(array)["y"], array)
    for width in (0, 9):
        with pytest.raises(InputError, match=rf"'x' has shape \(2, {width}\); the model takes \(\?, 1..8\)"):
            model(np.zeros((2, width), np.float32))


@pytest.mark.parametrize("shape", [[-1, "many"], "[?,1...8]", [1.5, 2], [None, 2]])
def test_what_is_no_dimension_is_an_error(load: Callable[..., ovengine.Model], shape: Any) -> None:
    with pytest.raises(ConfigError, match="is not a dimension; give a length, -1 for any, or bounds such as"):
        load(mlp(*TINY_MLP), shapes={"x": shape})


def test_what_the_shapes_say_is_cheap_to_ask() -> None:
    graph = Runtime().adopt(mlp(*TINY_MLP))
    axis = _batch_axis.examine(graph)
    assert (axis.mode, axis.batchable) == ("dynamic", True)


# -- several devices --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_cpus() -> Iterator[ovengine.Engine]:
    with ovengine.Engine(plugins=ovengine.Plugins(entry_points=False, disabled=()), cpu_budget=2) as engine:
        engine.runtime.register_plugin("openvino_intel_cpu_plugin", "CPUB")
        yield engine


@pytest.mark.parametrize(
    ("device", "hint", "devices"),
    [
        ("AUTO", "throughput", ["CPU"]),
        ("AUTO:CPUB,CPU", "throughput", ["CPUB"]),
        ("AUTO:-CPU", "throughput", ["CPUB"]),
        ("AUTO:CPUB,CPU", "cumulative_throughput", ["CPUB", "CPU"]),
        ("CPU,CPUB", "throughput", ["CPU", "CPUB"]),
    ],
)
def test_a_second_device_is_used_as_asked(
    two_cpus: ovengine.Engine, tiny_mlp: Path, device: str, hint: str, devices: list[str]
) -> None:
    with two_cpus.load(tiny_mlp, device=device, hint=hint, config=F32) as model:
        assert [plan.device for plan in model.plan.devices] == devices
        x = rows_of(model.inputs[0], 50)
        expected = plain(ov.Core().read_model(tiny_mlp), x)[0]
        np.testing.assert_allclose(model(x)["y"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("without_rules")
def test_rows_share_an_inference_where_that_is_proven_on_each_device(
    two_cpus: ovengine.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proofs: list[str] = []
    for name in ("prove", "prove_size"):
        made = getattr(_proof, name)

        def counted(*arguments: Any, name: str = name, made: Any = made) -> Any:
            proofs.append(name)
            return made(*arguments)

        monkeypatch.setattr(_proof, name, counted)
    arguments: dict[str, Any] = {"config": F32, "batch_sizes": [1, 4, 8], "cache_dir": tmp_path}
    for device, made_now in (("CPU", ["prove", "prove_size"]), ("CPU,CPUB", ["prove", "prove_size"]), ("CPU,CPUB", [])):
        with two_cpus.load(mlp(*TINY_MLP), device=device, **arguments) as model:
            assert model.wait_ready(60)
            assert model.plan.ladder == (1, 4, 8)
        assert proofs == made_now
        proofs.clear()
    monkeypatch.setattr(_proof, "prove_size", lambda *_: _proof.Proof("rows alone", "not here"))
    with two_cpus.load(mlp(*TINY_MLP), device="CPU,CPUB", **{**arguments, "batch_sizes": [1, 4, 16]}) as model:
        assert model.wait_ready(60)
        assert model.plan.ladder == (1, 4)
        assert "check 'rows alone' failed at 16: not here" in str(model.plan)


def test_an_engine_may_be_kept_to_some_devices(tiny_mlp: Path) -> None:
    with ovengine.Engine(devices=["CPU"]) as engine:
        assert engine.devices == ("CPU",)
    with ovengine.Engine(devices=["TPU"]) as engine, pytest.raises(UnknownDeviceError, match="TPU"):
        engine.load(tiny_mlp)
    with pytest.raises(ConfigError, match="cpu_budget"):
        ovengine.Engine(cpu_budget=0)


def test_lanes_that_share_one_compiled_model(
    load: Callable[..., ovengine.Model], tiny_mlp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ovengine.builtin.device_selectors.auto.SHARE_WEIGHTS_BYTES", 0)
    model = load(tiny_mlp, config={**F32, "NUM_STREAMS": 2})
    assert model.plan.devices[0].shared
    x = rows_of(model.inputs[0], 200)
    expected = plain(ov.Core().read_model(tiny_mlp), x)[0]
    results = list(model.map([row[None] for row in x]))
    np.testing.assert_allclose(np.concatenate([r["y"] for r in results]), expected, rtol=1e-4, atol=1e-5)


# -- life and end -----------------------------------------------------------------------------------------------------


def test_the_module_level_load_uses_one_default_engine(tiny_mlp: Path) -> None:
    from ovengine.engine import default_engine

    first = default_engine()
    with ovengine.load(tiny_mlp) as model:
        assert default_engine() is first
        assert model in first._models
    assert model.closed


def test_closing_an_engine_closes_its_models(tiny_mlp: Path) -> None:
    engine = ovengine.Engine()
    model = engine.load(tiny_mlp)
    assert engine.close(timeout=10)
    assert engine.close()
    assert model.closed
    with pytest.raises(EngineClosed):
        model.submit(np.ones((1, 16), np.float32))
    with pytest.raises(EngineClosed):
        engine.load(tiny_mlp)


def test_a_closed_default_engine_is_replaced(tiny_mlp: Path) -> None:
    from ovengine.engine import default_engine

    default_engine().close()
    with ovengine.load(tiny_mlp) as model:
        assert not model.closed


def test_models_are_loaded_from_several_threads_at_once(engine: ovengine.Engine, tiny_mlp: Path) -> None:
    loaded: list[ovengine.Model] = []
    threads = [threading.Thread(target=lambda: loaded.append(engine.load(tiny_mlp, config=F32))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded) == 4
    x = rows_of(loaded[0].inputs[0], 3)
    for model in loaded:
        np.testing.assert_allclose(model(x)["y"], loaded[0](x)["y"], rtol=1e-5)
    for model in loaded:
        model.close()


def run_code(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_told_so_and_the_parent_goes_on(tiny_mlp: Path) -> None:
    code = f"""
import os, numpy as np, ovengine
engine = ovengine.Engine()
model = engine.load({str(tiny_mlp)!r})
x = np.ones((2, 16), np.float32)
expected = model(x)["y"]
child = os.fork()
if child == 0:
    for call, *arguments in ((model, x), (model.submit, x), (model.lease,), (engine.load, {str(tiny_mlp)!r})):
        try:
            call(*arguments)
        except ovengine.ForkedError as error:
            assert "fork" in str(error), error
        else:
            os._exit(1)
    # OpenVINO itself does not survive: an error, where a new model would hang.
    for load in (ovengine.load, ovengine.Engine().load):
        try:
            load({str(tiny_mlp)!r})
        except ovengine.ForkedError as error:
            assert "spawn" in str(error), error
        else:
            os._exit(2)
    model.close()
    engine.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
np.testing.assert_array_equal(model(x)["y"], expected)
assert engine.close(10)
"""
    result = run_code(code)
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_may_load_when_its_parent_has_not(tiny_mlp: Path) -> None:
    code = f"""
import os, numpy as np, ovengine
engine = ovengine.Engine()
child = os.fork()
if child == 0:
    with ovengine.load({str(tiny_mlp)!r}) as model:
        model(np.ones((2, 16), np.float32))
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
engine.load({str(tiny_mlp)!r}).close()
"""
    result = run_code(code)
    assert result.returncode == 0, result.stderr


def test_the_interpreter_exits_at_once_with_requests_in_flight(tiny_mlp: Path) -> None:
    code = f"""
import numpy as np, ovengine
model = ovengine.load({str(tiny_mlp)!r})
other = ovengine.Engine().load({str(tiny_mlp)!r})
futures = [m.submit(np.ones((4, 16), np.float32)) for m in (model, other) for _ in range(2000)]
print("done")
"""
    result = run_code(code)
    assert result.returncode == 0, result.stderr
    assert (result.stdout, result.stderr) == ("done\n", "")
