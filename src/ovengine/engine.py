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
from ovengine._core import CpuBudget, Inputs, Runtime, end_process
from ovengine._inspection import Inspection, load_apart
from ovengine._paths import StrOrBytesPath
from ovengine._planner import Planner
from ovengine._preparation import Preparation
from ovengine.config import Hint, LoadOptions, Shapes, Verify, available_cpus, check_integer, parse_bytes
from ovengine.errors import EngineClosed, ForkedError, UnknownDeviceError
from ovengine.model import Model
from ovengine.plugins import Plugins, default, renew_lock
from ovengine.profile import Profile

__all__ = ["Engine", "default_engine", "load"]

# At exit: how long threads may take to come back from OpenVINO.
EXIT_SECONDS = 2.0

FORK_ADVICE = "start the child with multiprocessing's method 'spawn' or 'forkserver', or load no model before the fork"


class Engine:
    """Owns what loaded models share: OpenVINO's core, plugins, devices, CPU budget.

    `ovengine.load` uses a default engine. Make one of your own for other plugins, devices or CPUs.

    Example:
        >>> with ovengine.Engine(cpu_budget=2) as engine:
        ...     model = engine.load("model.onnx")

    Args:
        plugins: a `Plugins`, or plugin objects to use besides the installed ones; None: the installed ones.
        devices: OpenVINO devices that may be used; None: all that OpenVINO lists.
        cpu_budget: CPUs that the models of this engine may keep busy together. None: what the affinity mask and the
            cgroup quota allow, shared with all engines that have no budget of their own.

    Raises:
        ConfigError: `cpu_budget` is no integer of at least 1.
    """

    def __init__(
        self,
        plugins: Plugins | Iterable[object] | None = None,
        devices: Sequence[str] | None = None,
        cpu_budget: int | None = None,
    ) -> None:
        cpu_budget = check_integer("cpu_budget", cpu_budget, 1)
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
        """The `Plugins`, found on first use."""
        with self._lock:
            if self._plugins is None:
                self._plugins = default() if self._extra_plugins is None else Plugins(extra=self._extra_plugins)
            return self._plugins

    @property
    def runtime(self) -> Runtime:
        """OpenVINO's core, started on first use. Raises ForkedError."""
        if self._forked:
            raise ForkedError(f"this engine belongs to the parent process; {FORK_ADVICE}")
        with self._lock:
            if self._runtime is None:
                _Process.start_openvino()
                self._runtime = Runtime()
            return self._runtime

    @property
    def devices(self) -> tuple[str, ...]:
        """Devices that models may be loaded on. Raises UnknownDeviceError when one of the engine's is missing."""
        available = self.runtime.available_devices
        if self._devices is None:
            return available
        for device in self._devices:
            if device not in available:
                raise UnknownDeviceError(f"unknown device {device!r}; available: {', '.join(available) or 'none'}")
        return self._devices

    @property
    def cpu_budget(self) -> int:
        """CPUs that the models of this engine may keep busy together."""
        return self._budget.cpus

    @property
    def _budget(self) -> CpuBudget:
        return self._cpu_budget or _Process.cpu_budget()

    @property
    def closed(self) -> bool:
        """True when `close` was called."""
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
        profile: Profile | StrOrBytesPath | None = None,
        buckets: Mapping[str | int, Buckets | Sequence[int]] | Buckets | Sequence[int] | None = None,
        cache_dir: StrOrBytesPath | None = "auto",
        verify: Verify = "cached",
        samples: Inputs | Iterable[Inputs] | None = None,
        memory_limit: int | str | None = None,
        inspection: Inspection | None = None,
        isolate: bool = False,
        name: str | None = None,
    ) -> Model:
        """Load a model with this engine. Arguments, result and errors are those of `ovengine.load`."""
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
            samples=samples,
            memory_limit=parse_bytes("memory_limit", memory_limit),
            inspection=inspection,
        )
        if isolate:
            load_apart(source, options, loader)
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

        Args:
            model: belongs to the engine from now on.

        Raises:
            EngineClosed: the engine is closed, and the model is closed now as well.
            ForkedError: the engine belongs to the parent process.
        """
        with self._lock:
            closed_meanwhile = self._closed
            self._models.add(model)
        if closed_meanwhile or self._forked:
            model.close(0)
            self._check_usable()

    # -- end ----------------------------------------------------------------------------------------------------------

    def close(self, timeout: float | None = None) -> bool:
        """Close all models. May be called again, and by several threads at once: the shortest timeout holds for all.

        Args:
            timeout: seconds for all models together; None waits as long as it takes. What is still pending then gets
                EngineClosed.

        Returns:
            True when all requests were served.

        Raises:
            InputError: `timeout` is not a number.
        """
        models = self._begin_close(timeout)
        return all([model._finish_close() for model in models])

    def _begin_close(self, timeout: float | None) -> list[Model]:
        """Have all models refuse new requests; those are returned that remain to be closed."""
        with self._lock:
            self._closed = True
            models = list(self._models)
        for model in models:
            model._begin_close(timeout)
        return models

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
            raise EngineClosed("the engine is closed; make a new one")

    def _mark_forked(self) -> None:
        """In a forked child: the lanes and OpenVINO's threads exist in the parent only."""
        self._lock = threading.RLock()  # another thread of the parent may have held it
        if self._runtime is None:  # nothing is with the parent: the child may go on with this engine
            self._turn = threading.Lock()
            return
        self._forked = True
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
_default_lock = threading.RLock()  # a signal handler may come back here on the same thread


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
    profile: Profile | StrOrBytesPath | None = None,
    buckets: Mapping[str | int, Buckets | Sequence[int]] | Buckets | Sequence[int] | None = None,
    cache_dir: StrOrBytesPath | None = "auto",
    verify: Verify = "cached",
    samples: Inputs | Iterable[Inputs] | None = None,
    memory_limit: int | str | None = None,
    inspection: Inspection | None = None,
    isolate: bool = False,
    name: str | None = None,
) -> Model:
    """Load a model and start serving it.

    The model serves as soon as `load` returns, at first one row at a time. Larger batch sizes are measured, proven
    right and compiled behind it; `Model.wait_ready` waits for them. `print(model.plan)` shows what was decided, and
    why. The words used here (lane, ladder, row class, mode ...) are explained in docs/glossary.md.

    Args:
        source: the path of a model file (IR `.xml`, `.onnx`, `.blob`, or any other that OpenVINO reads), an
            `openvino.Model`, or the bytes of an ONNX model or of a blob. Paths, here and elsewhere, are text, bytes or
            `os.PathLike`; bytes mean a path where a file has that name, and contents otherwise.
        device: an OpenVINO device, several (`CPU,GPU`), or `AUTO`, `AUTO:GPU,CPU`, `AUTO:-GPU`. `BATCH:CPU(16)` is
            understood as device CPU with batcher `fixed` and `max_batch_size=16`.
        hint: `latency`, `throughput` or `cumulative_throughput`, in any case.
        config: OpenVINO properties by their own names, those for batching included (docs/coming-from.md).
        loader: name of a model loader; None: the first loader that takes the source.
        device_selector: name of a device selector; None: `auto`.
        batcher: name of a batcher; None: `adaptive`.
        scheduler: name of a scheduler policy; None: `priority`.
        batch_sizes: the batch sizes to compile, exactly these, at most 256. None lets the batcher choose. Triton calls
            this preferred_batch_size, TensorFlow Serving allowed_batch_sizes.
        max_batch_size: rows of the largest batch, at most 65536; None lets the batcher choose. A request may have more
            rows: it is cut into batches.
        max_queue_delay_us: microseconds that a partial batch may wait for more rows; None: 0, a free lane takes what is
            there.
        max_queue_size: requests that may wait; None: as many as there is room for (16384).
        queue_full_action: `reject` (raise QueueFull) or `block` (the caller waits; `ainfer` rejects nevertheless).
            None: `reject` if `max_queue_size` is given, otherwise `block`.
        shapes: new input shapes by input name or index, or one shape for a model with one input. A shape is a sequence
            of lengths, with -1 for a dynamic dimension and `"1..64"` for one with bounds, or a text as OpenVINO's
            PartialShape writes it: `"[?,3,1..64]"`.
        profile: settings that `tune` found, as a `Profile` or its file. Other arguments win over them. None uses what
            `tune` left in the cache, unless it does not fit or batch sizes or a delay are given; "off" uses none.
        buckets: lengths to pad sequences to, by input name or index: a `Buckets`, or just the lengths (pad 0, axis 1).
            For a model with one input, they need no name.
            If the model would see its padding, as in an average over an image's width, the padding is done inside the
            model and masked; such requests run alone, at one of few shapes.
        cache_dir: folder that keeps what is learned about a model for the next load. "auto" is OVENGINE_CACHE_DIR, or
            `ovengine` in the user's cache folder; None keeps nothing.
        verify: when to prove by trial runs that rows may share an inference. "cached": where the operators of the model
            do not show it, once for each model, device and OpenVINO release; "always": at each load, whatever the
            operators show; "off": never, trust the shapes.
        samples: a list of typical requests, each as `submit` takes it; a single request may be given alone, if it is a
            mapping or an array. Trial runs and measurements then use rows of the first 256 requests, in any order and
            combination. Rows should differ, so that their results do. Without samples, values are made up. A model
            whose graph does not tell which values are valid (it looks up a computed index, for example) is not tried
            then: it runs without batching, and the plan says so. Shared inputs of the samples are kept together with
            their rows.
        memory_limit: bytes, or a text such as "512MB" or "2GiB", that the compiled models may hold together. Lanes
            share compiled models and batch sizes are left out to keep it; the plan says which. The model itself and
            rows in flight are not counted. None: no limit, but the batcher plans for a quarter of the free memory.
        inspection: limits for model files, which are checked before OpenVINO reads them; None: those of `Inspection()`.
        isolate: parse and compile the model in a child process first. A crash, a hang or a lack of memory there is a
            ModelError. `inspection` has the limits. It costs about the time of one more load.
        name: of the model, in plans, errors and statistics; None: named after the source.

    Returns:
        The `Model`. Close it, or use it in a `with` statement.

    Raises:
        ModelNotFoundError: there is no file at the path.
        ModelError: the source is not a model, or OpenVINO refuses it.
        UnknownDeviceError, UnknownPluginError: there is no such device or plugin; the text lists the choices.
        PropertyError: an OpenVINO property is unknown, read-only or refused.
        ConfigError: an argument is out of range, two arguments contradict each other, padding would change answers, the
            profile was made for another model or machine, or `memory_limit` is too low for one compiled model.
        EngineClosed, ForkedError: the engine is closed, or belongs to the parent process.
    """
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
        samples=samples,
        memory_limit=memory_limit,
        inspection=inspection,
        isolate=isolate,
        name=name,
    )


Engine.load.__doc__ = load.__doc__  # the same text in the help() of both


def _close_all() -> None:
    """At exit: nothing is waited for but inferences and compilations that end soon; whoever waits gets EngineClosed."""
    until = time.monotonic() + EXIT_SECONDS
    all_ended = False
    try:
        engines = [engine for engine in list(_engines) if not engine._forked]
        for model in [model for engine in engines for model in engine._begin_close(0)]:
            model._finish_close()
        all_ended = Preparation.join_all(until)
    finally:  # also when a signal ends the wait
        end_process(max(0.0, until - time.monotonic()) if all_ended else 0.0)


def _after_fork_in_child() -> None:
    global _default_lock
    _default_lock = threading.RLock()  # another thread of the parent may have held it
    renew_lock()
    _Process.lost = _Process.started
    _Process._cpu_budget = None  # shares of it went with the parent's threads
    for engine in list(_engines):
        engine._mark_forked()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_after_fork_in_child)
