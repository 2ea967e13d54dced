"""The native core, as Python sees it.

Conversion, GIL handling and exceptions only; every algorithm lives in the C++ headers below it.
"""

from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")

# Three mappings, because a Mapping is invariant in its keys: a dict[str, ...] is no Mapping[str | int, ...].
Inputs = (
    npt.ArrayLike
    | Sequence[npt.ArrayLike]
    | Mapping[str, npt.ArrayLike]
    | Mapping[int, npt.ArrayLike]
    | Mapping[str | int, npt.ArrayLike]
)

openvino_version: str
policy_abi_version: int

class Port:
    """One input or output of a graph: its names, partial shape (-1 where dynamic) and dtype."""

    @property
    def name(self) -> str: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def shape(self) -> tuple[int, ...] | None:
        """Dimensions, -1 where dynamic; None when even the rank is dynamic."""
    @property
    def dtype(self) -> np.dtype[Any]:
        """Of arrays that show it; as OpenVINO's own Python API does, bits or packed bytes where NumPy lacks it."""
    @property
    def element_type(self) -> str:
        """OpenVINO's name: `f32`, `bf16`, `u4`, `string`, ..."""
    @property
    def limits(self) -> tuple[tuple[int, int], ...]:
        """Least and most of each dimension, -1 for no limit; empty when the rank is dynamic."""

class Graph:
    """A model before compilation (an `ov::Model`); immutable from Python."""

    @property
    def name(self) -> str: ...
    @property
    def inputs(self) -> tuple[Port, ...]: ...
    @property
    def outputs(self) -> tuple[Port, ...]: ...
    @property
    def constant_bytes(self) -> int: ...
    @property
    def has_state(self) -> bool:
        """True when the model keeps variables between inferences (ReadValue/Assign)."""
    def reshaped(self, shapes: Mapping[str | int, Sequence[int | str]]) -> Graph:
        """A reshaped copy; dimensions of -1 are dynamic, `"1..8"` has bounds. Raises ModelError when it refuses."""
    def content(self) -> bytes:
        """The structure and a hash of the weights: equal for models that compute the same by the same graph. Raises
        ModelError when a node cannot be written as IR."""
    def layout_batch_axes(self) -> dict[int, int | None]:
        """Input index -> its batch axis, or None when it has none; of inputs that have a layout."""
    def symbolic_batch_axes(self, inputs: Sequence[int | None]) -> tuple[tuple[int, ...], ...]:
        """For each output the axes that carry the symbol of the batch, given the batch axis of each input. Operators
        may lose it: no axis proves nothing."""
    def batch_first(self, inputs: Sequence[int | None], outputs: Sequence[int | None]) -> Graph:
        """A copy with the batch axis of each input and output first, transposed inside where it is another one."""
    def padded_inside(self, input: int, axis: int, lengths: Sequence[int]) -> Graph:
        """A copy with the same inputs and outputs that pads this axis to one of `lengths` inside, and masks the padding
        where it would show. From half of the shortest to the longest; others run at their own length. Raises ModelError
        at an operator for which it is not known how."""

class Compiled:
    """One compiled model on one device (an `ov::CompiledModel`, or a fake one)."""

    @property
    def inputs(self) -> tuple[Port, ...]: ...
    @property
    def outputs(self) -> tuple[Port, ...]: ...
    @property
    def has_state(self) -> bool: ...
    def property(self, name: str) -> Any: ...
    def export(self) -> bytes: ...
    def measure(self, *, min_runs: int = 3, max_seconds: float = 0.05) -> float:
        """Least seconds of one `infer()`, inputs zeroed, after one warm-up run. Releases the GIL."""
    def run(self, inputs: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """One inference outside any lane, at any shape that the model takes; copies of all outputs. For probes."""

class CpuBudget:
    """CPUs that the lanes of several models keep busy together, in turns of 2 ms where they are short."""

    def __init__(self, cpus: int) -> None: ...
    @property
    def cpus(self) -> int: ...

class Runtime:
    """Owns an `ov::Core`. Thread-safe; every call that can take long releases the GIL."""

    def __init__(self) -> None: ...
    @property
    def available_devices(self) -> tuple[str, ...]: ...
    def device_property(self, device: str, name: str) -> Any: ...
    def supported_properties(self, device: str) -> dict[str, bool]:
        """Property name -> whether it may be written, for `compile_model` on this device."""
    def register_plugin(self, library: str, device: str) -> None: ...
    def set_property(self, properties: Mapping[str, Any], device: str = "") -> None: ...
    def read_model(self, path: str, weights: str = "") -> Graph:
        """Any file that an OpenVINO frontend reads. Raises ModelError with OpenVINO's reason."""
    def read_model_bytes(self, model: bytes, weights: bytes | None = None) -> Graph:
        """An ONNX model, or the text of an IR with its weights, held in memory."""
    def adopt(self, model: object) -> Graph:
        """An `openvino.Model`, shared with its owner and never written to; no copy of the weights."""
    def adopt_compiled(self, model: object) -> Compiled:
        """An `openvino.CompiledModel`, shared with its owner. Raises ModelError for anything else."""
    def compile(self, graph: Graph, device: str, properties: Mapping[str, Any]) -> Compiled: ...
    def import_blob(self, blob: bytes, device: str, properties: Mapping[str, Any]) -> Compiled: ...

def fake_compiled(
    inputs: Sequence[tuple[str, tuple[int, ...], Any]],
    outputs: Sequence[tuple[str, tuple[int, ...], Any]],
    *,
    service_time_us: float = 0.0,
    service_time_per_row_us: float = 0.0,
    poison: float | None = None,
    fail_every: int = 0,
) -> Compiled:
    """A device that needs no hardware: every output row repeats its input row's values, plus one.

    Shapes are of one compiled batch size, `(batch, ...)`. A row whose first value equals `poison` makes
    `infer()` throw, and so does every `fail_every`-th call (0: never).
    """

class NativeModel:
    """A loaded model's native half: slots, request ring and lanes. `ovengine.Model` derives from it."""

    def __init__(
        self,
        *,
        name: str,
        inputs: Sequence[tuple[str, tuple[str, ...], tuple[int, ...], Any, str, tuple[tuple[int, int], ...]]],
        outputs: Sequence[tuple[str, tuple[str, ...], tuple[int, ...], Any, str, tuple[tuple[int, int], ...]]],
        mode: Literal["rows", "whole", "dynamic"],
        lanes: Sequence[tuple[str, Mapping[int, Compiled]]],
        cost_us: Mapping[int, float],
        policy: object,
        max_queue_size: int | None = None,
        max_queue_delay_us: int = 0,
        queue_full_action: str | None = None,
        budget: CpuBudget | None = None,
        threads: Sequence[int] = (),
    ) -> None:
        """Start the lanes.

        inputs, outputs: (name, all names, shape, dtype, element type, limits) per port, see `TensorInfo`; in mode
            `rows` the first dimension is the batch axis (-1) and the others are static; in mode `whole` all are
            static and a request is one whole inference; in mode `dynamic` dimensions may be -1 and each request runs
            alone at its own shape.
        lanes: (device, {batch size: compiled model}); the sizes are the same for all lanes and are the ladder
            (only size 1 in modes `whole` and `dynamic`).
        cost_us: measured time of one `infer()` per ladder size, microseconds.
        policy: the name of a built-in kind (`priority`, `round_robin`), or a PyCapsule
            named `ovengine.policy` around a `struct ovengine_policy`.
        max_queue_size: requests that may wait behind the slots; None: as many as the core has room for.
        queue_full_action: `reject` (QueueFull) or `block` (the caller waits); None rejects where a max_queue_size is
            given.
        budget: what the lanes of several models keep to; None for no limit.
        threads: CPUs that an inference of each lane takes of the budget.
        """
    def install(self, *, lanes: Sequence[tuple[str, Mapping[int, Compiled]]], cost_us: Mapping[int, float]) -> None:
        """Another ladder, while requests run. The same lanes, each with the compiled models of the sizes that it does
        not have yet; the largest size no smaller than before."""
    def wait_ready(self, timeout: float | None = None) -> bool: ...
    def costs(self) -> dict[int, float]:
        """Microseconds of one inference by batch size, as the core knows them now: measured, then observed."""
    def __call__(self, inputs: Inputs) -> Result: ...
    def infer(
        self,
        inputs: Inputs,
        *,
        timeout: float | None = None,
        priority: int | None = None,
        deadline: float | None = None,
        group: Hashable | None = None,
    ) -> Result: ...
    def submit(
        self,
        inputs: Inputs,
        *,
        share_inputs: bool = False,
        priority: int | None = None,
        deadline: float | None = None,
        group: Hashable | None = None,
        latest_only: bool = False,
    ) -> Future:
        """Queue one request.

        share_inputs: the arrays stay the caller's, unchanged until the result is there, and are not copied.
        priority: 1 (highest) to 9; None is 5. Of what waits the highest goes first; each second that a request has
            waited longer counts as one step.
        deadline: seconds from now within which the result is wanted. Of one priority the earliest goes first. Raises
            DeadlineUnmeetable when the result would come later; when the deadline comes before the request is run, the
            future raises DeadlineExceeded.
        group: whom it is for (a camera, a tenant). Groups that wait get equal shares of each priority, in rows, or
            those that the scheduler policy gives them.
        latest_only: takes the place of an older such request of the group that still waits, whose future raises
            Superseded.

        Raises InputError, InputTypeError: inputs or arguments that do not fit. QueueFull: no room, see `load`.
        EngineClosed, ForkedError.
        """
    def ainfer(
        self,
        inputs: Inputs,
        *,
        share_inputs: bool = False,
        priority: int | None = None,
        deadline: float | None = None,
        group: Hashable | None = None,
        latest_only: bool = False,
    ) -> Future:
        """Like `submit` for callers on an event loop: never waits for room, raises QueueFull instead."""
    def infer_rows(
        self,
        inputs: Inputs,
        *,
        timeout: float | None = None,
        priority: int | None = None,
        deadline: float | None = None,
        group: Hashable | None = None,
    ) -> Result: ...
    def lease(self, rows: int = 1) -> Lease: ...
    def session(self) -> Session: ...
    @property
    def ring_capacity(self) -> int:
        """Requests that can wait at all, whatever `max_queue_size` says."""
    def set_limits(self, *, max_batch_size: int, max_queue_size: int | None, max_queue_delay_us: int) -> None:
        """All limits, while requests run. `max_batch_size`: 1 to the largest size of the ladder."""
    @property
    def closed(self) -> bool: ...
    def close(self, timeout: float | None = None) -> bool:
        """Drain until `timeout` seconds have passed (None: as long as it takes), then resolve all that is still
        pending with EngineClosed. True when all requests got their results. Safe to call twice."""
    def native_stats(self) -> dict[str, Any]:
        """Keys: requests, rows, batches, dispatch {full, idle, delay, caller, bulk, session:
        batches},
        queue_us and inference_us {p50, p90, p99, max, mean}, rows_per_batch (mean), lanes [(device, batches, rows)],
        failures {inference: n, cancelled: n, lease_lost: n, engine_closed: n, timeout: n, deadline_exceeded: n,
        superseded: n}, rejections {queue_full: n, invalid_input: n, closed: n, deadline_unmeetable: n},
        pending_requests."""
    def mark_forked(self) -> None: ...
    def serve_classes(
        self,
        wanted: Callable[[tuple[tuple[int, ...], ...]], None] | None,
        *,
        uses: int = 1,
        most: int = 1,
        buckets: tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...], tuple[int, ...]] | None = None,
    ) -> None:
        """In mode `dynamic`: look shapes up among children, at most `most`. `wanted(shapes)` is called on the thread of
        a request whenever a shape has come another `uses` times, and no child was in use all that time. None ends it.
        buckets: lengths, axis and pad value of each input, axis of each output; requests are padded to what a child
        has.
        """
    def add_class(self, shapes: tuple[tuple[int, ...], ...], child: NativeModel) -> list[NativeModel]:
        """Serve requests of these shapes by `child`; the children that made room, to be given to `retire_class`.
        Raises EngineClosed."""
    def retire_class(self, child: NativeModel) -> None:
        """Wait until a child that made room has answered its requests, close it, and keep its figures."""
    @property
    def class_shapes(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """Shapes that have a child, per input."""
    @property
    def class_models(self) -> tuple[NativeModel, ...]:
        """The children, in the same order."""

class Session:
    """One infer request with a state of its own, for a model that keeps state between inferences. From `session()`.

    Its requests run one at a time, in the order of submission, each from the state that the one before left; those of
    other sessions run beside them. All methods from any thread. Inputs, futures and errors are those of the model.
    A request that has not begun can be cancelled and leaves the state alone; from then on `cancel()` is False, since
    the state moves. An inference that throws leaves the state as it was; should that be impossible, its InferenceError
    says that the state is the initial one again. A model without state has sessions too.

    Example:
        >>> with model.session() as session:
        ...     for chunk in audio:
        ...         speech = session(chunk)["output"]
        ...     saved = dict(session.state)
        ...     session.reset()  # for the next recording
    """

    def __call__(self, inputs: Inputs) -> Result: ...
    def infer(self, inputs: Inputs, *, timeout: float | None = None) -> Result:
        """The InferenceTimeout says whether the request was cancelled or has begun, and so what became of the state."""
    def submit(self, inputs: Inputs, *, share_inputs: bool = False) -> Future: ...
    def ainfer(self, inputs: Inputs, *, share_inputs: bool = False) -> Future:
        """Like `submit` for callers on an event loop: never waits for room, raises QueueFull instead."""
    def reset(self) -> None:
        """Requests submitted from here on start from the initial state. Waits for nothing."""
    @property
    def state(self) -> SessionState: ...
    @state.setter
    def state(self, values: Mapping[str, Any]) -> None: ...
    @property
    def closed(self) -> bool: ...
    def close(self, timeout: float | None = None) -> bool:
        """Finish what is pending until `timeout` seconds have passed (None: as long as it takes), then resolve the rest
        with EngineClosed. True when all requests got their results. A session that is dropped without serves what was
        submitted, and is gone."""
    def __enter__(self) -> Session: ...
    def __exit__(self, *exc: object) -> None: ...

class SessionState(Mapping[str, np.ndarray[Any, Any]]):
    """A session's variables by their ids. Reading copies; both reading and writing wait until the session is at rest.

    Before the first inference, and after a reset, OpenVINO shows zeros whatever the initial value is.
    """

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]: ...
    def __setitem__(self, name: str, value: Any) -> None:
        """Cast by the rule same_kind. Raises InputError for an unknown name or a shape that the model refuses, and
        InputTypeError for a dtype that does not cast; the state is then as it was."""
    def __iter__(self) -> Iterator[str]: ...
    def __len__(self) -> int: ...

class Future:
    """The pending outcome of one request. Await it, or call `result`. All methods from any thread."""

    def result(self, timeout: float | None = None) -> Result: ...
    def exception(self, timeout: float | None = None) -> BaseException | None: ...
    def done(self) -> bool: ...
    def cancel(self) -> bool: ...
    def cancelled(self) -> bool: ...
    def add_done_callback(self, fn: Callable[[Future], object], *, context: Any = None) -> None:
        """Calls `fn(future)` when the outcome is known: on the event loop that this is called from, if any; otherwise
        on a thread of ovengine's, or at once when the outcome is known already."""
    def _add_callback(self, fn: Callable[[Future], object]) -> None:
        """Like add_done_callback(), but never on an event loop: for those who block the loop that they are on."""
    def remove_done_callback(self, fn: Callable[[Future], object]) -> int: ...
    def __await__(self) -> Generator[Any, None, Result]: ...

class Result(Mapping[str | int, np.ndarray[Any, Any]]):
    """Outputs by name and by index; `numpy.asarray(result)` where the model has one output."""

    def __getitem__(self, key: str | int) -> np.ndarray[Any, Any]: ...
    def __iter__(self) -> Iterator[str]: ...
    def __len__(self) -> int: ...
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]: ...

class Lease:
    """Rows of the batch's own input memory, to be written in place and then submitted."""

    @property
    def rows(self) -> int: ...
    def __enter__(self) -> Lease: ...
    def __exit__(self, *exc: object) -> None: ...
    def __getitem__(self, key: str | int) -> np.ndarray[Any, Any]: ...
    def submit(self) -> Future: ...
    def release(self) -> None: ...

def as_completed(futures: Iterable[Future], timeout: float | None = None) -> Iterator[Future]: ...
def wait(
    futures: Iterable[Future],
    timeout: float | None = None,
    return_when: str = "ALL_COMPLETED",
) -> tuple[set[Future], set[Future]]: ...
def debug_counters() -> dict[str, int]:
    """Slots, batches, requests, rows, sessions, leases and notices in use by the whole process; all zero at rest."""
