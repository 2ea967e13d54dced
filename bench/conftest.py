"""Fixtures of the benchmarks."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

import pytest

from bench.experiments import Experiment
from bench.work import Work


@pytest.fixture(scope="session")
def work_of() -> Callable[[Experiment], Work]:
    """The work of an experiment, made once; skips where the package that brings the model is missing.

    `make` installs them all and sets OVENGINE_REQUIRE_MODELS, so that there a gap is a failure.
    """

    @functools.cache
    def make(name: str, work: Callable[[], Work]) -> Work:
        try:
            return work()
        except FileNotFoundError as error:
            if os.environ.get("OVENGINE_REQUIRE_MODELS"):
                raise
            pytest.skip(f"{name}: {error}")

    return lambda experiment: make(experiment.name, experiment.work)
