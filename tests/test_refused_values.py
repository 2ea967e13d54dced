"""An operator that refuses the values of one request: that request gets the error, and all others right results.

OpenVINO's `infer()` discards such an error where it runs one stream of one thread, and the outputs keep old results.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

import ovengine
from ovengine import compat
from support import EXACT, PATIENCE, Array, each, in_threads, ready

ONE_THREAD = {**EXACT, "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1}
INT = np.int32


class Case(NamedTuple):
    """`build(rows, width)` makes the model, `good(k)` and `bad(k)` the inputs of one row, which k tells apart."""

    build: Callable[[int, int], ov.Model]
    good: Callable[[int], list[Array]]
    bad: Callable[[int], list[Array]]


def model_of(build: Callable[..., Any], *inputs: tuple[list[int], Any]) -> ov.Model:
    parameters = [ops.parameter(shape, dtype, name=f"in{i}") for i, (shape, dtype) in enumerate(inputs)]
    for i, parameter in enumerate(parameters):
        parameter.output(0).set_names({f"in{i}"})
    y = build(*parameters)
    y.output(0).set_names({"y"})
    return ov.Model([ops.result(y.output(0))], parameters, "refusing")


def row(k: int, width: int = 4) -> Array:
    return np.arange(width, dtype=np.float32)[None] + 10 * k


def reverse(rows: int, width: int) -> ov.Model:
    return model_of(lambda x, n: ops.reverse_sequence(x, n, 0, 1), ([rows, width], np.float32), ([rows], INT))


def gather_elements(rows: int, width: int) -> ov.Model:
    return model_of(lambda x, i: ops.gather_elements(x, i, 1), ([rows, width], np.float32), ([rows, 2], INT))


def scatter_elements(rows: int, width: int) -> ov.Model:
    axis = ops.constant(np.array(1, INT))
    ports = ([rows, width], np.float32), ([rows, 1], INT), ([rows, 1], np.float32)
    return model_of(lambda x, i, u: ops.scatter_elements_update(x, i, u, axis), *ports)


def embedding_bag(rows: int, width: int) -> ov.Model:
    table = ops.constant(np.arange(40, dtype=np.float32).reshape(20, 2))
    return model_of(lambda i: ops.embedding_bag_packed_sum(table, i), ([rows, width], INT))


def decoder(rows: int, width: int) -> ov.Model:
    blank = ops.constant(np.array(4, INT))
    ports = ([rows, width, 5], np.float32), ([rows], INT)
    return model_of(lambda x, n: ops.ctc_greedy_decoder_seq_len(x, n, blank), *ports)


def likely(k: int) -> Array:
    """Probabilities of 5 classes at 4 places."""
    return np.eye(5, dtype=np.float32)[[k % 4, (k + 1) % 4, 4, k % 3]][None]


CASES = {
    "reverse": Case(reverse, lambda k: [row(k), np.array([3], INT)], lambda k: [row(k), np.array([9], INT)]),
    "gather": Case(
        gather_elements,
        lambda k: [row(k), np.array([[k % 4, 3]], INT)],
        lambda k: [row(k), np.array([[0, 9]], INT)],
    ),
    "scatter": Case(
        scatter_elements,
        lambda k: [row(k), np.array([[k % 4]], INT), row(k, 1)],
        lambda k: [row(k), np.array([[9]], INT), row(k, 1)],
    ),
    "embedding": Case(
        embedding_bag,
        lambda k: [np.array([[k % 20, (3 * k) % 20, 1, 2]], INT)],
        lambda k: [np.array([[1, 2, 3, 99]], INT)],
    ),
    "decoder": Case(
        decoder, lambda k: [likely(k), np.array([1 + k % 4], INT)], lambda k: [likely(k), np.array([9], INT)]
    ),
}
COUNT, BAD = 64, (20, 21, 40)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(params=[-1, 1], ids=["any rows", "one row"])
def model(request: pytest.FixtureRequest, case: Case) -> Iterator[ovengine.Model]:
    with ovengine.load(case.build(request.param, 4), config=EXACT, batch_sizes=[1, 4, 16]) as model:
        yield ready(model)


def inputs_of(case: Case) -> list[list[Array]]:
    return [case.bad(k) if k in BAD else case.good(k) for k in range(COUNT)]


def right(case: Case) -> list[Array | None]:
    """What plain OpenVINO answers in its default configuration; None where it raises an error."""
    request = ov.Core().compile_model(case.build(1, 4), "CPU", EXACT).create_infer_request()
    answers: list[Array | None] = []
    for inputs in inputs_of(case):
        try:
            answers.append(np.array(request.infer(inputs)[0]))
        except RuntimeError:
            answers.append(None)
    assert [k for k, answer in enumerate(answers) if answer is None] == list(BAD)
    return answers


def check(case: Case, ask: Callable[[int, list[Array]], Any]) -> None:
    """`ask` gets the number of a request and its inputs, and returns its answer or raises."""
    for k, (inputs, wanted) in enumerate(zip(inputs_of(case), right(case), strict=True)):
        if wanted is None:
            with pytest.raises(ovengine.InferenceError, match=r"refusing|inference"):
                ask(k, inputs)
        else:
            np.testing.assert_array_equal(np.asarray(ask(k, inputs)), wanted, err_msg=f"request {k}")


def test_rows_of_a_batch(model: ovengine.Model, case: Case) -> None:
    for _ in range(3):
        futures = [model.submit(inputs) for inputs in inputs_of(case)]
        check(case, lambda k, _: futures[k].result(PATIENCE)["y"])  # noqa: B023  # called in this turn of the loop


def test_one_request_after_the_other(model: ovengine.Model, case: Case) -> None:
    for _ in range(3):
        check(case, lambda _, inputs: model(inputs)["y"])


def test_rows_in_bulk(model: ovengine.Model, case: Case) -> None:
    rows = inputs_of(case)
    stacked = [np.concatenate(arrays) for arrays in zip(*rows, strict=True)]
    with pytest.raises(ovengine.InferenceError, match="refusing") as failure:
        model.infer_rows(stacked)
    assert any(f"failed: row {k}: " in str(failure.value) for k in BAD)
    only = [array[: BAD[0] + 1] for array in stacked]
    with pytest.raises(ovengine.InferenceError, match=f"failed: row {BAD[0]}: "):
        model.infer_rows(only)
    good = [k for k in range(COUNT) if k not in BAD]
    wanted = [answer for answer in right(case) if answer is not None]
    found = model.infer_rows([array[good] for array in stacked])["y"]
    np.testing.assert_array_equal(found, np.concatenate(wanted))


def test_from_many_threads(model: ovengine.Model, case: Case) -> None:
    wanted = right(case)

    def ask(k: int) -> None:
        for _ in range(5):
            if wanted[k] is None:
                with pytest.raises(ovengine.InferenceError):
                    model(inputs_of(case)[k])
            else:
                np.testing.assert_array_equal(model(inputs_of(case)[k])["y"], wanted[k])

    in_threads(each(ask, range(18, 24)))


def test_sessions(case: Case) -> None:
    with ovengine.load(case.build(1, 4), config=EXACT) as model, model.session() as session:
        check(case, lambda _, inputs: session(inputs)["y"])


def test_shapes_that_are_compiled_for_themselves(case: Case) -> None:
    with ovengine.load(case.build(-1, -1), config=EXACT) as model:
        for _ in range(3):  # on the dynamic model, and then on one of its own
            check(case, lambda _, inputs: model(inputs)["y"])
            model.wait_ready(PATIENCE)
            futures = [model.submit(inputs) for inputs in inputs_of(case)]
            check(case, lambda k, _: futures[k].result(PATIENCE)["y"])  # noqa: B023  # called in this turn of the loop


@pytest.mark.parametrize("how", ["compiled model", "blob"])
def test_models_that_are_compiled_already_for_one_thread(case: Case, how: str) -> None:
    compiled = ov.Core().compile_model(case.build(1, 4), "CPU", ONE_THREAD)
    if how == "blob":
        with ovengine.load(compiled.export_model().getvalue(), config=ONE_THREAD) as model:
            check(case, lambda _, inputs: model(inputs)["y"])
        return
    answers: dict[int, Any] = {}
    queue = compat.AsyncInferQueue(compiled, 2)
    queue.set_callback(lambda request, k: answers.__setitem__(k, np.array(request.get_output_tensor().data)))
    for k, inputs in enumerate(inputs_of(case)):
        queue.start_async(dict(enumerate(inputs)), k)
    with pytest.raises(RuntimeError):
        queue.wait_all()
    for k, wanted in enumerate(right(case)):
        assert (k in answers) == (wanted is not None)
        if wanted is not None:
            np.testing.assert_array_equal(answers[k], wanted)


# -- models whose shapes depend on values -----------------------------------------------------------------------------


def total(node: Any, rank: int) -> Any:
    return ops.reduce_sum(node, ops.constant(np.arange(rank)), False)


def sizes(rank: int = 2) -> tuple[list[int], Any]:
    return [rank], np.int64


VALUES: dict[str, tuple[Callable[[], ov.Model], list[int], list[int], float]] = {
    "reshape": (
        lambda: model_of(lambda x, k: total(ops.reshape(x, k, False), 2), ([6], np.float32), sizes()),
        [2, 3],
        [4, 4],
        6,
    ),
    "broadcast": (
        lambda: model_of(lambda x, k: total(ops.broadcast(x, k), 2), ([1, 3], np.float32), sizes()),
        [2, 3],
        [4, 5],
        6,
    ),
    "interpolate": (
        lambda: model_of(
            lambda x, k: total(
                ops.interpolate(x, k, "nearest", "sizes", axes=ops.constant(np.array([2, 3]))),
                4,
            ),
            ([1, 1, 4, 4], np.float32),
            sizes(),
        ),
        [8, 8],
        [-2, 8],
        64,
    ),
    "split": (
        lambda: model_of(
            lambda x, k: total(ops.variadic_split(x, ops.constant(np.array(1)), k).output(0), 2),
            ([1, 6], np.float32),
            sizes(),
        ),
        [2, 4],
        [5, 4],
        2,
    ),
    "top k": (
        lambda: model_of(
            lambda x, k: total(
                ops.topk(x, ops.squeeze(k, ops.constant(np.array([0]))), 1, "max", "value").output(0), 2
            ),
            ([1, 3], np.float32),
            sizes(1),
        ),
        [2],
        [9],
        2,
    ),
}


@pytest.mark.parametrize("name", VALUES)
def test_sizes_that_do_not_fit_fail_each_time_they_come(name: str) -> None:
    build, good, bad, wanted = VALUES[name]
    source = build()
    shape = tuple(int(length) for length in source.input(0).shape)
    x = np.ones(shape, np.float32)
    assert math.prod(shape) >= 3
    with ovengine.load(source, config=EXACT) as model:
        for _ in range(3):
            assert model([x, np.array(good)])["y"] == wanted
            for _ in range(2):
                with pytest.raises(ovengine.InferenceError):
                    model([x, np.array(bad)])


# -- which models keep the short cut ----------------------------------------------------------------------------------


def test_a_model_that_cannot_refuse_values_keeps_the_short_cut() -> None:
    # It saves a tiny model a third of its time.
    runtime = ovengine.Engine().runtime
    x = ops.parameter([1, 4], np.float32, name="x")
    harmless = ops.softmax(ops.relu(ops.matmul(x, ops.constant(np.eye(4, dtype=np.float32)), False, False)), 1)
    for model, streams in ((ov.Model([ops.result(harmless)], [x], "m"), 1), (reverse(1, 4), 0)):
        compiled = runtime.compile(runtime.adopt(model), "CPU", ONE_THREAD)
        assert compiled.property("NUM_STREAMS") == streams
        again = runtime.import_blob(compiled.export(), "CPU", ONE_THREAD)
        assert again.property("NUM_STREAMS") == streams
