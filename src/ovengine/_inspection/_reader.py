"""Reads models through an inspection: what it has seen is what OpenVINO gets, by descriptor or from memory."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

from ovengine._core import Graph, Runtime
from ovengine._inspection._external import ExternalData
from ovengine._inspection._ir import IrInspection
from ovengine._inspection._onnx import OnnxInspection
from ovengine._inspection._protobuf import Source
from ovengine._inspection._settings import Inspection
from ovengine._paths import StrOrBytesPath
from ovengine.errors import ModelError, ModelNotFoundError

BLOCK_BYTES = 1 << 18


class ModelReader:
    """What a loader reads models with (`LoadContext.runtime`)."""

    def __init__(self, runtime: Runtime, limits: Inspection) -> None:
        self._runtime = runtime
        self._limits = limits

    def read_model(self, path: StrOrBytesPath, weights: StrOrBytesPath = "") -> Graph:
        """Read a file that an OpenVINO frontend knows. Raises ModelError with what is wrong with it."""
        name, weights = os.fsdecode(path), os.fsdecode(weights)
        if os.path.isdir(name):  # of other frontends
            return self._runtime.read_model(name, weights)
        with _opened(name) as fd:
            if name.lower().endswith(".onnx"):
                return self._read_onnx(name, fd)
            if name.lower().endswith(".xml"):
                return self._read_ir(name, fd, weights or os.path.splitext(name)[0] + ".bin")
            return self._runtime.read_model(name, weights)

    def read_model_bytes(self, model: bytes, weights: bytes | None = None) -> Graph:
        """Read an ONNX model, or the text of an IR with its weights, from memory. Raises ModelError."""
        if model.lstrip()[:1] == b"<":
            IrInspection("the model", self._limits, len(weights or b"")).run([model])
        else:
            external = ExternalData(None, self._limits.real_roots)
            OnnxInspection(Source("the model", data=model), self._limits, external).run()
        return self._runtime.read_model_bytes(model, weights)

    def adopt(self, model: object) -> Graph:
        """Take an `openvino.Model`. Raises ModelError for anything else."""
        return self._runtime.adopt(model)

    def _read_onnx(self, name: str, fd: int) -> Graph:
        external = ExternalData(os.path.dirname(name) or ".", self._limits.real_roots)
        found = OnnxInspection(Source(repr(name), fd=fd), self._limits, external).run()
        if found is None:
            return self._read(name, fd, "")
        # What the graph refers to lies in mappings, which it keeps.
        return self._runtime.read_model_bytes(found, owner=external.kept)

    def _read_ir(self, name: str, fd: int, weights: str) -> Graph:
        if not os.path.exists(weights):
            IrInspection(repr(name), self._limits, 0).run(_blocks(fd))
            return self._read(name, fd, "")
        with _opened(weights) as weights_fd:
            IrInspection(repr(name), self._limits, os.fstat(weights_fd).st_size).run(_blocks(fd))
            return self._read(name, fd, f"/proc/self/fd/{weights_fd}")

    def _read(self, name: str, fd: int, weights: str) -> Graph:
        """By descriptor: the path may lead to another file by now."""
        before = _version(fd)
        try:
            graph = self._runtime.read_model(f"/proc/self/fd/{fd}", weights)
        except ModelError as error:
            raise ModelError(str(error).replace(f"/proc/self/fd/{fd}", name)) from None
        if _version(fd) != before:
            raise ModelError(f"{name!r} was changed while it was read; load it again")
        return graph


@contextlib.contextmanager
def _opened(name: str) -> Iterator[int]:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise ModelNotFoundError(f"no model file at {name!r} ({error.strerror})") from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ModelError(f"{name!r} is no file")
        yield fd
    finally:
        os.close(fd)


def _blocks(fd: int) -> Iterator[bytes]:
    at = 0
    while block := os.pread(fd, BLOCK_BYTES, at):
        yield block
        at += len(block)


def _version(fd: int) -> tuple[int, int, int]:
    found = os.fstat(fd)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns
