"""OpenVINO's own spellings, and the equivalents of Triton's and TensorFlow Serving's, on the real CPU device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino.properties as props
import pytest
from openvino.properties import hint, streams

import ovengine
from ovengine import _spellings
from ovengine.builtin.device_selectors.auto import AutoSelector
from ovengine.config import LoadOptions
from ovengine.errors import ConfigError, PropertyError
from ovengine.testing import device_context
from support import EXACT, reference

Load = Callable[..., ovengine.Model]


@pytest.fixture
def load(tiny_mlp: Path) -> Iterator[Load]:
    """Load the tiny MLP; closed after the test."""
    models: list[ovengine.Model] = []

    def make(**arguments: Any) -> ovengine.Model:
        models.append(ovengine.load(tiny_mlp, **{"device": "CPU", **arguments}))
        assert models[-1].wait_ready(60)
        return models[-1]

    yield make
    for model in models:
        model.close(0)


def set_in_openvino(properties: tuple[str, Any]) -> dict[str, Any]:
    """What `openvino.properties` makes of a value: a dictionary with an OVAny."""
    return dict([properties])


# -- devices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["BATCH:CPU(16)", "batch:cpu( 16 )", " BATCH : CPU (16) "])
def test_a_batch_device_with_a_number_batches_up_to_it(load: Load, tiny_mlp: Path, device: str) -> None:
    model = load(device=device, config=EXACT)
    assert model.plan.ladder == (1, 16)
    assert model.plan.devices[0].device == "CPU"
    assert "max_batch_size: 16" in str(model.plan)
    rows = np.random.default_rng(0).random((40, 16), np.float32)
    futures = [model.submit(row) for row in rows]
    expected = reference(tiny_mlp)(rows)["y"]
    for future, row in zip(futures, expected, strict=True):
        assert np.allclose(future.result()["y"], row, atol=1e-5)


def test_a_batch_device_without_a_number_chooses_one(load: Load) -> None:
    assert max(load(device="BATCH:CPU").plan.ladder) > 1


def test_a_number_is_a_limit_for_a_batcher_that_is_named() -> None:
    options = LoadOptions(device="BATCH:AUTO(16)", batcher="adaptive", max_batch_size=16)
    assert (options.device, options.batcher, options.max_batch_size) == ("AUTO", "adaptive", 16)


@pytest.mark.parametrize(
    "device",
    ["BATCH", "BATCH:", "BATCH(4)", "BATCH:CPU,GPU", "BATCH:CPU(0)", "BATCH:CPU(x)", "BATCH:CPU()", "BATCH:(4)"],
)
def test_a_batch_device_that_openvino_would_refuse_is_an_error(device: str) -> None:
    with pytest.raises(ConfigError, match="device="):
        LoadOptions(device=device)


def test_a_batch_device_that_is_not_there_is_an_unknown_device(load: Load) -> None:
    with pytest.raises(ovengine.UnknownDeviceError, match="unknown device 'NPU9'"):
        load(device="BATCH:NPU9(4)")


# -- properties -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config", [{"AUTO_BATCH_TIMEOUT": 7}, {"AUTO_BATCH_TIMEOUT": "7"}, set_in_openvino(props.auto_batch_timeout(7))]
)
def test_the_timeout_of_batches_is_the_delay(load: Load, config: dict[str, Any]) -> None:
    assert load(config=config).plan.batch.max_queue_delay_us == 7000


@pytest.mark.parametrize(
    "value", ["NO", "no", "False", False, 0, "OFF", set_in_openvino(hint.allow_auto_batching(False)).popitem()[1]]
)
def test_batching_can_be_disallowed(load: Load, value: object) -> None:
    plan = load(config={"ALLOW_AUTO_BATCHING": value}).plan
    assert plan.ladder == (1,)
    assert "batching is off" in str(plan)


def test_allowing_batches_changes_nothing() -> None:
    assert LoadOptions(config={hint.allow_auto_batching: True}).batcher is None
    assert LoadOptions(config={"ALLOW_AUTO_BATCHING": "YES"}, batcher="none").batcher == "none"


@pytest.mark.parametrize("value", [4, "4", set_in_openvino(hint.num_requests(4)).popitem()[1]])
def test_the_number_of_requests_caps_batches(load: Load, value: object) -> None:
    plan = load(config={"PERFORMANCE_HINT_NUM_REQUESTS": value}).plan
    assert plan.ladder[-1] <= 4
    assert "PERFORMANCE_HINT_NUM_REQUESTS=4" in str(plan)


def test_the_number_of_requests_caps_lanes_but_not_streams_that_were_asked_for(load: Load) -> None:
    one = load(config={"PERFORMANCE_HINT_NUM_REQUESTS": 1})
    assert (len(one.plan.lanes), one.plan.ladder) == (1, (1,))
    (plan,) = AutoSelector().select(device_context(cpu_budget=8, num_requests=2))
    assert (plan.lanes, plan.threads_per_lane) == (2, 4)
    (plan,) = AutoSelector().select(device_context(cpu_budget=8, num_requests=2, config={"NUM_STREAMS": 4}))
    assert plan.lanes == 4


def test_the_number_of_requests_caps_other_limits_but_not_a_list_of_sizes() -> None:
    requests = {"PERFORMANCE_HINT_NUM_REQUESTS": 4}
    assert LoadOptions(device="BATCH:CPU(16)", config=requests).max_batch_size == 4
    assert LoadOptions(max_batch_size=2, config=requests).max_batch_size == 2
    assert LoadOptions(batch_sizes=[1, 8], config=requests).max_batch_size == 8
    assert LoadOptions(config={"PERFORMANCE_HINT_NUM_REQUESTS": 0}).max_batch_size is None


@pytest.mark.parametrize(
    "config",
    [
        {"NUM_STREAMS": 3},
        {"NUM_STREAMS": "3"},
        {props.num_streams: streams.Num(3)},
        set_in_openvino(props.num_streams(streams.Num(3))),
    ],
)
def test_streams_are_lanes(load: Load, config: dict[str, Any]) -> None:
    assert len(load(config=config).plan.lanes) == 3


@pytest.mark.parametrize("value", [1, "1", set_in_openvino(props.inference_num_threads(1)).popitem()[1]])
def test_threads_are_divided_among_lanes(load: Load, value: object) -> None:
    assert [lane.threads for lane in load(config={"INFERENCE_NUM_THREADS": value}).plan.lanes] == [1]


def test_other_values_may_be_openvinos_objects_too(load: Load) -> None:
    config = {
        hint.inference_precision: ov.Type.f32,
        hint.execution_mode: hint.ExecutionMode.ACCURACY,
        hint.performance_mode: hint.PerformanceMode.LATENCY,
        **set_in_openvino(hint.enable_cpu_pinning(False)),
    }
    plan = load(config=config).plan
    assert plan.precision == ("f32",)
    assert plan.hint is ovengine.Hint.LATENCY
    assert plan.devices[0].properties["EXECUTION_MODE_HINT"] == "ACCURACY"


def test_values_lose_their_wrappers_and_nothing_else() -> None:
    assert _spellings.plain(streams.Num.AUTO) == -1
    assert _spellings.plain(props.log.Level.INFO) == "LOG_INFO"
    for value in ("f32", 3, True, None, Path("cache"), {"A": 1}):
        assert _spellings.plain(value) is value


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"AUTO_BATCH_TIMEOUT": -1}, "AUTO_BATCH_TIMEOUT must be an integer of at least 0, not -1"),
        ({"AUTO_BATCH_TIMEOUT": "soon"}, "AUTO_BATCH_TIMEOUT.*'soon'"),
        ({"ALLOW_AUTO_BATCHING": "maybe"}, "ALLOW_AUTO_BATCHING must be YES or NO, not 'maybe'"),
        ({"PERFORMANCE_HINT_NUM_REQUESTS": -1}, "PERFORMANCE_HINT_NUM_REQUESTS"),
        ({"PERFORMANCE_HINT_NUM_REQUESTS": 1.5}, "PERFORMANCE_HINT_NUM_REQUESTS"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(config: dict[str, Any], words: str) -> None:
    with pytest.raises(PropertyError, match=words):
        LoadOptions(config=config)


def test_a_timeout_of_more_than_an_hour_is_refused() -> None:
    with pytest.raises(ConfigError, match="AUTO_BATCH_TIMEOUT must be at most 3600000"):
        LoadOptions(config={"AUTO_BATCH_TIMEOUT": 4_000_000})


# -- contradictions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"device": "BATCH:CPU(16)", "max_batch_size": 8},
            r"BATCH:CPU\(16\) means max_batch_size=16, but given is max_batch_size=8; drop one",
        ),
        ({"device": "BATCH:CPU(16)", "batcher": "none"}, "asks for batches, and batcher='none' for none"),
        ({"device": "BATCH:CPU", "batcher": "none"}, "asks for batches"),
        (
            {"device": "BATCH:CPU(16)", "config": {"ALLOW_AUTO_BATCHING": "NO"}},
            r"ALLOW_AUTO_BATCHING=NO means batcher='none', but BATCH:CPU\(16\) means batcher='fixed'",
        ),
        ({"batcher": "adaptive", "config": {"ALLOW_AUTO_BATCHING": "NO"}}, "given is batcher='adaptive'"),
        (
            {"max_queue_delay_us": 500, "config": {"AUTO_BATCH_TIMEOUT": 1}},
            "AUTO_BATCH_TIMEOUT=1 means max_queue_delay_us=1000, but given is max_queue_delay_us=500",
        ),
        ({"batch_sizes": [1, 4], "batcher": "adaptive"}, r"batch_sizes=\[1, 4\] means batcher='fixed'"),
        (
            {"batch_sizes": [1, 4], "config": {"ALLOW_AUTO_BATCHING": "NO"}},
            r"batch_sizes=\[1, 4\] means batcher='fixed'",
        ),
        ({"batch_sizes": [1, 4], "device": "BATCH:CPU(16)"}, r"batch_sizes=\[1, 4\] means max_batch_size=4"),
        ({"batch_sizes": [1, 4], "max_batch_size": 8}, "max_batch_size=8 is not the largest of batch_sizes"),
    ],
)
def test_spellings_that_contradict_each_other_are_an_error(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        LoadOptions(**arguments)


def test_the_same_said_twice_is_no_contradiction() -> None:
    options = LoadOptions(
        device="BATCH:CPU(16)",
        batcher="fixed",
        batch_sizes=(16, 4, 16),
        max_batch_size=16,
        max_queue_delay_us=2000,
        config={"AUTO_BATCH_TIMEOUT": 2},
    )
    assert (options.device, options.batcher, options.batch_sizes) == ("CPU", "fixed", (4, 16))
    assert (options.max_batch_size, options.max_queue_delay_us) == (16, 2000)


# -- sizes one by one -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[1, 4, 16], (2, 8), [4]])
def test_batch_sizes_are_the_ladder(load: Load, tiny_mlp: Path, sizes: Any) -> None:
    model = load(batch_sizes=sizes, config=EXACT)
    assert model.plan.ladder == tuple(sizes)
    rows = np.random.default_rng(0).random((21, 16), np.float32)
    expected = reference(tiny_mlp)(rows)["y"]
    assert np.allclose(model(rows[0])["y"], expected[0], atol=1e-5)
    for future, row in zip([model.submit(row) for row in rows], expected, strict=True):
        assert np.allclose(future.result()["y"], row, atol=1e-5)
    assert np.allclose(model.infer_rows(rows)["y"], expected, atol=1e-5)


@pytest.mark.parametrize("sizes", [[], [0, 4], ["four"], [1, 2.5], 4.5, [None]])
def test_batch_sizes_that_make_no_sense_are_an_error(sizes: Any) -> None:
    with pytest.raises(ConfigError, match="batch_sizes"):
        LoadOptions(batch_sizes=sizes)
