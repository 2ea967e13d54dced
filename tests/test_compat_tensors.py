"""Tensors of a queue's requests: bound, written in place, and live, as those of OpenVINO's infer requests."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

import ovengine
from ovengine import compat
from queues import Make, answers, everywhere, ours, over_compiled
from support import double, tagged, two_in_two_out


def static_double(rows: int = 1, width: int = 4) -> ov.Model:
    """`y = 2 x`, `(rows, width)`."""
    model = double(width)
    model.reshape([rows, width])
    return model


def run(queue: Any) -> None:
    queue.start_async()
    queue.wait_all()


# -- inputs -----------------------------------------------------------------------------------------------------------


@everywhere
def test_what_is_written_to_an_input_tensor_is_inferred(make: Make) -> None:
    queue = make(static_double(), 1)
    for first in (3, 8):
        queue[0].get_input_tensor().data[...] = tagged(1, first=first)
        run(queue)
        assert np.array_equal(queue[0].get_output_tensor().data, 2 * tagged(1, first=first))
    data = queue[0].get_input_tensor().data
    answers(queue, tagged(1, first=1))
    assert np.array_equal(data, tagged(1, first=1))
    data += 1
    run(queue)
    assert np.array_equal(queue[0].get_output_tensor().data, 2 * (tagged(1, first=1) + 1))


@everywhere
def test_an_input_tensor_of_a_dynamic_shape_can_be_resized(make: Make) -> None:
    queue = make(double(), 1)
    for rows in (2, 5, 1):
        tensor = queue[0].get_tensor("x")
        tensor.shape = [rows, 4]
        tensor.data[:] = tagged(rows, first=rows)
        run(queue)
        assert np.array_equal(queue[0].get_output_tensor().data, 2 * tagged(rows, first=rows))
    answers(queue, tagged(7))
    assert np.array_equal(tensor.data, tagged(7))


@ours
def test_inputs_that_were_never_given_are_zeros(make: Make) -> None:
    model = two_in_two_out()
    model.reshape({"a": [1, 3], "b": [1, 2, 2]})
    total, scaled = answers(make(model, 1), {"a": np.ones((1, 3), np.float32)})
    assert (total.item(), scaled.tolist()) == (3, [[3, 3, 3]])


@everywhere
def test_tensors_are_set_by_name_port_and_index(make: Make) -> None:
    model = two_in_two_out()
    queue = make(model, 1)
    request = queue[0]
    a, b = np.ones((1, 3), np.float32), np.full((1, 2, 2), 2, np.int32)

    def tensors() -> tuple[ov.Tensor, ov.Tensor]:
        return ov.Tensor(a), ov.Tensor(b)

    first, second = request.model_inputs
    ways: list[Any] = [
        lambda x, y: (request.set_tensor("a", x), request.set_tensor("b", y)),
        lambda x, y: (request.set_tensor(first, x), request.set_tensor(second, y)),
        lambda x, y: (request.set_tensor(model.input("a"), x), request.set_tensor(model.input("b"), y)),
        lambda x, y: (request.set_input_tensor(0, x), request.set_input_tensor(1, y)),
        lambda x, y: request.set_input_tensors({0: x, 1: y}),
        lambda x, y: request.set_tensors({"a": x, second: y}),
        lambda x, y: request.set_tensors({0: x, 1: y}),
    ]
    for way in ways:
        a, b = a + 1, b + 1
        way(*tensors())
        run(queue)
        assert request.get_output_tensor(0).data.item() == a.sum() + b.sum()
        assert np.array_equal(request.get_tensor("scaled").data, 3 * a)
        assert np.array_equal(request.get_input_tensor(1).data, b)


@everywhere
def test_an_only_input_or_output_needs_no_name(make: Make) -> None:
    queue = make(static_double(), 1)
    target = np.zeros((1, 4), np.float32)
    queue[0].set_input_tensor(ov.Tensor(tagged(1, first=2)))
    queue[0].set_output_tensor(ov.Tensor(target, shared_memory=True))
    run(queue)
    assert np.array_equal(target, 2 * tagged(1, first=2))
    several = make(two_in_two_out(), 1)
    two = several[0]
    for call in (two.set_input_tensor, two.set_output_tensor):
        with pytest.raises(RuntimeError):
            call(ov.Tensor(target))
    for look in (two.get_input_tensor, two.get_output_tensor):
        with pytest.raises(RuntimeError):
            look()


@everywhere
def test_several_tensors_are_one_batch(make: Make) -> None:
    x = ops.parameter([4, 3], np.float32, name="x")
    x.output(0).set_names({"x"})
    x.set_layout(ov.Layout("N..."))
    queue = make(ov.Model([ops.result(ops.add(x, ops.constant(np.float32(1))))], [x], "batch"), 1)
    request = queue[0]
    rows = [np.full((1, 3), row, np.float32) for row in range(4)]
    tensors = [ov.Tensor(row, shared_memory=True) for row in rows]
    ways: list[Any] = [
        lambda: request.set_input_tensors(tensors),
        lambda: request.set_input_tensors(0, tensors),
        lambda: request.set_tensors("x", tensors),
        lambda: request.set_tensors(request.model_inputs[0], tensors),
    ]
    for way in ways[: 3 if make.kind == "model" else 4]:
        way()
        for row in rows:
            row += 10
        run(queue)
        assert np.array_equal(request.get_output_tensor().data, np.concatenate(rows) + 1)
        with pytest.raises(RuntimeError, match="batched"):
            request.get_tensor("x")
    for wrong in ([], [ov.Tensor(np.ones((2, 3), np.float32))] * 2):
        with pytest.raises(RuntimeError):
            request.set_input_tensors(wrong)
    if make.kind != "openvino":
        assert np.array_equal(answers(queue, np.zeros((4, 3), np.float32))[0], np.ones((4, 3)))


# -- outputs ----------------------------------------------------------------------------------------------------------


@everywhere
def test_results_land_in_the_memory_that_outputs_are_bound_to(make: Make) -> None:
    queue = make(two_in_two_out(), 1)
    request = queue[0]
    scaled, total = np.zeros((1, 3), np.float32), np.zeros((1, 1), np.float32)
    bound = [ov.Tensor(array, shared_memory=True) for array in (scaled, total)]
    request.set_tensor("scaled", bound[0])
    request.set_output_tensors({0: bound[1]})
    for factor in (1, 5):
        a, b = np.full((1, 3), factor, np.float32), np.full((1, 2, 2), factor, np.int32)
        queue.start_async({"a": a, "b": b})
        queue.wait_all()
        assert np.array_equal(scaled, 3 * a)
        assert total.item() == 7 * factor
        assert np.shares_memory(request.get_output_tensor(1).data, scaled)
        assert np.array_equal(request.results["scaled"], 3 * a)


@everywhere
@pytest.mark.parametrize("rows", [1, 3])
def test_output_tensors_are_live_and_results_are_not(make: Make, rows: int) -> None:
    queue = make(static_double(rows, 400), 1)
    before = queue[0].get_output_tensor()
    results = []
    for first in range(5):
        answers(queue, tagged(rows, 400, first))
        for tensor in (before, queue[0].get_output_tensor(), queue[0].get_tensor("y"), queue[0].output_tensors[0]):
            assert np.array_equal(tensor.data, 2 * tagged(rows, 400, first))
        results.append(queue[0].results[0])
    for first, array in enumerate(results):
        assert np.array_equal(array, 2 * tagged(rows, 400, first))


@everywhere
def test_an_output_tensor_takes_the_shape_of_each_result(make: Make) -> None:
    queue = make(double(), 1)
    held = queue[0].get_output_tensor()
    own = ov.Tensor(ov.Type.f32, [1, 4])
    for rows in (3, 1, 6):
        answers(queue, tagged(rows))
        assert np.array_equal(held.data, 2 * tagged(rows))
    queue[0].set_output_tensor(own)
    answers(queue, tagged(5))
    assert np.array_equal(own.data, 2 * tagged(5))


@ours
def test_an_output_that_does_not_fit_its_tensor_is_the_requests_error(make: Make) -> None:
    queue = make(double(), 1)
    array = np.zeros((1, 4), np.float32)
    bound = ov.Tensor(array, shared_memory=True)
    queue[0].set_output_tensor(bound)
    queue.start_async(tagged(1, first=3))
    queue.start_async(tagged(2))
    with pytest.raises(RuntimeError, match="shape"):
        queue[0].wait()
    queue.wait_all()
    assert np.array_equal(array, 2 * tagged(1, first=3))


def passed_through() -> ov.Model:
    """`same` is the input itself; `once` and `twice` are one node."""
    x = ops.parameter([1, 4], np.float32, name="x")
    x.output(0).set_names({"x"})
    twice = ops.multiply(x, ops.constant(np.float32(2)))
    return ov.Model([ops.result(node) for node in (x, twice, twice)], [x], "passed through")


@ours
def test_outputs_that_share_memory_in_the_model_reach_their_own_tensors(make: Make) -> None:
    # OpenVINO writes nothing to a tensor that such an output is bound to.
    queue = make(passed_through(), 1)
    arrays = [np.zeros((1, 4), np.float32) for _ in range(3)]
    bound = [ov.Tensor(array, shared_memory=True) for array in arrays]
    queue[0].set_output_tensors(dict(enumerate(bound)))
    row = tagged(1, first=4)
    for share_inputs in (False, True):
        found = answers(queue, row, share_inputs=share_inputs)
        for array, tensor, factor in zip(arrays, found, (1, 2, 2), strict=True):
            assert np.array_equal(array, factor * row)
            assert np.array_equal(tensor, factor * row)
    assert np.array_equal(row, tagged(1, first=4))


@everywhere
def test_an_output_tensor_can_be_another_requests_input(make: Make) -> None:
    first, second = make(static_double(), 1), make(static_double(), 1)
    plain = ov.Core().compile_model(static_double(), "CPU").create_infer_request()
    for queue in (first, second):
        answers(queue, tagged(1))
    second[0].set_input_tensor(first[0].get_output_tensor())
    plain.set_input_tensor(second[0].get_output_tensor())
    for row in (tagged(1, first=1), tagged(1, first=6)):
        answers(first, row)
        run(second)
        plain.infer()
        assert np.array_equal(second[0].get_output_tensor().data, 4 * row)
        assert np.array_equal(plain.get_output_tensor().data, 8 * row)


# -- errors -----------------------------------------------------------------------------------------------------------


@everywhere
def test_tensors_that_do_not_fit_raise_what_openvino_raises(make: Make) -> None:
    queue = make(static_double(), 1)
    request = queue[0]
    right = ov.Tensor(np.ones((1, 4), np.float32))
    wide, doubles = ov.Tensor(np.ones((1, 5), np.float32)), ov.Tensor(np.ones((1, 4), np.float64))
    refused: list[tuple[Any, type[Exception]]] = [
        (lambda: request.get_tensor("none"), RuntimeError),
        (lambda: request.get_tensor(0), TypeError),
        (lambda: request.get_input_tensor(5), RuntimeError),
        (lambda: request.get_output_tensor(5), RuntimeError),
        (lambda: request.get_output_tensor(-1), TypeError),
        (lambda: request.set_tensor("none", right), RuntimeError),
        (lambda: request.set_tensor("x", doubles), RuntimeError),
        (lambda: request.set_tensor("x", wide), RuntimeError),
        (lambda: request.set_tensor("x", right.data), TypeError),
        (lambda: request.set_tensors({"x": right.data}), TypeError),
        (lambda: request.set_tensors([right]), TypeError),
        (lambda: request.set_tensors("y", [right]), RuntimeError),
        (lambda: request.set_input_tensors({7: right}), RuntimeError),
        (lambda: request.set_output_tensors({3: right}), RuntimeError),
        (lambda: request.set_output_tensor(wide), RuntimeError),
        (lambda: request.set_output_tensor(doubles), RuntimeError),
        (lambda: request.results[9], KeyError),
        (lambda: request.results["none"], KeyError),
        (lambda: request.results[1.5], TypeError),
    ]
    for call, kind in refused:
        with pytest.raises(kind):
            call()
    assert np.array_equal(answers(queue, tagged(1))[0], 2 * tagged(1))


@over_compiled
def test_an_unknown_name_is_told_as_openvino_tells_it(make: Make) -> None:
    queue = make(static_double(), 1)
    with pytest.raises(RuntimeError, match="Port for tensor name none was not found"):
        queue[0].get_tensor("none")


def test_the_outputs_of_an_inference_that_failed_are_not_those_of_an_earlier_one() -> None:
    data, k = ops.parameter([10], np.float32, name="data"), ops.parameter([], np.int32, name="k")
    for node, name in ((data, "data"), (k, "k")):
        node.output(0).set_names({name})
    model = ov.Model(ops.topk(data, k, axis=0, mode="max", sort="value").outputs(), [data, k], "largest")
    queue = compat.AsyncInferQueue(ov.Core().compile_model(model, "CPU"), 1)
    values = np.arange(10, dtype=np.float32)
    assert answers(queue, {"data": values, "k": 2})[0].tolist() == [9, 8]
    queue.start_async({"k": 11})
    with pytest.raises(ovengine.InferenceError):
        queue.wait_all()
    for look in (lambda: queue[0].results, lambda: queue[0].output_tensors, lambda: queue[0].get_output_tensor(0)):
        with pytest.raises(ovengine.InferenceError):
            look()
    assert answers(queue, {"k": 3})[0].tolist() == [9, 8, 7]
