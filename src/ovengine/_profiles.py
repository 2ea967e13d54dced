"""Where a profile fits, and how its settings become those of a load."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ovengine import _core
from ovengine._cache import Cache
from ovengine._core import Runtime
from ovengine._paths import as_path, is_path
from ovengine._shapes import dimensions
from ovengine.config import CORE_PROPERTIES, LoadOptions, Shape, Shapes
from ovengine.errors import ConfigError, OvengineError
from ovengine.plan import DevicePlan
from ovengine.profile import Conditions, Profile, Settings

KIND = "profile"


def conditions(source: object, device: str, runtime: Runtime, cpus: int, options: LoadOptions) -> Conditions:
    """Those of a load of `source` on one device. Raises ConfigError for a source that has no identity."""
    config = {name: str(value) for name, value in sorted(options.config.items()) if name not in CORE_PROPERTIES}
    return Conditions(
        model=identity(source),
        device=device,
        device_name=str(runtime.device_property(device, "FULL_DEVICE_NAME")),
        cpus=cpus,
        openvino=_core.openvino_version,
        hint=options.hint.value.lower(),
        shapes=_plain(options.shapes),
        config=config,
    )


def identity(source: object) -> str:
    """A hash of the model's file, with the weights beside it, or of its bytes."""
    digest = hashlib.sha256()
    if is_path(source):
        path = as_path(source)
        weights = [path.with_suffix(".bin")] if path.suffix.lower() == ".xml" else []
        for file in (path, *(file for file in weights if file.exists())):
            with file.open("rb") as opened:
                while block := opened.read(2**20):
                    digest.update(block)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        digest.update(source)
    else:
        raise ConfigError(f"a profile is of a model file or its bytes, not of a {type(source).__name__}")
    return digest.hexdigest()


def _plain(shapes: Shapes | None) -> Any:
    """As JSON gives it back: lengths as numbers, -1 for any, bounds as texts."""

    def plain(shape: Shape) -> list[int | str]:
        lengths = (-1 if dimension == "?" else dimension for dimension in dimensions(shape))
        return [dimension if ".." in str(dimension) else int(dimension) for dimension in lengths]

    if isinstance(shapes, Mapping):
        return {str(name): plain(shape) for name, shape in shapes.items()}
    return None if shapes is None else plain(shapes)


def key(here: Conditions) -> dict[str, str]:
    """Of the cache entry: one profile for a model on a device, so that a stale one is seen rather than forgotten."""
    return {"model": here.model, "device": here.device}


def keep(profile: Profile, cache: Cache) -> None:
    """Leave it where `load` finds it."""
    cache.save(KIND, key(profile.conditions), profile.to_json())


def any_kept(cache: Cache) -> bool:
    """Whether a look into the cache can pay: its key takes reading the whole model."""
    return cache.directory is not None and (cache.directory / KIND).is_dir()


def kept(here: Conditions, cache: Cache) -> Profile | None:
    """What `tune` left for this model and device, whether it fits or not."""
    return cache.load(KIND, key(here), Profile.parse)


def usable(
    source: object, devices: Sequence[DevicePlan], runtime: Runtime, cpus: int, options: LoadOptions, cache: Cache
) -> tuple[Profile | None, str | None]:
    """The one that `tune` left in the cache, unless the caller decides such things; or where it does not fit."""
    decided = asks_for_batches(options) or options.max_queue_delay_us is not None
    if decided or len(devices) != 1 or not any_kept(cache):
        return None, None
    try:
        here = conditions(source, devices[0].device, runtime, cpus, options)
    except OvengineError:
        return None, None  # a source or device that has no identity
    found = kept(here, cache)
    misfit = None if found is None else found.conditions.misfit(here)
    return (found if misfit is None else None), misfit


def check_fit(profile: Profile, here: Conditions) -> None:
    """Raise ConfigError where a profile was not found for what is loaded here."""
    misfit = profile.conditions.misfit(here)
    if misfit is not None:
        raise ConfigError(f"the profile does not fit: it was tuned {misfit}; tune again, or load without it")


def applied(settings: Settings, options: LoadOptions) -> LoadOptions:
    """The options with these settings; what the caller asked for wins."""
    arguments = settings.arguments
    if options.max_queue_delay_us is not None:
        arguments.pop("max_queue_delay_us", None)
    if asks_for_batches(options):
        arguments.pop("batcher", None)
        arguments.pop("batch_sizes", None)
    return replace(options, config={**settings.config, **options.config}, **arguments)


def asks_for_batches(options: LoadOptions) -> bool:
    """Whether the caller decides about batch sizes."""
    return (options.batcher, options.batch_sizes, options.max_batch_size) != (None, None, None)
