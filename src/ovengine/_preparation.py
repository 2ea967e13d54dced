"""What goes on behind a model that serves already: larger batch sizes are measured, checked and compiled."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar

from ovengine.errors import ModelError, OvengineError

# How long a model waits for its turn while another one is prepared. Then it goes ahead: a step of the other may never
# end.
PATIENCE_SECONDS = 300.0
# How soon a thread that waits for its turn notices that nobody needs it any more.
NOTICE_SECONDS = 0.5

_logger = logging.getLogger("ovengine")


class Stopped(BaseException):
    """Nobody wants the rest. Not for plugins, or whoever else is asked for a step, to catch."""


class Preparation:
    """The rest of one `load`, on a thread of its own. One at a time for an engine, or they would measure each other.

    Without locks of its own, because a signal handler may come back here on the same thread.
    """

    _all: ClassVar[weakref.WeakSet[Preparation]] = weakref.WeakSet()

    def __init__(self, name: str) -> None:
        self._name = name
        self._error: OvengineError | None = None  # of a model that is closed
        self._failure = ""  # of the last run
        self._runs: list[_Run] = []  # that have not ended

    def start(self, work: Callable[[], None], turn: threading.Lock) -> bool:
        """Do `work` when it is this model's turn. False when no thread can be started; `wait` tells, as of all that
        fails.
        """
        run = _Run(self, work, turn)
        self._failure = ""
        self._runs.append(run)
        Preparation._all.add(self)
        try:
            run.thread.start()
        except RuntimeError as error:
            self._end(run, error)
            return False
        return True

    def stop(self, error: OvengineError) -> None:
        """End soon: the step that runs is the last. Does not wait; who does gets `error`."""
        if self._error is None and self._runs:
            self._error = error
            for run in tuple(self._runs):
                run.over.set()

    def refuse(self, error: OvengineError) -> None:
        """There is nothing to wait for, and never will be: who does gets `error`."""
        self._error = error

    @property
    def done(self) -> bool:
        """Whether nothing is left to wait for."""
        return not self._runs or self._error is not None

    def check(self) -> None:
        """Between two steps. Raises Stopped where the next would be for nobody: the model is closed, or all ends."""
        if self._error is not None or not threading.main_thread().is_alive():
            raise Stopped

    def wait(self, timeout: float | None) -> bool:
        """Whether all is done, within `timeout` seconds. Raises the error when it will never be."""
        until = None if timeout is None else time.monotonic() + timeout
        while self._error is None and (runs := tuple(self._runs)):
            if not runs[0].over.wait(None if until is None else max(0.0, until - time.monotonic())):
                return False
        if self._error is not None:
            raise self._error
        if self._failure:
            raise ModelError(f"model {self._name!r} goes on as it is, because its preparation failed: {self._failure}")
        return True

    def _end(self, run: _Run, failure: Exception | None = None) -> None:
        if failure is not None and self._error is None:
            # The model goes on with what it has; unless it was closed in the middle of a step.
            self._failure = f"{type(failure).__name__}: {failure}"
            _logger.error("model %r goes on as it is: its preparation failed", self._name, exc_info=failure)
        self._runs.remove(run)
        run.over.set()

    @classmethod
    def join_all(cls, until: float) -> bool:
        """At exit, when all models are closed: whether all threads have ended by then, on `time.monotonic`."""
        threads = [run.thread for preparation in list(cls._all) for run in tuple(preparation._runs)]
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)


class _Run:
    """One thread of a preparation."""

    def __init__(self, preparation: Preparation, work: Callable[[], None], turn: threading.Lock) -> None:
        self.over = threading.Event()  # or nobody needs to wait for it
        self._preparation = preparation
        self._work = work
        self._turn = turn
        self.thread = threading.Thread(target=self._run, name=f"prepare {preparation._name}", daemon=True)

    def _run(self) -> None:
        failure: Exception | None = None
        try:
            with self._own_turn():
                self._preparation.check()
                self._work()
        except Stopped:
            pass
        except Exception as error:
            failure = error
        finally:
            del self._work  # it may hold much, and somebody may wait for this run for long
            self._preparation._end(self, failure)

    @contextmanager
    def _own_turn(self) -> Iterator[None]:
        give_up = time.monotonic() + PATIENCE_SECONDS
        while not (has_turn := self._turn.acquire(timeout=NOTICE_SECONDS)):
            self._preparation.check()
            if time.monotonic() >= give_up:
                break
        try:
            yield
        finally:
            if has_turn:
                self._turn.release()
