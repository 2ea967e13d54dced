"""Real models, as they arrive with packages: the same results as plain OpenVINO, however they are run."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import ovengine
from support import EXACT, PATIENCE, Array, each, in_threads, ready, reference

Find = Callable[[str], Path]


def same(result: ovengine.Result, expected: dict[str, Array], rows: slice | int = slice(None)) -> None:
    """Compare all outputs; rounding may differ between batch sizes."""
    for name, values in expected.items():
        wanted = values[rows]
        assert result[name].shape == wanted.shape
        scale = float(np.abs(values).max())
        np.testing.assert_allclose(result[name], wanted, rtol=1e-4, atol=1e-5 * scale)


def one_by_one(source: Any, *inputs: Array) -> dict[str, Array]:
    """What plain OpenVINO gives for each row alone, put together."""
    run = reference(source)
    results = [run(*(array[row : row + 1] for array in inputs)) for row in range(len(inputs[0]))]
    return {name: np.concatenate([result[name] for result in results]) for name in results[0]}


# -- face detector: looks batchable and is not ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def frames(real_model: Find) -> Array:
    """24 frames of the clip as the detector takes them, `(24, 128, 128, 3)` in -1..1."""
    av = pytest.importorskip("av")
    with av.open(str(real_model("carphone"))) as clip:
        pictures = [
            frame.reformat(128, 128, "rgb24").to_ndarray() for frame in itertools.islice(clip.decode(video=0), 24)
        ]
    return (np.stack(pictures) / 127.5 - 1).astype(np.float32)


def test_the_face_detector_gives_every_frame_its_own_faces(real_model: Find, frames: Array) -> None:
    source = real_model("face_detector")
    expected = one_by_one(source, frames)
    with ready(ovengine.load(source, config=EXACT)) as model:
        assert model.plan.ladder == (1,)  # reshaped to a batch, it mixes rows: never
        assert "batch axis" in str(model.plan)
        same(model(frames), expected)
        same(model.infer_rows(frames), expected)
        same(model(frames[3]), expected, 3)
        same(model(frames[3:4]), expected, slice(3, 4))
        futures = [model.submit(frame) for frame in frames]
        futures += [model.submit(frames[i : i + 3]) for i in range(0, 24, 3)]
        for i, future in enumerate(futures[:24]):
            same(future.result(), expected, i)
        for i, future in enumerate(futures[24:]):
            same(future.result(), expected, slice(3 * i, 3 * i + 3))
        for i, result in enumerate(model.map(frames)):
            same(result, expected, i)


def test_channels_in_threads_share_the_face_detector(real_model: Find, frames: Array) -> None:
    source = real_model("face_detector")
    expected = one_by_one(source, frames)
    with ready(ovengine.load(source, config=EXACT)) as model:

        def channel(first: int) -> None:
            order = np.roll(np.arange(len(frames)), first)
            pending = [(i, model.submit(frames[i], share_inputs=True)) for i in order]
            for i, future in pending:
                same(future.result(PATIENCE), expected, int(i))

        in_threads(each(channel, range(4)))


@pytest.mark.parametrize("name", ["face_landmarks", "iris_landmarks"])
def test_other_models_of_the_same_family_are_right_too(real_model: Find, name: str) -> None:
    source = real_model(name)
    with ready(ovengine.load(source, config=EXACT)) as model:
        shape = model.inputs[0].shape
        assert shape is not None
        x = np.random.default_rng(0).uniform(0, 1, (5, *shape[1:])).astype(np.float32)
        expected = one_by_one(source, x)
        same(model(x), expected)
        futures = [model.submit(row) for row in x]
        for i, future in enumerate(futures):
            same(future.result(), expected, i)


# -- ONNX -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet_output(real_model: Find) -> Array:
    tensor = onnx.TensorProto()
    tensor.ParseFromString(real_model("resnet50_output").read_bytes())
    return np.asarray(numpy_helper.to_array(tensor))


def test_resnet_gives_the_output_that_comes_with_it(real_model: Find, resnet_output: Array) -> None:
    # All its weights are constants, so that every input gives the same.
    with ready(ovengine.load(real_model("resnet50"), config=EXACT)) as model:
        shape = (1, 3, 224, 224)
        for x in (np.zeros(shape, np.float32), np.random.default_rng(0).random(shape, np.float32)):
            np.testing.assert_allclose(np.asarray(model(x)), resnet_output, rtol=1e-3, atol=1e-5)
            np.testing.assert_allclose(np.asarray(model(x[0])), resnet_output[0], rtol=1e-3, atol=1e-5)


def test_squeezenet_is_right_in_batches(real_model: Find) -> None:
    source = real_model("squeezenet")
    x = np.random.default_rng(0).random((6, 3, 224, 224), np.float32)
    expected = one_by_one(source, x)
    for options in ({}, {"batcher": "none"}, {"batcher": "fixed", "max_batch_size": 4}):
        with ready(ovengine.load(source, config=EXACT, **options)) as model:
            same(model(x), expected)
            futures = [model.submit(row) for row in x]
            for i, future in enumerate(futures):
                same(future.result(), expected, i)


def test_an_onnx_model_is_loaded_from_its_bytes(real_model: Find) -> None:
    source = real_model("squeezenet")
    x = np.random.default_rng(1).random((2, 3, 224, 224), np.float32)
    with ready(ovengine.load(source.read_bytes(), config=EXACT)) as model:
        same(model(x), one_by_one(source, x))


def file_starts() -> Array:
    """Magika's view of some files: 1024 bytes from the beginning and 1024 from the end, 256 where there are none."""
    rows = np.full((12, 2048), 256, np.int32)
    contents = [Path(__file__).read_bytes(), b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj", b"\x89PNG\r\n\x1a\n" + bytes(50)]
    contents += [bytes([i]) * 100 for i in range(9)]
    for row, content in zip(rows, contents, strict=True):
        head, tail = np.frombuffer(content[:1024], np.uint8), np.frombuffer(content[-1024:], np.uint8)
        row[: len(head)] = head
        row[2048 - len(tail) :] = tail
    return rows


def test_magika_tells_files_apart(real_model: Find) -> None:
    source = real_model("magika")
    x = file_starts()
    expected = one_by_one(source, x)
    with ready(ovengine.load(source, config=EXACT)) as model:
        same(model(x), expected)
        same(model(x.astype(np.uint16)), expected)
        futures = [model.submit(row) for row in x]
        for i, future in enumerate(futures):
            same(future.result(), expected, i)

        async def tasks() -> list[ovengine.Result]:
            return await asyncio.gather(*(model.ainfer(row) for row in x))

        for i, result in enumerate(asyncio.run(asyncio.wait_for(tasks(), PATIENCE))):
            same(result, expected, i)


def test_magika_is_right_in_fixed_batches(real_model: Find) -> None:
    source = real_model("magika")
    x = file_starts()
    expected = one_by_one(source, x)
    with ready(ovengine.load(source, config=EXACT, batcher="fixed", max_batch_size=4)) as model:
        assert model.plan.ladder[-1] == 4
        futures = [model.submit(row) for row in x]
        for i, future in enumerate(futures):
            same(future.result(), expected, i)
        same(model.infer_rows(x), expected)


# -- another batch axis -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"batcher": "none"}, {"batcher": "fixed", "max_batch_size": 8}])
def test_silero_is_batched_and_each_caller_carries_its_own_state(real_model: Find, options: dict[str, Any]) -> None:
    source = real_model("silero_vad")
    with ready(ovengine.load(source, config=EXACT, **options)) as model:
        assert model.plan.mode == "rows"
        assert [port.shape for port in model.inputs] == [(-1, 576), (2, -1, 128)]

        def stream(seed: int) -> None:
            run = reference(source)
            rng = np.random.default_rng(seed)
            state: Array = np.zeros((2, 1, 128), np.float32)
            expected_state = state
            for _ in range(10):
                audio: Array = rng.standard_normal((1, 576), np.float32) / 10
                result = model({"input": audio, "state": state})
                expected = run(audio, expected_state)
                same(result, expected)
                assert result["output"].shape == (1, 1)
                state, expected_state = result["stateN"], expected["stateN"]

        in_threads(each(stream, range(4)))


def test_silero_takes_rows_wherever_its_axis_is(real_model: Find) -> None:
    source = real_model("silero_vad")
    run = reference(source)
    rng = np.random.default_rng(0)
    audio: Array = rng.standard_normal((11, 576), np.float32) / 10
    state: Array = rng.standard_normal((2, 11, 128), np.float32)
    expected = [list(run(audio[i : i + 1], state[:, i : i + 1]).values()) for i in range(11)]
    together = {"output": np.concatenate([output for output, _ in expected])}
    together["stateN"] = np.concatenate([state for _, state in expected], axis=1)
    with ready(ovengine.load(source, config=EXACT, batcher="fixed", max_batch_size=4)) as model:
        for result in (model([audio, state]), model.infer_rows([audio, state]), model.submit([audio, state]).result()):
            same(result, together)
            assert result["stateN"].shape == (2, 11, 128)
        few = model({"state": np.asfortranarray(state[:, :3]), "input": audio[:3]})
        np.testing.assert_allclose(few["stateN"], together["stateN"][:, :3], rtol=1e-4, atol=1e-5)
        single = model([audio[5], state[:, 5]])
        np.testing.assert_allclose(single["stateN"], together["stateN"][:, 5], rtol=1e-4, atol=1e-5)
        assert single["output"].shape == (1,)
        with model.lease(3) as lease:
            assert lease["state"].shape == (2, 3, 128)
            lease["input"][...] = audio[:3]
            lease["state"][...] = state[:, :3]
            same(lease.submit().result(), {name: array[:3] for name, array in together.items() if name == "output"})
        with pytest.raises(
            ovengine.InputError, match=r"\(3, 2, 128\); the model takes \(2, n, 128\) or \(2, 128\) for"
        ):
            model([audio[:3], state[:, :3].transpose(1, 0, 2)])
        with pytest.raises(ovengine.InputError, match=r"number of rows: shapes \(3, 576\) and \(2, 4, 128\)"):
            model([audio[:3], state[:, :4]])


# -- dynamic shapes ---------------------------------------------------------------------------------------------------


def pictures(widths: tuple[int, ...]) -> list[Array]:
    rng = np.random.default_rng(0)
    return [rng.uniform(-1, 1, (1, 3, 48, width)).astype(np.float32) for width in widths]


def test_the_text_direction_model_takes_pictures_of_any_width(real_model: Find) -> None:
    source = real_model("text_direction")
    run = reference(source)
    with ready(ovengine.load(source, config=EXACT)) as model:
        assert model.plan.mode == "dynamic"
        images = pictures((192, 100, 64, 192, 320, 33))
        futures = [model.submit(image) for image in images]
        for image, future in zip(images, futures, strict=True):
            same(future.result(), run(image))
            same(model(image), run(image))
        batch = np.concatenate(pictures((192, 192, 192)))
        same(model(batch), run(batch))


def test_with_its_shape_fixed_it_is_batched(real_model: Find) -> None:
    source = real_model("text_direction")
    x = np.concatenate(pictures((192,) * 10))
    expected = one_by_one(source, x)
    for shapes in ({"x": [-1, 3, 48, 192]}, [-1, 3, 48, 192], {0: (1, 3, 48, 192)}):
        with ready(ovengine.load(source, config=EXACT, shapes=shapes)) as model:  # type: ignore[arg-type]  # as load takes them
            assert model.plan.mode == "rows"
            same(model(x), expected)
            futures = [model.submit(row) for row in x]
            for i, future in enumerate(futures):
                same(future.result(), expected, i)
            with pytest.raises(ovengine.InputError, match=r"the model takes \(n, 3, 48, 192\) or \(3, 48, 192\)"):
                model(np.zeros((1, 3, 48, 100), np.float32))
