"""Doubles the batch size as long as an inference takes at most 10 ms."""

from __future__ import annotations

import ovengine
from ovengine.hookspecs import BatchContext, Batcher

LIMIT_US = 10_000.0
LARGEST = 64


class LatencyBatcher:
    """Powers of two within a time for one inference."""

    name = "within_10_ms"

    def plan(self, context: BatchContext) -> ovengine.BatchPlan:
        """Measure each size once; size 1 is there whatever it costs."""
        limit = min(LARGEST, context.max_batch_size or LARGEST)
        cost_us = {1: context.measure(1) * 1e6}
        size = 2
        # Twice the rows take up to twice the time: a size that would not fit is not compiled.
        while size <= limit and 2 * cost_us[size // 2] <= LIMIT_US:
            cost_us[size] = context.measure(size) * 1e6
            size *= 2
        why = f"an inference of up to {max(cost_us)} rows takes at most {LIMIT_US:.0f} us"
        return ovengine.BatchPlan(tuple(cost_us), cost_us, context.max_queue_delay_us or 0, why)


@ovengine.hookimpl
def ovengine_batchers() -> list[Batcher]:
    """Offer `within_10_ms`."""
    return [LatencyBatcher()]
