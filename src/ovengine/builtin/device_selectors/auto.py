"""Device selector `auto`: device strings as OpenVINO writes them, and one lane per core on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, replace
from typing import TYPE_CHECKING, Any

from ovengine.builtin.device_selectors._device_list import parse, virtual_device
from ovengine.config import Hint, supported_config
from ovengine.errors import PropertyError
from ovengine.hookspecs import DeviceContext, DeviceSelector, hookimpl
from ovengine.plan import MAX_LANES, DevicePlan, format_bytes

if TYPE_CHECKING:
    from ovengine._core import Runtime

# Above this, the memory of one copy of the weights per lane weighs more than the microseconds that lanes
# with a compiled model of their own save in each inference.
SHARE_WEIGHTS_BYTES = 32 * 2**20
# Devices other than a CPU overlap transfers with compute: that takes two requests in flight.
LANES_PER_ACCELERATOR = 2


class AutoSelector:
    """Takes the device strings of OpenVINO's AUTO and MULTI: `CPU`, `AUTO:GPU,CPU`, `AUTO:-GPU`, `MULTI:CPU(4)`.

    AUTO means the first device, in the order of the list, or else a discrete GPU before an integrated one, an NPU and
    the CPU. With `cumulative_throughput`, with MULTI and for a list without AUTO all of the devices are used.
    """

    name = "auto"

    def select(self, context: DeviceContext) -> Sequence[DevicePlan]:
        """One plan per device."""
        found = parse(context.device, context.available_devices, _foreign_gpus(context))
        candidates = list(found.candidates)
        if not found.is_ordered:
            candidates.sort(key=lambda candidate: _rank(candidate.device, context.runtime))
        why = f"{context.device!r} asked for" if found.is_ordered or found.left_out else "no device asked for"
        why = "; ".join([why, *(f"{device} left out: {reason}" for device, reason in found.left_out)])
        uses_all = virtual_device(context.device) != "AUTO" or context.hint is Hint.CUMULATIVE_THROUGHPUT
        if len(candidates) > 1 and not uses_all:
            names = ", ".join(candidate.device for candidate in candidates)
            why = f"{why}; the first of {names} (cumulative_throughput uses all)"
            candidates = candidates[:1]
        cpus = sum(is_cpu(candidate.device) for candidate in candidates)
        most_lanes = max(1, MAX_LANES // len(candidates))
        plans = []
        for device, requests, _ in map(astuple, candidates):
            if is_cpu(device):
                own = context if requests is None else replace(context, num_requests=requests)
                budget = max(1, context.cpu_budget // cpus)
                plans.append(cpu_plan(device, own, budget, most_lanes, why))
            else:
                plans.append(accelerator_plan(device, context, most_lanes, why, requests))
        return plans


def is_cpu(device: str) -> bool:
    """Whether the CPU plugin is behind this device; OpenVINO has other names for it contain CPU, too."""
    return "CPU" in device


def _rank(device: str, runtime: Runtime) -> int:
    """Place in the order of preference where the caller gives none."""
    if device.startswith("GPU"):
        return 0 if _property(runtime, device, "DEVICE_TYPE") == "discrete" else 1
    return 2 if device.startswith("NPU") else 3


def _foreign_gpus(context: DeviceContext) -> list[str]:
    """GPUs of other vendors; AUTO leaves them alone unless they are named."""
    gpus = [device for device in context.available_devices if device.startswith("GPU")]
    architectures = {gpu: _property(context.runtime, gpu, "DEVICE_ARCHITECTURE") for gpu in gpus}
    return [gpu for gpu, found in architectures.items() if "vendor=" in found and "vendor=0x8086" not in found]


def _property(runtime: Runtime, device: str, name: str) -> str:
    """A device's property as text; empty where the device does not tell."""
    try:
        return str(runtime.device_property(device, name))
    except PropertyError:
        return ""


def cpu_plan(device: str, context: DeviceContext, budget: int, most_lanes: int, why: str) -> DevicePlan:
    """Lanes for a CPU: one per core for throughput, one with all cores for latency, or what `config` says."""
    config = supported_config(context.config, device, context.runtime)
    streams = _positive(config.pop("NUM_STREAMS", None), "NUM_STREAMS", automatic=("AUTO", "NUMA", -1, -2, 0))
    threads = _positive(config.pop("INFERENCE_NUM_THREADS", None), "INFERENCE_NUM_THREADS", automatic=(0,))
    total = threads or budget
    if streams:
        lanes, reason = min(streams, most_lanes), "NUM_STREAMS"
        if streams > lanes:
            reason = f"NUM_STREAMS={streams}, of which {lanes} lanes are as many as a model can have there"
    elif context.hint is Hint.LATENCY:
        lanes, reason = 1, f"latency: one lane with all {total} threads"
    else:
        lanes, reason = min(total, most_lanes), f"{context.hint.value.lower()}: a lane for each of {total} cores"
        if context.num_requests is not None and context.num_requests < lanes:
            lanes = context.num_requests
            reason = f"no more than {lanes} requests are to be in flight"
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


def accelerator_plan(
    device: str, context: DeviceContext, most_lanes: int, why: str, requests: int | None = None
) -> DevicePlan:
    """Lanes for a device that brings its own compute: its plugin decides about streams, following the hint."""
    hint = Hint.LATENCY if context.hint is Hint.LATENCY else Hint.THROUGHPUT
    properties = {"PERFORMANCE_HINT": hint.value, **supported_config(context.config, device, context.runtime)}
    streams = _positive(properties.get("NUM_STREAMS"), "NUM_STREAMS", automatic=("AUTO", "NUMA", -1, -2, 0))
    lanes = streams or requests or min(LANES_PER_ACCELERATOR, context.num_requests or LANES_PER_ACCELERATOR)
    lanes = min(lanes, most_lanes)
    return DevicePlan(device, properties, lanes, 0, True, f"{why}; {lanes} inferences in flight")


def _positive(value: Any, name: str, automatic: tuple[object, ...]) -> int | None:
    """A count from the caller's config; None where it leaves the choice to us. Raises PropertyError."""
    if value is None or value in automatic or str(value).upper() in automatic:
        return None
    try:
        count = int(value)
    except (TypeError, ValueError):
        count = None
    if count is not None and count in automatic:
        return None
    if count is None or count < 1:
        raise PropertyError(f"{name} must be a positive integer or {automatic[0]!r}, not {value!r}")
    return count


@hookimpl
def ovengine_device_selectors() -> list[DeviceSelector]:
    """Offer `auto`."""
    return [AutoSelector()]
