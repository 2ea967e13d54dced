"""A profile: the settings that `tune` found for a model, and what they were found for. A small JSON file.

    {
      "format": 1,
      "conditions": {"model": "<sha256>", "device": "CPU", "device_name": "<FULL_DEVICE_NAME>", "cpus": 8,
                     "openvino": "2026.4.1", "hint": "throughput", "shapes": null, "config": {}},
      "settings": {"batch_sizes": [1, 4, 16], "lanes": 8, "threads_per_lane": 1, "max_queue_delay_us": null,
                   "precision": null},
      "why": "one sentence"
    }

A setting of null is left to `load`. A profile is used only where every condition holds.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ovengine._numbers import as_integer
from ovengine._paths import StrOrBytesPath, as_path, printable
from ovengine.errors import ConfigError

__all__ = ["FORMAT", "Conditions", "Profile", "Settings"]

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Settings:
    """What `tune` chooses; None leaves the choice to `load`.

    batch_sizes: ascending, in rows; (1,) runs every row alone.
    lanes: inferences at the same time on the device (NUM_STREAMS).
    threads_per_lane: CPU threads of one inference.
    max_queue_delay_us: how long a partial batch may be held back for more rows, microseconds.
    precision: INFERENCE_PRECISION_HINT.
    """

    batch_sizes: tuple[int, ...] | None = None
    lanes: int | None = None
    threads_per_lane: int | None = None
    max_queue_delay_us: int | None = None
    precision: str | None = None

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Settings:
        """From JSON. Raises KeyError, TypeError or ValueError for anything else."""
        _check_names(cls, value)
        sizes = value["batch_sizes"]
        if sizes is not None:
            sizes = tuple(_count(size, "batch_sizes", 1) for size in sizes)
            if not sizes or list(sizes) != sorted(set(sizes)):
                raise ValueError(f"batch_sizes must ascend, not {sizes!r}")
        precision = value["precision"]
        if precision is not None and not isinstance(precision, str):
            raise TypeError(f"precision must be a name, not {precision!r}")
        counts = {
            name: None if value[name] is None else _count(value[name], name, least)
            for name, least in (("lanes", 1), ("threads_per_lane", 1), ("max_queue_delay_us", 0))
        }
        if counts["threads_per_lane"] is not None and counts["lanes"] is None:
            raise ValueError("threads_per_lane needs lanes")
        return cls(batch_sizes=sizes, precision=precision, **counts)

    @property
    def config(self) -> dict[str, Any]:
        """As OpenVINO properties, those that are some."""
        found: dict[str, Any] = {}
        if self.lanes is not None:
            found["NUM_STREAMS"] = self.lanes
            if self.threads_per_lane is not None:
                found["INFERENCE_NUM_THREADS"] = self.lanes * self.threads_per_lane
        if self.precision is not None:
            found["INFERENCE_PRECISION_HINT"] = self.precision
        return found

    @property
    def arguments(self) -> dict[str, Any]:
        """As arguments of `load`, `config` excepted."""
        found: dict[str, Any] = {}
        if self.batch_sizes == (1,):
            found["batcher"] = "none"
        elif self.batch_sizes is not None:
            found["batch_sizes"] = self.batch_sizes
        if self.max_queue_delay_us is not None:
            found["max_queue_delay_us"] = self.max_queue_delay_us
        return found

    def __str__(self) -> str:
        parts = []
        if self.batch_sizes == (1,):
            parts.append("no batching")
        elif self.batch_sizes is not None:
            parts.append(f"batches of up to {self.batch_sizes[-1]}")
        if self.lanes is not None:
            threads = "" if self.threads_per_lane is None else f" of {_counted(self.threads_per_lane, 'thread')}"
            parts.append(f"{_counted(self.lanes, 'lane')}{threads}")
        if self.max_queue_delay_us is not None:
            parts.append(f"a delay of {self.max_queue_delay_us} us")
        if self.precision is not None:
            parts.append(self.precision)
        return ", ".join(parts) or "the defaults"


@dataclass(frozen=True, slots=True)
class Conditions:
    """What settings were found for.

    model: hash of the model's structure and weights.
    device, device_name: the OpenVINO device and its FULL_DEVICE_NAME.
    cpus: that the process might use.
    openvino: its release.
    hint, shapes, config: as given to `load`.
    """

    model: str
    device: str
    device_name: str
    cpus: int
    openvino: str
    hint: str
    shapes: Any = None
    config: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Conditions:
        """From JSON. Raises KeyError, TypeError or ValueError for anything else."""
        _check_names(cls, value)
        for name in ("model", "device", "device_name", "openvino", "hint"):
            if not isinstance(value[name], str):
                raise TypeError(f"{name} must be a text, not {value[name]!r}")
        return cls(**{**value, "cpus": _count(value["cpus"], "cpus", 1)})

    def misfit(self, here: Conditions) -> str | None:
        """Where they differ from those here, in one line; None when they do not."""
        differences = []
        for name in (f.name for f in fields(self)):
            tuned, found = getattr(self, name), getattr(here, name)
            if tuned == found:
                continue
            differences.append("for another model" if name == "model" else f"with {name} {tuned!r}, and not {found!r}")
        return " and ".join(differences) or None


@dataclass(frozen=True, slots=True)
class Profile:
    """Settings that `tune` found, for `load(profile=...)`.

    Attributes:
        conditions: the model, machine and arguments of `load` that the settings were found for.
        settings: what to load with.
        why: one sentence.
    """

    conditions: Conditions
    settings: Settings
    why: str = ""

    @classmethod
    def load(cls, path: StrOrBytesPath) -> Profile:
        """Read a file that `save` or `ovengine tune` wrote.

        Args:
            path: of the file.

        Returns:
            The `Profile`.

        Raises:
            ConfigError: the file cannot be read, or is not a profile.
        """
        try:
            return cls.parse(json.loads(as_path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise ConfigError(f"cannot read the profile {printable(path)}: {error.strerror or error}") from error
        except (KeyError, TypeError, ValueError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise ConfigError(f"{printable(path)} is not a profile of `ovengine tune`: {reason}; tune again") from error

    @classmethod
    def parse(cls, value: Any) -> Profile:
        """Make one from decoded JSON.

        Args:
            value: what `to_json` returned.

        Returns:
            The `Profile`.

        Raises:
            KeyError, TypeError, ValueError: `value` is something else.
        """
        if not isinstance(value, Mapping):
            raise TypeError("it is not a JSON object")
        if value["format"] != FORMAT:
            raise ValueError(f"its format is {value['format']!r}, and this release of ovengine reads {FORMAT}")
        return cls(Conditions.parse(value["conditions"]), Settings.parse(value["settings"]), str(value["why"]))

    def to_json(self) -> dict[str, Any]:
        """Return the profile as values that JSON has; `parse` reads them."""
        return {"format": FORMAT, **asdict(self)}

    def save(self, path: StrOrBytesPath) -> None:
        """Write the profile to a file.

        Args:
            path: of the file.

        Raises:
            ConfigError: the file cannot be written.
        """
        try:
            text = json.dumps(self.to_json(), indent=2, default=operator.index)
            as_path(path).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot write the profile {printable(path)}: {error.strerror or error}") from error


def _check_names(cls: type, value: object) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"its {cls.__name__.lower()} are not a JSON object")
    for name in value:
        if name not in {f.name for f in fields(cls)}:
            raise ValueError(f"it has an unknown entry {name!r}")


def _count(value: object, name: str, least: int) -> int:
    count = as_integer(value)
    if count is None or count < least:
        raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")
    return count


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count > 1 else ''}"
