"""What goes on behind a model that serves already: larger batch sizes are measured, checked and compiled."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from typing import ClassVar

from ovengine.errors import OvengineError

_logger = logging.getLogger("ovengine")


class Stopped(BaseException):
    """Nobody wants the rest. Not for plugins, or whoever else is asked for a step, to catch."""


class Preparation:
    """The rest of one `load`, on a thread of its own. One at a time for an engine, or they would measure each other."""

    _all: ClassVar[weakref.WeakSet[Preparation]] = weakref.WeakSet()

    def __init__(self, name: str) -> None:
        self._name = name
        self._error: OvengineError | None = None
        self._done = threading.Event()
        self._done.set()
        self._thread: threading.Thread | None = None

    def start(self, work: Callable[[], None], turn: threading.Lock) -> None:
        """Do `work` when it is this model's turn. Without it there is nothing to wait for."""
        self._done.clear()
        self._thread = threading.Thread(target=self._run, args=(work, turn), name=f"prepare {self._name}", daemon=True)
        Preparation._all.add(self)
        self._thread.start()

    def stop(self, error: OvengineError) -> None:
        """End soon: the step that runs is the last. Does not wait; who does gets `error`."""
        if not self._done.is_set():
            self._error = error
            self._done.set()

    @property
    def done(self) -> bool:
        """Whether nothing is left to wait for."""
        return self._done.is_set()

    def check(self) -> None:
        """Between two steps. Raises Stopped where the next would be for nobody: the model is closed, or all ends."""
        if self._error is not None or not threading.main_thread().is_alive():
            raise Stopped

    def wait(self, timeout: float | None) -> bool:
        """Whether all is done, within `timeout` seconds. Raises the error when it will never be."""
        done = self._done.wait(timeout)
        if self._error is not None:
            raise self._error
        return done

    def _run(self, work: Callable[[], None], turn: threading.Lock) -> None:
        try:
            with turn:
                self.check()
                work()
        except Stopped:
            pass
        except Exception:
            # The model goes on with what it has; unless it was closed in the middle of a step.
            if self._error is None:
                _logger.exception("model %r keeps its batch size of 1", self._name)
        finally:
            self._done.set()

    @classmethod
    def join_all(cls) -> None:
        """At exit, when all models are closed: OpenVINO must not be in the middle of something when it is torn down."""
        for preparation in list(cls._all):
            if preparation._thread is not None:
                preparation._thread.join()
