"""Compiled models of one load: made on demand, measured, kept for the lanes."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar

from ovengine import _costs
from ovengine._batch_axis import with_batch
from ovengine._cache import Cache
from ovengine._core import Compiled, Graph, Port, Runtime, openvino_version
from ovengine._costs import CostTable
from ovengine._memory import Ledger, NoRoom, check_trial, with_shared_lanes
from ovengine._samples import NOTHING_KNOWN, SampledValues, Samples
from ovengine._values import UnknownValues, Values
from ovengine.config import CORE_PROPERTIES
from ovengine.errors import ModelError, PropertyError
from ovengine.hookspecs import Blob
from ovengine.plan import BatchAxis, DevicePlan, format_bytes

PRECISION = "INFERENCE_PRECISION_HINT"
# What lanes are made of.
THREADING = frozenset(["NUM_STREAMS", "INFERENCE_NUM_THREADS", "ENABLE_CPU_PINNING"])
# Lanes that are measured together: enough to meet on a shared cache, without a compilation for each of many cores.
MEASURED_LANES = 4
LONG_SECONDS = 0.1
# For one size, beside a warm-up.
MEASURE_SECONDS = 0.05

# Of each lane: its device, and its compiled models by batch size.
Lanes = list[tuple[str, dict[int, Compiled]]]
# Device, lane, batch size.
Key = tuple[int, int, "int | None"]
Item = TypeVar("Item")
Value = TypeVar("Value")


class Compiler:
    """Compiles one model for the lanes of its devices.

    `rows` is a batch size, or None for the model as it is (modes `whole` and `dynamic`, and blobs). At a batch size the
    batch axis, which `axis` tells, is the first one of each input and output. With a memory limit (bytes) whatever
    compiles raises NoRoom instead of going beyond it.
    """

    def __init__(
        self,
        runtime: Runtime,
        model: Graph | Blob,
        devices: Sequence[DevicePlan],
        config: Mapping[str, Any],
        axis: BatchAxis | None = None,
        memory_limit: int | None = None,
        samples: Samples | None = None,
    ) -> None:
        self.devices = tuple(devices)
        self.samples = samples
        self._runtime = runtime
        self._model = model
        self._config = config
        self._axis = axis
        self._graphs: dict[int, Graph] = {}
        self._values: dict[tuple[tuple[int | None, ...], int | None], Values] = {}
        self._compiled: dict[Key, Compiled] = {}
        # Measured by this load; `table` has what is known from others, too.
        self._measured: set[int | None] = set()
        self.table = CostTable(Cache(None), None)
        self.ledger = Ledger(memory_limit, self.constant_bytes)
        # Called before each step that takes long; may raise to end it all.
        self.between_steps: Callable[[], None] = lambda: None

    def along(self, axis: BatchAxis) -> Compiler:
        """For another batch axis by which a row is the same array, instead of this one; what is compiled for one row
        serves there, too.
        """
        self.keep_only([1])
        other = Compiler(self._runtime, self._model, self.devices, self._config, axis, samples=self.samples)
        other._compiled, other.ledger, other.between_steps = self._compiled, self.ledger, self.between_steps
        return other

    def use_kept_costs(self, cache: Cache, cpus: int) -> None:
        """Take for measured what an earlier load measured, with as many CPUs."""
        known = None if cache.directory is None else self.identity()
        if known is not None:
            plan = self.devices[0]
            streams = {name: str(plan.properties.get(name)) for name in ("NUM_STREAMS", "INFERENCE_NUM_THREADS")}
            lanes = [plan.lanes, plan.threads_per_lane, plan.shared]
            known = {**known, **streams, "lanes": lanes, "cpus": cpus, "costs": _costs.VERSION}
        self.table = CostTable(cache, known)
        self.ledger.kept = self.table.bytes

    def keep_costs(self) -> None:
        """For later loads."""
        self.table.bytes.update((rows, self.ledger.expected(rows)) for rows in self._measured)
        self.table.save()

    def share_lanes_for_room(self, rows: int | None, sizes: int) -> str | None:
        """Under a memory limit: let all lanes of a device run one compiled model where one for each, at so many batch
        sizes, would not fit. Returns why. Raises NoRoom when there is none even so.
        """
        limit = self.ledger.limit
        if limit is None:
            return None
        self.compiled(rows)
        each, copies = self.ledger.expected(rows), self.copies
        if copies == len(self.devices) or each * copies * sizes <= limit:
            return None
        self.devices = tuple(with_shared_lanes(plan) for plan in self.devices)
        self._compiled.clear()
        self.ledger = Ledger(limit, self.constant_bytes)
        self.compiled(rows)
        return f"{copies} copies of {format_bytes(each)} at {sizes} batch sizes are more than {format_bytes(limit)}"

    @property
    def copies(self) -> int:
        """Compiled models per batch size, over all devices."""
        return sum(plan.compiled_copies for plan in self.devices)

    def keep_only(self, sizes: Iterable[int]) -> None:
        """Let go of what is compiled for other batch sizes."""
        kept = set(sizes)
        for rows in self.ledger.sizes:
            if rows not in kept:
                self._forget(rows)

    @property
    def is_blob(self) -> bool:
        """Whether the model was compiled before, for one shape."""
        return isinstance(self._model, Blob)

    @property
    def constant_bytes(self) -> int:
        """Weights that each compiled model holds; for a blob its own size."""
        return len(self._model.data) if isinstance(self._model, Blob) else self._model.constant_bytes

    def compiled(self, rows: int | None, device: int = 0, lane: int = 0) -> Compiled:
        """For one lane; the same object for all lanes of a device that shares. Raises ModelError, PropertyError."""
        (compiled,) = self._compiled_at([(device, lane, rows)])
        return compiled

    def _compiled_at(self, places: Sequence[Key], threads: int = MEASURED_LANES) -> list[Compiled]:
        """For several lanes, at once."""
        keys = [(device, 0 if self.devices[device].shared else lane, rows) for device, lane, rows in places]
        missing = [key for key in dict.fromkeys(keys) if key not in self._compiled]
        for rows, keys_of_size in itertools.groupby(missing, key=lambda key: key[2]):
            group = list(keys_of_size)
            self.ledger.book(rows, len(group) + sum(key[2] == rows for key in self._compiled))
            with self._weigh(rows, len(group)):
                # OpenVINO compiles on one thread for the most part, and without the GIL.
                made = at_once(lambda key: self._compile(key[2], self.devices[key[0]]), group, threads)
            self._compiled.update(zip(group, made, strict=True))
        return [self._compiled[key] for key in keys]

    @contextlib.contextmanager
    def _weigh(self, rows: int | None, models: int, *, used: bool = False) -> Iterator[None]:
        """Around what makes so many models of this size, or uses them for the first time."""
        try:
            with self.ledger.weigh(rows, models, added=used):
                yield
        except NoRoom:
            self._forget(rows)
            raise

    def _forget(self, rows: int | None) -> None:
        for key in [key for key in self._compiled if key[2] == rows]:
            del self._compiled[key]
        self.ledger.release(rows)

    def measure(self, rows: int | None) -> float:
        """Seconds of one inference while the first device's other lanes are busy as well; measured once. Raises
        UnknownValues.

        Lanes share caches and memory: what a batch size is worth shows only when all of them run it.
        """
        if rows not in self.table.seconds:
            return self.measure_again(rows)
        self.ledger.book(rows, self.copies)
        return self.table.seconds[rows]

    def measure_again(self, rows: int | None) -> float:
        """The same, measured once more: the least of all measurements. What an earlier load measured stands."""
        seconds = self.table.seconds
        first_time = rows not in self._measured
        if first_time and rows in seconds:
            return seconds[rows]
        values = self.values(rows)
        self.check_trial(rows)
        self.between_steps()
        lanes = range(min(self.devices[0].lanes, MEASURED_LANES))
        if self.ledger.limit is not None:
            self.compiled(rows)  # one tells how much those of the other lanes take
        self.ledger.book(rows, self.copies)
        compiled = self._compiled_at([(0, lane, rows) for lane in lanes])
        inputs = values.to_measure(compiled[0].inputs)
        # What takes long does not vary much: a warm-up and one run of it have to do.
        min_runs = 1 if seconds.get(1, 0.0) * (rows or 1) > LONG_SECONDS else 3
        # A figure that is asked for again matters: it gets longer.
        limit = MEASURE_SECONDS if first_time else 2 * MEASURE_SECONDS
        weighing = self._weigh(rows, len(compiled), used=True) if first_time else contextlib.nullcontext()
        with weighing:
            found = at_once(lambda one: one.measure(inputs, min_runs=min_runs, max_seconds=limit), compiled)
        self._measured.add(rows)
        seconds[rows] = min(sum(found) / len(found), seconds.get(rows, math.inf))
        return seconds[rows]

    def values(self, *sizes: int | None) -> Values:
        """Inputs for trial runs at each of these batch sizes: the caller's samples, or made up.

        Raises UnknownValues for a blob without samples.
        """
        if self.samples is None:
            return self.made_up(*sizes)
        ports = self._ports(sizes[0])
        made_up = Values([NOTHING_KNOWN] * len(ports)) if isinstance(self._model, Blob) else self.made_up(*sizes)
        axes = None if sizes[0] is None or self._axis is None else self._axis.inputs
        groups = self.samples.groups(ports, axes)
        return SampledValues(made_up, groups, len(ports)) if groups else made_up

    def check_samples(self, axis: BatchAxis) -> None:
        """Raise ConfigError where a request of such a model could not be like the samples."""
        if self.samples is None:
            return
        if axis.batchable or axis.mode == "rows":
            ports = self._ports(1)
            self.samples.check(ports, axis.inputs or [0] * len(ports))
        elif axis.mode == "dynamic":  # samples of a whole batch may be for rows, which then were refused
            self.samples.check(self._ports(None), None)

    def _ports(self, rows: int | None) -> tuple[Port, ...]:
        return self.compiled(None).inputs if isinstance(self._model, Blob) else self._graph(rows).inputs

    def made_up(self, *sizes: int | None, length: int | None = None) -> Values:
        """The same without samples; dimensions that are dynamic have that length. Raises UnknownValues for a blob."""
        if isinstance(self._model, Blob):
            raise UnknownValues("nobody can look into a blob, to see which values it takes; give samples")
        if (sizes, length) not in self._values:
            graphs = [self._graph(rows) for rows in sizes]
            self._values[sizes, length] = Values.of(*(_with_length(graph, length) for graph in graphs))
        return self._values[sizes, length]

    def relied_upon(self, rows: int | None) -> list[tuple[float, float] | None]:
        """For each input the least and the largest value that its operators take; None where nothing relies on it, or
        nobody can tell.
        """
        if isinstance(self._model, Blob):
            return [None] * len(self._ports(rows))
        known = self.made_up(rows)
        found = [known[index] for index in range(len(self._ports(rows)))]
        return [
            None if one.free or one.unknown or math.isinf(one.low) or math.isinf(one.high) else (one.low, one.high)
            for one in found
        ]

    def check_trial(self, rows: int | None, copies: int = 1) -> None:
        """Raise InferenceError where there is not the memory for a trial inference of so many rows."""
        if isinstance(self._model, Graph):
            check_trial(self._graph(rows), copies)

    @contextlib.contextmanager
    def in_f32(self, rows: int | None, device: int = 0) -> Iterator[Compiled]:
        """For comparing results rather than for speed: in f32 where the device can do so. Not kept."""
        self.between_steps()
        plan = self.devices[device]
        if (device, 0, rows) in self._compiled and self.precision(device) == "f32":
            yield self.compiled(rows, device)
            return
        properties = {name: plan.properties[name] for name in plan.properties if name != PRECISION}
        if self._runtime.supported_properties(plan.device).get(PRECISION):
            properties[PRECISION] = "f32"
        with self._for_trial(("f32", rows), rows, plan.device, properties) as compiled:
            yield compiled

    @contextlib.contextmanager
    def as_default(self, rows: int | None, device: int = 0, precision: str | None = None) -> Iterator[Compiled]:
        """In OpenVINO's default configuration, but for the caller's properties and another precision. Not kept."""
        self.between_steps()
        plan = self.devices[device]
        properties = {name: value for name, value in plan.properties.items() if name not in THREADING}
        if precision is not None and self._runtime.supported_properties(plan.device).get(PRECISION):
            properties[PRECISION] = precision
        with self._for_trial(("default", rows), rows, plan.device, properties) as compiled:
            yield compiled

    @contextlib.contextmanager
    def _for_trial(
        self, kind: tuple[str, int | None], rows: int | None, device: str, properties: Mapping[str, Any]
    ) -> Iterator[Compiled]:
        self.ledger.book(kind, 1)
        try:
            with self.ledger.weigh(kind, 1):
                compiled = self._runtime.compile(self._graph(rows), device, properties)
            yield compiled
        finally:
            self.ledger.release(kind)

    def instead(self, devices: Sequence[DevicePlan]) -> Compiler:
        """For other lanes; what is compiled for these is let go of."""
        self._compiled.clear()
        limit = self.ledger.limit
        other = Compiler(self._runtime, self._model, devices, self._config, self._axis, limit, self.samples)
        other.between_steps = self.between_steps
        return other

    def precision(self, device: int = 0) -> str:
        """INFERENCE_PRECISION_HINT in effect on a device; `unknown` where it does not say."""
        rows = 1 if self._axis is not None and self._axis.outputs else None
        compiled = next((c for (d, _, _), c in self._compiled.items() if d == device), None)
        compiled = compiled or self.compiled(rows, device)
        try:
            return str(compiled.property(PRECISION))
        except Exception:  # a device may lack the property; the plan then just does not show it
            return "unknown"

    def identity(self, device: int = 0) -> dict[str, Any] | None:
        """What a model's results depend on, as (part of) the key of a cache entry; None when it cannot be told.

        How many streams, threads and requests there are is left out: rows do not depend on it.
        """
        content = self._content
        if content is None:
            return None
        plan = self.devices[device]
        try:
            hardware = str(self._runtime.device_property(plan.device, "FULL_DEVICE_NAME"))
        except PropertyError:
            hardware = ""
        left_out = CORE_PROPERTIES | {"NUM_STREAMS", "INFERENCE_NUM_THREADS", "PERFORMANCE_HINT_NUM_REQUESTS"}
        return {
            "model": content,
            "device": f"{plan.device} {hardware}",
            "axes": None if self._axis is None else [self._axis.inputs, self._axis.outputs],
            "properties": {name: str(value) for name, value in plan.properties.items() if name not in left_out},
            "openvino": openvino_version,
            # Kernels may be others than those of the usual lanes, see `_kernels`.
            **({} if plan.properties.get("NUM_STREAMS") else {"streams": str(plan.properties.get("NUM_STREAMS"))}),
        }

    @cached_property
    def _content(self) -> str | None:
        """A hash of the model."""
        try:
            content = self._model.data if isinstance(self._model, Blob) else self._model.content()
        except ModelError:
            return None
        return hashlib.sha256(content).hexdigest()

    def lanes(self, ladder: Sequence[int | None]) -> Lanes:
        """What NativeModel takes: for each lane its device and its compiled models by batch size."""
        self.between_steps()
        places = [(d, lane) for d, plan in enumerate(self.devices) for lane in range(plan.lanes)]
        for rows in ladder:
            self.ledger.book(rows, self.copies)
        self._compiled_at([(d, lane, rows) for rows in ladder for d, lane in places], threads=len(places))
        return [
            (self.devices[d].device, {rows or 1: self.compiled(rows, d, lane) for rows in ladder}) for d, lane in places
        ]

    def _graph(self, rows: int | None) -> Graph:
        assert isinstance(self._model, Graph)
        if rows is None:
            return self._model
        if rows not in self._graphs:
            assert self._axis is not None
            self._graphs[rows] = with_batch(self._model, rows, self._axis)
        return self._graphs[rows]

    def _compile(self, rows: int | None, plan: DevicePlan) -> Compiled:
        if isinstance(self._model, Blob):
            data = self._model.data
            return self._explained(plan, lambda given: self._runtime.import_blob(data, plan.device, given))
        graph = self._graph(rows)
        compiled = self._explained(plan, lambda given: self._runtime.compile(graph, plan.device, given))
        for port in compiled.outputs if rows is not None else ():
            if port.shape is None or port.shape[:1] != (rows,):
                raise ModelError(f"output {port.name!r} has shape {port.shape} for a batch of {rows}")
        return compiled

    def _explained(self, plan: DevicePlan, compile_with: Callable[[Mapping[str, Any]], Compiled]) -> Compiled:
        """Compile; when that fails because of a property of the caller's, say which."""
        try:
            return compile_with(plan.properties)
        except (ModelError, PropertyError) as error:
            own = {name: value for name, value in plan.properties.items() if name not in self._config}
            asked = [name for name in self._config if name in plan.properties]
            if not asked or not _succeeds(compile_with, own):
                raise
            for name in asked:
                if not _succeeds(compile_with, {**own, name: plan.properties[name]}):
                    reason = str(error).strip().splitlines()[-1]
                    raise PropertyError(f"{plan.device} refuses {name}={plan.properties[name]!r}: {reason}") from error
            raise


def _with_length(graph: Graph, length: int | None) -> Graph:
    if length is None or all(-1 not in (port.shape or ()) for port in graph.inputs):
        return graph
    shapes = [[length if dimension < 0 else dimension for dimension in port.shape or ()] for port in graph.inputs]
    return graph.reshaped(dict(enumerate(shapes)))


def at_once(function: Callable[[Item], Value], items: Iterable[Item], threads: int = MEASURED_LANES) -> list[Value]:
    """`[function(item) for item in items]`, on up to `threads` threads, or as many as can be started. The first error
    is raised when all have ended.

    concurrent.futures will not do: at the interpreter's exit it refuses work from a thread that is at it still.
    """
    pending = list(enumerate(items))
    results: dict[int, Value] = {}
    errors: list[BaseException] = []

    def work() -> None:
        while not errors:
            try:
                index, item = pending.pop()
            except IndexError:
                return  # another thread has the last one
            try:
                results[index] = function(item)
            except BaseException as error:
                errors.append(error)

    helpers = []
    for _ in range(min(threads, len(pending)) - 1):
        helper = threading.Thread(target=work)
        try:
            helper.start()
        except RuntimeError:
            break
        helpers.append(helper)
    work()
    for helper in helpers:
        helper.join()
    if errors:
        raise errors[0]
    return [results[index] for index in range(len(results))]


def _succeeds(compile_with: Callable[[Mapping[str, Any]], Compiled], properties: Mapping[str, Any]) -> bool:
    try:
        compile_with(properties)
    except (ModelError, PropertyError):
        return False
    return True
