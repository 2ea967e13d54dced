"""A loaded model: the native half with what Python adds around it (plan, limits, many items at once)."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any

from ovengine._bulk import AsyncMap, map_as_completed, map_in_order
from ovengine._core import Compiled, CpuBudget, Inputs, NativeModel, Result
from ovengine._costs import CostTable
from ovengine._limits import UNCHANGED, Unchanged, changed_limits
from ovengine._preparation import Preparation
from ovengine.errors import ConfigError, EngineClosed
from ovengine.plan import Plan, TensorInfo
from ovengine.stats import ModelStats

__all__ = ["Model"]

# Requests that `map` keeps in flight, in batches per lane: one runs, one is ready, one is being written, one is read.
WINDOW_BATCHES = 4
LEAST_WINDOW = 16


class Model(NativeModel):
    """A model ready to take requests, from any thread or event loop. Made by `load`.

    `infer`, `submit`, `ainfer`, `infer_rows`, `lease` and `session` are the native methods: no Python runs between
    submission and result. Each request stands for itself, also on a model with state; a `session` carries state on.

    Example:
        >>> with ovengine.load("model.onnx") as model:
        ...     future = model.submit(x)
        ...     y = future.result()["y"]
    """

    _plan: Plan
    _preparation: Preparation
    _limits_lock: threading.Lock  # of the plan and the core's limits together
    _on_close: Callable[[Model], None] | None = None
    _table: CostTable | None = None

    @classmethod
    def _start(
        cls,
        plan: Plan,
        lanes: Sequence[tuple[str, Mapping[int, Compiled]]],
        policy: object,
        budget: CpuBudget | None = None,
    ) -> Model:
        """Start the lanes of a plan; used by `load` and `ovengine.testing`.

        Args:
            plan: what `lanes` were compiled for.
            lanes: for each lane of the plan its device and its compiled models by batch size.
            policy: the name of a built-in kind, or a PyCapsule named `ovengine.policy`.
            budget: CPUs that the lanes share with those of other models; None for no limit.
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
        model._limits_lock = threading.Lock()
        return model

    def _grow(self, draft: Plan, plan: Plan, lanes: Sequence[tuple[str, Mapping[int, Compiled]]]) -> None:
        """Go on with a plan that has other batch sizes; `lanes` as for `start`. What was `set` since `draft` stays."""
        known = draft.ladder
        if plan.ladder != known:
            missing = [(device, {n: one for n, one in sizes.items() if n not in known}) for device, sizes in lanes]
            self._install(lanes=missing, cost_us={size: plan.batch.cost_us[size] for size in plan.ladder})
        with self._limits_lock:
            now = self._plan
            delay_us = now.batch.max_queue_delay_us
            if delay_us == draft.batch.max_queue_delay_us:
                delay_us = plan.batch.max_queue_delay_us
            self._put_in_force(
                replace(
                    plan,
                    batch=replace(plan.batch, max_queue_delay_us=delay_us),
                    scheduler=now.scheduler,
                    max_batch_size=now.max_batch_size,
                    max_queue_size=now.max_queue_size,
                )
            )

    def _put_in_force(self, plan: Plan) -> None:
        """Its limits. Under the lock."""
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
        with self._limits_lock:
            plan = replace(self._plan, max_batch_size=parent.max_batch_size, max_queue_size=parent.max_queue_size)
            batch = replace(plan.batch, max_queue_delay_us=parent.batch.max_queue_delay_us)
            self._put_in_force(replace(plan, batch=batch))

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Wait until all batch sizes of the plan are compiled and in use, for up to `timeout` seconds.

        A model serves from the moment that `load` returns, at first a row at a time. Returns False when the time is
        over. Raises EngineClosed when the model was closed before. Row classes that are being made count as well.
        """
        until = None if timeout is None else time.monotonic() + timeout
        ready = self._preparation.wait(timeout)
        for child in self._class_models:
            ready = child.wait_ready(None if until is None else max(0.0, until - time.monotonic())) and ready
        return ready

    @property
    def name(self) -> str:
        """As given to `load`, or after the source."""
        return self._plan.name

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """Name, shape and dtype of each input; -1 where the shape may vary."""
        return self._plan.inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """Name, shape and dtype of each output; -1 where the shape may vary."""
        return self._plan.outputs

    @property
    def plan(self) -> Plan:
        """What was decided, and why, with the limits that are in force now. Print it.

        A new one takes its place when larger batches are ready, or limits are `set`.
        """
        return self._plan

    @property
    def row_classes(self) -> tuple[dict[str, tuple[int, ...]], ...]:
        """Of a model with dynamic dimensions: the shapes, by input, that have static batch sizes of their own now.

        A shape (all dimensions but the number of rows) that comes often gets them in the background, and loses them to
        another one when it is the least recently used.
        """
        names = [tensor.name for tensor in self.inputs]
        return tuple(dict(zip(names, shapes, strict=True)) for shapes in self._class_shapes)

    def set(
        self,
        *,
        max_queue_delay_us: int | Unchanged = UNCHANGED,
        max_batch_size: int | Unchanged | None = UNCHANGED,
        max_queue_size: int | Unchanged | None = UNCHANGED,
    ) -> None:
        """Change limits while requests run. What is not given stays as it is; `plan` shows what is in force.

        Requests that were accepted before keep their place and their rows: a lower limit holds for later ones.

        Args:
            max_queue_delay_us: how long a partial batch may be held back for more rows, microseconds; 0 never waits.
                A batch that is being held goes by the new delay.
            max_batch_size: rows of a batch at most, up to the largest size of the ladder, which None stands for.
            max_queue_size: requests that may wait, QueueFull beyond; None lets callers wait for room. No more than
                16384, or what was given to `load` if that was more.

        Raises:
            ConfigError: a limit is out of range; none is changed then.
            EngineClosed, ForkedError: the model is closed, or belongs to the parent process.
        """
        with self._limits_lock:
            # Larger batches may be on their way, or be those of row classes.
            is_final = self._preparation.done and self._plan.mode != "dynamic"
            largest = self._plan.ladder[-1] if is_final else None
            self._put_in_force(
                changed_limits(
                    self._plan, max_queue_delay_us, max_batch_size, max_queue_size, largest, self._ring_capacity
                )
            )

    def stats(self) -> ModelStats:
        """A snapshot of the counters; may be called at any time, also after `close`."""
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
        """Run every item, lazily: at most `window` requests are in flight.

        Args:
            iterable: inputs as `submit` takes them; read from only as results are taken.
            window: requests in flight; by default enough to keep all lanes busy with requests of one row.
            ordered: yield in the order of the items, otherwise as they complete.
            priority: of each request, as for `submit`.
            group: of all requests, as for `submit`.

        The first error (of the iterable, or of a request) ends the iteration; what is in flight is then cancelled,
        as it is when the iterator is closed early.
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
        """Like `map`, for `async for`. Results are yielded as they come, also while the next item is awaited."""
        submit = partial(self.ainfer, priority=priority, group=group)
        return AsyncMap(submit, self._window(window), ordered).run(iterable)

    def close(self, timeout: float | None = None) -> bool:
        """Finish what is pending, for up to `timeout` seconds (None: as long as it takes), and stop the lanes.

        What is still pending then gets EngineClosed. Safe to call twice. Returns whether all requests were served.
        """
        self._preparation.stop(EngineClosed(f"model {self.name!r} was closed before all batch sizes were ready"))
        served = super().close(timeout)
        table, self._table = self._table, None
        if table is not None:
            table.compare(self._costs())
        notify, self._on_close = self._on_close, None
        if notify is not None:
            notify(self)
        return served

    def _mark_forked(self) -> None:
        """In a forked child: every call says so from now on."""
        self._limits_lock = threading.Lock()  # another thread of the parent may have held it
        self._preparation = Preparation(self.name)
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
        if isinstance(window, bool) or not isinstance(window, int) or window < 1:
            raise ConfigError(f"window must be None or an integer of at least 1, not {window!r}")
        return window


def _port(tensor: TensorInfo) -> tuple[str, tuple[str, ...], tuple[int, ...], Any, str, tuple[tuple[int, int], ...]]:
    assert tensor.shape is not None  # the planner refuses models of dynamic rank
    return tensor.name, tensor.names, tensor.shape, tensor.dtype, tensor.element_type, tensor.limits
