"""Batcher `adaptive`: measures batch sizes on this machine and keeps those that pay."""

from __future__ import annotations

import itertools
import time

from ovengine.config import Hint
from ovengine.errors import ModelError
from ovengine.hookspecs import BatchContext, Batcher, hookimpl
from ovengine.plan import BatchPlan, format_bytes

SIZES = (1, 4, 16, 64, 256)
# What a batch costs beside its inference: threads that wake each other, and find their caches cold. Seen from one
# thread that submits rows and reads results, at batches of 64 and of 256.
BATCH_SECONDS = 60e-6
# Climbing goes on as long as a step saves this share of the time per row.
STEP = 0.03
# Times per row this close count as equal: measurements of one size differ as much. The lanes know better after a while,
# and cut full batches into smaller ones where that is faster.
CLOSE = 0.10
# Sizes above 1 must save this share of the time per row, or rows wait for each other in vain. It is more than
# measurements are in error by: a model that gains nothing must not batch after some loads and not after others.
WORTH_BATCHING = 0.15
# For throughput a batch may take this long; the hint latency asks for less by itself.
LONGEST_BATCH_SECONDS = 10e-3
# A size below the top must cost this share less than the next one, or a partial batch may as well run there.
GAIN = 0.10
# Compiling and measuring stops when the next size would probably go beyond this.
TIME_BUDGET_SECONDS = 3.0
# A step that saves less than this share of the time per row is in doubt, and measured again: so many times, the two
# sizes by turns, if one round takes less than this.
DOUBT = 0.30
REPEATS = 3
AGAIN_SECONDS = 0.5
# A warm-up and a measured inference.
LEAST_RUNS = 2


class AdaptiveBatcher:
    """Climbs 1, 4, 16, 64, 256 while rows get cheaper, looks around the best, and keeps what is about as good."""

    name = "adaptive"
    compares = True  # batch sizes by their costs: with other costs the ladder is another one

    def plan(self, context: BatchContext) -> BatchPlan:
        """Measure until it no longer pays; drop what saves too little to be worth its memory and latency."""
        measured, why = climb(context)
        look_around(context, measured)
        cost = drop_idle_steps(up_to_top(measured, context.hint))
        cost_us = {size: seconds * 1e6 for size, seconds in cost.items()}
        return BatchPlan(tuple(cost_us), cost_us, context.max_queue_delay_us or 0, why)


def climb(context: BatchContext) -> tuple[dict[int, float], str]:
    """Seconds of one inference by size, in ascending order, as far as it made sense to go; and why no further."""
    cost: dict[int, float] = {}
    begin = previous = time.perf_counter()
    for size in candidates(context.max_batch_size):
        weights = weights_bytes(context, len(cost) + 1)
        if cost and weights > context.memory_budget_bytes:
            return cost, f"a further size would bring the weights to {format_bytes(weights)}"
        try:
            seconds = context.measure(size)
        except ModelError as error:
            if size == 1:
                raise
            return cost, f"the model refuses batch size {size}: {error}"
        now = time.perf_counter()
        best = min(cost, key=lambda known: row_seconds(cost, known), default=None)
        cost[size] = seconds
        if best is not None:
            resolve_doubt(context, cost, best, size)
            if not is_step(cost, best, size):
                by_row = {known: f"{cost[known] / known * 1e6:.3g}" for known in (best, size)}
                return cost, f"{by_row[best]} us a row at {best}, {by_row[size]} at {size}"
        # The next size takes at most four times as long; where this one was measured before, its runs tell.
        if now - begin + 4 * max(now - previous, LEAST_RUNS * seconds) > TIME_BUDGET_SECONDS:
            return cost, f"measuring a further size would take too long (limit {TIME_BUDGET_SECONDS:g} s)"
        previous = now
    return cost, "every step made a row cheaper"


def look_around(context: BatchContext, cost: dict[int, float]) -> None:
    """Add half or twice the best size if that is better still: the climb has stepped over them, caches have not."""
    best = min(cost, key=lambda size: row_seconds(cost, size))
    for size in (best // 2, best * 2):
        fits = weights_bytes(context, len(cost) + 1) <= context.memory_budget_bytes
        if best == 1 or size in cost or size > max(cost) or not fits:
            continue
        try:
            cost[size] = context.measure(size)
        except ModelError:
            continue
        resolve_doubt(context, cost, best, size)
        if is_step(cost, best, size):
            best = size
        else:
            del cost[size]


def weights_bytes(context: BatchContext, sizes: int) -> int:
    """Of so many compiled sizes."""
    return context.constant_bytes * context.compiled_copies * sizes


def candidates(limit: int | None) -> tuple[int, ...]:
    """Sizes to try up to exactly `limit`, leaving out those within a factor of two below it."""
    if limit is None:
        return SIZES
    return (*(size for size in SIZES if size == 1 != limit or size * 2 <= limit), limit)


def row_seconds(cost: dict[int, float], size: int) -> float:
    """Time per row at `size`, with its share of what a batch costs beside its inference."""
    return (cost[size] + BATCH_SECONDS) / size


def resolve_doubt(context: BatchContext, cost: dict[int, float], best: int, other: int) -> None:
    """Measure the two again where they are close: what else the machine did in one moment must not decide."""
    for _ in range(REPEATS):
        saved = 1 - row_seconds(cost, other) / row_seconds(cost, best)
        if saved > DOUBT or (cost[best] + cost[other]) * LEAST_RUNS > AGAIN_SECONDS:
            return
        cost[best], cost[other] = context.measure_again(best), context.measure_again(other)


def is_step(cost: dict[int, float], size: int, other: int) -> bool:
    """Whether rows are cheaper at `other`."""
    return row_seconds(cost, other) <= (1 - STEP) * row_seconds(cost, size)


def up_to_top(cost: dict[int, float], hint: Hint) -> dict[int, float]:
    """The sizes up to the one that full batches run at; only size 1 where batching saves too little.

    Among sizes that are as good as the best, latency asks for the smallest. Throughput takes the largest that is not
    too long: the fewer batches, the less often callers are woken in between.
    """
    best = min(row_seconds(cost, size) for size in cost)
    if best > (1 - WORTH_BATCHING) * row_seconds(cost, 1):
        return {1: cost[1]}
    close = [size for size in sorted(cost) if row_seconds(cost, size) <= (1 + CLOSE) * best]
    short = [size for size in close if cost[size] <= LONGEST_BATCH_SECONDS] or close[:1]
    top = close[0] if hint is Hint.LATENCY else short[-1]
    return {size: cost[size] for size in sorted(cost) if size <= top}


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
