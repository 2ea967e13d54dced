"""`memory_limit`: what compiled models hold is measured, and stays below it; the plan says what that costs."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

import models
import ovengine
from ovengine import _memory
from ovengine._memory import COMPILING, Ledger, NoRoom
from ovengine.config import parse_bytes
from ovengine.errors import ConfigError
from ovengine.hookspecs import BatchContext, Batcher
from support import EXACT, ready, reference, run_python

MIB = 2**20
WIDTHS = (512, 4096, 1024)
WEIGHTS = 4 * (512 * 4096 + 4096 * 1024)
"""Bytes: 24 MiB."""


@pytest.fixture(scope="module")
def weighty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save(models.mlp(*WIDTHS), tmp_path_factory.mktemp("weighty") / "weighty.xml")


@pytest.fixture
def load(weighty: Path) -> Iterator[Callable[..., ovengine.Model]]:
    loaded: list[ovengine.Model] = []

    def call(source: Any = weighty, **arguments: Any) -> ovengine.Model:
        loaded.append(ovengine.load(source, **{"config": EXACT, **arguments}))
        return ready(loaded[-1])

    yield call
    for model in loaded:
        model.close(timeout=10)


def decisions(model: ovengine.Model, what: str = "memory_limit") -> str:
    return "; ".join(f"{d.choice}: {d.why}" for d in model.plan.decisions if d.what == what)


# -- the argument -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (None, None), (12345, 12345), ("800", 800), ("512MB", 512_000_000), ("512MiB", 512 * MIB),
        (" 2 gib ", 2 * 2**30), ("1.5G", 1_500_000_000), ("64k", 64_000), ("3B", 3),
    ],
)  # fmt: skip
def test_a_limit_is_bytes_or_says_its_unit(text: Any, count: int | None) -> None:
    assert parse_bytes("memory_limit", text) == count


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "", "many", "-5MB", "5 parsecs", "0MB"])
def test_what_is_no_amount_is_an_error_that_names_it(weighty: Path, value: Any) -> None:
    with pytest.raises(ConfigError, match="memory_limit must be None, bytes, or a text such as '512MB'"):
        ovengine.load(weighty, memory_limit=value)


# -- measured ---------------------------------------------------------------------------------------------------------


class Choosy:
    """Measures larger sizes and wants none of them."""

    name = "choosy"

    def plan(self, context: BatchContext) -> ovengine.BatchPlan:
        for size in (1, 4, 16):
            context.measure(size)
        return ovengine.BatchPlan((1,), {1: context.measure(1) * 1e6})

    @ovengine.hookimpl
    def ovengine_batchers(self) -> list[Batcher]:
        return [self]


def test_sizes_that_were_only_measured_are_not_in_the_memory_of_the_plan(weighty: Path) -> None:
    with ovengine.Engine(plugins=ovengine.Plugins(extra=[Choosy()])) as engine:
        for _ in range(2):  # the costs come from the cache the second time
            with engine.load(weighty, config=EXACT, batcher="choosy") as model:
                plan = ready(model).plan
                assert set(plan.compiled_bytes) == {1}
                models_made = sum(device.compiled_copies for device in plan.devices)
                tensors = len(plan.lanes) * 4 * (WIDTHS[0] + WIDTHS[-1])
                assert plan.memory_bytes == models_made * plan.compiled_bytes[1] + tensors


def test_the_plan_has_the_measured_bytes_of_a_compiled_model(load: Callable[..., ovengine.Model]) -> None:
    gc.collect()
    plan = load(batch_sizes=[1, 4]).plan
    assert set(plan.compiled_bytes) == {1, 4}
    assert all(0.8 * WEIGHTS < held < 3 * WEIGHTS for held in plan.compiled_bytes.values())
    copies = plan.devices[0].compiled_copies
    assert plan.memory_bytes > copies * sum(plan.compiled_bytes.values())
    assert plan.memory_limit is None
    assert "compiled models may take" not in str(plan)
    table = [line.split() for line in str(plan).splitlines() if line.strip().startswith(("1 ", "4 "))]
    assert [row[-1] for row in table] == ["MiB", "MiB"]
    assert all(float(row[-2]) * MIB > 0.8 * WEIGHTS for row in table)


def test_what_is_not_in_the_model_as_weights_is_measured_all_the_same(
    load: Callable[..., ovengine.Model], real_model: Callable[[str], Path]
) -> None:
    """The light ResNet-50 makes its weights from scalars: constants of a few bytes, and 100 MiB once it is compiled."""
    model = load(real_model("resnet50"), memory_limit="600MB", batch_sizes=[1, 2, 4, 8], verify="off")
    plan = model.plan
    assert all(held > 90 * MIB for held in plan.compiled_bytes.values())
    assert plan.devices[0].compiled_copies * sum(plan.compiled_bytes.values()) <= 600_000_000
    assert plan.ladder[-1] < 8
    assert f"batches of up to {plan.ladder[-1]}: batch size {2 * plan.ladder[-1]} takes about" in decisions(model)


def test_the_ledger_reckons_what_is_not_measured_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    grown = iter([0, 100, 100, 220, 220, 320])
    monkeypatch.setattr(_memory, "allocated_bytes", lambda: next(grown))
    ledger = Ledger(1000, 90)
    assert ledger.expected(1) == 90
    for size, models_of_it in ((1, 1), (4, 1)):
        ledger.book(size, models_of_it)
        with ledger.weigh(size, models_of_it):
            pass
    assert ledger.measured == {1: 100, 4: 120}
    assert ledger.expected(16) == 200  # 20 bytes for 3 rows
    assert ledger.expected(("f32", 4)) == 120
    with pytest.raises(NoRoom, match=r"batch size 16 takes about 919 B beside 220 B, and memory_limit is 1000 B"):
        ledger.book(16, 4)
    ledger.book(16, 3)
    assert int(3 * 200 * COMPILING) + 220 < 1000
    assert ledger.held_bytes == 820
    ledger.release(16)
    assert ledger.held_bytes == 220
    ledger.book(1, 2)
    with ledger.weigh(1, 1):  # another copy
        pass
    assert ledger.measured[1] == 100


def test_models_that_turn_out_larger_than_thought_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    grown = iter([0, 100, 100, 350])
    monkeypatch.setattr(_memory, "allocated_bytes", lambda: next(grown))
    ledger = Ledger(300, 90)
    ledger.book(1, 1)
    with ledger.weigh(1, 1):
        pass
    ledger.book(4, 1)
    with pytest.raises(NoRoom, match="batch size 4 takes 250 B beside 100 B"), ledger.weigh(4, 1):
        pass


def test_what_two_loads_compile_at_the_same_time_is_not_told_apart() -> None:
    first, second = Ledger(None, 70), Ledger(None, 30)
    with first.weigh(1, 1), second.weigh(1, 1):
        pass
    assert first.measured == second.measured == {}
    assert (first.expected(1), second.expected(1)) == (70, 30)


# -- kept -------------------------------------------------------------------------------------------------------------

IN_A_PROCESS_OF_ITS_OWN = """
import json, sys, threading
import numpy as np
import ovengine
from ovengine import _memory
from ovengine.testing import TINY_MLP, mlp

source, arguments, shapes = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
with ovengine.load(mlp(*TINY_MLP)) as model:  # what OpenVINO takes for itself
    model.wait_ready()
done, peak = threading.Event(), 0

def watch():
    global peak
    while not done.wait(0.0005):
        peak = max(peak, _memory.private_bytes())

before = _memory.private_bytes()
watcher = threading.Thread(target=watch)
watcher.start()
config = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}
with ovengine.load(source, config=config, **arguments) as model:
    model.wait_ready()
    for shape in shapes:
        for _ in range(20):
            model(np.ones(shape, np.float32))
        model.wait_ready()
    held = _memory.private_bytes() - before
    done.set()
    watcher.join()
    found = {"ladder": model.plan.ladder, "classes": len(model.row_classes), "plan": str(model.plan)}
    print(json.dumps({"held": held, "peak": peak - before, **found}))
"""


def measured(source: Path, shapes: Sequence[tuple[int, ...]] = (), **arguments: Any) -> dict[str, Any]:
    """What a process holds, bytes, with the model loaded and after requests of these shapes."""
    done = run_python(IN_A_PROCESS_OF_ITS_OWN, os.fspath(source), json.dumps(arguments), json.dumps(shapes))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_memory_of_the_process_stays_below_the_limit(weighty: Path) -> None:
    sizes = [1, 2, 4, 8, 16, 32]
    limit = 100 * MIB
    limited = measured(weighty, batch_sizes=sizes, memory_limit=limit)
    assert limited["held"] <= limit
    assert limited["peak"] <= 1.05 * limit  # a thread that watches has a stack of its own, and so on
    assert 1 < limited["ladder"][-1] < 32
    assert "memory_limit: batches of up to" in limited["plan"]
    assert "compiled models may take 100.0 MiB" in limited["plan"]
    free = measured(weighty, batch_sizes=sizes)
    assert free["ladder"] == sizes
    assert free["held"] > len(sizes) * WEIGHTS > limit


def test_lanes_share_compiled_models_where_that_leaves_room_for_batches(load: Callable[..., ovengine.Model]) -> None:
    apart = load(config={**EXACT, "NUM_STREAMS": 2}, batcher="none")
    assert not apart.plan.devices[0].shared
    model = load(config={**EXACT, "NUM_STREAMS": 2}, batch_sizes=[1, 4], memory_limit=6 * WEIGHTS)
    (device,) = model.plan.devices
    assert (device.shared, device.lanes, device.properties["NUM_STREAMS"]) == (True, 2, 2)
    assert model.plan.ladder == (1, 4)
    assert "one compiled model for all lanes: 2 copies of " in decisions(model)
    x = np.random.default_rng(0).standard_normal((9, 512), np.float32)
    np.testing.assert_allclose(model(x)["y"], reference(models.mlp(*WIDTHS))(x)["y"], rtol=1e-4, atol=1e-4)


def test_a_size_between_others_that_has_no_room_costs_none_of_them(weighty: Path) -> None:
    class Between:
        name = "between"

        def plan(self, context: ovengine.hookspecs.BatchContext) -> ovengine.BatchPlan:
            cost_us = {size: context.measure(size) * 1e6 for size in (1, 8)}
            with pytest.raises(ovengine.ModelError, match="batch size 4 takes about"):
                context.measure(4)
            return ovengine.BatchPlan((1, 8), cost_us, why="four is for others")

        @ovengine.hookimpl
        def ovengine_batchers(self) -> list[Any]:
            return [self]

    plugins = ovengine.Plugins(extra=[Between()], entry_points=False, disabled=())
    config = {**EXACT, "NUM_STREAMS": 1}
    with ovengine.Engine(plugins=plugins) as engine:
        model = ready(engine.load(weighty, batcher="between", config=config, memory_limit=int(2.6 * WEIGHTS)))
        assert model.plan.ladder == (1, 8)
        assert "no batches of 4: batch size 4 takes about" in decisions(model)


def test_a_limit_below_one_compiled_model_is_an_error_that_says_how_much_it_takes(weighty: Path) -> None:
    for limit in (MIB, WEIGHTS - MIB):
        with pytest.raises(ConfigError, match=r"takes about 24\.\d MiB, and memory_limit is"):
            ovengine.load(weighty, memory_limit=limit)


@pytest.mark.usefixtures("without_rules")
def test_without_room_for_the_proof_rows_are_not_put_together(
    load: Callable[..., ovengine.Model], tmp_path: Path
) -> None:
    arguments = {"batch_sizes": [1, 4], "cache_dir": tmp_path}
    model = load(**arguments, memory_limit=int(1.5 * WEIGHTS))
    assert model.plan.axis is not None
    assert not model.plan.axis.batchable
    assert "the proof takes about" in str(model.plan)
    load(**arguments)
    known = load(**arguments, memory_limit=int(2.5 * WEIGHTS))
    assert known.plan.ladder == (1, 4)  # what is known already needs no room


# -- row classes ------------------------------------------------------------------------------------------------------


def sequences() -> ov.Model:
    """`(n, length, 512)` to `(n, length, 256)`, with 8 MiB of weights."""
    rng = np.random.default_rng(0)
    x = ops.parameter([-1, -1, 512], np.float32, name="x")
    x.output(0).set_names({"x"})
    y: Any = x
    for shape in ((512, 2732), (2732, 256)):
        y = ops.matmul(y, ops.constant(rng.standard_normal(shape, np.float32) / np.float32(30)), False, False)
    y.output(0).set_names({"y"})
    return ov.Model([ops.result(y)], [x], "sequences")


def test_the_limit_bounds_row_classes(load: Callable[..., ovengine.Model]) -> None:
    config = {**EXACT, "NUM_STREAMS": 1}
    free = load(sequences(), config=config)
    assert "up to 8" in decisions(free, "row classes")
    some = load(sequences(), config=config, memory_limit="120MiB")
    assert "up to 3: " in decisions(some, "row classes")
    assert " MiB each" in decisions(some, "row classes")
    none = load(sequences(), config=config, memory_limit="20MiB")
    assert "no row classes: " in decisions(none)
    x = np.random.default_rng(0).standard_normal((2, 5, 512), np.float32)
    for model in (some, none):
        for _ in range(20):
            np.testing.assert_allclose(model(x)["y"], reference(sequences())(x)["y"], rtol=1e-3, atol=1e-3)
        assert ready(model)
        assert len(model.row_classes) <= 3
    assert not none.row_classes


def test_the_memory_of_row_classes_stays_below_the_limit(tmp_path: Path) -> None:
    path = models.save(sequences(), tmp_path / "sequences.xml")
    shapes = [(2, length, 512) for length in range(3, 10)]
    limit = 80 * MIB
    limited = measured(path, shapes, memory_limit=limit)
    assert 1 <= limited["classes"] < len(shapes)
    assert limited["peak"] <= 1.05 * limit
    assert measured(path, shapes)["held"] > limit
