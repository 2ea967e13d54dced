"""`tune`: loads a model in many settings, measures, and says which is best and why."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

from ovengine import _profiles
from ovengine._cache import Cache
from ovengine._load_generator import Inputs, make_data
from ovengine._paths import StrOrBytesPath, as_path, printable
from ovengine.config import Hint, LoadOptions, Shapes, available_memory_bytes
from ovengine.errors import ConfigError
from ovengine.model import Model
from ovengine.profile import Profile, Settings
from ovengine.tuner import _measuring
from ovengine.tuner._candidates import Candidate, Found, Interrupted
from ovengine.tuner._measuring import ModelLab
from ovengine.tuner._search import Progress, Search
from ovengine.tuner._space import space_of

if TYPE_CHECKING:
    from ovengine.engine import Engine

__all__ = ["Progress", "Tuning", "tune"]

# Of the memory that is free, for models that are loaded at the same time.
MEMORY_SHARE = 0.5
# Requests that are kept of `data`.
MOST_DATA = 1024


@dataclass(frozen=True)
class Tuning:
    """What `tune` found. Print it for a summary.

    Attributes:
        name: of the model.
        profile: for `load(profile=...)`.
        found: all measurements, and the best candidate.
    """

    name: str
    profile: Profile
    found: Found

    @property
    def meets_limit(self) -> bool:
        """True when the best setting keeps `p99_ms` at some load, or when there is no limit."""
        return self.found.meets_limit

    @property
    def why(self) -> str:
        """One sentence: what to use, and why."""
        return self.profile.why

    def report(self) -> dict[str, Any]:
        """Return everything as values that JSON has; times in milliseconds, loads in requests per second."""
        from ovengine.tuner._report import as_json

        return as_json(self)

    def save_html(self, path: StrOrBytesPath) -> None:
        """Write one self-contained page with the curves and all candidates.

        Args:
            path: of the HTML file.

        Raises:
            ConfigError: the file cannot be written.
        """
        from ovengine.tuner._html import page

        try:
            as_path(path).write_text(page(self), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot write {printable(path)}: {error.strerror or error}") from error

    def save_png(self, path: StrOrBytesPath) -> None:
        """Draw the curves. Needs the extra `plot`.

        Args:
            path: of the PNG file.

        Raises:
            ConfigError: matplotlib is not installed, or the file cannot be written.
        """
        from ovengine.tuner._png import draw

        draw(self, as_path(path))

    def __str__(self) -> str:
        from ovengine.tuner._report import as_text

        return as_text(self)


def tune(
    source: object,
    *,
    p99_ms: float | None = None,
    data: Iterable[Any] | None = None,
    data_shape: Shapes | None = None,
    seconds: float = 60.0,
    precision: Literal["keep", "any"] = "keep",
    tolerance: float = 0.01,
    device: str = "AUTO",
    hint: str = "throughput",
    config: Mapping[str, Any] | None = None,
    shapes: Shapes | None = None,
    loader: str | None = None,
    device_selector: str | None = None,
    scheduler: str | None = None,
    cache_dir: StrOrBytesPath | None = "auto",
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> Tuning:
    """Find the best batch sizes, lanes, threads per lane, delay and precision for a model on this machine.

    Each candidate is loaded and put under load: a closed loop for throughput, an open loop with Poisson arrivals for
    latency, counted from when a request was due. Candidates take turns. A setting replaces the defaults only when it
    is better by more than the measurements scatter. Keep the machine free of other work meanwhile. The profile is also
    left in the cache, where `load` finds it.

    Args:
        source: as for `load`, but not a blob, which is compiled already.
        p99_ms: limit of the 99th percentile of latency. With a limit, the load that can be sustained within it counts;
            with None, throughput.
        data: requests as `submit` takes them; the first 1024 are used again and again. None: random values.
        data_shape: shapes of random requests, for dynamic dimensions.
        seconds: roughly how long all of it may take, loading included. What does not fit is left out.
        precision: "keep" leaves INFERENCE_PRECISION_HINT alone. "any" also tries what the device offers, and takes it
            when outputs deviate from f32 by at most `tolerance` and it is clearly faster.
        tolerance: allowed deviation, relative to the largest magnitude of an output, over the first requests of `data`.
        device: as for `load`; one device.
        hint: as for `load`.
        config: as for `load`; properties given here are not tuned.
        shapes: as for `load`.
        loader: as for `load`.
        device_selector: as for `load`.
        scheduler: as for `load`.
        cache_dir: as for `load`. The profile is not kept when no setting keeps the limit.
        progress: called with the share of the time that is used (0 to 1) and a text that says what is measured.
        engine: loads the model; None: the default engine.

    Returns:
        A `Tuning`.

    Raises:
        KeyboardInterrupt: Ctrl-C ended the search; its `result` is the `Tuning` so far, if there is any.
        ConfigError: an argument is out of range, or the model runs on several devices.
        InputError: `data` does not fit the model, or is missing for dynamic dimensions.
        Other errors are those of `load`.
    """
    from ovengine.engine import default_engine

    began = _measuring.clock()
    _check(p99_ms, seconds, precision, tolerance, config)
    engine = engine or default_engine()
    given = dict(config or {})
    common: dict[str, Any] = {
        "device": device,
        "hint": hint,
        "shapes": shapes,
        "loader": loader,
        "device_selector": device_selector,
        "scheduler": scheduler,
        "cache_dir": cache_dir,
        "profile": "off",
    }

    def load(settings: Settings) -> Model:
        return engine.load(source, **common, **settings.arguments, config={**given, **settings.config})

    with load(Settings()) as model:
        plan = model.plan
        if len(plan.devices) != 1:
            raise ConfigError(f"one device is tuned at a time; give one of {', '.join(d.device for d in plan.devices)}")
        runtime, target = engine.runtime, plan.devices[0].device
        options = LoadOptions(device=device, hint=Hint.parse(hint), config=given, shapes=shapes, cache_dir=cache_dir)
        conditions = _profiles.conditions(source, target, runtime, engine.cpu_budget, options)
        capabilities = runtime.device_property(target, "OPTIMIZATION_CAPABILITIES")
        space = space_of(
            plan,
            cpus=engine.cpu_budget,
            given=given.keys(),
            capabilities=capabilities if precision == "any" else (),
        )
        requests = _first(data) if data is not None else make_data(plan, 1, data_shape, seed=0)
        search = Search(
            ModelLab(load, requests, model),
            space,
            seconds=seconds,
            p99_ms=p99_ms,
            tolerance=tolerance,
            memory_bytes=available_memory_bytes() * MEMORY_SHARE,
            progress=progress or (lambda share, what: None),
            began=began,
        )
        try:
            found = search.run()
        except Interrupted as interrupted:
            found = interrupted.result
            profile = Profile(conditions, found.chosen.settings, sentence(found))
            raise Interrupted(Tuning(plan.name, profile, found)) from None
    profile = Profile(conditions, found.chosen.settings, sentence(found))
    if found.decided and found.meets_limit:
        _profiles.keep(profile, Cache(options.cache_directory))
    return Tuning(plan.name, profile, found)


def _check(
    p99_ms: float | None, seconds: float, precision: str, tolerance: float, config: Mapping[str, Any] | None
) -> None:
    for name, value in (("p99_ms", p99_ms), ("seconds", seconds), ("tolerance", tolerance)):
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"{name} must be a number above zero, not {value!r}")
    if precision not in ("keep", "any"):
        raise ConfigError(f"precision must be 'keep' or 'any', not {precision!r}")
    if precision == "any" and "INFERENCE_PRECISION_HINT" in (config or {}):
        raise ConfigError("precision='any' and an INFERENCE_PRECISION_HINT in config exclude each other")


def _first(data: Iterable[Any]) -> Sequence[Inputs]:
    requests = [request for request, _ in zip(data, range(MOST_DATA), strict=False)]
    if not requests:
        raise ConfigError("data holds no requests")
    return cast("Sequence[Inputs]", requests)


def sentence(found: Found) -> str:
    """What to use, and why."""
    chosen, default, limit = found.chosen, found.default, found.p99_ms
    if not found.decided:
        return f"Keep the defaults, which give {default.rate:,.0f} requests/s: there was no time to compare others."
    if not found.meets_limit:
        return f"No setting that was measured keeps p99 within {limit:g} ms under load; relax the limit."
    rate, before = (_median(c, limit) for c in (chosen, default))
    what = f"{rate:,.0f} requests/s" + ("" if limit is None else f" with p99 within {limit:g} ms")
    if chosen is default:
        return f"Keep the defaults: at {what}, nothing that was measured beats them by more than the spread."
    if chosen.settings.max_queue_delay_us and _same_but_for_the_delay(chosen, default):
        return f"Use {chosen.settings}: {what}, and a shorter tail of latencies than the defaults have."
    times = f"{rate / before:.2f} times what the defaults give" if before else "which the defaults never give"
    near = "" if chosen.deviation is None else f", with outputs within {chosen.deviation:.2g} of those in f32"
    return f"Use {chosen.settings}: {what}, {times}{near}."


def _same_but_for_the_delay(chosen: Candidate, default: Candidate) -> bool:
    return replace(chosen.settings, max_queue_delay_us=None) == default.settings


def _median(candidate: Candidate, p99_ms: float | None) -> float:
    return candidate.rate if p99_ms is None else statistics.median(candidate.sustained(p99_ms) or [0.0])
