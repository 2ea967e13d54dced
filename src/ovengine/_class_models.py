"""Starts a model whose requests differ in shape: a dynamic one for them all, and what its children are made of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ovengine import _buckets, _memory
from ovengine._memory import NoRoom
from ovengine._row_classes import MOST_CLASSES, ClassShapes, Padding, RowClasses
from ovengine.plan import format_bytes

if TYPE_CHECKING:
    from ovengine._compiler import Compiler
    from ovengine._core import Graph
    from ovengine._planner import Choices, Planner
    from ovengine.model import Model
    from ovengine.plan import BatchAxis, DevicePlan


def start_classes(planner: Planner, compiler: Compiler, axis: BatchAxis, choices: Choices, graph: Graph) -> Model:
    """Serve requests of any shape; frequent shapes get models of their own."""
    padding, expected = _padding(planner, compiler, graph)
    compiler.keep_only([])
    compiler.lanes([None])
    most, limit = _room(compiler, len(expected))
    if most == 0:
        planner.decide("memory_limit", "no row classes", "there is no room for compiled models beside the dynamic ones")
        return planner.serve(compiler, axis, choices, graph)
    share = f", with {format_bytes(limit)} each" if limit is not None else ""
    why = f"shapes that come often get static batch sizes of their own{share}"
    planner.decide("row classes", f"up to {most}", why)
    model = planner.serve(compiler, axis, choices, graph)
    build = partial(_class_model, planner, compiler.devices, choices, graph, limit)
    RowClasses(model, build, planner.turn, most, padding, expected)
    return model


def _room(compiler: Compiler, expected: int) -> tuple[int, int | None]:
    """How many row classes there is room for, at several batch sizes each, and the memory limit of each."""
    limit = compiler.ledger.limit
    # A dynamic model packs its weights as it runs.
    one = max(compiler.constant_bytes, compiler.ledger.expected(None))
    room = _memory.budget_bytes(limit) - (0 if limit is None else one * compiler.copies)
    most = max(1, expected, min(MOST_CLASSES, room // max(1, one * compiler.copies * _memory.USUAL_SIZES)))
    if limit is None:
        return most, None
    # The one that makes room is there until the next one is ready.
    each = room // (most + 1)
    return (most, each) if each >= one else (0, None)


def _padding(planner: Planner, compiler: Compiler, graph: Graph) -> tuple[Padding | None, list[ClassShapes]]:
    """How sequences are padded, proved, and to what. Raises ConfigError when it would change answers."""
    if not planner.options.buckets:
        return None, []
    bucketing = _buckets.bucketing(graph, planner.options.buckets)
    with compiler.in_f32(None) as compiled:
        cut_axes = _buckets.prove(bucketing, compiled)
    planner.decide("buckets", ", ".join(map(str, bucketing.lengths)), "padded trial sequences got the same answers")
    expected = [
        tuple(bucketing.shape(index, port.shape or (), length) for index, port in enumerate(graph.inputs))
        for length in bucketing.lengths
    ]
    return Padding(bucketing.lengths, bucketing.axes, bucketing.pads, cut_axes), expected


def _class_model(
    planner: Planner,
    devices: tuple[DevicePlan, ...],
    choices: Choices,
    graph: Graph,
    memory_limit: int | None,
    shapes: ClassShapes,
    between_steps: Callable[[], None],
) -> Model | None:
    """A model for requests of these shapes, or None when their rows cannot share a batch, or have no room to."""
    planner = planner.anew(memory_limit)
    fixed = graph.reshaped(dict(enumerate(shapes)))
    try:
        compiler, axis = planner.examine(fixed, devices, between_steps)
    except NoRoom:
        return None
    if not (axis.batchable or axis.mode == "rows"):
        return None
    return planner.serve(compiler, axis, choices, fixed)
