"""Compares what lanes compute with OpenVINO's default configuration, for quantized models.

OpenVINO chooses kernels by the number of threads, too. Kernels for quantized weights may be wrong for one thread and
right for several (2026.4.1: a MatMul on AVX-512 VNNI). So lanes of a quantized model are compared before they serve. If
they disagree, they are configured otherwise: as one thread without a stream, or as OpenVINO's default.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ovengine import _proof, _values
from ovengine._compiler import THREADING
from ovengine.errors import OvengineError

if TYPE_CHECKING:
    from ovengine._cache import Cache
    from ovengine._compiler import Compiler
    from ovengine._core import Compiled, Port
    from ovengine._values import InputValues, Values
    from ovengine.config import Verify
    from ovengine.plan import DevicePlan

Array = np.ndarray[Any, Any]

KIND = "kernels"
VERSION = 2
# Relative to the largest value: kernels may round to other steps of the quantization, a few of which add up.
TOLERANCE = 5e-2
# Rows that are made up, alone in an inference each.
TRIALS = 4
# Of a dimension that is dynamic.
LENGTH = 8
USUAL, IN_PLACE, DEFAULT = "as planned", "one thread without a stream", "OpenVINO's default configuration"
UNKNOWN = "not compared with OpenVINO's default configuration"


def choose(compiler: Compiler, rows: int | None, mode: Verify, cache: Cache) -> tuple[Compiler, str, str]:
    """What compiles the model so that its lanes agree with OpenVINO's default configuration.

    Returns it, the name of its configuration and why it is not the planned one. The outcome is kept.
    """
    known = None if cache.directory is None else compiler.identity()
    key = None if known is None else {**known, "rows": rows, "kernels": VERSION}
    if key is not None and mode == "cached" and (found := cache.load(KIND, key, _parse)) is not None:
        name, why = found
        return _configured(compiler, name), name, why
    try:
        name, why = _first_that_agrees(compiler, rows)
    except (OvengineError, TypeError, ValueError) as error:  # values that it has no use for, or no room for a trial
        return compiler, UNKNOWN, _proof.brief(error)
    if key is not None:
        cache.save(KIND, key, [name, why])
    return _configured(compiler, name), name, why


def _first_that_agrees(compiler: Compiler, rows: int | None) -> tuple[str, str]:
    """The configuration, and why none before it."""
    devices = range(len(compiler.devices))
    values = compiler.made_up(rows, length=LENGTH)
    values.check()
    wanted = []
    for device in devices:
        with compiler.as_default(rows, device) as default:
            wanted.append([default.run(x) for x in _made_up(values, default.inputs)])

    def difference(name: str) -> str | None:
        configured = _configured(compiler, name)
        found = (_difference(values, configured.compiled(rows, device), wanted[device]) for device in devices)
        return next((why for why in found if why is not None), None)

    why = difference(USUAL)
    if why is None:
        return USUAL, ""
    if all(plan.threads_per_lane == 1 for plan in compiler.devices):
        with contextlib.suppress(OvengineError):  # there may be no room for a copy of each lane
            if difference(IN_PLACE) is None:
                return IN_PLACE, why
    return DEFAULT, why


def _difference(values: Values, compiled: Compiled, wanted: Sequence[Sequence[Array]]) -> str | None:
    """The first output in which a compiled model differs from the default configuration."""
    for x, outputs in zip(_made_up(values, compiled.inputs), wanted, strict=True):
        for port, found, right in zip(compiled.outputs, compiled.run(x), outputs, strict=True):
            if not _proof._same(found, right, TOLERANCE, right):
                return f"output {port.name!r} is not what OpenVINO's default configuration gives"
    return None


def _made_up(values: Values, ports: Sequence[Port]) -> Iterator[list[Array]]:
    """Inputs of a few inferences."""
    rng = np.random.default_rng(0)

    def draw(port: Port, one: InputValues) -> Array:
        shape = [LENGTH if length < 0 else length for length in port.shape or ()]
        if port.dtype.kind == "f" and one.free:
            return (3 * rng.standard_normal(shape)).astype(port.dtype)
        return _values.drawn(rng, port, one, shape)

    for _ in range(TRIALS):
        yield [draw(port, values[index]) for index, port in enumerate(ports)]


def _configured(compiler: Compiler, name: str) -> Compiler:
    if name == USUAL:
        return compiler
    return compiler.instead([_in_place(plan) if name == IN_PLACE else _as_default(plan) for plan in compiler.devices])


def _in_place(plan: DevicePlan) -> DevicePlan:
    """The same lanes, each with a compiled model of its own that runs on one thread, in place."""
    return replace(plan, properties={**plan.properties, "NUM_STREAMS": 0}, threads_per_lane=1, shared=False)


def _as_default(plan: DevicePlan) -> DevicePlan:
    """One lane with all threads, as OpenVINO has it by default."""
    properties = {name: value for name, value in plan.properties.items() if name not in THREADING}
    return replace(
        plan, properties=properties, lanes=1, threads_per_lane=plan.lanes * plan.threads_per_lane, shared=False
    )


def _parse(value: Any) -> tuple[str, str]:
    name, why = value
    if name not in (USUAL, IN_PLACE, DEFAULT) or not isinstance(why, str):
        raise TypeError("an outcome is the name of a configuration and a text")
    return name, why
