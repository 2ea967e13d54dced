"""What is to be done: a model, one array per request, and the answers of plain OpenVINO."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov

import models

Array = npt.NDArray[Any]

PRECISION = "f32"
PROPERTIES = {"INFERENCE_PRECISION_HINT": PRECISION}
"""For everybody: the default precision differs between CPUs, and f32 is the one that every device has."""

TOLERANCE = 2e-4
"""Of answers, absolute and relative: sums are taken in another order where rows run together."""


@dataclass(frozen=True)
class Work:
    """Requests of one row each: `inputs[i]` has the shape (1, ...) and is answered by `expected[i]`."""

    name: str
    model: ov.Model
    inputs: list[Array]
    # As one array, for those who take all rows at once; `inputs` are its rows.
    rows: Array = field(repr=False)

    @cached_property
    def expected(self) -> Array:
        """Of `compiled_model(x)`, request by request."""
        compiled = ov.Core().compile_model(self.model, "CPU", PROPERTIES)
        return np.concatenate([compiled(x)[0] for x in self.inputs])

    def check(self, answers: Array) -> None:
        """Raise AssertionError unless `answers` has the right answer in every row."""
        np.testing.assert_allclose(answers, self.expected, rtol=TOLERANCE, atol=TOLERANCE)


def _work(name: str, model: ov.Model, rows: Array) -> Work:
    return Work(name, model, [rows[i : i + 1] for i in range(len(rows))], rows)


def mlp(name: str, widths: tuple[int, ...], requests: int) -> Work:
    """A perceptron made for one row, and random rows."""
    rows = np.random.default_rng(0).standard_normal((requests, widths[0]), np.float32)
    return _work(name, models.mlp(*widths, rows=1), rows)


def resnet50(requests: int = 8) -> Work:
    """ResNet-50 as the package onnx brings it, and noise for pictures."""
    rows = np.random.default_rng(0).random((requests, 3, 224, 224), np.float32)
    return _work("ResNet-50", _read(models.find("resnet50"), rows), rows)


def magika(requests: int = 32) -> Work:
    """The file-type classifier, and random bytes for files."""
    rows = np.random.default_rng(0).integers(0, 256, (requests, 2048), np.int32)
    return _work("Magika", _read(models.find("magika"), rows), rows)


def _read(path: Path, rows: Array) -> ov.Model:
    model = ov.Core().read_model(path)
    model.reshape((1, *rows.shape[1:]))
    return model
