"""The policy, deciding whose requests go first on the fake device."""

from __future__ import annotations

import threading

import numpy as np
import ovengine_weighted_fair
import pytest
from ovengine_weighted_fair import WeightedFair

import ovengine
from ovengine.testing import fake_model

ROW = np.zeros(4, np.float32)


def order_of(policy: WeightedFair, groups: dict[str, int]) -> list[str]:
    """Flood a model of one row to a batch with so many requests of each group; whose were served, in order."""
    order: list[str] = []
    with fake_model((1,), policy=policy.native, service_time_us=2000) as model:
        # The lane and the open slot are taken while the others come.
        blockers = [model.submit(ROW) for _ in range(2)]
        futures = {model.submit(ROW, group=group): group for group, count in groups.items() for _ in range(count)}
        for future, group in futures.items():
            future.add_done_callback(lambda _, group=group: order.append(group))  # type: ignore[misc]  # a default
        done = threading.Event()
        for future in ovengine.as_completed([*blockers, *futures]):
            future.result()
        last = model.submit(ROW)
        last.add_done_callback(lambda _: done.set())
        assert done.wait(60)
    return order


def test_rows_are_shared_by_weight_while_all_groups_wait() -> None:
    order = order_of(WeightedFair({"gold": 3, "silver": 2}), {"free": 60, "silver": 60, "gold": 60})
    served = order[:60]
    # To within a request of each, but for those that were served while the flood was still coming in.
    assert abs(served.count("gold") - 30) <= 5
    assert abs(served.count("silver") - 20) <= 5
    assert abs(served.count("free") - 10) <= 5
    assert sorted(order) == ["free"] * 60 + ["gold"] * 60 + ["silver"] * 60


def test_weights_change_while_a_model_runs() -> None:
    policy = WeightedFair()
    assert abs(order_of(policy, {"a": 40, "b": 40})[:40].count("a") - 20) <= 5
    policy.set_weights({"b": 4})
    assert order_of(policy, {"a": 40, "b": 40})[:40].count("b") >= 27
    policy.set_weights({}, default=7)
    assert abs(order_of(policy, {"a": 40, "b": 40})[:40].count("a") - 20) <= 5


def test_weights_change_under_lanes_that_look_them_up() -> None:
    policy = WeightedFair()
    stop = threading.Event()

    def change() -> None:
        for n in range(1, 1_000_000):
            if stop.is_set():
                return
            policy.set_weights({f"group {i}": 1 + (i + n) % 5 for i in range(n % 50)})

    changer = threading.Thread(target=change)
    changer.start()
    with fake_model((1, 4), lanes=2, policy=policy.native) as model:
        futures = [model.submit(np.full(4, i, np.float32), group=f"group {i % 60}") for i in range(3000)]
        for i, future in enumerate(futures):
            np.testing.assert_array_equal(future.result()["y"], np.full(4, i + 1, np.float32))
        assert model._native_stats()["policy_faults"] == 0
    stop.set()
    changer.join()


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_a_weight_is_above_zero_and_finite(weight: float) -> None:
    for arguments in ({"weights": {"a": weight}}, {"weights": {}, "default": weight}):
        with pytest.raises(ovengine.ConfigError, match="above 0"):
            WeightedFair().set_weights(**arguments)  # type: ignore[arg-type]  # of either kind


def test_it_is_offered_by_name() -> None:
    known = ovengine.Plugins([ovengine_weighted_fair], entry_points=False, disabled=())
    assert isinstance(known.get("scheduler_policy", "weighted_fair"), WeightedFair)
