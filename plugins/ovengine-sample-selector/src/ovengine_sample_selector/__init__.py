"""Selects one CPU lane of one thread."""

from __future__ import annotations

from collections.abc import Sequence

import ovengine
from ovengine.hookspecs import DeviceContext, DeviceSelector


class QuietSelector:
    """One lane of one thread on the first CPU device."""

    name = "quiet"

    def select(self, context: DeviceContext) -> Sequence[ovengine.DevicePlan]:
        """Raise UnknownDeviceError where there is no CPU device."""
        device = next((device for device in context.available_devices if "CPU" in device), None)
        if device is None:
            raise ovengine.UnknownDeviceError(f"no CPU among {', '.join(context.available_devices)}")
        properties = {**context.config, "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1}
        return [ovengine.DevicePlan(device, properties, lanes=1, threads_per_lane=1, why="the other cores stay free")]


@ovengine.hookimpl
def ovengine_device_selectors() -> list[DeviceSelector]:
    """Offer `quiet`."""
    return [QuietSelector()]
