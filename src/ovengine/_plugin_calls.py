"""Asks the plugins of one load, checks what they say, and replaces them where they fail."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ovengine._core import Graph
from ovengine._inspection import Inspection, ModelReader
from ovengine._numbers import as_integer
from ovengine.config import MOST_BATCH_SIZE, MOST_BATCH_SIZES
from ovengine.errors import ConfigError, ModelError, OvengineError, PluginError, UnknownDeviceError
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
from ovengine.plan import MAX_LANES, BatchPlan, Decision, DevicePlan

if TYPE_CHECKING:
    from ovengine._core import Runtime
    from ovengine.plugins import Plugins

BUILTIN_LOADERS = ("blob", "ir", "onnx", "openvino", "frontend")
NATIVE_POLICIES = ("priority", "round_robin")


class PluginCalls:
    """Each method asks one kind of plugin. What fails is reported (`Plugins.report_failure`), and a built-in asked."""

    def __init__(self, plugins: Plugins, runtime: Runtime, inspection: Inspection) -> None:
        self._plugins = plugins
        self._reader = ModelReader(runtime, inspection)
        # Batchers that `none` stands in for.
        self.failed: list[Batcher] = []

    # -- model loaders ------------------------------------------------------------------------------------------------

    def read(self, source: object, name: str | None) -> tuple[Graph | Blob, Decision]:
        """The model, through the loader of that name or the first that can."""
        if name is not None:
            loader: ModelLoader = self._plugins.get("model_loader", name)
            return self._read_with(loader, source), Decision("loader", name, "asked for by name")
        refused: list[str] = []
        for loader in self._plugins.model_loaders():
            try:
                if not loader.can_load(source):
                    continue
                loaded = self._read_with(loader, source)
            except PluginError as error:
                self._plugins.report_failure(loader, error, "asking the next loader")
                refused.append(str(error))
            except OvengineError:
                raise  # the loader is fine, the model is not
            except Exception as error:  # from `can_load`: whatever a plugin may raise
                self._plugins.report_failure(loader, error, "asking the next loader")
                refused.append(f"{loader.name}: {error}")
            else:
                return loaded, Decision("loader", loader.name, "the first that takes this source")
        tried = f" ({'; '.join(refused)})" if refused else ""
        raise ModelError(
            f"no loader takes a source of type {type(source).__name__}{tried}; "
            "give a path, an openvino.Model, or the bytes of an ONNX model or blob"
        )

    def _read_with(self, loader: ModelLoader, source: object) -> Graph | Blob:
        try:
            loaded = loader.load(source, LoadContext(self._reader))
        except OvengineError:
            raise
        except Exception as error:
            raise PluginError(f"loader {loader.name!r} failed: {type(error).__name__}: {error}") from error
        if isinstance(loaded, (Graph, Blob)):
            return loaded
        if loader.name not in BUILTIN_LOADERS:
            # A plugin may fetch or unpack a model and leave the reading to the built-in loaders.
            for builtin in (self._plugins.get("model_loader", name) for name in BUILTIN_LOADERS):
                if builtin.can_load(loaded):
                    return self._read_with(builtin, loaded)
        raise PluginError(f"loader {loader.name!r} returned {type(loaded).__name__}, which is not a model")

    # -- device selectors ---------------------------------------------------------------------------------------------

    def select_devices(self, selector: DeviceSelector, context: DeviceContext) -> tuple[str, tuple[DevicePlan, ...]]:
        """The name of the selector whose plans hold, and these: `auto` when it fails."""
        try:
            return selector.name, _checked_devices(selector.select(context), context)
        except (ConfigError, UnknownDeviceError):
            raise  # of the caller's making
        except Exception as error:  # whatever a plugin may raise or return
            if selector.name == "auto":
                raise
            self._plugins.report_failure(selector, error, "selecting devices with 'auto' instead")
            auto: DeviceSelector = self._plugins.get("device_selector", "auto")
            return auto.name, _checked_devices(auto.select(context), context)

    # -- batchers -----------------------------------------------------------------------------------------------------

    def plan_batches(self, batcher: Batcher, context: BatchContext) -> BatchPlan:
        """The batcher's plan with all costs; that of `none` when it fails."""
        try:
            return _checked_batch(batcher.plan(context), context)
        except ConfigError:
            raise  # of the caller's making
        except Exception as error:  # whatever a plugin may raise or return
            self._plugins.report_failure(batcher, error, "batching is off for this model")
            self.failed.append(batcher)
            none: Batcher = self._plugins.get("batcher", "none")
            return replace(none.plan(context), why=f"batcher {batcher.name!r} failed")

    # -- scheduler policies -------------------------------------------------------------------------------------------

    def native_policy(self, policy: SchedulerPolicy) -> tuple[SchedulerPolicy, object]:
        """The policy and what the core takes of it; `priority` when it fails."""
        try:
            native = policy.native
            if native not in NATIVE_POLICIES and type(native).__name__ != "PyCapsule":
                raise PluginError(f"native is {native!r}, not a PyCapsule or one of {', '.join(NATIVE_POLICIES)}")
            return policy, native
        except Exception as error:  # whatever a plugin may raise
            policy = self.replace_policy(policy, error)
            return policy, policy.native

    def replace_policy(self, policy: SchedulerPolicy, error: Exception) -> SchedulerPolicy:
        """`priority`, because this one failed."""
        self._plugins.report_failure(policy, error, "scheduling with 'priority' instead")
        replacement: SchedulerPolicy = self._plugins.get("scheduler_policy", "priority")
        return replacement


def _checked_devices(plans: object, context: DeviceContext) -> tuple[DevicePlan, ...]:
    if not isinstance(plans, Sequence) or not plans:
        raise PluginError(f"select returned {plans!r}, not a sequence of DevicePlan")
    checked = []
    for plan in plans:
        if not isinstance(plan, DevicePlan):
            raise PluginError(f"select returned a {type(plan).__name__} among its plans, not a DevicePlan")
        if plan.device not in context.available_devices:
            raise PluginError(f"select chose {plan.device!r}; there are {', '.join(context.available_devices)}")
        lanes, threads = as_integer(plan.lanes), as_integer(plan.threads_per_lane)
        if lanes is None or lanes < 1:
            raise PluginError(f"select planned {plan.lanes!r} lanes on {plan.device}")
        if threads is None or threads < 0:
            raise PluginError(f"select planned lanes of {plan.threads_per_lane!r} threads on {plan.device}")
        checked.append(replace(plan, lanes=lanes, threads_per_lane=threads))
    if sum(plan.lanes for plan in checked) > MAX_LANES:
        raise PluginError(f"select planned more than {MAX_LANES} lanes")
    return tuple(checked)


def _checked_batch(batch: object, context: BatchContext) -> BatchPlan:
    if not isinstance(batch, BatchPlan):
        raise PluginError(f"plan returned {type(batch).__name__}, not a BatchPlan")
    sizes = [as_integer(size) or 0 for size in batch.ladder] if isinstance(batch.ladder, tuple) else []
    if not sizes or min(sizes) < 1 or sizes != sorted(set(sizes)):
        raise PluginError(f"plan returned the ladder {batch.ladder!r}, not ascending sizes")
    ladder = tuple(sizes)
    if len(ladder) > MOST_BATCH_SIZES or ladder[-1] > MOST_BATCH_SIZE:
        raise PluginError(
            f"plan returned {len(ladder)} sizes up to {ladder[-1]}; "
            f"a ladder has at most {MOST_BATCH_SIZES} sizes of up to {MOST_BATCH_SIZE} rows"
        )
    limit = context.max_batch_size
    if limit is not None and ladder[-1] > limit:
        raise PluginError(f"plan returned the ladder {ladder!r}, over max_batch_size={limit}")
    delay_us = as_integer(batch.max_queue_delay_us)
    if delay_us is None or delay_us < 0:
        raise PluginError(f"plan returned max_queue_delay_us={batch.max_queue_delay_us!r}")
    cost_us = {size: float(batch.cost_us.get(size) or context.measure(size) * 1e6) for size in ladder}
    for size, cost in cost_us.items():
        if not (math.isfinite(cost) and cost > 0):
            raise PluginError(f"plan returned a cost of {cost} us for {size} rows")
    return replace(batch, ladder=ladder, max_queue_delay_us=delay_us, cost_us=cost_us)
