"""Sessions where an inference fails for its values: what becomes of the state, and of all who run the same model."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

import ovengine
from support import EXACT, PATIENCE, Array, each, in_threads
from test_sessions import model_of, one, parameter, read, running_sum

GOOD = np.array([2, 4])
# A Reshape and a Concat that do not fit. OpenVINO's request gives the result before it when the first comes again, and
# after the second it throws for ever.
BAD = [np.array([3, 3]), np.array([4, 2])]


def collecting() -> ov.Model:
    """All `x` so far, each f32 `(8,)` reshaped to `target`, in the state `rows` `(?, 4)`, and their sum in `y`."""
    x, target = parameter("x", [8]), parameter("target", [2], np.int64)
    rows = ops.concat([read("rows", np.full((1, 4), 0.5, np.float32), [-1, 4]), ops.reshape(x, target, False)], 0)
    steps = ops.add(read("steps", np.array([7], np.int32)), ops.constant(np.array([1], np.int32)))
    total = ops.reduce_sum(rows, ops.constant(np.array([0, 1])), False)
    return model_of({"y": total, "count": steps}, [x, target], {"rows": rows, "steps": steps})


class Client:
    """A session of `collecting()`, and what its state should be."""

    def __init__(self, model: ovengine.Model) -> None:
        self.session = model.session()
        self.total, self.count = 2.0, 7

    def add(self, value: float) -> None:
        result = self.session.submit([one(8, value=value), GOOD]).result(PATIENCE)
        self.total, self.count = self.total + 8 * value, self.count + 1
        assert result["y"] == self.total
        assert result["count"] == [self.count]

    def fail(self, target: Array) -> None:
        with pytest.raises(ovengine.InferenceError, match="stateful"):
            self.session([one(8), target])

    def check_state(self) -> None:
        state = dict(self.session.state)
        assert (state["rows"].sum(), state["steps"][0]) == (self.total, self.count)


@pytest.fixture(params=[1, 2], ids=["one lane", "two lanes"])
def model(request: pytest.FixtureRequest) -> Iterator[ovengine.Model]:
    with ovengine.load(collecting(), config={**EXACT, "NUM_STREAMS": request.param}) as model:
        yield model


@pytest.mark.parametrize("bad", BAD, ids=["reshape", "concat"])
def test_the_state_is_as_before_and_the_same_values_fail_each_time(model: ovengine.Model, bad: Array) -> None:
    client = Client(model)
    client.add(1)
    for value in (2, 3, 4):
        for _ in range(3):
            client.fail(bad)
        client.check_state()
        client.add(value)
    client.session.reset()
    client.total, client.count = 2.0, 7
    client.fail(bad)
    client.add(5)


@pytest.mark.parametrize("bad", BAD, ids=["reshape", "concat"])
def test_others_of_the_same_model_keep_their_states_and_get_no_earlier_result(
    model: ovengine.Model, bad: Array
) -> None:
    clients = [Client(model) for _ in range(4)]
    untouched, preset = Client(model), Client(model)
    preset.session.state["rows"] = np.full((3, 4), 2, np.float32)  # `steps` stays at its initial value, which is not 0
    preset.total = 24.0
    for client in clients:
        client.add(1)
    for client in clients:
        client.fail(bad)
        with pytest.raises(ovengine.InferenceError):
            model([one(8), bad])
        with pytest.raises(ovengine.InferenceError):
            model.submit([one(8), bad]).result(PATIENCE)
    for client in clients:
        client.check_state()
    for client in (*clients, untouched, preset):
        client.add(3)
        client.check_state()
        client.fail(bad)
    assert model([one(8), GOOD])["y"] == 10


def test_many_sessions_that_fail_at_random_each_keep_their_own_state(model: ovengine.Model) -> None:
    def work(seed: int) -> None:
        chance = random.Random(seed)
        client = Client(model)
        for _ in range(60):
            if chance.random() < 0.2:
                client.fail(chance.choice(BAD))
            else:
                client.add(chance.randint(1, 9))
        client.check_state()

    in_threads(each(work, range(4)))


# -- the queue --------------------------------------------------------------------------------------------------------


def test_sessions_and_all_others_wait_for_the_same_room() -> None:
    with ovengine.load(running_sum(), config=EXACT, max_queue_size=2, queue_full_action="block") as model:
        sessions = [model.session() for _ in range(2)]

        def client(submit: Callable[[Array], ovengine.Future]) -> None:
            for future in [submit(one()) for _ in range(1000)]:
                future.result(PATIENCE)

        in_threads(each(client, [session.submit for session in sessions] + [model.submit] * 2))
        for session in sessions:
            assert session(one())["y"][0, 0] == 1001
        assert model.stats().rejections["queue_full"] == 0
