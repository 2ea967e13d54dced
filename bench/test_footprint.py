"""A process that serves a million requests, and then rests."""

from __future__ import annotations

import pytest

from bench import footprint


@pytest.fixture(scope="module")
def found() -> footprint.Footprint:
    return footprint.measure()


def test_memory_does_not_grow_with_requests(found: footprint.Footprint) -> None:
    assert found.steady, found


def test_loaded_model_takes_no_cpu_time_at_rest(found: footprint.Footprint) -> None:
    assert found.idle, found
