"""What `start_async` takes over OpenVINO's class, ovengine's gives the right answers for, or the same kind of error."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

import models
import ovengine
from ovengine import compat
from queues import Make, answers, everywhere, ours, over_compiled
from support import double, network, reference, tagged, two_in_two_out


class ArrayLike:
    """What a tensor of another library looks like."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.array(self.array, dtype)


@everywhere
@pytest.mark.parametrize(
    "wrap",
    [
        lambda row, queue: row,
        lambda row, queue: [row],
        lambda row, queue: (row,),
        lambda row, queue: {"x": row},
        lambda row, queue: {0: row},
        lambda row, queue: ov.Tensor(row),
        lambda row, queue: {"x": ov.Tensor(row)},
        lambda row, queue: row.astype(np.float64),
        lambda row, queue: np.asfortranarray(row),
        lambda row, queue: {queue[0].model_inputs[0] if hasattr(queue[0].model_inputs[0], "get_names") else 0: row},
        lambda row, queue: ArrayLike(row),
        lambda row, queue: [ArrayLike(row)],
    ],
    ids=[
        *("array", "list", "tuple", "name", "index", "tensor", "named-tensor", "float64", "fortran"),
        *("port", "array-like", "array-likes"),
    ],
)
@pytest.mark.parametrize("share_inputs", [False, True])
def test_inputs_may_come_in_many_ways(make: Make, wrap: Callable[[Any, Any], Any], share_inputs: bool) -> None:
    queue = make(double(), 2)
    row = tagged(1, first=3)
    queue.start_async(wrap(row, queue), share_inputs=share_inputs)
    queue.wait_all()
    assert np.array_equal(queue[0].get_output_tensor().data, 2 * row)


@everywhere
def test_arrays_are_the_callers_again_when_start_async_returns(make: Make) -> None:
    queue = make(models.mlp(*models.TINY_MLP), 4)
    found: dict[int, Any] = {}
    queue.set_callback(lambda request, index: found.update({index: request.get_output_tensor().data.copy()}))
    rows = np.random.default_rng(0).random((50, 1, 16), np.float32)
    array = np.empty((1, 16), np.float32)
    for index, row in enumerate(rows):
        array[:] = row
        queue.start_async(array, index)
        array[:] = np.nan
    queue.wait_all()
    expected = reference(models.mlp(*models.TINY_MLP))
    for index, row in enumerate(rows):
        assert np.allclose(found[index], expected(row)["y"], atol=1e-5)


@everywhere
def test_inputs_that_are_not_given_are_those_of_last_time(make: Make) -> None:
    queue = make(two_in_two_out(), 1)
    a, b = np.full((1, 3), 2, np.float32), np.ones((1, 2, 2), np.int32)
    queue.start_async({"a": a, "b": b})
    queue.wait_all()
    queue.start_async({"a": 2 * a})
    queue.wait_all()
    assert queue[0].get_output_tensor(0).data.item() == 16
    queue.start_async()
    queue.wait_all()
    assert queue[0].get_output_tensor(0).data.item() == 16


@ours
@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"y": tagged(1)}, "no input 'y'; it has 'x', or 0 to 0"),
        ({1: tagged(1)}, "no input 1"),
        ([tagged(1), tagged(1)], "2 inputs are given, the model has 1"),
        (np.zeros((1, 5), np.float32), "shape"),
    ],
)
def test_inputs_that_do_not_fit_are_told_at_once_and_the_queue_goes_on(make: Make, inputs: Any, words: str) -> None:
    queue = make(models.mlp(4, 4, rows=1), 1)
    with pytest.raises(ovengine.InputError, match=words):
        queue.start_async(inputs)
    queue.start_async(tagged(1))
    queue.wait_all()
    assert queue[0].get_output_tensor().data.shape == (1, 4)


def test_dynamic_shapes_and_other_types_pass_through() -> None:
    model = network({"x": ((-1,), np.int64)}, lambda x: {"y": ops.multiply(x, ops.constant(np.int64(3)))})
    queue = compat.AsyncInferQueue(ov.Core().compile_model(model, "CPU"), 2)
    for width in (1, 5, 3):
        queue.start_async(np.ones((2, width), np.int64), width)
    queue.wait_all()
    assert sorted(request.get_output_tensor().data.shape for request in queue) == [(2, 3), (2, 5)]


# -- keys -------------------------------------------------------------------------------------------------------------


@everywhere
def test_ports_are_keys_of_inputs_and_results(make: Make) -> None:
    queue = make(two_in_two_out(), 1)
    request = queue[0]
    (first, second), (total, scaled) = request.model_inputs, request.model_outputs
    a, b = np.ones((1, 3), np.float32), np.arange(4, dtype=np.int32).reshape(1, 2, 2)
    queue.start_async({second: b, first: a})
    queue.wait_all()
    assert np.array_equal(request.results[scaled], 3 * a)
    assert request.get_tensor(total).data.item() == 9
    assert np.array_equal(request.get_tensor(first).data, a)


@ours
def test_ports_of_the_model_that_was_compiled_are_keys_of_inputs(make: Make) -> None:
    model = two_in_two_out()
    queue = make(model, 1)
    a, b = np.ones((1, 3), np.float32), np.arange(4, dtype=np.int32).reshape(1, 2, 2)
    assert answers(queue, {model.input("b"): b, model.input("a"): a})[0].item() == 9
    assert queue[0].get_tensor(model.output("total")).data.item() == 9


@pytest.mark.parametrize("make", ["model"], indirect=True)
def test_inputs_and_outputs_of_an_ovengine_model_are_keys(make: Make) -> None:
    queue = make(two_in_two_out(), 1)
    (model,) = make.to_close
    a, b = np.ones((1, 3), np.float32), np.arange(4, dtype=np.int32).reshape(1, 2, 2)
    queue.start_async({model.inputs[1]: b, model.inputs[0]: a})
    queue.wait_all()
    assert queue[0].results[model.outputs[0]].item() == 9
    assert np.array_equal(queue[0].results[model.outputs[1]], 3 * a)
    assert queue[0].model_inputs == list(model.inputs)


@ours
def test_numpy_integers_are_indices(make: Make) -> None:
    queue = make(double(), 1)
    assert np.array_equal(answers(queue, {np.int64(0): tagged(1, first=2)})[0], 2 * tagged(1, first=2))
    assert np.array_equal(queue[0].get_output_tensor(np.int32(0)).data, 2 * tagged(1, first=2))


# -- errors -----------------------------------------------------------------------------------------------------------


def static_double() -> ov.Model:
    """`y = 2 x`, `(1, 4)`."""
    model = double()
    model.reshape([1, 4])
    return model


ROW = np.ones((1, 4), np.float32)


@everywhere
@pytest.mark.parametrize("share_inputs", [False, True])
@pytest.mark.parametrize(
    ("inputs", "kind"),
    [
        ({"none": ROW}, RuntimeError),
        ({3: ROW}, RuntimeError),
        ([ROW, ROW], RuntimeError),
        (np.ones((1, 5), np.float32), RuntimeError),
        (np.ones((2, 2), np.float32), RuntimeError),
        (ov.Tensor(np.ones((1, 5), np.float32)), RuntimeError),
        (ov.Tensor(np.ones((1, 4), np.float64)), RuntimeError),
        ({"none": ov.Tensor(ROW)}, RuntimeError),
        ({-1: ROW}, TypeError),
        ({1.5: ROW}, TypeError),
        (object(), TypeError),
        ({0: object()}, TypeError),
        ([object()], TypeError),
        ({0: None}, TypeError),
        ({1, 2}, TypeError),
        ("text", ValueError),
        (np.array(["text"]), (RuntimeError, ValueError)),
    ],
)
def test_inputs_that_do_not_fit_raise_what_openvino_raises(
    make: Make, inputs: Any, kind: Any, share_inputs: bool
) -> None:
    queue = make(static_double(), 1)
    with pytest.raises(kind):
        queue.start_async(inputs, share_inputs=share_inputs)
    if make.kind != "openvino":
        assert np.array_equal(answers(queue, ROW)[0], 2 * ROW)


@everywhere
def test_one_value_for_several_inputs_is_an_error(make: Make) -> None:
    queue = make(two_in_two_out(), 1)
    with pytest.raises(RuntimeError):
        queue.start_async(np.ones((1, 3), np.float32))
    with pytest.raises(TypeError, match="Incompatible inputs of type"):
        queue.start_async(object())


@pytest.mark.parametrize("make", ["model"], indirect=True)
def test_one_row_needs_no_batch_axis(make: Make) -> None:
    assert answers(make(double(), 1), tagged(1)[0])[0].tolist() == [0, 2, 4, 6]


@ours
def test_a_shape_that_a_dynamic_model_cannot_take_is_an_error_at_once(make: Make) -> None:
    queue = make(double(), 1)
    for shape in ((2, 5), (2, 2, 4), (5,)):
        with pytest.raises(ovengine.InputError, match=re.escape(str(shape))):
            queue.start_async(np.ones(shape, np.float32))
    assert answers(queue, np.ones((3, 4), np.float32))[0].shape == (3, 4)


# -- values -----------------------------------------------------------------------------------------------------------


@ours
@pytest.mark.parametrize(
    "value", [[1, 2, 3, 4], [1.0, 2.0, 3.0, 4.0], [[1, 2, 3, 4]], (np.array([1, 2, 3, 4]),)], ids=str
)
def test_lists_of_numbers_are_cast(make: Make, value: Any) -> None:
    model = network({"x": ((), np.float32)}, lambda x: {"y": ops.multiply(x, ops.constant(np.float32(2)))})
    if np.ndim(value) == 2 and isinstance(value, list):
        model = double()
    (found,) = answers(make(model, 1), value)
    assert found.ravel().tolist() == [2, 4, 6, 8]


@everywhere
@pytest.mark.parametrize("share_inputs", [False, True])
@pytest.mark.parametrize("value", [3, 3.0, np.float32(3), np.int64(3), np.array(3.0), np.array(3)], ids=repr)
def test_a_number_is_the_value_of_a_scalar_input(make: Make, value: Any, share_inputs: bool) -> None:
    x = ops.parameter([], np.float32, name="x")
    model = ov.Model([ops.result(ops.multiply(x, ops.constant(np.float32(2))))], [x], "scalar")
    (found,) = answers(make(model, 1), value, share_inputs=share_inputs)
    assert (found.shape, found.item()) == ((), 6)


@ours
@pytest.mark.parametrize("share_inputs", [False, True])
@pytest.mark.parametrize(
    "lay",
    [np.asfortranarray, lambda a: a[:, ::-1][:, ::-1], lambda a: np.repeat(a, 2, 1)[:, ::2], lambda a: a.astype(">f4")],
    ids=["fortran", "reversed", "strided", "swapped"],
)
def test_however_an_array_lies_in_memory_its_values_count(make: Make, lay: Any, share_inputs: bool) -> None:
    rows = tagged(3)
    (found,) = answers(make(double(), 1), lay(rows), share_inputs=share_inputs)
    assert np.array_equal(found, 2 * rows)


@ours
def test_what_the_caller_gave_is_never_written_to(make: Make) -> None:
    queue = make(double(), 1)
    shared, tensor = tagged(1), ov.Tensor(tagged(1, first=5))
    for value in (shared, tensor):
        answers(queue, value, share_inputs=True)
        answers(queue, tagged(1, first=9))
    assert np.array_equal(shared, tagged(1))
    assert np.array_equal(tensor.data, tagged(1, first=5))


@everywhere
def test_a_tensor_is_read_where_it_lies(make: Make) -> None:
    queue = make(double(), 1)
    tensor = ov.Tensor(tagged(1))
    answers(queue, tensor)
    tensor.data[:] = tagged(1, first=7)
    assert np.array_equal(answers(queue)[0], 2 * tagged(1, first=7))


@everywhere
def test_shapes_may_change_from_request_to_request(make: Make) -> None:
    queue = make(double(), 1)
    for rows in (1, 5, 2, 2, 0, 9):
        x = tagged(rows, first=rows)
        assert np.array_equal(answers(queue, x)[0], 2 * x)


# -- types ------------------------------------------------------------------------------------------------------------


def joined(element_type: ov.Type) -> ov.Model:
    """Both inputs, `(5,)` each, one after the other."""
    parts = [ops.parameter([5], element_type) for _ in range(2)]
    return ov.Model([ops.result(ops.concat(parts, 0))], parts, "joined")


NUMBERS = ["f32", "f64", "f16", "i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64"]


@everywhere
@pytest.mark.parametrize("element_type", [*NUMBERS, "bf16"])
@pytest.mark.parametrize("share_inputs", [False, True])
def test_arrays_and_tensors_of_each_type(make: Make, element_type: str, share_inputs: bool) -> None:
    tensor = ov.Tensor(getattr(ov.Type, element_type), [5])
    tensor.data[:] = [6, 7, 8, 9, 0]
    array = np.array([1, 2, 3, 4, 5], tensor.data.dtype)
    (found,) = answers(make(joined(tensor.element_type), 1), [tensor, array], share_inputs=share_inputs)
    assert np.array_equal(found, np.concatenate([tensor.data, array]))


@ours
def test_bits_are_not_cast(make: Make) -> None:
    queue = make(joined(ov.Type.bf16), 1)
    with pytest.raises(TypeError, match="bf16"):
        queue.start_async([np.ones(5, np.float32), np.ones(5, np.float32)])


@ours
@pytest.mark.parametrize("element_type", ["u4", "i4"])
def test_elements_smaller_than_a_byte_come_packed(make: Make, element_type: str) -> None:
    x = ops.parameter([4], getattr(ov.Type, element_type))
    queue = make(ov.Model([ops.result(ops.convert(x, "i32"))], [x], "unpacked"), 1)
    packed = np.array([0x21, 0x43], np.uint8).view(np.int8 if element_type == "i4" else np.uint8)
    for value in (packed, ov.Tensor(packed, [4], getattr(ov.Type, element_type))):
        assert answers(queue, value)[0].tolist() == [1, 2, 3, 4]
    with pytest.raises(RuntimeError, match="packed"):
        queue.start_async(packed[:1])
    with pytest.raises(TypeError, match=element_type):
        queue.start_async(np.ones(4, np.float32))


def echo(shape: list[int]) -> ov.Model:
    x = ops.parameter(shape, ov.Type.string)
    return ov.Model([ops.result(x)], [x], "echo")


@everywhere
@pytest.mark.parametrize(
    ("shape", "value"),
    [
        ([-1], ["text", "больше текста", ""]),
        ([-1], [b"text", b"openvino"]),
        ([2, -1], [["a"], ["b"]]),
        ([2], np.array(["a", "bc"])),
        ([2], np.array([b"a", b"bc"])),
    ],
    ids=str,
)
@pytest.mark.parametrize("share_inputs", [False, True])
def test_text_in_lists_and_arrays(make: Make, shape: list[int], value: Any, share_inputs: bool) -> None:
    queue = make(echo(shape), 1)
    queue.start_async(value, share_inputs=share_inputs)
    queue.wait_all()
    expected = np.array(value)
    if expected.dtype.kind == "S":
        expected = np.char.decode(expected, "utf-8")
    assert np.array_equal(queue[0].results[0], expected)
    assert np.array_equal(queue[0].get_output_tensor().str_data, expected)
    assert np.array_equal(queue[0].get_input_tensor().str_data, expected)


@ours
def test_text_in_arrays_of_objects_and_alone(make: Make) -> None:
    queue = make(echo([-1]), 1)
    queue.start_async(np.array(["a", b"bc"], object))
    queue.wait_all()
    assert queue[0].results[0].tolist() == ["a", "bc"]
    queue.start_async("alone")
    queue.wait_all()
    assert queue[0].results[0].tolist() == ["alone"]
    queue.start_async([])
    queue.wait_all()
    assert queue[0].results[0].tolist() == []
    with pytest.raises(TypeError, match="text"):
        queue.start_async([1, 2])


@over_compiled
def test_text_can_be_written_to_the_input_tensor(make: Make) -> None:
    queue = make(echo([2]), 1)
    tensor = queue[0].get_input_tensor()
    for texts in (["one", "two"], ["three", "four"]):
        tensor.str_data = np.array(texts)
        queue.start_async()
        queue.wait_all()
        assert queue[0].results[0].tolist() == texts
