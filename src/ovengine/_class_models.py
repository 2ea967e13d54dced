"""Starts a model whose requests differ in shape: a dynamic one for them all, and what its children are made of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ovengine import _buckets, _memory
from ovengine._compiler import Compiler
from ovengine._memory import NoRoom
from ovengine._row_classes import MOST_CLASSES, ClassShapes, Padding, RowClasses
from ovengine.errors import ConfigError, ModelError
from ovengine.plan import format_bytes

if TYPE_CHECKING:
    from ovengine._core import Graph
    from ovengine._planner import Choices, Planner
    from ovengine.model import Model
    from ovengine.plan import BatchAxis, DevicePlan


def start_classes(planner: Planner, compiler: Compiler, axis: BatchAxis, choices: Choices, graph: Graph) -> Model:
    """Serve requests of any shape; frequent shapes get models of their own."""
    padding, expected, compiler = _padding(planner, compiler, axis, graph)
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


def _padding(
    planner: Planner, compiler: Compiler, axis: BatchAxis, graph: Graph
) -> tuple[Padding | None, list[ClassShapes], Compiler]:
    """How sequences are padded, proved, and to what; and what compiles the dynamic model. Raises ConfigError when it
    would change answers whatever is done.
    """
    if not planner.options.buckets:
        return None, [], compiler
    bucketing = _buckets.bucketing(graph, planner.options.buckets)
    try:
        with compiler.in_f32(None) as compiled:
            cut_axes = _buckets.prove(bucketing, graph, compiled)
    except ConfigError as shows:
        return None, [], _padded_inside(planner, compiler, axis, graph, bucketing, shows)
    planner.decide("buckets", ", ".join(map(str, bucketing.lengths)), "padded trial sequences got the same answers")
    expected = [
        tuple(bucketing.shape(index, port.shape or (), length) for index, port in enumerate(graph.inputs))
        for length in bucketing.lengths
    ]
    return Padding(bucketing.lengths, bucketing.axes, bucketing.pads, cut_axes), expected, compiler


def _padded_inside(
    planner: Planner,
    compiler: Compiler,
    axis: BatchAxis,
    graph: Graph,
    bucketing: _buckets.Bucketing,
    shows: ConfigError,
) -> Compiler:
    """Where padding by the binding shows: for a model that pads inside and masks the padding."""
    padded = [(index, at) for index, at in enumerate(bucketing.axes) if at]
    if len(padded) != 1 or isinstance(shows, NoRoom):
        raise shows
    try:
        inside = graph.padded_inside(*padded[0], bucketing.lengths)
    except ModelError as error:
        raise ConfigError(f"{shows}; nor can it be masked inside the model: {error}") from None
    options = planner.options
    found = Compiler(
        planner.runtime, inside, compiler.devices, options.config, axis, options.memory_limit, planner.samples
    )
    with compiler.in_f32(None) as alone, found.in_f32(None) as masked:
        _buckets.prove_inside(bucketing, graph, alone, masked)
    planner.make_room(found, None, 1)
    planner.decide("buckets", ", ".join(map(str, bucketing.lengths)), "padded inside the model, and masked there")
    return found


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
