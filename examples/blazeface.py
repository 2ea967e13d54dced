"""BlazeFace, short range: what stands before and after the network.

Source: V. Bazarevsky et al., "BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs", CVPR Workshop
on Computer Vision for AR and VR, 2019, and the anchor options of MediaPipe's short-range detector.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

INPUT_SIZE = 128
"""Height and width of the network's input, pixels."""

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class Face(NamedTuple):
    """A face in pixels of the image it was found in: corners of its box and a score in 0..1."""

    left: float
    top: float
    right: float
    bottom: float
    score: float


def fit(width: int, height: int) -> tuple[int, int]:
    """Width and height of the largest picture of the same aspect ratio that the network takes."""
    scale = INPUT_SIZE / max(width, height)
    return round(width * scale), round(height * scale)


def to_input(picture: Image) -> Floats:
    """Centre a picture that `fit` sized on the network's input.

    Args:
        picture: RGB, uint8 `(height, width, 3)`, no side above 128.

    Returns:
        float32 `(1, 128, 128, 3)` in -1..1.
    """
    height, width, _ = picture.shape
    top, left = (INPUT_SIZE - height) // 2, (INPUT_SIZE - width) // 2
    canvas = np.full((1, INPUT_SIZE, INPUT_SIZE, 3), -1.0, np.float32)
    inner = canvas[0, top : top + height, left : left + width]
    np.multiply(picture, np.float32(1 / 127.5), out=inner)
    inner -= 1.0
    return canvas


def _anchors() -> Floats:
    """Anchor centres in pixels, `(896, 2)` as x, y: two per cell at stride 8, then six per cell at stride 16."""
    grids = []
    for stride, per_cell in ((8, 2), (16, 6)):
        centres = np.arange(stride / 2, INPUT_SIZE, stride, dtype=np.float32)
        y, x = np.meshgrid(centres, centres, indexing="ij")
        grids.append(np.stack([x, y], axis=-1).reshape(-1, 2).repeat(per_cell, axis=0))
    return np.concatenate(grids)


_ANCHORS = _anchors()


def faces(
    regressors: Floats,
    classificators: Floats,
    width: int,
    height: int,
    *,
    min_score: float = 0.5,
    max_overlap: float = 0.3,
) -> list[Face]:
    """Decode one image's outputs.

    Args:
        regressors: `(896, 16)`: centre offset, size and key points per anchor, network pixels.
        classificators: `(896, 1)`: scores before the sigmoid.
        width: of the original image, pixels.
        height: of the original image, pixels.
        min_score: weaker boxes are dropped.
        max_overlap: of two boxes whose intersection over union is above it, the weaker one is dropped.

    Returns:
        The faces, strongest first.
    """
    logits = classificators.reshape(-1)
    kept = np.flatnonzero(logits >= np.log(min_score / (1.0 - min_score)))
    kept = kept[np.argsort(-logits[kept], kind="stable")]
    centre = _ANCHORS[kept] + regressors[kept, 0:2]
    half = regressors[kept, 2:4] / 2
    # Back from the letterboxed input to the image's own pixels.
    inner = fit(width, height)
    border = np.array([(INPUT_SIZE - inner[0]) // 2, (INPUT_SIZE - inner[1]) // 2], np.float32)
    scale = np.float32(max(width, height) / INPUT_SIZE)
    boxes = np.concatenate([centre - half - border, centre + half - border], axis=1) * scale
    scores = 1.0 / (1.0 + np.exp(-logits[kept]))
    return [Face._make([*boxes[i].tolist(), float(scores[i])]) for i in _suppress(boxes, max_overlap)]


def _suppress(boxes: Floats, max_overlap: float) -> list[int]:
    """Greedy non-maximum suppression of `(n, 4)` boxes ordered by falling score; indices of the survivors."""
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    survivors: list[int] = []
    rest = np.arange(len(boxes))
    while rest.size:
        best, rest = rest[0], rest[1:]
        survivors.append(int(best))
        corner = np.maximum(boxes[best, :2], boxes[rest, :2])
        extent = np.clip(np.minimum(boxes[best, 2:], boxes[rest, 2:]) - corner, 0.0, None)
        shared = extent[:, 0] * extent[:, 1]
        rest = rest[shared <= max_overlap * (areas[best] + areas[rest] - shared)]
    return survivors
