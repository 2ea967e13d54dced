"""Large inputs that the caller shares, or waits for, are read where they lie."""

from __future__ import annotations

import numpy as np
import pytest

import ovengine
from support import each, fake, in_threads, occupy

WIDTH = 1 << 17  # half a MiB in f32
SLOW_US = 50_000


def rows(count: int, value: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.full((count, WIDTH), value, np.float32)


@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_large_shared_request_is_not_copied_at_submission(count: int) -> None:
    with fake(1, 4, row_shape=(WIDTH,), service_time_us=SLOW_US) as model:
        occupied = occupy(model)
        shared, copied = rows(count, 1), rows(count, 1)
        futures = [model.submit(shared, share_inputs=True), model.submit(copied)]
        shared[...] = copied[...] = 5  # shows which one has been read already
        assert [float(future.result()["y"][-1, -1]) for future in futures] == [6.0, 2.0]
        assert occupied.done()


def test_large_requests_of_many_threads_get_their_own_rows() -> None:
    with fake(1, 4, lanes=2, row_shape=(WIDTH,)) as model:

        def call(seed: int) -> None:
            for i in range(20):
                count, value = 1 + i % 5, seed * 100 + i
                for result in (
                    model(rows(count, value)),
                    model.submit(rows(count, value), share_inputs=True).result(),
                    model.submit(rows(count, value)).result(timeout=60),
                ):
                    assert result["y"].shape == (count, WIDTH)
                    assert (result["y"] == value + 1).all()

        in_threads(each(call, range(4)))


def test_a_large_request_that_is_held_for_others_is_held_all_the_same() -> None:
    with fake(1, 2, row_shape=(WIDTH,), max_queue_delay_us=60_000_000) as model:
        futures = [model.submit(rows(1, value), share_inputs=True) for value in (1, 2)]
        assert [float(future.result()["y"][0, 0]) for future in futures] == [2.0, 3.0]
        assert model.stats().batches == 1


def test_a_large_request_times_out_and_its_input_may_be_changed() -> None:
    with fake(1, row_shape=(WIDTH,), service_time_us=SLOW_US) as model:
        occupy(model)
        with pytest.raises(ovengine.InferenceTimeout):
            model.infer(rows(1, 1), timeout=0.001)
        assert (model(rows(1, 2))["y"] == 3).all()
