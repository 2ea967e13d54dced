"""Numbers as callers give them: Python's, NumPy's, and whatever else says that it is an integer or a real number."""

from __future__ import annotations

import math
import numbers
import operator


def as_integer(value: object) -> int | None:
    """The integer that `value` is; None when it is none. A bool is no number, and a float is no integer."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def as_real(value: object) -> float | None:
    """The real number that `value` is; None when it is none, or NaN. A bool is no number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer beyond the largest float
        number = math.inf if value > type(value)(0) else -math.inf  # type: ignore[call-arg]
    return None if number != number else number
