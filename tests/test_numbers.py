"""Numbers of NumPy's are taken as Python's are, everywhere; what is no number is a typed error."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import ovengine
from ovengine.testing import mlp
from support import EXACT, PATIENCE, double, fake, ready, tagged

ROW = np.zeros(4, np.float32)
INTEGERS: list[Callable[[int], Any]] = [int, np.int8, np.int64, np.uint16, np.array]
REALS: list[Callable[[float], Any]] = [float, int, np.float16, np.float32, np.float64, np.int32, Fraction]
NO_INTEGERS: list[Any] = [1.0, np.float32(1), "1", True, np.True_, [1], b"1", object(), Decimal(1), np.array([1, 2])]
NO_REALS: list[Any] = ["1", True, [1.0], b"1", object(), float("nan"), np.float32("nan"), 1j, Decimal(1)]


@pytest.mark.parametrize("kind", INTEGERS)
def test_integers_of_requests_and_limits(kind: Callable[[int], Any]) -> None:
    with fake(1, 4, 16) as model:
        assert (model.submit(ROW, priority=kind(3)).result()["y"] == 1).all()
        assert (model(ROW)[0] == 1).all()
        with model.lease(kind(2)) as lease:
            assert lease.rows == 2
        model.set(max_batch_size=kind(4), max_queue_size=kind(99), max_queue_delay_us=kind(10))
        assert (model.plan.max_batch_size, model.plan.max_queue_size) == (4, 99)
        assert type(model.plan.max_batch_size) is int
        assert len(list(model.map([ROW] * 5, window=kind(2)))) == 5


@pytest.mark.parametrize("kind", INTEGERS)
def test_integers_of_load_and_engine(kind: Callable[[int], Any]) -> None:
    with ovengine.Engine(cpu_budget=kind(2)) as engine:
        model = engine.load(double(), max_batch_size=kind(4), max_queue_size=kind(9), max_queue_delay_us=kind(5))
        assert (model(tagged(2))["y"] == tagged(2) * 2).all()
        limits = engine.load(double(), memory_limit=np.int64(10**9), config={"NUM_STREAMS": kind(1)})
        assert len(limits.plan.lanes) == 1


@pytest.mark.parametrize("sizes", [np.array([1, 4]), (np.int64(1), np.int32(4)), [1, 4], np.int64(4)])
def test_batch_sizes(sizes: Any) -> None:
    with ready(ovengine.load(mlp(16, 16, 4), batch_sizes=sizes)) as model:
        assert model.plan.ladder[-1] == 4
        assert all(type(size) is int for size in model.plan.ladder)


@pytest.mark.parametrize("kind", REALS)
def test_seconds(kind: Callable[[float], Any]) -> None:
    seconds = kind(PATIENCE)
    with fake(1, 4, service_time_us=1000) as model:
        assert (model.infer(ROW, timeout=seconds)["y"] == 1).all()
        assert (model.infer_rows(tagged(9), timeout=seconds)["y"] == tagged(9) + 1).all()
        assert (model.submit(ROW, deadline=seconds).result(seconds)["y"] == 1).all()
        assert model.submit(ROW).exception(seconds) is None
        assert (model.session().infer(ROW, timeout=seconds)["y"] == 1).all()
        assert len(ovengine.wait([model.submit(ROW) for _ in range(9)], seconds)[0]) == 9
        assert len(list(ovengine.as_completed([model.submit(ROW) for _ in range(9)], seconds))) == 9
        assert model.wait_ready(seconds)
        assert model.close(seconds)


@pytest.mark.parametrize("timeout", [float("inf"), np.float32("inf"), 10**400, 1e300])
def test_a_timeout_beyond_all_time_waits_as_long_as_it_takes(timeout: Any) -> None:
    with fake(1, service_time_us=1000) as model:
        assert (model.infer(ROW, timeout=timeout)["y"] == 1).all()
        assert (model.submit(ROW).result(timeout)["y"] == 1).all()


@pytest.mark.parametrize("value", NO_INTEGERS, ids=lambda value: type(value).__name__)
def test_what_is_no_integer_is_refused(value: Any) -> None:
    with fake(1, 4, 16) as model:
        for call in (lambda: model.submit(ROW, priority=value), lambda: model.lease(value)):
            with pytest.raises(ovengine.InputError, match="integer"):
                call()
        for name in ("max_batch_size", "max_queue_size", "max_queue_delay_us"):
            with pytest.raises(ovengine.ConfigError, match=name):
                model.set(**{name: value})
        with pytest.raises(ovengine.ConfigError, match="window"):
            model.map([ROW], window=value)
        with pytest.raises(ovengine.ConfigError, match="cpu_budget"):
            ovengine.Engine(cpu_budget=value)


@pytest.mark.parametrize("value", NO_REALS, ids=lambda value: type(value).__name__)
def test_what_is_no_time_is_refused(value: Any) -> None:
    with fake(1, 4) as model:
        future = model.submit(ROW)
        calls: list[Callable[[], Any]] = [
            lambda: model.infer(ROW, timeout=value),
            lambda: model.infer_rows(ROW, timeout=value),
            lambda: model.submit(ROW, deadline=value),
            lambda: model.session().infer(ROW, timeout=value),
            lambda: list(ovengine.as_completed([future], value)),
        ]
        for call in calls:
            with pytest.raises((ovengine.InputError, ovengine.InputTypeError), match="number of seconds"):
                call()
        assert (future.result()["y"] == 1).all()


@pytest.mark.parametrize("rows", [10**30, -(10**30)])
def test_a_lease_of_too_many_rows_is_refused(rows: int) -> None:
    with fake(1, 4) as model, pytest.raises(ovengine.InputError, match="1 to 4"):
        model.lease(rows)


# -- OpenVINO's properties --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        {"CPU_RUNTIME_CACHE_CAPACITY": 100},
        {"CPU_RUNTIME_CACHE_CAPACITY": "0"},
        {"SNIPPETS_MODE": "DISABLE"},
        {"NUM_STREAMS": 0},
        {"NUM_STREAMS": "AUTO"},
        {"NUM_STREAMS": "NUMA"},
        {"NUM_STREAMS": -2},
        {"NUM_STREAMS": np.int64(2)},
        {"INFERENCE_NUM_THREADS": 0},
        {"INFERENCE_NUM_THREADS": np.int32(1)},
        {"PERF_COUNT": True},
        {"KV_CACHE_PRECISION": "u8"},
        {"CPU_DENORMALS_OPTIMIZATION": "YES"},
        {"EXECUTION_MODE_HINT": "ACCURACY"},
        {"ENABLE_HYPER_THREADING": False},
        {"SCHEDULING_CORE_TYPE": "ANY_CORE"},
        {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 32},
        {"CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE": 0.8},
    ],
    ids=str,
)
def test_properties_that_openvino_takes_load_here(config: dict[str, Any]) -> None:
    with ovengine.load(double(), config={**EXACT, **config}) as model:
        np.testing.assert_array_equal(model(tagged(3))["y"], tagged(3) * 2)


def test_more_streams_than_lanes_are_as_many_as_there_can_be_and_the_plan_says_so() -> None:
    with ovengine.load(double(), config={"NUM_STREAMS": 500}) as model:
        assert len(model.plan.lanes) == 64
        assert "NUM_STREAMS=500" in str(model.plan)
        np.testing.assert_array_equal(model(tagged(3))["y"], tagged(3) * 2)
