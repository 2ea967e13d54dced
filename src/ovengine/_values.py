"""Values for trial runs and measurements: made up within what the graph allows.

Operators of OpenVINO do not check all that they are given: a wrong index reads or writes outside of a tensor, a wrong
trip count loops for ever. `Graph.input_values` follows the inputs of a model to the operators that rely on their
values, and gives bounds. Where there are none, nothing may be made up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ovengine.errors import InferenceError
from ovengine.plan import is_number

if TYPE_CHECKING:
    from ovengine._core import Graph, Port

Array = np.ndarray[Any, Any]
# Fresh inputs for these ports, of a model for any number of rows.
Draw = Callable[[Sequence["Port"]], list[Array]]

# The name of the check that says that no inputs can be made up.
CHECK = "input values"

# From harmless to wide, where nothing depends on the values: bounds of floating-point numbers, and the largest integer.
SPANS = ((-1.0, 1.0, 1), (0.0, 1.0, 9), (-100.0, 100.0, 100))
# Where something does: all of the range, and then so much of it.
FEW = (None, 9, 1)
# Other rows are replaced by ones this much larger, so that even a small leak shows.
OTHERS_SCALE = 100.0


class UnknownValues(InferenceError):
    """A trial run needs inputs that cannot be made up."""


class InputValues(NamedTuple):
    """What one input may be given: `Graph.input_values` explains it."""

    low: float
    high: float
    free: bool
    fears_nan: bool
    unknown: str

    @property
    def least(self) -> float:
        """The valid value that is nearest to zero."""
        return min(max(0.0, self.low), self.high)

    def and_also(self, other: InputValues) -> InputValues:
        """What is right for both."""
        low, high = max(self.low, other.low), min(self.high, other.high)
        unknown = self.unknown or other.unknown or ("" if low <= high else "it at another batch size")
        return InputValues(low, high, self.free and other.free, self.fears_nan or other.fears_nan, unknown)


class Values:
    """Inputs for the models that are compiled of some graphs: the same model for several numbers of rows."""

    def __init__(self, inputs: Iterable[InputValues], names: Sequence[str] = ()) -> None:
        self._inputs = tuple(inputs)
        self._names = tuple(names)

    @classmethod
    def of(cls, *graphs: Graph) -> Values:
        """Right for each of the graphs."""
        found = [InputValues(*one) for one in graphs[0].input_values()]
        for graph in graphs[1:]:
            found = [one.and_also(InputValues(*other)) for one, other in zip(found, graph.input_values(), strict=True)]
        return cls(found, [port.name for port in graphs[0].inputs])

    def __getitem__(self, index: int) -> InputValues:
        return self._inputs[index]

    @property
    def unknown(self) -> str | None:
        """Why nothing can be made up, in one line; None where it can."""
        for name, one in zip(self._names, self._inputs, strict=False):
            if one.unknown:
                return f"no valid values of input {name!r} are known: {one.unknown} relies on them; give samples"
        return None

    def check(self) -> None:
        """Raise UnknownValues where nothing can be made up."""
        if self.unknown is not None:
            raise UnknownValues(self.unknown)

    def draws(self, shared: Sequence[bool]) -> Iterator[tuple[Draw, bool]]:
        """Ways to make up inputs, and whether the model has to take them.

        `shared`: the inputs that all rows share. Their values may decide what the model does (an axis, say), so small
        ones come first, which it may refuse.
        """
        rng = np.random.default_rng(0)

        def draw(ports: Sequence[Port], level: int, constant: int | None = None) -> list[Array]:
            made = []
            for port, one, is_shared in zip(ports, self._inputs, shared, strict=True):
                if is_shared and constant is not None:
                    made.append(_constant(port, one, constant))
                else:
                    made.append(drawn(rng, port, one, level=level))
            return made

        for constant in (0, 1, -1, -2) if any(shared) else ():
            yield lambda ports, constant=constant: draw(ports, 0, constant), False  # type: ignore[misc]
        for level in range(len(SPANS)):
            yield lambda ports, level=level: draw(ports, level), True  # type: ignore[misc]

    def enlarged(self, arrays: Iterable[Array]) -> list[Array]:
        """Floating-point numbers that nothing depends on, made much larger."""
        return [
            array * array.dtype.type(OTHERS_SCALE) if array.dtype.kind == "f" and one.free else array
            for array, one in zip(arrays, self._inputs, strict=True)
        ]

    def spoilt(self, arrays: Iterable[Array]) -> list[Array]:
        """Not a number, which stays so through whatever is added or multiplied with it; where that is dangerous or
        cannot be, the least.
        """
        return [
            np.full_like(array, np.nan if array.dtype.kind == "f" and one.free and not one.fears_nan else one.least)
            for array, one in zip(arrays, self._inputs, strict=True)
        ]

    def empty(self, arrays: Iterable[Array]) -> list[Array]:
        """Zeros, where they are valid; where not, the least value that is."""
        return [np.full_like(array, one.least) for array, one in zip(arrays, self._inputs, strict=True)]

    def to_measure(self, ports: Sequence[Port]) -> list[Array]:
        """Inputs that take as long as others would: zeros, unless they are indices."""
        self.check()
        rng = np.random.default_rng(0)
        for port, one in zip(ports, self._inputs, strict=True):
            if not one.free and not is_number(port.element_type):
                raise UnknownValues(f"no values of {port.element_type} are made up for input {port.name!r}")
        return [
            np.zeros(_shape(port), port.dtype) if one.free else drawn(rng, port, one)
            for port, one in zip(ports, self._inputs, strict=True)
        ]


def _shape(port: Port) -> tuple[int, ...]:
    assert port.shape is not None
    return port.shape


def drawn(
    rng: np.random.Generator, port: Port, one: InputValues, shape: Sequence[int] | None = None, level: int = 0
) -> Array:
    """Valid values for one input, at its own shape or another; `level`: of SPANS. Raises TypeError."""
    kind, shape = port.dtype.kind, _shape(port) if shape is None else shape
    least, most, largest = SPANS[level]
    if kind == "f":
        low, high = (least, most) if one.free else (one.low, one.high)
        return rng.uniform(low, high, shape).astype(port.dtype)
    if kind not in "iub":
        raise TypeError(f"input {port.name!r} is of type {port.dtype}")
    few = FEW[level]
    first, last = math.ceil(one.low), math.floor(one.high)
    if one.free:
        first, last = max(first, 0), min(last, largest)
    elif few is not None:
        last = min(last, first + few)
    return rng.integers(first, last, shape, endpoint=True).astype(port.dtype)


def _constant(port: Port, one: InputValues, value: int) -> Array:
    """All of that value; of what is valid, negative ones count from the end."""
    if port.dtype.kind in "ub":
        value = abs(value)
    if not one.low <= value <= one.high:
        value = math.floor(one.high) + 1 + value if value < 0 else math.floor(one.least)
    return np.full(_shape(port), max(value, one.least), port.dtype)
