"""Shapes as callers spell them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ovengine._core import port_index
from ovengine.config import Shape, Shapes
from ovengine.errors import ConfigError, InputError, ModelError

if TYPE_CHECKING:
    from ovengine._core import Graph, Port

_DIMENSION = re.compile(r"\?|-1|\d+|\d*\.\.\d*")


def by_input(graph: Graph, shapes: Shapes) -> dict[str | int, tuple[str, ...]]:
    """The shape asked for of each input concerned, by its index, as OpenVINO's PartialShape spells dimensions.

    Raises InputError for an input that the model does not have, ConfigError for what is no shape.
    """
    if not isinstance(shapes, Mapping):
        if len(graph.inputs) != 1:
            raise InputError(f"shapes must be a mapping by input name: the model has {len(graph.inputs)} inputs")
        shapes = {0: shapes}
    return {port_index(graph.inputs, key, "input"): dimensions(shape) for key, shape in shapes.items()}


def dimensions(shape: Shape) -> tuple[str, ...]:
    """`[-1, 3, "1..64"]`, `"[?,3,1..64]"` or an `openvino.PartialShape` as ('-1', '3', '1..64'). Raises ConfigError."""
    if isinstance(shape, Sequence) and not isinstance(shape, str):
        parts = [str(dimension).strip() for dimension in shape]
    else:
        text = str(shape).strip().removeprefix("[").removesuffix("]")
        parts = [part.strip() for part in text.split(",")] if text else []
    for part in parts:
        if not _DIMENSION.fullmatch(part):
            raise ConfigError(
                f"{part!r} in the shape {shape!r} is not a dimension; "
                "give a length, -1 for any, or bounds such as '1..64'"
            )
    return tuple(parts)


def check_ranks(ports: Sequence[Port]) -> None:
    """Raise ModelError for a dynamic rank."""
    for port in ports:
        if port.shape is None:
            raise ModelError(f"{port.name!r} has a dynamic rank; give the shapes of the inputs in `shapes`")
