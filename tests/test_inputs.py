"""What may be passed in: dtypes, strides and shapes that are taken, and a typed error for all that is not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from openvino import opset13 as ops

import ovengine
from support import EXACT, Array, double, fake, network, ready, tagged, two_in_two_out

F32 = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture(scope="module")
def doubled() -> Iterator[ovengine.Model]:
    """`y = 2 x`, x is `(n, 4)` f32."""
    with ready(ovengine.load(double(), config=EXACT)) as model:
        yield model


@pytest.fixture(scope="module")
def pair() -> Iterator[ovengine.Model]:
    with ready(ovengine.load(two_in_two_out(), config=EXACT)) as model:
        yield model


@pytest.fixture(scope="module")
def small_integers() -> Iterator[ovengine.Model]:
    """`y = x` as f32, x is `(n, 2)` u8."""
    with ovengine.load(network({"x": ((2,), np.uint8)}, lambda x: {"y": ops.convert(x, "f32")}), config=EXACT) as model:
        yield model


@pytest.fixture(scope="module")
def scalars() -> Iterator[ovengine.Model]:
    """`y = 2 x`, x is `(n,)` f32: one sample is a number."""
    with ovengine.load(
        network({"x": ((), np.float32)}, lambda x: {"y": ops.multiply(x, ops.constant(np.float32(2)))}), config=EXACT
    ) as model:
        yield model


def every_way(model: ovengine.Model, inputs: Any) -> list[Array]:
    """Results of all ways into the engine: in place, batched, in bulk, shared."""
    many = [model.submit(inputs) for _ in range(5)]
    return [
        model(inputs)["y"],
        model.infer_rows(inputs)["y"],
        model.submit(inputs, share_inputs=True).result()["y"],
        *(future.result()["y"] for future in many),
    ]


# -- dtypes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"])
def test_every_number_casts_to_f32(doubled: ovengine.Model, dtype: str) -> None:
    rows = F32.astype(dtype)
    for got in every_way(doubled, rows):
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, rows.astype(np.float32) * 2)


@pytest.mark.parametrize("dtype", [">f4", "<f4", ">f8", ">i2", ">u8", ">f2"])
def test_bytes_may_be_in_either_order(doubled: ovengine.Model, dtype: str) -> None:
    for got in every_way(doubled, F32.astype(dtype)):
        np.testing.assert_array_equal(got, F32 * 2)


@pytest.mark.parametrize("dtype", ["longlong", "ulonglong", "long", "intc"])
def test_integers_are_known_by_their_size_not_by_their_name_in_c(doubled: ovengine.Model, dtype: str) -> None:
    for got in every_way(doubled, F32.astype(dtype)):
        np.testing.assert_array_equal(got, F32 * 2)


@pytest.mark.parametrize("dtype", ["c8", "c16", "S1", "U1", "O", "M8[s]", "m8[s]", "V4", [("a", "f4")]])
def test_what_is_no_number_is_a_type_error(doubled: ovengine.Model, dtype: Any) -> None:
    with pytest.raises(ovengine.InputTypeError, match=r"input 'x' takes numbers of dtype float32, not "):
        doubled(np.zeros((1, 4), dtype))


@pytest.mark.parametrize("value", [None, "text", [["a", "b", "c", "d"]], [None], [{}], [1j] * 4, [object()]])
def test_objects_that_are_no_numbers_are_a_type_error(doubled: ovengine.Model, value: Any) -> None:
    with pytest.raises(TypeError, match=r"input 'x' takes numbers of dtype float32, not "):
        doubled([value])


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i1", "i8"])
def test_a_cast_that_same_kind_forbids_is_a_type_error(small_integers: ovengine.Model, dtype: str) -> None:
    text = r"input 'x' has dtype \w+, which does not cast to uint8 by the rule same_kind; .*astype\('uint8'\)"
    with pytest.raises(ovengine.InputTypeError, match=text):
        small_integers(np.zeros((1, 2), dtype))


def test_a_cast_within_a_kind_is_numpys(small_integers: ovengine.Model) -> None:
    for got in every_way(small_integers, np.array([[1, 255], [256, 513]], np.uint64)):
        np.testing.assert_array_equal(got, [[1, 255], [0, 1]])


def test_python_integers_have_no_dtype_of_their_own(small_integers: ovengine.Model) -> None:
    np.testing.assert_array_equal(small_integers([[0, 255]])["y"], [0, 255])
    for outside in (256, -1):
        with pytest.raises(ovengine.InputError, match=rf"input 'x' has values from .*{outside}.*uint8 holds 0 to 255"):
            small_integers([[1, outside]])
    with pytest.raises(ovengine.InputTypeError):
        small_integers([[0.5, 1.5]])


def test_values_are_cast_as_numpy_casts(doubled: ovengine.Model) -> None:
    wild = np.array([[1e300, -1e300, np.nan, np.inf]])
    with np.errstate(over="ignore"):
        for got in every_way(doubled, wild):
            np.testing.assert_array_equal(got, wild.astype(np.float32) * 2)


# -- memory layouts ---------------------------------------------------------------------------------------------------

LAYOUTS: dict[str, Callable[[Array], Any]] = {
    "fortran order": np.asfortranarray,
    "every second row": lambda rows: np.repeat(rows, 2, axis=0)[::2],
    "every second column": lambda rows: np.repeat(rows, 2, axis=1)[:, ::2],
    "backwards": lambda rows: rows[::-1, ::-1].copy()[::-1, ::-1],
    "transposed": lambda rows: rows.T.copy().T,
    "unaligned": lambda rows: np.frombuffer(b"\0" + rows.tobytes(), np.uint8)[1:].view(rows.dtype).reshape(rows.shape),
    "read-only": lambda rows: np.frombuffer(rows.tobytes(), rows.dtype).reshape(rows.shape),
    "a part of more": lambda rows: np.pad(rows, 3)[3:-3, 3:-3],
    "masked": np.ma.masked_array,
    "list": lambda rows: [rows.tolist()],
    "list of arrays": lambda rows: [list(rows)],
    "memoryview": lambda rows: rows.data,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4", "i2"])
def test_memory_may_be_laid_out_in_any_way(doubled: ovengine.Model, layout: str, dtype: str) -> None:
    rows = F32.astype(dtype)
    for got in every_way(doubled, LAYOUTS[layout](rows)):
        np.testing.assert_array_equal(got, F32 * 2)


def test_rows_may_repeat_the_same_memory(doubled: ovengine.Model) -> None:
    for got in every_way(doubled, np.broadcast_to(F32[0], (5, 4))):
        np.testing.assert_array_equal(got, np.tile(F32[0] * 2, (5, 1)))


def test_large_rows_may_be_laid_out_in_any_way() -> None:
    rows = tagged(6, 20_000)
    with ready(ovengine.load(double(20_000), config=EXACT)) as model:
        for layout in ("fortran order", "every second column", "unaligned"):
            for got in every_way(model, LAYOUTS[layout](rows)):
                np.testing.assert_array_equal(got, rows * 2)


def test_an_array_may_be_reused_as_soon_as_it_is_submitted() -> None:
    with fake(1, 4, service_time_us=2000) as model:
        array = np.zeros(4, np.float32)
        futures = []
        for i in range(50):  # some rows are claimed, most wait in the queue
            array[...] = i
            futures.append(model.submit(array))
        array[...] = -1
        for i, future in enumerate(futures):
            assert (future.result()["y"] == i + 1).all()
        big = np.zeros((50, 4), np.float32)
        future = model.submit(big)
        big[...] = -1
        assert (future.result()["y"] == 1).all()


def test_a_shared_array_is_kept_until_it_has_been_read() -> None:
    with fake(1, 4, service_time_us=2000) as model:
        futures = [model.submit(np.full((2, 4), i, np.float32), share_inputs=True) for i in range(20)]
        futures += [model.submit(np.full((20, 4), i, np.float32), share_inputs=True) for i in range(20)]
        for i, future in enumerate(futures):
            assert (future.result()["y"] == i % 20 + 1).all()


def test_a_future_of_a_shared_array_may_be_dropped() -> None:
    with fake(1, 4, service_time_us=2000) as model:
        for rows in (1, 4, 30):
            for i in range(10):
                model.submit(np.full((rows, 4), i, np.float32), share_inputs=True)
        assert (model.submit(np.zeros(4, np.float32)).result()["y"] == 1).all()


# -- shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5,), (3,), (1, 5), (2, 3), (1, 1, 4), (4, 1), (1, 4, 1), ()])
def test_a_wrong_shape_says_which_is_right(doubled: ovengine.Model, shape: tuple[int, ...]) -> None:
    text = rf"input 'x' has shape {re.escape(str(shape))}; the model takes \(n, 4\) or \(4,\) for one sample"
    for call in (doubled, doubled.submit, doubled.infer_rows):
        with pytest.raises(ovengine.InputError, match=text):
            call(np.zeros(shape, np.float32))


def test_no_rows_have_results_without_rows(doubled: ovengine.Model) -> None:
    for got in every_way(doubled, np.zeros((0, 4), np.float32)):
        assert got.shape == (0, 4)
        assert got.dtype == np.float32


def test_rows_of_ragged_lists_are_an_error(doubled: ovengine.Model) -> None:
    with pytest.raises(ovengine.InputError, match=r"input 'x' is not an array"):
        doubled([[[1, 2, 3, 4], [1, 2]]])


def test_one_sample_may_be_a_number(scalars: ovengine.Model) -> None:
    for number in (3, 3.0, np.float32(3), np.array(3.0), np.int8(3)):
        got = scalars(number)["y"]
        assert got.shape == ()
        assert got == 6
    np.testing.assert_array_equal(scalars(np.array([1, 2, 3]))["y"], [2, 4, 6])
    with pytest.raises(ovengine.InputError, match=r"the model takes \(n,\) or \(\) for one sample"):
        scalars(np.zeros((1, 1)))


# -- several inputs ---------------------------------------------------------------------------------------------------

A, B = np.zeros((2, 3), np.float32), np.zeros((2, 2, 2), np.int32)

BAD_SETS: dict[str, tuple[Any, str]] = {
    "too few": ([A], r"1 values for 2 inputs \('a', 'b'\)"),
    "too many": ([A, B, B], r"3 values for 2 inputs \('a', 'b'\)"),
    "none": ([], r"0 values for 2 inputs \('a', 'b'\)"),
    "one array": (A, r"one array for 2 inputs \('a', 'b'\); pass a sequence or a mapping"),
    "a name missing": ({"a": A}, r"no value for input 'b'"),
    "all missing": ({}, r"no value for input 'a', 'b'"),
    "a wrong name": ({"a": A, "c": B}, r"the model has no input 'c'; it has 'a', 'b'"),
    "a name too many": ({"a": A, "b": B, "c": B}, r"the model has no input 'c'; it has 'a', 'b'"),
    "a wrong index": ({0: A, 2: B}, r"the model has no input 2; it has 'a', 'b'"),
    "a negative index": ({0: A, -1: B}, r"the model has no input -1; it has 'a', 'b'"),
    "a key of another kind": ({"a": A, None: B}, r"the model has no input None; it has 'a', 'b'"),
    "twice the same": ({"a": A, "b": B, 0: A}, r"input 'a' is given twice, once as 0"),
    "unequal rows": ([A, B[:1]], r"inputs 'a' and 'b' differ in their number of rows: .*\(2, 3\) and \(1, 2, 2\)"),
    "a sample and rows": ([A[0], B], r"inputs 'a' and 'b' differ in their number of rows: .*\(3,\) and \(2, 2, 2\)"),
    "rows and a sample": ([A, B[0]], r"inputs 'a' and 'b' differ in their number of rows: .*\(2, 3\) and \(2, 2\)"),
    "a wrong rank": ([A, B[0, 0]], r"input 'b' has shape \(2,\); the model takes \(n, 2, 2\) or \(2, 2\) for one"),
    "swapped": ([B, A], r"input 'a' has shape \(2, 2, 2\); the model takes \(n, 3\)"),
}


@pytest.mark.parametrize("case", BAD_SETS)
def test_a_wrong_set_of_inputs_says_what_is_wrong(pair: ovengine.Model, case: str) -> None:
    inputs, text = BAD_SETS[case]
    before = pair.stats().rejections["invalid_input"]
    for call in (pair, pair.infer, pair.submit, pair.ainfer, pair.infer_rows):
        with pytest.raises(ovengine.InputError, match=text) as raised:
            call(inputs)
        assert isinstance(raised.value, ValueError)
    assert pair.stats().rejections["invalid_input"] == before + 5


def test_a_wrong_dtype_of_one_input_names_it(pair: ovengine.Model) -> None:
    with pytest.raises(ovengine.InputTypeError, match="input 'b' has dtype float32, which does not cast to int32"):
        pair([A, B.astype(np.float32)])


def test_a_list_is_one_value_per_input_and_says_so(doubled: ovengine.Model) -> None:
    with pytest.raises(ovengine.InputError, match=r"4 values for 1 inputs.*rows of one input go into one array"):
        doubled([1, 2, 3, 4])
    np.testing.assert_array_equal(doubled([[1, 2, 3, 4]])["y"], [2, 4, 6, 8])


def test_a_refused_input_leaves_nothing_behind_and_spoils_nothing(pair: ovengine.Model) -> None:
    # The second input is refused after the first was taken; requests before and after are whole.
    good = [pair.submit([np.full((1, 3), i, np.float32), np.full((1, 2, 2), i, np.int32)]) for i in range(10)]
    for _ in range(10):
        with pytest.raises(ovengine.InputError):
            pair.submit([A, B[:1]])
    good += [pair.submit([np.full((1, 3), i, np.float32), np.full((1, 2, 2), i, np.int32)]) for i in range(10)]
    assert [future.result()["total"].item() for future in good] == [i * 7.0 for i in [*range(10)] * 2]


def test_a_cast_that_raises_on_the_way_into_the_batch_spoils_nothing() -> None:
    with fake(1, 4, 16, service_time_us=1000) as model:
        for _ in range(3):
            good = [model.submit(np.full(4, i, np.float32)) for i in range(5)]
            with np.errstate(over="raise"):
                for call in (model, model.submit, model.infer_rows):
                    with pytest.raises(FloatingPointError):
                        call(np.full(4, 1e300))
            good += [model.submit(np.full(4, i, np.float32)) for i in range(5)]
            assert [float(future.result()["y"][0]) for future in good] == [i + 1.0 for i in [*range(5)] * 2]


def test_an_object_that_fails_to_become_an_array_raises_its_own_error(doubled: ovengine.Model) -> None:
    class Broken:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
            raise RuntimeError("no array today")

    with pytest.raises(RuntimeError, match="no array today"):
        doubled([Broken()])
    assert doubled(F32)["y"].shape == (3, 4)


def test_anything_with_an_array_is_an_input(doubled: ovengine.Model) -> None:
    class Tensor:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
            return F32

    np.testing.assert_array_equal(doubled([Tensor()])["y"], F32 * 2)
    np.testing.assert_array_equal(doubled(Tensor())["y"], F32 * 2)


# -- models with a whole shape ----------------------------------------------------------------------------------------


def test_a_model_without_a_batch_axis_takes_exactly_its_shape() -> None:
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    model = network({"x": ((3,), np.float32)}, lambda x: {"y": ops.reduce_sum(x, ops.constant(np.array([0])), False)})
    model.reshape([2, 3])
    with ready(ovengine.load(model, config=EXACT)) as whole:
        assert whole.plan.mode == "whole"
        for got in every_way(whole, rows):
            np.testing.assert_array_equal(got, rows.sum(axis=0))
        with pytest.raises(ovengine.InputError, match=r"input 'x' has shape \(3,\); the model takes \(2, 3\)"):
            whole(rows[0])
        with pytest.raises(ovengine.InputError, match=r"input 'x' has shape \(4, 3\); the model takes \(2, 3\)"):
            whole(np.zeros((4, 3), np.float32))


def test_a_model_with_dynamic_dimensions_takes_each_request_at_its_shape() -> None:
    model = network(
        {"x": ((-1, 3), np.float32)}, lambda x: {"y": ops.reduce_sum(x, ops.constant(np.array([2])), False)}
    )
    with ready(ovengine.load(model, config=EXACT)) as dynamic:
        assert dynamic.plan.mode == "dynamic"
        futures = {}
        for rows, length in [(1, 1), (2, 5), (3, 2), (1, 7)]:
            array = np.arange(rows * length * 3, dtype=np.float32).reshape(rows, length, 3)
            for arranged in (array, np.asfortranarray(array), array.astype(">f8"), array.astype(np.int16)):
                for got in every_way(dynamic, arranged):
                    np.testing.assert_array_equal(got, array.sum(axis=2))
            futures[rows, length] = dynamic.submit(array)
        for (rows, length), future in futures.items():
            assert future.result()["y"].shape == (rows, length)
        with pytest.raises(ovengine.InputError, match=r"has shape \(1, 2, 4\); the model takes \(\?, \?, 3\)"):
            dynamic(np.zeros((1, 2, 4), np.float32))
        with pytest.raises(ovengine.InputError, match=r"has shape \(2, 3\); the model takes \(\?, \?, 3\)"):
            dynamic(np.zeros((2, 3), np.float32))
