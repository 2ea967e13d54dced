"""Finds the batch axis of each input and output.

Rules for operators show for most graphs that rows along some axes are independent (`Graph.prove_rows`). For the others
shapes tell which axes may be right, and `_proof` then shows it on values.

An input is batched (each row of a request has its own part of it, along one axis) or shared (all rows of a request see
the whole of it). Guesses come from layouts and from the dimensions that may vary; a guess is right when the model takes
one, two and three rows, as `ov::set_batch` would give it, and each output grows by the same along one axis, which is
its batch axis. The symbol of the batch dimension says the same where all operators on the way keep it. Several guesses
may be right by that (of dimensions that are all 1, say), and only the proof tells which is.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ovengine._proof import brief
from ovengine.errors import ModelError
from ovengine.plan import BatchAxis, Mode

if TYPE_CHECKING:
    from ovengine._core import Graph, Port

Axes = tuple["int | None", ...]

# Each costs a few shape inferences.
MOST_GUESSES = 16
# Each may cost a proof.
MOST_CANDIDATES = 3


def examine(graph: Graph) -> BatchAxis:
    """What the shapes say at best; `batchable` is then still to be confirmed by `_proof`."""
    return next(candidates(graph))


def candidates(graph: Graph) -> Iterator[BatchAxis]:
    """What the shapes allow, the most plausible first; where that is nothing, why not."""
    as_it_is: Mode = "dynamic" if any(_is_dynamic(port) for port in (*graph.inputs, *graph.outputs)) else "whole"
    refusal = _refusal(graph, as_it_is)
    if refusal is not None:
        yield refusal
        return
    refused: list[BatchAxis] = []
    found = 0
    # One axis takes rows, so where an input has two dynamic dimensions no guess is right, and one says why.
    guesses = 1 if any(_dynamic_dimensions(port) > 1 for port in graph.inputs) else MOST_GUESSES
    for axes in itertools.islice(_guesses_and_rules(graph), guesses):
        axis = _try(graph, axes, as_it_is)
        if axis.outputs:
            yield axis
            found += 1
        else:
            refused.append(axis)
        if found == MOST_CANDIDATES:
            return
    if not found:
        shown = ", ".join(f"{port.name} {_show(port.shape)}" for port in graph.inputs)
        why = f"the inputs have no common batch dimension ({shown})"
        yield refused[0] if refused else BatchAxis(as_it_is, False, why, "input shapes")


def _refusal(graph: Graph, as_it_is: Mode) -> BatchAxis | None:
    """Where there is nothing to guess."""
    if graph.has_state:
        return BatchAxis(as_it_is, False, "the model keeps state between inferences", "state")
    if not graph.inputs:
        return BatchAxis(as_it_is, False, "the model has no inputs", "input shapes")
    for port in graph.inputs:
        if port.shape is None:
            return BatchAxis("dynamic", False, f"input {port.name!r} has a dynamic rank", "input shapes")
    return None


def with_equal_rows(graph: Graph, axis: BatchAxis) -> Iterator[BatchAxis]:
    """Other candidates by which a row is the same array as by this one: of a model made for one row, say, the axes may
    be any of those that are 1.
    """
    for other in candidates(graph):
        if other.outputs and (other.inputs, other.outputs) != (axis.inputs, axis.outputs):
            pairs = zip(graph.inputs, axis.inputs, other.inputs, strict=True)
            outputs = zip(graph.outputs, axis.outputs, other.outputs, strict=True)
            if all(_row(port, one) == _row(port, another) for port, one, another in (*pairs, *outputs)):
                yield other


def instead(refused: BatchAxis, axis: BatchAxis) -> BatchAxis:
    """An axis that holds where a more plausible one does not."""
    axes = ", ".join("none" if found is None else str(found) for found in refused.inputs)
    return replace(axis, why=f"{axis.why}; with input axes {axes} instead, {refused}")


def _row(port: Port, axis: int | None) -> tuple[int, ...] | None:
    """The shape of one row; None for what rows share."""
    shape = port.shape or ()
    return None if axis is None else (*shape[:axis], *shape[axis + 1 :])


def _guesses_and_rules(graph: Graph) -> Iterator[Axes]:
    """The best guess, then the axes that the rules for operators find, then the other guesses."""
    guesses = _guesses(graph)
    best = next(guesses, None)
    if best is None:
        return
    yield best
    by_rules, _, refuted, _ = graph.prove_rows(_choices(graph))
    if refuted or by_rules == best or not any(axis is not None for axis in by_rules):
        yield from guesses
        return
    yield by_rules
    yield from (guess for guess in guesses if guess != by_rules)


def _guesses(graph: Graph) -> Iterator[Axes]:
    """Batch axes of the inputs, the most plausible first: as few shared inputs as can be, and axes to the front.

    Inputs of one shape most likely have their batch at the same axis, so these are guessed together first, and then
    each on its own. Guesses are made one by one: there are exponentially many.
    """
    choices = _choices(graph)
    alike: dict[tuple[object, ...], list[int]] = {}
    for index, (port, axes) in enumerate(zip(graph.inputs, choices, strict=True)):
        alike.setdefault((port.shape, *axes), []).append(index)
    apart = [[index] for index in range(len(choices))]
    seen: set[Axes] = set()
    for groups in (list(alike.values()), apart):
        for group_axes in _best_first([choices[group[0]] for group in groups], list(map(len, groups))):
            by_input = {index: axis for group, axis in zip(groups, group_axes, strict=True) for index in group}
            guess = tuple(by_input[index] for index in range(len(choices)))
            if guess not in seen and any(axis is not None for axis in guess):
                seen.add(guess)
                yield guess


def _choices(graph: Graph) -> list[list[int | None]]:
    """The axes that may be the batch axis of each input, to the front first; None: the input is shared."""
    shapes = [port.shape or () for port in graph.inputs]
    layouts = graph.layout_batch_axes()
    leading = {shape[0] for shape in shapes if shape}
    # Where dimensions are dynamic these may vary, and no others. Else it is the size that all have in front, or 1.
    rows = -1 if any(d < 0 for shape in shapes for d in shape) else leading.pop() if len(leading) == 1 else 1
    choices: list[list[int | None]] = []
    for index, shape in enumerate(shapes):
        batched: list[int | None] = [axis for axis, dimension in enumerate(shape) if dimension == rows]
        if index in layouts:
            choices.append([layouts[index]])
        else:
            choices.append(batched if batched and rows < 0 else [*batched, None])
    return choices


def _best_first(choices: Sequence[Sequence[int | None]], weights: Sequence[int]) -> Iterator[Axes]:
    """All combinations, one of each of `choices`, by how many are None and then by the sum of the others.

    A choice counts as often as its weight says. Each combination is followed by those that take the next choice at one
    place, so that the n-th takes n steps, however many there are.
    """

    def cost(i: int, place: int) -> tuple[int, int]:
        axis = choices[i][place]
        return (weights[i], 0) if axis is None else (0, weights[i] * axis)

    first = (0,) * len(choices)
    costs = [cost(i, 0) for i in range(len(choices))]
    waiting = [(sum(shared for shared, _ in costs), sum(axes for _, axes in costs), first)]
    seen = {first}
    while waiting:
        all_shared, all_axes, places = heapq.heappop(waiting)
        yield tuple(choices[i][place] for i, place in enumerate(places))
        for i, place in enumerate(places):
            if place + 1 == len(choices[i]):
                continue
            following = (*places[:i], place + 1, *places[i + 1 :])
            if following not in seen:
                seen.add(following)
                (shared, axes), (next_shared, next_axes) = cost(i, place), cost(i, place + 1)
                heapq.heappush(waiting, (all_shared - shared + next_shared, all_axes - axes + next_axes, following))


def _try(graph: Graph, axes: Axes, as_it_is: Mode) -> BatchAxis:
    """Whether the outputs move with the batch, when it is on these axes of the inputs."""

    def no(check: str, why: str, mode: Mode = as_it_is) -> BatchAxis:
        return BatchAxis(mode, False, why, check, axes)

    def proved_along(outputs: Sequence[int]) -> BatchAxis:
        why = f"{_describe(graph, axes, outputs)}; by rules, no operator mixes rows"
        return BatchAxis(unbatched, True, why, None, axes, tuple(outputs), "rules")

    for port, batch in zip(graph.inputs, axes, strict=True):
        for axis, dimension in enumerate(port.shape or ()):
            if dimension < 0 and axis != batch:
                why = f"input {port.name!r} has a dynamic dimension {axis} (`shapes` can fix it)"
                return no("input shapes", why, "dynamic")
    try:
        single = _with_rows(graph, 1, axes)
    except ModelError as error:
        return no("reshape", f"the model refuses a batch of 1: {brief(error)}")
    for port in single.outputs:
        if _is_dynamic(port):
            why = f"the shape of output {port.name!r} depends on the values of the inputs"
            return no("output shapes", why, "dynamic")
        if 1 not in (port.shape or ()):
            return no("output shapes", f"output {port.name!r} {_show(port.shape)} has no batch dimension of 1")
    # One row at a time is right for a model made for one row. A caller of any other may mean its rows to be seen
    # together, unless the proof says otherwise.
    in_front = not any(axes) and None not in axes and all(port.shape and port.shape[0] == 1 for port in single.outputs)
    unbatched: Mode = "rows" if single is graph and in_front else as_it_is
    if (proved := _by_rules(single, axes)) is not None:
        return proved_along(proved)
    try:
        double, triple = (_with_rows(graph, rows, axes) for rows in (2, 3))
    except ModelError as error:
        return no("reshape", f"the model refuses a larger batch: {brief(error)}", unbatched)
    outputs: list[int] = []
    for ports in zip(single.outputs, double.outputs, triple.outputs, strict=True):
        moving = _moving_axis([port.shape for port in ports])
        if moving is None:
            shown = f"{_show(ports[0].shape)} becomes {_show(ports[1].shape)}"
            why = f"output {ports[0].name!r} does not keep the batch axis: {shown} for 2 rows"
            return no("output shapes", why, unbatched)
        outputs.append(moving)
    if all(_by_rules(graph, axes) == tuple(outputs) for graph in (double, triple)):
        # OpenVINO has replaced shapes that were for one row only.
        return proved_along(outputs)
    why = f"{_describe(graph, axes, outputs)}, {_evidence(graph, axes, outputs)}"
    return BatchAxis(unbatched, True, why, None, axes, tuple(outputs))


def _by_rules(graph: Graph, axes: Axes) -> tuple[int, ...] | None:
    """The axes of the outputs, where the rules for operators show that rows along these axes are independent."""
    _, outputs, _, unproven = graph.prove_rows([[axis] for axis in axes])
    return None if unproven else tuple(axis for axis in outputs if axis is not None)


def _moving_axis(shapes: Sequence[tuple[int, ...] | None]) -> int | None:
    """The only axis whose dimension is 1, 2, 3 in turn, where all others stay; None when there is no such."""
    if len({len(shape or ()) for shape in shapes}) > 1:
        return None
    by_axis = list(zip(*(shape or () for shape in shapes), strict=True))
    moving = [axis for axis, dimensions in enumerate(by_axis) if len(set(dimensions)) > 1]
    return moving[0] if len(moving) == 1 and by_axis[moving[0]] == (1, 2, 3) else None


def _evidence(graph: Graph, inputs: Axes, outputs: Sequence[int]) -> str:
    """Symbols tell for any number of rows, but get lost in some operators; shapes for the numbers that were tried."""
    try:
        symbolic = list(graph.symbolic_batch_axes(inputs))
    except ModelError:
        symbolic = []
    return "by symbols and shapes" if symbolic == [(axis,) for axis in outputs] else "by shapes"


def _describe(graph: Graph, inputs: Axes, outputs: Sequence[int]) -> str:
    if not any((*inputs, *outputs)) and None not in inputs:
        return "inputs and outputs keep a leading batch dimension"
    ports = zip((*graph.inputs, *graph.outputs), (*inputs, *outputs), strict=True)
    return "batch axis of " + ", ".join(
        f"{port.name} {'none: shared' if axis is None else axis}" for port, axis in ports
    )


def examine_ports(inputs: Sequence[Port], outputs: Sequence[Port], has_state: bool) -> BatchAxis:
    """Of a model that is compiled already, and so cannot be tried at another batch size."""
    why = "a blob keeps the shapes that it was compiled for"
    ports = (*inputs, *outputs)
    if any(_is_dynamic(port) for port in ports):
        return BatchAxis("dynamic", False, why)
    made_for_one = bool(inputs) and not has_state and all(port.shape and port.shape[0] == 1 for port in ports)
    return BatchAxis("rows" if made_for_one else "whole", False, why)


def with_batch(graph: Graph, size: int, axis: BatchAxis) -> Graph:
    """The graph for `size` rows, the batch axis of each input and output first. Raises ModelError when it refuses."""
    rows = _with_rows(graph, size, axis.inputs)
    return rows.batch_first(axis.inputs, axis.outputs) if any((*axis.inputs, *axis.outputs)) else rows


def _with_rows(graph: Graph, size: int, axes: Axes) -> Graph:
    shapes: dict[str | int, tuple[int, ...]] = {}
    for index, (port, axis) in enumerate(zip(graph.inputs, axes, strict=True)):
        if axis is not None:
            assert port.shape is not None
            shapes[index] = (*port.shape[:axis], size, *port.shape[axis + 1 :])
    if all(graph.inputs[int(index)].shape == shape for index, shape in shapes.items()):
        return graph
    return graph.reshaped(shapes)


def _is_dynamic(port: Port) -> bool:
    return port.shape is None or _dynamic_dimensions(port) > 0


def _dynamic_dimensions(port: Port) -> int:
    return sum(dimension < 0 for dimension in port.shape or ())


def _show(shape: tuple[int, ...] | None) -> str:
    return "of dynamic rank" if shape is None else f"[{','.join('?' if d < 0 else str(d) for d in shape)}]"
