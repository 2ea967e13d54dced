"""One `load`, from the source to a running model: plugins are asked, checked, and replaced where they fail.

The order: loader, shapes, device selector, batch axis, scheduler policy, lanes. The model then serves, a row at a time;
batcher, trial of the batch axis and larger sizes follow behind it, see `_preparation`.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ovengine import _batch_axis, _buckets, _element_types, _profiles, _shapes
from ovengine._cache import Cache
from ovengine._compiler import Compiler, Lanes
from ovengine._core import CpuBudget, Graph, Port, Runtime
from ovengine._proof import TRIAL_RUN, Proof
from ovengine._row_classes import MOST_CLASSES, ClassShapes, Padding, RowClasses, has_classes
from ovengine._verify import verify_ladder, verify_model
from ovengine.config import LoadOptions, available_memory_bytes, check_properties
from ovengine.errors import (
    ConfigError,
    EngineClosed,
    InferenceError,
    ModelError,
    OvengineError,
    PluginError,
    UnknownDeviceError,
)
from ovengine.hookspecs import (
    BatchContext,
    Batcher,
    Blob,
    DeviceContext,
    DeviceSelector,
    LoadContext,
    ModelLoader,
    SchedulerPolicy,
)
from ovengine.model import Model
from ovengine.plan import MAX_LANES, BatchAxis, BatchPlan, Decision, DevicePlan, Mode, Plan, TensorInfo
from ovengine.plugins import Plugins
from ovengine.profile import Profile

BUILTIN_LOADERS = ("blob", "ir", "onnx", "openvino", "frontend")
NATIVE_POLICIES = ("priority", "round_robin")
# Of the memory that is free, for the weights of all compiled batch sizes together.
MEMORY_SHARE = 0.25
# Batch sizes that a row class is reckoned with.
SIZES_PER_CLASS = 4


class _Unmeasured(BaseException):
    """A batcher asks for a measurement at a moment when there is no time for it. No business of a batcher's."""


class Planner:
    """The state of one `load`: what is shared, what the caller asked for, and what was decided so far."""

    def __init__(
        self,
        plugins: Plugins,
        runtime: Runtime,
        devices: Sequence[str],
        budget: CpuBudget,
        options: LoadOptions,
        turn: threading.Lock,
    ) -> None:
        self.plugins = plugins
        self.runtime = runtime
        self.available_devices = tuple(devices)
        self.budget = budget
        self.options = options
        self.turn = turn
        self.cache = Cache(options.cache_directory)
        self.decisions = [Decision(*note) for note in options.notes]

    def load(
        self,
        source: object,
        *,
        loader: str | None,
        device_selector: str,
        batcher: str,
        scheduler: str,
        profile: Profile | None,
        use_kept: bool,
        name: str | None,
    ) -> Model:
        """Everything in order. Raises what `Engine.load` says."""
        # Names are looked up first: a misspelt one should not cost a compilation.
        selector: DeviceSelector = self.plugins.get("device_selector", device_selector)
        sizes: Batcher = self.plugins.get("batcher", batcher)
        policy: SchedulerPolicy = self.plugins.get("scheduler_policy", scheduler)

        loaded = self.read(source, loader)
        model = loaded if isinstance(loaded, Blob) else self.reshape(loaded)
        devices = self.select_devices(selector, None if isinstance(model, Blob) else model)
        if profile is None and use_kept and not isinstance(model, Blob):
            profile = self.kept_profile(source, devices)
        if profile is not None:
            self.apply(profile, source, devices)
            sizes = self.plugins.get("batcher", self.options.batcher or batcher)
            devices = self.select_devices(selector, None if isinstance(model, Blob) else model)
        if isinstance(model, Blob):
            compiler = Compiler(self.runtime, model, devices, self.options.config)
            compiled = compiler.compiled(None)
            ports = compiled.inputs, compiled.outputs
            axis = _element_types.examine(*ports) or _batch_axis.examine_ports(*ports, compiled.has_state)
        else:
            compiler, axis = self.examine(model, devices)
        name = name or default_name(source, model)
        if not isinstance(model, Blob) and axis.mode == "dynamic" and not axis.batchable and has_classes(model):
            return self.start_classes(compiler, axis, sizes, policy, name, model)
        if self.options.buckets:
            raise ConfigError("buckets are for models with a dynamic sequence axis, and this one has none")
        return self.serve(compiler, axis, sizes, policy, name, model)

    def serve(
        self,
        compiler: Compiler,
        axis: BatchAxis,
        batcher: Batcher,
        policy: SchedulerPolicy,
        name: str,
        model: Graph | Blob,
    ) -> Model:
        """Start what is known to be right; what may pay comes behind it."""
        if not axis.batchable:
            self.decide("batcher", "none", f"rows are not put together: {axis}")
            return self.start(compiler, axis, self._unbatched(), policy, name)
        assert isinstance(model, Graph)
        made_for_one = axis.mode == "rows"
        axis = replace(axis, mode="rows")
        batch = self._ask_batcher(batcher, compiler, model, axis, measures=False)
        if batch is not None and batch.ladder == (1,):
            self.decide("batcher", batcher.name, batch.why)
            return self.start(compiler, axis, batch, policy, name)
        return self.start_and_prepare(compiler, axis, batcher, policy, name, model, batch, proven=not made_for_one)

    # -- row classes --------------------------------------------------------------------------------------------------

    def start_classes(
        self,
        compiler: Compiler,
        axis: BatchAxis,
        batcher: Batcher,
        policy: SchedulerPolicy,
        name: str,
        graph: Graph,
    ) -> Model:
        """Serve requests of any shape; frequent shapes get models of their own."""
        padding, expected, compiler = self._padding(compiler, axis, graph)
        most = max(self._most_classes(compiler), len(expected))
        self.decide("row classes", f"up to {most}", "shapes that come often get static batch sizes of their own")
        model = self.serve(compiler, axis, batcher, policy, name, graph)
        build = partial(self._class_model, graph, compiler.devices, batcher, policy, name)
        RowClasses(model, build, self.turn, most, padding, expected)
        return model

    def _padding(
        self, compiler: Compiler, axis: BatchAxis, graph: Graph
    ) -> tuple[Padding | None, list[ClassShapes], Compiler]:
        """How sequences are padded, proved, and to what; and the compiler of the dynamic model. Raises ConfigError when
        padding would change answers.
        """
        if not self.options.buckets:
            return None, [], compiler
        bucketing = _buckets.bucketing(graph, self.options.buckets)
        compiled = compiler.in_f32(None)
        try:
            cut_axes = _buckets.prove(bucketing, compiled)
        except ConfigError as shows:
            return None, [], self._padded_inside(compiler, axis, graph, bucketing, shows)
        self.decide("buckets", ", ".join(map(str, bucketing.lengths)), "padded trial sequences got the same answers")
        expected = [
            tuple(bucketing.shape(index, port.shape or (), length) for index, port in enumerate(graph.inputs))
            for length in bucketing.lengths
        ]
        return Padding(bucketing.lengths, bucketing.axes, bucketing.pads, cut_axes), expected, compiler

    def _padded_inside(
        self, compiler: Compiler, axis: BatchAxis, graph: Graph, bucketing: _buckets.Bucketing, shows: ConfigError
    ) -> Compiler:
        """Where padding by the binding shows: of the model that pads inside and masks the padding."""
        padded = [(index, at) for index, at in enumerate(bucketing.axes) if at]
        if len(padded) != 1:
            raise shows
        try:
            inside = graph.padded_inside(*padded[0], bucketing.lengths)
        except ModelError as error:
            raise ConfigError(f"{shows}; nor can it be masked inside the model: {error}") from None
        found = Compiler(self.runtime, inside, compiler.devices, self.options.config, axis)
        _buckets.prove_inside(bucketing, compiler.in_f32(None), found.in_f32(None))
        self.decide("buckets", ", ".join(map(str, bucketing.lengths)), "padded inside the model, and masked there")
        return found

    def _class_model(
        self,
        graph: Graph,
        devices: tuple[DevicePlan, ...],
        batcher: Batcher,
        policy: SchedulerPolicy,
        name: str,
        shapes: ClassShapes,
        between_steps: Callable[[], None],
    ) -> Model | None:
        """A model for requests of these shapes, or None when their rows cannot share a batch."""
        planner = Planner(self.plugins, self.runtime, self.available_devices, self.budget, self.options, self.turn)
        fixed = graph.reshaped(dict(enumerate(shapes)))
        compiler, axis = planner.examine(fixed, devices, between_steps)
        if not (axis.batchable or axis.mode == "rows"):
            return None
        return planner.serve(compiler, axis, batcher, policy, name, fixed)

    def _most_classes(self, compiler: Compiler) -> int:
        """As many as have room for their weights, at several batch sizes each."""
        copies = sum(plan.compiled_copies for plan in compiler.devices)
        each = compiler.constant_bytes * copies * SIZES_PER_CLASS
        budget = int(available_memory_bytes() * MEMORY_SHARE)
        return max(1, min(MOST_CLASSES, budget // max(1, each)))

    def decide(self, what: str, choice: str, why: str) -> None:
        """Write a decision down for the plan."""
        self.decisions.append(Decision(what, choice, why))

    def apply(self, profile: Profile, source: object, devices: Sequence[DevicePlan]) -> None:
        """Take the settings of a profile over into the options. Raises ConfigError where it does not fit."""
        here = _profiles.conditions(source, devices[0].device, self.runtime, self.budget.cpus, self.options)
        _profiles.check_fit(profile, here)
        self.options = _profiles.applied(profile.settings, self.options)
        # The devices are selected once more, with these options.
        self.decisions = [decision for decision in self.decisions if decision.what != "device"]
        self.decide("profile", str(profile.settings), profile.why)

    def kept_profile(self, source: object, devices: Sequence[DevicePlan]) -> Profile | None:
        """The one that `tune` left in the cache, unless the caller decides such things; where it does not fit, the plan
        says so.
        """
        decided = _profiles.asks_for_batches(self.options) or self.options.max_queue_delay_us is not None
        if decided or len(devices) != 1 or not _profiles.any_kept(self.cache):
            return None
        try:
            here = _profiles.conditions(source, devices[0].device, self.runtime, self.budget.cpus, self.options)
        except OvengineError:
            return None  # a source or device that has no identity
        found = _profiles.kept(here, self.cache)
        if found is None or (misfit := found.conditions.misfit(here)) is None:
            return found
        self.decide("profile", "not used", f"the one in the cache was tuned {misfit}")
        return None

    # -- source -------------------------------------------------------------------------------------------------------

    def read(self, source: object, name: str | None) -> Graph | Blob:
        """The model, through the loader of that name or the first that can."""
        if name is not None:
            loader: ModelLoader = self.plugins.get("model_loader", name)
            self.decide("loader", name, "asked for by name")
            return self._read_with(loader, source)
        refused: list[str] = []
        for loader in self.plugins.model_loaders():
            try:
                if not loader.can_load(source):
                    continue
                loaded = self._read_with(loader, source)
            except PluginError as error:
                self.plugins.report_failure(loader, error, "asking the next loader")
                refused.append(str(error))
            except OvengineError:
                raise  # the loader is fine, the model is not
            except Exception as error:  # from `can_load`: whatever a plugin may raise
                self.plugins.report_failure(loader, error, "asking the next loader")
                refused.append(f"{loader.name}: {error}")
            else:
                self.decide("loader", loader.name, "the first that takes this source")
                return loaded
        tried = f" ({'; '.join(refused)})" if refused else ""
        raise ModelError(
            f"no loader takes a source of type {type(source).__name__}{tried}; "
            "give a path, an openvino.Model, or the bytes of an ONNX model or blob"
        )

    def _read_with(self, loader: ModelLoader, source: object) -> Graph | Blob:
        try:
            loaded = loader.load(source, LoadContext(self.runtime))
        except OvengineError:
            raise
        except Exception as error:
            raise PluginError(f"loader {loader.name!r} failed: {type(error).__name__}: {error}") from error
        if isinstance(loaded, (Graph, Blob)):
            return loaded
        if loader.name not in BUILTIN_LOADERS:
            # A plugin may fetch or unpack a model and leave the reading to the built-in loaders.
            for builtin in (self.plugins.get("model_loader", name) for name in BUILTIN_LOADERS):
                if builtin.can_load(loaded):
                    return self._read_with(builtin, loaded)
        raise PluginError(f"loader {loader.name!r} returned {type(loaded).__name__}, which is no model")

    def reshape(self, graph: Graph) -> Graph:
        """The graph with the caller's `shapes`."""
        shapes = self.options.shapes
        if shapes is None:
            _check_ranks(graph.inputs)
            return graph
        by_index = _shapes.by_input(graph, shapes)
        reshaped = graph.reshaped(by_index)
        _check_ranks(reshaped.inputs)
        shown = ", ".join(f"{graph.inputs[int(i)].name} [{','.join(shape)}]" for i, shape in by_index.items())
        self.decide("shapes", shown, "asked for")
        return reshaped

    # -- devices ------------------------------------------------------------------------------------------------------

    def select_devices(self, selector: DeviceSelector, graph: Graph | None) -> tuple[DevicePlan, ...]:
        """The selector's plans, checked; those of `auto` when it fails."""
        context = DeviceContext(
            device=self.options.device,
            hint=self.options.hint,
            config=self.options.config,
            num_requests=self.options.num_requests,
            graph=graph,
            available_devices=self.available_devices,
            cpu_budget=self.budget.cpus,
            runtime=self.runtime,
        )
        try:
            plans = self._checked_devices(selector.select(context))
        except (ConfigError, UnknownDeviceError):
            raise  # of the caller's making
        except Exception as error:  # whatever a plugin may raise or return
            if selector.name == "auto":
                raise
            self.plugins.report_failure(selector, error, "selecting devices with 'auto' instead")
            selector = self.plugins.get("device_selector", "auto")
            plans = self._checked_devices(selector.select(context))
        check_properties(self.options.config, [plan.device for plan in plans], self.runtime)
        for plan in plans:
            self.decide("device", f"{plan.device}, by {selector.name}", plan.why)
        return plans

    def _checked_devices(self, plans: object) -> tuple[DevicePlan, ...]:
        if not isinstance(plans, Sequence) or not plans:
            raise PluginError(f"select returned {plans!r}, not a sequence of DevicePlan")
        for plan in plans:
            if not isinstance(plan, DevicePlan):
                raise PluginError(f"select returned a {type(plan).__name__} among its plans, not a DevicePlan")
            if plan.device not in self.available_devices:
                raise PluginError(f"select chose {plan.device!r}; there are {', '.join(self.available_devices)}")
            if not isinstance(plan.lanes, int) or plan.lanes < 1:
                raise PluginError(f"select planned {plan.lanes!r} lanes on {plan.device}")
        if sum(plan.lanes for plan in plans) > MAX_LANES:
            raise PluginError(f"select planned more than {MAX_LANES} lanes")
        return tuple(plans)

    # -- batches ------------------------------------------------------------------------------------------------------

    def examine(
        self, graph: Graph, devices: Sequence[DevicePlan], between_steps: Callable[[], None] | None = None
    ) -> tuple[Compiler, BatchAxis]:
        """How requests of this model may run, at first, and what compiles it so."""
        axis = _element_types.examine(graph.inputs, graph.outputs) or _batch_axis.examine(graph)
        compiler = Compiler(self.runtime, graph, devices, self.options.config, axis)
        compiler.between_steps = between_steps or compiler.between_steps
        return compiler, self.confirm_single(compiler, axis)

    def confirm_single(self, compiler: Compiler, axis: BatchAxis) -> BatchAxis:
        """Whether requests may run row by row, which they will until larger sizes are ready."""
        if not axis.batchable:
            return axis
        try:
            compiler.measure(1)  # a model that does not compile at all is no fault of the batcher
        except InferenceError as error:
            return replace(axis, batchable=False, why=str(error), failed=TRIAL_RUN)
        # One row at a time is right for a model made for one row; for any other it needs the trial, too.
        return axis if axis.mode == "rows" else _outcome(axis, verify_model(compiler, self.options.verify, self.cache))

    def plan_batches(
        self, batcher: Batcher, compiler: Compiler, graph: Graph, axis: BatchAxis, batch: BatchPlan | None, proven: bool
    ) -> tuple[BatchAxis, BatchPlan]:
        """Batch sizes that pay and are right."""
        batch = batch or self._ask_batcher(batcher, compiler, graph, axis)
        assert batch is not None
        if batch.ladder != (1,):
            if not proven:
                axis = _outcome(axis, verify_model(compiler, self.options.verify, self.cache))
            if axis.batchable:
                axis = _outcome(axis, verify_ladder(compiler, batch.ladder, self.options.verify, self.cache))
        if axis.batchable:
            self.decide("batcher", batcher.name, batch.why)
            return axis, batch
        self.decide("batcher", "none", f"rows are not put together: {axis}")
        return axis, self._unbatched()

    def _unbatched(self) -> BatchPlan:
        return BatchPlan(max_queue_delay_us=self.options.max_queue_delay_us or 0)

    def _ask_batcher(
        self, batcher: Batcher, compiler: Compiler, graph: Graph, axis: BatchAxis, measures: bool = True
    ) -> BatchPlan | None:
        """Its plan; None when it wants something measured and `measures` is off."""

        def only_single(rows: int) -> float:
            if rows != 1:
                raise _Unmeasured
            return compiler.measure(rows)

        context = BatchContext(
            graph=graph,
            devices=compiler.devices,
            axis=axis,
            hint=self.options.hint,
            max_batch_size=self.options.max_batch_size,
            max_queue_delay_us=self.options.max_queue_delay_us,
            constant_bytes=graph.constant_bytes,
            compiled_copies=sum(plan.compiled_copies for plan in compiler.devices),
            memory_budget_bytes=int(available_memory_bytes() * MEMORY_SHARE),
            measure=compiler.measure if measures else only_single,
            measure_again=compiler.measure_again if measures else only_single,
            batch_sizes=self.options.batch_sizes,
        )
        try:
            return self._checked_batch(batcher.plan(context), context.measure)
        except _Unmeasured:
            return None
        except ConfigError:
            raise  # of the caller's making
        except Exception as error:  # whatever a plugin may raise or return
            self.plugins.report_failure(batcher, error, "batching is off for this model")
            none: Batcher = self.plugins.get("batcher", "none")
            return replace(none.plan(context), why=f"batcher {batcher.name!r} failed")

    def _checked_batch(self, batch: object, measure: Callable[[int], float]) -> BatchPlan:
        if not isinstance(batch, BatchPlan):
            raise PluginError(f"plan returned {type(batch).__name__}, not a BatchPlan")
        ladder = batch.ladder
        sizes_ok = isinstance(ladder, tuple) and all(isinstance(size, int) and size >= 1 for size in ladder)
        if not sizes_ok or not ladder or list(ladder) != sorted(set(ladder)):
            raise PluginError(f"plan returned the ladder {ladder!r}, not ascending sizes")
        limit = self.options.max_batch_size
        if limit is not None and ladder[-1] > limit:
            raise PluginError(f"plan returned the ladder {ladder!r}, over max_batch_size={limit}")
        if not isinstance(batch.max_queue_delay_us, int) or batch.max_queue_delay_us < 0:
            raise PluginError(f"plan returned max_queue_delay_us={batch.max_queue_delay_us!r}")
        cost_us = {size: float(batch.cost_us.get(size) or measure(size) * 1e6) for size in ladder}
        for size, cost in cost_us.items():
            if not (math.isfinite(cost) and cost > 0):
                raise PluginError(f"plan returned a cost of {cost} us for {size} rows")
        return replace(batch, cost_us=cost_us)

    # -- start --------------------------------------------------------------------------------------------------------

    def start(self, compiler: Compiler, axis: BatchAxis, batch: BatchPlan, policy: SchedulerPolicy, name: str) -> Model:
        """Compile what is missing, and start the lanes."""
        as_it_is = axis.mode != "rows" or compiler.is_blob
        lanes = compiler.lanes((None,) if as_it_is else batch.ladder)
        if not batch.cost_us and axis.mode != "dynamic":
            # Zeros may be no input for this model; its cost then stays unknown, and matters little at one size.
            with contextlib.suppress(InferenceError):
                batch = replace(batch, cost_us={1: compiler.measure(None if as_it_is else 1) * 1e6})
        policy, native = self._native_policy(policy)
        plan = self.plan(compiler, lanes, axis, batch, policy, name)
        if not isinstance(native, str):
            try:
                return Model.start(plan, lanes, native, self.budget)
            except Exception as error:  # the core refuses the capsule: its name, version or size
                policy = self._fall_back(policy, error)
                plan = replace(plan, scheduler=policy.name)
        return Model.start(plan, lanes, policy.native, self.budget)

    def start_and_prepare(
        self,
        compiler: Compiler,
        axis: BatchAxis,
        batcher: Batcher,
        policy: SchedulerPolicy,
        name: str,
        graph: Graph,
        batch: BatchPlan | None,
        proven: bool,
    ) -> Model:
        """Serve a row at a time, and go on behind it."""
        known = list(self.decisions)
        self.decide("batcher", batcher.name, "larger batches are being measured and compiled")
        model = self.start(compiler, axis, self._unbatched(), policy, name)
        self.decisions = known
        draft, preparation = model.plan, model._preparation
        # The thread must not keep a model alive that nobody uses any more.
        unused = EngineClosed(f"model {name!r} is gone")
        reference = weakref.ref(model, lambda _: preparation.stop(unused))

        def work() -> None:
            compiler.between_steps = preparation.check
            final_axis, final = self.plan_batches(batcher, compiler, graph, axis, batch, proven)
            lanes = compiler.lanes(final.ladder)
            running = reference()
            if running is not None:
                plan = self.plan(compiler, lanes, final_axis, final, policy, name)
                running._grow(draft, plan, lanes)

        preparation.start(work, self.turn)
        return model

    def plan(
        self,
        compiler: Compiler,
        lanes: Lanes,
        axis: BatchAxis,
        batch: BatchPlan,
        policy: SchedulerPolicy,
        name: str,
    ) -> Plan:
        """What was decided so far, in one value."""
        example = next(iter(lanes[0][1].values()))
        inputs = _tensors(example.inputs, axis.mode, axis.inputs)
        outputs = _tensors(example.outputs, axis.mode, axis.outputs)
        return Plan(
            name=name,
            inputs=inputs,
            outputs=outputs,
            mode=axis.mode,
            hint=self.options.hint,
            devices=compiler.devices,
            batch=batch,
            scheduler=policy.name,
            precision=tuple(compiler.precision(index) for index in range(len(compiler.devices))),
            memory_bytes=_memory_bytes(compiler, batch, (*inputs, *outputs)),
            max_queue_size=self.options.max_queue_size,
            queue_full_action=self.options.queue_full_action,
            decisions=(Decision("batch axis", axis.mode, str(axis)), *self.decisions),
            axis=axis,
        )

    def _native_policy(self, policy: SchedulerPolicy) -> tuple[SchedulerPolicy, object]:
        try:
            native = policy.native
            if native not in NATIVE_POLICIES and type(native).__name__ != "PyCapsule":
                raise PluginError(f"native is {native!r}, neither of {', '.join(NATIVE_POLICIES)} nor a PyCapsule")
            return policy, native
        except Exception as error:  # whatever a plugin may raise
            policy = self._fall_back(policy, error)
            return policy, policy.native

    def _fall_back(self, policy: SchedulerPolicy, error: Exception) -> SchedulerPolicy:
        self.plugins.report_failure(policy, error, "scheduling with 'priority' instead")
        replacement: SchedulerPolicy = self.plugins.get("scheduler_policy", "priority")
        return replacement


def default_name(source: object, model: Graph | Blob) -> str:
    """After the file, or what the model calls itself."""
    if isinstance(source, (str, os.PathLike)):
        return Path(source).stem or "model"
    return (model.name if isinstance(model, Graph) else "") or "model"


def _check_ranks(ports: Sequence[Port]) -> None:
    for port in ports:
        if port.shape is None:
            raise ModelError(f"{port.name!r} has a dynamic rank; give the shapes of the inputs in `shapes`")


def _outcome(axis: BatchAxis, proof: Proof) -> BatchAxis:
    why = f"{axis.why}; {proof.why}" if proof.holds and proof.why else proof.why
    return replace(axis, batchable=proof.holds, why=why or axis.why, failed=proof.failed)


def _tensors(ports: Sequence[Port], mode: Mode, axes: Sequence[int | None]) -> tuple[TensorInfo, ...]:
    """Of compiled models, whose batch axis is the first one in mode `rows`."""
    _check_ranks(ports)
    if mode != "rows":
        return tuple(TensorInfo.of(port) for port in ports)
    return tuple(TensorInfo.of(port, axis) for port, axis in zip(ports, axes or [0] * len(ports), strict=True))


def _memory_bytes(compiler: Compiler, batch: BatchPlan, tensors: Sequence[TensorInfo]) -> int:
    copies = sum(plan.compiled_copies for plan in compiler.devices)
    lanes = sum(plan.lanes for plan in compiler.devices)
    rows = sum(tensor.row_bytes for tensor in tensors)
    return compiler.constant_bytes * copies * len(batch.ladder) + rows * lanes * batch.ladder[-1]
