"""Starts a model that serves one row at a time; its batch sizes follow, and a second look at kept ones."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import TYPE_CHECKING

from ovengine._compiler import Compiler
from ovengine.errors import EngineClosed
from ovengine.plan import BatchPlan

if TYPE_CHECKING:
    from ovengine._core import Graph
    from ovengine._planner import Choices, Planner
    from ovengine.model import Model
    from ovengine.plan import BatchAxis, Plan


def start_growing(
    planner: Planner,
    compiler: Compiler,
    axis: BatchAxis,
    choices: Choices,
    graph: Graph,
    batch: BatchPlan | None,
    *,
    proven: bool,
) -> Model:
    """Serve a row at a time, and go on behind it.

    Args:
        planner: of this load.
        compiler: of the model.
        axis: along which rows are put together.
        choices: the plugins and the name.
        graph: the model.
        batch: the plan if it is known without measuring.
        proven: whether the trial of the batch axis has been made.
    """
    known = list(planner.decisions)
    planner.decide("batcher", choices.batcher.name, "larger batches are being measured and compiled")
    model = planner.start(compiler, axis, planner.unbatched(), choices)
    preparation = model._preparation
    # The thread must not keep a model alive that nobody uses any more.
    unused = EngineClosed(f"model {choices.name!r} is gone")
    reference = weakref.ref(model, lambda _: preparation.stop(unused))

    def grow(
        compiler: Compiler, axis: BatchAxis, batch: BatchPlan | None, proven: bool, draft: Plan, kept: tuple[int, ...]
    ) -> tuple[Compiler, BatchAxis, Plan]:
        """Plan and install batch sizes, beside those that are `kept`."""
        planner.decisions = list(known)
        compiler, axis, final = planner.plan_batches(choices.batcher, compiler, graph, axis, batch, proven)
        lanes = compiler.lanes(final.ladder)
        compiler.keep_costs()
        running = reference()
        if running is None:
            return compiler, axis, draft
        if kept:
            cost_us = {**running._costs(), **final.cost_us}
            ladder = tuple(sorted({*kept, *final.ladder}))
            final = replace(final, ladder=ladder, cost_us={size: cost_us[size] for size in ladder})
        plan = planner.plan(compiler, lanes, axis, final, choices)
        running._grow(draft, plan, lanes)
        return compiler, axis, plan

    def work() -> None:
        compiler.between_steps = preparation.check
        made, along, plan = grow(compiler, axis, batch, proven, draft, ())
        if planner.is_in_doubt(choices.batcher, made):
            made.table.measure_anew()
            grow(made, along, None, proven or plan.ladder != (1,), plan, plan.ladder)

    draft = model.plan
    preparation.start(work, planner.turn)
    return model
