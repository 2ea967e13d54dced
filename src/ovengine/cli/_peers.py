"""OpenVINO's own ways to run what `ovengine bench` measures, as contenders."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ovengine._load_generator import Contender, Inputs
from ovengine.cli import _layers
from ovengine.cli._config_files import Settings
from ovengine.cli._contenders import CompiledModelCall, InferQueue
from ovengine.cli._model_source import ModelSource
from ovengine.cli._preprocessing import reason
from ovengine.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    import openvino as ov

    from ovengine.plan import Plan

DEFAULT_BATCH = 16
# Each takes a thread; more of them measure Python.
MOST_CALLERS = 128


class PlainOpenVino:
    """The model of a bench, compiled by OpenVINO's Python API for the same device.

    Args:
        args: of `ovengine bench`.
        source: the model.
        settings: device and properties.
        plan: how ovengine runs it.
    """

    def __init__(self, args: argparse.Namespace, source: ModelSource, settings: Settings, plan: Plan) -> None:
        self._args, self._source, self._settings, self._plan = args, source, settings, plan
        # The one that ovengine runs on: AUTO costs its own time, and `BATCH:AUTO` is none that OpenVINO knows.
        chosen = {lane.device for lane in plan.lanes}
        is_auto = settings.device.upper().split(":")[0] == "AUTO"
        self._device = chosen.pop() if len(chosen) == 1 and is_auto else settings.device
        self._core = source.core()

    def contenders(self, inputs: Inputs, clients: int) -> tuple[list[Contender], dict[str, str]]:
        """All that can run requests like `inputs`, each with as many in flight, and why others cannot, by name.

        Raises ModelError where OpenVINO does not take the model.
        """
        config = dict(self._settings.openvino_config)
        if self._args.clients:  # as benchmark_app does
            config.setdefault("PERFORMANCE_HINT_NUM_REQUESTS", str(clients))
        found: list[Contender] = [InferQueue("AsyncInferQueue", self._compile(self._device, config, inputs), clients)]
        skipped: dict[str, str] = {}
        size = self._args.max_batch_size or DEFAULT_BATCH
        batching = f"BATCH:{self._device}({size})"
        refusal = self._no_batch_device(inputs)
        if refusal is None:
            timeout_ms = self._args.batch_timeout_ms
            try:
                compiled = self._compile(batching, {**config, "AUTO_BATCH_TIMEOUT": str(timeout_ms)}, inputs)
                found.append(InferQueue(batching, compiled, clients, f"timeout {timeout_ms} ms"))
            except ModelError as error:
                refusal = str(error)
        if refusal is not None:
            skipped[batching] = refusal
        if clients <= MOST_CALLERS:
            compiled = self._compile(self._device, {**config, "PERFORMANCE_HINT": "LATENCY"}, inputs)
            found.append(CompiledModelCall(compiled, clients))
        else:
            skipped["compiled_model()"] = f"{clients} requests in flight would take as many threads"
        return found, skipped

    def layers(self, inputs: Inputs, rows: int, graph_path: Path | None) -> list[list[_layers.Layer]]:
        """The layers of a few inferences on one lane, of `rows` rows where the plan has rows.

        With `graph_path` the graph that is executed is written there. Raises ModelError, InferenceError.
        """
        if self._plan.mode == "rows":
            inputs = {
                key: _with_rows(array, tensor.batch_axis, rows)
                for (key, array), tensor in zip(inputs.items(), self._plan.inputs, strict=True)
            }
        lane = self._plan.devices[0]
        compiled = self._compile(self._device, {**lane.properties, "PERF_COUNT": True}, inputs)
        found = _layers.profile(compiled, inputs)
        if graph_path is not None:
            import openvino as ov

            ov.serialize(compiled.get_runtime_model(), str(graph_path))
        return found

    def _compile(self, device: str, config: Mapping[str, Any], inputs: Inputs) -> ov.CompiledModel:
        """The model, for inputs of these shapes where ovengine runs requests by rows."""
        try:
            if self._source.is_blob:
                # Hints are in the blob.
                config = {name: value for name, value in config.items() if not name.startswith("PERFORMANCE_HINT")}
                return self._core.import_model(self._source.path.read_bytes(), device, config)
            if self._args.from_file:
                return self._core.compile_model(str(self._source.path), device, dict(config))
            model = self._source.read(self._core)
            if shape := self._args.shape:
                named = shape.items() if isinstance(shape, dict) else [(0, shape)]
                model.reshape({name: f"[{','.join(map(str, dimensions))}]" for name, dimensions in named})
            if self._plan.mode == "rows":
                model.reshape({index: array.shape for index, array in enumerate(inputs.values())})
            return self._core.compile_model(model, device, dict(config))
        except RuntimeError as error:
            raise ModelError(f"OpenVINO cannot compile {self._source.path} for {device}: {reason(error)}") from None

    def _no_batch_device(self, inputs: Inputs) -> str | None:
        if self._source.is_blob:
            return "a blob cannot be batched after it was compiled"
        if self._plan.mode != "rows":
            return f"the model takes no rows (mode {self._plan.mode})"
        axes = [tensor.batch_axis for tensor in self._plan.inputs]
        rows = [array.shape[axis] for array, axis in zip(inputs.values(), axes, strict=True) if axis is not None]
        return "it batches requests of one row only" if max(rows, default=1) > 1 else None


def _with_rows(array: Any, axis: int | None, rows: int) -> Any:
    """So many rows, of those that there are."""
    return array if axis is None else np.take(array, np.arange(rows) % array.shape[axis], axis)
