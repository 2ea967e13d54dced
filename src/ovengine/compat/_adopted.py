"""A model over an `openvino.CompiledModel` that somebody else compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ovengine._core import Compiled
from ovengine.config import Hint
from ovengine.engine import default_engine
from ovengine.errors import PropertyError
from ovengine.model import Model
from ovengine.plan import MAX_LANES, BatchPlan, Decision, DevicePlan, Mode, Plan, TensorInfo

if TYPE_CHECKING:
    import openvino

# What an inference costs is not known, and not measured, for the caller may be waiting: enough to wake a lane for.
UNKNOWN_COST_US = 1000.0


def optimal_requests(compiled: Compiled) -> int:
    """As many as OpenVINO would keep in flight, at least 1."""
    return max(1, int(_property(compiled, "OPTIMAL_NUMBER_OF_INFER_REQUESTS", 1)))


def adopt(compiled_model: openvino.CompiledModel, jobs: int) -> tuple[Model, int]:
    """A model whose lanes run infer requests of `compiled_model`, each at the shape it is given, and its jobs.

    Raises ModelError when it is no CompiledModel, or has ports of a type that NumPy lacks.
    """
    engine = default_engine()
    compiled = engine.runtime.adopt_compiled(compiled_model)
    optimal = optimal_requests(compiled)
    jobs = jobs or optimal
    lanes = min(jobs, optimal, MAX_LANES)
    ports = (*compiled.inputs, *compiled.outputs)
    is_static = all(port.shape is not None and min(port.shape, default=0) >= 0 for port in ports)
    mode: Mode = "whole" if is_static else "dynamic"
    device = str(_property(compiled, "EXECUTION_DEVICES", "unknown"))
    why = "compiled by the caller, for the shapes that it has"
    plan = Plan(
        name=str(_property(compiled, "NETWORK_NAME", "model")),
        inputs=tuple(TensorInfo.of(port, i) for i, port in enumerate(compiled.inputs)),
        outputs=tuple(TensorInfo.of(port, i) for i, port in enumerate(compiled.outputs)),
        mode=mode,
        hint=Hint.THROUGHPUT,
        devices=(DevicePlan(device, {}, lanes, 0, True, f"{optimal} infer requests are optimal"),),
        batch=BatchPlan((1,), {1: UNKNOWN_COST_US}, 0, why),
        scheduler="priority",
        precision=(str(_property(compiled, "INFERENCE_PRECISION_HINT", "unknown")),),
        memory_bytes=0,
        max_queue_size=None,
        decisions=(Decision("batch axis", mode, why),),
    )
    model = Model._start(plan, [(device, {1: compiled})] * lanes, "priority")
    engine.register(model)
    return model, jobs


def _property(compiled: Compiled, name: str, otherwise: Any) -> Any:
    try:
        return compiled.property(name)
    except PropertyError:
        return otherwise
