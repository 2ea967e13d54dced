"""Batcher `fixed`: the batch sizes that the caller gives, or one and 1 for what does not fill it."""

from __future__ import annotations

from ovengine.errors import ConfigError, ModelError
from ovengine.hookspecs import BatchContext, Batcher, hookimpl
from ovengine.plan import BatchPlan


class FixedBatcher:
    """A ladder of `batch_sizes`, or of 1 and `max_batch_size`, whatever it costs."""

    name = "fixed"

    def plan(self, context: BatchContext) -> BatchPlan:
        """Raise ConfigError without `max_batch_size` or `batch_sizes`. Sizes that cannot be measured are left out."""
        if context.max_batch_size is None:
            raise ConfigError("the batcher 'fixed' needs max_batch_size or batch_sizes")
        ladder = tuple(context.batch_sizes or sorted({1, context.max_batch_size}))
        why = f"{'batch_sizes' if context.batch_sizes else 'max_batch_size'} as given, not compared"
        cost_us: dict[int, float] = {}
        for size in ladder:
            try:
                cost_us[size] = context.measure(size) * 1e6
            except ModelError as error:
                why += f"; {error}"
        if not cost_us:
            cost_us[1] = context.measure(1) * 1e6
        return BatchPlan(tuple(cost_us), cost_us, context.max_queue_delay_us or 0, why)


@hookimpl
def ovengine_batchers() -> list[Batcher]:
    """Offer `fixed`."""
    return [FixedBatcher()]
