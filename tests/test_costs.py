"""The cost table is kept: a second load measures nothing, and compiles what it uses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ovengine
from ovengine import _costs
from ovengine._cache import Cache
from ovengine._compiler import Compiler
from ovengine.errors import CacheWarning
from ovengine.testing import TINY_MLP, mlp
from support import EXACT, Array, ready, reference


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


def entry_of(cache: Path) -> tuple[Path, dict[str, Any]]:
    (path,) = (cache / _costs.KIND).glob("*.json")
    return path, json.loads(path.read_text())


def change(cache: Path, **parts: Any) -> None:
    """Put other tables into the only entry."""
    path, entry = entry_of(cache)
    path.write_text(json.dumps({**entry, "value": {**entry["value"], **parts}}))


def agree(cache: Path) -> None:
    """As if the load before had measured the same."""
    change(cache, before=entry_of(cache)[1]["value"]["seconds"])


def test_what_two_loads_agree_on_is_not_measured_again(
    load: Callable[..., ovengine.Model], work: Work, tmp_path: Path
) -> None:
    first = load()
    assert {1, 4} <= set(work.measured)
    agree(tmp_path)
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


def test_a_second_load_measures_again_behind_its_kept_sizes(
    load: Callable[..., ovengine.Model], work: Work, tmp_path: Path
) -> None:
    load()
    before = entry_of(tmp_path)[1]["value"]["seconds"]
    work.clear()
    second = load()
    assert {1, 4} <= set(work.measured)
    assert "(as measured before)" not in str(second.plan)
    assert entry_of(tmp_path)[1]["value"]["before"] == before


def test_what_is_known_is_known_when_load_returns(load: Callable[..., ovengine.Model], tmp_path: Path) -> None:
    """An entry that says that batching does not pay: there is nothing left to prepare."""
    load()
    plans = entry_of(tmp_path)[1]["value"]["plans"]
    change(tmp_path, plans={asked: [[1], "no gain"] for asked in plans})
    agree(tmp_path)
    with ovengine.load(mlp(*TINY_MLP), config=EXACT, cache_dir=tmp_path) as model:
        assert model.wait_ready(0)
        assert model.plan.ladder == (1,)
        assert "no gain (as measured before)" in str(model.plan)


@pytest.mark.parametrize("ladder", [(1,), (1, 2)], ids=str)
def test_a_kept_ladder_that_ends_too_soon_is_found_out(
    load: Callable[..., ovengine.Model], tmp_path: Path, ladder: tuple[int, ...]
) -> None:
    """A row of the tiny perceptron costs a tenth or less at 16 rows: that shows in any measurement."""
    assert load().plan.ladder[-1] >= 16
    value = entry_of(tmp_path)[1]["value"]
    seconds = {**value["seconds"], "1": 1e-9, "2": 1e-9}
    change(tmp_path, seconds=seconds, plans={asked: [list(ladder), "a bad moment"] for asked in value["plans"]})
    model = load()
    assert set(ladder) < set(model.plan.ladder)
    assert model.plan.ladder[-1] >= 16
    assert set(model._costs()) == set(model.plan.ladder) == set(model.plan.batch.cost_us)
    assert "a bad moment" not in str(model.plan)
    healed = entry_of(tmp_path)[1]["value"]
    assert healed["seconds"]["1"] > 1e-8
    assert healed["before"] == seconds
    (kept, why), *_ = healed["plans"].values()
    assert kept[-1] >= 16
    assert why != "a bad moment"
    expected = reference(mlp(*TINY_MLP))(np.random.default_rng(0).standard_normal((9, 16), np.float32))["y"]
    np.testing.assert_allclose(answers(model), expected, rtol=1e-5, atol=1e-5)


def test_a_ladder_that_follows_from_wrong_costs_is_found_out(
    load: Callable[..., ovengine.Model], tmp_path: Path
) -> None:
    load()
    seconds = entry_of(tmp_path)[1]["value"]["seconds"]
    change(tmp_path, seconds={**seconds, "4": seconds["1"] * 100}, plans={})
    assert load().plan.ladder[-1] >= 16


def test_a_ladder_that_goes_too_far_is_not_kept(load: Callable[..., ovengine.Model], tmp_path: Path) -> None:
    """Sizes that are in use stay, for lanes know what they cost; the next load does without them."""
    load(max_batch_size=4)
    value = entry_of(tmp_path)[1]["value"]
    (asked,) = value["plans"]
    change(tmp_path, seconds={"1": 1e-6, "3": 2e-6, "4": 1e-6}, plans={asked: [[1, 3, 4], "a bad moment"]})
    model = load(max_batch_size=4)
    assert 3 in model.plan.ladder
    healed = entry_of(tmp_path)[1]["value"]["plans"][asked]
    assert 3 not in healed[0]


def test_two_loads_agree_although_all_took_longer(tmp_path: Path) -> None:
    def table() -> _costs.CostTable:
        return _costs.CostTable(Cache(tmp_path), {"model": "m"})

    def measure(**seconds: float) -> bool:
        """Whether the next load is in doubt."""
        made = table()
        made.measure_anew()
        made.seconds = {int(size[1:]): cost for size, cost in seconds.items()}
        made.save()
        return table().in_doubt

    assert not table().in_doubt  # nothing is kept
    assert measure(_1=1e-6, _4=2e-6)  # only one load measured it
    assert not measure(_1=3e-6, _4=6.5e-6, _16=1.0)
    assert measure(_1=3e-6, _4=9e-6)  # four rows got dearer beside one
    assert measure(_1=3e-6)
    assert not measure(_1=3e-6)  # there is no other size to compare it with


def test_what_is_a_week_old_is_measured_anew(
    load: Callable[..., ovengine.Model], work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    load().close()
    work.clear()
    monkeypatch.setattr(_costs, "KEPT_SECONDS", 0)
    load().close()
    assert 1 in work.measured


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
