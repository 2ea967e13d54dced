"""Policy `priority`: the first idle lane in the order of the devices."""

from __future__ import annotations

from ovengine.hookspecs import SchedulerPolicy, hookimpl


class Priority:
    """Fills the preferred device first; further devices take what it cannot."""

    name = "priority"
    native = "priority"


@hookimpl
def ovengine_scheduler_policies() -> list[SchedulerPolicy]:
    """Offer `priority`."""
    return [Priority()]
