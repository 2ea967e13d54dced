"""Row classes of a model with dynamic dimensions: which shapes are compiled for themselves, and when.

Requests of any shape run on the dynamic compiled model. A shape that comes often (all dimensions but the number of
rows) gets a child model of its own with static batch sizes, made in the background: requests run on the dynamic one
until then. There are a few children at a time; the one that was used longest ago makes room for the next. Which child
serves a request is looked up natively (`row_classes.pxi`); this module is asked only when a shape has become frequent.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ovengine import _element_types
from ovengine.errors import EngineClosed, OvengineError

if TYPE_CHECKING:
    from ovengine._core import Graph
    from ovengine.model import Model

ClassShapes = tuple[tuple[int, ...], ...]
"""Of each input, in order; the first dimension as in the model."""

# Classes with a compiled model of their own, where memory allows.
MOST_CLASSES = 8
# Requests of a shape before it is compiled.
USES = 8
# Shapes that wait to be compiled; more of them become frequent at once only when none stays so.
MOST_WAITING = 4

_logger = logging.getLogger("ovengine")


class Padding(NamedTuple):
    """How requests of other lengths are brought into a class: bucket lengths; for each input its sequence axis (0:
    none) and pad value; for each output the axis that is cut back (0: none).
    """

    lengths: tuple[int, ...]
    axes: tuple[int, ...]
    pads: tuple[float, ...]
    cut_axes: tuple[int, ...]


def has_classes(graph: Graph) -> bool:
    """Whether requests may differ in more than the number of rows, and all else is known before they are run."""
    if graph.has_state or not graph.inputs or _element_types.examine(graph.inputs, graph.outputs) is not None:
        return False
    if any(not port.shape for port in graph.inputs):
        return False
    return any(length < 0 for port in graph.inputs for length in (port.shape or ())[1:])


class RowClasses:
    """Makes the children of one model, one after the other, behind it (see `Preparation`).

    Args:
        model: the parent; it may go away meanwhile.
        build: a started child for these shapes, or None when their rows cannot share a batch; calls the function that
            it is given between steps that take long.
        turn: of the engine: one model at a time is measured and compiled.
        most: children at a time.
        padding: None where requests are not padded.
        expected: shapes to compile without waiting for requests.
    """

    def __init__(
        self,
        model: Model,
        build: Callable[[ClassShapes, Callable[[], None]], Model | None],
        turn: threading.Lock,
        most: int,
        padding: Padding | None = None,
        expected: Sequence[ClassShapes] = (),
    ) -> None:
        self._build = build
        self._turn = turn
        self._preparation = preparation = model._preparation
        unused = EngineClosed(f"model {model.name!r} is gone")
        self._model = weakref.ref(model, lambda _: preparation.stop(unused))
        self._lock = threading.RLock()  # a signal handler may come back here on the same thread
        self._waiting: deque[ClassShapes] = deque(maxlen=max(MOST_WAITING, len(expected)))
        self._at_work = False
        model._serve_classes(self._want, uses=USES, most=most, buckets=padding)
        for shapes in expected:
            self._want(shapes)

    def _want(self, shapes: ClassShapes) -> None:
        """These shapes have become frequent. On the thread of a request: returns at once."""
        with self._lock:
            if shapes not in self._waiting:
                self._waiting.append(shapes)
            if self._at_work:
                return
            self._at_work = True
            if not self._preparation.start(self._work, self._turn):
                self._at_work = False  # the next shape that becomes frequent tries again

    def _work(self) -> None:
        try:
            while shapes := self._next():
                self._preparation.check()
                try:
                    self._make(shapes)
                except OvengineError:  # the dynamic model goes on serving the shape
                    _logger.warning("no model of its own for the shapes %s", shapes, exc_info=True)
        except BaseException:
            with self._lock:
                self._at_work = False
            raise

    def _next(self) -> ClassShapes | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._at_work = False
            return None

    def _make(self, shapes: ClassShapes) -> None:
        model = self._model()
        if model is None or shapes in model._class_shapes:
            return
        del model  # it may go away while this compiles
        child = self._build(shapes, self._preparation.check)
        model = self._model()
        if child is None:
            if model is not None and not model._class_shapes:
                model._serve_classes(None)
        elif model is None:
            child.close(0)
        else:
            try:
                gone = model._add_class(shapes, child)
            except EngineClosed:
                child.close(0)
            else:
                child._follow(model.plan)
                for former in gone:
                    model._retire_class(former)
