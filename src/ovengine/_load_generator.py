"""Load on a model: closed and open loop, latencies and data. What `ovengine bench` and the tuner measure with."""

from __future__ import annotations

import math
import threading
import time
from abc import ABC, abstractmethod
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
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
NEVER = 1 << 62
"""On that clock."""


@dataclass(frozen=True)
class Sample:
    """One round: requests answered and refused, seconds until the last answer, and each request's latency in ns.

    interrupted: by Ctrl-C, before the round was over.
    """

    requests: int
    refused: int
    seconds: float
    latencies_ns: npt.NDArray[np.int64]
    interrupted: bool = False


@dataclass(frozen=True)
class Limit:
    """When a round is over: at least these seconds have passed, and at least so many requests were sent."""

    seconds: float = 0.0
    requests: int = 0

    def stretches(self, data: Sequence[Inputs], sent: Callable[[], int]) -> Iterator[tuple[Callable[[], Inputs], int]]:
        """What gives the next inputs, and until when (on the clock), for one stretch after the other.

        It raises StopIteration when enough were sent; `sent` counts them.
        """
        following = cycle(data)
        if self.seconds:
            yield following.__next__, clock() + int(self.seconds * 1e9)
        if (rest := self.requests - sent()) > 0:
            yield islice(following, rest).__next__, NEVER


class Contender(ABC):
    """One way to run requests. Used by one thread at a time."""

    name: str
    detail: str = ""

    @abstractmethod
    def answer(self, inputs: Inputs) -> list[npt.NDArray[Any]]:
        """All outputs of one request, for comparing answers."""

    @abstractmethod
    def closed_loop(self, data: Sequence[Inputs], limit: Limit) -> Sample:
        """Keep the agreed number of requests in flight until the limit, then wait for the last ones."""

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
    contender: Contender, data: Sequence[Inputs], rate: float, *, poisson: bool, limit: Limit, seed: int
) -> Sample:
    """Start requests at `rate` per second regardless of answers.

    A request's latency counts from when it was due, so that a contender that holds up the sender is charged for
    those that it delays. Where the sender slept until the time came, it counts from its waking: the timer's slack is
    nobody's fault.
    """
    most = int(rate * limit.seconds * 2) + 16 + limit.requests
    gaps = np.random.default_rng(seed).exponential(1 / rate, most) if poisson else None
    due_s = np.cumsum(gaps) if gaps is not None else np.arange(most) / rate
    wanted = (due_s < limit.seconds) | (np.arange(most) < limit.requests)
    offsets_ns = (due_s[wanted] * 1e9).astype(np.int64).tolist()
    latencies = array("q")
    refused = 0
    interrupted = False

    def record(due: int) -> None:
        latencies.append(clock() - due)

    started = clock()
    try:
        for offset, inputs in zip(offsets_ns, cycle(data), strict=False):
            due = started + offset
            if (wait_ns := due - clock()) > 0:
                time.sleep(wait_ns / 1e9)
                due = clock()
            try:
                contender.start(inputs, partial(record, due))
            except QueueFull:
                refused += 1
    except KeyboardInterrupt:
        interrupted = True
    contender.drain()
    return _sample(latencies, refused, started, interrupted)


def paced_loop(contender: Contender, data: Sequence[Inputs], rate: float, clients: int, limit: Limit) -> Sample:
    """A closed loop that starts no more than `rate` requests per second, and has no more than `clients` under way."""
    room = threading.Semaphore(clients)
    latencies = array("q")
    refused = 0
    interrupted = False

    def record(began: int) -> None:
        latencies.append(clock() - began)
        room.release()

    def sent_so_far() -> int:
        return sent

    started = clock()
    sent = 0
    try:
        for following, deadline in limit.stretches(data, sent_so_far):
            while clock() < deadline:
                room.acquire()
                if (wait_s := sent / rate - (clock() - started) / 1e9) > 0:
                    time.sleep(wait_s)
                sent += 1
                try:
                    contender.start(following(), partial(record, clock()))
                except QueueFull:
                    refused += 1
                    room.release()
                except StopIteration:
                    room.release()
                    break
    except KeyboardInterrupt:
        interrupted = True
    contender.drain()
    return _sample(latencies, refused, started, interrupted)


def _sample(latencies: array[int], refused: int, started: int, interrupted: bool) -> Sample:
    elapsed = (clock() - started) / 1e9
    return Sample(len(latencies), refused, elapsed, np.array(latencies, np.int64), interrupted)


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

    def closed_loop(self, data: Sequence[Inputs], limit: Limit) -> Sample:
        if self._blocking:
            return blocking_clients([self._model.infer] * self._clients, data, limit)
        submit, clients = self._model.submit, self._clients
        pending: deque[tuple[int, Future]] = deque()
        latencies = array("q")
        refused = 0
        interrupted = False
        started = now = clock()
        try:
            for following, deadline in limit.stretches(data, lambda: len(latencies) + len(pending)):
                # One look at the clock per request: for small models the clock would be what is measured.
                while now < deadline:
                    try:
                        pending.append((now, submit(following())))
                        full = len(pending) >= clients
                    except QueueFull:  # more clients than --max-queue-size lets in
                        refused += 1
                        now = clock()
                        full = bool(pending)
                    except StopIteration:
                        break
                    if full:
                        began, future = pending.popleft()
                        future.result()
                        now = clock()
                        latencies.append(now - began)
        except KeyboardInterrupt:
            interrupted = True
        for began, future in pending:
            future.result()
            latencies.append(clock() - began)
        return _sample(latencies, refused, started, interrupted)

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


def blocking_clients(calls: Sequence[Callable[[Inputs], object]], data: Sequence[Inputs], limit: Limit) -> Sample:
    """Closed loop with a thread per call; with one call, on this thread."""
    latencies = [array("q") for _ in calls]
    failures: list[Exception] = []
    threads: list[threading.Thread] = []
    over = interrupted = False
    started = clock()

    def client(index: int, following: Callable[[], Inputs], deadline: int) -> None:
        call, record = calls[index], latencies[index].append
        now = clock()
        try:
            while now < deadline and not over:
                inputs = following()
                began = now
                call(inputs)
                now = clock()
                record(now - began)
        except StopIteration:
            pass
        except Exception as error:
            failures.append(error)

    try:
        # All threads take from one iterator, which is written in C: no two get the same item.
        for following, deadline in limit.stretches(data, lambda: sum(map(len, latencies))):
            if len(calls) == 1:
                client(0, following, deadline)
            else:
                threads = [threading.Thread(target=client, args=(n, following, deadline)) for n in range(len(calls))]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            if failures:
                break
    except KeyboardInterrupt:
        interrupted = True
    over = True
    for thread in threads:
        if thread.ident is not None:
            thread.join()
    if failures:
        raise failures[0]
    merged = array("q")
    for own in latencies:
        merged.extend(own)
    return _sample(merged, 0, started, interrupted)


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


def make_data(plan: Plan, rows: int | None, data_shape: Shapes | None, seed: int) -> list[Inputs]:
    """Random inputs of the model: values that its operators take where they rely on them, as on indices; else floats
    from 0 to 1 and integers 0 and 1.

    Args:
        plan: of the model.
        rows: of each request; None for as many as `data_shape` has, or 1.
        data_shape: of an input that has dynamic dimensions, by name, or of all.
        seed: of the values.

    Raises:
        InputError: a dynamic dimension that `data_shape` does not give, or rows for a model without a batch axis.
    """
    rng = np.random.default_rng(seed)
    shapes = [_data_shape(tensor, plan, rows, data_shape) for tensor in plan.inputs]
    keys = port_keys(plan.inputs)

    def one(tensor: TensorInfo, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        low, high = tensor.values or (0, 1)
        if np.issubdtype(tensor.dtype, np.floating):
            return rng.uniform(low, high, shape).astype(tensor.dtype)
        return rng.integers(math.ceil(low), math.floor(high), shape, endpoint=True).astype(tensor.dtype)

    return [dict(zip(keys, map(one, plan.inputs, shapes), strict=True)) for _ in range(DISTINCT_INPUTS)]


def _data_shape(tensor: TensorInfo, plan: Plan, rows: int | None, data_shape: Shapes | None) -> tuple[int, ...]:
    given: Sequence[int] | None = None
    if isinstance(data_shape, dict):
        given = next((data_shape[name] for name in tensor.names if name in data_shape), None)
    elif data_shape is not None:
        given = tuple(data_shape)  # type: ignore[arg-type]  # a sequence: the mapping was taken above
    shape = list(given if given is not None else tensor.shape or ())
    if given is not None and tensor.shape is not None and len(given) != len(tensor.shape):
        raise InputError(f"-data_shape {list(given)} has {len(given)} dimensions, input {tensor} {len(tensor.shape)}")
    if plan.mode == "rows":
        if tensor.batch_axis is not None and (rows is not None or shape[tensor.batch_axis] < 0):
            shape[tensor.batch_axis] = rows or 1
    elif rows is not None and rows > 1:
        raise InputError(f"-b {rows}: the model takes no rows (mode {plan.mode}); -shape gives it another batch size")
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
