"""The plan: what was decided for one loaded model, and why. Immutable; `print(model.plan)` explains it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ovengine.config import Hint

if TYPE_CHECKING:
    import numpy as np

    from ovengine._core import Port

__all__ = ["BatchAxis", "BatchPlan", "Decision", "DevicePlan", "LanePlan", "Mode", "Plan", "TensorInfo"]

Mode = Literal["rows", "whole", "dynamic"]
RowProof = Literal["rules", "trial runs"]

# The core keeps the idle lanes of a model in one 64-bit word.
MAX_LANES = 64


# OpenVINO's names of what NumPy has, too.
_NUMBERS = frozenset(["boolean", "f16", "f32", "f64", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64"])


def is_number(element_type: str) -> bool:
    """Whether NumPy has this element type of OpenVINO's ('' is not known, and counts as one)."""
    return not element_type or element_type in _NUMBERS


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One input or output of a model.

    Attributes:
        name: the first of its names.
        names: all of its names.
        shape: -1 where a dimension may differ from request to request: the batch axis in mode `rows`, any dimension in
            mode `dynamic`. None when the rank is dynamic.
        dtype: of the arrays. Types that NumPy lacks look as in OpenVINO's Python API: bf16 and f8 are bits in float16
            and uint8, types smaller than a byte are packed bytes in one dimension, strings are text.
        batch_axis: where the rows are in mode `rows`; None when there is no such axis.
        element_type: OpenVINO's name of the type.
        limits: least and most of each dimension; a most of -1 means no limit.
        index: of the port among the model's inputs or outputs.
        values: the least and the largest value of an input that operators of the model rely on, as on indices. None
            where any value will do, and where the model does not tell.

    A `TensorInfo` of a model is a key of its requests and results, as are its names and its index.
    """

    name: str
    names: tuple[str, ...]
    shape: tuple[int, ...] | None
    dtype: np.dtype[Any]
    batch_axis: int | None = None
    element_type: str = ""
    limits: tuple[tuple[int, int], ...] = ()
    index: int = 0
    values: tuple[float, float] | None = None

    @classmethod
    def of(cls, port: Port, index: int, batch_axis: int | None = None) -> TensorInfo:
        """Make one from a port.

        Args:
            port: of a compiled model, whose rows are in the first dimension.
            index: of the port among the model's inputs or outputs.
            batch_axis: where that dimension is shown, as -1; None for a port without rows.

        Returns:
            The `TensorInfo`.
        """
        shape = port.shape
        if batch_axis is not None and shape:
            shape = (*shape[1 : batch_axis + 1], -1, *shape[batch_axis + 1 :])
        limits = tuple(port.limits)
        return cls(port.name, tuple(port.names), shape, port.dtype, batch_axis, port.element_type, limits, index)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row (all dimensions but -1); 0 when the rank is dynamic."""
        if self.shape is None:
            return 0
        size = int(self.dtype.itemsize)
        for dimension in self.shape:
            size *= dimension if dimension >= 0 else 1
        return size

    def __str__(self) -> str:
        dims = "..." if self.shape is None else ",".join("?" if d < 0 else str(d) for d in self.shape)
        kind = self.dtype if is_number(self.element_type) else self.element_type
        return f"{self.name} {kind}[{dims}]"


def tensor_infos(ports: Sequence[Port], mode: Mode, axes: Sequence[int | None]) -> tuple[TensorInfo, ...]:
    """Of compiled models, whose batch axis is the first one in mode `rows`."""
    if mode != "rows":
        return tuple(TensorInfo.of(port, i) for i, port in enumerate(ports))
    known = zip(ports, axes or [0] * len(ports), strict=True)
    return tuple(TensorInfo.of(port, i, axis) for i, (port, axis) in enumerate(known))


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """The lanes of one device.

    Attributes:
        device: name of an OpenVINO device.
        properties: OpenVINO properties to compile with, streams and threads included.
        lanes: how many, at least 1.
        threads_per_lane: CPU threads of one inference; 0 on a device that is not a CPU.
        shared: True when all lanes run one compiled model per batch size (`NUM_STREAMS` = lanes) instead of one each.
        why: one line for `print(model.plan)`.
    """

    device: str
    properties: Mapping[str, Any] = field(default_factory=dict)
    lanes: int = 1
    threads_per_lane: int = 1
    shared: bool = False
    why: str = ""

    @property
    def compiled_copies(self) -> int:
        """Compiled models per batch size."""
        return 1 if self.shared else self.lanes


@dataclass(frozen=True, slots=True)
class LanePlan:
    """One lane: the device that it runs on and the CPU threads of its inferences (0: no CPU device)."""

    device: str
    threads: int


@dataclass(frozen=True, slots=True)
class BatchAxis:
    """What is known about the batch dimension of a model's inputs and outputs.

    mode: how requests run when rows are not batched together: `rows` (a request of n rows is n inferences),
        `whole` (one inference at the exact static shape) or `dynamic` (one inference at the request's shape).
    batchable: rows of different requests may share an inference. Then requests run in mode `rows`.
    why: the reason, in one line.
    failed: the name of the check that says that they may not: one of the shapes, or of the trial runs (`_proof`).
    inputs: the batch axis of each input, as far as it was found; None for one that all rows of a request share.
    outputs: the batch axis of each output, as far as it was found.
    proof: how rows were shown to be independent: by `rules` for the operators of the graph, or by `trial runs`. None
        where it was not shown, or not yet.
    """

    mode: Mode
    batchable: bool
    why: str
    failed: str | None = None
    inputs: tuple[int | None, ...] = ()
    outputs: tuple[int, ...] = ()
    proof: RowProof | None = None

    def __str__(self) -> str:
        return f"check {self.failed!r} failed: {self.why}" if self.failed else self.why


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """The batch sizes to compile, and what one inference of each costs.

    Attributes:
        ladder: batch sizes in rows, ascending; (1,) does not batch.
        cost_us: batch size -> microseconds of one inference.
        max_queue_delay_us: microseconds that a partial batch may wait for more rows.
        why: one line for `print(model.plan)`.
    """

    ladder: tuple[int, ...] = (1,)
    cost_us: Mapping[int, float] = field(default_factory=dict)
    max_queue_delay_us: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision on the way to a plan: what about, what was chosen (by which plugin), and why."""

    what: str
    choice: str
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that was decided for one loaded model, and the limits in force. Print it.

    `model.set` replaces the plan by one with other limits. Larger batches replace it when they are ready.

    Attributes:
        name: of the model.
        hint: the `Hint` that it was loaded with.
        mode: `rows` (requests share batches), `whole` (one request is one inference) or `dynamic` (each request at its
            own shape).
        inputs: a `TensorInfo` for each input.
        outputs: the same for the outputs.
        devices: a `DevicePlan` for each device.
        batch: the `BatchPlan`.
        precision: INFERENCE_PRECISION_HINT in effect, for each of `devices`.
        scheduler: name of the scheduler policy.
        decisions: one for each question that was decided, with the reason.
        max_queue_size: requests that may wait; None: as many as there is room for.
        queue_full_action: `reject` or `block`.
        axis: whether rows may share an inference, and the check that failed if not; None for a plan that `load` did not
            make.
        memory_bytes: what the compiled models hold, as measured, and the inputs and outputs of the largest batch in
            each lane.
        memory_limit: bytes that the compiled models may hold together; `decisions` says what it cost.
        compiled_bytes: batch size -> bytes of one compiled model, by which this process grew when it was compiled and
            first run. Memory on other devices is not seen.
        max_batch_size: rows of the largest batch; None: the largest of `ladder`.
    """

    name: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    mode: Mode
    hint: Hint
    devices: tuple[DevicePlan, ...]
    batch: BatchPlan
    scheduler: str
    precision: tuple[str, ...]
    memory_bytes: int
    max_queue_size: int | None
    decisions: tuple[Decision, ...]
    max_batch_size: int | None = None
    axis: BatchAxis | None = None
    queue_full_action: str | None = None
    memory_limit: int | None = None
    compiled_bytes: Mapping[int, int] = field(default_factory=dict)

    @property
    def ladder(self) -> tuple[int, ...]:
        """Compiled batch sizes, ascending."""
        return self.batch.ladder

    @property
    def most_rows(self) -> int:
        """Rows of the largest batch."""
        return self.max_batch_size or self.ladder[-1]

    @property
    def lanes(self) -> tuple[LanePlan, ...]:
        """All lanes, in the order of the devices."""
        return tuple(LanePlan(d.device, d.threads_per_lane) for d in self.devices for _ in range(d.lanes))

    def __str__(self) -> str:
        rows = [
            ("inputs", [str(tensor) for tensor in self.inputs]),
            ("outputs", [str(tensor) for tensor in self.outputs]),
            ("mode", [f"{self.mode}: {_MODES[self.mode]}"]),
            ("hint", [self.hint.value.lower()]),
            ("devices", [_device_line(*pair) for pair in zip(self.devices, self.precision, strict=True)]),
            ("ladder", _ladder_lines(self.batch, self.compiled_bytes)),
            ("memory", [_memory_line(self)]),
            ("scheduler", [self.scheduler]),
            ("queue", [_queue_line(self)]),
            ("why", _columns((f"{d.what}: {d.choice}", d.why) for d in self.decisions)),
        ]
        lines = [self.name]
        for label, values in rows:
            for index, value in enumerate(values):
                lines.append(f"  {label if index == 0 else '':<10} {value}".rstrip())
        return "\n".join(lines)


_MODES: dict[Mode, str] = {
    "rows": "rows run in batches from the ladder",
    "whole": "a request is one inference at the exact shape",
    "dynamic": "a request runs alone at its own shape",
}


def _device_line(device: DevicePlan, precision: str) -> str:
    lanes = f"{device.lanes} lane{'s' if device.lanes > 1 else ''}"
    threads = f" of {device.threads_per_lane} thread{'s' if device.threads_per_lane > 1 else ''}"
    sharing = ", one compiled model for all" if device.shared else ""
    return f"{device.device}: {lanes}{threads if device.threads_per_lane else ''}, {precision}{sharing}"


def _ladder_lines(batch: BatchPlan, compiled_bytes: Mapping[int, int]) -> list[str]:
    if not batch.cost_us:
        return [", ".join(map(str, batch.ladder))]
    each = f" {'compiled':>10}" if compiled_bytes else ""
    lines = [f"{'rows':>5} {'us/inference':>13} {'us/row':>10}{each}"]
    for size in batch.ladder:
        cost = batch.cost_us.get(size)
        known = f"{'':>24}" if cost is None else f"{cost:>13.1f} {cost / size:>10.2f}"
        held = f" {format_bytes(compiled_bytes[size]):>10}" if size in compiled_bytes else ""
        lines.append(f"{size:>5} {known}{held}".rstrip())
    return lines


def _memory_line(plan: Plan) -> str:
    models = sum(device.compiled_copies for device in plan.devices)
    copies = f", {models} compiled model{'s' if models > 1 else ''} per batch size"
    limit = "" if plan.memory_limit is None else f"; compiled models may take {format_bytes(plan.memory_limit)}"
    return f"about {format_bytes(plan.memory_bytes)}{copies}{limit}"


def _queue_line(plan: Plan) -> str:
    limit = plan.max_queue_size
    if limit is None:
        size = "requests are rejected when full" if plan.queue_full_action == "reject" else "callers wait when full"
    else:
        size = f"at most {limit} requests wait{', callers when full' if plan.queue_full_action == 'block' else ''}"
    rows = "" if plan.max_batch_size is None else f", a batch has at most {plan.max_batch_size} rows"
    return f"{size}{rows}, a partial batch is held for {plan.batch.max_queue_delay_us} us"


def _columns(rows: Iterable[Sequence[str]]) -> list[str]:
    table = [tuple(row) for row in rows]
    width = max((len(left) for left, _ in table), default=0)
    return [f"{left:<{width}}  {right}" for left, right in table]


def format_bytes(count: int) -> str:
    """1536 -> '1.5 KiB'."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"
