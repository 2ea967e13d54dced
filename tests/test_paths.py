"""Paths are text, bytes or os.PathLike, and the names of files need not be UTF-8."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino as ov
import pytest
from onnx import TensorProto, helper, numpy_helper

import ovengine
from ovengine._core import Runtime
from ovengine.profile import Conditions, Settings
from support import PATIENCE, double, tagged

X = tagged(3)


class OwnPath:
    """An os.PathLike of bytes."""

    def __init__(self, path: Path) -> None:
        self.path = os.fsencode(path)

    def __fspath__(self) -> bytes:
        return self.path


WAYS: dict[str, Callable[[Path], Any]] = {"str": str, "bytes": os.fsencode, "Path": Path, "PathLike of bytes": OwnPath}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose name is not UTF-8."""
    folder = tmp_path / os.fsdecode(b"mod\xe8les \xff")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("the file system takes UTF-8 alone")
    return folder


def ir(folder: Path) -> Path:
    ov.save_model(double(), folder.parent / "plain.xml")
    for suffix in (".xml", ".bin"):
        shutil.copy(folder.parent / f"plain{suffix}", folder / f"{os.fsdecode(bytes([0xE9]))}{suffix}")
    return folder / os.fsdecode(b"\xe9.xml")


def onnx_model(folder: Path, *, external: bool) -> Path:
    two = numpy_helper.from_array(np.full((1, 4), 2, np.float32), "two")
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Mul", ["x", "two"], ["y"])], "double", ports[:1], ports[1:], [two])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    plain = folder.parent / "plain.onnx"
    onnx.save(model, str(plain), save_as_external_data=external, location="weights", size_threshold=0)
    if external:
        shutil.copy(folder.parent / "weights", folder / "weights")
    return Path(shutil.copy(plain, folder / os.fsdecode(b"\xe9.onnx")))


def blob(folder: Path) -> Path:
    runtime = Runtime()
    path = folder / os.fsdecode(b"\xe9.blob")
    path.write_bytes(runtime.compile(runtime.adopt(double()), "CPU", {}).export())
    return path


MODELS: dict[str, Callable[[Path], Path]] = {
    "ir": ir,
    "onnx": lambda folder: onnx_model(folder, external=False),
    "onnx with its weights beside it": lambda folder: onnx_model(folder, external=True),
    "blob": blob,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", MODELS)
def test_a_model_is_loaded_from_a_path_that_is_not_utf8(folder: Path, kind: str, way: str) -> None:
    with ovengine.load(WAYS[way](MODELS[kind](folder)), batcher="none", cache_dir=None) as model:
        np.testing.assert_array_equal(model(X)[0], 2 * X)
        assert model.name == "\\xe9"
        f"{model.plan} {model!r} {model.stats()}".encode()  # can be printed


@pytest.mark.parametrize("way", WAYS)
def test_such_a_model_is_tried_in_a_process_of_its_own(folder: Path, way: str) -> None:
    source = WAYS[way](ir(folder))
    with ovengine.load(source, isolate=True, batcher="none", cache_dir=None) as model:
        np.testing.assert_array_equal(model(X)[0], 2 * X)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_learned_is_kept_in_such_a_folder(folder: Path, way: str) -> None:
    source, cache = ir(folder), WAYS[way](folder / "cache")
    for _ in range(2):
        with ovengine.load(source, cache_dir=cache) as model:
            assert model.wait_ready(PATIENCE)
    assert list((folder / "cache").rglob("*.json"))


@pytest.mark.parametrize("way", WAYS)
def test_openvino_keeps_its_compiled_models_in_such_a_folder(folder: Path, way: str) -> None:
    config = {"CACHE_DIR": WAYS[way](folder / "blobs")}
    with ovengine.load(ir(folder), config=config, batcher="none", cache_dir=None) as model:
        np.testing.assert_array_equal(model(X)[0], 2 * X)
    assert list((folder / "blobs").glob("*.blob"))


def test_a_file_that_is_missing_is_named_as_it_can_be_printed(folder: Path) -> None:
    for source in (folder / os.fsdecode(b"\xfd.xml"), OwnPath(folder / os.fsdecode(b"\xfd.onnx"))):
        with pytest.raises(ovengine.ModelNotFoundError) as raised:
            ovengine.load(source)
        str(raised.value).encode()


def test_bytes_that_name_no_file_are_contents() -> None:
    with pytest.raises(ovengine.ModelError, match="no ONNX model"):
        ovengine.load(b"missing.model")


@pytest.mark.parametrize("path", ["a\0b.xml", b"a\0b.xml"])
def test_a_null_in_a_path_is_an_error(path: Any) -> None:
    with pytest.raises((ovengine.ModelError, ovengine.ModelNotFoundError)):
        ovengine.load(path)
    with pytest.raises(ovengine.ModelNotFoundError, match="null"):
        Runtime().read_model(path)


@pytest.mark.parametrize("way", WAYS)
def test_a_profile_is_written_and_read_at_such_a_path(folder: Path, way: str) -> None:
    path = WAYS[way](folder / os.fsdecode(b"\xe9.json"))
    profile = ovengine.Profile(Conditions("hash", "CPU", "A CPU", np.int64(8), "2026", "throughput"), Settings((1, 4)))
    profile.save(path)
    assert ovengine.Profile.load(path) == profile
    with pytest.raises(ovengine.ConfigError) as raised:
        ovengine.Profile.load(WAYS[way](folder / "none.json"))
    str(raised.value).encode()


def test_the_command_line_reads_and_writes_such_files(folder: Path) -> None:
    np.save(folder / "x.npy", X)
    for out in (folder / os.fsdecode(b"\xe9.npz"), folder / os.fsdecode(b"\xe9.jsonl")):
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "ovengine",
            "infer",
            "-m",
            ir(folder),
            "-i",
            folder / "x.npy",
            "-o",
            out,
        ]
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
        assert out.stat().st_size > 0
    info: list[str | Path] = [sys.executable, "-m", "ovengine", "info", "-m", ir(folder)]
    done = subprocess.run(info, capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    assert b"\\udce9.xml" in done.stdout
