"""What is to be done: a model, one array per request, and the answers of plain OpenVINO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, eq=False)
class Work:
    """Requests of one row each, answered by `expected[i]`: `inputs[i]` is an array, or one for each of the inputs.

    capacity: requests a second that can be served, where a load is a part of it; measured before the turns.
    """

    name: str
    model: ov.Model
    inputs: list[Any]
    capacity: float = 0.0

    @cached_property
    def rows(self) -> Array:
        """All inputs as one array, for those who take all rows at once; of works with one input."""
        return np.concatenate(self.inputs)

    @cached_property
    def expected(self) -> Array:
        """Of `compiled_model(x)`, request by request."""
        compiled = ov.Core().compile_model(self.model, "CPU", PROPERTIES)
        return np.concatenate([compiled(x)[0] for x in self.inputs])

    def check(self, answers: Array, of: Sequence[int] | None = None) -> None:
        """Raise AssertionError unless `answers` has the right answer in every row: of all requests, or of those."""
        expected = self.expected if of is None else self.expected[of]
        np.testing.assert_allclose(answers, expected, rtol=TOLERANCE, atol=TOLERANCE)


def _work(name: str, model: ov.Model, rows: Array) -> Work:
    return Work(name, model, [rows[i : i + 1] for i in range(len(rows))])


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


def text_direction(requests: int = 128) -> Work:
    """Tells pictures of text from such that are upside down; noise for pictures."""
    rows = np.random.default_rng(0).random((requests, 3, 48, 192), np.float32)
    return _work("text-direction CNN", _read(models.find("text_direction"), rows), rows)


def face_detector(requests: int = 128) -> Work:
    """BlazeFace, and noise for pictures."""
    rows = np.random.default_rng(0).random((requests, 128, 128, 3), np.float32) * 2 - 1
    return _work("face detector", _read(models.find("face_detector"), rows), rows)


def silero_vad(requests: int = 256) -> Work:
    """Tells speech from silence; noise for audio, and each stream in a state of its own."""
    rng = np.random.default_rng(0)
    inputs = [
        {"input": rng.standard_normal((1, 576), np.float32) / 10, "state": rng.standard_normal((2, 1, 128), np.float32)}
        for _ in range(requests)
    ]
    return Work("silero VAD", ov.Core().read_model(models.find("silero_vad")), inputs)


def _read(path: Path, rows: Array) -> ov.Model:
    model = ov.Core().read_model(path)
    model.reshape((1, *rows.shape[1:]))
    return model
