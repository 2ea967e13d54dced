"""Batcher `none`: every row runs alone."""

from __future__ import annotations

from ovengine.hookspecs import BatchContext, Batcher, hookimpl
from ovengine.plan import BatchPlan


class NoBatcher:
    """A ladder of one."""

    name = "none"

    def plan(self, context: BatchContext) -> BatchPlan:
        """Measure what one row costs."""
        return BatchPlan((1,), {1: context.measure(1) * 1e6}, context.max_queue_delay_us or 0, "batching is off")


@hookimpl
def ovengine_batchers() -> list[Batcher]:
    """Offer `none`."""
    return [NoBatcher()]
