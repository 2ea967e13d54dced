"""Reads ONNX models compressed with gzip (`.onnx.gz`)."""

from __future__ import annotations

import gzip
import os
import zlib

import ovengine
from ovengine.hookspecs import LoadContext, ModelLoader


class GzippedOnnxLoader:
    """Unpacks into memory; ovengine's own loader reads the bytes."""

    name = "onnx.gz"

    def can_load(self, source: object) -> bool:
        """Judge by the suffix."""
        return isinstance(source, (str, os.PathLike)) and os.fspath(source).lower().endswith(".onnx.gz")

    def load(self, source: str | os.PathLike[str], context: LoadContext) -> bytes:
        """Unpack the file. Raises ModelNotFoundError, ModelError."""
        try:
            with gzip.open(source) as file:
                return file.read()
        except FileNotFoundError as error:
            raise ovengine.ModelNotFoundError(f"no model file at {os.fspath(source)!r}") from error
        except (OSError, EOFError, zlib.error) as error:
            raise ovengine.ModelError(f"{os.fspath(source)!r} is not a whole gzip file: {error}") from error


@ovengine.hookimpl
def ovengine_model_loaders() -> list[ModelLoader]:
    """Offer `onnx.gz`."""
    return [GzippedOnnxLoader()]
