"""What a caller asks for when loading: performance hint, OpenVINO properties, limits, CPU budget."""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

from ovengine import _spellings
from ovengine._numbers import as_integer
from ovengine._paths import StrOrBytesPath, as_path
from ovengine.errors import ConfigError, PropertyError

if TYPE_CHECKING:
    from ovengine._buckets import Buckets
    from ovengine._core import Runtime
    from ovengine._inspection import Inspection

__all__ = [
    "Hint",
    "LoadOptions",
    "Shape",
    "Shapes",
    "Verify",
    "available_cpus",
    "check_integer",
    "check_properties",
    "close_matches",
]

# Of one input: lengths, -1 or "?" for any, bounds such as "1..64"; or all of it as OpenVINO's PartialShape spells it.
Shape = Sequence[int | str] | Sequence[int] | str
Shapes = Mapping[str | int, Shape] | Shape
Verify = Literal["always", "cached", "off"]

# What becomes of a request for which the queue has no room, in any case. As Triton's timeout_action.
QUEUE_FULL_ACTIONS = ("reject", "block")

# Read by OpenVINO's core, not by a device: `compile_model` accepts them on every device, and none lists them.
CORE_PROPERTIES = frozenset(
    {"CACHE_DIR", "CACHE_MODE", "ENABLE_MMAP", "FORCE_TBB_TERMINATE", "CACHE_ENCRYPTION_CALLBACKS", "LOG_LEVEL"}
)

# What devices take and do not list, by a word in the device's name.
UNLISTED_PROPERTIES = {
    "CPU": ("CPU_RUNTIME_CACHE_CAPACITY", "EXCLUSIVE_ASYNC_REQUESTS", "LP_TRANSFORMS_MODE", "SNIPPETS_MODE"),
}

MOST_QUEUE_DELAY_US = 3_600_000_000
# The ring of waiting requests has memory for all of them.
MOST_QUEUE_SIZE = 1 << 24
# Rows of a batch, and compiled batch sizes of a model. The core has a table with an entry for each number of rows; a
# request of more rows is cut into batches anyway.
MOST_BATCH_SIZE = 1 << 16
MOST_BATCH_SIZES = 256


class Hint(str, enum.Enum):
    """What to optimise for: OpenVINO's PERFORMANCE_HINT."""

    LATENCY = "LATENCY"
    THROUGHPUT = "THROUGHPUT"
    CUMULATIVE_THROUGHPUT = "CUMULATIVE_THROUGHPUT"

    @classmethod
    def parse(cls, value: object) -> Hint:
        """Make one from a name.

        Args:
            value: the name in any case, or an enum member with that name, such as OpenVINO's own.

        Returns:
            The `Hint`.

        Raises:
            ConfigError: there is no such hint.
        """
        text = getattr(value, "name", value)
        if isinstance(text, str) and text.upper() in cls.__members__:
            return cls[text.upper()]
        choices = ", ".join(member.value.lower() for member in cls)
        raise ConfigError(f"unknown performance hint {value!r}; choose one of {choices}")


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """The arguments of `load`, checked and normalised.

    OpenVINO's own spellings are understood, and become the arguments that mean the same: `device="BATCH:CPU(16)"`, and
    in `config` AUTO_BATCH_TIMEOUT, ALLOW_AUTO_BATCHING and PERFORMANCE_HINT_NUM_REQUESTS. One that contradicts an
    argument is a ConfigError. PERFORMANCE_HINT is taken out of `config` and wins over `hint`, as it would in OpenVINO.
    Values of `config` may be objects of `openvino.properties`. `max_queue_size=0` is None, as in Triton.

    num_requests: PERFORMANCE_HINT_NUM_REQUESTS: requests that are in flight at once; batches and lanes are no more.
    notes: decisions that the spellings brought: about what, what, and which spelling.
    """

    device: str = "AUTO"
    hint: Hint = Hint.THROUGHPUT
    config: Mapping[str, Any] = field(default_factory=dict)
    batcher: str | None = None
    batch_sizes: Sequence[int] | None = None
    max_batch_size: int | None = None
    max_queue_delay_us: int | None = None
    max_queue_size: int | None = None
    queue_full_action: str | None = None
    shapes: Shapes | None = None
    buckets: Mapping[str | int, Buckets | Sequence[int]] | Buckets | Sequence[int] | None = None
    cache_dir: StrOrBytesPath | None = "auto"
    verify: Verify = "cached"
    samples: Any = None
    inspection: Inspection | None = None
    memory_limit: int | None = None
    num_requests: int | None = field(default=None, init=False)
    notes: tuple[tuple[str, str, str], ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.device, str) or not self.device.strip():
            raise ConfigError(f"device must be a name such as 'AUTO' or 'CPU', not {self.device!r}")
        config = {}
        for name, value in dict(self.config or {}).items():
            if not isinstance(name, str):
                raise PropertyError(f"names of OpenVINO properties are strings, not {name!r}")
            config[str(name)] = _spellings.plain(value)
        self._set("hint", Hint.parse(config.pop("PERFORMANCE_HINT", self.hint)))
        self._check_integer("max_batch_size", 1, MOST_BATCH_SIZE)
        self._check_integer("max_queue_delay_us", 0, MOST_QUEUE_DELAY_US)
        self._check_integer("max_queue_size", 0, MOST_QUEUE_SIZE)
        self._set("max_queue_size", self.max_queue_size or None)
        self._check_integer("memory_limit", 1)
        self._take_queue_full_action()
        self._take_batch_sizes()
        self._take_batch_device()
        self._take_auto_batching(config)
        self._take_num_requests(config)
        self._set("config", MappingProxyType(config))
        if self.cache_dir is not None and not isinstance(self.cache_dir, (str, bytes, os.PathLike)):
            raise ConfigError(f"cache_dir must be a folder, 'auto' or None, not {self.cache_dir!r}")
        _check_inspection(self.inspection)
        if self.verify not in get_args(Verify):
            raise ConfigError(f"verify must be one of {', '.join(get_args(Verify))}, not {self.verify!r}")

    @property
    def cache_directory(self) -> Path | None:
        """Where to keep what is learned about models; None for nowhere."""
        if self.cache_dir is None:
            return None
        return user_cache() if self.cache_dir == "auto" else as_path(self.cache_dir)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _check_integer(self, name: str, least: int, most: int | None = None) -> None:
        self._set(name, check_integer(name, getattr(self, name), least, most))

    def _agree(self, name: str, value: object, spelling: str) -> None:
        """`spelling` means that the argument `name` is `value`, which it may have been given as, too."""
        given = getattr(self, name)
        if given is not None and given != value:
            also = next((f"{other} means" for what, _, other in self.notes if what == name), "given is")
            raise ConfigError(f"{spelling} means {name}={value!r}, but {also} {name}={given!r}; drop one of the two")
        self._set(name, value)
        self._set("notes", (*self.notes, (name, str(value), spelling)))

    def _take_queue_full_action(self) -> None:
        action = self.queue_full_action
        if action is None:
            return
        if not isinstance(action, str) or action.lower() not in QUEUE_FULL_ACTIONS:
            choices = " or ".join(repr(choice) for choice in QUEUE_FULL_ACTIONS)
            raise ConfigError(f"queue_full_action must be None, {choices}, not {action!r}")
        self._set("queue_full_action", action.lower())

    def _take_batch_sizes(self) -> None:
        if self.batch_sizes is None:
            return
        sizes = list(self.batch_sizes) if isinstance(self.batch_sizes, Iterable) else [self.batch_sizes]
        for index, size in enumerate(sizes):
            one = size if size is not None else "None"
            sizes[index] = check_integer("each of batch_sizes", one, 1, MOST_BATCH_SIZE) or 0
        if not 1 <= len(set(sizes)) <= MOST_BATCH_SIZES:
            raise ConfigError(f"batch_sizes must have 1 to {MOST_BATCH_SIZES} sizes, not {len(set(sizes))}")
        if self.max_batch_size not in (None, max(sizes)):
            raise ConfigError(
                f"max_batch_size={self.max_batch_size} is not the largest of batch_sizes={sizes}; "
                "give batch_sizes alone, with the largest among them"
            )
        self._set("batch_sizes", tuple(sorted(set(sizes))))
        self._agree("batcher", "fixed", f"batch_sizes={sizes}")
        self._agree("max_batch_size", max(sizes), f"batch_sizes={sizes}")

    def _take_batch_device(self) -> None:
        batch = _spellings.batch_device(self.device)
        if batch is None:
            return
        spelling = self.device.strip()
        if self.batcher == "none":
            raise ConfigError(f"device={spelling!r} asks for batches, and batcher='none' for none; drop one")
        device, rows = batch
        self._set("device", device)
        if rows is None:
            self._set("batcher", self.batcher or "adaptive")
        else:
            check_integer(f"the batch size of device={spelling!r}", rows, 1, MOST_BATCH_SIZE)
            self._agree("max_batch_size", rows, spelling)
            self._set("batcher", self.batcher or "fixed")
        self._set("notes", (*self.notes, ("batcher", str(self.batcher), spelling)))

    def _take_auto_batching(self, config: dict[str, Any]) -> None:
        if (timeout_ms := config.pop("AUTO_BATCH_TIMEOUT", None)) is not None:
            timeout_ms = _spellings.integer("AUTO_BATCH_TIMEOUT", timeout_ms, 0)
            check_integer("AUTO_BATCH_TIMEOUT", timeout_ms, 0, MOST_QUEUE_DELAY_US // 1000)
            self._agree("max_queue_delay_us", timeout_ms * 1000, f"AUTO_BATCH_TIMEOUT={timeout_ms}")
        allowed = config.pop("ALLOW_AUTO_BATCHING", None)
        if allowed is not None and not _spellings.boolean("ALLOW_AUTO_BATCHING", allowed):
            self._agree("batcher", "none", "ALLOW_AUTO_BATCHING=NO")

    def _take_num_requests(self, config: dict[str, Any]) -> None:
        if "PERFORMANCE_HINT_NUM_REQUESTS" not in config:
            return
        count = _spellings.integer("PERFORMANCE_HINT_NUM_REQUESTS", config["PERFORMANCE_HINT_NUM_REQUESTS"], 0)
        config["PERFORMANCE_HINT_NUM_REQUESTS"] = count  # devices know it, too
        if count == 0:  # OpenVINO's default: not known
            return
        self._set("num_requests", count)
        # It is a hint: sizes that are listed one by one stand, as NUM_STREAMS does.
        if self.batch_sizes is None and (self.max_batch_size is None or self.max_batch_size > count):
            self._set("max_batch_size", min(count, MOST_BATCH_SIZE))
            spelling = f"PERFORMANCE_HINT_NUM_REQUESTS={count}"
            self._set("notes", (*self.notes, ("max_batch_size", str(self.max_batch_size), spelling)))


def _check_inspection(inspection: object) -> None:
    from ovengine._inspection import Inspection  # which knows what is here

    if inspection is not None and not isinstance(inspection, Inspection):
        raise ConfigError(f"inspection must be an ovengine.Inspection or None, not {type(inspection).__name__}")


def user_cache() -> Path | None:
    """OVENGINE_CACHE_DIR, or `ovengine` in the user's cache folder; None where there is no such folder."""
    if own := os.environ.get("OVENGINE_CACHE_DIR"):
        return Path(own)
    # Of the XDG base directories: a path that is not absolute is to be ignored.
    if os.path.isabs(base := os.environ.get("XDG_CACHE_HOME", "")):
        return Path(base, "ovengine")
    try:
        return Path.home() / ".cache" / "ovengine"
    except RuntimeError:
        return None


_BYTES = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:([KMGT])(I?))?B?\s*", re.IGNORECASE)


def parse_bytes(name: str, value: object) -> int | None:
    """Bytes from an integer or a text: "512MB" (powers of 1000), "512MiB" (of 1024). Raises ConfigError."""
    if isinstance(value, str) and (found := _BYTES.fullmatch(value)):
        number, unit, binary = found.groups()
        power = "KMGT".index(unit.upper()) + 1 if unit else 0
        value = int(float(number) * (1024 if binary else 1000) ** power)
    if value is None:
        return None
    count = as_integer(value)
    if count is None or count < 1:
        raise ConfigError(f"{name} must be None, bytes, or a text such as '512MB' or '2GiB', not {value!r}")
    return count


def check_integer(name: str, value: object, least: int, most: int | None = None) -> int | None:
    """None, or the integer that `value` is, NumPy's included. Raises ConfigError when it is out of bounds, or none."""
    if value is None:
        return None
    number = as_integer(value)
    if number is None or number < least:
        raise ConfigError(f"{name} must be None or an integer of at least {least}, not {value!r}")
    if most is not None and number > most:
        raise ConfigError(f"{name} must be at most {most}, not {value!r}")
    return number


def check_properties(config: Mapping[str, Any], devices: Iterable[str], runtime: Runtime) -> None:
    """Raise PropertyError for the first property that none of the devices knows or lets be written."""
    if not config:
        return
    writable: dict[str, bool] = dict.fromkeys(CORE_PROPERTIES, True)
    device_names = tuple(dict.fromkeys(devices))
    for device in device_names:
        for name, may_write in properties_of(device, runtime).items():
            writable[name] = writable.get(name, False) or may_write
    where = ", ".join(device_names)
    for name in config:
        if name not in writable:
            raise PropertyError(f"{where} has no property {name!r}{close_matches(name, writable)}")
        if not writable[name]:
            raise PropertyError(f"the property {name!r} of {where} can be read, but not set")


def properties_of(device: str, runtime: Runtime) -> dict[str, bool]:
    """Properties that the device takes, listed or not; whether they may be written."""
    unlisted = (names for word, names in UNLISTED_PROPERTIES.items() if word in device)
    return {**{name: True for names in unlisted for name in names}, **runtime.supported_properties(device)}


def supported_config(config: Mapping[str, Any], device: str, runtime: Runtime) -> dict[str, Any]:
    """Those properties of `config` that this device (or OpenVINO's core, for all devices) takes."""
    writable = properties_of(device, runtime)
    return {name: value for name, value in config.items() if name in CORE_PROPERTIES or writable.get(name)}


def close_matches(name: str, choices: Iterable[str]) -> str:
    """A clause for an error text: ' (did you mean A or B?)', or nothing."""
    import difflib  # only needed to word an error

    by_upper = {choice.upper(): choice for choice in choices}
    found = [by_upper[match] for match in difflib.get_close_matches(name.upper(), by_upper, n=3)]
    return f" (did you mean {' or '.join(found)}?)" if found else ""


def available_cpus() -> int:
    """CPUs that this process may keep busy: its affinity mask, cut by the cgroup's CPU quota; at least 1."""
    budget = len(os.sched_getaffinity(0))
    quota = _cgroup_quota()
    return max(1, budget if quota is None else min(budget, int(quota)))


def _cgroup_quota(root: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self/cgroup")) -> float | None:
    """CPUs granted by the cgroup of this process (the least of its ancestors); None when not limited."""
    quotas: list[float] = []
    for directory in _cgroup_directories(root, process):
        try:
            if (limit := directory / "cpu.max").exists():  # version 2
                quota, period = limit.read_text().split()[:2]
            else:
                quota = (directory / "cpu.cfs_quota_us").read_text().strip()
                period = (directory / "cpu.cfs_period_us").read_text().strip()
            if quota not in ("max", "-1"):
                quotas.append(int(quota) / int(period))
        except (OSError, ValueError):
            continue  # no limit set at this level, or not readable from inside a container
    return min(quotas, default=None)


def _cgroup_directories(root: Path, process: Path) -> list[Path]:
    found: list[Path] = []
    try:
        lines = process.read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / controllers if controllers else root
        # A container sees its own group as the root of the mount, hence the ancestors up to there.
        inner = base / path.lstrip("/")
        for directory in (inner, *inner.parents):
            found.append(directory)
            if directory == base:
                break
    return found


def available_memory_bytes() -> int:
    """Memory that can still be taken without swapping, by the system's own estimate."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
