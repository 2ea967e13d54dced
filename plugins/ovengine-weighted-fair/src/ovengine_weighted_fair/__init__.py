"""Groups share a model by weights."""

from __future__ import annotations

from collections.abc import Mapping

import ovengine
from ovengine.hookspecs import SchedulerPolicy
from ovengine_weighted_fair import _policy

__all__ = ["WeightedFair", "set_weights"]


class WeightedFair:
    """Of groups that wait, each gets rows by its weight; of several idle lanes the first takes the batch.

    Args:
        weights: by the group's name, `str(key)` of what `submit(..., group=key)` gets.
        default: of all other groups.
        name: of the policy, for `load(scheduler=NAME)`.
    """

    def __init__(
        self, weights: Mapping[str, float] | None = None, *, default: float = 1.0, name: str = "weighted_fair"
    ) -> None:
        self.name = name
        self._capsule = _policy.make_policy()
        self.set_weights(weights or {}, default=default)

    @property
    def native(self) -> object:
        """One capsule for all models that use this policy."""
        return self._capsule

    def set_weights(self, weights: Mapping[str, float], *, default: float = 1.0) -> None:
        """Replace all weights, also of models that run. Raises ovengine.ConfigError for one that is not above 0."""
        table = {str(group).encode("utf-8", "surrogatepass"): float(weight) for group, weight in weights.items()}
        for group, weight in (*weights.items(), ("default", default)):
            if not 0 < float(weight) < float("inf"):
                raise ovengine.ConfigError(f"the weight of {group!r} is {weight!r}; it must be above 0, and finite")
        _policy.set_weights(self._capsule, sorted(table.items()), float(default))


_default = WeightedFair()
set_weights = _default.set_weights


@ovengine.hookimpl
def ovengine_scheduler_policies() -> list[SchedulerPolicy]:
    """Offer `weighted_fair`."""
    return [_default]
