"""Starts a model whose requests differ in shape: a dynamic one for them all, and what its children are made of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ovengine import _buckets, _memory
from ovengine._row_classes import MOST_CLASSES, ClassShapes, Padding, RowClasses

if TYPE_CHECKING:
    from ovengine._compiler import Compiler
    from ovengine._core import Graph
    from ovengine._planner import Choices, Planner
    from ovengine.model import Model
    from ovengine.plan import BatchAxis, DevicePlan

# Batch sizes that a row class is reckoned with.
SIZES_PER_CLASS = 4


def start_classes(planner: Planner, compiler: Compiler, axis: BatchAxis, choices: Choices, graph: Graph) -> Model:
    """Serve requests of any shape; frequent shapes get models of their own."""
    padding, expected = _padding(planner, compiler, graph)
    most = max(_most_classes(compiler), len(expected))
    planner.decide("row classes", f"up to {most}", "shapes that come often get static batch sizes of their own")
    model = planner.serve(compiler, axis, choices, graph)
    build = partial(_class_model, planner, compiler.devices, choices, graph)
    RowClasses(model, build, planner.turn, most, padding, expected)
    return model


def _padding(planner: Planner, compiler: Compiler, graph: Graph) -> tuple[Padding | None, list[ClassShapes]]:
    """How sequences are padded, proved, and to what. Raises ConfigError when it would change answers."""
    if not planner.options.buckets:
        return None, []
    bucketing = _buckets.bucketing(graph, planner.options.buckets)
    compiled = compiler.in_f32(None)
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
    shapes: ClassShapes,
    between_steps: Callable[[], None],
) -> Model | None:
    """A model for requests of these shapes, or None when their rows cannot share a batch."""
    planner = planner.anew()
    fixed = graph.reshaped(dict(enumerate(shapes)))
    compiler, axis = planner.examine(fixed, devices, between_steps)
    if not (axis.batchable or axis.mode == "rows"):
        return None
    return planner.serve(compiler, axis, choices, fixed)


def _most_classes(compiler: Compiler) -> int:
    """As many as have room for their weights, at several batch sizes each."""
    copies = sum(plan.compiled_copies for plan in compiler.devices)
    each = compiler.constant_bytes * copies * SIZES_PER_CLASS
    return max(1, min(MOST_CLASSES, _memory.budget_bytes() // max(1, each)))
