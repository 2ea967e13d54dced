"""Row classes: frequent shapes of a dynamic model get static batch sizes of their own, and the answers stay."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

import ovengine
from ovengine import _row_classes
from support import EXACT, PATIENCE, Array, each, in_threads, reference, run_python, wait_until

USES = _row_classes.USES


def dynamic(build: Callable[[Any], Any], row: tuple[int, ...] = (-1, 4)) -> ov.Model:
    x = ops.parameter([-1, *row], np.float32, name="x")
    x.output(0).set_names({"x"})
    y = build(x)
    y.output(0).set_names({"y"})
    return ov.Model([ops.result(y)], [x], "dynamic")


def summed() -> ov.Model:
    """`y[n, i] = 2 sum(x[n, :, i])`, x is `(n, length, 4)` f32."""
    return dynamic(
        lambda x: ops.multiply(ops.reduce_sum(x, ops.constant(np.array([1])), False), ops.constant(np.float32(2)))
    )


def tagged(tag: int, length: int, rows: int = 1) -> Array:
    """Small integers, whose sums are exact in f32."""
    return np.random.default_rng(tag).integers(-9, 10, (rows, length, 4)).astype(np.float32)


def expected(x: Array) -> Array:
    total: Array = 2 * x.sum(1)
    return total


def serves(model: ovengine.Model, *lengths: int) -> bool:
    return sorted(shapes["x"][1] for shapes in model.row_classes) == sorted(lengths)


def make_frequent(model: ovengine.Model, length: int) -> None:
    """Until the shape has a compiled model of its own."""
    for tag in range(USES):
        np.testing.assert_array_equal(model(tagged(tag, length))["y"], expected(tagged(tag, length)))
    wait_until(lambda: length in [shapes["x"][1] for shapes in model.row_classes])
    assert model.wait_ready(PATIENCE)


@pytest.fixture
def model() -> Iterator[ovengine.Model]:
    with ovengine.load(summed(), config=EXACT) as loaded:
        yield loaded


def test_a_frequent_shape_gets_batch_sizes_of_its_own(model: ovengine.Model) -> None:
    assert model.plan.mode == "dynamic"
    assert not model.row_classes
    make_frequent(model, 5)
    assert list(model.row_classes) == [{"x": (-1, 5, 4)}]
    assert "row classes: up to" in str(model.plan)
    before = model.stats()
    bulk = before.dispatch["bulk"]
    requests = [tagged(tag, 5, rows=1 + tag % 3) for tag in range(50)]
    futures = [model.submit(x) for x in requests]
    for x, future in zip(requests, futures, strict=True):
        np.testing.assert_array_equal(future.result()["y"], expected(x))
    stats = model.stats()
    assert stats.requests == before.requests + 50
    assert stats.rows == before.rows + sum(map(len, requests))
    assert stats.dispatch["bulk"] == bulk, "rows of batches, not requests that run alone"
    np.testing.assert_array_equal(model(tagged(3, 7))["y"], expected(tagged(3, 7)))
    assert model.stats().dispatch["bulk"] == bulk + 1, "another shape runs alone"


def test_requests_of_a_group_go_to_their_class(model: ovengine.Model) -> None:
    make_frequent(model, 5)
    bulk = model.stats().dispatch["bulk"]
    requests = [tagged(tag, 5, rows=1 + tag % 3) for tag in range(40)]
    futures = [model.submit(x, group=tag % 4) for tag, x in enumerate(requests)]
    for x, future in zip(requests, futures, strict=True):
        np.testing.assert_array_equal(future.result()["y"], expected(x))
    np.testing.assert_array_equal(model.infer(requests[0], group="0")["y"], expected(requests[0]))
    assert model.stats().dispatch["bulk"] == bulk, "rows of batches"
    latest = model.submit(requests[1], group=1, latest_only=True)
    np.testing.assert_array_equal(latest.result()["y"], expected(requests[1]))
    assert model.stats().dispatch["bulk"] == bulk + 1, "the latest of all shapes: they wait in one place"


def test_every_way_in_leads_to_the_class(model: ovengine.Model) -> None:
    make_frequent(model, 6)
    x = tagged(1, 6, rows=700)

    async def awaited() -> list[Any]:
        return [await model.ainfer(x[:2]), await model.ainfer(x[:2], share_inputs=True)]

    for result in (model(x[:2]), model.infer(x[:2]), *model.map([x[:2]]), *asyncio.run(awaited())):
        np.testing.assert_array_equal(result["y"], expected(x[:2]))
    for result in (model.infer_rows(x), model(x), model.submit(x).result()):
        np.testing.assert_array_equal(result["y"], expected(x))
    for wrong in (np.zeros((1, 6, 3), np.float32), np.zeros((6, 4), np.float32)):
        with pytest.raises(ovengine.InputError, match=r"the model takes \(\?, \?, 4\)"):
            model(wrong)
    np.testing.assert_array_equal(model(np.zeros((0, 6, 4), np.float32))["y"], np.zeros((0, 4)))
    np.testing.assert_array_equal(model(np.zeros((2, 0, 4), np.float32))["y"], np.zeros((2, 4)))


def test_rare_shapes_are_not_compiled(model: ovengine.Model) -> None:
    for length in range(1, 200):
        for tag in range(USES - 1):
            np.testing.assert_array_equal(model(tagged(tag, length))["y"], expected(tagged(tag, length)))
    assert model.row_classes == ()


def test_the_least_recently_used_class_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovengine._class_models.MOST_CLASSES", 2)
    with ovengine.load(summed(), config=EXACT) as model:
        make_frequent(model, 2)
        make_frequent(model, 3)
        model(tagged(0, 2))
        make_frequent(model, 4)
        assert serves(model, 2, 4)
        wait_until(lambda: model.stats().pending_requests == 0)
        assert model.stats().requests == 3 * USES + 1, "figures of a class that went are kept"


def test_a_class_in_use_does_not_make_room_for_one_that_is_used_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovengine._class_models.MOST_CLASSES", 1)
    with ovengine.load(summed(), config=EXACT) as model:
        make_frequent(model, 2)
        for tag in range(4 * USES):
            model(tagged(tag, 2))
            model(tagged(tag, 3))
        assert serves(model, 2)
        make_frequent(model, 3)
        assert serves(model, 3)


def test_nobody_waits_for_a_class_to_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiling, go_on = threading.Event(), threading.Event()
    make = _row_classes.RowClasses._make

    def slow(self: Any, shapes: Any) -> None:
        compiling.set()
        assert go_on.wait(60)
        make(self, shapes)

    monkeypatch.setattr(_row_classes.RowClasses, "_make", slow)
    with ovengine.load(summed(), config=EXACT) as model:
        for tag in range(USES):
            model(tagged(tag, 5))
        assert compiling.wait(60)
        for tag in range(100):
            np.testing.assert_array_equal(model(tagged(tag, 5))["y"], expected(tagged(tag, 5)))
        assert model.row_classes == ()
        go_on.set()
        wait_until(lambda: serves(model, 5))


def test_rows_that_influence_each_other_stay_on_the_dynamic_model() -> None:
    with ovengine.load(dynamic(lambda x: ops.softmax(x, 0)), config=EXACT) as model:
        run = reference(dynamic(lambda x: ops.softmax(x, 0)))
        for tag in range(3 * USES):
            x = tagged(tag, 3, rows=3)
            np.testing.assert_allclose(model(x)["y"], run(x)["y"], rtol=1e-5)
        assert model.row_classes == ()


@pytest.mark.parametrize("most", [1, 8])
def test_shapes_come_and_go_under_concurrency(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr("ovengine._class_models.MOST_CLASSES", most)
    served = 0
    with ovengine.load(summed(), config=EXACT) as model:

        def hammer(seed: int) -> int:
            rng = np.random.default_rng(seed)
            kept = 0
            for turn in range(6):  # each turn another few shapes are the frequent ones
                lengths = 1 + 3 * turn + rng.integers(0, 3, 120)
                futures = []
                for tag, length in enumerate(lengths):
                    x = tagged(1000 * seed + tag, int(length), rows=1 + tag % 4)
                    futures.append((x, model.submit(x)))
                    if tag % 17 == 0:
                        futures.pop()[1].cancel()
                    if tag % 11 == 0:
                        np.testing.assert_array_equal(model(x)["y"], expected(x))
                        kept += 1
                for x, future in futures:
                    np.testing.assert_array_equal(future.result()["y"], expected(x))
                kept += len(futures)
            return kept

        served = sum(in_threads(each(hammer, range(4))))
        assert len(model.row_classes) <= most
        stats = model.stats()
        assert stats.requests + stats.failures["cancelled"] >= served
        assert stats.failures["inference"] == stats.failures["engine_closed"] == 0


def test_limits_hold_for_classes_too(model: ovengine.Model) -> None:
    make_frequent(model, 3)
    model.set(max_batch_size=2, max_queue_delay_us=50)
    make_frequent(model, 4)
    for child in model._class_models:
        assert isinstance(child, ovengine.Model)
        assert child.plan.max_batch_size == 2
        assert child.plan.batch.max_queue_delay_us == 50
    for length in (3, 4, 5):
        x = tagged(length, length, rows=9)
        futures = [model.submit(x[row : row + 3]) for row in range(0, 9, 3)]
        for row, future in zip(range(0, 9, 3), futures, strict=True):
            np.testing.assert_array_equal(future.result()["y"], expected(x[row : row + 3]))
        np.testing.assert_array_equal(model.infer_rows(x)["y"], expected(x))


def test_all_classes_have_one_queue() -> None:
    with ovengine.load(summed(), config=EXACT, max_queue_size=4) as model:
        make_frequent(model, 3)
        rejected = 0
        futures = []
        for tag in range(400):
            try:
                x = tagged(tag, 3 + tag % 2, rows=200)
                futures.append((x, model.submit(x)))
            except ovengine.QueueFull:
                rejected += 1
        for x, future in futures:
            np.testing.assert_array_equal(future.result()["y"], expected(x))
        assert model.stats().rejections["queue_full"] == rejected


def test_closing_ends_all_classes() -> None:
    model = ovengine.load(summed(), config=EXACT)
    make_frequent(model, 3)
    futures = [(x, model.submit(x)) for x in (tagged(tag, 3 + tag % 2) for tag in range(40))]
    assert model.close()
    for x, future in futures:
        np.testing.assert_array_equal(future.result()["y"], expected(x))
    for length in (3, 4):
        for call in (model, model.submit):
            with pytest.raises(ovengine.EngineClosed):
                call(tagged(0, length))
    assert model.stats().requests == USES + 40


def test_a_model_that_is_dropped_takes_its_classes_along() -> None:
    model = ovengine.load(summed(), config=EXACT)
    make_frequent(model, 3)
    child = weakref.ref(model._class_models[0])
    del model
    gc.collect()
    assert child() is None


def test_the_interpreter_ends_while_a_class_is_compiled() -> None:
    code = """
import numpy as np, openvino as ov, ovengine
from openvino import opset13 as ops
x = ops.parameter([-1, -1, 4], np.float32, name="x")
y = ops.reduce_sum(x, ops.constant(np.array([1])), False)
model = ovengine.load(ov.Model([ops.result(y)], [x], "m"))
for n in range(3, 9):
    for _ in range(20):
        model(np.ones((1, n, 4), np.float32))
print("done")
"""
    done = run_python(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_the_text_direction_model_batches_frequent_widths(real_model: Callable[[str], Path]) -> None:
    source = real_model("text_direction")
    run = reference(source)
    rng = np.random.default_rng(0)
    with ovengine.load(source, config=EXACT) as model:
        images = {width: rng.uniform(-1, 1, (1, 3, 48, width)).astype(np.float32) for width in (192, 100, 33, 320)}
        outputs = {width: next(iter(run(image).values())) for width, image in images.items()}

        def check(width: int) -> None:
            np.testing.assert_allclose(np.asarray(model(images[width])), outputs[width], rtol=1e-3, atol=1e-4)

        for _ in range(USES):
            check(192)
        wait_until(lambda: model.row_classes)
        assert model.wait_ready(PATIENCE)
        assert model.row_classes == ({"x": (-1, 3, 48, 192)},)

        def hammer(first: int) -> None:
            widths = [(192, 100, 192, 33, 192, 320)[(first + step) % 6] for step in range(12)]
            futures = [model.submit(images[width]) for width in widths]
            for width, future in zip(widths, futures, strict=True):
                np.testing.assert_allclose(np.asarray(future.result()), outputs[width], rtol=1e-3, atol=1e-4)

        in_threads(each(hammer, range(4)))
