"""Padding buckets: requests of nearby lengths are padded to one length, so that they share batches.

The caller says which inputs have the sequence axis, and what they are padded with. `prove` runs made-up sequences of
several lengths, alone and padded: bucketing is refused unless the answers are the same, once what belongs to the
padding is cut off. `prove_inside` does the same for a model that pads inside, with masks where the padding would show.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ovengine._core import port_index
from ovengine._numbers import as_integer
from ovengine._values import InputValues, Values
from ovengine.errors import ConfigError, InputError, OvengineError

if TYPE_CHECKING:
    from ovengine._core import Compiled, Graph, Port

__all__ = ["Buckets"]

Array = np.ndarray[Any, Any]

# Other kernels run for other lengths; the rest is rounding of f32, relative to the largest value.
TOLERANCE = 1e-3
# Rows of a trial: two that differ tell whether an output says anything.
TRIAL_ROWS = 2
# Integers of a trial, where they may be so large.
MOST = 9
# Numbers of which the largest and the smallest are none of the padding's.
SPANS = ((-1.0, 1.0), (-9.0, -1.0), (1.0, 9.0))


@dataclass(frozen=True, slots=True)
class Buckets:
    """Lengths that one input is padded to, for `load(buckets=...)`.

    Args:
        lengths: ascending. A longer request runs as it is.
        pad: the value that fills the rest. To the model it must mean "nothing here", as 0 does in an attention mask.
        axis: of the sequence, at least 1.

    Raises:
        ConfigError: `lengths` do not ascend, or a number is out of range.
    """

    lengths: Sequence[int]
    pad: float = 0
    axis: int = 1

    def __post_init__(self) -> None:
        try:
            lengths = tuple(as_integer(length) or 0 for length in self.lengths)
        except TypeError:
            lengths = ()
        if not lengths or min(lengths) < 1:
            raise ConfigError(f"bucket lengths are integers of at least 1, not {self.lengths!r}")
        if list(lengths) != sorted(set(lengths)):
            raise ConfigError(f"bucket lengths must be ascending, not {list(lengths)}")
        axis = as_integer(self.axis)
        if axis is None or axis < 1:
            raise ConfigError(f"the sequence axis is an integer of at least 1 (axis 0 counts rows), not {self.axis!r}")
        object.__setattr__(self, "lengths", lengths)
        object.__setattr__(self, "axis", axis)


@dataclass(frozen=True, slots=True)
class Bucketing:
    """What `buckets` means for a model: for each input its axis (0: none) and pad value; the lengths of all."""

    lengths: tuple[int, ...]
    axes: tuple[int, ...]
    pads: tuple[float, ...]

    def shape(self, index: int, shape: Sequence[int], length: int) -> tuple[int, ...]:
        """A shape of input `index` with that length of the sequence."""
        axis = self.axes[index]
        return tuple(length if axis and i == axis else n for i, n in enumerate(shape))


def bucketing(
    graph: Graph, buckets: Mapping[str | int, Buckets | Sequence[int]] | Buckets | Sequence[int]
) -> Bucketing:
    """For that model. Raises ConfigError when the inputs and axes do not fit it."""
    found: dict[int, Buckets] = {}
    if not isinstance(buckets, Mapping):
        if len(graph.inputs) > 1:
            names = ", ".join(repr(port.name) for port in graph.inputs)
            raise ConfigError(
                f"buckets: the model has several inputs; give lengths by input ({names}), not {buckets!r}"
            )
        buckets = {0: buckets}
    for key, value in buckets.items():
        try:
            index = port_index(graph.inputs, key, "input")
        except InputError as error:
            raise ConfigError(f"buckets: {error}") from None
        found[index] = value if isinstance(value, Buckets) else Buckets(value)
        port, axis = graph.inputs[index], found[index].axis
        if port.shape is None or axis >= len(port.shape) or port.shape[axis] >= 0:
            raise ConfigError(f"buckets: input {port.name!r} {port.shape} has no dynamic axis {axis}")
        if not _holds(port.dtype, found[index].pad):
            raise ConfigError(f"buckets: input {port.name!r} of {port.dtype} cannot hold the pad {found[index].pad!r}")
    lengths = {tuple(one.lengths) for one in found.values()}
    if len(lengths) != 1:
        raise ConfigError(f"buckets: all inputs must have the same lengths, not {sorted(lengths)}")
    for index, port in enumerate(graph.inputs):
        for axis, dimension in enumerate(port.shape or ()):
            if axis > 0 and dimension < 0 and (index not in found or axis != found[index].axis):
                raise ConfigError(
                    f"buckets: axis {axis} of input {port.name!r} is dynamic as well; give its length in `shapes`, or "
                    "buckets for it"
                )
    count = range(len(graph.inputs))
    return Bucketing(
        lengths.pop(),
        tuple(found[i].axis if i in found else 0 for i in count),
        tuple(found[i].pad if i in found else 0 for i in count),
    )


def _holds(dtype: np.dtype[Any], value: float) -> bool:
    try:
        return dtype.kind == "f" or bool(np.full((), value, dtype) == value)
    except (OverflowError, TypeError, ValueError):
        return False


def prove(plan: Bucketing, graph: Graph, compiled: Compiled) -> tuple[int, ...]:
    """The sequence axis of each output, 0 where it has none.

    Args:
        plan: what to pad.
        graph: of the model.
        compiled: the model for sequences of any length, in f32 where the device can.

    Raises ConfigError: padded sequences get other answers, or no trial tells.
    """
    axes: list[int] = [0] * len(compiled.outputs)

    def check(index: int, alone: Array, padded: Array, length: int, bucket: int) -> None:
        port = compiled.outputs[index]
        axis = _sequence_axis(port, alone, padded, length, bucket)
        axes[index] = max(axes[index], axis)
        if not _same(alone, np.take(padded, range(length), axis) if axis else padded):
            raise ConfigError(
                f"buckets: output {port.name!r} of a sequence of {length} differs when it is padded to {bucket}; the "
                "model does not ignore the padding"
            )

    _try(plan, graph, compiled, lambda x, bucket: compiled.run(_padded(plan, x, bucket)), check)
    return tuple(axes)


def prove_inside(plan: Bucketing, graph: Graph, compiled: Compiled, padded: Compiled) -> None:
    """Compare the model with one that pads and masks inside (`Graph.padded_inside`), both in f32.

    Raises ConfigError: the answers differ, or no trial tells.
    """

    def check(index: int, alone: Array, inside: Array, length: int, bucket: int) -> None:
        if not _same(alone, inside):
            raise ConfigError(
                f"buckets: output {compiled.outputs[index].name!r} of a sequence of {length} differs when it is padded "
                f"to {bucket}, with the padding masked"
            )

    _try(plan, graph, compiled, lambda x, _: padded.run(x), check)


def _try(
    plan: Bucketing,
    graph: Graph,
    compiled: Compiled,
    run_padded: Callable[[list[Array], int], list[Array]],
    check: Callable[[int, Array, Array, int, int], None],
) -> None:
    """Run made-up sequences alone and padded to a bucket, and `check(output, alone, padded, length, bucket)`."""
    silent = {port.name for port in compiled.outputs}
    failure = ""
    trials = [(length, bucket, _values(plan, graph, length, bucket)) for length, bucket in _trials(plan.lengths)]
    for inputs in _draws(compiled.inputs):
        for length, bucket, values in trials:
            x = [draw(plan.shape(i, _lengths(port), length), values[i]) for i, (draw, port) in enumerate(inputs)]
            try:
                alone, padded = compiled.run(x), run_padded(x, bucket)
            except OvengineError as error:  # numbers that are no valid indices, say
                failure = str(error)
                break
            if not all(np.isfinite(y).all() for y in alone if y.dtype.kind == "f"):
                continue  # nor is this a comparison
            for index, (port, y, z) in enumerate(zip(compiled.outputs, alone, padded, strict=True)):
                check(index, y, z, length, bucket)
                rows = np.atleast_1d(y)
                if not _same(rows[:1], rows[1:]):
                    silent.discard(port.name)
    if silent:
        raise ConfigError(
            f"buckets: output {min(silent)!r} is the same for all sequences that were tried, so nothing shows that "
            f"padding does not change it{f' ({failure})' if failure else ''}"
        )


def _trials(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """A length and the bucket it is padded to: nearly full, and half empty; of the shortest and the longest bucket."""
    pairs = {(length, n) for n in (lengths[0], lengths[-1]) for length in (n - 1, n // 2) if length >= 1}
    yield from sorted(pairs or {(lengths[0], lengths[0])})


def _values(plan: Bucketing, graph: Graph, length: int, bucket: int) -> Values:
    """Inputs that are right at both lengths. Raises ConfigError when none are known, or the padding is not."""

    def at(length: int) -> Graph:
        return graph.reshaped({i: plan.shape(i, _lengths(port), length) for i, port in enumerate(graph.inputs)})

    values = Values.of(at(length), at(bucket))
    if values.unknown is not None:
        raise ConfigError(f"buckets: nothing shows that padding changes no answer, since {values.unknown}")
    for index, (port, pad) in enumerate(zip(graph.inputs, plan.pads, strict=True)):
        one = values[index]
        if plan.axes[index] and not one.free and not one.low <= pad <= one.high:
            raise ConfigError(
                f"buckets: input {port.name!r} takes values of {one.low:g} to {one.high:g}, and the pad is {pad!r}"
            )
    return values


def _draws(ports: Sequence[Port]) -> Iterator[list[tuple[Any, Port]]]:
    """Inputs of made-up numbers: each input in turn varies while the other integers are ones, as a mask should be."""
    rng = np.random.default_rng(0)

    def draw(port: Port, varies: bool, span: tuple[float, float], shape: tuple[int, ...], values: InputValues) -> Array:
        if port.dtype.kind == "f":
            return rng.uniform(*(span if values.free else (values.low, values.high)), shape).astype(port.dtype)
        one, most = (int(min(max(n, values.low), values.high)) for n in (1, MOST))
        return (rng.integers(one, most, shape, endpoint=True) if varies else np.full(shape, one)).astype(port.dtype)

    spans = SPANS if any(port.dtype.kind == "f" for port in ports) else SPANS[:1]
    for varied, span in itertools.product(ports, spans):
        yield [
            ((lambda shape, values, p=port, v=port is varied, s=span: draw(p, v, s, shape, values)), port)
            for port in ports
        ]


def _lengths(port: Port) -> tuple[int, ...]:
    assert port.shape is not None
    return (TRIAL_ROWS if port.shape[0] < 0 else port.shape[0], *port.shape[1:])


def _padded(plan: Bucketing, arrays: list[Array], bucket: int) -> list[Array]:
    found = []
    for axis, pad, array in zip(plan.axes, plan.pads, arrays, strict=True):
        widths = [(0, bucket - array.shape[axis] if axis and i == axis else 0) for i in range(array.ndim)]
        found.append(np.pad(array, widths, constant_values=pad))
    return found


def _sequence_axis(port: Port, alone: Array, padded: Array, length: int, bucket: int) -> int:
    """The axis on which the shapes differ by the padding; 0 when they do not."""
    if alone.ndim == padded.ndim:
        axes = [i for i in range(alone.ndim) if alone.shape[i] != padded.shape[i]]
        if not axes:
            return 0
        if len(axes) == 1 and axes[0] > 0 and (alone.shape[axes[0]], padded.shape[axes[0]]) == (length, bucket):
            return axes[0]
    raise ConfigError(
        f"buckets: output {port.name!r} has shape {alone.shape} for a sequence of {length} and {padded.shape} for one "
        f"padded to {bucket}: nothing says which part belongs to the sequence"
    )


def _same(a: Array, b: Array) -> bool:
    if a.shape != b.shape:
        return False
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    scale = float(np.abs(a).max(initial=0.0))
    return bool(np.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE * scale))
