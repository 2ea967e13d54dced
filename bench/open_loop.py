"""Requests that come when they come, whatever becomes of those before: latencies under load.

Arrivals are Poisson, and in a round the same for all contenders. One thread sends; answers come to callbacks. A latency
counts from when the request was due, so that who holds up the sender is charged for those that it delays; where the
sender slept until then, from its waking: the timer's slack is nobody's fault.
"""

from __future__ import annotations

import itertools
import threading
import time
from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import openvino as ov

import ovengine
from bench.contenders import Contender, InferQueue, Ovengine
from bench.work import Array, Work

PATIENCE_S = 60.0
"""In which all answers of a turn are there, or some are lost."""

clock = time.perf_counter_ns


def arrivals_ns(rate: float, requests: int, seed: int) -> Sequence[int]:
    """When they are due, nanoseconds from the first moment: a Poisson process of so many a second."""
    gaps = np.random.default_rng(seed).exponential(1e9 / rate, requests)
    offsets: list[int] = np.cumsum(gaps).astype(np.int64).tolist()
    return offsets


class OpenLoop(Contender):
    """Sends the work's requests at `load` times its capacity; compared is the 99th percentile of their latency."""

    unit = "us, p99"
    load: float

    def run(self, passes: int) -> None:
        requests = passes * len(self.work.inputs)
        self.latencies_ns: Array = np.zeros(requests, np.int64)
        self._finished = itertools.count(1).__next__
        self._requests = requests
        self._all_finished = threading.Event()
        begin = clock()
        indices = itertools.cycle(range(len(self.work.inputs)))
        offsets = arrivals_ns(self.load * self.work.capacity, requests, self.seed)
        for number, index, offset in zip(range(requests), indices, offsets, strict=False):
            due = begin + offset
            if (wait_ns := due - clock()) > 0:
                time.sleep(wait_ns / 1e9)
                due = clock()
            self.start(number, index, due)
        if not self._all_finished.wait(PATIENCE_S):
            raise RuntimeError(f"{self.name}: not all of {requests} requests were answered in {PATIENCE_S:g} s")

    @abstractmethod
    def start(self, number: int, index: int, due: int) -> None:
        """Send `work.inputs[index]`; `number` counts the turn's requests. See to it that `finish` is called."""

    def finish(self, number: int, due: int) -> None:
        """The request has its answer, or was refused. From any thread."""
        self.latencies_ns[number] = clock() - due
        if self._finished() == self._requests:
            self._all_finished.set()

    def measure(self, passes: int) -> float:
        self.run(passes)
        return float(np.percentile(self.latencies_ns, 99)) / 1e3


class OpenLoopOvengine(OpenLoop, Ovengine):
    """`submit` and `add_done_callback`."""

    def __init__(self, work: Work, load: float, **options: Any) -> None:
        self.load = load
        super().__init__(work, f"submit, {load * work.capacity:,.0f} a second", **options)

    def start(self, number: int, index: int, due: int) -> None:
        self.model.submit(self.work.inputs[index]).add_done_callback(partial(self._keep, number, index, due))

    def _keep(self, number: int, index: int, due: int, future: ovengine.Future) -> None:
        self.answers[index] = future.result()[0]
        self.finish(number, due)


class OpenLoopQueue(OpenLoop, InferQueue):
    """AsyncInferQueue and its callback."""

    def __init__(self, work: Work, load: float, **options: Any) -> None:
        self.load = load
        super().__init__(work, **options)
        self.detail += f"; {load * work.capacity:,.0f} a second"
        self.queue.set_callback(self._take)

    def start(self, number: int, index: int, due: int) -> None:
        self.queue.start_async(self.work.inputs[index], (number, index, due))

    def _take(self, request: ov.InferRequest, of: tuple[int, int, int]) -> None:
        number, index, due = of
        self.answers[index] = request.get_output_tensor(0).data.copy()
        self.finish(number, due)
