"""The engine: what loaded models share, their common end, and what a fork or the interpreter's exit means to them."""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

from ovengine._buckets import Buckets
from ovengine._core import CpuBudget, Runtime
from ovengine._planner import Planner
from ovengine._preparation import Preparation
from ovengine.config import Hint, LoadOptions, Shapes, Verify, available_cpus, parse_bytes
from ovengine.errors import ConfigError, EngineClosed, ForkedError, UnknownDeviceError
from ovengine.model import Model
from ovengine.plugins import Plugins, default
from ovengine.profile import Profile

__all__ = ["Engine", "default_engine", "load"]

FORK_ADVICE = "start the child with multiprocessing's method 'spawn' or 'forkserver', or load no model before the fork"


class Engine:
    """Owns what loaded models share: OpenVINO's core, plugins, devices, CPU budget.

    Example:
        >>> with ovengine.Engine(cpu_budget=2) as engine:
        ...     model = engine.load("model.onnx")

    Args:
        plugins: a `Plugins`, or plugin objects to register besides those installed; None for those installed.
        devices: OpenVINO devices that may be used; None for all that OpenVINO lists.
        cpu_budget: CPUs that the lanes of this engine's models may keep busy together; None for what the affinity mask
            and the cgroup quota of this process allow, shared with all other engines without a budget of their own.
    """

    def __init__(
        self,
        plugins: Plugins | Iterable[object] | None = None,
        devices: Sequence[str] | None = None,
        cpu_budget: int | None = None,
    ) -> None:
        if cpu_budget is not None and (not isinstance(cpu_budget, int) or cpu_budget < 1):
            raise ConfigError(f"cpu_budget must be None or an integer of at least 1, not {cpu_budget!r}")
        self._plugins = plugins if isinstance(plugins, Plugins) else None
        self._extra_plugins = None if isinstance(plugins, Plugins) else plugins
        self._devices = tuple(devices) if devices is not None else None
        self._cpu_budget = None if cpu_budget is None else CpuBudget(cpu_budget)
        self._runtime: Runtime | None = None
        self._lock = threading.RLock()
        self._turn = threading.Lock()  # of preparing models
        self._models: weakref.WeakSet[Model] = weakref.WeakSet()
        self._closed = False
        self._forked = False
        _engines.add(self)

    # -- what is shared -----------------------------------------------------------------------------------------------

    @property
    def plugins(self) -> Plugins:
        """The plugins, found on first use."""
        with self._lock:
            if self._plugins is None:
                self._plugins = default() if self._extra_plugins is None else Plugins(extra=self._extra_plugins)
            return self._plugins

    @property
    def runtime(self) -> Runtime:
        """OpenVINO's core, started on first use."""
        with self._lock:
            if self._runtime is None:
                _Process.start_openvino()
                self._runtime = Runtime()
            return self._runtime

    @property
    def devices(self) -> tuple[str, ...]:
        """Devices that models may be loaded on."""
        available = self.runtime.available_devices
        if self._devices is None:
            return available
        for device in self._devices:
            if device not in available:
                raise UnknownDeviceError(f"unknown device {device!r}; available: {', '.join(available) or 'none'}")
        return self._devices

    @property
    def cpu_budget(self) -> int:
        """CPUs that the lanes of all models may keep busy together."""
        return self._budget.cpus

    @property
    def _budget(self) -> CpuBudget:
        return self._cpu_budget or _Process.cpu_budget()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    # -- loading ------------------------------------------------------------------------------------------------------

    def load(
        self,
        source: object,
        *,
        device: str = "AUTO",
        hint: str = "throughput",
        config: Mapping[str, Any] | None = None,
        loader: str | None = None,
        device_selector: str | None = None,
        batcher: str | None = None,
        scheduler: str | None = None,
        batch_sizes: Sequence[int] | None = None,
        max_batch_size: int | None = None,
        max_queue_delay_us: int | None = None,
        max_queue_size: int | None = None,
        queue_full_action: str | None = None,
        shapes: Shapes | None = None,
        profile: Profile | str | os.PathLike[str] | None = None,
        buckets: Mapping[str | int, Buckets | Sequence[int]] | None = None,
        cache_dir: str | os.PathLike[str] | None = "auto",
        verify: Verify = "cached",
        memory_limit: int | str | None = None,
        name: str | None = None,
    ) -> Model:
        """Load a model and start its lanes.

        The model serves at once, a row at a time; larger batch sizes are measured and compiled behind it
        (`Model.wait_ready` waits for them).

        Args:
            source: a path (IR `.xml`, `.onnx`, `.blob`, or whatever else OpenVINO reads), an `openvino.Model`, or
                the bytes of an ONNX model or of a blob.
            device: an OpenVINO device, several (`CPU,GPU`), or `AUTO`, `AUTO:GPU,CPU`, `AUTO:-GPU`; also
                `BATCH:CPU(16)`, which is CPU with the batcher `fixed` and `max_batch_size=16`.
            hint: `latency`, `throughput` or `cumulative_throughput`, in any case.
            config: OpenVINO properties by their own names, those for batching included (`docs/coming-from.md`).
            loader: model loader by name; None for the first that takes the source.
            device_selector: by name; None for `auto`.
            batcher: by name; None for `adaptive`.
            scheduler: scheduler policy by name; None for `priority`.
            batch_sizes: the ladder, size by size, instead of choosing one; Triton's preferred_batch_size,
                TensorFlow Serving's allowed_batch_sizes.
            max_batch_size: largest batch in rows.
            max_queue_delay_us: how long a partial batch may be held back for more rows, microseconds.
            max_queue_size: requests that may wait, of all groups; None for as many as the core has room for (16384).
            queue_full_action: what becomes of more: `reject` (QueueFull) or `block` (the caller waits for room, but for
                `ainfer`, which rejects). None rejects where `max_queue_size` is given, and blocks where not.
            shapes: new input shapes, by input name or index (or one shape for a model with one input): lengths, -1
                for a dynamic dimension, `"1..64"` for one with bounds; or a whole shape as OpenVINO's PartialShape
                spells it, `"[?,3,1..64]"`.
            buckets: lengths that sequences are padded to, by input: a `Buckets`, or its lengths alone (pad 0, axis 1).
                Where one input of a model would see its padding, as an image that is averaged over, padding is put on
                inside the model and masked; such requests run alone, from half of the shortest length to the longest
                at one of few shapes, others at their own. Refused with ConfigError unless padded sequences get the
                same answers.
            profile: settings that `tune` found for this model on this machine, or the file that they are in; other
                arguments given here win over them. None takes what `tune` left in the cache, if that fits and no batch
                sizes or delay are given here; "off" takes none.
            cache_dir: folder for what is learned about models, from one load to the next; "auto" for
                OVENGINE_CACHE_DIR or `ovengine` in the user's cache folder, None to keep nothing.
            verify: when to show by trial runs that rows may share an inference: "cached" (once for each model, device
                and OpenVINO release), "always" (at each load), or "off" (take the shapes' word for it).
            memory_limit: what the compiled models of all lanes, batch sizes and row classes may hold together: bytes,
                or a text such as "512MB" or "2GiB". Lanes share compiled models and sizes are left out to keep to it;
                the plan says which. The model itself, and rows in flight, come on top. None for a quarter of the memory
                that is free, as far as the batcher minds.
            name: of the model, in plans and statistics; by default after the source.

        Raises:
            ModelNotFoundError, ModelError: the source is missing, or not a model that OpenVINO takes.
            UnknownDeviceError, UnknownPluginError: no such device or plugin; the text lists the choices.
            PropertyError: an OpenVINO property is unknown, read-only or refused.
            ConfigError: another argument is out of range, two contradict each other, the profile was tuned for
                another model or machine, or memory_limit is too little for one compiled model.
            EngineClosed, ForkedError: the engine is closed, or belongs to the parent process.
        """
        self._check_usable()
        options = LoadOptions(
            device=device,
            hint=Hint.parse(hint),
            config=config or {},
            batcher=batcher,
            batch_sizes=batch_sizes,
            max_batch_size=max_batch_size,
            max_queue_delay_us=max_queue_delay_us,
            max_queue_size=max_queue_size,
            queue_full_action=queue_full_action,
            shapes=shapes,
            buckets=buckets,
            cache_dir=cache_dir,
            verify=verify,
            memory_limit=parse_bytes("memory_limit", memory_limit),
        )
        use_kept = profile is None
        if profile == "off":
            profile = None
        elif profile is not None and not isinstance(profile, Profile):
            profile = Profile.load(profile)
        planner = Planner(self.plugins, self.runtime, self.devices, self._budget, options, self._turn)
        model = planner.load(
            source,
            loader=loader,
            device_selector=device_selector or "auto",
            batcher=options.batcher or "adaptive",
            scheduler=scheduler or "priority",
            profile=profile,
            use_kept=use_kept,
            name=name,
        )
        self.register(model)
        model._on_close = self.plugins.model_closed
        self.plugins.model_loaded(model)
        return model

    def register(self, model: Model) -> None:
        """Close this model with the engine, too, and mark it in a forked child; for models that `load` did not make.

        Raises EngineClosed, ForkedError: the engine is closed, and the model, too; or it belongs to the parent process.
        """
        with self._lock:
            closed_meanwhile = self._closed
            self._models.add(model)
        if closed_meanwhile or self._forked:
            model.close(0)
            self._check_usable()

    # -- end ----------------------------------------------------------------------------------------------------------

    def close(self, timeout: float | None = None) -> bool:
        """Close all models, together within `timeout` seconds (None: as long as it takes).

        Returns whether all requests were served; the others got EngineClosed. Safe to call twice.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            self._closed = True
            models = list(self._models)
        served = True
        for model in models:
            rest = None if deadline is None else max(0.0, deadline - time.monotonic())
            served = model.close(rest) and served
        return served

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _check_usable(self) -> None:
        if self._forked:
            raise ForkedError(f"this engine belongs to the parent process; {FORK_ADVICE}")
        if self._closed:
            raise EngineClosed("the engine is closed")

    def _mark_forked(self) -> None:
        """In a forked child: the lanes and OpenVINO's threads exist in the parent only."""
        self._forked = True
        self._lock = threading.RLock()  # another thread of the parent may have held it
        for model in list(self._models):
            model._on_close = None
            model._mark_forked()


class _Process:
    """What all engines of this process have in common.

    A fork leaves OpenVINO's threads with the parent, and a child that uses it again hangs.
    """

    started = False
    lost = False
    _cpu_budget: CpuBudget | None = None

    @classmethod
    def cpu_budget(cls) -> CpuBudget:
        """The CPUs that this process may use, as counted when they were first asked for."""
        with _default_lock:
            if cls._cpu_budget is None:
                cls._cpu_budget = CpuBudget(available_cpus())
            return cls._cpu_budget

    @classmethod
    def start_openvino(cls) -> None:
        """Note that OpenVINO is in use from now on. Raises ForkedError in a child that it cannot work in."""
        if cls.lost:
            raise ForkedError(f"OpenVINO was in use before this process was forked; {FORK_ADVICE}")
        cls.started = True


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()
_default_engine: Engine | None = None
_default_lock = threading.Lock()


def default_engine() -> Engine:
    """The engine behind `ovengine.load`, made on first use; a new one when that was closed or left behind by a fork."""
    global _default_engine
    with _default_lock:
        if _default_engine is None or _default_engine._closed or _default_engine._forked:
            _default_engine = Engine()
        return _default_engine


def load(
    source: object,
    *,
    device: str = "AUTO",
    hint: str = "throughput",
    config: Mapping[str, Any] | None = None,
    loader: str | None = None,
    device_selector: str | None = None,
    batcher: str | None = None,
    scheduler: str | None = None,
    batch_sizes: Sequence[int] | None = None,
    max_batch_size: int | None = None,
    max_queue_delay_us: int | None = None,
    max_queue_size: int | None = None,
    queue_full_action: str | None = None,
    shapes: Shapes | None = None,
    profile: Profile | str | os.PathLike[str] | None = None,
    buckets: Mapping[str | int, Buckets | Sequence[int]] | None = None,
    cache_dir: str | os.PathLike[str] | None = "auto",
    verify: Verify = "cached",
    memory_limit: int | str | None = None,
    name: str | None = None,
) -> Model:
    """Load a model on the default engine; see `Engine.load`."""
    return default_engine().load(
        source,
        device=device,
        hint=hint,
        config=config,
        loader=loader,
        device_selector=device_selector,
        batcher=batcher,
        scheduler=scheduler,
        batch_sizes=batch_sizes,
        max_batch_size=max_batch_size,
        max_queue_delay_us=max_queue_delay_us,
        max_queue_size=max_queue_size,
        queue_full_action=queue_full_action,
        shapes=shapes,
        profile=profile,
        buckets=buckets,
        cache_dir=cache_dir,
        verify=verify,
        memory_limit=memory_limit,
        name=name,
    )


def _close_all() -> None:
    """At exit: nothing is waited for, and whoever waits gets EngineClosed."""
    for engine in list(_engines):
        if not engine._forked:
            engine.close(0)
    Preparation.join_all()


def _after_fork_in_child() -> None:
    global _default_lock
    _default_lock = threading.Lock()  # another thread of the parent may have held it
    _Process.lost = _Process.started
    _Process._cpu_budget = None  # shares of it went with the parent's threads
    for engine in list(_engines):
        engine._mark_forked()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_after_fork_in_child)
