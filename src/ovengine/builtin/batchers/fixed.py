"""Batcher `fixed`: the batch size that the caller gives, and 1 for what does not fill it."""

from __future__ import annotations

from ovengine.errors import ConfigError
from ovengine.hookspecs import BatchContext, Batcher, hookimpl
from ovengine.plan import BatchPlan


class FixedBatcher:
    """A ladder of 1 and `max_batch_size`, whatever it costs."""

    name = "fixed"

    def plan(self, context: BatchContext) -> BatchPlan:
        """Raise ConfigError without `max_batch_size`."""
        if context.max_batch_size is None:
            raise ConfigError("the batcher 'fixed' needs max_batch_size")
        ladder = tuple(sorted({1, context.max_batch_size}))
        cost_us = {size: context.measure(size) * 1e6 for size in ladder}
        return BatchPlan(ladder, cost_us, context.max_queue_delay_us or 0, "max_batch_size as given, not compared")


@hookimpl
def ovengine_batchers() -> list[Batcher]:
    """Offer `fixed`."""
    return [FixedBatcher()]
