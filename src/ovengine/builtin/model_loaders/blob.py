"""Loader `blob`: a model compiled before, from `export_model` or from OpenVINO's CACHE_DIR."""

from __future__ import annotations

from typing import Any

from ovengine._paths import is_path
from ovengine.builtin.model_loaders._files import has_suffix, require_file
from ovengine.errors import ModelError
from ovengine.hookspecs import Blob, LoadContext, ModelLoader, hookimpl

# What the CPU plugin begins an exported model with (it reads the two words as little-endian integers).
CPU_MAGIC = b"RR_UPCVO"
# A file in CACHE_DIR has one line of OpenVINO's core before that, which `import_model` does not read.
CACHE_HEADER = b"<?xml"


class BlobLoader:
    """Reads `.blob` paths and bytes. A blob fits the release, device and shapes that it was made for."""

    name = "blob"

    def can_load(self, source: object) -> bool:
        """Take paths by their suffix, bytes by what they begin with."""
        if isinstance(source, (bytes, bytearray, memoryview)) and not is_path(source):
            return bytes(source[: len(CPU_MAGIC)]) == CPU_MAGIC or _has_cache_header(bytes(source[:256]))
        return has_suffix(source, ".blob")

    def load(self, source: Any, context: LoadContext) -> Blob:
        """Read the file; whether the device takes the blob shows when it is imported."""
        data = require_file(source).read_bytes() if is_path(source) else bytes(source)
        if not data:
            raise ModelError("the blob is empty: 0 bytes")
        if _has_cache_header(data[:256]):
            data = data[data.find(b"\n") + 1 :]
        return Blob(data)


def _has_cache_header(head: bytes) -> bool:
    return head.startswith(CACHE_HEADER) and b"<compiled_blob" in head


@hookimpl
def ovengine_model_loaders() -> list[ModelLoader]:
    """Offer `blob`."""
    return [BlobLoader()]
