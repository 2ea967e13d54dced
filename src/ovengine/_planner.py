"""One `load`, from the source to a running model, step by step.

The order: loader, shapes, device selector, batch axis, scheduler policy, lanes. The model then serves, a row at a time;
batcher, trial of the batch axis and larger sizes follow behind it, see `_preparation`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from ovengine import _batch_axis, _costs, _element_types, _kernels, _memory, _profiles, _shapes, _values
from ovengine._cache import Cache
from ovengine._class_models import start_classes
from ovengine._compiler import Compiler, Lanes
from ovengine._core import CpuBudget, Graph, Runtime
from ovengine._growth import start_growing
from ovengine._inspection import Inspection
from ovengine._memory import NoRoom
from ovengine._paths import as_path, is_path, printable
from ovengine._plugin_calls import PluginCalls
from ovengine._proof import TRIAL_RUN
from ovengine._row_classes import has_classes
from ovengine._samples import Samples
from ovengine._verify import verify_ladder, verify_model
from ovengine.config import LoadOptions, check_properties
from ovengine.errors import ConfigError, InferenceError, ModelError
from ovengine.hookspecs import BatchContext, Batcher, Blob, DeviceContext, DeviceSelector, SchedulerPolicy
from ovengine.model import Model
from ovengine.plan import BatchAxis, BatchPlan, Decision, DevicePlan, Plan, RowProof, format_bytes, tensor_infos
from ovengine.plugins import Plugins
from ovengine.profile import Profile


class _Unmeasured(BaseException):
    """A batcher asks for a measurement at a moment when there is no time for it. No business of a batcher's."""


class Choices(NamedTuple):
    """What the caller chose by name and no step changes."""

    batcher: Batcher
    policy: SchedulerPolicy
    name: str


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
        self.calls = PluginCalls(plugins, runtime, options.inspection or Inspection())
        self.runtime = runtime
        self.available_devices = tuple(devices)
        self.budget = budget
        self.options = options
        self.turn = turn
        self.cache = Cache(options.cache_directory)
        self.decisions = [Decision(*note) for note in options.notes]
        self.samples: Samples | None = None

    def anew(self, memory_limit: int | None) -> Planner:
        """For one more model with the same options but for the limit; nothing is decided yet."""
        options = replace(self.options, memory_limit=memory_limit)
        other = Planner(self.plugins, self.runtime, self.available_devices, self.budget, options, self.turn)
        other.samples = self.samples
        return other

    def compiler(self, model: Graph | Blob, devices: Sequence[DevicePlan], axis: BatchAxis | None = None) -> Compiler:
        """What compiles it as the caller wants."""
        limit = self.options.memory_limit
        return Compiler(self.runtime, model, devices, self.options.config, axis, limit, self.samples)

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

        loaded, how = self.calls.read(source, loader)
        self.decisions.append(how)
        model = loaded if isinstance(loaded, Blob) else self.reshape(self.own_constants(loaded))
        self.samples = None if isinstance(model, Blob) else Samples.read(self.options.samples, model.inputs)
        devices = self.select_devices(selector, None if isinstance(model, Blob) else model)
        if profile is None and use_kept and not isinstance(model, Blob):
            profile = self.kept_profile(source, devices)
        if profile is not None:
            self.apply(profile, source, devices)
            sizes = self.plugins.get("batcher", self.options.batcher or batcher)
            devices = self.select_devices(selector, None if isinstance(model, Blob) else model)
        if isinstance(model, Blob):
            compiler = self.compiler(model, devices)
            self.make_room(compiler, None, 1)
            compiled = compiler.compiled(None)
            compiler.samples = Samples.read(self.options.samples, compiled.inputs)
            ports = compiled.inputs, compiled.outputs
            axis = _element_types.examine(*ports) or _batch_axis.examine_ports(*ports, compiled.has_state)
        else:
            compiler, axis = self.examine(model, devices)
        compiler.check_samples(axis)
        choices = Choices(sizes, policy, name or default_name(source, model))
        if not isinstance(model, Blob) and axis.mode == "dynamic" and not axis.batchable and has_classes(model):
            return start_classes(self, compiler, axis, choices, model)
        if self.options.buckets:
            raise ConfigError("buckets are for models with a dynamic sequence axis, and this one has none")
        return self.serve(compiler, axis, choices, model)

    def serve(self, compiler: Compiler, axis: BatchAxis, choices: Choices, model: Graph | Blob) -> Model:
        """Start what is known to be right; what may pay comes behind it."""
        if not axis.batchable:
            self.decide("batcher", "none", f"rows are not put together: {axis}")
            return self.start(compiler, axis, self.unbatched(), choices)
        assert isinstance(model, Graph)
        made_for_one = axis.mode == "rows"
        axis = replace(axis, mode="rows")
        batch = self._ask_batcher(choices.batcher, compiler, model, axis, measures=False)
        if batch is not None and batch.ladder == (1,) and not self.is_in_doubt(choices.batcher, compiler):
            self.decide("batcher", choices.batcher.name, batch.why)
            return self.start(compiler, axis, batch, choices)
        return start_growing(self, compiler, axis, choices, model, batch, proven=not made_for_one)

    def decide(self, what: str, choice: str, why: str) -> None:
        """Write a decision down for the plan."""
        self.decisions.append(Decision(what, choice, why))

    # -- what was asked for -------------------------------------------------------------------------------------------

    def apply(self, profile: Profile, source: object, devices: Sequence[DevicePlan]) -> None:
        """Take the settings of a profile over into the options. Raises ConfigError where it does not fit."""
        here = _profiles.conditions(source, devices[0].device, self.runtime, self.budget.cpus, self.options)
        _profiles.check_fit(profile, here)
        self.options = _profiles.applied(profile.settings, self.options)
        # The devices are selected once more, with these options.
        self.decisions = [decision for decision in self.decisions if decision.what != "device"]
        self.decide("profile", str(profile.settings), profile.why)

    def kept_profile(self, source: object, devices: Sequence[DevicePlan]) -> Profile | None:
        """The one that `tune` left in the cache; where it does not fit, the plan says so."""
        found, misfit = _profiles.usable(source, devices, self.runtime, self.budget.cpus, self.options, self.cache)
        if misfit is not None:
            self.decide("profile", "not used", f"the one in the cache was tuned {misfit}")
        return found

    def own_constants(self, graph: Graph) -> Graph:
        """The graph with weights that nobody else can change: what is compiled later must be the same model. They are
        shared only where there is no room for a copy.
        """
        borrowed = graph.borrowed_bytes
        room = _memory.budget_bytes(None)
        if not borrowed:
            return graph
        if borrowed > room:
            why = f"a copy of {format_bytes(borrowed)} is more than {format_bytes(room)}; they must not be changed"
            self.decide("weights", "shared with their file or owner", why)
            return graph
        return graph.with_own_constants()

    def reshape(self, graph: Graph) -> Graph:
        """The graph with the caller's `shapes`."""
        shapes = self.options.shapes
        if shapes is None:
            _shapes.check_ranks(graph.inputs)
            return graph
        by_index = _shapes.by_input(graph, shapes)
        reshaped = graph.reshaped(by_index)
        _shapes.check_ranks(reshaped.inputs)
        shown = ", ".join(f"{graph.inputs[int(i)].name} [{','.join(shape)}]" for i, shape in by_index.items())
        self.decide("shapes", shown, "asked for")
        return reshaped

    def select_devices(self, selector: DeviceSelector, graph: Graph | None) -> tuple[DevicePlan, ...]:
        """The selector's plans, checked."""
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
        name, plans = self.calls.select_devices(selector, context)
        check_properties(self.options.config, [plan.device for plan in plans], self.runtime)
        for plan in plans:
            self.decide("device", f"{plan.device}, by {name}", plan.why)
        return plans

    # -- batches ------------------------------------------------------------------------------------------------------

    def examine(
        self, graph: Graph, devices: Sequence[DevicePlan], between_steps: Callable[[], None] | None = None
    ) -> tuple[Compiler, BatchAxis]:
        """How requests of this model may run, at first, and what compiles it so."""
        not_numbers = _element_types.examine(graph.inputs, graph.outputs)
        refused: tuple[Compiler, BatchAxis] | None = None
        for axis in [not_numbers] if not_numbers else _batch_axis.candidates(graph):
            compiler = self.compiler(graph, devices, axis)
            compiler.between_steps = between_steps or compiler.between_steps
            if axis.batchable:
                self.make_room(compiler, 1, _memory.USUAL_SIZES)
            else:
                self.make_room(compiler, 1 if axis.mode == "rows" else None, 1)
            compiler = self.with_right_kernels(compiler, axis, graph)
            devices = compiler.devices
            compiler.use_kept_costs(self.cache, self.budget.cpus)
            confirmed = self.confirm_single(compiler, axis)
            if confirmed.batchable:
                return compiler, confirmed if refused is None else _batch_axis.instead(refused[1], confirmed)
            refused = refused or (compiler, confirmed)
        assert refused is not None
        compiler, confirmed = refused
        if confirmed.outputs and confirmed.mode != "rows":  # it was tried row by row, and runs as it is
            compiler = self.with_right_kernels(compiler, confirmed, graph)
        return compiler, confirmed

    def with_right_kernels(self, compiler: Compiler, axis: BatchAxis, graph: Graph) -> Compiler:
        """What compiles a quantized model so that it answers as in OpenVINO's default configuration."""
        if not graph.is_quantized or self.options.verify == "off":
            return compiler
        rows = 1 if axis.batchable or axis.mode == "rows" else None
        chosen, name, why = _kernels.choose(compiler, rows, self.options.verify, self.cache)
        if name != _kernels.USUAL and Decision("kernels", name, why) not in self.decisions:
            self.decide("kernels", name, why)
        return chosen

    def confirm_single(self, compiler: Compiler, axis: BatchAxis) -> BatchAxis:
        """Whether requests may run row by row, which they will until larger sizes are ready."""
        if not axis.batchable:
            return axis
        try:
            compiler.measure(1)  # a model that does not compile at all is no fault of the batcher
        except InferenceError as error:
            failed = _values.CHECK if isinstance(error, _values.UnknownValues) else TRIAL_RUN
            return replace(axis, batchable=False, why=str(error), failed=failed)
        # One row at a time is right for a model made for one row; for any other it needs the trial, too.
        return axis if axis.mode == "rows" else self._verified(compiler, axis)

    def _verified(self, compiler: Compiler, axis: BatchAxis) -> BatchAxis:
        """What the rules for operators or the trial say."""
        if axis.proof == "rules" and self.options.verify != "always":
            return axis
        proof = verify_model(compiler, self.options.verify, self.cache)
        if self.options.memory_limit is not None:
            compiler.keep_only([1])  # the sizes that are chosen need the room
        why = f"{axis.why}; {proof.why}" if proof.holds and proof.why else proof.why
        shown: RowProof | None = "trial runs" if proof.holds and self.options.verify != "off" else None
        return replace(axis, batchable=proof.holds, why=why or axis.why, failed=proof.failed, proof=shown)

    def make_room(self, compiler: Compiler, rows: int | None, sizes: int) -> None:
        """Share compiled models where `memory_limit` asks for it. Raises ConfigError when it is too little for one."""
        shared = compiler.share_lanes_for_room(rows, sizes)
        if shared is not None:
            self.decide("memory_limit", "one compiled model for all lanes", shared)

    def plan_batches(
        self, batcher: Batcher, compiler: Compiler, graph: Graph, axis: BatchAxis, batch: BatchPlan | None, proven: bool
    ) -> tuple[Compiler, BatchAxis, BatchPlan]:
        """Batch sizes that pay and are right, and what compiles them."""
        if not proven and self.options.memory_limit is not None:
            # Under a limit first of all: what the proof compiles is gone before the sizes need the room.
            compiler, axis = self._prove(compiler, graph, axis)
            proven = True
        if axis.batchable:
            batch = batch or self._ask_batcher(batcher, compiler, graph, axis)
            assert batch is not None
            if batch.ladder != (1,) and not proven:
                before = compiler
                compiler, axis = self._prove(compiler, graph, axis)
                if axis.batchable and compiler is not before:
                    return self.plan_batches(batcher, compiler, graph, axis, None, proven=True)
        if batch is not None and axis.batchable:
            batch = self._cut(compiler, batch, axis)
            self.decide("batcher", batcher.name, batch.why)
            return compiler, axis, batch
        self.decide("batcher", "none", f"rows are not put together: {axis}")
        return compiler, axis, self.unbatched()

    def _prove(self, compiler: Compiler, graph: Graph, axis: BatchAxis) -> tuple[Compiler, BatchAxis]:
        """Whether the rows that are served already may be put together, along this axis or another."""
        confirmed = self._verified(compiler, axis)
        if confirmed.batchable:
            return compiler, confirmed
        return self._other_axis(compiler, graph, confirmed) or (compiler, confirmed)

    def _other_axis(self, compiler: Compiler, graph: Graph, refused: BatchAxis) -> tuple[Compiler, BatchAxis] | None:
        """Callers go on giving rows as before."""
        for other in _batch_axis.with_equal_rows(graph, refused):
            along = compiler.along(other)
            along.use_kept_costs(self.cache, self.budget.cpus)
            confirmed = self._verified(along, other)
            if confirmed.batchable:
                axis = replace(confirmed, mode="rows", inputs=refused.inputs, outputs=refused.outputs)
                return along, _batch_axis.instead(refused, axis)
        return None

    def _cut(self, compiler: Compiler, batch: BatchPlan, axis: BatchAxis) -> BatchPlan:
        """Without the sizes that fail their proof."""
        compiler.keep_only((1, *batch.ladder))
        if batch.ladder == (1,):
            return batch
        by_rules = axis.proof == "rules"
        ladder, failed = verify_ladder(compiler, batch.ladder, self.options.verify, self.cache, by_rules)
        if failed is None:
            return batch
        self.decide("ladder", f"up to {ladder[-1]}", failed)
        return replace(batch, ladder=ladder, cost_us={size: batch.cost_us[size] for size in ladder})

    def unbatched(self) -> BatchPlan:
        """A row at a time."""
        return BatchPlan(max_queue_delay_us=self.options.max_queue_delay_us or 0)

    def _ask_batcher(
        self, batcher: Batcher, compiler: Compiler, graph: Graph, axis: BatchAxis, measures: bool = True
    ) -> BatchPlan | None:
        """Its plan; None when it wants something measured and `measures` is off."""

        def only_single(rows: int) -> float:
            if rows != 1:
                raise _Unmeasured
            return compiler.measure(rows)

        beyond_limits: list[int] = []  # which another moment may be within

        def measure(rows: int) -> float:
            try:
                return compiler.measure(rows)
            except NoRoom as full:
                if all(size < rows for size in compiler.ledger.sizes):
                    raise
                # One between those that there is room for: these stand.
                self.decide("memory_limit", f"no batches of {rows}", str(full))
                raise ModelError(str(full)) from full
            except InferenceError as error:
                if rows == 1:
                    raise
                beyond_limits.append(rows)
                raise ModelError(f"no batches of {rows}: {error}") from error

        context = BatchContext(
            graph=graph,
            devices=compiler.devices,
            axis=axis,
            hint=self.options.hint,
            max_batch_size=self.options.max_batch_size,
            max_queue_delay_us=self.options.max_queue_delay_us,
            constant_bytes=max(graph.constant_bytes, compiler.ledger.expected(1)),
            compiled_copies=compiler.copies,
            memory_budget_bytes=_memory.budget_bytes(self.options.memory_limit),
            measure=measure if measures else only_single,
            measure_again=compiler.measure_again if measures else only_single,
            batch_sizes=self.options.batch_sizes,
        )
        question = _costs.question(batcher, self.options)
        if (known := self._kept_plan(compiler, question)) is not None:
            return known
        if self.options.memory_limit is not None:
            # Sizes are compared with rows in f32, where they are not of that precision.
            compiler.ledger.spare = self.options.verify != "off" and compiler.precision() != "f32"
        try:
            batch = self._plan_within_limit(batcher, compiler, context)
        except _Unmeasured:
            return None
        is_kept = measures and not beyond_limits and batcher not in self.calls.failed
        if question is not None and is_kept:
            compiler.table.plans[question] = batch.ladder, batch.why
        return batch

    def is_in_doubt(self, batcher: Batcher, compiler: Compiler) -> bool:
        """Whether the ladder follows from kept costs that are to be measured once more."""
        is_kept = _costs.question(batcher, self.options) in compiler.table.plans
        return is_kept and compiler.table.in_doubt and getattr(batcher, "compares", False)

    def _kept_plan(self, compiler: Compiler, question: str | None) -> BatchPlan | None:
        """What came of the question at an earlier load, if there is memory for it now."""
        if question not in compiler.table.plans:
            return None
        ladder, why = compiler.table.plans[question]
        if compiler.copies * sum(map(compiler.ledger.expected, ladder)) > _memory.budget_bytes(None):
            return None
        cost_us = {size: compiler.table.seconds[size] * 1e6 for size in ladder}
        return BatchPlan(ladder, cost_us, self.options.max_queue_delay_us or 0, f"{why} (as measured before)")

    def _plan_within_limit(self, batcher: Batcher, compiler: Compiler, context: BatchContext) -> BatchPlan:
        """The batcher's plan with as many sizes as `memory_limit` leaves room for."""
        while True:
            try:
                return self.calls.plan_batches(batcher, context)
            except NoRoom as full:
                smaller = [size for size in compiler.ledger.sizes if full.rows is not None and size < full.rows]
                most = max(smaller, default=1)
                if not smaller or most == context.max_batch_size:
                    raise
                self.decide("memory_limit", f"batches of up to {most}", str(full))
                sizes = context.batch_sizes and (tuple(n for n in context.batch_sizes if n <= most) or (most,))
                context = replace(context, max_batch_size=most, batch_sizes=sizes)

    # -- start --------------------------------------------------------------------------------------------------------

    def start(self, compiler: Compiler, axis: BatchAxis, batch: BatchPlan, choices: Choices) -> Model:
        """Compile what is missing, and start the lanes."""
        as_it_is = axis.mode != "rows" or compiler.is_blob
        if as_it_is:
            compiler.keep_only([])
        lanes = compiler.lanes((None,) if as_it_is else batch.ladder)
        if not batch.cost_us and axis.mode != "dynamic":
            # Where no input is known for it, its cost stays unknown, and matters little at one size.
            with contextlib.suppress(InferenceError):
                batch = replace(batch, cost_us={1: compiler.measure(None if as_it_is else 1) * 1e6})
        compiler.keep_costs()
        policy, native = self.calls.native_policy(choices.policy)
        plan = self.plan(compiler, lanes, axis, batch, choices._replace(policy=policy))
        if not isinstance(native, str):
            try:
                return Model._start(plan, lanes, native, self.budget)
            except Exception as error:  # the core refuses the capsule: its name, version or size
                policy = self.calls.replace_policy(policy, error)
                plan = replace(plan, scheduler=policy.name)
        return Model._start(plan, lanes, policy.native, self.budget)

    def plan(self, compiler: Compiler, lanes: Lanes, axis: BatchAxis, batch: BatchPlan, choices: Choices) -> Plan:
        """What was decided so far, in one value."""
        example = next(iter(lanes[0][1].values()))
        as_it_is = axis.mode != "rows" or compiler.is_blob
        made = (None,) if as_it_is else batch.ladder
        compiled_bytes = {rows or 1: compiler.ledger.expected(rows) for rows in made}
        _shapes.check_ranks((*example.inputs, *example.outputs))
        inputs = tensor_infos(example.inputs, axis.mode, axis.inputs)
        values = compiler.relied_upon(None if as_it_is else 1)
        inputs = tuple(replace(tensor, values=one) for tensor, one in zip(inputs, values, strict=True))
        outputs = tensor_infos(example.outputs, axis.mode, axis.outputs)
        return Plan(
            name=choices.name,
            inputs=inputs,
            outputs=outputs,
            mode=axis.mode,
            hint=self.options.hint,
            devices=compiler.devices,
            batch=batch,
            scheduler=choices.policy.name,
            precision=tuple(compiler.precision(index) for index in range(len(compiler.devices))),
            memory_bytes=compiler.copies * sum(compiled_bytes.values())
            + _memory.tensor_bytes(compiler.devices, batch.ladder[-1], (*inputs, *outputs)),
            memory_limit=self.options.memory_limit,
            compiled_bytes=compiled_bytes,
            max_queue_size=self.options.max_queue_size,
            queue_full_action=self.options.queue_full_action,
            decisions=(Decision("batch axis", axis.mode, str(axis)), *self.decisions),
            axis=axis,
        )


def default_name(source: object, model: Graph | Blob) -> str:
    """After the file, or what the model calls itself."""
    if is_path(source):
        return printable(as_path(source).stem) or "model"
    return (model.name if isinstance(model, Graph) else "") or "model"
