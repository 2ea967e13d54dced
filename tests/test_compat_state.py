"""A stateful model in a queue: each request keeps a state of its own, as in OpenVINO."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from queues import Make, everywhere, ours, over_compiled
from support import double, tagged


def running(**initial: Any) -> ov.Model:
    """`y = x + sum of all variables`, f32 `(1, 4)`; each variable then grows by x."""
    x = ops.parameter([1, 4], np.float32, name="x")
    x.output(0).set_names({"x"})
    y, assigned = x, []
    for name, value in initial.items():
        start = ops.constant(np.full((1, 4), value, np.float32))
        variable = ops.read_value(start, name, ov.Type.f32, ov.PartialShape([1, 4]))
        assigned.append(ops.assign(ops.add(variable, x), name))
        y = ops.add(y, variable)
    y.output(0).set_names({"y"})
    return ov.Model([ops.result(y)], assigned, [x], "running")


ROW = np.ones((1, 4), np.float32)


def value(results: Any) -> float:
    found: float = results["y"].item(0)
    return found


def states(request: Any) -> dict[str, Any]:
    return {state.name: state for state in request.query_state()}


@everywhere
def test_each_request_keeps_its_own_state(make: Make) -> None:
    queue = make(running(sum=0), 3)
    found: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for _ in range(5):
        for _ in range(3):
            index = queue.get_idle_request_id()
            queue.start_async((index + 1) * ROW, index)
        queue.wait_all()
        assert queue.userdata == [0, 1, 2]
        for index, request in enumerate(queue):
            found[index].append(value(request.results))
    assert found == {index: [(index + 1) * float(step + 1) for step in range(5)] for index in range(3)}


@everywhere
def test_a_state_goes_on_from_infer_to_start_async(make: Make) -> None:
    queue = make(running(sum=0), 2)
    request = queue[1]
    assert [value(request.infer(ROW)) for _ in range(3)] == [1, 2, 3]
    request.start_async(ROW)
    request.wait()
    assert request.get_output_tensor().data.item(0) == 4
    assert value(queue[0].infer(ROW)) == 1


@everywhere
def test_a_state_is_read_set_and_reset(make: Make) -> None:
    queue = make(running(sum=0), 2)
    request = queue[0]
    request.infer(5 * ROW)
    state = states(request)["sum"]
    assert np.array_equal(state.state.data, 5 * ROW)
    state.state = ov.Tensor(20 * ROW)
    assert np.array_equal(state.state.data, 20 * ROW)
    assert value(request.infer(ROW)) == 21
    request.reset_state()
    assert value(request.infer(ROW)) == 1
    state.reset()
    assert value(request.infer(2 * ROW)) == 2
    assert value(queue[1].infer(ROW)) == 1


@over_compiled
def test_one_variable_of_several_is_reset(make: Make) -> None:
    queue = make(running(a=0, b=100), 1)
    request = queue[0]
    assert value(request.infer(ROW)) == 101
    assert value(request.infer(ROW)) == 103
    states(request)["b"].reset()
    assert value(request.infer(ROW)) == 103
    assert sorted(states(request)) == ["a", "b"]
    states(request)["a"].reset()
    assert value(request.infer(ROW)) == 102


@pytest.mark.parametrize("make", ["model"], indirect=True)
def test_several_variables_of_an_ovengine_model_are_reset_together(make: Make) -> None:
    queue = make(running(a=0, b=100), 1)
    queue[0].infer(ROW)
    with pytest.raises(RuntimeError, match="reset_state"):
        states(queue[0])["b"].reset()
    queue[0].reset_state()
    assert value(queue[0].infer(ROW)) == 101


@ours
def test_a_state_that_does_not_fit_is_refused_and_the_old_one_stays(make: Make) -> None:
    queue = make(running(sum=0), 1)
    request = queue[0]
    request.infer(5 * ROW)
    state = states(request)["sum"]
    with pytest.raises(TypeError):
        state.state = np.ones((1, 4), np.float32)
    with pytest.raises(RuntimeError):
        state.state = ov.Tensor(np.ones((2, 5), np.float32))
    assert value(request.infer(ROW)) == 6


@everywhere
def test_a_model_without_state_has_none(make: Make) -> None:
    queue = make(double(), 1)
    assert queue[0].query_state() == []
    queue[0].reset_state()
    assert np.array_equal(queue[0].infer(tagged(1))[0], 2 * tagged(1))
