"""Fixtures of the benchmarks."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from bench.claims import Experiment
from bench.rounds import with_capacity
from bench.work import Work

SWEEP_SECONDS = 0.05


@pytest.fixture(scope="session")
def work_of(pytestconfig: pytest.Config) -> Callable[[Experiment], Work]:
    """The work of an experiment, made once; skips where the package that brings the model is missing.

    `make` installs them all and sets OVENGINE_REQUIRE_MODELS, so that there a gap is a failure.
    """
    known: dict[str, Work] = {}
    only_once = pytestconfig.getoption("benchmark_disable")

    def make(experiment: Experiment) -> Work:
        try:
            work = experiment.work()
        except FileNotFoundError as error:
            if os.environ.get("OVENGINE_REQUIRE_MODELS"):
                raise
            pytest.skip(f"{experiment.name}: {error}")
        candidates = experiment.capacity[:1] if only_once else experiment.capacity
        return with_capacity(candidates, work, SWEEP_SECONDS, lambda _: None)

    def known_or_made(experiment: Experiment) -> Work:
        if experiment.name not in known:
            known[experiment.name] = make(experiment)
        return known[experiment.name]

    return known_or_made
