"""What compiled models take of memory: measured as they are made, and kept below `memory_limit`.

OpenVINO's CPU plugin has no property for it, so it is told by how much the C library's heap grows from before the
compilation to after the first inference: packed weights and work buffers. (The resident set tells less: what was freed
before stays in it, and the next model that is made there seems to be small.) A model file that is mapped costs nothing
more. What a device keeps in memory of its own does not show.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import threading
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovengine.config import available_memory_bytes
from ovengine.errors import ConfigError, InferenceError
from ovengine.plan import DevicePlan, format_bytes

if TYPE_CHECKING:
    from ovengine._core import Graph
    from ovengine.plan import TensorInfo

# Without a limit: of the memory that is free, for all compiled models of a load together.
MEMORY_SHARE = 0.25
# Of the memory that is free, what a trial inference may take.
TRIAL_SHARE = 0.5
# Compiling takes this many times what it leaves.
COMPILING = 1.15
# Batch sizes that a model is reckoned with before it is known which pay.
USUAL_SIZES = 4


class NoRoom(ConfigError):
    """One more compiled model would go beyond the limit. `rows`: its batch size, where it has one."""

    def __init__(self, text: str, rows: int | None) -> None:
        super().__init__(text)
        self.rows = rows


def budget_bytes(limit: int | None) -> int:
    """What all compiled models of one load together should stay below."""
    return int(available_memory_bytes() * MEMORY_SHARE) if limit is None else limit


def check_trial(graph: Graph, copies: int) -> None:
    """Raise InferenceError where a trial inference would take more than half of the memory that is free.

    `copies`: of its inputs and outputs, beside those of the inference.
    """
    ports = (*graph.inputs, *graph.outputs)
    bytes_of_ports = sum(port.dtype.itemsize * math.prod(max(1, n) for n in port.shape or ()) for port in ports)
    needed, free = graph.tensor_bytes + copies * bytes_of_ports, available_memory_bytes()
    if needed > TRIAL_SHARE * free:
        raise InferenceError(f"a trial run would take {format_bytes(needed)}, and {format_bytes(free)} are free")


class _HeapFigures(ctypes.Structure):
    """`struct mallinfo2` of glibc."""

    _names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = tuple((name, ctypes.c_size_t) for name in _names)


_libc = ctypes.CDLL(None)
_heap_figures = getattr(_libc, "mallinfo2", None)
if _heap_figures is not None:
    _heap_figures.restype = _HeapFigures


def allocated_bytes() -> int:
    """What is in use of the heap by the whole process; where that cannot be told, what is resident."""
    if _heap_figures is not None:
        figures = _heap_figures()
        return int(figures.uordblks + figures.hblkhd)
    return private_bytes()


def private_bytes() -> int:
    """Resident memory of this process that no file is behind."""
    _, resident, shared = Path("/proc/self/statm").read_text().split()[:3]
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def give_back() -> None:
    """What compiling left unused in the heap is the system's again; takes a millisecond."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)


def tensor_bytes(devices: Sequence[DevicePlan], rows: int, tensors: Sequence[TensorInfo]) -> int:
    """Inputs and outputs of a batch per lane."""
    return sum(plan.lanes for plan in devices) * rows * sum(tensor.row_bytes for tensor in tensors)


def with_shared_lanes(plan: DevicePlan) -> DevicePlan:
    """One compiled model for all lanes of a device instead of one each."""
    properties = {
        **plan.properties,
        "NUM_STREAMS": plan.lanes,
        "INFERENCE_NUM_THREADS": plan.threads_per_lane * plan.lanes,
    }
    return plan if plan.shared else replace(plan, properties=properties, shared=True)


class Ledger:
    """Compiled models of one load by kind (a batch size, or whatever else tells them apart): how many, how large.

    limit: bytes that they may take together; None for any.
    """

    def __init__(self, limit: int | None, constant_bytes: int) -> None:
        self.limit = limit
        if limit is not None:
            gc.collect()  # what is let go of while something is weighed would make it lighter
        # Room that is left for models of one row beside those that are booked.
        self.spare = 0
        # What models of a kind took when they were measured before.
        self.kept: Mapping[Any, int] = {}
        self.measured: dict[Hashable, int] = {}
        self._constant_bytes = constant_bytes
        self._models: dict[Hashable, int] = {}
        self._weighed: dict[Hashable, tuple[int, int]] = {}  # models and bytes

    def book(self, kind: Hashable, models: int) -> None:
        """Take room for so many models of this kind in all. Raises NoRoom."""
        more = models - self._models.get(kind, 0)
        if more <= 0:
            return
        # The first one is reckoned by its weights alone; more than those it always is.
        needed = int(more * self.expected(kind) * (COMPILING if self._models else 1))
        left = self._left()
        spare = 0 if isinstance(kind, tuple) else self.spare * self.expected(1)
        if left is not None and needed > left - spare:
            raise self._no_room(kind, f"about {format_bytes(needed)}", spare)
        self._models[kind] = models

    def release(self, kind: Hashable) -> None:
        """All models of this kind are gone."""
        self._models.pop(kind, None)

    @contextlib.contextmanager
    def weigh(self, kind: Hashable, models: int, added: bool = False) -> Iterator[None]:
        """Around what makes so many models of this kind, or adds to what they hold. Raises NoRoom when that turned out
        too much.
        """
        with _growth() as window:
            yield
        count, total = self._weighed.get(kind, (0, 0))
        count += 0 if added else models
        if count and not window.disturbed:
            self._weighed[kind] = count, total + window.bytes
            self.measured[kind] = max(0, total + window.bytes) // count
        left = self._left()
        if left is not None and left < 0:
            raise self._no_room(kind, format_bytes(models * self.expected(kind)))

    def expected(self, kind: Hashable) -> int:
        """Bytes of a model: as measured, or after those of other batch sizes."""
        # What is measured now may be before the first inference.
        measured = {**self.kept, **{k: max(held, self.kept.get(k, 0)) for k, held in self.measured.items()}}
        if kind in measured and isinstance(kind, int):  # not less than a smaller batch, which has the same weights
            return max(held for size, held in measured.items() if isinstance(size, int) and size <= kind)
        if kind in measured:
            return measured[kind]
        if isinstance(kind, tuple):  # the same in another precision
            return self.expected(kind[1])
        known = sorted((size, held) for size, held in measured.items() if isinstance(size, int))
        if not isinstance(kind, int) or not known:
            return max([self._constant_bytes, *measured.values()])
        below, top = ([known[0], *known])[-2:]
        slope = 0.0 if below == top else max(0.0, (top[1] - below[1]) / (top[0] - below[0]))
        return int(top[1] + slope * max(0, kind - top[0]))

    @property
    def sizes(self) -> list[int]:
        """Batch sizes that are booked, ascending."""
        return sorted(kind for kind in self._models if isinstance(kind, int))

    @property
    def held_bytes(self) -> int:
        """All that is booked."""
        return sum(models * self.expected(kind) for kind, models in self._models.items())

    def _left(self) -> int | None:
        return None if self.limit is None else self.limit - self.held_bytes

    def _no_room(self, kind: Hashable, needed: str, spare: int = 0) -> NoRoom:
        rows = kind if isinstance(kind, int) else None
        what = f"batch size {kind}" if rows else "the proof" if isinstance(kind, tuple) else "the model"
        others = spare + sum(count * self.expected(other) for other, count in self._models.items() if other != kind)
        beside = f" beside {format_bytes(others)}{' (with room for a proof)' if spare else ''}" if others else ""
        return NoRoom(f"{what} takes {needed}{beside}, and memory_limit is {format_bytes(self.limit or 0)}", rows)


class _Window:
    bytes = 0
    disturbed = False


_windows_lock = threading.RLock()  # a signal handler may come back here on the same thread
_windows: list[_Window] = []


def _forget_windows() -> None:
    """In the child of a fork, which has none of the threads that have opened them."""
    global _windows_lock
    _windows_lock = threading.RLock()
    _windows.clear()


os.register_at_fork(after_in_child=_forget_windows)


@contextlib.contextmanager
def _growth() -> Iterator[_Window]:
    """By how much the process grows meanwhile; disturbed where another load does so at the same time."""
    window = _Window()
    with _windows_lock:
        for other in _windows:
            other.disturbed = window.disturbed = True
        _windows.append(window)
    before = allocated_bytes()
    try:
        yield window
    finally:
        window.bytes = allocated_bytes() - before
        give_back()
        with _windows_lock:
            _windows.remove(window)
