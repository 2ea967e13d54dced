"""Helps to test plugins, and code that uses ovengine, without hardware, and mostly without OpenVINO.

    pytest_plugins = ["ovengine.testing"]          # in conftest.py: the fixtures

    def test_my_batcher(ovengine_engine):
        engine = ovengine_engine(my_plugin_module)  # built-ins and this one, nothing that happens to be installed
        model = engine.load(ovengine.testing.mlp(16, 16, 4), batcher="mine")
        assert model.plan.ladder == (1, 8)

    def test_my_batcher_alone():
        plan = MyBatcher().plan(batch_context(cost_us={1: 100.0, 8: 150.0}))

What a plugin is given at load time can be made by hand: `batch_context`, `device_context`, with `FakeGraph` and
`FakeRuntime` in them. `fake_model` is a whole model on a device that adds one to each value.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from ovengine._core import Compiled, Graph, Runtime, fake_compiled
from ovengine.config import Hint
from ovengine.engine import Engine
from ovengine.errors import PropertyError
from ovengine.hookspecs import BatchContext, DeviceContext
from ovengine.model import Model
from ovengine.plan import BatchAxis, BatchPlan, Decision, DevicePlan, Plan, TensorInfo
from ovengine.plugins import Plugins

if TYPE_CHECKING:
    import openvino

__all__ = [
    "MLP",
    "TINY_MLP",
    "FakeGraph",
    "FakePort",
    "FakeRuntime",
    "batch_context",
    "device_context",
    "fake_ladder",
    "fake_model",
    "mlp",
    "ovengine_engine",
    "ovengine_plugins",
]

TINY_MLP = (16, 16, 4)
MLP = (256, 1024, 1024, 64)
"""Widths of the two reference models: one that costs microseconds, one that is bound by its weights."""


# -- fake device ------------------------------------------------------------------------------------------------------


def fake_ladder(
    ladder: Sequence[int] = (1, 4, 16),
    *,
    row_shape: tuple[int, ...] = (4,),
    service_time_us: float = 0.0,
    service_time_per_row_us: float = 0.0,
    poison: float | None = None,
    fail_every: int = 0,
) -> dict[int, Compiled]:
    """Compiled models of the fake device, by batch size: input `x` and output `y`, f32 `(size, *row_shape)`.

    Args:
        ladder: batch sizes.
        row_shape: of one row, the same for input and output.
        service_time_us: of one inference, microseconds.
        service_time_per_row_us: on top of that for each row.
        poison: a row whose first value is this makes the inference fail.
        fail_every: the inference fails each so many times; 0 for never.
    """
    return {
        size: fake_compiled(
            [("x", (size, *row_shape), np.float32)],
            [("y", (size, *row_shape), np.float32)],
            service_time_us=service_time_us,
            service_time_per_row_us=service_time_per_row_us,
            poison=poison,
            fail_every=fail_every,
        )
        for size in ladder
    }


def fake_model(
    ladder: Sequence[int] = (1, 4, 16),
    *,
    lanes: int = 1,
    devices: Sequence[str] = ("FAKE",),
    row_shape: tuple[int, ...] = (4,),
    policy: object = "priority",
    max_queue_size: int | None = None,
    queue_full_action: str | None = None,
    max_queue_delay_us: int = 0,
    cost_us: Mapping[int, float] | None = None,
    name: str = "fake",
    **behaviour: Any,
) -> Model:
    """A running model on the fake device: `y` is `x` plus one.

    Args:
        ladder: batch sizes.
        lanes: per device.
        devices: names to show; they mean nothing.
        row_shape: of one row.
        policy: `priority`, `round_robin`, or a PyCapsule.
        max_queue_size: as in `load`.
        queue_full_action: as in `load`.
        max_queue_delay_us: as in `load`.
        cost_us: time of an inference by batch size, as the core is to believe; by default what `behaviour` says.
        name: of the model.
        behaviour: service times and faults, see `fake_ladder`.
    """
    if cost_us is None:
        fixed = behaviour.get("service_time_us", 0.0)
        per_row = behaviour.get("service_time_per_row_us", 0.0)
        cost_us = {size: fixed + per_row * size or 1.0 for size in ladder}
    shape, dtype = (-1, *row_shape), np.dtype(np.float32)
    plan = Plan(
        name=name,
        inputs=(TensorInfo("x", ("x",), shape, dtype),),
        outputs=(TensorInfo("y", ("y",), shape, dtype),),
        mode="rows",
        hint=Hint.THROUGHPUT,
        devices=tuple(DevicePlan(device, {}, lanes, 0, why="a test") for device in devices),
        batch=BatchPlan(tuple(ladder), dict(cost_us), max_queue_delay_us, "a test"),
        scheduler=policy if isinstance(policy, str) else "native",
        precision=("f32",) * len(devices),
        memory_bytes=0,
        max_queue_size=max_queue_size,
        queue_full_action=queue_full_action,
        decisions=(Decision("device", "FAKE", "a test"),),
    )
    places = [device for device in devices for _ in range(lanes)]
    running = [(device, fake_ladder(ladder, row_shape=row_shape, **behaviour)) for device in places]
    return Model._start(plan, running, policy)


# -- what plugins are given -------------------------------------------------------------------------------------------


@dataclass
class FakePort:
    """Stands in for `Port`: one input or output of a `FakeGraph`."""

    name: str = "x"
    shape: tuple[int, ...] | None = (-1, 4)
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.float32))
    element_type: str = "f32"
    limits: tuple[tuple[int, int], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All names; here one."""
        return (self.name,)


@dataclass
class FakeGraph:
    """Stands in for `Graph`: a model that exists by its description only."""

    name: str = "graph"
    inputs: tuple[FakePort, ...] = (FakePort("x"),)
    outputs: tuple[FakePort, ...] = (FakePort("y"),)
    constant_bytes: int = 1000
    has_state: bool = False


CPU_PROPERTIES = (
    "NUM_STREAMS",
    "INFERENCE_NUM_THREADS",
    "INFERENCE_PRECISION_HINT",
    "PERFORMANCE_HINT",
    "ENABLE_CPU_PINNING",
)


@dataclass
class FakeRuntime:
    """Stands in for `Runtime`: devices and their properties (name -> whether it may be written), and values of some."""

    properties: Mapping[str, Mapping[str, bool]] = field(
        default_factory=lambda: {"CPU": dict.fromkeys(CPU_PROPERTIES, True) | {"FULL_DEVICE_NAME": False}}
    )
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def available_devices(self) -> tuple[str, ...]:
        """Names of all devices."""
        return tuple(self.properties)

    def supported_properties(self, device: str) -> dict[str, bool]:
        """Of one device."""
        return dict(self.properties[device])

    def device_property(self, device: str, name: str) -> str:
        """Of one device. Raises PropertyError where there is no such value."""
        try:
            return self.values[device][name]
        except KeyError:
            raise PropertyError(f"device {device!r} has no property {name!r}") from None


def device_context(device: str = "AUTO", **changes: Any) -> DeviceContext:
    """What a device selector is given: a `FakeGraph` on 2 CPUs of one `CPU` device, unless `changes` say otherwise."""
    runtime = changes.pop("runtime", None) or FakeRuntime()
    context: dict[str, Any] = {
        "device": device,
        "hint": Hint.THROUGHPUT,
        "config": {},
        "graph": FakeGraph(),
        "available_devices": runtime.available_devices,
        "cpu_budget": 2,
        "runtime": cast(Runtime, runtime),
    }
    return DeviceContext(**{**context, **changes})


def batch_context(cost_us: Mapping[int, float] | Callable[[int], float], **changes: Any) -> BatchContext:
    """What a batcher is given: a batchable `FakeGraph` on two CPU lanes, unless `changes` say otherwise.

    Args:
        cost_us: microseconds of one inference, by batch size; `measure` answers with it, in seconds. Between
            the sizes of a mapping it goes straight; KeyError below and above them.
        changes: fields of BatchContext.
    """
    cost = cost_us if callable(cost_us) else partial(_interpolated, cost_us)
    context: dict[str, Any] = {
        "graph": cast(Graph, FakeGraph()),
        "devices": (DevicePlan("CPU", {}, 2, 1),),
        "axis": BatchAxis("rows", True, "a test"),
        "hint": Hint.THROUGHPUT,
        "max_batch_size": None,
        "max_queue_delay_us": None,
        "constant_bytes": 1000,
        "compiled_copies": 2,
        "memory_budget_bytes": 2**30,
        "measure": lambda size: cost(size) * 1e-6,
    }
    context.update(changes)
    context.setdefault("measure_again", context["measure"])
    return BatchContext(**context)


def _interpolated(cost_us: Mapping[int, float], size: int) -> float:
    sizes = sorted(cost_us)
    if not sizes or not sizes[0] <= size <= sizes[-1]:
        raise KeyError(size)
    return float(np.interp(size, sizes, [cost_us[known] for known in sizes]))


# -- reference models -------------------------------------------------------------------------------------------------


def mlp(*widths: int, rows: int = -1, seed: int = 0) -> openvino.Model:
    """A perceptron with ReLU between its layers: input `x`, output `y`, f32 `(rows, width)`.

    Args:
        widths: of input, hidden layers and output, for example `*TINY_MLP`.
        rows: the batch dimension; -1 leaves it dynamic.
        seed: of the weights.
    """
    import openvino
    from openvino import opset13 as ops

    rng = np.random.default_rng(seed)
    x = ops.parameter([rows, widths[0]], np.float32, name="x")
    x.output(0).set_names({"x"})
    node: Any = x
    for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
        weights = rng.standard_normal((fan_in, fan_out), np.float32) / np.float32(np.sqrt(fan_in))
        bias = rng.standard_normal((1, fan_out), np.float32)
        if layer:
            node = ops.relu(node)
        node = ops.add(ops.matmul(node, ops.constant(weights), False, False), ops.constant(bias))
    node.output(0).set_names({"y"})
    return openvino.Model([ops.result(node)], [x], f"mlp_{'_'.join(map(str, widths))}")


# -- fixtures ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def ovengine_plugins() -> Callable[..., Plugins]:
    """Make a `Plugins` of the built-ins and the plugin objects given, without those that are installed."""

    def make(*extra: object) -> Plugins:
        return Plugins(extra, entry_points=False, disabled=())

    return make


@pytest.fixture
def ovengine_engine(ovengine_plugins: Callable[..., Plugins]) -> Iterator[Callable[..., Engine]]:
    """Make an engine with the built-ins and the plugin objects given; closed, with its models, after the test."""
    engines: list[Engine] = []

    def make(*extra: object, **arguments: Any) -> Engine:
        engine = Engine(plugins=ovengine_plugins(*extra), **arguments)
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.close(timeout=10)
