"""OpenVINO properties: what `compile_model` takes for the CPU, `load` takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino.properties as props
import pytest

import ovengine
from ovengine.builtin.device_selectors.auto import AutoSelector
from ovengine.plan import MAX_LANES
from ovengine.testing import FakeRuntime, device_context
from support import EXACT, double, tagged

# Values that are not the defaults; a property without any is set to its default.
VALUES: dict[str, list[Any]] = {
    "NUM_STREAMS": [1, "2", np.int64(2), props.streams.Num.AUTO],
    "INFERENCE_NUM_THREADS": [1, np.uint8(2)],
    "PERF_COUNT": [True, np.bool_(True), "YES"],
    "INFERENCE_PRECISION_HINT": [ov.Type.f32, "f32"],
    "PERFORMANCE_HINT": [props.hint.PerformanceMode.THROUGHPUT, "LATENCY"],
    "EXECUTION_MODE_HINT": [props.hint.ExecutionMode.ACCURACY],
    "PERFORMANCE_HINT_NUM_REQUESTS": [4, np.int16(2)],
    "ENABLE_CPU_PINNING": [False, np.bool_(False), "NO"],
    "SCHEDULING_CORE_TYPE": [props.hint.SchedulingCoreType.PCORE_ONLY],
    "MODEL_DISTRIBUTION_POLICY": [{props.hint.ModelDistributionPolicy.TENSOR_PARALLEL}],
    "CPU_DENORMALS_OPTIMIZATION": [True],
    "LOG_LEVEL": [props.log.Level.NO, props.log.Level.ERR, props.log.Level.WARNING],
    "CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE": [0.5, np.float32(0.5)],
    "TBB_PARTITIONER": [props.intel_cpu.TbbPartitioner.STATIC],
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": [np.uint64(64)],
    "KV_CACHE_PRECISION": [ov.Type.f16],
    "KEY_CACHE_GROUP_SIZE": [np.int32(32)],
    "WEIGHTS_PATH": [""],
}


def writable() -> list[str]:
    supported = ov.Core().get_property("CPU", "SUPPORTED_PROPERTIES")
    return [name for name, access in supported.items() if "W" in access]


def cases() -> list[Any]:
    """(name, value) of all properties that can be set."""
    core = ov.Core()
    found = []
    for name in writable():
        values = VALUES.get(name) or [core.get_property("CPU", name)]
        for number, value in enumerate(values):
            found.append(pytest.param(name, value, id=f"{name}-{number}-{type(value).__name__}"))
    return found


@pytest.mark.parametrize(("name", "value"), cases())
def test_a_property_that_compile_model_takes_is_taken(name: str, value: Any) -> None:
    given = value.item() if isinstance(value, np.generic) else value  # OpenVINO's bindings refuse NumPy's
    expected = ov.Core().compile_model(double(), "CPU", {**EXACT, name: given})(tagged(3))[0]
    with ovengine.load(double(), device="CPU", config={**EXACT, name: value}, batcher="none", cache_dir=None) as model:
        np.testing.assert_array_equal(model(tagged(3))["y"], expected)


def test_there_are_values_for_properties_of_this_release_alone() -> None:
    assert VALUES.keys() <= set(writable())


@pytest.mark.parametrize("config", [{}, {"NUM_STREAMS": MAX_LANES}, {"NUM_STREAMS": 500}], ids=str)
@pytest.mark.parametrize("devices", [("CPU",), ("CPU", "CPUB"), ("CPU", "CPUB", "GPU")], ids="-".join)
def test_all_devices_together_have_no_more_lanes_than_a_model_can(devices: tuple[str, ...], config: Any) -> None:
    runtime = FakeRuntime({device: {"NUM_STREAMS": True, "FULL_DEVICE_NAME": False} for device in devices})
    context = device_context(device="MULTI:" + ",".join(devices), runtime=runtime, config=config)
    plans = AutoSelector().select(context)
    assert {plan.device for plan in plans} == set(devices)
    assert len(devices) <= sum(plan.lanes for plan in plans) <= MAX_LANES


def test_a_model_is_loaded_on_two_devices_with_streams_for_one(tmp_path: Path) -> None:
    with ovengine.Engine() as engine:
        engine.runtime.register_plugin("openvino_intel_cpu_plugin", "CPUB")
        with engine.load(double(), device="CPU,CPUB", config={**EXACT, "NUM_STREAMS": 48}, batcher="none") as model:
            assert len(model.plan.lanes) == MAX_LANES
            np.testing.assert_array_equal(model(tagged(3))["y"], tagged(3) * 2)
