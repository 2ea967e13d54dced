"""A loaded model: the native half with what Python adds around it (plan, limits, many items at once)."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any

from ovengine._bulk import AsyncMap, map_as_completed, map_in_order
from ovengine._core import Compiled, CpuBudget, Inputs, NativeModel, Result, port_keys
from ovengine._limits import UNCHANGED, Unchanged, changed_limits
from ovengine._preparation import Preparation
from ovengine.config import check_integer
from ovengine.errors import EngineClosed, ForkedError
from ovengine.plan import Plan, TensorInfo
from ovengine.stats import ModelStats

__all__ = ["Model"]

# Requests that `map` keeps in flight, in batches per lane: one runs, one is ready, one is being written, one is read.
WINDOW_BATCHES = 4
LEAST_WINDOW = 16


class Model(NativeModel):
    """A loaded model. Any thread or event loop may send it requests. Made by `load`.

    Call it (`model(x)`) to wait for one result, `submit` for a future, `await ainfer(x)` on an event loop,
    `infer_rows` for many rows at once, `map` for a stream. Requests are independent, also on a model with state: each
    starts from the initial state. Open a `session` to carry state from one request to the next.

    Between submission and result no Python code runs.

    Example:
        >>> with ovengine.load("model.onnx") as model:
        ...     future = model.submit(x)
        ...     y = future.result()["y"]
    """

    _plan: Plan
    _preparation: Preparation
    _limits_lock: threading.RLock  # of the plan and the core's limits together
    _changes: deque[Callable[[Plan], Plan]]  # that are to be put in force; under the lock
    _changing = False
    _on_close: Callable[[Model], None] | None = None

    @classmethod
    def _start(
        cls,
        plan: Plan,
        lanes: Sequence[tuple[str, Mapping[int, Compiled]]],
        policy: object,
        budget: CpuBudget | None = None,
    ) -> Model:
        """Start the lanes of a plan.

        Args:
            plan: what `lanes` were compiled for.
            lanes: for each lane of the plan, its device and its compiled models by batch size.
            policy: the name of a built-in scheduler, or a PyCapsule named `ovengine.policy`.
            budget: CPUs that the lanes share with other models; None: no limit.
        """
        threads = [lane.threads for lane in plan.lanes]
        if budget is not None and sum(threads) > budget.cpus:
            budget = None  # more than there are is what somebody asked for
        ladder_cost_us = {size: plan.batch.cost_us.get(size, 0.0) for size in plan.ladder}
        model = cls(
            name=plan.name,
            inputs=[_port(tensor) for tensor in plan.inputs],
            outputs=[_port(tensor) for tensor in plan.outputs],
            mode=plan.mode,
            lanes=lanes,
            cost_us=ladder_cost_us,
            policy=policy,
            max_queue_size=plan.max_queue_size,
            max_queue_delay_us=plan.batch.max_queue_delay_us,
            queue_full_action=plan.queue_full_action,
            budget=budget,
            threads=threads,
        )
        model._plan = plan
        model._preparation = Preparation(plan.name)
        model._limits_lock = threading.RLock()
        model._changes = deque()
        return model

    def _grow(self, draft: Plan, plan: Plan, lanes: Sequence[tuple[str, Mapping[int, Compiled]]]) -> None:
        """Go on with a plan that has other batch sizes. What was `set` since `draft` stays.

        Args:
            draft: the plan so far.
            plan: the new one, with all batch sizes of `draft` if that has larger ones than 1.
            lanes: as for `start`; what is compiled for sizes of `draft` is not used.
        """
        known = draft.ladder
        if plan.ladder != known:
            missing = [(device, {n: one for n, one in sizes.items() if n not in known}) for device, sizes in lanes]
            self._install(lanes=missing, cost_us={size: plan.batch.cost_us[size] for size in plan.ladder})

        def grown(now: Plan) -> Plan:
            delay_us = now.batch.max_queue_delay_us
            if delay_us == draft.batch.max_queue_delay_us:
                delay_us = plan.batch.max_queue_delay_us
            return replace(
                plan,
                batch=replace(plan.batch, max_queue_delay_us=delay_us),
                scheduler=now.scheduler,
                max_batch_size=now.max_batch_size,
                max_queue_size=now.max_queue_size,
            )

        self._change(grown)

    def _change(self, change: Callable[[Plan], Plan]) -> None:
        """Put a plan in force that is made from the one in force. Changes are made one after the other."""
        with self._limits_lock:
            self._changes.append(change)
            if self._changing:
                return  # a signal handler has interrupted the loop below, which goes on with this change
            while self._changes:  # also one that comes when the inner loop is over
                self._changing = True
                try:
                    while self._changes:
                        self._put_in_force(self._changes.popleft()(self._plan))
                finally:
                    self._changing = False

    def _put_in_force(self, plan: Plan) -> None:
        """Its limits. In a change."""
        self._set_limits(
            max_batch_size=plan.most_rows,
            max_queue_size=plan.max_queue_size,
            max_queue_delay_us=plan.batch.max_queue_delay_us,
        )
        self._plan = plan
        for child in self._class_models:
            assert isinstance(child, Model)
            with contextlib.suppress(EngineClosed):  # it makes room for another class
                child._follow(plan)

    def _follow(self, parent: Plan) -> None:
        """The limits of the model whose row class this is."""

        def following(now: Plan) -> Plan:
            batch = replace(now.batch, max_queue_delay_us=parent.batch.max_queue_delay_us)
            limits = (parent.max_batch_size, parent.max_queue_size)
            return replace(now, batch=batch, max_batch_size=limits[0], max_queue_size=limits[1])

        self._change(following)

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Wait until all batch sizes of the plan, and of row classes that are being made, are compiled and in use.

        A model serves as soon as `load` returns, at first one row at a time; waiting is for measurements.

        Args:
            timeout: seconds to wait; None waits as long as it takes.

        Returns:
            False when the time is over.

        Raises:
            ModelError: the preparation failed; the text says why. The model goes on with the batch sizes that it has.
            EngineClosed, ForkedError: the model was closed before it was ready, or belongs to the parent process.
        """
        until = None if timeout is None else time.monotonic() + timeout
        ready = self._preparation.wait(timeout)
        for child in self._class_models:
            ready = child.wait_ready(None if until is None else max(0.0, until - time.monotonic())) and ready
        return ready

    @property
    def name(self) -> str:
        """The name given to `load`; without one, the model is named after its source."""
        return self._plan.name

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """A `TensorInfo` for each input: name, shape (-1 where it may vary) and dtype."""
        return self._plan.inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """A `TensorInfo` for each output: name, shape (-1 where it may vary) and dtype."""
        return self._plan.outputs

    @property
    def plan(self) -> Plan:
        """What was decided at load, and why, with the limits in force. Print it.

        It is replaced by a new `Plan` when larger batches are ready, and by `set`.
        """
        return self._plan

    @property
    def row_classes(self) -> tuple[dict[str | int, tuple[int, ...]], ...]:
        """Shapes, by input, that have static batch sizes of their own; for models with dynamic dimensions.

        A shape that comes often gets its own batch sizes in the background. The least recently used shape loses them
        when another one needs the room. A shape here is all dimensions but the number of rows.
        """
        keys = port_keys(self.inputs)
        return tuple(dict(zip(keys, shapes, strict=True)) for shapes in self._class_shapes)

    def set(
        self,
        *,
        max_queue_delay_us: int | Unchanged = UNCHANGED,
        max_batch_size: int | Unchanged | None = UNCHANGED,
        max_queue_size: int | Unchanged | None = UNCHANGED,
    ) -> None:
        """Change limits while requests run. A limit that is not given stays as it is; `plan` shows those in force.

        A lower limit holds for later requests: those accepted before keep their place. A signal handler may call this;
        if it interrupts another `set`, its limits are in force when both have returned.

        Args:
            max_queue_delay_us: microseconds that a partial batch may wait for more rows; 0 never waits. Holds for a
                batch that waits already.
            max_batch_size: rows of the largest batch, up to the largest compiled size; None: that size.
            max_queue_size: requests that may wait; one more raises QueueFull. None lets callers wait for room. At most
                16384, or what was given to `load` if that was more.

        Raises:
            ConfigError: a limit is out of range. No limit is changed then.
            EngineClosed, ForkedError: the model is closed, or belongs to the parent process.
        """
        # Larger batches may be on their way, or be those of row classes.
        is_final = self._preparation.done and self._plan.mode != "dynamic"

        def changed(now: Plan) -> Plan:
            largest = now.ladder[-1] if is_final else None
            return changed_limits(now, max_queue_delay_us, max_batch_size, max_queue_size, largest, self._ring_capacity)

        changed(self._plan)  # raises what there is to raise, also where another call is to make the change
        self._change(changed)

    def stats(self) -> ModelStats:
        """Return a snapshot of the counters, a `ModelStats`. May be called at any time, also after `close`."""
        return ModelStats.of(self._native_stats())

    def map(
        self,
        iterable: Iterable[Inputs],
        *,
        window: int | None = None,
        ordered: bool = True,
        priority: int | None = None,
        group: Hashable | None = None,
    ) -> Iterator[Result]:
        """Run every item of an iterable lazily, with at most `window` requests in flight.

        The first error, of the iterable or of a request, ends the iteration. Requests in flight are cancelled then, and
        when the iterator is closed early.

        Args:
            iterable: yields inputs as `submit` takes them. It is read only as results are taken.
            window: requests in flight; None: enough to keep all lanes busy with requests of one row.
            ordered: True yields results in the order of the items, False as they complete.
            priority: of each request, as for `submit`.
            group: of all requests, as for `submit`.

        Returns:
            An iterator of `Result`.

        Raises:
            ConfigError: `window` is no integer of at least 1.
            The iterator raises what `submit` and `Future.result` raise.
        """
        limit = self._window(window)
        submit = partial(self.submit, priority=priority, group=group)
        results = map_in_order if ordered else map_as_completed
        return results(submit, iterable, limit)

    def amap(
        self,
        iterable: Iterable[Inputs] | AsyncIterable[Inputs],
        *,
        window: int | None = None,
        ordered: bool = True,
        priority: int | None = None,
        group: Hashable | None = None,
    ) -> AsyncIterator[Result]:
        """Like `map`, for `async for`. Yields a result as soon as it is there, also while the next item is awaited.

        Args:
            iterable: as for `map`, or an async iterable.
            window: as for `map`.
            ordered: as for `map`.
            priority: as for `submit`.
            group: as for `submit`.

        Returns:
            An async iterator of `Result`.

        Raises:
            ConfigError: `window` is no integer of at least 1.
            The iterator raises what `ainfer` and `Future.result` raise.
        """
        submit = partial(self.ainfer, priority=priority, group=group)
        return AsyncMap(submit, self._window(window), ordered).run(iterable)

    def _begin_close(self, timeout: float | None) -> None:
        super()._begin_close(timeout)
        self._preparation.stop(EngineClosed(f"model {self.name!r} was closed before all batch sizes were ready"))

    def _finish_close(self) -> bool:
        served = super()._finish_close()
        notify, self._on_close = self._on_close, None
        if notify is not None:
            notify(self)
        return served

    def _mark_forked(self) -> None:
        """In a forked child: every call raises ForkedError from now on."""
        self._limits_lock = threading.RLock()  # another thread of the parent may have held it
        self._changing = False
        self._changes.clear()
        self._preparation = Preparation(self.name)
        self._preparation.refuse(ForkedError(f"model {self.name!r} belongs to the parent process"))
        self._on_close = None
        super()._mark_forked()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{len(self._plan.lanes)} lanes, ladder {self._plan.ladder}"
        return f"<ovengine.Model {self.name!r}: {state}>"

    def _window(self, window: int | None) -> int:
        if window is None:
            return max(LEAST_WINDOW, WINDOW_BATCHES * len(self._plan.lanes) * self._plan.most_rows)
        return check_integer("window", window, 1) or 1


def _port(tensor: TensorInfo) -> tuple[str, tuple[str, ...], tuple[int, ...], Any, str, tuple[tuple[int, int], ...]]:
    assert tensor.shape is not None  # the planner refuses models of dynamic rank
    return tensor.name, tensor.names, tensor.shape, tensor.dtype, tensor.element_type, tensor.limits
