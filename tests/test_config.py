"""Hints, OpenVINO properties, and how many CPUs a process may use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from ovengine import config
from ovengine.config import Hint, LoadOptions
from ovengine.errors import ConfigError, PropertyError
from ovengine.testing import FakeRuntime, fake_model


@pytest.mark.parametrize("text", ["throughput", "THROUGHPUT", "Throughput", Hint.THROUGHPUT])
def test_a_hint_is_understood_in_any_case(text: str) -> None:
    assert Hint.parse(text) is Hint.THROUGHPUT


def test_a_hint_may_be_openvinos_own_enum_member() -> None:
    hints = pytest.importorskip("openvino.properties.hint")
    assert Hint.parse(hints.PerformanceMode.CUMULATIVE_THROUGHPUT) is Hint.CUMULATIVE_THROUGHPUT


@pytest.mark.parametrize("value", ["fast", "", None, 3])
def test_an_unknown_hint_is_an_error_that_lists_the_choices(value: object) -> None:
    with pytest.raises(ConfigError, match="latency, throughput, cumulative_throughput"):
        Hint.parse(value)


def test_the_hint_in_config_wins_and_is_taken_out() -> None:
    options = LoadOptions(hint=Hint.THROUGHPUT, config={"PERFORMANCE_HINT": "latency", "NUM_STREAMS": 2})
    assert options.hint is Hint.LATENCY
    assert dict(options.config) == {"NUM_STREAMS": 2}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_batch_size", 0),
        ("max_batch_size", -1),
        ("max_batch_size", 1.5),
        ("max_batch_size", True),
        ("max_batch_size", config.MOST_BATCH_SIZE + 1),
        ("max_batch_size", 1 << 70),
        ("batch_sizes", [1, config.MOST_BATCH_SIZE + 1]),
        ("batch_sizes", range(1, config.MOST_BATCH_SIZES + 2)),
        ("batch_sizes", []),
        ("device", f"BATCH:CPU({config.MOST_BATCH_SIZE + 1})"),
        ("max_queue_delay_us", -1),
        ("max_queue_size", -1),
        ("max_queue_size", "many"),
        ("device", ""),
        ("device", 7),
    ],
)
def test_an_argument_out_of_range_is_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=name):
        LoadOptions(**{name: value})


def test_the_most_rows_of_a_batch_are_those_that_the_core_takes() -> None:
    sizes = [1, config.MOST_BATCH_SIZE]
    assert LoadOptions(batch_sizes=sizes).max_batch_size == config.MOST_BATCH_SIZE
    rows = np.arange(4 * 1000, dtype=np.float32).reshape(1000, 4)
    with fake_model(sizes) as model:
        np.testing.assert_array_equal(model(rows)["y"], rows + 1)
        for limit in (config.MOST_BATCH_SIZE + 1, 1 << 70):
            with pytest.raises(ConfigError, match=f"max_batch_size must be at most {config.MOST_BATCH_SIZE}"):
                model.set(max_batch_size=limit)
    with pytest.raises(ValueError, match="65536 rows"):
        fake_model([1, config.MOST_BATCH_SIZE + 1])
    most = range(1, config.MOST_BATCH_SIZES + 1)
    assert LoadOptions(batch_sizes=most).batch_sizes == tuple(most)
    with fake_model(most) as model:
        np.testing.assert_array_equal(model(rows)["y"], rows + 1)


def test_a_hint_of_more_requests_than_a_batch_may_have_rows_is_no_error() -> None:
    options = LoadOptions(config={"PERFORMANCE_HINT_NUM_REQUESTS": 1_000_000})
    assert options.max_batch_size == config.MOST_BATCH_SIZE


def test_a_property_that_no_device_knows_is_named_with_close_matches() -> None:
    with pytest.raises(PropertyError, match=r"CPU has no property 'NUM_STREAM'.*did you mean NUM_STREAMS"):
        check({"NUM_STREAM": 1})


def test_a_property_that_can_only_be_read_is_named() -> None:
    with pytest.raises(PropertyError, match="'FULL_DEVICE_NAME' of CPU can be read, but not set"):
        check({"FULL_DEVICE_NAME": "mine"})


def test_a_property_is_accepted_when_one_of_the_devices_takes_it() -> None:
    runtime = FakeRuntime({"CPU": {"A": True}, "GPU": {"B": True}})
    check({"A": 1, "B": 2, "CACHE_DIR": "cache"}, ("CPU", "GPU"), runtime)
    assert config.supported_config({"A": 1, "B": 2, "CACHE_DIR": "c"}, "GPU", cast(Any, runtime)) == {
        "B": 2,
        "CACHE_DIR": "c",
    }


def test_property_names_are_strings() -> None:
    with pytest.raises(PropertyError, match="strings"):
        LoadOptions(config=cast(Any, {1: 2}))


def check(properties: dict[str, Any], devices: tuple[str, ...] = ("CPU",), runtime: FakeRuntime | None = None) -> None:
    config.check_properties(properties, devices, cast(Any, runtime or FakeRuntime()))


def test_cpus_are_those_of_the_affinity_mask() -> None:
    assert 1 <= config.available_cpus() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"": "max 100000", "app": "150000 100000"}, 1.5),
        ({"": "400000 100000", "app": "max 100000"}, 4.0),
        ({"": "max 100000"}, None),
        ({"app": "nonsense"}, None),
    ],
)
def test_the_cgroups_quota_is_the_least_on_the_way_up(
    tmp_path: Path, limits: dict[str, str], expected: float | None
) -> None:
    root, process = tmp_path / "cgroup", tmp_path / "process"
    process.write_text("0::/app/worker\n")
    (root / "app" / "worker").mkdir(parents=True)
    for group, limit in limits.items():
        (root / group / "cpu.max").write_text(limit)
    assert config._cgroup_quota(root, process) == expected


def test_the_quota_of_cgroups_version_1_counts_too(tmp_path: Path) -> None:
    root, process = tmp_path / "cgroup", tmp_path / "process"
    process.write_text("3:cpu,cpuacct:/app\n2:memory:/app\n")
    group = root / "cpu,cpuacct" / "app"
    group.mkdir(parents=True)
    (group / "cpu.cfs_quota_us").write_text("300000\n")
    (group / "cpu.cfs_period_us").write_text("100000\n")
    (group.parent / "cpu.cfs_quota_us").write_text("-1\n")
    (group.parent / "cpu.cfs_period_us").write_text("100000\n")
    assert config._cgroup_quota(root, process) == 3.0


def test_without_cgroups_there_is_no_quota(tmp_path: Path) -> None:
    assert config._cgroup_quota(tmp_path, tmp_path / "none") is None


def test_available_memory_is_positive() -> None:
    assert config.available_memory_bytes() > 0
