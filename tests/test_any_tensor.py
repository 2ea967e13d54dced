"""Whatever OpenVINO runs, ovengine runs: element types, ranks and shapes beside plain OpenVINO, in every way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

import ovengine
from support import EXACT, Array, each, in_threads

Request = list[Any]
"""One value per input: an array, or an `openvino.Tensor` where NumPy has no such element."""

NUMPY = ("boolean", "f16", "f32", "f64", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64")
BITS = ("bf16", "f8e4m3", "f8e5m2", "f8e8m0")
"""As large as a dtype of NumPy's, which shows their bits."""
PACKED = ("u2", "u4", "i4", "nf4", "f4e2m1")
"""Smaller than a byte: shown as packed bytes."""


@dataclass
class Case:
    """A model and requests that it takes in plain OpenVINO."""

    model: ov.Model
    requests: list[Request]


CASES: dict[str, Callable[[], Case]] = {}


def case(name: str) -> Callable[[Callable[[], Case]], Callable[[], Case]]:
    def add(build: Callable[[], Case]) -> Callable[[], Case]:
        CASES[name] = build
        return build

    return add


def element(name: str) -> ov.Type:
    return getattr(ov.Type, name)


def parameter(shape: Any, kind: str = "f32", name: str = "x") -> Any:
    node = ops.parameter(ov.PartialShape(shape), element(kind), name=name)
    node.output(0).set_names({name})
    return node


def model(results: Iterable[Any], parameters: list[Any]) -> ov.Model:
    outputs = []
    for index, node in enumerate(results):
        outputs.append(ops.result(node))
        node_output = outputs[-1].input_value(0)
        if not node_output.get_names():
            node_output.set_names({f"y{index}"})
    return ov.Model(outputs, parameters, "case")


def floats(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(-8, 9, shape).astype(np.float32)


def values(kind: str, shape: tuple[int, ...], seed: int = 0) -> Any:
    """An `openvino.Tensor` of any numbers of that element type; an array where NumPy has it."""
    rng = np.random.default_rng(seed)
    if kind == "boolean":
        return rng.integers(0, 2, shape).astype(bool)
    if kind == "string":
        words = np.array(["", "a", "zwölf Boxkämpfer", "x" * 100, "日本"])
        return rng.choice(words, shape)
    dtype = element(kind).to_dtype()
    if kind in NUMPY:
        return rng.integers(0, 9, shape).astype(dtype)
    size = (int(np.prod(shape)) * element(kind).bitwidth + 7) // 8
    raw = rng.integers(0, 128, size).astype(np.uint8)
    if kind == "bf16":
        raw = rng.integers(-8, 9, shape).astype(np.float32).view(np.uint32).__rshift__(16).astype(np.uint16)
    return ov.Tensor(raw.view(dtype), ov.Shape(shape), element(kind))


# -- element types ----------------------------------------------------------------------------------------------------


def element_types(kind: str) -> None:
    @case(f"{kind}, as it is")
    def _() -> Case:
        x = parameter([2, 8], kind)
        return Case(model([x], [x]), [[values(kind, (2, 8), seed)] for seed in range(3)])

    @case(f"{kind}, one row")
    def _() -> Case:
        x = parameter([1, 8], kind)
        return Case(model([x], [x]), [[values(kind, (1, 8), seed)] for seed in range(3)])

    @case(f"{kind}, of any number of rows")
    def _() -> Case:
        x = parameter([-1, 8], kind)
        return Case(model([x], [x]), [[values(kind, (rows, 8), rows)] for rows in (1, 3, 2)])

    @case(f"{kind}, of any shape")
    def _() -> Case:
        x = parameter([-1, -1], kind)
        return Case(model([x], [x]), [[values(kind, shape, 1)] for shape in ((1, 8), (3, 4), (2, 2))])

    if kind == "string":
        return

    @case(f"{kind} to f32")
    def _() -> Case:
        x = parameter([2, 8], kind)
        return Case(model([ops.convert(x, "f32")], [x]), [[values(kind, (2, 8), seed)] for seed in range(3)])

    @case(f"{kind} of any shape to f32, and i32 as it is")
    def _() -> Case:
        x, n = parameter([-1, 4], kind), parameter([-1], "i32", "n")
        requests = [[values(kind, (rows, 4), rows), np.arange(rows, dtype=np.int32)] for rows in (2, 4)]
        return Case(model([ops.convert(x, "f32"), n], [x, n]), requests)

    @case(f"f32 to {kind}")
    def _() -> Case:
        x = parameter([2, 8])
        return Case(model([ops.convert(x, kind)], [x]), [[floats(2, 8, seed=seed) / 8] for seed in range(3)])


for kind in (*NUMPY, *BITS, *PACKED, "string"):
    element_types(kind)


# -- ranks and sizes --------------------------------------------------------------------------------------------------


@case("scalar in, scalar out")
def _() -> Case:
    x = parameter([])
    return Case(model([ops.multiply(x, ops.constant(np.float32(2)))], [x]), [[np.array(v, np.float32)] for v in (3, 4)])


@case("scalar beside rows")
def _() -> Case:
    x, k = parameter([-1, 4]), parameter([], name="k")
    requests = [[floats(n, 4), np.array(n, np.float32)] for n in (1, 5, 2)]
    return Case(model([ops.multiply(x, k)], [x, k]), requests)


@case("rows, and their sum as a scalar")
def _() -> Case:
    x = parameter([-1, 4])
    total = ops.reduce_sum(x, ops.constant(np.array([0, 1])), False)
    return Case(model([ops.relu(x), total], [x]), [[floats(n, 4)] for n in (1, 5, 2)])


@case("a string scalar")
def _() -> Case:
    x = parameter([], "string")
    return Case(model([x], [x]), [[np.array("hello")], [np.array("")]])


@case("six dimensions")
def _() -> Case:
    x = parameter([1, 2, 1, 3, 1, 2])
    return Case(
        model([ops.transpose(x, ops.constant(np.array([0, 5, 4, 3, 2, 1])))], [x]), [[floats(1, 2, 1, 3, 1, 2)]]
    )


@case("no elements, static")
def _() -> Case:
    x = parameter([0, 3])
    return Case(model([ops.relu(x)], [x]), [[floats(0, 3)]])


@case("rows of no elements")
def _() -> Case:
    x = parameter([-1, 0])
    return Case(model([ops.relu(x)], [x]), [[floats(n, 0)] for n in (1, 3)])


@case("one row of no elements")
def _() -> Case:
    x = parameter([1, 0])
    return Case(model([ops.relu(x)], [x]), [[floats(1, 0)]])


@case("no rows among rows")
def _() -> Case:
    x = parameter([-1, 3])
    return Case(model([ops.multiply(x, ops.constant(np.float32(2)))], [x]), [[floats(n, 3)] for n in (0, 2, 0, 1)])


@case("no elements now and then")
def _() -> Case:
    x = parameter([-1, -1])
    requests = [[floats(*shape)] for shape in ((2, 3), (0, 3), (2, 0), (0, 0), (1, 4))]
    return Case(model([ops.multiply(x, ops.constant(np.float32(2)))], [x]), requests)


@case("the sum of no elements")
def _() -> Case:
    x = parameter([-1, -1])
    total = ops.reduce_sum(x, ops.constant(np.array([1])), False)
    return Case(model([total], [x]), [[floats(*shape)] for shape in ((2, 0), (2, 3), (0, 2))])


@case("dimensions with bounds")
def _() -> Case:
    x = parameter("[1..4,2..3]")
    return Case(model([ops.relu(x)], [x]), [[floats(*shape)] for shape in ((1, 2), (4, 3), (2, 3))])


# -- shapes that depend on values, and models without inputs ----------------------------------------------------------


@case("where it is not zero")
def _() -> Case:
    x = parameter([-1, 3])
    requests = [[floats(4, 3).clip(0)], [np.zeros((2, 3), np.float32)], [np.eye(3, dtype=np.float32)]]
    return Case(model([ops.non_zero(x, "i64")], [x]), requests)


@case("where it is not zero, of a static input")
def _() -> Case:
    x = parameter([1, 6])
    return Case(model([ops.non_zero(x, "i64")], [x]), [[floats(1, 6, seed=seed).clip(0)] for seed in range(4)])


def suppressed(boxes: Any, scores: Any) -> ov.Model:
    kept = ops.non_max_suppression(
        boxes, scores, ops.constant(np.int64(5)), ops.constant(np.float32(0.3)), ops.constant(np.float32(0.2))
    )
    return model([kept.output(index) for index in range(3)], [boxes, scores])


def boxes_and_scores(count: int, seed: int) -> Request:
    rng = np.random.default_rng(seed)
    low = rng.random((1, count, 2))
    boxes = np.concatenate([low, low + rng.random((1, count, 2)) / 2], 2)
    return [boxes.astype(np.float32), rng.random((1, 1, count)).astype(np.float32)]


@case("non-maximum suppression")
def _() -> Case:
    found = suppressed(parameter([1, 10, 4], name="boxes"), parameter([1, 1, 10], name="scores"))
    return Case(found, [boxes_and_scores(10, seed) for seed in range(4)])


@case("non-maximum suppression of any number of boxes")
def _() -> Case:
    found = suppressed(parameter([1, -1, 4], name="boxes"), parameter([1, 1, -1], name="scores"))
    return Case(found, [boxes_and_scores(count, count) for count in (10, 1, 30, 10)])


@case("a new shape from an input's values")
def _() -> Case:
    x, shape = parameter([-1]), parameter([2], "i64", "shape")
    requests = [[floats(6), np.array(to, np.int64)] for to in ((2, 3), (6, 1), (3, -1))]
    return Case(model([ops.reshape(x, shape, False)], [x, shape]), requests)


@case("no inputs")
def _() -> Case:
    return Case(model([ops.relu(ops.constant(floats(2, 3)))], []), [[]])


@case("no inputs, a scalar")
def _() -> Case:
    return Case(model([ops.relu(ops.constant(np.float32(7)))], []), [[]])


# -- outputs that are an input, or each other ------------------------------------------------------------------------


def same_node(rows: int, build: Callable[[Any], list[Any]]) -> Case:
    x = parameter([rows, 3])
    counts = [rows] * 3 if rows > 0 else [1, 4, 2]
    return Case(model(build(x), [x]), [[floats(count, 3, seed=seed)] for seed, count in enumerate(counts)])


def relu_twice(x: Any) -> list[Any]:
    positive = ops.relu(x)
    return [positive, positive]


for rows in (1, 2, -1):
    for text, build in {
        "an input passed through, and more": lambda x: [ops.relu(x), x],
        "an input passed through twice": lambda x: [x, x],
        "one output twice": relu_twice,
        "an input plus nothing, and the input": lambda x: [ops.add(x, ops.constant(np.float32(0))), x],
        "an input converted to its own type": lambda x: [ops.convert(x, "f32"), ops.relu(x)],
        "an output and its reshape": lambda x: [ops.relu(x), ops.reshape(ops.relu(x), ops.constant([-1, 3, 1]), False)],
        "a constant beside rows": lambda x: [ops.relu(x), ops.constant(floats(2, 2))],
    }.items():
        CASES[f"{text}, {rows} rows"] = partial(same_node, rows, build)


# -- the table --------------------------------------------------------------------------------------------------------


def plain(compiled: ov.CompiledModel, request: Request) -> list[Array]:
    # A copy: where an output is an input, OpenVINO writes to the arrays that it was given before.
    found = compiled([np.copy(value) if isinstance(value, np.ndarray) else value for value in request])
    return [np.array(found[index]) for index in range(len(compiled.outputs))]


def every_way(model: ovengine.Model, request: Request) -> Iterator[ovengine.Result]:
    yield model(request)
    yield from [future.result() for future in [model.submit(request) for _ in range(3)]]
    yield model.submit(request, share_inputs=True).result()
    yield model.infer_rows(request)
    yield from model.map([request, request])
    yield from asyncio.run(gathered(model, request))
    if model.plan.mode != "dynamic" and all(np.shape(value)[:1] != (0,) for value in request):
        yield leased(model, request)


async def gathered(model: ovengine.Model, request: Request) -> list[ovengine.Result]:
    return await asyncio.gather(*[_awaited(model.ainfer(request)) for _ in range(2)])


async def _awaited(future: ovengine.Future) -> ovengine.Result:
    return await future


def leased(model: ovengine.Model, request: Request) -> ovengine.Result:
    arrays = [value.data if isinstance(value, ov.Tensor) else value for value in request]
    rows = len(arrays[0]) if arrays and model.plan.mode == "rows" else 1
    if rows > model.plan.ladder[-1]:
        return model(request)
    with model.lease(rows) as lease:
        for index, array in enumerate(arrays):
            lease[index][...] = array
        return lease.submit().result()


def assert_same(result: ovengine.Result, expected: list[Array]) -> None:
    assert len(result) == len(expected)
    for index, array in enumerate(expected):
        got = result[index]
        assert got.shape == array.shape
        if array.dtype.kind != "U":  # of which OpenVINO's is as long as the longest text, or a float when there is none
            assert got.dtype == array.dtype
        np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize("name", CASES)
def test_the_same_values_as_plain_openvino_in_every_way(name: str) -> None:
    case = CASES[name]()
    compiled = ov.Core().compile_model(case.model, "CPU", EXACT)
    expected = [plain(compiled, request) for request in case.requests]
    with ovengine.load(case.model, config=EXACT) as model:
        for request, outputs in zip(case.requests, expected, strict=True):
            for result in every_way(model, request):
                assert_same(result, outputs)

        def hammer(first: int) -> None:
            numbers = [(first + step) % len(expected) for step in range(12)]
            futures = [model.submit(case.requests[number]) for number in numbers]
            for number, future in zip(numbers, futures, strict=True):
                assert_same(future.result(), expected[number])

        before = [np.copy(value) for request in case.requests for value in request if isinstance(value, np.ndarray)]
        in_threads(each(hammer, range(4)))
        for request in case.requests:
            for value in request:
                if isinstance(value, np.ndarray):
                    np.testing.assert_array_equal(value, before.pop(0))  # the caller's arrays are left as they are


# -- what is refused --------------------------------------------------------------------------------------------------


def loaded(kind: str, shape: list[int]) -> ovengine.Model:
    x = parameter(shape, kind)
    return ovengine.load(model([x], [x]), config=EXACT)


@pytest.mark.parametrize("kind", ["bf16", "f8e4m3"])
def test_bits_are_not_cast(kind: str) -> None:
    with loaded(kind, [2, 4]) as model:
        for array in (np.zeros((2, 4), np.float32), np.zeros((2, 4), np.int64), [[0.0] * 4] * 2):
            with pytest.raises(
                ovengine.InputTypeError, match=f"takes {kind}, which NumPy does not have: pass its bits"
            ):
                model([array])
        with pytest.raises(ovengine.InputTypeError, match=f"takes {kind}, not a tensor of f32"):
            model([ov.Tensor(np.zeros((2, 4), np.float32))])
        with pytest.raises(ovengine.InputError, match=r"has shape \(4, 2\); the model takes \(2, 4\)"):
            model(values(kind, (4, 2)).data)


def test_bits_do_not_pass_for_numbers() -> None:
    with loaded("f32", [2, 4]) as model:
        with pytest.raises(ovengine.InputTypeError, match="takes f32, not a tensor of bf16"):
            model([values("bf16", (2, 4))])
        np.testing.assert_array_equal(model([ov.Tensor(floats(2, 4))])[0], floats(2, 4))


def test_packed_bytes_need_a_shape() -> None:
    with loaded("u4", [2, 4]) as model:
        raw = np.array([0x21, 0x43, 0x65, 0x07], np.uint8)
        np.testing.assert_array_equal(model(raw)[0], raw)
        for wrong in (raw[:3], raw.reshape(2, 2)):
            with pytest.raises(
                ovengine.InputError, match=r"the model takes u4\(2, 4\) as packed bytes in one dimension"
            ):
                model(wrong)
    with loaded("u4", [-1, 4]) as model:
        with pytest.raises(ovengine.InputError, match=r"of a dynamic shape, .* pass an openvino.Tensor"):
            model(raw)
        with pytest.raises(ovengine.InputError, match=r"has shape \(4, 2\); the model takes u4\(\?, 4\)"):
            model([ov.Tensor(raw, ov.Shape([4, 2]), ov.Type.u4)])


def test_text_is_text() -> None:
    with loaded("string", [-1]) as model:
        for array in (["a", "b"], np.array(["a", "b"]), np.array([b"a", b"b"]), np.array(["a", "b"], object)):
            assert model([array])[0].tolist() == ["a", "b"]
        with pytest.raises(ovengine.InputTypeError, match="takes text"):
            model(np.zeros(2))
        with pytest.raises(ovengine.InputTypeError, match="takes text"):
            model(np.array(["a", 1], object))
        with pytest.raises(ovengine.InputError, match=r"has shape \(1, 1\)"):
            model(np.array([["a"]]))
