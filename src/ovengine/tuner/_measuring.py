"""What a candidate is measured with: a subject is one loaded setting, a turn is one look at it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ovengine._load_generator import Inputs, Limit, Ovengine, Sample, default_window, open_loop
from ovengine.model import Model
from ovengine.profile import Settings

Answers = Sequence[Sequence[npt.NDArray[Any]]]

WARM_UP_SECONDS = 0.1
clock = time.monotonic
# Inputs whose outputs are compared between precisions.
COMPARED_INPUTS = 8


@dataclass(frozen=True, slots=True)
class Turn:
    """One look at a candidate under load.

    rate: requests answered per second.
    p50_ms, p99_ms: latency; in open loop counted from the intended arrival. Infinite where nothing was answered.
    requests: how many they are of.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    requests: int

    @classmethod
    def of(cls, sample: Sample) -> Turn:
        """What is kept of a sample: tiny models give millions of latencies. KeyboardInterrupt, if that ended it."""
        if sample.interrupted:
            raise KeyboardInterrupt
        p50, p99 = np.percentile(sample.latencies_ns, (50, 99)) / 1e6 if sample.requests else (np.inf, np.inf)
        return cls(sample.requests / sample.seconds, float(p50), float(p99), sample.requests)


@dataclass(frozen=True, slots=True)
class Facts:
    """What loading made of a setting: its plan, as far as the search looks at it.

    inference_us: of one full batch; 0 where it is not known.
    """

    ladder: tuple[int, ...]
    lanes: int
    threads_per_lane: int
    precision: str
    max_queue_delay_us: int
    inference_us: float
    memory_bytes: int


class Subject(Protocol):
    """One setting, loaded. Used by one thread."""

    @property
    def facts(self) -> Facts:
        """Its plan."""

    def saturate(self, seconds: float) -> Turn:
        """Closed loop, with enough requests in flight to keep every lane busy."""

    def offer(self, rate: float, seconds: float, seed: int) -> Turn:
        """Open loop: Poisson arrivals, `rate` a second."""

    def answers(self) -> Answers:
        """Outputs of the first few inputs."""

    def close(self) -> None:
        """Free it."""


class Lab(Protocol):
    """Makes subjects."""

    def open(self, settings: Settings) -> Subject:
        """Load and warm up. Raises OvengineError where the model or device refuses the setting."""

    def now(self) -> float:
        """Seconds; what the time budget is counted in."""


class ModelLab:
    """Loads models, and measures them with the load generator of `ovengine bench`.

    Args:
        load: from settings to a model that the lab closes.
        data: requests, sent over and over in this order.
        loaded: the model of the default settings, if it was loaded before; the first that is opened.
    """

    def __init__(self, load: Callable[[Settings], Model], data: Sequence[Inputs], loaded: Model | None = None) -> None:
        self._load = load
        self._data = data
        self._loaded = loaded

    def open(self, settings: Settings) -> Subject:
        """Load and warm up."""
        loaded = None
        if settings == Settings():
            loaded, self._loaded = self._loaded, None
        model = loaded or self._load(settings)
        try:
            model.wait_ready()
            subject = _ModelSubject(model, self._data)
            subject.saturate(WARM_UP_SECONDS)
        except BaseException:
            model.close(0)
            raise
        return subject

    def now(self) -> float:
        """Of the monotonic clock."""
        return clock()


class _ModelSubject:
    def __init__(self, model: Model, data: Sequence[Inputs]) -> None:
        self._model = model
        self._data = data
        self._load = Ovengine(model, default_window(model.plan), blocking=False)

    @property
    def facts(self) -> Facts:
        plan = self._model.plan
        device = plan.devices[0]
        return Facts(
            ladder=plan.ladder,
            lanes=device.lanes,
            threads_per_lane=device.threads_per_lane,
            precision=plan.precision[0],
            max_queue_delay_us=plan.batch.max_queue_delay_us,
            inference_us=plan.batch.cost_us.get(plan.ladder[-1], 0.0),
            memory_bytes=plan.memory_bytes,
        )

    def saturate(self, seconds: float) -> Turn:
        return Turn.of(self._load.closed_loop(self._data, Limit(seconds)))

    def offer(self, rate: float, seconds: float, seed: int) -> Turn:
        return Turn.of(open_loop(self._load, self._data, rate, poisson=True, limit=Limit(seconds), seed=seed))

    def answers(self) -> Answers:
        return [self._load.answer(inputs) for inputs in self._data[:COMPARED_INPUTS]]

    def close(self) -> None:
        self._model.close(0)
