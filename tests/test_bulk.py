"""Many rows in one call, and `map`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import models
import ovengine
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
)

ROW = np.zeros(4, np.float32)


# -- infer_rows and requests above the batch size ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def mlp() -> Iterator[ovengine.Model]:
    with ready(ovengine.load(models.mlp(*models.TINY_MLP), config=EXACT)) as model:
        yield model


@pytest.mark.parametrize("rows", [1, 3, 16, 17, 100, 1001, 20_000])
def test_any_number_of_rows_gives_what_openvino_gives(mlp: ovengine.Model, rows: int) -> None:
    x = np.random.default_rng(rows).standard_normal((rows, 16), np.float32)
    expected = reference(models.mlp(*models.TINY_MLP))(x)["y"]
    for result in (mlp.infer_rows(x), mlp.infer_rows(x.astype(np.float64)), mlp(x), mlp.submit(x).result()):
        assert result["y"].shape == (rows, 4)
        np.testing.assert_allclose(result["y"], expected, rtol=1e-5, atol=1e-5)


def test_infer_rows_takes_several_inputs_and_gives_several_outputs() -> None:
    network = two_in_two_out()
    a = tagged(500, 3)
    b = np.arange(2000, dtype=np.int32).reshape(500, 2, 2)
    expected = reference(network)(a, b)
    with ready(ovengine.load(network, config=EXACT)) as model:
        result = model.infer_rows({"b": np.asfortranarray(b), "a": a})
        for name in ("total", "scaled"):
            np.testing.assert_array_equal(result[name], expected[name])


def test_infer_rows_takes_a_single_sample_too() -> None:
    with fake() as model:
        assert model.infer_rows(ROW)["y"].shape == (4,)


def test_large_rows_are_run_where_they_lie() -> None:
    x = tagged(50, 40_000)
    with ready(ovengine.load(double(40_000), config=EXACT, max_batch_size=8, batcher="fixed")) as model:
        np.testing.assert_array_equal(model.infer_rows(x)["y"], x * 2)
        np.testing.assert_array_equal(model(x[:8])["y"], x[:8] * 2)
        futures = [model.submit(x[i : i + 8]) for i in range(0, 40, 8)]
        for i, future in enumerate(futures):
            np.testing.assert_array_equal(future.result()["y"], x[i * 8 : i * 8 + 8] * 2)


def test_bulk_requests_and_small_ones_share_the_lanes() -> None:
    with fake(1, 4, 16, lanes=2, service_time_us=300) as model:

        def bulk(seed: int) -> None:
            for i in range(5):
                x = tagged(333, first=seed * 1000 + i)
                np.testing.assert_array_equal(model.infer_rows(x)["y"], x + 1)

        def small(seed: int) -> None:
            for i in range(100):
                x = tagged(1 + i % 5, first=seed * 1000 + i)
                np.testing.assert_array_equal(model(x)["y"], x + 1)

        in_threads(each(lambda seed: (bulk, small)[seed % 2](seed), range(6)))


def test_a_small_request_does_not_wait_for_all_of_a_bulk_request() -> None:
    with fake(1, 4, service_time_us=2000) as model:
        bulk = model.submit(np.zeros((2000, 4), np.float32))  # a second of work
        assert (model.submit(ROW).result()["y"] == 1).all()
        assert not bulk.done()
        bulk.cancel()


def test_the_result_of_a_bulk_request_outlives_the_model() -> None:
    x = tagged(1000)
    with fake(1, 16) as model:
        array = model.infer_rows(x)["y"]
    del model
    np.testing.assert_array_equal(array, x + 1)


def test_a_bulk_request_with_a_bad_row_fails_as_one_and_alone() -> None:
    x = np.zeros((100, 4), np.float32)
    x[57] = 13
    with fake(1, 4, 16, poison=13.0, service_time_us=200) as model:
        bad, good = model.submit(x), model.submit(np.zeros((100, 4), np.float32))
        with pytest.raises(ovengine.InferenceError, match="refuses the value 13"):
            bad.result()
        assert (good.result()["y"] == 1).all()
        with pytest.raises(ovengine.InferenceError):
            model.infer_rows(x)


def test_bulk_requests_count_against_the_size_of_the_queue() -> None:
    with fake(1, 4, max_queue_size=3, service_time_us=200_000) as model:
        occupy(model)
        bulk = np.zeros((20, 4), np.float32)
        accepted = [model.submit(bulk) for _ in range(3)]
        for call in (model.submit, model.ainfer, model.infer_rows, model):
            with pytest.raises(ovengine.QueueFull, match="3 requests wait for model 'fake', and there is room for 3"):
                call(bulk)
        assert model.stats().pending_requests == 3
        assert model.stats().rejections["queue_full"] == 4
        for future in accepted:
            future.cancel()


# -- map --------------------------------------------------------------------------------------------------------------


def samples(count: int) -> Iterator[Array]:
    return (np.full(4, i, np.float32) for i in range(count))


def values(results: Iterator[ovengine.Result]) -> list[int]:
    return [int(result["y"][0]) for result in results]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("window", [None, 1, 3, 1000])
def test_map_gives_every_result(ordered: bool, window: int | None) -> None:
    with fake(1, 4, 16, lanes=2, service_time_us=100) as model:
        got = values(model.map(samples(300), ordered=ordered, window=window))
        assert (got if ordered else sorted(got)) == list(range(1, 301))
        assert values(model.map([], ordered=ordered, window=window)) == []


def test_map_takes_all_that_submit_takes() -> None:
    items: list[Any] = [ROW, np.zeros((2, 4)), [[1, 2, 3, 4]], {"x": ROW}, {0: ROW}, np.zeros((50, 4), np.int8)]
    with fake() as model:
        shapes = [result["y"].shape for result in model.map(items)]
        assert shapes == [(4,), (2, 4), (4,), (4,), (4,), (50, 4)]


@pytest.mark.parametrize("ordered", [True, False])
def test_map_is_lazy_and_bounded(ordered: bool) -> None:
    taken = 0

    def source() -> Iterator[Array]:
        nonlocal taken
        for sample in samples(100):
            taken += 1
            yield sample

    with fake(1, service_time_us=300) as model:
        results = model.map(source(), window=4, ordered=ordered)
        assert taken == 0
        for given, _ in enumerate(results):
            assert taken <= given + 5  # those given, those in flight, and the one just taken


def test_map_without_end_is_taken_from_as_far_as_wanted() -> None:
    def forever() -> Iterator[Array]:
        i = 0
        while True:
            yield np.full(4, i, np.float32)
            i += 1

    with fake(1, 4) as model:
        results = model.map(forever())
        assert [int(next(results)["y"][0]) for _ in range(1000)] == list(range(1, 1001))
        results.close()  # type: ignore[attr-defined]  # it is a generator


@pytest.mark.parametrize("ordered", [True, False])
def test_leaving_map_midway_cancels_what_is_in_flight(ordered: bool) -> None:
    with fake(1, service_time_us=2000) as model:
        for _ in model.map(samples(1000), window=16, ordered=ordered):
            break
        model.close()
        assert model.stats().requests < 10
        assert model.stats().failures["cancelled"] > 5


@pytest.mark.parametrize("ordered", [True, False])
def test_the_first_error_ends_map(ordered: bool) -> None:
    def failing() -> Iterator[Array]:
        yield ROW
        raise LookupError("no more")

    with fake(1, 4, poison=13.0) as model:
        with pytest.raises(ovengine.InferenceError):
            values(model.map([ROW, ROW + 13, ROW], ordered=ordered))
        with pytest.raises(ovengine.InputError):
            values(model.map([ROW, np.zeros(5), ROW], ordered=ordered))
        with pytest.raises(LookupError, match="no more"):
            values(model.map(failing(), ordered=ordered))


@pytest.mark.parametrize("ordered", [True, False])
def test_map_waits_for_room_in_a_small_queue(ordered: bool) -> None:
    with fake(1, max_queue_size=2, service_time_us=300) as model:
        others = [model.submit(ROW) for _ in range(2)]
        assert sorted(values(model.map(samples(100), ordered=ordered))) == list(range(1, 101))
        for future in others:
            future.result()


def test_several_maps_run_in_several_threads() -> None:
    with fake(1, 4, 16, lanes=2, service_time_us=100) as model:
        maps = [lambda: values(model.map(samples(300)))] * 4
        assert in_threads(maps) == [list(range(1, 301))] * 4


def test_a_source_of_map_may_use_the_model_itself() -> None:
    with fake(1, 4) as model:

        def source() -> Iterator[Array]:
            for sample in samples(50):
                yield model(sample)["y"]

        assert values(model.map(source())) == list(range(2, 52))


@pytest.mark.parametrize("window", [0, -1, 1.5, True, "8"])
def test_map_refuses_a_window_that_is_none(window: Any) -> None:
    with fake() as model, pytest.raises(ValueError, match="window must be None or an integer of at least 1, not "):
        model.map([], window=window)


def test_submitting_more_than_the_ring_holds_waits_for_room() -> None:
    # Without max_queue_size nothing is refused; the submitting thread waits, and others go on.
    with fake(1, 16, service_time_us=100) as model:
        count = (1 << 14) * 2
        futures = [model.submit(np.full(4, i, np.float32)) for i in range(count)]
        for i in range(0, count, 97):
            assert (futures[i].result()["y"] == i + 1).all()


def test_submitting_more_jobs_than_fit_waits_for_room() -> None:
    with fake(1, 16, service_time_us=0) as model:
        x = np.zeros((17, 4), np.float32)
        futures = [model.submit(x) for _ in range((1 << 14) + 2000)]
        for future in futures:
            assert future.exception() is None


def test_waiting_for_room_ends_when_the_model_is_closed() -> None:
    with fake(1, service_time_us=50_000) as model:
        futures: list[ovengine.Future] = []
        full = threading.Event()

        def submit() -> None:
            try:
                while True:
                    futures.append(model.submit(ROW))
                    if len(futures) >= 1 << 14:
                        full.set()
            except ovengine.EngineClosed:
                pass

        def close() -> None:
            assert full.wait(PATIENCE)
            assert not model.close(0)

        in_threads([submit, submit, close])
        outcomes = {type(future.exception()).__name__ for future in futures}
        assert outcomes <= {"NoneType", "EngineClosed"}
