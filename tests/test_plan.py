"""Plans: what they hold, how they print, and how the built-in selector and batchers come to them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ovengine.builtin.batchers.adaptive import AdaptiveBatcher, candidates, drop_idle_steps
from ovengine.builtin.batchers.fixed import FixedBatcher
from ovengine.builtin.batchers.none import NoBatcher
from ovengine.builtin.device_selectors.auto import AutoSelector
from ovengine.config import Hint
from ovengine.errors import ConfigError, ModelError, PropertyError
from ovengine.plan import BatchPlan, Decision, DevicePlan, LanePlan, Plan, TensorInfo, format_bytes
from ovengine.testing import FakeGraph, FakeRuntime, batch_context, device_context

PLAN = Plan(
    name="mlp",
    inputs=(TensorInfo("x", ("x",), (-1, 16), np.dtype(np.float32)),),
    outputs=(TensorInfo("y", ("y",), (-1, 4), np.dtype(np.float32)),),
    mode="rows",
    hint=Hint.THROUGHPUT,
    devices=(DevicePlan("CPU", {"NUM_STREAMS": 1}, 2, 1), DevicePlan("GPU", {}, 2, 0, shared=True)),
    batch=BatchPlan((1, 16), {1: 2.7, 16: 3.7}, 50, "measured"),
    scheduler="priority",
    precision=("f32", "f16"),
    memory_bytes=3 * 2**20,
    max_queue_size=None,
    decisions=(Decision("batcher", "adaptive", "no cheaper at 64"),),
)


def test_a_plan_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PLAN.name = "other"  # type: ignore[misc]  # what the test is about


def test_a_plan_lists_its_lanes_in_the_order_of_the_devices() -> None:
    assert PLAN.lanes == (LanePlan("CPU", 1), LanePlan("CPU", 1), LanePlan("GPU", 0), LanePlan("GPU", 0))


def test_a_printed_plan_says_all_that_was_decided() -> None:
    text = str(PLAN)
    for part in (
        "x float32[?,16]",
        "y float32[?,4]",
        "rows: ",
        "CPU: 2 lanes of 1 thread, f32",
        "GPU: 2 lanes, f16, one compiled model for all",
        "3.0 MiB",
        "priority",
        "callers wait when full, a partial batch is held for 50 us",
        "batcher: adaptive  no cheaper at 64",
    ):
        assert part in text
    ladder = [line.split() for line in text.splitlines() if line.strip().startswith(("1 ", "16 "))]
    assert ladder == [["1", "2.7", "2.70"], ["16", "3.7", "0.23"]]


def test_bytes_are_printed_in_binary_units() -> None:
    assert [format_bytes(n) for n in (0, 1023, 1536, 5 * 2**20, 3 * 2**30)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 MiB",
        "3.0 GiB",
    ]


# -- device selector `auto` -------------------------------------------------------------------------------------------


FOUR_DEVICES = FakeRuntime(
    {device: {} for device in ("CPU", "GPU.0", "GPU.1", "NPU")},
    values={"GPU.0": {"DEVICE_TYPE": "integrated"}, "GPU.1": {"DEVICE_TYPE": "discrete"}},
)


@pytest.mark.parametrize(
    ("text", "hint", "expected"),
    [
        ("AUTO", Hint.LATENCY, ["GPU.1"]),
        ("AUTO", Hint.CUMULATIVE_THROUGHPUT, ["GPU.1", "GPU.0", "NPU", "CPU"]),
        ("AUTO:-GPU.1", Hint.THROUGHPUT, ["GPU.0"]),
        ("AUTO:-GPU", Hint.THROUGHPUT, ["NPU"]),
        ("AUTO:CPU,GPU", Hint.THROUGHPUT, ["CPU"]),
        ("AUTO:CPU,GPU", Hint.CUMULATIVE_THROUGHPUT, ["CPU", "GPU.0", "GPU.1"]),
        ("MULTI:CPU,GPU.1", Hint.THROUGHPUT, ["CPU", "GPU.1"]),
        ("GPU.1,CPU", Hint.LATENCY, ["GPU.1", "CPU"]),
        ("cpu", Hint.LATENCY, ["CPU"]),
    ],
)
def test_auto_takes_the_first_device_of_the_list_or_the_most_capable_one(
    text: str, hint: Hint, expected: list[str]
) -> None:
    plans = AutoSelector().select(device_context(text, hint=hint, runtime=FOUR_DEVICES))
    assert [plan.device for plan in plans] == expected


def test_another_vendors_gpu_is_not_chosen_unless_it_is_named() -> None:
    runtime = FakeRuntime(
        {"CPU": {}, "GPU.0": {}, "GPU.1": {}},
        values={
            "GPU.0": {"DEVICE_ARCHITECTURE": "GPU: vendor=0x8086 arch=v12"},
            "GPU.1": {"DEVICE_ARCHITECTURE": "GPU: vendor=0x10DE arch=v0", "DEVICE_TYPE": "discrete"},
        },
    )
    (plan,) = AutoSelector().select(device_context("AUTO", runtime=runtime))
    assert plan.device == "GPU.0"
    assert "GPU.1 left out: another vendor's" in plan.why
    (named,) = AutoSelector().select(device_context("AUTO:GPU.1", runtime=runtime))
    assert named.device == "GPU.1"


def test_requests_of_a_list_are_the_lanes_of_a_device() -> None:
    cpu, gpu = AutoSelector().select(device_context("MULTI:CPU(3),GPU.1(5)", cpu_budget=8, runtime=FOUR_DEVICES))
    assert (cpu.lanes, gpu.lanes) == (3, 5)


def test_a_list_that_names_a_device_of_another_machine_says_so() -> None:
    (plan,) = AutoSelector().select(device_context("AUTO:NPU,CPU"))
    assert plan.device == "CPU"
    assert "NPU left out: not on this machine" in plan.why


def test_throughput_plans_a_lane_for_each_core() -> None:
    (plan,) = AutoSelector().select(device_context(cpu_budget=3))
    assert (plan.device, plan.lanes, plan.threads_per_lane, plan.shared) == ("CPU", 3, 1, False)
    assert plan.properties == {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False}


def test_latency_plans_one_lane_with_all_threads() -> None:
    (plan,) = AutoSelector().select(device_context(cpu_budget=3, hint=Hint.LATENCY))
    assert (plan.lanes, plan.threads_per_lane) == (1, 3)
    assert plan.properties["INFERENCE_NUM_THREADS"] == 3


def test_lanes_share_one_compiled_model_when_the_weights_are_large() -> None:
    (plan,) = AutoSelector().select(device_context(graph=FakeGraph(constant_bytes=100 * 2**20)))
    assert plan.shared
    assert plan.lanes == plan.properties["NUM_STREAMS"] == plan.properties["INFERENCE_NUM_THREADS"] == 2
    assert plan.compiled_copies == 1
    assert "100.0 MiB" in plan.why


@pytest.mark.parametrize(
    ("config", "lanes", "threads"),
    [
        ({"NUM_STREAMS": 3}, 3, 1),
        ({"NUM_STREAMS": "1"}, 1, 4),
        ({"NUM_STREAMS": "AUTO"}, 4, 1),
        ({"NUM_STREAMS": -1}, 4, 1),
        ({"INFERENCE_NUM_THREADS": 2}, 2, 1),
        ({"NUM_STREAMS": 2, "INFERENCE_NUM_THREADS": 8}, 2, 4),
        ({"INFERENCE_NUM_THREADS": 0}, 4, 1),
    ],
)
def test_streams_and_threads_of_the_caller_decide_the_lanes(
    config: dict[str, object], lanes: int, threads: int
) -> None:
    (plan,) = AutoSelector().select(device_context(cpu_budget=4, config=config))
    assert (plan.lanes, plan.threads_per_lane) == (lanes, threads)
    assert plan.properties["INFERENCE_NUM_THREADS"] == threads


@pytest.mark.parametrize("value", ["many", "", -7])
def test_a_nonsensical_number_of_streams_is_named(value: object) -> None:
    with pytest.raises(PropertyError, match="NUM_STREAMS"):
        AutoSelector().select(device_context(config={"NUM_STREAMS": value}))


def test_other_properties_of_the_caller_are_passed_on() -> None:
    config = {"INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": True}
    (plan,) = AutoSelector().select(device_context(config=config))
    assert plan.properties["INFERENCE_PRECISION_HINT"] == "f32"
    assert plan.properties["ENABLE_CPU_PINNING"] is True


TWO_CPUS = FakeRuntime({name: {"NUM_STREAMS": True, "INFERENCE_NUM_THREADS": True} for name in ("CPU", "CPUB")})


def test_auto_takes_the_first_device_and_cumulative_throughput_all() -> None:
    context = device_context("AUTO:CPUB,CPU", runtime=TWO_CPUS, cpu_budget=4)
    assert [plan.device for plan in AutoSelector().select(context)] == ["CPUB"]
    everything = dataclasses.replace(context, hint=Hint.CUMULATIVE_THROUGHPUT)
    assert [(plan.device, plan.lanes) for plan in AutoSelector().select(everything)] == [("CPUB", 2), ("CPU", 2)]


def test_a_list_without_auto_means_all_of_its_devices() -> None:
    plans = AutoSelector().select(device_context("CPU,CPUB", runtime=TWO_CPUS, cpu_budget=1))
    assert [(plan.device, plan.lanes) for plan in plans] == [("CPU", 1), ("CPUB", 1)]


def test_a_model_with_state_gets_lanes_as_any_other() -> None:
    (plan,) = AutoSelector().select(device_context(cpu_budget=4, graph=FakeGraph(has_state=True)))
    assert plan.lanes == 4


def test_an_accelerator_keeps_its_own_streams_and_has_two_inferences_in_flight() -> None:
    runtime = FakeRuntime({"GPU": {"NUM_STREAMS": True}})
    (plan,) = AutoSelector().select(device_context("GPU", runtime=runtime))
    assert (plan.lanes, plan.threads_per_lane, plan.shared) == (2, 0, True)
    assert plan.properties == {"PERFORMANCE_HINT": "THROUGHPUT"}


# -- batchers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "sizes"),
    [
        (None, (1, 4, 16, 64, 256)),
        (1, (1,)),
        (2, (1, 2)),
        (5, (1, 5)),
        (8, (1, 4, 8)),
        (10, (1, 4, 10)),
        (16, (1, 4, 16)),
        (64, (1, 4, 16, 64)),
        (100, (1, 4, 16, 100)),
        (1000, (1, 4, 16, 64, 256, 1000)),
    ],
)
def test_sizes_to_try_end_exactly_at_the_limit(limit: int | None, sizes: tuple[int, ...]) -> None:
    assert candidates(limit) == sizes


def test_a_tiny_model_climbs_to_the_top() -> None:
    plan = AdaptiveBatcher().plan(batch_context({1: 2.7, 4: 2.9, 16: 3.7, 64: 9.0, 256: 28.0}))
    assert plan.ladder == (1, 4, 16, 64, 256)
    assert plan.cost_us[16] == pytest.approx(3.7)


def test_a_weight_bound_model_stops_where_rows_get_no_cheaper() -> None:
    plan = AdaptiveBatcher().plan(batch_context({1: 100, 4: 160, 16: 290, 64: 1500}))
    assert plan.ladder == (1, 4, 16)
    assert "18.1 us a row at 16, 23.4 at 64" in plan.why


def test_of_equally_good_sizes_throughput_takes_the_largest_and_latency_the_smallest() -> None:
    cost = {1: 200, 4: 220, 16: 400, 64: 1152, 256: 4608}  # 18 us a row at 64 and at 256
    assert AdaptiveBatcher().plan(batch_context(cost)).ladder == (1, 4, 16, 64, 256)
    assert AdaptiveBatcher().plan(batch_context(cost, hint=Hint.LATENCY)).ladder == (1, 4, 16, 64)


def test_sizes_that_the_climb_steps_over_count_where_they_are_better() -> None:
    cost = {1: 200, 4: 220, 16: 400, 64: 900, 128: 1450, 256: 3500}
    assert AdaptiveBatcher().plan(batch_context(cost)).ladder == (1, 4, 16, 64, 128)
    # No better than its neighbours, it would only take memory.
    assert AdaptiveBatcher().plan(batch_context({**cost, 128: 2000})).ladder == (1, 4, 16, 64, 256)


def test_a_size_that_the_climb_steps_over_must_fit_the_memory_for_weights_too() -> None:
    cost = {1: 200, 4: 220, 16: 400, 64: 900, 128: 1450, 256: 3500}
    context = batch_context(cost, constant_bytes=100, compiled_copies=1, memory_budget_bytes=500)
    assert AdaptiveBatcher().plan(context).ladder == (1, 4, 16, 64, 256)


def test_a_batch_for_throughput_is_not_long_either() -> None:
    cost = {1: 1000, 4: 2400, 16: 9000, 64: 36000}
    assert AdaptiveBatcher().plan(batch_context(cost)).ladder == (1, 4, 16)


def test_a_step_in_doubt_is_measured_again() -> None:
    again: list[int] = []

    def measure_again(size: int) -> float:
        again.append(size)
        return {1: 100e-6, 4: 130e-6, 8: 200e-6, 16: 300e-6}[size]

    # The first measurement of 4 met a busy machine.
    context = batch_context({1: 100, 4: 900, 16: 300}, max_batch_size=16, measure_again=measure_again)
    plan = AdaptiveBatcher().plan(context)
    assert again[:2] == [1, 4]
    assert plan.cost_us == pytest.approx({1: 100, 4: 130, 16: 300})


def test_a_small_gain_must_show_more_than_once() -> None:
    again: list[int] = []

    def measure_again(size: int) -> float:
        again.append(size)
        return {1: 4000e-6, 4: 16400e-6}[size]

    # The first measurement of 1 met a busy machine.
    plan = AdaptiveBatcher().plan(batch_context({1: 5000, 4: 16400}, measure_again=measure_again))
    assert again == [1, 4] * 3
    assert plan.ladder == (1,)


def test_a_small_gain_is_not_worth_batching() -> None:
    assert AdaptiveBatcher().plan(batch_context({1: 5000, 4: 18800, 16: 75000})).ladder == (1,)


def test_a_model_that_batching_slows_down_keeps_to_single_rows() -> None:
    plan = AdaptiveBatcher().plan(batch_context({1: 13700, 4: 55600}))
    assert plan.ladder == (1,)
    assert "1.37e+04 us a row at 1, 1.39e+04 at 4" in plan.why


def test_the_limit_is_the_top_when_it_pays() -> None:
    plan = AdaptiveBatcher().plan(batch_context({1: 100, 4: 130, 10: 160}, max_batch_size=10, max_queue_delay_us=70))
    assert plan.ladder == (1, 4, 10)
    assert plan.max_queue_delay_us == 70


def test_a_step_that_costs_what_the_next_does_is_left_out() -> None:
    assert drop_idle_steps({1: 1.0, 4: 3.6, 16: 3.7, 64: 9.0}) == {1: 1.0, 16: 3.7, 64: 9.0}
    assert drop_idle_steps({1: 1.0, 4: 1.01}) == {1: 1.0, 4: 1.01}
    assert drop_idle_steps({1: 1.0}) == {1: 1.0}


def test_the_memory_for_weights_bounds_the_ladder() -> None:
    context = batch_context(lambda size: 10.0, constant_bytes=100, compiled_copies=2, memory_budget_bytes=450)
    plan = AdaptiveBatcher().plan(context)
    assert plan.ladder == (1, 4)
    assert "600 B" in plan.why


def test_measuring_ends_with_its_time_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 5.0])
    monkeypatch.setattr("ovengine.builtin.batchers.adaptive.time.perf_counter", lambda: next(clock))
    plan = AdaptiveBatcher().plan(batch_context(lambda size: 10.0))
    assert plan.ladder == (1,)
    assert "too long" in plan.why


def test_a_model_that_takes_long_for_one_row_is_not_tried_with_more() -> None:
    asked: list[int] = []

    def measure(size: int) -> float:
        asked.append(size)
        return 0.5 * size

    assert AdaptiveBatcher().plan(batch_context({}, measure=measure)).ladder == (1,)
    assert asked == [1]


def test_a_size_that_the_model_refuses_ends_the_ladder() -> None:
    def measure(size: int) -> float:
        if size > 4:
            raise ModelError("no room for 16")
        return 1e-5

    plan = AdaptiveBatcher().plan(batch_context({}, measure=measure))
    assert plan.ladder == (1, 4)
    assert "no room for 16" in plan.why


def test_fixed_uses_the_size_that_it_is_given_and_needs_one() -> None:
    plan = FixedBatcher().plan(batch_context({1: 10, 32: 500}, max_batch_size=32))
    assert plan.ladder == (1, 32)
    with pytest.raises(ConfigError, match="max_batch_size"):
        FixedBatcher().plan(batch_context({1: 10}))


def test_none_does_not_batch() -> None:
    assert NoBatcher().plan(batch_context({1: 10})).ladder == (1,)
