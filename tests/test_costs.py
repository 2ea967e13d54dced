"""The cost table is kept: a second load measures nothing, and compiles what it uses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ovengine
from ovengine import _costs
from ovengine._cache import Cache
from ovengine._compiler import Compiler
from ovengine._others import Others, busy_seconds
from ovengine.errors import CacheWarning
from ovengine.testing import TINY_MLP, mlp
from support import EXACT, Array, ready, reference, wait_until


class Work:
    """What loads measured and compiled, in order."""

    def __init__(self) -> None:
        self.measured: list[int | None] = []
        self.compiled: list[int | None] = []

    def clear(self) -> None:
        self.measured.clear()
        self.compiled.clear()


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    done = Work()
    weigh, compile_one = Compiler._weigh, Compiler._compile

    def weighed(self: Compiler, rows: int | None, models: int, *, used: bool = False) -> Any:
        if used:  # for the first time, which measures
            done.measured.append(rows)
        return weigh(self, rows, models, used=used)

    def compiled(self: Compiler, rows: int | None, plan: Any) -> Any:
        done.compiled.append(rows)
        return compile_one(self, rows, plan)

    monkeypatch.setattr(Compiler, "_weigh", weighed)
    monkeypatch.setattr(Compiler, "_compile", compiled)
    return done


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Callable[..., ovengine.Model]]:
    with ovengine.Engine(plugins=ovengine.Plugins(entry_points=False, disabled=())) as engine:

        def call(source: Any = None, *, by: ovengine.Engine = engine, **arguments: Any) -> ovengine.Model:
            arguments = {"config": EXACT, "cache_dir": tmp_path, **arguments}
            return ready(by.load(mlp(*TINY_MLP) if source is None else source, **arguments))

        yield call


def answers(model: ovengine.Model) -> Array:
    return np.asarray(model(np.random.default_rng(0).standard_normal((9, 16), np.float32)))


def test_a_second_load_measures_nothing_and_compiles_what_it_uses(
    load: Callable[..., ovengine.Model], work: Work
) -> None:
    first = load()
    assert {1, 4} <= set(work.measured)
    work.clear()
    second = load()
    assert not work.measured
    lanes = len(second.plan.lanes)
    assert sorted(work.compiled, key=lambda rows: rows or 0) == sorted([*first.plan.ladder] * lanes)
    assert second.plan.ladder == first.plan.ladder
    assert second.plan.batch.cost_us == pytest.approx(dict(first.plan.batch.cost_us))
    assert set(second.plan.compiled_bytes) == set(second.plan.ladder)
    assert "(as measured before)" in str(second.plan)
    assert set(second._costs()) == set(second.plan.ladder)
    expected = reference(mlp(*TINY_MLP))(np.random.default_rng(0).standard_normal((9, 16), np.float32))["y"]
    np.testing.assert_allclose(answers(second), expected, rtol=1e-5, atol=1e-5)


def test_what_is_known_is_known_when_load_returns(load: Callable[..., ovengine.Model], tmp_path: Path) -> None:
    """An entry that says that batching does not pay: there is nothing left to prepare."""
    load()
    (path,) = (tmp_path / _costs.KIND).glob("*.json")
    entry = json.loads(path.read_text())
    entry["value"]["plans"] = {asked: [[1], "no gain"] for asked in entry["value"]["plans"]}
    path.write_text(json.dumps(entry))
    with ovengine.load(mlp(*TINY_MLP), config=EXACT, cache_dir=tmp_path) as model:
        assert model.wait_ready(0)
        assert model.plan.ladder == (1,)
        assert "no gain (as measured before)" in str(model.plan)


def test_what_lanes_saw_otherwise_is_measured_anew(
    load: Callable[..., ovengine.Model], work: Work, tmp_path: Path
) -> None:
    load(batch_sizes=[1, 16])
    (path,) = (tmp_path / _costs.KIND).glob("*.json")
    entry = json.loads(path.read_text())
    entry["value"]["seconds"] = {"1": 0.07, "16": 1.0}  # measured while the machine stood still, now and then
    path.write_text(json.dumps(entry))
    work.clear()
    model = load(batch_sizes=[1, 16])
    assert not work.measured
    x = np.zeros((16, 16), np.float32)

    def unlike() -> bool:
        costs = model._costs()
        shares = costs[1] / 0.07e6, costs[16] / 1e6
        return max(shares) > 1.5 * _costs.UNLIKE * min(shares)

    # Both sizes run, and are looked at once a second.
    wait_until(lambda: model(x) and model(x[0]) and unlike())
    assert json.loads(path.read_text()) == entry
    model.close()
    kept = json.loads(path.read_text())["value"]
    assert (kept["seconds"], kept["bytes"], kept["plans"]) == ({}, {}, {})
    load(batch_sizes=[1, 16])
    assert work.measured == [1, 16]


def test_what_is_a_week_old_is_measured_anew(
    load: Callable[..., ovengine.Model], work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    load().close()
    work.clear()
    monkeypatch.setattr(_costs, "KEPT_SECONDS", 0)
    load().close()
    assert 1 in work.measured


def test_what_was_measured_while_others_were_busy_is_measured_anew_within_the_hour(tmp_path: Path) -> None:
    clocks = {"busy": 0.0, "own": 0.0, "wall": 0.0}

    def table() -> _costs.CostTable:
        made = _costs.CostTable(Cache(tmp_path), {"model": "m"})
        busy, own, wall = (partial(clocks.__getitem__, name) for name in clocks)
        made.others = Others(busy, own, wall, cpus=2)
        return made

    def measure(into: _costs.CostTable, **seconds: float) -> float:
        """How long it is kept, in seconds."""
        with into.others.watched():
            for name, more in seconds.items():
                clocks[name] += more
        into.seconds[len(into.seconds) + 1] = 1e-6
        into.save()
        (path,) = (tmp_path / _costs.KIND).glob("*.json")
        return float(json.loads(path.read_text())["value"]["until"]) - time.time()

    clocks["busy"] = 1000  # what others did before is of no account
    week, hour = _costs.KEPT_SECONDS, _costs.KEPT_SECONDS_IF_BUSY
    first = table()
    assert week - 60 < measure(first, busy=0.9, own=0.8, wall=0.5) <= week  # a tenth of two CPUs
    assert hour - 60 < measure(first, busy=0.2, own=0.05, wall=0.1) <= hour
    assert hour - 60 < measure(table(), busy=0.1, own=0.1, wall=0.1) <= hour  # it is kept no longer for that


def test_others_are_seen_at_their_work() -> None:
    others = Others()
    hog = "while True: pass"
    with subprocess.Popen([sys.executable, "-c", hog]) as one, subprocess.Popen([sys.executable, "-c", hog]) as two:
        time.sleep(0.5)
        with others.watched():
            time.sleep(1)
        one.kill()
        two.kill()
    # Up to two CPUs of them; that others of the tests run as well makes it no less.
    assert others.share > 0.7 * min(2, len(os.sched_getaffinity(0))) / (os.cpu_count() or 1)


def test_a_system_that_does_not_say_what_its_cpus_do_has_no_others(tmp_path: Path) -> None:
    assert busy_seconds(tmp_path / "none") == 0
    stat = tmp_path / "stat"
    for text in ("", "cpu  1 2 3", "cpu x"):
        stat.write_text(text)
        assert busy_seconds(stat) == 0
    stat.write_text("cpu  100 20 3 999 999 4 50 600 7 7\ncpu0 1")
    assert busy_seconds(stat) * os.sysconf("SC_CLK_TCK") == pytest.approx(100 + 20 + 3 + 4 + 50 + 600)
    assert Others(busy=lambda: 0.0).share == 0


def test_that_all_takes_longer_is_no_reason_to_measure_anew(tmp_path: Path) -> None:
    table = _costs.CostTable(Cache(tmp_path), {"model": "m"})
    table.seconds = {1: 1e-6, 4: 2e-6}
    table.compare({1: 4.0, 4: 6.0, 16: 0.0, 64: 9.0})
    assert table.seconds
    table.compare({1: 0.5, 4: 4.0})
    assert not table.seconds


def test_what_other_lanes_threads_or_cpus_would_change_is_measured_anew(
    load: Callable[..., ovengine.Model], work: Work
) -> None:
    arguments: dict[str, Any] = {"batch_sizes": [1, 4]}
    load(**arguments)
    config: dict[str, Any] = {**EXACT, "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1}
    for other in ({**EXACT, "NUM_STREAMS": 1}, config, {**EXACT, "INFERENCE_NUM_THREADS": 3}):
        work.clear()
        load(**arguments, config=other)
        assert work.measured == [1, 4]
        work.clear()
        load(**arguments, config=other)
        assert not work.measured
    for source in (mlp(*TINY_MLP, seed=1), mlp(16, 16, 5)):
        work.clear()
        load(source, **arguments, config=config)
        assert work.measured == [1, 4]
    with ovengine.Engine(cpu_budget=7, plugins=ovengine.Plugins(entry_points=False, disabled=())) as wider:
        work.clear()
        load(by=wider, **arguments, config=config)
        assert work.measured == [1, 4]


def test_another_ladder_is_made_of_the_same_figures(load: Callable[..., ovengine.Model], work: Work) -> None:
    first = load(batch_sizes=[1, 4, 16])
    work.clear()
    second = load(batch_sizes=[1, 4])
    assert not work.measured
    assert 16 not in work.compiled
    assert second.plan.batch.cost_us == {size: first.plan.batch.cost_us[size] for size in (1, 4)}
    third = load(batch_sizes=[1, 4, 8])
    assert work.measured == [8]
    assert third.plan.ladder == (1, 4, 8)


def test_a_batcher_of_a_plugin_is_asked_each_time(load: Callable[..., ovengine.Model], work: Work) -> None:
    class Asked:
        name = "asked"
        times = 0

        def plan(self, context: ovengine.hookspecs.BatchContext) -> ovengine.BatchPlan:
            cost_us = {size: context.measure(size) * 1e6 for size in (1, 2)}
            assert context.measure_again(2) * 1e6 <= cost_us[2]
            self.times += 1
            return ovengine.BatchPlan((1, 2), cost_us, why=f"asked {self.times} times")

        @ovengine.hookimpl
        def ovengine_batchers(self) -> list[Any]:
            return [self]

    with ovengine.Engine(plugins=ovengine.Plugins(extra=[Asked()], entry_points=False, disabled=())) as engine:
        assert "asked 1 times" in str(load(by=engine, batcher="asked").plan)
        work.clear()
        assert "asked 2 times" in str(load(by=engine, batcher="asked").plan)
        assert not work.measured


def test_what_a_memory_limit_costs_is_said_each_time(load: Callable[..., ovengine.Model], work: Work) -> None:
    source = mlp(512, 4096, 512)  # 16 MiB
    arguments = {"batch_sizes": [1, 4, 16, 64], "memory_limit": "60MiB", "config": {**EXACT, "NUM_STREAMS": 1}}
    first = load(source, **arguments)
    work.clear()
    second = load(source, **arguments)
    assert not work.measured
    assert second.plan.ladder == first.plan.ladder
    assert 1 < second.plan.ladder[-1] < 64
    assert f"batches of up to {second.plan.ladder[-1]}" in str(second.plan)


def test_without_a_cache_nothing_is_kept(load: Callable[..., ovengine.Model], work: Work, tmp_path: Path) -> None:
    for _ in range(2):
        work.clear()
        load(batch_sizes=[1, 4], cache_dir=None)
        assert work.measured == [1, 4]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "damage",
    [
        {"seconds": {"1": -1.0}}, {"seconds": {"one": 1.0}}, {"seconds": []}, {"bytes": {"1": -5}},
        {"plans": {"q": [[4, 1], "w"]}}, {"plans": {"q": [[], "w"]}}, {"plans": {"q": [[1, 3], "w"]}}, {"plans": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_corrupt_table_is_a_warning_and_measured_anew(
    load: Callable[..., ovengine.Model], work: Work, tmp_path: Path, damage: dict[str, Any]
) -> None:
    load(batch_sizes=[1, 4])
    (path,) = (tmp_path / _costs.KIND).glob("*.json")
    entry = json.loads(path.read_text())
    path.write_text(json.dumps({**entry, "value": {**entry["value"], **damage}}))
    work.clear()
    with pytest.warns(CacheWarning, match=path.name):
        assert load(batch_sizes=[1, 4]).plan.ladder == (1, 4)
    assert work.measured == [1, 4]
    assert json.loads(path.read_text())["value"]["plans"] == entry["value"]["plans"]
