"""From files to requests: which files, pictures as OpenCV reads them, rows of arrays."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
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
from ovengine.cli._files import find_sources
from ovengine.cli._inputs import Reader, Request
from ovengine.cli._pictures import ImageOptions, ImageShape, image_shape, read_picture
from ovengine.config import Hint
from ovengine.errors import InputError
from ovengine.plan import BatchAxis, BatchPlan, DevicePlan, Mode, Plan, TensorInfo
from support import network

Array = npt.NDArray[Any]


def noise(*shape: int, dtype: Any = np.uint8) -> Array:
    return np.random.default_rng(2).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def picture(path: Path, width: int, height: int) -> Array:
    pixels = noise(height, width, 3)
    Image.fromarray(pixels).save(path)
    return pixels


# -- which files ------------------------------------------------------------------------------------------------------


def test_a_folder_says_what_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("b.npy", "a.PNG", "notes.txt"):
        (tmp_path / name).touch()
    for name in ("sub1", "sub2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "deeper.npy").touch()
    assert [source.path.name for source in find_sources([str(tmp_path)])] == ["a.PNG", "b.npy"]
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "2 files read; 2 subfolders not searched (give " in err
    assert f"{tmp_path / 'sub1'} and so on); 1 file of other kinds left out" in err
    (tmp_path / "a.PNG").unlink()
    (tmp_path / "b.npy").unlink()
    with pytest.raises(InputError, match=r"no pictures.*2 subfolders not searched"):
        find_sources([str(tmp_path)])


def test_inputs_are_named_as_for_benchmark_app(tmp_path: Path) -> None:
    for name in ("1.npy", "2.npy", "odd:name.npy", "a,b.npy"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    for name in ("3.npy", "4.npy"):
        (tmp_path / "folder" / name).touch()
    one, two, odd, folder = (str(tmp_path / name) for name in ("1.npy", "2.npy", "odd:name.npy", "folder"))

    def found(*arguments: str) -> list[list[tuple[str | None, str]]]:
        return [[(name, path.name) for name, path in source.paths] for source in find_sources(arguments)]

    assert found(one, two) == [[(None, "1.npy")], [(None, "2.npy")]]
    assert found(f"{one},{two}", odd) == [[(None, "1.npy")], [(None, "2.npy")], [(None, "odd:name.npy")]]
    assert found(str(tmp_path / "a,b.npy")) == [[(None, "a,b.npy")]]
    pairs = [[("a", "1.npy"), ("b", "3.npy")], [("a", "2.npy"), ("b", "4.npy")]]
    assert found(f"a:{one},{two},b:{folder}") == pairs
    assert found(f"a:{one},{two}", f"b:{folder}") == pairs
    assert found(f"in:0:{odd}") == [[("in:0", "odd:name.npy")]]
    # One file of an input goes with each of the others.
    assert found(f"a:{one},b:{folder}") == [
        [("a", "1.npy"), ("b", "3.npy")],
        [("a", "1.npy"), ("b", "4.npy")],
    ]
    for arguments, says in (
        ([one, f"a:{two}"], "either all inputs are named, or none"),
        ([f"a:{one},{two},{one}", f"b:{folder}"], "different numbers of files: a 3, b 2"),
        (["a:absent.npy"], "no such input: a:absent.npy"),
        ([str(tmp_path / "absent.npy")], "no such input"),
    ):
        with pytest.raises(InputError, match=says):
            find_sources(arguments)


# -- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm", "jp2"])
def test_of_16_bits_the_upper_8_count_in_gray(tmp_path: Path, suffix: str) -> None:
    gray = np.arange(0, 65536, 7)[: 90 * 104].astype(np.uint16).reshape(90, 104)
    Image.fromarray(gray).save(tmp_path / f"gray.{suffix}")
    expected = (gray >> 8).astype(np.uint8)
    np.testing.assert_array_equal(read_picture(tmp_path / f"gray.{suffix}", 1, None), expected[..., None])
    np.testing.assert_array_equal(read_picture(tmp_path / f"gray.{suffix}", 3, None), np.dstack([expected] * 3))


def test_of_16_bits_the_upper_8_count_in_color(tmp_path: Path) -> None:
    color = noise(5, 4, 3, dtype=np.uint16)
    # Written by hand: Pillow cannot write it. The numbers are big-endian.
    (tmp_path / "color.ppm").write_bytes(b"P6 4 5 65535\n" + color.astype(">u2").tobytes())
    read = read_picture(tmp_path / "color.ppm", 3, None)
    np.testing.assert_allclose(read.astype(int), color >> 8, atol=1)
    assert read.dtype == np.uint8


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_pictures_are_turned_upright(tmp_path: Path, suffix: str) -> None:
    stored = np.zeros((32, 48, 3), np.uint8)
    stored[:8, :8] = (255, 0, 0)  # top left
    stored[:8, -8:] = (0, 0, 255)  # top right
    # Where the first row and the first column of what is stored are seen, by the EXIF standard.
    upright = {
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1],
        5: stored.transpose(1, 0, 2), 6: stored.transpose(1, 0, 2)[:, ::-1],
        7: stored.transpose(1, 0, 2)[::-1, ::-1], 8: stored.transpose(1, 0, 2)[::-1],
    }  # fmt: skip
    for orientation, expected in upright.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.{suffix}"
        options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
        Image.fromarray(stored).save(path, exif=exif, **options)  # type: ignore[arg-type]  # of the format's own
        read = read_picture(path, 3, None)
        assert read.shape == expected.shape, orientation
        np.testing.assert_allclose(read.astype(int), expected, atol=8, err_msg=str(orientation))


def test_palettes_alpha_cmyk_and_single_bits_become_rgb(tmp_path: Path) -> None:
    rgb, alpha = noise(6, 5, 3), noise(6, 5)
    Image.fromarray(np.dstack([rgb, alpha])).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "rgba.png", 3, None), rgb)  # alpha is dropped
    Image.merge("LA", [Image.fromarray(rgb[..., 0]), Image.fromarray(alpha)]).save(tmp_path / "la.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "la.png", 1, None)[..., 0], rgb[..., 0])
    indices = np.arange(30, dtype=np.uint8).reshape(6, 5) % 3
    palette = Image.fromarray(indices).convert("P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 10, 20, 30])
    palette.save(tmp_path / "palette.png", transparency=1)
    colors = np.array([[255, 0, 0], [0, 255, 0], [10, 20, 30]])
    np.testing.assert_array_equal(
        read_picture(tmp_path / "palette.png", 3, None), colors[np.arange(30).reshape(6, 5) % 3]
    )
    Image.fromarray(alpha > 127).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "bits.png", 1, None)[..., 0], (alpha > 127) * 255)
    ink = np.full((16, 16, 4), (0, 255, 255, 0), np.uint8)  # magenta and yellow are red
    Image.fromarray(ink, "CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    np.testing.assert_allclose(read_picture(tmp_path / "cmyk.jpg", 3, None).astype(int), ink[..., :3] ^ 255, atol=3)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.png", b"", "the file is empty"),
        ("other.png", b"no picture", "does not know its format"),
        ("short.png", b"\x89PNG\r\n", "not a readable picture"),
        ("broken.tif", b"II*\0\x08\0\0\0\xff\xff", "not a readable picture"),
    ],
)
def test_what_is_no_picture_is_said_with_the_reason(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        read_picture(tmp_path / name, 3, None)
    assert str(tmp_path / name) in str(caught.value)


def test_pictures_of_floats_have_no_range(tmp_path: Path) -> None:
    Image.fromarray(np.ones((3, 4), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(InputError, match="32 bits a channel"):
        read_picture(tmp_path / "float.tif", 3, None)


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
        expected = np.array(ov.Core().compile_model(detector, "CPU")(((small - 127.5) / 127.5)[None])[0])
        np.testing.assert_allclose(results["regressors"].reshape(1, 896, 16), expected, rtol=2e-2, atol=2e-2)


def test_images_without_pillow_name_the_extra(
    echo: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "a.png", 6, 8)
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert main(["infer", "-m", str(echo(1, 8, 6, 3)), "-i", str(tmp_path / "a.png")]) == 1
    assert "pip install 'ovengine[images]'" in capsys.readouterr().err


def tensor(*shape: int, name: str = "x", batch_axis: int | None = None) -> TensorInfo:
    return TensorInfo(name, (name,), shape, np.dtype(np.float32), batch_axis, "f32")


def test_layout_is_told_from_the_channels() -> None:
    assert image_shape(tensor(-1, 3, 20, 30), None) == ImageShape("NCHW", 3, 20, 30)
    assert image_shape(tensor(1, 20, 30, 1), None) == ImageShape("NHWC", 1, 20, 30)
    assert image_shape(tensor(1, 3, 20, 3), "NHWC") == ImageShape("NHWC", 3, 3, 20)
    for shape in [(1, 3, 20, 3), (1, 7, 20, 7)]:
        with pytest.raises(InputError, match="-layout"):
            image_shape(tensor(*shape), None)
    with pytest.raises(InputError, match="takes no pictures"):
        image_shape(tensor(1, 16), None)
    with pytest.raises(InputError, match="4 channels"):
        image_shape(tensor(1, 4, 20, 30), "NCHW")


def test_a_model_of_any_size_says_how_to_have_pictures_resized(
    real_model: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(tmp_path / "a.png", 200, 64)
    picture(tmp_path / "b.png", 100, 50)
    arguments = ["infer", "-m", str(real_model("text_direction")), "-i", str(tmp_path)]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert [json.loads(line).get("row") for line in out.splitlines()] == [None, None]
    assert err.count("\n") == 1
    assert "give -shape '[?,3,64,200]'" in err
    assert main([*arguments, "-shape", "[?,3,64,200]"]) == 0
    out, err = capsys.readouterr()
    assert (len(out.splitlines()), err) == (2, "")


# -- rows -------------------------------------------------------------------------------------------------------------


def plan(mode: Mode, *inputs: TensorInfo, failed: str | None = None, axes: Sequence[int | None] = ()) -> Plan:
    return Plan(
        name="model",
        inputs=inputs,
        outputs=(),
        mode=mode,
        hint=Hint.THROUGHPUT,
        devices=(DevicePlan("CPU"),),
        batch=BatchPlan(),
        scheduler="priority",
        precision=("f32",),
        memory_bytes=0,
        max_queue_size=None,
        decisions=(),
        axis=BatchAxis(mode, mode == "rows", "", failed, tuple(axes)),
    )


def read(the_plan: Plan, *arguments: Path | str) -> list[Request]:
    reader = Reader(the_plan, ImageOptions())
    return [request for source in find_sources(map(str, arguments)) for request in reader.read(source)]


ROWS = plan("rows", tensor(-1, 4, batch_axis=0), axes=[0])
SECOND_AXIS = plan("rows", tensor(4, -1, batch_axis=1), axes=[1])
WHOLE = plan("whole", tensor(1, 4))
DYNAMIC = plan("dynamic", tensor(-1, -1), failed="input shapes", axes=[0])


@pytest.mark.parametrize(
    ("model", "shape", "rows", "row_shape"),
    [
        (ROWS, (5, 4), 5, (4,)),
        (ROWS, (1, 4), 1, (4,)),
        (ROWS, (4,), None, (4,)),
        (SECOND_AXIS, (4, 5), 5, (4,)),
        (WHOLE, (5, 4), 5, (1, 4)),
        (WHOLE, (1, 4), None, (1, 4)),
        (WHOLE, (5, 1, 4), 5, (1, 4)),
        (plan("whole", tensor(3, 4)), (3, 4), None, (3, 4)),
        (plan("whole", tensor(3, 4)), (5, 3, 4), 5, (3, 4)),
        (DYNAMIC, (5, 7), 5, (1, 7)),
        (DYNAMIC, (1, 7), None, (1, 7)),
        # Trial runs have shown that what is along the first dimension belongs together.
        (plan("dynamic", tensor(-1, -1), failed="rows see each other", axes=[0]), (5, 7), None, (5, 7)),
        (plan("dynamic", tensor(-1, -1), failed="input shapes", axes=[1]), (5, 7), None, (5, 7)),
        (plan("dynamic", tensor(-1, -1), failed="state"), (5, 7), 5, (1, 7)),
    ],
)
def test_a_file_of_n_rows_is_n_requests(
    tmp_path: Path, model: Plan, shape: tuple[int, ...], rows: int | None, row_shape: tuple[int, ...]
) -> None:
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    np.save(tmp_path / "x.npy", values)
    requests = read(model, tmp_path / "x.npy")
    assert [request.row for request in requests] == ([None] if rows is None else list(range(rows)))
    assert {request.inputs["x"].shape for request in requests} == {row_shape}
    axis = 1 if model is SECOND_AXIS else 0
    together = np.stack([request.inputs["x"].reshape(-1) for request in requests], axis)
    np.testing.assert_array_equal(together.reshape(-1), values.reshape(-1))
    (source,) = find_sources([str(tmp_path / "x.npy")])
    assert Reader(model, ImageOptions()).count(source) == len(requests)


def test_raw_values_are_rows_as_well(tmp_path: Path) -> None:
    values = np.arange(20, dtype=np.float32)
    values.tofile(tmp_path / "x.bin")
    values[:4].tofile(tmp_path / "one.bin")
    values[:3].tofile(tmp_path / "short.bin")
    (tmp_path / "none.bin").touch()
    for model, shape in ((ROWS, (4,)), (SECOND_AXIS, (4,)), (WHOLE, (1, 4))):
        requests = read(model, tmp_path / "x.bin")
        assert [request.inputs["x"].shape for request in requests] == [shape] * 5
        np.testing.assert_array_equal([request.inputs["x"].reshape(-1) for request in requests], values.reshape(5, 4))
        assert len(read(model, tmp_path / "one.bin")) == 1
        for name in ("short.bin", "none.bin"):
            with pytest.raises(InputError, match="16 bytes each"):
                read(model, tmp_path / name)
    with pytest.raises(InputError, match="no fixed number of bytes"):
        read(DYNAMIC, tmp_path / "x.bin")


def test_several_inputs_have_as_many_rows(tmp_path: Path) -> None:
    two = plan("rows", tensor(-1, 2, batch_axis=0), tensor(-1, 3, name="y", batch_axis=0), axes=[0, 0])
    np.save(tmp_path / "x.npy", np.zeros((2, 2), np.float32))
    np.save(tmp_path / "y.npy", np.ones((2, 3), np.float32))
    requests = read(two, f"x:{tmp_path / 'x.npy'},y:{tmp_path / 'y.npy'}")
    assert [{name: array.shape for name, array in request.inputs.items()} for request in requests] == [
        {"x": (2,), "y": (3,)},
        {"x": (2,), "y": (3,)},
    ]
    np.savez(tmp_path / "unequal.npz", x=np.zeros((2, 2)), y=np.zeros((3, 3)))
    with pytest.raises(InputError, match="same number of rows"):
        read(two, tmp_path / "unequal.npz")
    with pytest.raises(InputError, match="NAME:FILE"):
        read(two, tmp_path / "x.npy")
    with pytest.raises(InputError, match="no input 'z', but x, y"):
        read(two, f"z:{tmp_path / 'x.npy'}")
    shared = plan("rows", tensor(-1, 2, batch_axis=0), tensor(3, name="y"), axes=[0, None])
    np.savez(tmp_path / "shared.npz", x=np.zeros((2, 2)), y=np.arange(3))
    assert [request.inputs["y"].tolist() for request in read(shared, tmp_path / "shared.npz")] == [[0, 1, 2]] * 2


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.npy", b"", "the file is empty"),
        ("a.npz", b"", "the file is empty"),
        ("a.npy", b"text", "in another format"),
        ("a.npz", b"text", "in another format"),
        ("a.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'", "truncated"),
        ("a.npz", b"PK\x03\x04text", "truncated"),
    ],
)
def test_what_is_no_numpy_file_is_said_with_the_reason(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says):
        read(ROWS, tmp_path / name)


def test_rows_for_a_model_that_takes_one_at_a_time_are_as_many_results(
    tmp_path: Path, real_model: Callable[[str], Path]
) -> None:
    model = real_model("text_direction")
    rows = np.random.default_rng(5).random((3, 3, 48, 192), np.float32)
    np.save(tmp_path / "rows.npy", rows)
    out = tmp_path / "out.npz"
    assert main(["infer", "-m", str(model), "-i", str(tmp_path / "rows.npy"), "-o", str(out)]) == 0
    compiled = ov.Core().compile_model(model, "CPU")
    with np.load(out) as results:
        (name,) = (name for name in results.files if name != "source")
        np.testing.assert_allclose(
            results[name].reshape(3, 2), [np.array(compiled(row[None])[0])[0] for row in rows], atol=2e-2
        )


def test_named_files_reach_their_inputs(tmp_path: Path) -> None:
    pair: dict[str, tuple[tuple[int, ...], Any]] = {"a": ((3,), np.float32), "b": ((3,), np.float32)}
    model = models.save(network(pair, lambda a, b: {"y": ops.subtract(a, b)}), tmp_path / "two.xml")
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.full((2, 3), 10, np.float32)
    np.save(tmp_path / "a.npy", a)
    b.tofile(tmp_path / "b.bin")
    out = tmp_path / "out.npz"
    arguments = ["infer", "-m", str(model), "-o", str(out), "-infer_precision", "f32"]
    assert main([*arguments, "-i", f"a:{tmp_path / 'a.npy'}", f"b:{tmp_path / 'b.bin'}"]) == 0
    with np.load(out) as results:
        np.testing.assert_array_equal(results["y"], a - b)
