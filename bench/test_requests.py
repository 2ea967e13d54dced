"""Every contender of every experiment, answering all requests of its work once.

pytest-benchmark's table has one group an experiment, and times of the same work beside each other. The ratios that
`python -m bench` reports are another matter: there the contenders take turns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.claims import Experiment
from bench.conftest import SWEEP_SECONDS
from bench.experiments import EXPERIMENTS
from bench.rounds import best
from bench.work import Work

CASES = [pytest.param(e, key, id=f"{e.name}-{key}".replace(" ", "_")) for e in EXPERIMENTS for key in e.field]
ROUNDS = 9


@pytest.mark.parametrize(("experiment", "key"), CASES)
def test_contender_answers_all_requests(
    benchmark: BenchmarkFixture, experiment: Experiment, key: str, work_of: Callable[[Experiment], Work]
) -> None:
    candidates = [partial(make, work_of(experiment)) for make in experiment.field[key]]
    if benchmark.disabled:
        candidates = candidates[:1]
    contender = best(candidates, SWEEP_SECONDS, tell=lambda _: None)()
    try:
        benchmark.group = experiment.name
        benchmark.pedantic(contender.run, args=(1,), rounds=ROUNDS, warmup_rounds=2)  # type: ignore[no-untyped-call]
        contender.check()
        benchmark.extra_info["contender"] = f"{contender.name}: {contender.detail}"
    finally:
        contender.close()
