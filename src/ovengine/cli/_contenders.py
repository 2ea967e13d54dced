"""What `ovengine bench` measures: ovengine itself, and OpenVINO's own ways of running many requests.

All get the same arrays, one after the other, and hand each result to the caller: ovengine as the value of a future,
AsyncInferQueue as a copy made in its callback, for the queue reuses the memory.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import ovengine
from ovengine.errors import QueueFull

if TYPE_CHECKING:
    import openvino as ov

Inputs = Mapping[str, npt.NDArray[Any]]
clock = time.perf_counter_ns


@dataclass(frozen=True)
class Sample:
    """One round: requests answered and refused, seconds until the last answer, and each request's latency in ns."""

    requests: int
    refused: int
    seconds: float
    latencies_ns: npt.NDArray[np.int64]


class Contender(ABC):
    """One way to run requests. Used by one thread at a time."""

    name: str
    detail: str = ""

    @abstractmethod
    def answer(self, inputs: Inputs) -> list[npt.NDArray[Any]]:
        """All outputs of one request, for comparing answers."""

    @abstractmethod
    def closed_loop(self, data: Sequence[Inputs], seconds: float) -> Sample:
        """Keep the agreed number of requests in flight for so long, then wait for the last ones."""

    @abstractmethod
    def start(self, inputs: Inputs, done: Callable[[], None]) -> None:
        """Start one request; call `done`, from any thread, when its result is there. May wait for room.

        Raises:
            QueueFull: refused.
        """

    @abstractmethod
    def drain(self) -> None:
        """Wait until nothing is in flight."""

    def batches(self) -> tuple[int, int] | None:
        """Rows and batches so far; None where nobody counts them."""
        return None


def open_loop(
    contender: Contender, data: Sequence[Inputs], rate: float, *, poisson: bool, seconds: float, seed: int
) -> Sample:
    """Start requests at `rate` per second regardless of answers.

    A request's latency counts from when it was due, so that a contender that holds up the sender is charged for
    those that it delays. Where the sender slept until the time came, it counts from its waking: the timer's slack is
    nobody's fault.
    """
    gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds * 2) + 16) if poisson else None
    due_s = np.cumsum(gaps) if gaps is not None else np.arange(int(rate * seconds)) / rate
    offsets_ns = (due_s[due_s < seconds] * 1e9).astype(np.int64).tolist()
    latencies = array("q")
    refused = 0

    def record(due: int) -> None:
        latencies.append(clock() - due)

    started = clock()
    for offset, inputs in zip(offsets_ns, cycle(data), strict=False):
        due = started + offset
        if (wait_ns := due - clock()) > 0:
            time.sleep(wait_ns / 1e9)
            due = clock()
        try:
            contender.start(inputs, partial(record, due))
        except QueueFull:
            refused += 1
    contender.drain()
    elapsed = (clock() - started) / 1e9
    return Sample(len(latencies), refused, elapsed, np.array(latencies, np.int64))


class Ovengine(Contender):
    """`submit`, oldest result first, from one thread; or blocking calls from as many threads as clients."""

    name = "ovengine"

    def __init__(self, model: ovengine.Model, clients: int, *, blocking: bool) -> None:
        self._model = model
        self._clients = clients
        self._blocking = blocking
        self._in_flight = _Counter()
        plan = model.plan
        self.detail = f"{len(plan.lanes)} lanes, ladder {','.join(map(str, plan.ladder))}"

    def answer(self, inputs: Inputs) -> list[npt.NDArray[Any]]:
        result = self._model.infer(inputs)
        return [np.array(result[index]) for index in range(len(result))]

    def closed_loop(self, data: Sequence[Inputs], seconds: float) -> Sample:
        if self._blocking:
            return _blocking_clients([self._model.infer] * self._clients, data, seconds)
        submit, clients = self._model.submit, self._clients
        pending: deque[tuple[int, ovengine.Future]] = deque()
        latencies = array("q")
        refused = 0
        following = cycle(data).__next__
        started = now = clock()
        deadline = started + int(seconds * 1e9)
        # One look at the clock per request: for small models the clock would be what is measured.
        while now < deadline:
            try:
                pending.append((now, submit(following())))
                full = len(pending) >= clients
            except QueueFull:  # more clients than --max-queue-size lets in
                refused += 1
                now = clock()
                full = bool(pending)
            if full:
                began, future = pending.popleft()
                future.result()
                now = clock()
                latencies.append(now - began)
        for began, future in pending:
            future.result()
            latencies.append(clock() - began)
        return Sample(len(latencies), refused, (clock() - started) / 1e9, np.array(latencies, np.int64))

    def start(self, inputs: Inputs, done: Callable[[], None]) -> None:
        def finished(future: ovengine.Future) -> None:
            future.result()
            done()
            self._in_flight.subtract()

        future = self._model.submit(inputs)
        self._in_flight.add()
        future.add_done_callback(finished)

    def drain(self) -> None:
        self._in_flight.wait_for_zero()

    def batches(self) -> tuple[int, int]:
        stats = self._model.stats()
        return stats.rows, stats.batches


class InferQueue(Contender):
    """An AsyncInferQueue: as many requests in flight as it has infer requests."""

    def __init__(self, name: str, compiled: ov.CompiledModel, nireq: int, detail: str = "") -> None:
        import openvino as ov

        self.name = name
        self._queue = ov.AsyncInferQueue(compiled, nireq)
        self._queue.set_callback(self._on_done)
        self._outputs = len(compiled.outputs)
        self.detail = ", ".join(filter(None, [detail, f"nireq {len(self._queue)}"]))

    def _on_done(self, request: ov.InferRequest, done: Callable[[list[npt.NDArray[Any]]], None]) -> None:
        done([request.get_output_tensor(index).data.copy() for index in range(self._outputs)])

    def answer(self, inputs: Inputs) -> list[npt.NDArray[Any]]:
        answers: list[list[npt.NDArray[Any]]] = []
        self._queue.start_async(inputs, answers.append)
        self._queue.wait_all()
        return answers[0]

    def closed_loop(self, data: Sequence[Inputs], seconds: float) -> Sample:
        latencies = array("q")

        def record(began: int, _: list[npt.NDArray[Any]]) -> None:
            latencies.append(clock() - began)

        following = cycle(data).__next__
        start_async = self._queue.start_async
        started = now = clock()
        deadline = started + int(seconds * 1e9)
        while now < deadline:
            inputs = following()
            # The wait for an idle infer request is not part of the latency: in a closed loop no request is due yet.
            self._queue.get_idle_request_id()
            now = clock()
            start_async(inputs, partial(record, now))
        self._queue.wait_all()
        return Sample(len(latencies), 0, (clock() - started) / 1e9, np.array(latencies, np.int64))

    def start(self, inputs: Inputs, done: Callable[[], None]) -> None:
        self._queue.start_async(inputs, lambda _: done())

    def drain(self) -> None:
        self._queue.wait_all()


class CompiledModelCall(Contender):
    """`compiled_model(inputs)`: one blocking call after the other, in as many threads as clients."""

    name = "compiled_model()"

    def __init__(self, compiled: ov.CompiledModel, clients: int) -> None:
        # What `compiled_model(x)` does, with a request per thread: it keeps one, which no two threads can use.
        self._requests = [compiled.create_infer_request() for _ in range(clients)]
        self._outputs = len(compiled.outputs)
        self.detail = f"{clients} thread{'s' if clients > 1 else ''}"

    def _call(self, index: int) -> Callable[[Inputs], object]:
        infer = self._requests[index].infer
        return lambda inputs: infer(inputs, share_inputs=True, share_outputs=False)

    def answer(self, inputs: Inputs) -> list[npt.NDArray[Any]]:
        results = self._requests[0].infer(inputs)
        return [np.array(results[index]) for index in range(self._outputs)]

    def closed_loop(self, data: Sequence[Inputs], seconds: float) -> Sample:
        return _blocking_clients([self._call(index) for index in range(len(self._requests))], data, seconds)

    def start(self, inputs: Inputs, done: Callable[[], None]) -> None:
        self._call(0)(inputs)
        done()

    def drain(self) -> None:
        pass


def _blocking_clients(calls: Sequence[Callable[[Inputs], object]], data: Sequence[Inputs], seconds: float) -> Sample:
    """Closed loop with a thread per call; with one call, on this thread."""
    latencies = [array("q") for _ in calls]
    failures: list[BaseException] = []
    started = clock()
    deadline = started + int(seconds * 1e9)

    def client(index: int) -> None:
        call, record = calls[index], latencies[index].append
        following: Iterator[Inputs] = cycle(data)
        now = clock()
        try:
            while now < deadline:
                began = now
                call(next(following))
                now = clock()
                record(now - began)
        except BaseException as error:
            failures.append(error)

    if len(calls) == 1:
        client(0)
    else:
        threads = [threading.Thread(target=client, args=(index,)) for index in range(len(calls))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    elapsed = (clock() - started) / 1e9
    merged = np.concatenate([np.array(own, np.int64) for own in latencies])
    return Sample(len(merged), 0, elapsed, merged)


class _Counter:
    """Counts what is in flight; one thread waits for none."""

    def __init__(self) -> None:
        self._count = 0
        self._changed = threading.Condition()

    def add(self) -> None:
        with self._changed:
            self._count += 1

    def subtract(self) -> None:
        with self._changed:
            self._count -= 1
            if not self._count:
                self._changed.notify_all()

    def wait_for_zero(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._count)
