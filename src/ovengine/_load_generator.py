"""Load on a model: closed and open loop, latencies and data. What `ovengine bench` and the tuner measure with."""

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

from ovengine._core import port_keys
from ovengine.errors import InputError, OvengineError, QueueFull

if TYPE_CHECKING:
    from ovengine._core import Future
    from ovengine.config import Shapes
    from ovengine.model import Model
    from ovengine.plan import Plan, TensorInfo

DISTINCT_INPUTS = 16

Inputs = Mapping[Any, npt.NDArray[Any]]
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
        """Wait until nothing is in flight. Raises the error of a request that failed."""

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

    def __init__(self, model: Model, clients: int, *, blocking: bool) -> None:
        self._model = model
        self._clients = clients
        self._blocking = blocking
        self._in_flight = _Counter()
        self._failure: OvengineError | None = None
        plan = model.plan
        self.detail = f"{len(plan.lanes)} lanes, ladder {','.join(map(str, plan.ladder))}"

    def answer(self, inputs: Inputs) -> list[npt.NDArray[Any]]:
        result = self._model.infer(inputs)
        return [np.array(result[index]) for index in range(len(result))]

    def closed_loop(self, data: Sequence[Inputs], seconds: float) -> Sample:
        if self._blocking:
            return blocking_clients([self._model.infer] * self._clients, data, seconds)
        submit, clients = self._model.submit, self._clients
        pending: deque[tuple[int, Future]] = deque()
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
        def finished(future: Future) -> None:
            try:
                future.result()
                done()
            except OvengineError as error:
                self._failure = error
            finally:
                self._in_flight.subtract()

        future = self._model.submit(inputs)
        self._in_flight.add()
        future.add_done_callback(finished)

    def drain(self) -> None:
        self._in_flight.wait_for_zero()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def batches(self) -> tuple[int, int]:
        stats = self._model.stats()
        return stats.rows, stats.batches


def blocking_clients(calls: Sequence[Callable[[Inputs], object]], data: Sequence[Inputs], seconds: float) -> Sample:
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


def default_window(plan: Plan) -> int:
    """Requests that keep every lane busy: a full batch in each, and as much again waiting."""
    return max(16, 2 * (len(plan.lanes) + 1) * plan.ladder[-1])


def make_data(plan: Plan, rows: int, data_shape: Shapes | None, seed: int) -> list[Inputs]:
    """Random inputs of the model: floats in 0..1, small integers for integer inputs (an index stays in range).

    Raises:
        InputError: a dynamic dimension that `data_shape` does not give, or rows for a model without a batch axis.
    """
    rng = np.random.default_rng(seed)
    shapes = [_data_shape(tensor, plan, rows, data_shape) for tensor in plan.inputs]
    keys = port_keys(plan.inputs)

    def one(tensor: TensorInfo, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        if np.issubdtype(tensor.dtype, np.floating):
            return rng.random(shape, np.float32).astype(tensor.dtype)
        return rng.integers(0, 2, shape).astype(tensor.dtype)

    return [dict(zip(keys, map(one, plan.inputs, shapes), strict=True)) for _ in range(DISTINCT_INPUTS)]


def _data_shape(tensor: TensorInfo, plan: Plan, rows: int, data_shape: Shapes | None) -> tuple[int, ...]:
    given: Sequence[int] | None = None
    if isinstance(data_shape, dict):
        given = next((data_shape[name] for name in tensor.names if name in data_shape), None)
    elif data_shape is not None:
        given = tuple(data_shape)  # type: ignore[arg-type]  # a sequence: the mapping was taken above
    shape = list(given if given is not None else tensor.shape or ())
    if plan.mode == "rows":
        if tensor.batch_axis is not None:
            shape[tensor.batch_axis] = rows
    elif rows > 1:
        raise InputError(f"-b {rows}: the model takes no rows (mode {plan.mode})")
    if (given is None and tensor.shape is None) or any(dimension < 0 for dimension in shape):
        raise InputError(f"input {tensor} has dynamic dimensions: give -data_shape '{tensor.name}[...]' or -shape")
    return tuple(shape)


def difference(ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> float:
    """The largest, relative to the largest magnitude of `theirs`; infinite where shapes differ."""
    if ours.shape != theirs.shape:
        return float("inf")
    if not np.issubdtype(ours.dtype, np.number) or not ours.size:
        return float(not np.array_equal(ours, theirs))
    scale = max(1e-6, float(np.abs(theirs, dtype=np.float64).max()))
    return float(np.abs(ours.astype(np.float64) - theirs).max()) / scale
