"""Every row its own result: random models and traffic, compared with plain OpenVINO."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov
import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st
from openvino import opset13 as ops

import ovengine
from support import EXACT, PATIENCE, Array, in_threads, network, ready, reference

# What may be cast to a dtype by the rule same_kind, besides itself.
CASTS = {
    "float32": ["float64", "float16", "int16", "uint8", "bool", ">f4"],
    "float64": ["float32", "int64", ">f8"],
    "float16": ["float32", "float64", "int8"],
    "int32": ["int64", "int8", "uint16", "bool", ">i4"],
    "int64": ["int32", "uint8", ">i8"],
    "uint8": ["bool", "uint16", "uint64"],
    "int8": ["int64", "uint8"],
    "bool": [],
}


SOURCES = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", ">i2", ">i8", ">f4", ">f8", ">u4"]


@dataclass(frozen=True)
class InputSpec:
    """One input of a random model."""

    row: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class ModelSpec:
    """A random model: each output is made of all or some inputs, row by row."""

    inputs: tuple[InputSpec, ...]
    outputs: tuple[tuple[str, tuple[int, ...]], ...]  # kind, and the inputs that it is made of
    seed: int

    def build(self) -> ov.Model:
        """The model, batch axis dynamic; outputs of f32, i32 and of rows of several ranks."""
        rng = np.random.default_rng(self.seed)

        def outputs(*nodes: Any) -> dict[str, Any]:
            flat = []
            for node, spec in zip(nodes, self.inputs, strict=True):
                width = int(np.prod(spec.row))
                flat.append((ops.reshape(ops.convert(node, "f32"), ops.constant([-1, width]), False), width))
            made = {}
            for index, (kind, sources) in enumerate(self.outputs):
                joined = ops.concat([flat[i][0] for i in sources], 1)
                width = sum(flat[i][1] for i in sources)
                made[f"y{index}"] = self._output(kind, joined, width, rng)
            return made

        return network(
            {f"x{index}": (spec.row, np.dtype(spec.dtype)) for index, spec in enumerate(self.inputs)}, outputs
        )

    @staticmethod
    def _output(kind: str, joined: Any, width: int, rng: np.random.Generator) -> Any:
        if kind == "dense":
            weights = rng.standard_normal((width, 5)).astype(np.float32) / 8
            return ops.relu(ops.matmul(joined, ops.constant(weights), False, False))
        if kind == "scale":
            return ops.reshape(ops.multiply(joined, ops.constant(np.float32(3))), ops.constant([-1, 1, width]), False)
        if kind == "sum":
            return ops.reduce_sum(joined, ops.constant(np.array([1])), False)
        if kind == "softmax":
            return ops.softmax(ops.multiply(joined, ops.constant(np.float32(0.01))), 1)
        assert kind == "integers"
        return ops.convert(ops.floor(joined), "i32")


specs = st.builds(
    ModelSpec,
    inputs=st.lists(
        st.builds(
            InputSpec,
            row=st.sampled_from([(), (1,), (3,), (4,), (17,), (2, 3), (1, 4, 2), (300,)]),
            dtype=st.sampled_from(
                ["float32", "float32", "float64", "float16", "int32", "int64", "uint8", "int8", "bool"]
            ),
        ),
        min_size=1,
        max_size=3,
    ).map(tuple),
    outputs=st.lists(st.sampled_from(["dense", "scale", "sum", "softmax", "integers"]), min_size=1, max_size=3).map(
        lambda kinds: tuple((kind, ()) for kind in kinds)
    ),
    seed=st.integers(0, 2**16),
).map(
    # Which inputs an output is made of depends on how many there are: the first of all, the others of a part.
    lambda spec: ModelSpec(
        spec.inputs,
        tuple(
            (kind, tuple(range(len(spec.inputs))) if i == 0 else (i % len(spec.inputs),))
            for i, (kind, _) in enumerate(spec.outputs)
        ),
        spec.seed,
    )
)

loads = st.fixed_dictionaries(
    {
        "batcher": st.sampled_from(["adaptive", "fixed", "fixed", "none"]),
        "max_batch_size": st.sampled_from([7, 16, 4, 2]),
        "scheduler": st.sampled_from(["priority", "round_robin"]),
        "hint": st.sampled_from(["latency", "throughput"]),
        "max_queue_delay_us": st.sampled_from([None, None, 0, 200]),
    }
)

WAYS = ["call", "submit", "share", "bulk", "lease", "await", "cancel", "drop", "callback"]
Request = tuple[str, int, int]  # way, rows (0: a single sample), seed
traffic = st.lists(
    st.lists(
        st.tuples(st.sampled_from(WAYS), st.sampled_from([0, 1, 2, 3, 5, 8, 16, 33, 70]), st.integers(0, 2**16)),
        min_size=1,
        max_size=12,
    ),
    min_size=1,
    max_size=4,
)


def make_inputs(spec: ModelSpec, rows: int, seed: int) -> tuple[list[Array], list[Array]]:
    """Random inputs as the model computes with them, and as some user might pass them."""
    rng = np.random.default_rng(seed)
    exact, passed = [], []
    for port in spec.inputs:
        shape = port.row if rows == 0 else (rows, *port.row)
        source = rng.choice([port.dtype, *CASTS[port.dtype]])
        values = rng.integers(0, 2 if np.dtype(source) == bool or port.dtype == "bool" else 100, shape)
        array = np.asarray(values).astype(source)
        exact.append(array.astype(port.dtype))
        passed.append(arranged(array, int(rng.integers(5))))
    return exact, passed


def arranged(array: Array, how: int) -> Array:
    """The same values in memory of another layout."""
    if array.ndim == 0 or how == 0:
        return array
    if how == 1:
        return np.asfortranarray(array)
    if how == 2:
        return np.repeat(array, 2, axis=array.ndim - 1)[..., ::2]
    array = array[::-1].copy()[::-1]
    array.flags.writeable = False
    return array


class Traffic:
    """What one thread does with the model, and what it expects."""

    def __init__(self, model: ovengine.Model, spec: ModelSpec, run: Callable[..., dict[str, Array]]) -> None:
        self.model = model
        self.spec = spec
        self.run = run
        self.pending: list[tuple[ovengine.Future, list[Array], int]] = []
        self.called: list[ovengine.Future] = []

    def serve(self, requests: list[Request]) -> None:
        for way, rows, seed in requests:
            # A model that cannot be batched for certain (an output that never changes, say) has no single samples.
            rows = rows if self.model.plan.mode == "rows" else max(rows, 1)
            exact, passed = make_inputs(self.spec, rows, seed)
            getattr(self, way)(exact, passed, rows)
        for future, exact, rows in self.pending:
            self.check(future.result(PATIENCE), exact, rows)

    def check(self, result: ovengine.Result, exact: list[Array], rows: int) -> None:
        expected = self.run(*(array[None] if rows == 0 else array for array in exact))
        assert list(result) == list(expected)
        for name, values in expected.items():
            wanted = values[0] if rows == 0 else values
            assert result[name].shape == wanted.shape
            assert result[name].dtype == wanted.dtype
            np.testing.assert_allclose(result[name], wanted, rtol=1e-5, atol=1e-5)

    def call(self, exact: list[Array], passed: list[Array], rows: int) -> None:
        self.check(self.model(passed), exact, rows)

    def submit(self, exact: list[Array], passed: list[Array], rows: int) -> None:
        self.pending.append((self.model.submit(passed), exact, rows))
        for array in passed:  # it is the caller's again
            if array.flags.writeable:
                array[...] = 1

    def share(self, exact: list[Array], passed: list[Array], rows: int) -> None:
        self.pending.append((self.model.submit(passed, share_inputs=True), exact, rows))

    def bulk(self, exact: list[Array], passed: list[Array], rows: int) -> None:
        self.check(self.model.infer_rows({f"x{i}": array for i, array in enumerate(passed)}), exact, rows)

    def lease(self, exact: list[Array], passed: list[Array], rows: int) -> None:
        if self.model.plan.mode != "rows" or not 1 <= rows <= self.model.plan.ladder[-1]:
            return self.submit(exact, passed, rows)
        with self.model.lease(rows) as lease:
            for i, array in enumerate(exact):
                lease[i][...] = array
            # Lost when this thread is off the processor for longer than a batch waits.
            with contextlib.suppress(ovengine.LeaseLost):
                self.pending.append((lease.submit(), exact, rows))
        return None

    def cancel(self, exact: list[Array], passed: list[Array], rows: int) -> None:
        future = self.model.submit(passed)
        if not future.cancel():
            self.pending.append((future, exact, rows))

    def drop(self, exact: list[Array], passed: list[Array], rows: int) -> None:
        self.model.submit(passed)

    def callback(self, exact: list[Array], passed: list[Array], rows: int) -> None:
        future = self.model.submit(passed)
        future.add_done_callback(self.called.append)
        self.pending.append((future, exact, rows))


def _await(self: Traffic, exact: list[Array], passed: list[Array], rows: int) -> None:
    async def body() -> None:
        results = await asyncio.gather(*(self.model.ainfer(passed) for _ in range(3)))
        for result in results:
            self.check(result, exact, rows)

    asyncio.run(asyncio.wait_for(body(), PATIENCE))


setattr(Traffic, "await", _await)


@pytest.mark.timeout(300)
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],  # an example costs up to a second: too much to shrink one by the hundred
)
@given(spec=specs, load=loads, threads=traffic)
def test_every_row_gets_what_openvino_gives_it(
    spec: ModelSpec, load: dict[str, Any], threads: list[list[Request]]
) -> None:
    model = spec.build()
    with ready(ovengine.load(model, config=EXACT, **load)) as loaded:
        event(f"mode {loaded.plan.mode}, ladder {loaded.plan.ladder}")
        workers = [Traffic(loaded, spec, reference(model)) for _ in threads]
        in_threads(
            [functools.partial(worker.serve, requests) for worker, requests in zip(workers, threads, strict=True)]
        )


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_casts_are_numpys(data: st.DataObject) -> None:
    target = data.draw(st.sampled_from([dtype for dtype in CASTS if dtype != "bool"]))
    source = data.draw(st.sampled_from(SOURCES))
    values = data.draw(
        st.lists(st.integers(-(2**40), 2**40) if "f" in source else st.integers(-128, 255), min_size=6, max_size=6)
    )
    with np.errstate(all="ignore"):
        array = np.array(values).astype(source).reshape(3, 2)
        model, expected = identity(target)
        if np.can_cast(array.dtype, target, "same_kind"):
            # Cast by NumPy; what OpenVINO makes of it (it computes f64 in f32, i64 in i32) is its own affair.
            wanted = expected(array.astype(target))["y"]
            np.testing.assert_array_equal(model(array)["y"], wanted)
            np.testing.assert_array_equal(model(array[0])["y"], wanted[0])
        else:
            with pytest.raises(ovengine.InputTypeError):
                model(array)


@functools.cache
def identity(dtype: str) -> tuple[ovengine.Model, Callable[..., dict[str, Array]]]:
    """A model that gives back its rows, and the same in plain OpenVINO."""
    shape = ops.constant([0, 2])
    model = network({"x": ((2,), np.dtype(dtype))}, lambda x: {"y": ops.reshape(x, shape, True)})
    return ready(ovengine.load(model, config=EXACT)), reference(model)
