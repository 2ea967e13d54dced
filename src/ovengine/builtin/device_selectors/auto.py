"""Device selector `auto`: device strings as OpenVINO writes them, and one lane per core on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ovengine.config import Hint, close_matches, supported_config
from ovengine.errors import PropertyError, UnknownDeviceError
from ovengine.hookspecs import DeviceContext, DeviceSelector, hookimpl
from ovengine.plan import MAX_LANES, DevicePlan, format_bytes

# Above this, the memory of one copy of the weights per lane weighs more than the microseconds that lanes
# with a compiled model of their own save in each inference.
SHARE_WEIGHTS_BYTES = 32 * 2**20
# Devices other than a CPU overlap transfers with compute: that takes two requests in flight.
LANES_PER_ACCELERATOR = 2


class AutoSelector:
    """`CPU`, `CPU,GPU`, `AUTO`, `AUTO:GPU,CPU` (order of preference) and `AUTO:-GPU` (all but).

    With `cumulative_throughput` all of the devices are used, otherwise the first; a list without AUTO means all.
    """

    name = "auto"

    def select(self, context: DeviceContext) -> Sequence[DevicePlan]:
        """One plan per device."""
        devices, why = resolve(context.device, context.available_devices)
        if len(devices) > 1 and is_auto(context.device) and context.hint is not Hint.CUMULATIVE_THROUGHPUT:
            why = f"{why}; the first of {', '.join(devices)} (cumulative_throughput uses all)"
            devices = devices[:1]
        cpus = sum(is_cpu(device) for device in devices)
        plans = []
        for device in devices:
            if is_cpu(device):
                budget = max(1, context.cpu_budget // cpus)
                plans.append(cpu_plan(device, context, budget, MAX_LANES // len(devices), why))
            else:
                plans.append(accelerator_plan(device, context, why))
        return plans


def is_auto(text: str) -> bool:
    """Whether this is `AUTO` or `AUTO:...`, in any case."""
    return text.strip().upper().partition(":")[0] == "AUTO"


def is_cpu(device: str) -> bool:
    """Whether the CPU plugin is behind this device; OpenVINO has other names for it contain CPU, too."""
    return "CPU" in device


def resolve(text: str, available: Sequence[str]) -> tuple[list[str], str]:
    """Devices that a device string means, in order of preference, and why.

    `GPU` stands for all of `GPU.0`, `GPU.1` where OpenVINO lists those. Raises UnknownDeviceError.
    """
    if is_auto(text):
        items = [item.strip() for item in text.partition(":")[2].split(",") if item.strip()]
    else:
        items = [item.strip() for item in text.split(",") if item.strip()]
    wanted: list[str] = []
    excluded: list[str] = []
    for item in items:
        negative = is_auto(text) and item.startswith("-")
        matches = _matching(item[1:] if negative else item, available)
        # An exclusion of what is not there is fulfilled already; OpenVINO sees it so, too.
        if not matches and not negative:
            raise UnknownDeviceError(
                f"unknown device {item!r}{close_matches(item, available)}; available: {', '.join(available) or 'none'}"
            )
        (excluded if negative else wanted).extend(matches)
    if not wanted:
        # CPUs first: which device is the fastest for a model is not measured yet.
        wanted = sorted(available, key=lambda device: not is_cpu(device))
    devices = [device for device in dict.fromkeys(wanted) if device not in excluded]
    if not devices:
        raise UnknownDeviceError(f"{text!r} leaves no device; available: {', '.join(available) or 'none'}")
    return devices, f"{text!r} asked for" if text.upper() != "AUTO" else "no device asked for, CPUs come first"


def _matching(name: str, available: Sequence[str]) -> list[str]:
    name = name.upper()
    exact = [device for device in available if device.upper() == name]
    return exact or [device for device in available if device.upper().startswith(name + ".")]


def cpu_plan(device: str, context: DeviceContext, budget: int, most_lanes: int, why: str) -> DevicePlan:
    """Lanes for a CPU: one per core for throughput, one with all cores for latency, or what `config` says."""
    config = supported_config(context.config, device, context.runtime)
    streams = _positive(config.pop("NUM_STREAMS", None), "NUM_STREAMS", automatic=("AUTO", -1))
    threads = _positive(config.pop("INFERENCE_NUM_THREADS", None), "INFERENCE_NUM_THREADS", automatic=(0,))
    total = threads or budget
    if streams:
        lanes, reason = streams, "NUM_STREAMS"
    elif context.hint is Hint.LATENCY:
        lanes, reason = 1, f"latency: one lane with all {total} threads"
    else:
        lanes, reason = min(total, most_lanes), f"{context.hint.value.lower()}: a lane for each of {total} cores"
        if context.num_requests is not None and context.num_requests < lanes:
            lanes = context.num_requests
            reason = f"PERFORMANCE_HINT_NUM_REQUESTS: no more than {lanes} requests are in flight"
    per_lane = max(1, total // lanes)
    weights = context.graph.constant_bytes if context.graph else 0
    shared = lanes > 1 and weights > SHARE_WEIGHTS_BYTES
    if shared:
        reason += f"; {format_bytes(weights)} of weights are too many for a copy per lane"
    together = lanes if shared else 1
    properties: dict[str, Any] = {
        # Lanes are threads of ours, which the system places; OpenVINO would pin all of them to the same cores.
        "ENABLE_CPU_PINNING": False,
        **config,
        "NUM_STREAMS": together,
        "INFERENCE_NUM_THREADS": per_lane * together,
    }
    return DevicePlan(device, properties, lanes, per_lane, shared, f"{why}; {reason}")


def accelerator_plan(device: str, context: DeviceContext, why: str) -> DevicePlan:
    """Lanes for a device that brings its own compute: its plugin decides about streams, following the hint."""
    hint = Hint.LATENCY if context.hint is Hint.LATENCY else Hint.THROUGHPUT
    properties = {"PERFORMANCE_HINT": hint.value, **supported_config(context.config, device, context.runtime)}
    streams = _positive(properties.get("NUM_STREAMS"), "NUM_STREAMS", automatic=("AUTO", -1))
    lanes = streams or min(LANES_PER_ACCELERATOR, context.num_requests or LANES_PER_ACCELERATOR)
    return DevicePlan(device, properties, lanes, 0, True, f"{why}; {lanes} inferences in flight")


def _positive(value: Any, name: str, automatic: tuple[object, ...]) -> int | None:
    """A count from the caller's config; None where it leaves the choice to us. Raises PropertyError."""
    if value is None or value in automatic or str(value).upper() in automatic:
        return None
    try:
        count = int(value)
    except (TypeError, ValueError):
        count = 0
    if count in automatic:
        return None
    if count < 1:
        raise PropertyError(f"{name} must be a positive integer or {automatic[0]!r}, not {value!r}")
    return count


@hookimpl
def ovengine_device_selectors() -> list[DeviceSelector]:
    """Offer `auto`."""
    return [AutoSelector()]
