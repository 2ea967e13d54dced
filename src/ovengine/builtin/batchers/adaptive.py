"""Batcher `adaptive`: measures batch sizes on this machine and keeps those that pay."""

from __future__ import annotations

import itertools
import time

from ovengine.errors import ModelError
from ovengine.hookspecs import BatchContext, Batcher, hookimpl
from ovengine.plan import BatchPlan, format_bytes

SIZES = (1, 4, 16, 64, 256)
# Climbing goes on as long as a step saves this share of the time per row.
STEP = 0.03
# Of the sizes measured, the smallest that is this close to the best is the top: a larger one only adds latency.
CLOSE = 0.05
# A size below the top must cost this share less than the next one, or a partial batch may as well run there.
GAIN = 0.10
# Compiling and measuring stops when the next size would probably go beyond this.
TIME_BUDGET_SECONDS = 3.0
# A warm-up and a measured inference.
LEAST_RUNS = 2


class AdaptiveBatcher:
    """Climbs 1, 4, 16, 64, 256 while rows get cheaper, then keeps what is about as good as the best."""

    name = "adaptive"

    def plan(self, context: BatchContext) -> BatchPlan:
        """Measure until it no longer pays; drop what saves too little to be worth its memory and latency."""
        delay_us = context.max_queue_delay_us or 0
        cost: dict[int, float] = {}
        why = "every step made a row cheaper"
        begin = previous = time.perf_counter()
        for size in candidates(context.max_batch_size):
            weights = context.constant_bytes * context.compiled_copies * (len(cost) + 1)
            if cost and weights > context.memory_budget_bytes:
                why = f"a further size would bring the weights to {format_bytes(weights)}"
                break
            try:
                seconds = context.measure(size)
            except ModelError as error:
                if size == 1:
                    raise
                why = f"the model refuses batch size {size}: {error}"
                break
            now = time.perf_counter()
            best = min(cost, key=lambda known: cost[known] / known, default=None)
            cost[size] = seconds
            if best is not None and seconds / size > (1 - STEP) * cost[best] / best:
                why = f"{cost[best] / best * 1e6:.3g} us a row at {best}, {seconds / size * 1e6:.3g} at {size}"
                break
            # The next size takes at most four times as long; where this one was measured before, its runs tell.
            if now - begin + 4 * max(now - previous, LEAST_RUNS * seconds) > TIME_BUDGET_SECONDS:
                why = f"measuring a further size would take too long (limit {TIME_BUDGET_SECONDS:g} s)"
                break
            previous = now
        cost = drop_idle_steps(up_to_top(cost))
        cost_us = {size: seconds * 1e6 for size, seconds in cost.items()}
        return BatchPlan(tuple(cost_us), cost_us, delay_us, why)


def candidates(limit: int | None) -> tuple[int, ...]:
    """Sizes to try up to exactly `limit`, leaving out those within a factor of two below it."""
    if limit is None:
        return SIZES
    return (*(size for size in SIZES if size == 1 != limit or size * 2 <= limit), limit)


def up_to_top(cost: dict[int, float]) -> dict[int, float]:
    """The sizes up to the smallest whose time per row is close to the best."""
    best = min(seconds / size for size, seconds in cost.items())
    top = min(size for size, seconds in cost.items() if seconds / size <= (1 + CLOSE) * best)
    return {size: seconds for size, seconds in cost.items() if size <= top}


def drop_idle_steps(cost: dict[int, float]) -> dict[int, float]:
    """Leave out steps that cost about what the next one does: a partial batch may as well run there.

    Size 1 stays: a lone request is the most frequent partial batch.
    """
    sizes = sorted(cost)
    kept = {
        size: cost[size]
        for size, above in itertools.pairwise(sizes)
        if size == 1 or cost[size] < (1 - GAIN) * cost[above]
    }
    return {**kept, sizes[-1]: cost[sizes[-1]]}


@hookimpl
def ovengine_batchers() -> list[Batcher]:
    """Offer `adaptive`."""
    return [AdaptiveBatcher()]
