"""What a plugin can do: the hooks, and the objects that they yield.

A plugin is a module (or any object) with functions marked `@ovengine.hookimpl`, named by an entry point
in the group `ovengine`. Four hooks yield named objects, of which a user picks one per kind by its name:

    hook                            yields             picked by
    ovengine_model_loaders          ModelLoader        load(..., loader=NAME), or the first that can
    ovengine_device_selectors       DeviceSelector     load(..., device_selector=NAME), default "auto"
    ovengine_batchers               Batcher            load(..., batcher=NAME), default "adaptive"
    ovengine_scheduler_policies     SchedulerPolicy    load(..., scheduler=NAME), default "priority"

Three more observe: ovengine_model_loaded, ovengine_model_closed, ovengine_cli_commands.

Plugins decide at load time only. No plugin written in Python runs between `submit` and the result.
docs/hooks.md describes each hook with an example.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import pluggy

from ovengine.config import Hint
from ovengine.plan import BatchAxis, BatchPlan, DevicePlan

if TYPE_CHECKING:
    import argparse

    from ovengine._core import Graph, Runtime
    from ovengine._inspection import ModelReader
    from ovengine.model import Model

__all__ = [
    "BatchContext",
    "Batcher",
    "Blob",
    "DeviceContext",
    "DeviceSelector",
    "LoadContext",
    "ModelLoader",
    "SchedulerPolicy",
    "hookimpl",
    "ovengine_batchers",
    "ovengine_cli_commands",
    "ovengine_device_selectors",
    "ovengine_model_closed",
    "ovengine_model_loaded",
    "ovengine_model_loaders",
    "ovengine_scheduler_policies",
]

hookspec = pluggy.HookspecMarker("ovengine")
hookimpl = pluggy.HookimplMarker("ovengine")


# -- model loaders ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Blob:
    """A model that was compiled and exported before. It is imported, not compiled, and cannot be reshaped.

    Attributes:
        data: what `CompiledModel.export_model` wrote.
    """

    data: bytes


@dataclass(frozen=True, slots=True)
class LoadContext:
    """What a loader may use: `runtime.read_model`, `runtime.read_model_bytes`, `runtime.adopt`.

    Files and bytes are checked (`Inspection`) before OpenVINO reads them.
    """

    runtime: ModelReader


@runtime_checkable
class ModelLoader(Protocol):
    """Reads one kind of source."""

    name: str

    @abstractmethod
    def can_load(self, source: object) -> bool:
        """Whether this loader is the one for `source`; cheap, and false rather than an error."""

    @abstractmethod
    def load(self, source: Any, context: LoadContext) -> object:
        """The model: a `Graph`, a `Blob`, an `openvino.Model`, the path of a model file, or an ONNX model's bytes.

        Raises ModelNotFoundError or ModelError when the source is missing or not what it should be.
        """


# -- device selectors -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeviceContext:
    """What a device selector decides from.

    device: as the caller gave it, for example `CPU` or `AUTO:GPU,CPU`.
    config: the caller's OpenVINO properties (without PERFORMANCE_HINT, which is `hint`).
    graph: the model; None when it comes from a blob.
    available_devices: those that OpenVINO lists and this engine may use.
    cpu_budget: CPUs that all lanes together may keep busy.
    num_requests: requests that the caller keeps in flight (PERFORMANCE_HINT_NUM_REQUESTS); None where not known.
    """

    device: str
    hint: Hint
    config: Mapping[str, Any]
    graph: Graph | None
    available_devices: tuple[str, ...]
    cpu_budget: int
    runtime: Runtime
    num_requests: int | None = None


@runtime_checkable
class DeviceSelector(Protocol):
    """Chooses devices, their lanes and the properties to compile with."""

    name: str

    @abstractmethod
    def select(self, context: DeviceContext) -> Sequence[DevicePlan]:
        """At least one plan, preferred device first. Raises UnknownDeviceError for a device that is not there."""


# -- batchers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BatchContext:
    """What a batcher decides from.

    devices: the selected devices; costs are measured on the first lane of the first one.
    axis: whether rows may share an inference at all; when `axis.batchable` is false, no batcher is asked.
    max_batch_size, max_queue_delay_us: the caller's limits; None where not given.
    constant_bytes: weights of the model, or what one compiled model of it was measured to hold, if that is more; each
        compiled size holds them once per compiled copy.
    compiled_copies: compiled models per batch size, over all devices.
    memory_budget_bytes: what the weights of all compiled models together should stay below.
    measure: batch size -> seconds of one inference. Compiles that size on the first call (which can take seconds;
        the compiled model is kept and used if the size ends up in the ladder). Raises ModelError when the model
        refuses the size. Measured once: later calls give the same figure. Where the caller's memory_limit has no room
        for it, it raises a ConfigError, which is to be let through: the batcher is asked again with a lower limit.
    measure_again: the same, measured once more: the least of all measurements. For figures that decide.
    batch_sizes: the ladder, where the caller has given it.
    """

    graph: Graph
    devices: tuple[DevicePlan, ...]
    axis: BatchAxis
    hint: Hint
    max_batch_size: int | None
    max_queue_delay_us: int | None
    constant_bytes: int
    compiled_copies: int
    memory_budget_bytes: int
    measure: Callable[[int], float]
    measure_again: Callable[[int], float]
    batch_sizes: Sequence[int] | None = None


@runtime_checkable
class Batcher(Protocol):
    """Chooses the ladder of batch sizes and how long a partial batch may be held back."""

    name: str

    @abstractmethod
    def plan(self, context: BatchContext) -> BatchPlan:
        """A ladder within `context.max_batch_size`, with the costs that were measured; at most 256 sizes of up to 65536
        rows.
        """


# -- scheduler policies -----------------------------------------------------------------------------------------------


@runtime_checkable
class SchedulerPolicy(Protocol):
    """Decides which idle lane takes the next batch, in native code.

    native: the name of a built-in kind (`priority`, `round_robin`), or a PyCapsule named `ovengine.policy` around
        a `struct ovengine_policy` (see `ovengine_policy.h` in `ovengine.get_include()`).
    """

    name: str

    @property
    @abstractmethod
    def native(self) -> object:
        """Read once for each model that is loaded with this policy."""


# -- hooks ------------------------------------------------------------------------------------------------------------


@hookspec
def ovengine_model_loaders() -> Iterable[ModelLoader]:  # type: ignore[empty-body]  # a spec has no body
    """Yield model loaders.

    Called once per set of plugins, on the thread that loads the first model. Without `loader=NAME` the first
    loader whose `can_load(source)` is true reads the model; plugins are asked before the built-ins.

    Returns: objects with `name`, `can_load(source)` and `load(source, context)`.

    Example:
        >>> class GzippedOnnx:
        ...     name = "onnx.gz"
        ...     def can_load(self, source):
        ...         return str(source).endswith(".onnx.gz")
        ...     def load(self, source, context):
        ...         import gzip
        ...         return gzip.open(source).read()
        >>> @ovengine.hookimpl
        ... def ovengine_model_loaders():
        ...     return [GzippedOnnx()]

    Cost and thread: a loader runs once per `load`, on the calling thread, with the GIL.
    """


@hookspec
def ovengine_device_selectors() -> Iterable[DeviceSelector]:  # type: ignore[empty-body]  # a spec has no body
    """Yield device selectors.

    Called once per set of plugins, on the thread that loads the first model. A selector that raises anything but
    an OvengineError, or returns no usable plan, is replaced by `auto` for that load, with a warning.

    Returns: objects with `name` and `select(context)`, which returns `DevicePlan`s, preferred device first.

    Example:
        >>> class OneQuietLane:
        ...     name = "quiet"
        ...     def select(self, context):
        ...         properties = {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1}
        ...         return [ovengine.DevicePlan("CPU", properties, lanes=1, why="leaves the other cores alone")]
        >>> @ovengine.hookimpl
        ... def ovengine_device_selectors():
        ...     return [OneQuietLane()]

    Cost and thread: a selector runs once per `load`, on the calling thread, with the GIL.
    """


@hookspec
def ovengine_batchers() -> Iterable[Batcher]:  # type: ignore[empty-body]  # a spec has no body
    """Yield batchers.

    Called once per set of plugins, on the thread that loads the first model. A batcher that raises, or plans
    what cannot be (an empty ladder, sizes over `max_batch_size`), is replaced by `none` for that load, with a
    warning.

    Returns: objects with `name` and `plan(context)`, which returns a `BatchPlan`.

    Example:
        >>> class Pairs:
        ...     name = "pairs"
        ...     def plan(self, context):
        ...         cost_us = {size: context.measure(size) * 1e6 for size in (1, 2)}
        ...         return ovengine.BatchPlan((1, 2), cost_us, why="two by two")
        >>> @ovengine.hookimpl
        ... def ovengine_batchers():
        ...     return [Pairs()]

    Cost and thread: for each `load` of a batchable model a batcher is asked on the calling thread first, where the
    first measurement of more than one row ends the call (so that a ConfigError still reaches the caller), and then
    again, from the beginning, on a thread behind the model that serves by then. `measure` compiles, which dominates.
    """


@hookspec
def ovengine_scheduler_policies() -> Iterable[SchedulerPolicy]:  # type: ignore[empty-body]  # a spec has no body
    """Yield scheduler policies.

    Called once per set of plugins, on the thread that loads the first model. A policy whose `native` raises or is
    neither a built-in kind nor a fitting capsule is replaced by `priority` for that load, with a warning.

    Returns: objects with `name` and `native`: the name of a built-in kind, or a PyCapsule.

    Example:
        >>> class Fair:
        ...     name = "fair"
        ...     native = "round_robin"
        >>> @ovengine.hookimpl
        ... def ovengine_scheduler_policies():
        ...     return [Fair()]

    Cost and thread: `native` is read once per `load`. The functions of a capsule run once per batch, on whichever
    thread dispatches it, without the GIL.
    """


@hookspec
def ovengine_model_loaded(model: Model) -> None:
    """Observe a model that has just been loaded.

    Called once per `load`, on the thread that called it, before `load` returns. An exception becomes a warning.

    model: ready to take requests; `model.plan` says how it runs.

    Example:
        >>> @ovengine.hookimpl
        ... def ovengine_model_loaded(model):
        ...     print("loaded", model.name, model.plan.ladder)

    Cost and thread: runs inside `load`, with the GIL; return soon.
    """


@hookspec
def ovengine_model_closed(model: Model) -> None:
    """Observe a model that has just been closed.

    Called once per model, on a thread that called `close`, when no request is pending any more. Not
    called for a model that is dropped without `close`, nor in a forked child. An exception becomes a warning.

    model: closed; `model.stats()` still answers.

    Example:
        >>> @ovengine.hookimpl
        ... def ovengine_model_closed(model):
        ...     print(model.name, "served", model.stats().requests)

    Cost and thread: runs inside `close`, with the GIL; return soon.
    """


@hookspec
def ovengine_cli_commands(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add commands to the `ovengine` command line.

    Called once per run of the command line, before its arguments are parsed. An exception becomes a warning.

    subparsers: as from `ArgumentParser.add_subparsers`. Each added parser sets `run` to a function that takes the
        parsed arguments and returns an exit status (None counts as 0).

    Example:
        >>> @ovengine.hookimpl
        ... def ovengine_cli_commands(subparsers):
        ...     parser = subparsers.add_parser("hello", help="say hello")
        ...     parser.set_defaults(run=lambda arguments: print("hello"))

    Cost and thread: every start of the command line pays for it; import inside `run`, not at the top.
    """
