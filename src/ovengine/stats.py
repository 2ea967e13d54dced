"""Counts and times since a model was loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

__all__ = ["LaneStats", "ModelStats", "Percentiles"]


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Percentiles of a time, in microseconds."""

    p50: float
    p90: float
    p99: float
    max: float
    mean: float


@dataclass(frozen=True, slots=True)
class LaneStats:
    """What one lane has run."""

    device: str
    batches: int
    rows: int


@dataclass(frozen=True, slots=True)
class ModelStats:
    """Counts and times since the model was loaded; a snapshot.

    Attributes:
        requests: requests served.
        rows: rows served.
        batches: inferences.
        rows_per_batch: mean rows of an inference.
        pending_requests: requests that wait now.
        queue_us: `Percentiles` of the time from submission to the start of the inference.
        inference_us: `Percentiles` of the time of one inference.
        dispatch: batches by why they started: `full` (as many rows as a lane takes at once), `idle` (a lane was free),
            `delay` (`max_queue_delay_us` was over), `caller` (a blocking caller ran it), `bulk` (`infer_rows`),
            `session` (a session's request).
        lanes: `LaneStats` of each lane.
        failures: accepted requests that were not served, by reason.
        rejections: requests that were not accepted, by reason.
    """

    requests: int
    rows: int
    batches: int
    rows_per_batch: float
    pending_requests: int
    queue_us: Percentiles
    inference_us: Percentiles
    dispatch: Mapping[str, int]
    lanes: tuple[LaneStats, ...]
    failures: Mapping[str, int]
    rejections: Mapping[str, int]

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> ModelStats:
        """Make one from the counters of the native core.

        Args:
            raw: what `NativeModel._native_stats` returned.

        Returns:
            The `ModelStats`.
        """
        return cls(
            requests=raw["requests"],
            rows=raw["rows"],
            batches=raw["batches"],
            rows_per_batch=raw["rows_per_batch"],
            pending_requests=raw["pending_requests"],
            queue_us=Percentiles(**raw["queue_us"]),
            inference_us=Percentiles(**raw["inference_us"]),
            dispatch=MappingProxyType(raw["dispatch"]),
            lanes=tuple(LaneStats(*lane) for lane in raw["lanes"]),
            failures=MappingProxyType(raw["failures"]),
            rejections=MappingProxyType(raw["rejections"]),
        )
