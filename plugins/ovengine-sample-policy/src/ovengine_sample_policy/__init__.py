"""Schedules by the rows that each lane has run so far."""

from __future__ import annotations

import ovengine
from ovengine.hookspecs import SchedulerPolicy
from ovengine_sample_policy import _policy

__all__ = ["FewestRows", "decisions"]

decisions = _policy.decisions


class FewestRows:
    """The idle lane with the fewest rows takes the batch."""

    name = "fewest_rows"

    @property
    def native(self) -> object:
        """A capsule of its own for each model."""
        return _policy.make_policy()


@ovengine.hookimpl
def ovengine_scheduler_policies() -> list[SchedulerPolicy]:
    """Offer `fewest_rows`."""
    return [FewestRows()]
