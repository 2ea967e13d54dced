"""The loader, beside ovengine's own and on its own."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import ovengine_sample_loader
import pytest

import ovengine

pytest_plugins = ["ovengine.testing"]

CONTEXT = cast(Any, None)  # this loader needs nothing of it


def test_it_takes_gzipped_onnx_only() -> None:
    loader = ovengine_sample_loader.GzippedOnnxLoader()
    assert loader.can_load("model.onnx.gz")
    assert loader.can_load(Path("MODEL.ONNX.GZ"))
    assert not loader.can_load("model.onnx")
    assert not loader.can_load(b"model.onnx.gz")


def test_it_hands_on_what_was_packed(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx.gz"
    path.write_bytes(gzip.compress(b"an ONNX model"))
    assert ovengine_sample_loader.GzippedOnnxLoader().load(path, CONTEXT) == b"an ONNX model"


def test_missing_and_torn_files_are_typed_errors(tmp_path: Path) -> None:
    loader = ovengine_sample_loader.GzippedOnnxLoader()
    with pytest.raises(ovengine.ModelNotFoundError):
        loader.load(tmp_path / "none.onnx.gz", CONTEXT)
    torn = tmp_path / "torn.onnx.gz"
    torn.write_bytes(gzip.compress(bytes(1000))[:20])
    with pytest.raises(ovengine.ModelError, match="not a whole gzip file"):
        loader.load(torn, CONTEXT)


def test_it_is_asked_before_the_builtins(ovengine_plugins: Callable[..., ovengine.Plugins]) -> None:
    known = ovengine_plugins(ovengine_sample_loader)
    assert next(loader.name for loader in known.model_loaders() if loader.can_load("m.onnx.gz")) == "onnx.gz"
