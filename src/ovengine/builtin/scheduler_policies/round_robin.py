"""Policy `round_robin`: idle lanes take batches in turn."""

from __future__ import annotations

from ovengine.hookspecs import SchedulerPolicy, hookimpl


class RoundRobin:
    """Spreads batches evenly over all lanes of all devices."""

    name = "round_robin"
    native = "round_robin"


@hookimpl
def ovengine_scheduler_policies() -> list[SchedulerPolicy]:
    """Offer `round_robin`."""
    return [RoundRobin()]
