"""What `Model.set` accepts: the limits that may change while requests run."""

from __future__ import annotations

import enum
from dataclasses import replace
from typing import Final

from ovengine.config import MOST_BATCH_SIZE, MOST_QUEUE_DELAY_US, check_integer
from ovengine.errors import ConfigError
from ovengine.plan import Plan


class Unchanged(enum.Enum):
    """The type of UNCHANGED: None has a meaning of its own."""

    UNCHANGED = "unchanged"


UNCHANGED: Final = Unchanged.UNCHANGED


def changed_limits(
    plan: Plan,
    max_queue_delay_us: int | Unchanged,
    max_batch_size: int | Unchanged | None,
    max_queue_size: int | Unchanged | None,
    largest: int | None,
    ring_capacity: int,
) -> Plan:
    """The plan with other limits. Raises ConfigError for those out of range.

    `largest`: rows of the largest batch that will ever be, where that is known.
    """
    if max_queue_delay_us is not UNCHANGED:
        if max_queue_delay_us is None:
            raise ConfigError("max_queue_delay_us must be an integer, not None; 0 never waits")
        delay_us = check_integer("max_queue_delay_us", max_queue_delay_us, 0, MOST_QUEUE_DELAY_US) or 0
        plan = replace(plan, batch=replace(plan.batch, max_queue_delay_us=delay_us))
    if max_batch_size is not UNCHANGED:
        max_batch_size = check_integer("max_batch_size", max_batch_size, 1, MOST_BATCH_SIZE)
        if max_batch_size is not None and largest is not None and max_batch_size > largest:
            raise ConfigError(
                f"max_batch_size={max_batch_size} is more than the largest batch of the plan, {largest} rows; "
                f"give max_batch_size={max_batch_size} to load()"
            )
        plan = replace(plan, max_batch_size=max_batch_size)
    if max_queue_size is not UNCHANGED:
        max_queue_size = check_integer("max_queue_size", max_queue_size, 0)
        if max_queue_size is not None and max_queue_size > ring_capacity:
            raise ConfigError(
                f"max_queue_size={max_queue_size} is more than the {ring_capacity} requests that there is room for; "
                f"give max_queue_size={max_queue_size} to load()"
            )
        plan = replace(plan, max_queue_size=max_queue_size or None)
    return plan
