"""A model over an `openvino.CompiledModel` that somebody else compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ovengine._core import Compiled
from ovengine.compat._errors import NotAModelError
from ovengine.config import Hint
from ovengine.engine import default_engine
from ovengine.errors import ModelError, PropertyError
from ovengine.model import Model
from ovengine.plan import MAX_LANES, BatchPlan, Decision, DevicePlan, Mode, Plan, TensorInfo

if TYPE_CHECKING:
    import openvino

# What an inference costs is not known, and not measured, for the caller may be waiting: enough to wake a lane for.
UNKNOWN_COST_US = 1000.0


def optimal_requests(compiled: Compiled) -> int:
    """As many as OpenVINO would keep in flight, at least 1."""
    return max(1, int(_property(compiled, "OPTIMAL_NUMBER_OF_INFER_REQUESTS", 1)))


def adopt(
    compiled_model: openvino.CompiledModel, jobs: int, *, with_ports: bool = False
) -> tuple[Model, Compiled, int]:
    """A model whose lanes run infer requests of `compiled_model`, and the number of its jobs.

    with_ports: the model takes inputs, each request at the shape that it is given. Otherwise tensors are bound to infer
        requests of their own, and the model knows nothing of them.

    Raises NotAModelError.
    """
    engine = default_engine()
    try:
        compiled = engine.runtime.adopt_compiled(compiled_model)
    except ModelError as error:
        raise NotAModelError(str(error)) from None
    optimal = optimal_requests(compiled)
    jobs = jobs or optimal
    lanes = min(jobs, optimal, MAX_LANES)
    inputs = tuple(TensorInfo.of(port, i) for i, port in enumerate(compiled.inputs)) if with_ports else ()
    outputs = tuple(TensorInfo.of(port, i) for i, port in enumerate(compiled.outputs)) if with_ports else ()
    shapes = [tensor.shape for tensor in (*inputs, *outputs)]
    is_static = with_ports and all(shape is not None and min(shape, default=0) >= 0 for shape in shapes)
    mode: Mode = "whole" if is_static else "dynamic"
    device = str(_property(compiled, "EXECUTION_DEVICES", "unknown"))
    why = "compiled by the caller, for the shapes that it has"
    plan = Plan(
        name=str(_property(compiled, "NETWORK_NAME", "model")),
        inputs=inputs,
        outputs=outputs,
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
    return model, compiled, jobs


def _property(compiled: Compiled, name: str, otherwise: Any) -> Any:
    try:
        return compiled.property(name)
    except PropertyError:
        return otherwise
