"""Which models take tensors that are no plain arrays of numbers, and how they run: never batched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ovengine.plan import BatchAxis, is_number

if TYPE_CHECKING:
    from ovengine._core import Port


def examine(inputs: Sequence[Port], outputs: Sequence[Port]) -> BatchAxis | None:
    """How a model with an element type that NumPy lacks runs, or None when it has none.

    Elements smaller than a byte have no rows to put together; of bits no trial can tell rounding from mixed rows. Text
    lies elsewhere in memory, and so takes the way of dynamic shapes.
    """
    ports = (*inputs, *outputs)
    special = next((port for port in ports if not is_number(port.element_type)), None)
    if special is None:
        return None
    why = f"{special.name!r} is of {special.element_type}"
    static = all(port.shape is not None and min(port.shape, default=0) >= 0 for port in ports)
    has_text = any(port.element_type == "string" for port in ports)
    return BatchAxis("whole" if static and not has_text else "dynamic", False, why)
