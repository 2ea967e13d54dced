"""Model files that try what they had better not: each is one ModelError, before OpenVINO sees it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino as ov
import pytest
from onnx import helper, numpy_helper

import ovengine
from ovengine import Inspection, ModelError, hookspecs
from ovengine._inspection import _isolation
from ovengine._inspection._protobuf import encoded

WEIGHTS = np.arange(16, dtype=np.float32).reshape(4, 4)
ROW = np.ones((1, 4), np.float32)
ANSWER = WEIGHTS.sum(0)[None]


def mlp(weights: np.ndarray[Any, Any] = WEIGHTS) -> onnx.ModelProto:
    """y = x @ w."""
    shape: list[str | int | None] = ["n", 4]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "mlp",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def in_a_file(path: Path, location: str, **entries: object) -> Path:
    """The same with its weights at that location, which is not written."""
    model = mlp()
    (tensor,) = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    path.write_bytes(model.SerializeToString())
    return path


def answer(source: object, **options: Any) -> Any:
    with ovengine.load(source, cache_dir=None, device="CPU", **options) as model:
        return model(ROW)["y"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With weights in it, and a secret beside it."""
    inside = tmp_path / "model"
    inside.mkdir()
    (inside / "w.data").write_bytes(WEIGHTS.tobytes())
    (tmp_path / "secret").write_bytes(bytes(64))
    return inside


# -- weights of ONNX models in files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("entries", [{}, {"offset": 0}, {"length": 64}, {"offset": 0, "length": 64, "checksum": "no"}])
def test_weights_beside_the_model_are_read(folder: Path, entries: dict[str, int]) -> None:
    np.testing.assert_array_equal(answer(in_a_file(folder / "m.onnx", "w.data", **entries)), ANSWER)


def test_weights_may_lie_anywhere_in_the_file_and_below_the_folder(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "w").write_bytes(b"123" + WEIGHTS.tobytes() + b"4")
    np.testing.assert_array_equal(answer(in_a_file(folder / "m.onnx", "deep/w", offset=3, length=64)), ANSWER)


def test_a_path_without_a_folder_is_of_the_working_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_a_file(folder / "m.onnx", "w.data")
    monkeypatch.chdir(folder)
    np.testing.assert_array_equal(answer("m.onnx"), ANSWER)


def test_the_answers_stay_when_the_file_is_changed(folder: Path) -> None:
    with ovengine.load(in_a_file(folder / "m.onnx", "w.data"), cache_dir=None, device="CPU") as model:
        (folder / "w.data").write_bytes(b"")
        np.testing.assert_array_equal(model(ROW)["y"], ANSWER)
        model.wait_ready()
        np.testing.assert_array_equal(model(np.ones((32, 4), np.float32))["y"][31:], ANSWER)


def test_a_tensor_of_no_elements_needs_no_bytes(folder: Path) -> None:
    model = mlp()
    empty = onnx.TensorProto(name="none", data_type=1, dims=[0, 4], data_location=onnx.TensorProto.EXTERNAL)
    empty.external_data.add(key="location", value="nothing")
    model.graph.initializer.append(empty)
    (folder / "nothing").touch()
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    np.testing.assert_array_equal(answer(folder / "m.onnx"), ANSWER)


LOCATIONS = {
    "above": ("../secret", "not below its own folder"),
    "above, in the middle": ("deep/../../secret", "not below its own folder"),
    "above, as Windows writes it": ("..\\secret", "not below its own folder"),
    "absolute": ("/etc/hostname", "not below its own folder"),
    "absolute, as Windows writes it": ("C:/secret", "not below its own folder"),
    "nothing": ("", "no file name"),
    "a null byte": ("w.data\0", "no file name"),
    "absent": ("absent", "cannot be read"),
    "the folder": (".", "no file"),
    "a pipe": ("pipe", "no file"),
    "a device": ("zero", "no file"),
    "an address": ("*/_ORT_MEM_ADDR_/*", "address"),
    "a link to a file outside": ("link", "outside of the model's folder"),
    "a link to a folder outside": ("up/secret", "outside of the model's folder"),
    "another name of a file": ("hard", "hard links"),
}


@pytest.mark.parametrize(("location", "reason"), LOCATIONS.values(), ids=LOCATIONS)
def test_other_files_are_not_read(folder: Path, location: str, reason: str) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "link").symlink_to("../secret")
    (folder / "up").symlink_to("..")
    (folder / "hard").hardlink_to(folder.parent / "secret")
    with pytest.raises(ModelError, match=r"m\.onnx.*tensor 'w'.*" + reason):
        answer(in_a_file(folder / "m.onnx", location))


@pytest.mark.parametrize("key", ["external_data_roots", "a link inside"])
def test_links_work_where_what_they_lead_to_may_be_read(folder: Path, key: str) -> None:
    # As model hubs do: snapshots/1/m.onnx -> blobs/a, snapshots/1/w.data -> blobs/b.
    blobs, snapshot = folder.parent / "blobs", folder.parent / "snapshots" / "1"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    in_a_file(blobs / "a", "w.data")
    (blobs / "b").write_bytes(WEIGHTS.tobytes())
    (snapshot / "m.onnx").symlink_to(blobs / "a")
    if key == "a link inside":
        (snapshot / "own").write_bytes(WEIGHTS.tobytes())
        (snapshot / "w.data").symlink_to("own")
        np.testing.assert_array_equal(answer(snapshot / "m.onnx"), ANSWER)
        return
    (snapshot / "w.data").symlink_to("../../blobs/b")
    with pytest.raises(ModelError, match="external_data_roots"):
        answer(snapshot / "m.onnx")
    allowed = Inspection(external_data_roots=[folder.parent])
    np.testing.assert_array_equal(answer(snapshot / "m.onnx", inspection=allowed), ANSWER)


def test_hard_links_below_a_root_may_be_read(folder: Path) -> None:
    (folder.parent / "other name").hardlink_to(folder / "w.data")
    path = in_a_file(folder / "m.onnx", "w.data")
    with pytest.raises(ModelError, match="hard links"):
        answer(path)
    np.testing.assert_array_equal(answer(path, inspection=Inspection(external_data_roots=folder)), ANSWER)


RANGES = {
    "beyond the file": {"offset": 1, "length": 64},
    "an offset that wraps around": {"offset": 2**64 - 8, "length": 64},
    "a length of 10^15": {"offset": 0, "length": 10**15},
    "a huge offset": {"offset": 10**15},
    "fewer bytes than the shape needs": {"offset": 0, "length": 16},
    "a negative offset": {"offset": -4},
    "no number": {"offset": "0x10"},
    "digits of another script": {"offset": "\u0664"},
    "a number without an end": {"offset": "1" * 5000},
}


@pytest.mark.parametrize("entries", RANGES.values(), ids=RANGES)
def test_bytes_that_are_not_there_are_not_read(folder: Path, entries: dict[str, object]) -> None:
    if entries.get("length") == 10**15:  # more than is needed does no harm: what is needed is there
        np.testing.assert_array_equal(answer(in_a_file(folder / "m.onnx", "w.data", **entries)), ANSWER)
        return
    with pytest.raises(ModelError, match=r"m\.onnx.*tensor 'w'"):
        answer(in_a_file(folder / "m.onnx", "w.data", **entries))


def test_a_tensor_in_a_body_is_found_too(folder: Path) -> None:
    constant = onnx.TensorProto(name="t", data_type=1, dims=[4], data_location=onnx.TensorProto.EXTERNAL)
    constant.external_data.add(key="location", value="../secret")
    shape: list[str | int | None] = ["n", 4]
    body = helper.make_graph(
        [helper.make_node("Add", ["x", "t"], ["z"])],
        "body",
        [],
        [helper.make_tensor_value_info("z", 1, shape)],
        [constant],
    )
    condition = numpy_helper.from_array(np.array(True), "c")
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)],
        "g",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info("y", 1, shape)],
        [condition],
    )
    path = folder / "m.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())
    with pytest.raises(ModelError, match="not below its own folder"):
        answer(path)


def test_a_model_in_memory_has_no_files(folder: Path) -> None:
    data = in_a_file(folder / "m.onnx", str(folder / "w.data")).read_bytes()
    with pytest.raises(ModelError, match="given without a path"):
        answer(data)


def test_the_address_of_a_tensor_is_refused_in_bytes_too(folder: Path) -> None:
    data = in_a_file(folder / "m.onnx", "*/_ORT_MEM_ADDR_/*", offset=4096, length=64).read_bytes()
    with pytest.raises(ModelError, match="address in this process"):
        answer(data)


def test_what_a_plugin_unpacks_is_looked_through_as_well(folder: Path) -> None:
    in_a_file(folder / "inner.onnx", "../secret")
    with zipfile.ZipFile(folder / "m.zip", "w") as archive:
        archive.write(folder / "inner.onnx", "inner.onnx")

    class Unzips:
        name = "zip"

        def can_load(self, source: object) -> bool:
            return str(source).endswith(".zip")

        def load(self, source: Any, context: hookspecs.LoadContext) -> object:
            with zipfile.ZipFile(source) as archive:
                return Path(archive.extract("inner.onnx", folder / "unpacked"))

    class Plugin:
        @ovengine.hookimpl
        def ovengine_model_loaders(self) -> list[Any]:
            return [Unzips()]

    with ovengine.Engine(plugins=[Plugin()]) as engine, pytest.raises(ModelError, match="not below its own folder"):
        engine.load(folder / "m.zip")


# -- ONNX files themselves --------------------------------------------------------------------------------------------


def tensor_of(**changes: Any) -> bytes:
    model = mlp()
    (tensor,) = model.graph.initializer
    for name, value in changes.items():
        if name == "dims":
            del tensor.dims[:]
            tensor.dims.extend(value)
        else:
            setattr(tensor, name, value)
    return bytes(model.SerializeToString())


def nested(depth: int) -> bytes:
    graph = b""
    for _ in range(depth):
        graph = encoded(1, encoded(5, encoded(6, graph)))  # node, attribute, graph
    return encoded(7, graph)


DAMAGED: dict[str, tuple[bytes, str]] = {
    "a shape of 2^60 elements": (tensor_of(dims=[1 << 30, 1 << 30]), "max_tensor_bytes"),
    "a shape of more elements than bytes": (tensor_of(dims=[1000, 1000]), "no more than"),
    "a shape whose product wraps around": (tensor_of(dims=[1 << 32, 1 << 32, 4]), "max_tensor_bytes"),
    "a negative length": (tensor_of(dims=[-4, 4]), "has the shape"),
    "fewer bytes than the shape needs": (tensor_of(raw_data=bytes(60)), "no more than 60 bytes"),
    "65 dimensions": (tensor_of(dims=[1] * 65), "has the shape"),
    "bodies in bodies": (nested(40), "max_depth"),
    "a message that is longer than the file": (mlp().SerializeToString()[:-10], "are left"),
    "two graphs": (mlp().SerializeToString() + mlp().SerializeToString(), "comes twice"),
    "a group": (b"\x0b" + mlp().SerializeToString(), "wire type 3"),
    "field 0": (b"\x02\x00" + mlp().SerializeToString(), "number 0"),
    "a number without an end": (b"\x08" + b"\xff" * 40, "does not end"),
    "text": (b"not a model at all, but a text that somebody named so", "damaged or no ONNX model"),
}


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize(("data", "reason"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_model_is_one_error(tmp_path: Path, data: bytes, reason: str, in_memory: bool) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=reason) as caught:
        answer(data if in_memory else path)
    assert ("the model" if in_memory else "m.onnx") in str(caught.value)


def test_limits_are_settings() -> None:
    data = mlp().SerializeToString()
    np.testing.assert_array_equal(answer(data, inspection=Inspection(max_tensor_bytes=64)), ANSWER)
    with pytest.raises(ModelError, match="max_tensor_bytes"):
        answer(data, inspection=Inspection(max_tensor_bytes=63))
    with pytest.raises(ModelError, match="max_operators"):
        answer(
            helper.make_model(helper.make_graph([helper.make_node("A", [], [])] * 3, "g", [], [])).SerializeToString(),
            inspection=Inspection(max_operators=2),
        )


@pytest.mark.parametrize(
    "make",
    [
        lambda: Inspection(max_depth=0),
        lambda: Inspection(max_tensor_bytes="1"),  # type: ignore[arg-type]
        lambda: Inspection(external_data_roots=["/absent"]),
        lambda: ovengine.load(b"", inspection=3),  # type: ignore[arg-type]
    ],
)
def test_bad_limits_are_said(make: Callable[[], object]) -> None:
    with pytest.raises(ovengine.ConfigError):
        make()


# -- IR ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ir(tmp_path: Path) -> Path:
    x = ov.opset13.parameter([-1, 4], np.float32, name="x")
    y = ov.opset13.matmul(x, ov.opset13.constant(WEIGHTS), False, False)
    y.output(0).set_names({"y"})
    path = tmp_path / "m.xml"
    ov.save_model(ov.Model([ov.opset13.result(y)], [x], "mlp"), path, compress_to_fp16=False)
    return path


def test_an_ir_is_read(ir: Path) -> None:
    np.testing.assert_array_equal(answer(ir), ANSWER)


CHANGES: dict[str, tuple[Callable[[str], str], str]] = {
    "weights beyond the .bin": (lambda text: text.replace('offset="0"', 'offset="8"'), "bytes 8 to 72 of weights"),
    "an offset that wraps around": (
        lambda text: text.replace('offset="0"', f'offset="{2**64 - 8}"'),
        "not a number|bytes 18446744073709551608",
    ),
    "more elements than bytes": (lambda text: text.replace('shape="4, 4"', 'shape="400, 4"'), "needs 6400 bytes"),
    "a negative size": (lambda text: text.replace('size="64"', 'size="-64"'), "not a number"),
    "an id twice": (lambda text: text.replace('id="1"', 'id="0"', 1), "two layers have the id '0'"),
    "absurd dimensions": (lambda text: text.replace("<dim>4</dim>", "<dim>4000000000000</dim>"), "max_tensor_bytes"),
    "a dimension that is no number": (lambda text: text.replace("<dim>4</dim>", "<dim>4e9</dim>"), "not a number"),
    "entities": (
        lambda text: text.replace("<net ", '<!DOCTYPE net [<!ENTITY a "aaaa">]><net ', 1),
        "document type",
    ),
    "no end": (lambda text: text.replace("</layers>", ""), "no XML"),
}


@pytest.mark.parametrize(("change", "reason"), CHANGES.values(), ids=CHANGES)
def test_a_damaged_ir_is_one_error(ir: Path, change: Callable[[str], str], reason: str) -> None:
    text = ir.read_text()
    changed = change(text)
    assert changed != text
    ir.write_text(changed)
    with pytest.raises(ModelError, match=r"m\.xml.*(" + reason + ")"):
        answer(ir)


def test_a_bin_that_was_cut_off_is_one_error(ir: Path) -> None:
    os.truncate(ir.with_suffix(".bin"), 32)
    with pytest.raises(ModelError, match="weights that have 32"):
        answer(ir)


# -- in a child process first -----------------------------------------------------------------------------------------


def test_what_loads_apart_loads_here(ir: Path, folder: Path) -> None:
    np.testing.assert_array_equal(answer(ir, isolate=True, shapes=[2, 4], config={"NUM_STREAMS": 1})[:1], ANSWER)
    np.testing.assert_array_equal(answer(mlp().SerializeToString(), isolate=True), ANSWER)
    np.testing.assert_array_equal(answer(in_a_file(folder / "m.onnx", "w.data"), isolate=True), ANSWER)


def test_what_is_refused_there_is_refused_with_the_same_words(folder: Path) -> None:
    with pytest.raises(ModelError, match="not below its own folder"):
        answer(in_a_file(folder / "m.onnx", "../secret"), isolate=True)


def test_modules_beside_the_model_are_not_imported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_a_file(folder / "m.onnx", "w.data")
    for module in ("ovengine", "json"):
        (folder / f"{module}.py").write_text("raise SystemExit('imported from the working directory')")
    monkeypatch.chdir(folder)
    np.testing.assert_array_equal(answer("m.onnx", isolate=True), ANSWER)


# A real model that ends the process has yet to be found: the child is made to.
ENDS = {
    "a crash": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended it with SIGSEGV"),
    "a hang": ("import time; time.sleep(1000)", "longer than isolated_seconds"),
    "an error of Python": ("raise RuntimeError('no such luck')", "failed .RuntimeError: no such luck"),
}


@pytest.mark.parametrize(("code", "reason"), ENDS.values(), ids=ENDS)
def test_the_end_of_the_child_is_an_error(monkeypatch: pytest.MonkeyPatch, ir: Path, code: str, reason: str) -> None:
    monkeypatch.setattr(_isolation, "CHILD", code)
    with pytest.raises(ModelError, match=r"m\.xml.*" + reason):
        answer(ir, isolate=True, inspection=Inspection(isolated_seconds=0.5 if "sleep" in code else 100))


def test_a_model_that_needs_more_memory_than_it_may_have_is_refused(tmp_path: Path) -> None:
    x = ov.opset13.parameter([1], np.float32, name="x")
    big = ov.opset13.broadcast(x, ov.opset13.constant(np.array([1 << 31], np.int64)))
    path = tmp_path / "big.xml"
    ov.save_model(ov.Model([ov.opset13.result(big)], [x], "big"), path)
    with pytest.raises(ModelError):
        answer(path, isolate=True, inspection=Inspection(isolated_memory_bytes=1 << 30))


def test_an_object_cannot_be_loaded_apart() -> None:
    with pytest.raises(ovengine.ConfigError, match="isolate=True"):
        answer(object(), isolate=True)


# -- anything at all --------------------------------------------------------------------------------------------------

MUTATIONS = """
import pathlib, random, sys
import ovengine
from ovengine import Inspection
from ovengine._inspection import ModelReader

class Nothing:
    def read_model(self, path, weights=""): return None
    def read_model_bytes(self, model, weights=None, owner=None): return None

source, seed, count = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
data, random = source.read_bytes(), random.Random(seed)
reader, path, refused = ModelReader(Nothing(), Inspection()), source.with_name("mutant" + source.suffix), 0
if source.with_suffix(".bin").exists():
    path.with_suffix(".bin").write_bytes(source.with_suffix(".bin").read_bytes())
for _ in range(count):
    mutant = bytearray(data)
    for _ in range(random.randint(1, 8)):
        at = random.randrange(len(mutant))
        kind = random.randrange(4)
        if kind == 0: mutant[at] = random.randrange(256)
        elif kind == 1: mutant[at] ^= 1 << random.randrange(8)
        elif kind == 2: del mutant[at:at + random.randint(1, 16)]
        else: mutant[at:at] = random.randbytes(random.randint(1, 8))
        if not mutant: mutant = bytearray(b"x")
    path.write_bytes(mutant)
    try: reader.read_model(path)
    except ovengine.ModelError: refused += 1
print(refused)
"""


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_whatever_is_in_a_file_the_inspection_ends_or_refuses(folder: Path, ir: Path, suffix: str) -> None:
    source = in_a_file(folder / "m.onnx", "w.data") if suffix == ".onnx" else ir
    command = [sys.executable, "-c", MUTATIONS, str(source), str(random.randrange(1 << 30)), "1000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[3:]}: {done.stderr}"
    assert 0 < int(done.stdout) < 1000
