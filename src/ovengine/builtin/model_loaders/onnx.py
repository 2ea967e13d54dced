"""Loader `onnx`: an `.onnx` file, or the bytes of one."""

from __future__ import annotations

from typing import Any

from ovengine._core import Graph
from ovengine._paths import is_path
from ovengine.builtin.model_loaders._files import has_suffix, require_file
from ovengine.errors import ModelError
from ovengine.hookspecs import LoadContext, ModelLoader, hookimpl


class OnnxLoader:
    """Reads `.onnx` paths (external weights beside them included) and bytes."""

    name = "onnx"

    def can_load(self, source: object) -> bool:
        """Take paths by their suffix, and bytes of any kind (the `blob` loader is asked before)."""
        if is_path(source):
            return has_suffix(source, ".onnx")
        return isinstance(source, (bytes, bytearray, memoryview))

    def load(self, source: Any, context: LoadContext) -> Graph:
        """Read the file, or the bytes without a temporary file."""
        if is_path(source):
            return context.runtime.read_model(str(require_file(source)))
        data = bytes(source)
        if not data:
            raise ModelError("the model is empty: 0 bytes")
        return context.runtime.read_model_bytes(data)


@hookimpl
def ovengine_model_loaders() -> list[ModelLoader]:
    """Offer `onnx`."""
    return [OnnxLoader()]
