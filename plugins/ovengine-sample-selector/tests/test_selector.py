"""The selector, on stand-ins for devices."""

from __future__ import annotations

import pytest
from ovengine_sample_selector import QuietSelector

import ovengine
from ovengine.testing import FakeRuntime, device_context


def test_it_plans_one_lane_of_one_thread() -> None:
    (plan,) = QuietSelector().select(device_context(cpu_budget=8, config={"INFERENCE_PRECISION_HINT": "f32"}))
    assert (plan.device, plan.lanes, plan.threads_per_lane) == ("CPU", 1, 1)
    assert plan.properties["INFERENCE_PRECISION_HINT"] == "f32"


def test_without_a_cpu_it_says_so() -> None:
    with pytest.raises(ovengine.UnknownDeviceError, match="no CPU among GPU"):
        QuietSelector().select(device_context(runtime=FakeRuntime({"GPU": {}})))
