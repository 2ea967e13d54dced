"""The policy, deciding for the lanes of the fake device."""

from __future__ import annotations

import numpy as np
import ovengine_sample_policy

import ovengine
from ovengine.testing import fake_model


def test_it_spreads_rows_over_all_lanes() -> None:
    before = ovengine_sample_policy.decisions()
    policy = ovengine_sample_policy.FewestRows().native
    with fake_model((1,), lanes=2, policy=policy, service_time_us=200) as model:
        # One after the other: there is something to decide only where more than one lane is idle.
        for value in range(50):
            result = model.submit(np.full(4, value, np.float32)).result()
            np.testing.assert_array_equal(result["y"], np.full(4, value + 1, np.float32))
        assert all(lane.rows > 0 for lane in model.stats().lanes)
    assert ovengine_sample_policy.decisions() > before


def test_it_is_offered_by_name() -> None:
    known = ovengine.Plugins([ovengine_sample_policy], entry_points=False, disabled=())
    assert isinstance(known.get("scheduler_policy", "fewest_rows"), ovengine_sample_policy.FewestRows)
