"""Batcher `fixed`: the batch sizes that the caller gives, or one and 1 for what does not fill it."""

from __future__ import annotations

from ovengine.errors import ConfigError
from ovengine.hookspecs import BatchContext, Batcher, hookimpl
from ovengine.plan import BatchPlan


class FixedBatcher:
    """A ladder of `batch_sizes`, or of 1 and `max_batch_size`, whatever it costs."""

    name = "fixed"

    def plan(self, context: BatchContext) -> BatchPlan:
        """Raise ConfigError without `max_batch_size` or `batch_sizes`."""
        if context.max_batch_size is None:
            raise ConfigError("the batcher 'fixed' needs max_batch_size or batch_sizes")
        ladder = tuple(context.batch_sizes or sorted({1, context.max_batch_size}))
        given = "batch_sizes" if context.batch_sizes else "max_batch_size"
        cost_us = {size: context.measure(size) * 1e6 for size in ladder}
        return BatchPlan(ladder, cost_us, context.max_queue_delay_us or 0, f"{given} as given, not compared")


@hookimpl
def ovengine_batchers() -> list[Batcher]:
    """Offer `fixed`."""
    return [FixedBatcher()]
