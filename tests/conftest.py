"""Fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import models

pytest_plugins = ["ovengine.testing"]


@pytest.fixture(scope="session")
def real_model() -> Callable[[str], Path]:
    """Path of a real model or clip by its name in `models.REAL`; skips where its package is missing.

    `make test` installs them all and sets OVENGINE_REQUIRE_MODELS, so that there a gap is a failure.
    """

    def find(name: str) -> Path:
        try:
            return models.find(name)
        except FileNotFoundError as error:
            if os.environ.get("OVENGINE_REQUIRE_MODELS"):
                raise
            pytest.skip(str(error))

    return find


@pytest.fixture(scope="session")
def tiny_mlp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """IR of the 16-16-4 MLP, batch dimension dynamic."""
    return models.save(models.mlp(*models.TINY_MLP), tmp_path_factory.mktemp("tiny") / "tiny.xml")


@pytest.fixture(autouse=True)
def _nothing_left_in_use() -> Iterator[None]:
    """The debug counters of slots, rows and requests are zero when a test ends."""
    yield
    from ovengine import _core

    left = {name: count for name, count in _core.debug_counters().items() if count}
    assert not left, f"left in use: {left}"
