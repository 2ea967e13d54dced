"""Finds out whether rows of different requests may share an inference.

Two steps. `examine` looks at shapes: all inputs and outputs must have a leading batch dimension, and reshaping to a
batch of two must change nothing else. `probe` then runs the model: a row's result must not depend on its neighbours,
and must equal what the row gets alone. A model that passes the first step may still fail the second (a softmax over
the wrong axis, say), and one that cannot be judged counts as failed: it runs unbatched, and right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ovengine.errors import ModelError, OvengineError
from ovengine.plan import BatchAxis, Mode

if TYPE_CHECKING:
    from ovengine._core import Compiled, Graph, Port

Array = np.ndarray[Any, Any]

# Kernels for another batch size may add in another order; the rest is rounding of f32, relative to the largest value.
SAME_ROW_TOLERANCE = 1e-3
# The same kernel at the same batch size repeats itself; this only allows for the last bits.
NEIGHBOUR_TOLERANCE = 1e-6
# Rows that differ by less than this tell nothing about which of them a result belongs to.
DISTINCT_TOLERANCE = 1e-4
# Neighbours are replaced by rows this much larger, so that even a small leak shows.
NEIGHBOUR_SCALE = 100.0


def examine(graph: Graph) -> BatchAxis:
    """What the shapes say; `batchable` is then still to be confirmed by `probe`."""
    inputs, outputs = graph.inputs, graph.outputs
    static = not any(_is_dynamic(port) for port in (*inputs, *outputs))
    as_it_is: Mode = "whole" if static else "dynamic"
    if graph.has_state:
        return BatchAxis(as_it_is, False, "the model keeps state between inferences")
    if not inputs:
        return BatchAxis(as_it_is, False, "the model has no inputs")
    for port in inputs:
        if port.shape is None:
            return BatchAxis("dynamic", False, f"input {port.name!r} has a dynamic rank")
        for axis, dimension in enumerate(port.shape):
            if axis > 0 and dimension < 0:
                return BatchAxis(
                    "dynamic", False, f"input {port.name!r} has a dynamic dimension {axis} (`shapes` can fix it)"
                )
    leading = {port.shape[0] if port.shape else None for port in inputs}
    if len(leading) > 1 or None in leading:
        shown = ", ".join(f"{port.name} {_show(port.shape)}" for port in inputs)
        return BatchAxis(as_it_is, False, f"the inputs have no common batch dimension ({shown})")
    original = leading.pop()
    try:
        single = graph if original == 1 else with_batch(graph, 1)
    except ModelError as error:
        return BatchAxis(as_it_is, False, f"the model refuses a batch of 1: {brief(error)}")
    for port in single.outputs:
        if _is_dynamic(port):
            return BatchAxis("dynamic", False, f"the shape of output {port.name!r} depends on the values of the inputs")
        if not port.shape or port.shape[0] != 1:
            return BatchAxis(as_it_is, False, f"output {port.name!r} {_show(port.shape)} has no batch dimension of 1")
    if original != 1:
        # A caller of a model with such a shape may mean its rows to be seen together, unless `probe` says otherwise.
        unbatched: Mode = as_it_is
    else:
        unbatched = "rows"
    try:
        double = with_batch(graph, 2)
    except ModelError as error:
        return BatchAxis(unbatched, False, f"the model refuses a batch of 2: {brief(error)}")
    for one, two in zip(single.outputs, double.outputs, strict=True):
        assert one.shape is not None
        if two.shape != (2, *one.shape[1:]):
            shown = f"{_show(one.shape)} becomes {_show(two.shape)}"
            return BatchAxis(unbatched, False, f"output {one.name!r} does not keep the batch axis: {shown} for 2 rows")
    return BatchAxis(unbatched, True, "inputs and outputs keep a leading batch dimension")


def examine_ports(inputs: Sequence[Port], outputs: Sequence[Port]) -> BatchAxis:
    """Of a model that is compiled already, and so cannot be tried at another batch size."""
    why = "a blob keeps the shapes that it was compiled for"
    ports = (*inputs, *outputs)
    if any(_is_dynamic(port) for port in ports):
        return BatchAxis("dynamic", False, why)
    made_for_one = bool(inputs) and all(port.shape and port.shape[0] == 1 for port in ports)
    return BatchAxis("rows" if made_for_one else "whole", False, why)


def with_batch(graph: Graph, size: int) -> Graph:
    """The graph with `size` rows in every input. Raises ModelError when it refuses."""
    shapes: dict[str | int, tuple[int, ...]] = {}
    for index, port in enumerate(graph.inputs):
        assert port.shape is not None
        shapes[index] = (size, *port.shape[1:])
    if all(port.shape == shapes[index] for index, port in enumerate(graph.inputs)):
        return graph
    return graph.reshaped(shapes)


def probe(single: Compiled, batched: Compiled, rows: int) -> str | None:
    """Run both with made-up rows. Returns why rows must not share an inference, or None when they may.

    Args:
        single: the model compiled for one row, in f32 where the device can.
        batched: the same for `rows` rows, at least 2.
        rows: rows of `batched`.

    A row may neither change when its neighbours do, nor differ from what it gets alone. An output that is the same
    for all rows proves nothing, so other inputs are tried, and it counts as a failure if none makes a difference.
    """
    silent = {port.name for port in single.outputs}
    try:
        for draw in _draws(single.inputs):
            x = [draw(port, rows) for port in single.inputs]
            y = batched.run(x)
            telling = {p.name for p, array in zip(single.outputs, y, strict=True) if _tells_rows_apart(array)}
            if not telling & silent:
                continue  # the checks, which take several times as long, would show nothing new
            problem = _check(single, batched, x, y, draw, rows)
            if problem is not None:
                return problem
            silent -= telling
            if not silent:
                return None
    except (OvengineError, TypeError, ValueError) as error:
        return f"a trial run failed: {brief(error)}"
    return f"output {min(silent)!r} is the same for all rows that were tried, so nothing shows that they stay apart"


def _check(single: Compiled, batched: Compiled, x: list[Array], y: list[Array], draw: Draw, rows: int) -> str | None:
    names = [port.name for port in single.outputs]
    for row in range(rows):
        alone = single.run([array[row : row + 1] for array in x])
        for name, together, expected in zip(names, y, alone, strict=True):
            if not _same(together[row : row + 1], expected, SAME_ROW_TOLERANCE):
                return f"output {name!r} of a row differs between a batch of 1 and a batch of {rows}"
    half = rows // 2
    for kept, replaced in ((slice(0, half), slice(half, rows)), (slice(half, rows), slice(0, half))):
        changed = [array.copy() for array in x]
        for port, array in zip(single.inputs, changed, strict=True):
            array[replaced] = _enlarged(draw(port, rows)[replaced])
        for name, before, after in zip(names, y, batched.run(changed), strict=True):
            if not _same(before[kept], after[kept], NEIGHBOUR_TOLERANCE):
                return f"output {name!r} of a row depends on the other rows of its batch"
    return None


Draw = Callable[["Port", int], Array]


def _draws(inputs: Iterable[Port]) -> Iterator[Draw]:
    """Ways to make up inputs, from harmless to wide: integers may be indices, of which only 0 and 1 are safe."""
    rng = np.random.default_rng(0)

    def draw(port: Port, rows: int, low: float, high: float, most: int) -> Array:
        assert port.shape is not None
        shape = (rows, *port.shape[1:])
        if port.dtype.kind == "f":
            return rng.uniform(low, high, shape).astype(port.dtype)
        if port.dtype.kind in "iu":
            return rng.integers(0, most, shape, endpoint=True).astype(port.dtype)
        if port.dtype.kind == "b":
            return rng.integers(0, 2, shape).astype(port.dtype)
        raise TypeError(f"input {port.name!r} is of type {port.dtype}")

    for low, high, most in ((-1.0, 1.0, 1), (0.0, 1.0, 9), (-100.0, 100.0, 100)):
        yield lambda port, rows, low=low, high=high, most=most: draw(port, rows, low, high, most)  # type: ignore[misc]


def _enlarged(array: Array) -> Array:
    """Replacement neighbours; integers stay as drawn, since larger ones may be no valid indices."""
    return array * array.dtype.type(NEIGHBOUR_SCALE) if array.dtype.kind == "f" else array


def _same(a: Array, b: Array, tolerance: float) -> bool:
    if a.shape != b.shape:
        return False
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    finite = np.abs(b[np.isfinite(b)])
    scale = float(finite.max()) if finite.size else 0.0
    return bool(np.allclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True))


def _tells_rows_apart(array: Array) -> bool:
    """Whether at least two rows differ by more than rounding."""
    return any(not _same(array[:1], array[row : row + 1], DISTINCT_TOLERANCE) for row in range(1, len(array)))


def _is_dynamic(port: Port) -> bool:
    return port.shape is None or any(dimension < 0 for dimension in port.shape)


def _show(shape: tuple[int, ...] | None) -> str:
    return "of dynamic rank" if shape is None else f"[{','.join('?' if d < 0 else str(d) for d in shape)}]"


def brief(error: BaseException) -> str:
    """The last line of OpenVINO's reason, where what matters is."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
