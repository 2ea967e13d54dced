"""Priorities, deadlines, groups and admission, as a user of Python meets them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

import models
import ovengine
from support import EXACT, PATIENCE, double, fake, fill, in_threads, occupy, ready, wait_until

ROW = np.zeros(4, np.float32)
SLOW_US = 500_000


def tag(value: float) -> Any:
    """A row to know again."""
    return np.full(4, value, np.float32)


def served(futures: dict[str, ovengine.Future]) -> list[str]:
    """The order in which these futures get their results."""
    order: list[str] = []
    for name, future in futures.items():
        future.add_done_callback(lambda _, name=name: order.append(name))  # type: ignore[misc]  # a default argument
    wait_until(lambda: len(order) == len(futures))
    return order


# -- priorities and deadlines -----------------------------------------------------------------------------------------


def test_of_what_waits_the_highest_priority_goes_first_and_then_the_earliest_deadline() -> None:
    with fake(1, service_time_us=20_000) as model:
        occupy(model)
        futures = {
            "open": model.submit(ROW),
            "low": model.submit(ROW, priority=9),
            "plain": model.submit(ROW),
            "patient": model.submit(ROW, deadline=PATIENCE),
            "urgent": model.submit(ROW, deadline=0.9),
            "high": model.submit(ROW, priority=1),
        }
        assert served(futures) == ["high", "urgent", "open", "plain", "patient", "low"]


@pytest.mark.parametrize("call", ["submit", "ainfer", "infer", "infer_rows"])
def test_every_way_in_takes_them(call: str) -> None:
    with fake(1, 4) as model:
        found = getattr(model, call)(tag(3)[None], priority=2, deadline=PATIENCE, group=("a", 1))
        result = found.result() if isinstance(found, ovengine.Future) else found
        np.testing.assert_array_equal(result["y"], [tag(4)])


def test_map_and_amap_take_priority_and_group() -> None:
    rows = [tag(i) for i in range(100)]
    with fake(1, 4) as model:
        results = list(model.map(rows, priority=9, group="bulk"))

        async def run() -> list[Any]:
            return [result async for result in model.amap(rows, priority=9, group="bulk")]

        for found in (results, asyncio.run(run())):
            assert [result["y"][0] for result in found] == [i + 1 for i in range(100)]
        with pytest.raises(ovengine.InputError, match="priority"):
            next(model.map(rows, priority=0))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"priority": 0}, "from 1, the highest, to 9, not 0"),
        ({"priority": 10}, "not 10"),
        ({"priority": True}, "not True"),
        ({"priority": "high"}, "not 'high'"),
        ({"deadline": "soon"}, "number of seconds from now, not 'soon'"),
        ({"deadline": float("nan")}, "not nan"),
        ({"group": []}, r"something hashable, not by \[\]"),
        ({"latest_only": True}, "name the group with group="),
    ],
)
def test_arguments_out_of_range_say_what_would_do(arguments: dict[str, Any], says: str) -> None:
    with fake(1) as model:
        for call in (model.submit, model.ainfer):
            with pytest.raises(ovengine.InputError, match=says):
                call(ROW, **arguments)


def test_a_deadline_that_has_come_ends_the_request_while_the_lane_is_busy_and_it_never_runs() -> None:
    with fake(1, service_time_us=4 * SLOW_US, cost_us={1: 1.0}) as model:
        running = occupy(model)
        late = model.submit(ROW, deadline=0.03)
        with pytest.raises(ovengine.DeadlineExceeded, match="which was dropped"):
            late.result(PATIENCE)
        assert not running.done()
        assert isinstance(late.exception(), TimeoutError)
        assert late.done()
        assert not late.cancelled()
        assert not late.cancel()

        async def wait() -> None:
            with pytest.raises(ovengine.DeadlineExceeded):
                await model.ainfer(ROW, deadline=0.03)

        asyncio.run(wait())
        told = threading.Event()
        model.submit(ROW, deadline=0.03).add_done_callback(lambda _: told.set())
        assert told.wait(PATIENCE)
        with pytest.raises(ovengine.DeadlineExceeded):
            model.infer(ROW, deadline=0.03)
        assert not running.done()
        running.result()
        stats = model.stats()
        assert stats.failures["deadline_exceeded"] == 4
        assert stats.requests == 1


def test_a_deadline_that_cannot_be_met_is_refused_at_once() -> None:
    with fake(1, service_time_us=SLOW_US) as model:
        for call in (model.submit, model.ainfer, model.infer):
            with pytest.raises(ovengine.DeadlineUnmeetable, match="after the deadline"):
                call(ROW, deadline=0.1)
        with pytest.raises(TimeoutError):
            model.submit(ROW, deadline=0)
        futures = [model.submit(ROW, deadline=PATIENCE) for _ in range(4)]
        with pytest.raises(ovengine.DeadlineUnmeetable, match="requests wait"):
            model.submit(ROW, deadline=1.0, priority=9)  # one runs, and those go first
        assert model.stats().rejections["deadline_unmeetable"] == 5
        for future in futures:
            future.cancel()


# -- groups -----------------------------------------------------------------------------------------------------------


def test_a_flood_of_one_group_does_not_hold_up_another() -> None:
    with fake(1, service_time_us=2000) as model:
        occupy(model)
        futures = {f"flood {i}": model.submit(ROW, group="flood") for i in range(60)}
        futures["quiet"] = model.submit(ROW, group="quiet")
        order = served(futures)
        assert order.index("quiet") < 30


def test_a_flood_of_one_group_leaves_room_in_the_queue_for_others() -> None:
    with fake(1, max_queue_size=40, service_time_us=SLOW_US) as model:
        occupy(model)
        flood = fill(lambda: model.submit(ROW, group="flood"))
        assert len(flood) == 30
        quiet = model.submit(ROW, group="quiet")
        with pytest.raises(ovengine.QueueFull):
            model.submit(ROW, group="flood")
        for future in (*flood, quiet):
            assert future.cancel()


def test_more_groups_than_are_remembered() -> None:
    with fake(1, 16) as model:
        for start in range(0, 5000, 1000):
            futures = [model.submit(tag(i), group=i) for i in range(start, start + 1000)]
            for i, future in enumerate(futures):
                assert future.result()["y"][0] == start + i + 1


def test_a_newer_frame_supersedes_the_one_that_waits() -> None:
    with fake(1, max_queue_size=2, service_time_us=20_000) as model:
        occupy(model)
        frames = [model.submit(tag(i), group="camera", latest_only=True) for i in range(10)]
        other = model.submit(tag(20), group="other camera", latest_only=True)
        for frame in frames[:-1]:
            assert frame.done()
            with pytest.raises(ovengine.Superseded, match="took the place"):
                frame.result()
            with pytest.raises(concurrent.futures.CancelledError):
                frame.result()
            assert not frame.cancelled()
        assert frames[-1].result()["y"][0] == 10
        assert other.result()["y"][0] == 21
        assert model.stats().failures["superseded"] == 9


def test_requests_without_latest_only_are_not_superseded() -> None:
    with fake(1, service_time_us=5000) as model:
        occupy(model)
        kept = [model.submit(tag(i), group="camera") for i in range(3)]
        newest = model.submit(tag(9), group="camera", latest_only=True)
        for i, future in enumerate((*kept, newest)):
            assert future.result()["y"][0] == (i if future is not newest else 9) + 1


def test_a_group_is_one_models_own_whatever_it_is_called_in_another() -> None:
    with fake(1, service_time_us=20_000) as one, fake(1, service_time_us=20_000) as other:
        frames: list[ovengine.Future] = []
        for model in (one, other):
            occupy(model)
            model.submit(ROW)
            frames.append(model.submit(tag(len(frames)), group="camera", latest_only=True))
        assert [frame.result()["y"][0] for frame in frames] == [1, 2]
        assert one.stats().failures["superseded"] == other.stats().failures["superseded"] == 0


# -- admission --------------------------------------------------------------------------------------------------------


def test_a_full_queue_blocks_where_it_is_told_to() -> None:
    with fake(1, max_queue_size=2, queue_full_action="block", service_time_us=2000) as model:
        futures = [model.submit(tag(i)) for i in range(20)]
        for i, future in enumerate(futures):
            assert future.result()["y"][0] == i + 1
        assert model.stats().rejections["queue_full"] == 0
    with fake(1, max_queue_size=2, queue_full_action="block", service_time_us=SLOW_US) as model:
        occupy(model)
        waiting = [model.submit(ROW) for _ in range(3)]
        with pytest.raises(ovengine.QueueFull):
            model.ainfer(ROW)  # an event loop is never blocked
        with pytest.raises(ovengine.InferenceTimeout, match="no room"):
            model.infer(ROW, timeout=0.01)
        with pytest.raises(ovengine.DeadlineUnmeetable):
            model.submit(ROW, priority=1, deadline=0.01)
        for future in waiting:
            future.cancel()


def test_a_full_queue_rejects_where_it_is_told_to() -> None:
    with fake(1, queue_full_action="reject", service_time_us=1_000_000) as model:
        occupy(model)
        futures = fill(lambda: model.submit(ROW))
        assert len(futures) == (1 << 14) + 1
        for future in futures:
            future.cancel()


def test_queue_full_action_is_one_of_two() -> None:
    with ovengine.load(double(), queue_full_action="BLOCK", max_queue_size=7) as model:
        assert "at most 7 requests wait, callers when full" in str(model.plan)
    with ovengine.load(double(), queue_full_action="reject") as model:
        assert "requests are rejected when full" in str(model.plan)
    for wrong in ("drop", 3):
        with pytest.raises(ovengine.ConfigError, match="'reject' or 'block'"):
            ovengine.load(double(), queue_full_action=wrong)  # type: ignore[arg-type]  # that is the point


# -- models whose requests are jobs -----------------------------------------------------------------------------------


def test_requests_of_dynamic_models_and_bulk_requests_have_priorities_and_deadlines() -> None:
    with fake(1, 4, service_time_us=20_000, cost_us={1: 1.0, 4: 1.0}) as model:
        occupy(model)
        model.submit(ROW)
        bulk = np.stack([tag(i) for i in range(12)])
        futures = {
            "low": model.submit(bulk, priority=9),
            "high": model.submit(bulk, priority=1),
        }
        late = model.submit(bulk, priority=9, deadline=0.07)
        old = model.submit(bulk, group="a", latest_only=True, priority=8)
        futures["new"] = model.submit(bulk, group="a", latest_only=True, priority=8)
        with pytest.raises(ovengine.Superseded):
            old.result()
        with pytest.raises(ovengine.DeadlineExceeded):
            late.result(PATIENCE)
        assert served(dict(futures)) == ["high", "new", "low"]
        for future in futures.values():
            np.testing.assert_array_equal(future.result()["y"], bulk + 1)
    x = ops.parameter([-1, -1], np.float32, name="x")
    dynamic = ov.Model([ops.multiply(x, np.float32(2))], [x])
    with ovengine.load(dynamic, config=EXACT) as model:
        shapes = [np.full((1, 1 + i % 7), i, np.float32) for i in range(50)]
        found = [model.submit(x, priority=1 + i % 9, deadline=PATIENCE, group=i % 3) for i, x in enumerate(shapes)]
        for x, future in zip(shapes, found, strict=True):
            np.testing.assert_array_equal(future.result()[0], 2 * x)


# -- everything at once -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [double, lambda: models.mlp(*models.TINY_MLP)], ids=["double", "tiny_mlp"])
def test_survivors_of_cancelled_expired_and_superseded_neighbours_are_as_if_undisturbed(
    source: Callable[[], ov.Model],
) -> None:
    # One batch size: what a row is added up with must not depend on how many come together.
    with ovengine.load(source(), config=EXACT, batch_sizes=[8]) as model:
        ready(model)
        width = model.inputs[0].row_bytes // 4
        rows = np.random.default_rng(3).standard_normal((2000, width)).astype(np.float32)
        (name,) = (output.name for output in model.outputs)
        undisturbed = [result[name].copy() for result in model.map(rows)]
        counts = dict.fromkeys(("ok", "Cancelled", "DeadlineExceeded", "Superseded", "DeadlineUnmeetable"), 0)
        lock = threading.Lock()

        def client(seed: int) -> None:
            chance = random.Random(seed)
            pending: list[tuple[int, ovengine.Future]] = []
            for index in range(seed, len(rows), 4):
                arguments: dict[str, Any] = {}
                if chance.random() < 0.5:
                    arguments["priority"] = chance.randint(1, 9)
                if chance.random() < 0.3:
                    arguments["deadline"] = chance.choice([1e-4, 1e-3, PATIENCE])
                if chance.random() < 0.4:
                    arguments.update(group=chance.randint(0, 2), latest_only=chance.random() < 0.5)
                try:
                    future = model.submit(rows[index], **arguments)
                except ovengine.DeadlineUnmeetable:
                    with lock:
                        counts["DeadlineUnmeetable"] += 1
                    continue
                pending.append((index, future))
                if chance.random() < 0.1:
                    chance.choice(pending)[1].cancel()
            for index, future in pending:
                try:
                    outcome, result = "ok", future.result(PATIENCE)
                except (ovengine.Cancelled, ovengine.DeadlineExceeded, ovengine.Superseded) as error:
                    outcome = type(error).__name__
                else:
                    assert result[name].tobytes() == undisturbed[index].tobytes()
                with lock:
                    counts[outcome] += 1

        in_threads([lambda seed=seed: client(seed) for seed in range(4)])  # type: ignore[misc]  # a default argument
        assert sum(counts.values()) == len(rows)
        assert counts["ok"] > 0
        stats = model.stats()
        assert stats.failures["deadline_exceeded"] == counts["DeadlineExceeded"]
        assert stats.failures["superseded"] == counts["Superseded"]
        assert stats.rejections["deadline_unmeetable"] == counts["DeadlineUnmeetable"]
