"""Times of a model's layers, by OpenVINO's profiling: `ovengine bench -pc`.

They come from a compiled model of their own, so that the measurement before them is not slowed down by it. It has the
properties of a lane and the batch size of full batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ovengine.cli._preprocessing import reason
from ovengine.cli._tables import table, wrapped
from ovengine.errors import InferenceError

if TYPE_CHECKING:
    import openvino as ov

INFERENCES = 5


@dataclass(frozen=True)
class Layer:
    """One layer of one inference, or an average of several. status: OpenVINO's, as `EXECUTED` or `NOT_RUN`."""

    name: str
    status: str
    kind: str
    implementation: str
    real_ms: float
    cpu_ms: float

    @property
    def has_run(self) -> bool:
        """Whether any time was spent on it."""
        return self.status == "EXECUTED"


def profile(compiled: ov.CompiledModel, inputs: Mapping[Any, Any]) -> list[list[Layer]]:
    """The layers of a few inferences, after one that warms up. Raises InferenceError.

    Args:
        compiled: with PERF_COUNT.
        inputs: for all of them.
    """
    request = compiled.create_infer_request()
    found = []
    try:
        for _ in range(1 + INFERENCES):
            request.infer(inputs)
            found.append([_layer(info) for info in request.profiling_info])
    except RuntimeError as error:
        raise InferenceError(f"-pc: the inference fails: {reason(error)}") from None
    return found[1:]


def _layer(info: ov.ProfilingInfo) -> Layer:
    status = str(info.status).rpartition(".")[2]
    real_ms, cpu_ms = (time.total_seconds() * 1e3 for time in (info.real_time, info.cpu_time))
    return Layer(info.node_name, status, info.node_type, info.exec_type, real_ms, cpu_ms)


def average(inferences: Sequence[Sequence[Layer]]) -> list[Layer]:
    """Of the times of each layer."""
    return [
        Layer(
            same[0].name,
            same[0].status,
            same[0].kind,
            same[0].implementation,
            float(np.mean([layer.real_ms for layer in same])),
            float(np.mean([layer.cpu_ms for layer in same])),
        )
        for same in zip(*inferences, strict=True)
    ]


def in_order(layers: Sequence[Layer], order: str | None) -> list[Layer]:
    """As `-pcsort` says: `sort` and `simple_sort` put the slowest first, `simple_sort` leaves out what did not run."""
    if order == "simple_sort":
        layers = [layer for layer in layers if layer.has_run]
    return sorted(layers, key=lambda layer: -layer.real_ms) if order in ("sort", "simple_sort") else list(layers)


def share(layer: Layer, layers: Sequence[Layer]) -> float:
    """Of the time of all, from 0 to 1."""
    return layer.real_ms / (sum(one.real_ms for one in layers) or 1.0)


def as_text(layers: Sequence[Layer], rows: float) -> str:
    """A table, with the sums."""
    header = ("real ms", "%", "type", "implementation", "layer")
    lines = [
        (f"{layer.real_ms:.3f}", f"{100 * share(layer, layers):.1f}", layer.kind, layer.implementation, layer.name)
        for layer in layers
    ]
    lines.append((f"{sum(layer.real_ms for layer in layers):.3f}", "100.0", "", "", "all layers"))
    title = f"layers of one inference of {rows:g} row{'s' if rows != 1 else ''} (average of {INFERENCES}):"
    return f"{wrapped(title)}\n{table(header, lines, right=range(2))}"
