"""Device strings as OpenVINO's AUTO and MULTI write them: which devices they name, in which order, and which drop out.

The rules are those of OpenVINO's `get_device_list.cpp` and `parse_meta_device` (src/plugins/auto), with three
differences that docs/coming-from.md explains: blanks around names do not count, a name that no OpenVINO device has is
an error, and a device that drops out is reported with its reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ovengine.config import close_matches
from ovengine.errors import ConfigError, UnknownDeviceError

# Kinds of device that OpenVINO has plugins for. A list that names one of them is portable: it loads on a machine
# without such a device, too.
KNOWN_KINDS = ("CPU", "GPU", "NPU")
# Devices that stand for others and so cannot be members of a list.
META_DEVICES = ("AUTO", "MULTI", "BATCH", "HETERO")
DEFAULT_ID = "0"

_ITEM = re.compile(r"(?P<name>[^()]*?)\s*(?:\(\s*(?P<requests>[^()]*?)\s*\))?")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A device of a list.

    requests: inferences in flight that were asked for, as in `CPU(4)`; None where the list does not say.
    priority: 0 for the devices that were named first. Devices of one family that were named together share a priority,
        and so do all devices of a list that gives no order.
    """

    device: str
    requests: int | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True)
class DeviceList:
    """What a device string means on one machine.

    candidates: in the order of the string.
    left_out: each device that was named and drops out, with the reason.
    is_ordered: whether the string gives an order of preference.
    """

    candidates: tuple[Candidate, ...]
    left_out: tuple[tuple[str, str], ...] = ()
    is_ordered: bool = True


def virtual_device(text: str) -> str | None:
    """`AUTO` or `MULTI` where the device string begins with it, in any case; otherwise None."""
    head = text.strip().upper().partition(":")[0]
    return head if head in ("AUTO", "MULTI") else None


def parse(text: str, available: Sequence[str], foreign: Iterable[str] = ()) -> DeviceList:
    """The devices that a string such as `AUTO:GPU.1,-CPU`, `MULTI:CPU(4),GPU(2)` or `CPU,GPU` means.

    Args:
        text: the device string.
        available: the devices that OpenVINO lists and that may be used.
        foreign: those of `available` that are not used unless they are named, such as another vendor's GPU.

    Raises:
        UnknownDeviceError: no OpenVINO device has such a name, or no device is left; the text says why each went.
        ConfigError: the string is not one that OpenVINO would take.
    """
    kind = virtual_device(text)
    items = _items(text.partition(":")[2] if kind else text)
    _refuse_meta_devices(text, items)
    if kind == "MULTI" and not items:
        raise ConfigError(f"device={text!r} names no devices; list them, as in 'MULTI:GPU,CPU'")
    excluded = [name[1:].strip() for name, _ in items if name.startswith("-")] if kind else []
    named = [(name, requests) for name, requests in items if not (kind and name.startswith("-"))]
    if named:
        return _chosen(text, named, excluded, available)
    foreign = set(foreign)
    reasons = [(device, "another vendor's; name it to use it") for device in available if device in foreign]
    default = [device for device in available if device not in foreign]
    left = [device for device in default if not any(_names(name, device) for name in excluded)]
    reasons += [(device, "excluded") for device in default if device not in left]
    _refuse_nothing(text, left, reasons, available)
    return DeviceList(tuple(Candidate(device) for device in left), tuple(reasons), is_ordered=False)


def _items(text: str) -> list[tuple[str, int | None]]:
    """Names with the requests that they ask for; empty ones are dropped, as OpenVINO does."""
    items = []
    for part in text.split(","):
        match = _ITEM.fullmatch(part.strip())
        if match is None:
            raise ConfigError(f"{part.strip()!r} is not a device; write it as in 'GPU.1' or 'CPU(4)'")
        name, requests = match["name"].strip(), match["requests"]
        if requests is not None and (not requests.isdecimal() or int(requests) < 1):
            raise ConfigError(f"{part.strip()!r}: the number of infer requests must be an integer of at least 1")
        if name:
            items.append((name, None if requests is None else int(requests)))
    return items


def _refuse_meta_devices(text: str, items: Iterable[tuple[str, int | None]]) -> None:
    for name, _ in items:
        if name.lstrip("- ").upper().startswith(META_DEVICES):
            raise ConfigError(f"device={text!r}: {name!r} stands for other devices and cannot be a member of a list")


def _chosen(
    text: str, named: Sequence[tuple[str, int | None]], excluded: Sequence[str], available: Sequence[str]
) -> DeviceList:
    """The devices that are named, without those that are excluded or not there."""
    found: dict[str, Candidate] = {}
    reasons: list[tuple[str, str]] = []
    for priority, (name, requests) in enumerate(named):
        devices = [device for device in available if _names(name, device)]
        if not devices:
            reasons.append((name, _absence(name, text, available)))
        is_family = "." not in name
        for device in devices:
            # A device that is named by its ID stays, whatever becomes of its family.
            if any(_names(other, device) and (is_family or "." in other) for other in excluded):
                reasons.append((device, "excluded"))
            else:
                found.setdefault(device, Candidate(device, requests, priority))
    reasons = [(device, why) for device, why in dict.fromkeys(reasons) if device not in found]
    _refuse_nothing(text, found, reasons, available)
    return DeviceList(tuple(found.values()), tuple(reasons))


def _names(name: str, device: str) -> bool:
    """Whether `name` means this device: by its full name, its family, or the default ID of its family."""
    name, device = name.upper(), device.upper()
    family, _, index = name.partition(".")
    return device in (name, family if index == DEFAULT_ID else name) or (not index and device.startswith(name + "."))


def _absence(name: str, text: str, available: Sequence[str]) -> str:
    """Why a device is not there. Raises UnknownDeviceError where no OpenVINO device has that name."""
    family = name.upper().partition(".")[0]
    if family not in KNOWN_KINDS and not any(_names(family, device) for device in available):
        known = dict.fromkeys((*available, *KNOWN_KINDS))
        raise UnknownDeviceError(
            f"unknown device {name!r} in {text!r}{close_matches(name, known)}; "
            f"available: {', '.join(available) or 'none'}"
        )
    return "not on this machine"


def _refuse_nothing(
    text: str, left: Iterable[object], reasons: Iterable[tuple[str, str]], available: Sequence[str]
) -> None:
    if not list(left):
        why = "".join(f"; {device}: {reason}" for device, reason in reasons)
        raise UnknownDeviceError(f"{text!r} leaves no device{why}; available: {', '.join(available) or 'none'}")
