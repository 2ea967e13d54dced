"""`ovengine infer`: what goes in, what comes out, and what is said when it does not work."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import pytest
from openvino import opset13 as ops
from PIL import Image

import models
from ovengine.cli import main
from ovengine.cli._inputs import ImageOptions, Reader, image_shape
from ovengine.errors import InputError
from ovengine.plan import TensorInfo


def plain(model: Path, *inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """First output of plain OpenVINO."""
    return np.array(ov.Core().compile_model(model, "CPU")(list(inputs))[0])


def close(ours: Any, theirs: Any) -> None:
    # Other batch sizes, and bf16 where the CPU has it.
    np.testing.assert_allclose(ours, theirs, rtol=2e-2, atol=2e-2)


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.npy"
    np.save(path, np.random.default_rng(1).standard_normal((100, 16), np.float32))
    return path


@pytest.fixture
def echo(tmp_path: Path) -> Callable[..., Path]:
    """Makes a model whose output is its input, of a shape and dtype."""

    def make(*shape: int, dtype: Any = np.float32) -> Path:
        x = ops.parameter(list(shape), dtype, name="x")
        x.output(0).set_names({"x"})
        y = ops.add(x, ops.constant(np.zeros((), dtype)))
        y.output(0).set_names({"y"})
        return models.save(ov.Model([ops.result(y)], [x], "echo"), tmp_path / f"echo{'_'.join(map(str, shape))}.xml")

    return make


def picture(path: Path, width: int, height: int) -> npt.NDArray[np.uint8]:
    pixels = np.random.default_rng(2).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def test_each_row_of_an_array_gets_its_own_result(tiny_mlp: Path, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    assert main(["infer", "-m", str(tiny_mlp), "-i", str(rows), "-o", str(out), "--window", "7"]) == 0
    with np.load(out) as results:
        close(results["y"], plain(tiny_mlp, np.load(rows)))
        assert results["source"][42] == f"{rows}:42"


def test_json_lines_come_in_order_on_standard_output(
    tiny_mlp: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["infer", "-m", str(tiny_mlp), "-i", str(rows)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = json_lines(out)
    assert [line["row"] for line in lines] == list(range(100))
    close([line["outputs"]["y"] for line in lines], plain(tiny_mlp, np.load(rows)))


def test_a_single_sample_is_one_request(tiny_mlp: Path, tmp_path: Path) -> None:
    sample = np.linspace(-1, 1, 16, dtype=np.float32)
    np.savez(tmp_path / "sample.npz", x=sample)
    out = tmp_path / "out.jsonl"
    assert main(["infer", "-m", str(tiny_mlp), "-i", str(tmp_path / "sample.npz"), "-o", str(out)]) == 0
    (line,) = json_lines(out.read_text())
    assert "row" not in line
    close(line["outputs"]["y"], plain(tiny_mlp, sample[None])[0])


def test_a_directory_is_read_in_order_of_name(tiny_mlp: Path, tmp_path: Path) -> None:
    directory = tmp_path / "inputs"
    directory.mkdir()
    data = np.random.default_rng(3).standard_normal((5, 16), np.float32)
    for index in (3, 0, 4, 1, 2):
        np.save(directory / f"{index}.npy", data[index])
    (directory / "notes.txt").write_text("not an input")
    out = tmp_path / "out.npz"
    assert main(["infer", "-m", str(tiny_mlp), "-i", str(directory), "-o", str(out)]) == 0
    with np.load(out) as results:
        close(results["y"], plain(tiny_mlp, data))
        assert [Path(source).name for source in results["source"]] == [f"{index}.npy" for index in range(5)]


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_images_are_resized_and_laid_out_for_the_model(echo: Callable[..., Path], tmp_path: Path, layout: str) -> None:
    model = echo(1, 3, 8, 6) if layout == "NCHW" else echo(1, 8, 6, 3)
    exact, large = picture(tmp_path / "a.png", 6, 8), picture(tmp_path / "b.png", 60, 80)
    resized = np.asarray(Image.fromarray(large).resize((6, 8), Image.Resampling.BILINEAR))
    out = tmp_path / "out.npz"
    images = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    assert main(["infer", "-m", str(model), "-i", *images, "-o", str(out), "-infer_precision", "f32"]) == 0
    with np.load(out) as results:
        got = results["y"].reshape(2, *([3, 8, 6] if layout == "NCHW" else [8, 6, 3]))
    got = got.transpose(0, 2, 3, 1) if layout == "NCHW" else got
    np.testing.assert_array_equal(got, [exact, resized])


def test_mean_and_scale_apply_per_channel_and_bgr_swaps(echo: Callable[..., Path], tmp_path: Path) -> None:
    pixels = picture(tmp_path / "a.png", 6, 8).astype(np.float32)
    out = tmp_path / "out.npz"
    arguments = ["infer", "-m", str(echo(1, 8, 6, 3)), "-i", str(tmp_path / "a.png"), "-o", str(out)]
    arguments += ["-infer_precision", "f32"]
    assert main([*arguments, "--mean", "10,20,30", "--scale", "2"]) == 0
    with np.load(out) as results:
        np.testing.assert_allclose(results["y"].reshape(8, 6, 3), (pixels - [10, 20, 30]) / 2)
    assert main([*arguments, "--bgr"]) == 0
    with np.load(out) as results:
        np.testing.assert_array_equal(results["y"].reshape(8, 6, 3), pixels[..., ::-1])


def test_a_uint8_model_gets_bytes(echo: Callable[..., Path], tmp_path: Path) -> None:
    pixels = picture(tmp_path / "a.png", 6, 8)
    out = tmp_path / "out.npz"
    model = echo(1, 8, 6, 3, dtype=np.uint8)
    assert main(["infer", "-m", str(model), "-i", str(tmp_path / "a.png"), "-o", str(out)]) == 0
    with np.load(out) as results:
        np.testing.assert_array_equal(results["y"].reshape(8, 6, 3), pixels)


def test_the_face_detector_finds_the_face_of_a_picture(real_model: Callable[[str], Path], tmp_path: Path) -> None:
    detector = real_model("face_detector")
    picture(tmp_path / "noise.png", 300, 200)
    out = tmp_path / "out.npz"
    arguments = ["infer", "-m", str(detector), "-i", str(tmp_path / "noise.png"), "-o", str(out)]
    assert main([*arguments, "--mean", "127.5", "--scale", "127.5"]) == 0
    with Image.open(tmp_path / "noise.png") as opened:
        small = np.asarray(opened.resize((128, 128), Image.Resampling.BILINEAR), np.float32)
    with np.load(out) as results:
        close(results["regressors"].reshape(1, 896, 16), plain(detector, ((small - 127.5) / 127.5)[None]))


def test_a_model_with_several_inputs_takes_an_npz(tmp_path: Path, real_model: Callable[[str], Path]) -> None:
    model = real_model("silero_vad")
    rng = np.random.default_rng(4)
    inputs = {"input": rng.random((1, 576), np.float32), "state": rng.random((2, 1, 128), np.float32)}
    np.savez(tmp_path / "audio.npz", input=inputs["input"], state=inputs["state"])
    np.save(tmp_path / "audio.npy", inputs["input"])
    out = tmp_path / "out.npz"
    assert main(["infer", "-m", str(model), "-i", str(tmp_path / "audio.npz"), "-o", str(out)]) == 0
    expected = ov.Core().compile_model(model, "CPU")(inputs)
    with np.load(out) as results:
        names = [name for name in results.files if name != "source"]
        for name, value in zip(names, expected.values(), strict=True):
            close(results[name].reshape(value.shape), value)


def test_what_cannot_be_read_costs_a_line_and_the_rest_is_done(
    tiny_mlp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = np.ones((2, 16), np.float32)
    np.save(tmp_path / "1.npy", good)
    (tmp_path / "2.npy").write_bytes(b"not numpy")
    np.save(tmp_path / "3.npy", np.ones((2, 5), np.float32))
    np.savez(tmp_path / "4.npz", z=good)
    np.save(tmp_path / "5.npy", np.array(["a", "b"]))
    (tmp_path / "6.png").write_bytes(b"\x89PNG\r\n")
    np.save(tmp_path / "7.npy", good)
    assert main(["infer", "-m", str(tiny_mlp), "-i", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert [Path(line["source"]).name for line in json_lines(out)] == ["1.npy", "1.npy", "7.npy", "7.npy"]
    assert "Traceback" not in err
    for name in ("2.npy", "3.npy", "4.npz", "5.npy", "6.png"):
        assert name in err


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path / "absent.npy", "no such input"),
        (lambda path: (path / "notes.txt", (path / "notes.txt").write_text(""))[0], "is no input"),
        (lambda path: (path / "empty", (path / "empty").mkdir())[0], "no images"),
    ],
)
def test_an_input_that_is_none_is_one_line(
    tiny_mlp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], Path], says: str
) -> None:
    assert main(["infer", "-m", str(tiny_mlp), "-i", str(make(tmp_path))]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("target", ["absent/out.npz", "out.csv"])
def test_an_output_that_cannot_be_written_is_said_first(
    tiny_mlp: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    assert main(["infer", "-m", str(tiny_mlp), "-i", str(rows), "-o", str(tmp_path / target)]) == 1
    _, err = capsys.readouterr()
    assert "cannot write" in err
    assert err.count("\n") == 1


def test_images_without_pillow_name_the_extra(
    echo: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "a.png", 6, 8)
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert main(["infer", "-m", str(echo(1, 8, 6, 3)), "-i", str(tmp_path / "a.png")]) == 1
    assert "pip install 'ovengine[images]'" in capsys.readouterr().err


def test_progress_is_shown_on_a_terminal_only(tiny_mlp: Path, rows: Path) -> None:
    out = rows.with_name("out.npz")
    command = [sys.executable, "-m", "ovengine", "infer", "-m", str(tiny_mlp), "-i", str(rows), "-o", str(out)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stderr == ""
    ours, theirs = pty.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
        subprocess.run(command, stderr=theirs, check=True)
        shown = b""
        while b"100/100" not in shown:
            assert select.select([ours], [], [], 5)[0], shown
            shown += os.read(ours, 65536)
    finally:
        os.close(ours)
        os.close(theirs)


def test_values_that_json_lacks_become_null(
    echo: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", np.array([[1, np.nan, np.inf]], np.float32))
    model = echo(-1, 3)
    assert main(["infer", "-m", str(model), "-i", str(tmp_path / "x.npy"), "-infer_precision", "f32"]) == 0
    (line,) = json_lines(capsys.readouterr().out)
    assert line["outputs"]["y"] == [1.0, None, None]


def tensor(*shape: int) -> TensorInfo:
    return TensorInfo("x", ("x",), shape, np.dtype(np.float32))


def test_layout_is_told_from_the_channels() -> None:
    assert image_shape(tensor(-1, 3, 20, 30), None) == ("NCHW", 3, 20, 30)
    assert image_shape(tensor(1, 20, 30, 1), None) == ("NHWC", 1, 20, 30)
    assert image_shape(tensor(1, 3, 20, 3), "NHWC") == ("NHWC", 3, 3, 20)
    for shape in [(1, 3, 20, 3), (1, 7, 20, 7)]:
        with pytest.raises(InputError, match="--layout"):
            image_shape(tensor(*shape), None)
    with pytest.raises(InputError, match="takes no images"):
        image_shape(tensor(1, 16), None)


def test_unequal_rows_are_refused(tmp_path: Path) -> None:
    inputs = [tensor(-1, 2), TensorInfo("y", ("y",), (-1, 3), np.dtype(np.float32))]
    reader = Reader(inputs, "rows", ImageOptions())
    np.savez(tmp_path / "unequal.npz", x=np.zeros((2, 2)), y=np.zeros((3, 3)))
    with pytest.raises(InputError, match="same number of rows"):
        reader.read(tmp_path / "unequal.npz")
