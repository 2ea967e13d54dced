"""Leases: rows of the batch's own input memory, written in place."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from typing import Any

import numpy as np
import pytest

import ovengine
from ovengine import _core
from support import (
    EXACT,
    PATIENCE,
    Array,
    each,
    fake,
    fill,
    in_threads,
    occupy,
    ready,
    reference,
    tagged,
    two_in_two_out,
    wait_until,
)

ROW = np.zeros(4, np.float32)
SLOW_US = 100_000


def at_rest() -> bool:
    return not any(_core.debug_counters().values())


# -- writing and submitting -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 3, 16])
def test_what_is_written_into_a_lease_is_run(rows: int) -> None:
    with fake(1, 4, 16) as model:
        for first in range(20):
            with model.lease(rows) as lease:
                assert lease.rows == rows
                assert lease["x"].shape == (rows, 4)
                assert lease["x"].dtype == np.float32
                lease["x"][...] = tagged(rows, first=first)
                future = lease.submit()
            np.testing.assert_array_equal(future.result()["y"], tagged(rows, first=first) + 1)


def test_a_lease_has_every_input_by_name_and_index() -> None:
    network = two_in_two_out()
    a, b = tagged(2, 3), np.arange(8, dtype=np.int32).reshape(2, 2, 2)
    with (
        ready(ovengine.load(network, config=EXACT, max_batch_size=4, batcher="fixed")) as model,
        model.lease(2) as lease,
    ):
        assert lease[0] is lease["a"]
        assert lease["b"].dtype == np.int32
        lease["a"][...] = a
        lease[1][...] = b
        result = lease.submit().result()
    expected = reference(network)(a, b)
    for name in expected:
        np.testing.assert_array_equal(result[name], expected[name])


def test_the_rows_of_a_lease_are_the_batchs_own_memory() -> None:
    with fake(4) as model:
        with model.lease() as one, model.lease() as other:
            # Neighbours in the same slab.
            assert other["x"].ctypes.data - one["x"].ctypes.data == one["x"].nbytes
            assert not one["x"].flags.owndata
            one["x"][...], other["x"][...] = 1, 2
            futures = [one.submit(), other.submit()]
        assert [float(future.result()["y"][0, 0]) for future in futures] == [2.0, 3.0]


def test_leases_and_requests_share_batches() -> None:
    with fake(1, 4, 16, service_time_us=200) as model:

        def by_lease(seed: int) -> None:
            for i in range(200):
                rows = 1 + i % 3
                with model.lease(rows) as lease:
                    lease["x"][...] = tagged(rows, first=seed * 1000 + i)
                    future = lease.submit()
                np.testing.assert_array_equal(future.result()["y"], tagged(rows, first=seed * 1000 + i) + 1)

        def by_call(seed: int) -> None:
            for i in range(200):
                rows = tagged(1 + i % 3, first=seed * 1000 + i)
                np.testing.assert_array_equal(model(rows)["y"], rows + 1)

        in_threads(each(lambda seed: (by_lease, by_call)[seed % 2](seed), range(4)))


def test_a_lease_taken_while_requests_wait_is_run_in_its_turn() -> None:
    with fake(1, service_time_us=5000) as model:
        futures = [model.submit(ROW) for _ in range(10)]
        with model.lease() as lease:
            lease["x"][...] = 41
            last = lease.submit()
        assert not last.done()
        assert (last.result()["y"] == 42).all()
        assert all(future.done() for future in futures)


def test_a_future_of_a_lease_is_awaited_and_cancelled_like_any_other() -> None:
    async def body() -> None:
        with model.lease() as lease:
            lease["x"][...] = 1
            future = lease.submit()
        assert (await future)["y"].tolist() == [[2.0] * 4]
        occupied = occupy(model)
        with model.lease() as lease:
            future = lease.submit()
        assert future.cancel()
        with pytest.raises(ovengine.Cancelled):
            await future
        await occupied

    with fake(1, service_time_us=20_000) as model:
        asyncio.run(asyncio.wait_for(body(), PATIENCE))


def test_a_lease_may_be_written_by_another_thread() -> None:
    with fake(4) as model, model.lease(2) as lease:
        in_threads(each(lambda row: lease["x"].__setitem__(row, row), range(2)))
        assert lease.submit().result()["y"][:, 0].tolist() == [1.0, 2.0]


# -- abandoned and lost -----------------------------------------------------------------------------------------------


def test_a_lease_that_is_not_submitted_is_given_back() -> None:
    with fake(1, 4) as model:
        with model.lease(3) as lease:
            lease["x"][...] = 1
        model.lease(2).release()
        model.lease()  # dropped
        gc.collect()
        assert (model(ROW)["y"] == 1).all()
        wait_until(at_rest)
        model.close()
        assert model.stats().requests == 1
        assert model.stats().failures["lease_lost"] == 0


def test_an_error_in_the_block_gives_the_lease_back() -> None:
    with fake(1, 4) as model:
        with pytest.raises(ovengine.InputError), model.lease() as lease:
            lease["nonsense"]
        wait_until(at_rest)


def test_a_released_or_submitted_lease_is_over() -> None:
    with fake(1, 4) as model:
        submitted, released = model.lease(), model.lease()
        array = submitted["x"]
        array[...] = 5
        future = submitted.submit()
        released.release()
        for lease in (submitted, released):
            for use in (lease.submit, lambda lease=lease: lease["x"]):
                with pytest.raises(ovengine.LeaseLost, match="the lease is over"):
                    use()
            lease.release()  # does nothing
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 6
        assert (future.result()["y"] == 6).all()


def test_a_held_lease_on_an_idle_model_is_not_lost() -> None:
    with fake(1, 4) as model, model.lease() as lease:
        assert not threading.Event().wait(0.05)  # well above the grace that a batch in waiting gives
        lease["x"][...] = 1
        assert (lease.submit().result()["y"] == 2).all()


@pytest.mark.parametrize("neighbours", [1, 3])
def test_a_batch_goes_on_without_a_slow_lease_which_is_then_lost(neighbours: int) -> None:
    with fake(4) as model:
        lease = model.lease()
        array = lease["x"]
        array[...] = 100
        futures = [model.submit(np.full(4, i, np.float32)) for i in range(neighbours)]
        assert [float(future.result()["y"][0]) for future in futures] == [i + 1.0 for i in range(neighbours)]
        array[...] = 200  # harmless: the memory is the lease's until it lets go
        with pytest.raises(ovengine.LeaseLost, match="the batch ran without this lease"):
            lease.submit()
        with pytest.raises(ovengine.LeaseLost, match="the lease is over"):
            lease.submit()
        model.close()
        assert model.stats().failures["lease_lost"] == 1
        assert model.stats().requests == neighbours


def test_memory_of_a_lost_lease_is_not_used_before_it_lets_go() -> None:
    with fake(4) as model:
        lease = model.lease()
        array = lease["x"]
        model.submit(ROW).result()  # the lease is lost
        stop = threading.Event()

        def scribble(array: Array) -> None:
            while not stop.is_set():
                array[...] = 666

        thread = threading.Thread(target=scribble, args=[array])
        thread.start()
        for i in range(2000):
            assert (model(np.full(4, i, np.float32))["y"] == i + 1).all()
        stop.set()
        thread.join()
        del array
        lease.release()
        wait_until(at_rest)


def test_lost_leases_are_replaced_and_given_back_in_any_number() -> None:
    with fake(4) as model:
        leases = []
        for _ in range(20):
            leases.append(model.lease())
            leases[-1]["x"][...] = 5
            assert (model.submit(ROW).result()["y"] == 1).all()
        for lease in leases[::2]:
            with pytest.raises(ovengine.LeaseLost):
                lease.submit()
        leases.clear()
        del lease
        wait_until(at_rest)
        assert (model(ROW)["y"] == 1).all()


def test_leases_that_come_and_go_never_disturb_their_neighbours() -> None:
    with fake(1, 4, 16, lanes=2) as model:
        stop = threading.Event()

        def come_and_go(seed: int) -> None:
            rng = np.random.default_rng(seed)
            while not stop.is_set():
                lease = model.lease(int(rng.integers(1, 5)))
                lease["x"][...] = -1
                action = rng.integers(4)
                if action == 0:
                    lease.release()
                elif action == 1:
                    del lease
                elif action == 2:
                    with contextlib.suppress(ovengine.LeaseLost):
                        assert (lease.submit().result()["y"] == 0).all()
                else:
                    stop.wait(0.02)  # lost, if anybody else is there

        def submit(seed: int) -> None:
            try:
                for i in range(400):
                    rows = tagged(1 + i % 5, first=seed * 1000 + i)
                    np.testing.assert_array_equal(model.submit(rows).result()["y"], rows + 1)
            finally:
                stop.set()

        in_threads(each(lambda seed: (come_and_go, submit)[seed % 2](seed), range(4)))


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, -1, 17, 1 << 40])
def test_a_lease_has_as_many_rows_as_a_batch(rows: int) -> None:
    with fake(1, 16) as model, pytest.raises(ovengine.InputError, match=f"a lease of {rows} rows; .* 1 to 16"):
        model.lease(rows)


@pytest.mark.parametrize("key", ["nonsense", 1, -1, None])
def test_a_lease_has_no_input_that_the_model_has_not(key: Any) -> None:
    with fake() as model, model.lease() as lease, pytest.raises(ovengine.InputError, match="it has 'x'"):
        lease[key]


def test_a_lease_is_refused_when_the_queue_is_full() -> None:
    with fake(1, max_queue_size=2, service_time_us=SLOW_US) as model:
        occupy(model)
        futures = fill(lambda: model.submit(ROW))
        with pytest.raises(ovengine.QueueFull):
            model.lease()
        for future in futures:
            future.cancel()


def test_a_closed_model_gives_no_leases_and_takes_none() -> None:
    with fake() as model:
        lease = model.lease()
        lease["x"][...] = 1
        array = lease["x"]
        model.close()
        array.fill(2)  # the memory is still there
        with pytest.raises(ovengine.EngineClosed):
            lease.submit()
        with pytest.raises(ovengine.EngineClosed):
            model.lease()
        with pytest.raises(ovengine.LeaseLost):
            lease["x"]


def test_a_lease_keeps_its_memory_when_the_model_is_gone() -> None:
    with fake() as model:
        lease = model.lease()
        array = lease["x"]
    del model
    gc.collect()
    array.fill(1)
    del lease
    gc.collect()
    assert (array == 1).all()


# -- views that outlive their lease -----------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["dropped", "released", "submitted", "lost"])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_view_that_outlives_its_lease_writes_into_nobodys_request(end: str, rows: int) -> None:
    with fake(1, 4, lanes=2) as model:
        kept: list[Any] = []
        for i in range(8):
            lease = model.lease(rows)
            lease["x"][...] = i
            kept += [lease["x"][:, 1:], memoryview(lease["x"][0]), lease["x"].reshape(-1)[::2]]
            if end == "released":
                lease.release()
            elif end == "submitted":
                assert (lease.submit().result()["y"] == i + 1).all()
            elif end == "lost":
                model.submit(ROW).result()
            del lease
        arrays = [np.asarray(view) for view in kept]
        for k in range(300):
            for view in arrays:
                view[...] = -1000
            futures = [model.submit(np.full(4, k + j, np.float32)) for j in range(8)]
            for view in arrays:
                view[...] = -2000
            assert [float(future.result()["y"][0]) for future in futures] == [k + j + 1.0 for j in range(8)]
        kept.clear()
        arrays.clear()
        del view
        wait_until(at_rest)


@pytest.mark.parametrize("end", ["dropped", "released", "submitted"])
def test_a_view_of_a_lease_in_the_ring_is_memory_of_its_own(end: str) -> None:
    with fake(1, service_time_us=5000) as model:
        occupy(model)
        futures = [model.submit(ROW) for _ in range(3)]
        lease = model.lease()
        lease["x"][...] = 7
        view = lease["x"][0]
        if end == "released":
            lease.release()
        elif end == "submitted":
            assert (lease.submit().result()["y"] == 8).all()
        del lease
        futures += [model.submit(ROW) for _ in range(20)]
        view[...] = 9
        gc.collect()
        assert all((future.result()["y"] == 1).all() for future in futures)
        assert (view == 9).all()


def test_arrays_of_a_lease_are_read_only_when_it_is_over() -> None:
    with fake(1, 4) as model:
        for finish in (ovengine.Lease.release, ovengine.Lease.submit):
            lease = model.lease()
            array = lease["x"]
            future = finish(lease)
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 1
        assert future is not None  # without it, nobody wants the request any more
        wait_until(lambda: model.stats().requests == 1)


def test_a_lease_in_a_garbage_cycle_is_given_back() -> None:
    with fake(1, 4) as model:
        for _ in range(50):
            lease = model.lease()
            cycle: list[Any] = [lease, lease["x"], lease["x"][0]]
            cycle.append(cycle)
            del cycle, lease
        gc.collect()
        assert (model(ROW)["y"] == 1).all()
        wait_until(at_rest)
