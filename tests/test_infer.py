"""Blocking calls, results, and what a model says of itself."""

from __future__ import annotations

import dataclasses
import gc
import pickle
import threading
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest

import models
import ovengine
from ovengine import _core
from support import (
    EXACT,
    PATIENCE,
    Array,
    double,
    each,
    fake,
    in_threads,
    occupy,
    ready,
    reference,
    tagged,
    two_in_two_out,
    wait_until,
)

ROWS = np.random.default_rng(1).standard_normal((40, 16), np.float32)


@pytest.fixture(scope="module")
def mlp() -> Iterator[ovengine.Model]:
    with ready(ovengine.load(models.mlp(*models.TINY_MLP), config=EXACT)) as model:
        yield model


@pytest.fixture(scope="module")
def pair() -> Iterator[ovengine.Model]:
    with ready(ovengine.load(two_in_two_out(), config=EXACT)) as model:
        yield model


@pytest.fixture(scope="module")
def expected() -> Array:
    return reference(models.mlp(*models.TINY_MLP))(ROWS)["y"]


def close_to(got: Any, expected: Array) -> None:
    np.testing.assert_allclose(np.asarray(got), expected, rtol=1e-5, atol=1e-5)


# -- the same results as plain OpenVINO -------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 2, 3, 15, 16, 17, 40])
def test_any_number_of_rows_gives_what_openvino_gives(mlp: ovengine.Model, expected: Array, rows: int) -> None:
    result = mlp(ROWS[:rows])
    assert result["y"].shape == (rows, 4)
    close_to(result, expected[:rows])


def test_a_single_sample_gives_outputs_without_a_batch_axis(mlp: ovengine.Model, expected: Array) -> None:
    result = mlp(ROWS[3])
    assert result["y"].shape == (4,)
    close_to(result, expected[3])


def test_call_infer_submit_and_infer_rows_agree(mlp: ovengine.Model, expected: Array) -> None:
    for result in (mlp(ROWS[:5]), mlp.infer(ROWS[:5]), mlp.submit(ROWS[:5]).result(), mlp.infer_rows(ROWS[:5])):
        close_to(result, expected[:5])


def test_every_way_to_name_the_inputs_gives_the_same(pair: ovengine.Model) -> None:
    a = tagged(3, 3)
    b = np.arange(12, dtype=np.int32).reshape(3, 2, 2)
    expected = reference(two_in_two_out())(a, b)
    ways: list[Any] = [
        [a, b],
        (a, b),
        {"a": a, "b": b},
        {"b": b, "a": a},
        {0: a, 1: b},
        {1: b, 0: a},
        {"a": a, 1: b},
        {np.int64(0): a, np.int64(1): b},
    ]
    for inputs in ways:
        result = pair(inputs)
        for name in ("total", "scaled"):
            np.testing.assert_array_equal(result[name], expected[name])


def test_single_samples_of_several_inputs(pair: ovengine.Model) -> None:
    a = np.array([1, 2, 3], np.float32)
    b = np.full((2, 2), 10, np.int32)
    result = pair([a, b])
    assert result["total"].tolist() == [46.0]
    assert result["scaled"].tolist() == [3.0, 6.0, 9.0]


def test_a_model_is_loaded_from_a_file_an_object_and_bytes(tmp_path: Path, expected: Array) -> None:
    network = models.mlp(*models.TINY_MLP)
    path = models.save(network, tmp_path / "mlp.xml")
    for source in (path, str(path), network):
        with ready(ovengine.load(source, config=EXACT)) as model:
            close_to(model(ROWS), expected)


def test_an_openvino_model_is_not_changed_by_being_loaded() -> None:
    network = models.mlp(*models.TINY_MLP)
    with ovengine.load(network, config=EXACT, max_batch_size=4, batcher="fixed"):
        assert network.input(0).get_partial_shape() == ov.PartialShape([-1, 16])
    assert ov.Core().compile_model(network, "CPU")(ROWS)[0].shape == (40, 4)


# -- results ----------------------------------------------------------------------------------------------------------


def test_a_result_is_a_mapping_by_name_and_by_index(pair: ovengine.Model) -> None:
    result = pair([tagged(2, 3), np.zeros((2, 2, 2), np.int32)])
    assert isinstance(result, Mapping)
    assert isinstance(result, ovengine.Result)
    assert len(result) == 2
    assert list(result) == ["total", "scaled"]
    assert list(result.keys()) == ["total", "scaled"]
    np.testing.assert_array_equal(result[0], result["total"])
    np.testing.assert_array_equal(result[np.int32(1)], result["scaled"])
    assert "total" in result
    assert 1 in result
    assert "nonsense" not in result
    assert 2 not in result
    assert result.get("nonsense") is None
    assert result.get("nonsense", 5) == 5
    assert {name: array.shape for name, array in result.items()} == {"total": (2, 1), "scaled": (2, 3)}
    assert [array.shape for array in result.values()] == [(2, 1), (2, 3)]
    assert {**result}.keys() == {"total", "scaled"}
    assert repr(result) == "Result({'total': float32[2, 1], 'scaled': float32[2, 3]})"


@pytest.mark.parametrize("key", ["nonsense", 2, -1, None, 1.5])
def test_an_unknown_output_is_a_key_error_that_lists_those_there_are(pair: ovengine.Model, key: Any) -> None:
    result = pair([tagged(1, 3), np.zeros((1, 2, 2), np.int32)])
    with pytest.raises(KeyError, match=r"'total', 'scaled', or 0 to 1"):
        result[key]


def test_a_result_with_one_output_converts_to_an_array(mlp: ovengine.Model) -> None:
    result = mlp(ROWS[:2])
    assert np.asarray(result).dtype == np.float32
    assert np.asarray(result, dtype=np.float64).dtype == np.float64
    np.testing.assert_array_equal(np.stack([result, result])[1], result["y"])
    copy = np.array(result)
    copy[...] = 0
    assert result["y"].any()
    assert (np.asarray(result) == result["y"]).all()


def test_a_result_with_two_outputs_does_not(pair: ovengine.Model) -> None:
    result = pair([tagged(1, 3), np.zeros((1, 2, 2), np.int32)])
    with pytest.raises(TypeError, match=r"2 outputs \('total', 'scaled'\); choose one"):
        np.asarray(result)


def test_an_array_read_twice_shows_what_was_written_to_it() -> None:
    # Both small results, which are copied out, and large ones, which are views.
    for width in (4, 4000):
        with fake(1, 4, row_shape=(width,)) as model:
            result = model(np.zeros((1, width), np.float32))
            result["y"][0, 0] = 7
            assert result["y"][0, 0] == 7
            assert np.shares_memory(result["y"], result["y"])


def test_results_do_not_share_memory_with_each_other() -> None:
    with fake(4, row_shape=(1000,)) as model:
        results = [model.submit(np.full(1000, i, np.float32)).result() for i in range(8)]
        for i, result in enumerate(results):
            result["y"][...] += 100
            for other, untouched in enumerate(results[i + 1 :], i + 1):
                assert (untouched["y"] == other + 1).all()


@pytest.mark.parametrize("width", [4, 4000])
def test_results_and_their_arrays_outlive_the_model(width: int) -> None:
    model: ovengine.Model | None
    with fake(1, 4, row_shape=(width,)) as model:
        read, unread, pending = (model.submit(np.full(width, i, np.float32)) for i in range(3))
        array = read.result()["y"]
        result = unread.result()
        pending.result()
    model = None
    gc.collect()
    assert (array == 1).all()
    assert (result["y"] == 2).all()
    assert (pending.result()["y"] == 3).all()
    del read, unread, result, pending
    gc.collect()
    assert (array == 1).all()


def test_an_array_keeps_only_itself_alive_once_it_is_copied_out() -> None:
    with fake(4) as model:
        result = model(np.zeros(4, np.float32))
        array = result["y"]
        del result
        assert array.base is None
        wait_until(lambda: _core.debug_counters()["batches"] == 0)  # the lane lets go a moment after it told


def test_a_model_that_nobody_refers_to_ends_and_its_results_stay() -> None:
    model = ovengine.load(double(2000), config=EXACT)
    gone = weakref.ref(model)
    array = model(np.ones(2000, np.float32))["y"]
    assert array.base is not None
    del model
    gc.collect()
    assert gone() is None
    assert (array == 2).all()


@pytest.mark.parametrize("what", ["future", "result", "lease", "model"])
def test_what_cannot_be_pickled_says_so(what: str) -> None:
    with fake() as model:
        future = model.submit(np.zeros(4, np.float32))
        things = {"future": future, "result": future.result(), "lease": model.lease(), "model": model}
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(things[what])
        things.clear()


def test_a_result_pickles_as_a_dict_of_its_arrays() -> None:
    with fake(row_shape=(1000,)) as model:
        result = model(np.zeros((2, 1000), np.float32))
        copy = pickle.loads(pickle.dumps(dict(result)))
    np.testing.assert_array_equal(copy["y"], np.ones((2, 1000)))


@pytest.mark.parametrize("kind", [ovengine.Future, ovengine.Result, ovengine.Lease])
def test_what_comes_from_a_model_is_not_made_by_hand(kind: Any) -> None:
    with pytest.raises(TypeError, match="comes from"):
        kind()


# -- timeouts ---------------------------------------------------------------------------------------------------------


def test_a_blocking_call_gives_up_after_its_timeout_and_its_request_with_it() -> None:
    with fake(1, service_time_us=200_000) as model:
        running = occupy(model)
        with pytest.raises(ovengine.InferenceTimeout, match=r"'fake' within 0.001 s; the request was cancelled"):
            model.infer(np.zeros(4, np.float32), timeout=0.001)
        running.result()
        model.close()
        assert model.stats().failures["timeout"] == 1
        assert model.stats().failures["cancelled"] == 1


def test_a_timeout_holds_also_where_the_caller_finds_a_lane_free() -> None:
    with fake(1, service_time_us=300_000) as model, pytest.raises(TimeoutError):
        model.infer(np.zeros(4, np.float32), timeout=0.01)


def test_infer_rows_gives_up_after_its_timeout() -> None:
    with fake(1, 4, service_time_us=100_000) as model:
        with pytest.raises(ovengine.InferenceTimeout):
            model.infer_rows(np.zeros((100, 4), np.float32), timeout=0.01)
        assert (model.infer(np.zeros(4, np.float32))["y"] == 1).all()


@pytest.mark.parametrize("timeout", [None, 1, 30.0, 1e6, 1e12, 1e300, float("inf"), np.float32(30)])
def test_a_timeout_may_be_any_length(timeout: Any) -> None:
    with fake() as model:
        assert (model.infer(np.zeros(4, np.float32), timeout=timeout)["y"] == 1).all()
        assert (model.infer_rows(np.zeros((40, 4), np.float32), timeout=timeout)["y"] == 1).all()
        assert model.close(timeout)


@pytest.mark.parametrize("timeout", [0, 0.0, -1, -1e300, float("-inf")])
def test_no_time_left_is_a_timeout_at_once(timeout: float) -> None:
    with fake(1, service_time_us=100_000) as model, pytest.raises(ovengine.InferenceTimeout):
        model.infer(np.zeros(4, np.float32), timeout=timeout)


def test_a_timeout_that_is_no_number_is_refused() -> None:
    with fake(1, service_time_us=200_000) as model:
        future = occupy(model)
        for call in (
            lambda: model.infer(np.zeros(4, np.float32), timeout=float("nan")),
            lambda: model.infer_rows(np.zeros((40, 4), np.float32), timeout=float("nan")),
            lambda: future.exception(float("nan")),
            lambda: ovengine.wait([future], float("nan")),
            lambda: list(ovengine.as_completed([future], float("nan"))),
            lambda: model.close(float("nan")),
        ):
            with pytest.raises(ValueError, match="not a number"):
                call()
        with pytest.raises(TypeError):
            model.infer(np.zeros(4, np.float32), timeout="1")  # type: ignore[arg-type]  # what the test is about
        assert not model.closed


# -- what a model says of itself --------------------------------------------------------------------------------------


def test_inputs_and_outputs_have_name_shape_and_dtype(pair: ovengine.Model) -> None:
    assert [(port.name, port.shape, port.dtype) for port in pair.inputs] == [
        ("a", (-1, 3), np.dtype(np.float32)),
        ("b", (-1, 2, 2), np.dtype(np.int32)),
    ]
    assert [(port.name, port.shape, port.dtype) for port in pair.outputs] == [
        ("total", (-1, 1), np.dtype(np.float32)),
        ("scaled", (-1, 3), np.dtype(np.float32)),
    ]


def test_statistics_count_what_was_asked_for() -> None:
    with fake(1, 4) as model:
        for _ in range(3):
            model(np.zeros((2, 4), np.float32))
        model.submit(np.zeros(4, np.float32)).result()
        model.infer_rows(np.zeros((10, 4), np.float32))
        with pytest.raises(ovengine.InputError):
            model(np.zeros(5, np.float32))
        model.close()
        with pytest.raises(ovengine.EngineClosed):
            model(np.zeros(4, np.float32))
        stats = model.stats()
    assert stats.requests == 5
    assert stats.rows == 17
    assert stats.batches == sum(stats.dispatch.values()) == sum(lane.batches for lane in stats.lanes)
    assert stats.rows_per_batch == stats.rows / stats.batches
    assert stats.dispatch["bulk"] == 3
    assert stats.rejections == {"queue_full": 0, "invalid_input": 1, "closed": 1, "deadline_unmeetable": 0}
    assert not any(stats.failures.values())
    assert stats.pending_requests == 0
    assert (
        0 < stats.inference_us.p50 <= stats.inference_us.p90 <= stats.inference_us.p99 <= stats.inference_us.max * 1.1
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.rows = 0  # type: ignore[misc]  # what the test is about


def test_a_blocking_caller_that_finds_a_lane_free_runs_its_batch_itself() -> None:
    with fake(1, 4) as model:
        while not model.stats().dispatch["caller"]:
            assert model.stats().requests < 10_000
            model(np.zeros(4, np.float32))


def test_blocking_callers_of_many_threads_each_get_their_own_rows() -> None:
    with ready(ovengine.load(double(), config=EXACT)) as model:

        def call(first: int) -> None:
            for i in range(300):
                rows = tagged(1 + i % 5, first=first + i)
                np.testing.assert_array_equal(model(rows)["y"], rows * 2)

        in_threads(each(call, range(0, 8000, 1000)))


def test_other_python_threads_run_while_a_call_blocks() -> None:
    with fake(1, service_time_us=200_000) as model:
        seen = threading.Event()
        thread = threading.Thread(target=seen.set)
        future = model.submit(np.zeros(4, np.float32))
        thread.start()
        future.result()
        assert seen.wait(PATIENCE)
        thread.join()
