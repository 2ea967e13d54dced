"""Which infer requests of a queue are idle, who waits for them, and who calls back."""

from __future__ import annotations

import functools
import logging
import os
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ovengine.compat._errors import RequestBusy
from ovengine.errors import ForkedError

if TYPE_CHECKING:
    from ovengine.compat.infer_request import InferRequest

_logger = logging.getLogger("ovengine")

Callback = Callable[["InferRequest", Any], object]
_Calls = queue.SimpleQueue[Callable[[], None] | None]


class Pool:
    """Shared by a queue and its requests, and knows neither. Thread-safe.

    A request is idle, or in use: from `take` or `take_next`, which give the use a number, until all uses of it have
    been given back. There are several at a time where its callback starts it again.
    """

    def __init__(self, callback_threads: int) -> None:
        self.changed = threading.Condition()  # notified when a request becomes idle
        self.callback: Callback | None = None
        self._callback_threads = callback_threads
        self._calls: _Calls | None = None
        self._idle: deque[InferRequest] = deque()
        self._size = 0
        self._last_use = 0
        self._errors: dict[InferRequest, BaseException] = {}  # that nobody has been told of, oldest first
        self._process = os.getpid()

    def add(self, request: InferRequest) -> None:
        """One more that is idle. Before any other call."""
        self._idle.append(request)
        self._size += 1

    @property
    def has_idle(self) -> bool:
        """Whether a request is idle."""
        return len(self._idle) > 0

    def next_idle(self) -> InferRequest:
        """Wait for an idle request, and leave it in the pool."""
        self.check_process()
        with self.changed:
            self.changed.wait_for(lambda: self.has_idle)
            return self._idle[0]

    def take_next(self) -> tuple[InferRequest, int]:
        """Wait for an idle request, and take it; with the number of its use."""
        self.check_process()
        with self.changed:
            self.changed.wait_for(lambda: self.has_idle)
            request = self._idle.popleft()
            return request, self._use(request)

    def take(self, request: InferRequest) -> int:
        """Take this one, which is idle or in its callback. Raises RequestBusy."""
        self.check_process()
        with self.changed:
            if request._running or request._starting:
                raise RequestBusy("the infer request is busy; wait() for its inference")
            if not request._uses:
                self._idle.remove(request)
            return self._use(request)

    def _use(self, request: InferRequest) -> int:
        request._starting = True
        self._last_use += 1
        request._uses.add(self._last_use)
        return self._last_use

    def give_back(self, request: InferRequest, use: int, error: BaseException | None) -> None:
        """A use of it is over, callback included. May be called again when it was interrupted by a signal."""
        with self.changed:
            if error is not None:
                request._error = error
                if (untold := self._errors.pop(request, None)) is not None:
                    _log(untold)
                self._errors[request] = error
            if request._uses == {use} and request not in self._idle:
                self._idle.append(request)
            request._uses.discard(use)
            if not request._uses:
                self.changed.notify_all()

    def wait_for(self, request: InferRequest, seconds: float | None = None) -> bool:
        """Wait until the request is idle, up to so many seconds; whether it is."""
        self.check_process()
        with self.changed:
            return self.changed.wait_for(lambda: not request._uses, seconds)

    def told(self, request: InferRequest) -> None:
        """Its last error has been raised."""
        with self.changed:
            if self._errors.get(request) is request._error:
                del self._errors[request]

    def wait_all(self) -> None:
        """Wait until all requests are idle. Raises the first error that nobody has been told of; others are logged."""
        self.check_process()
        with self.changed:
            self.changed.wait_for(lambda: len(self._idle) == self._size)
            errors = list(self._errors.values())
            self._errors.clear()
        if errors:
            for error in errors[1:]:
                _log(error)
            raise errors[0]

    # -- callbacks ----------------------------------------------------------------------------------------------------

    def call_back_on_threads(self) -> None:
        """Have threads for callbacks from now on: as many as inferences can end at a time, or as can be started.
        Raises RuntimeError when there is no room for one.
        """
        with self.changed:
            if self._calls is not None:
                return
            calls: _Calls = queue.SimpleQueue()
            started = 0
            while started < self._callback_threads:
                try:
                    threading.Thread(target=_serve, args=(calls,), name="ovengine-callback", daemon=True).start()
                except RuntimeError:
                    if started == 0:
                        raise
                    break
                started += 1
            self._calls = calls
            weakref.finalize(self, _stop, calls, started)

    def call_back(self, request: InferRequest, use: int, call: Callable[[], object]) -> None:
        """Have the callback called on one of the threads, and give the request back then."""
        assert self._calls is not None  # somebody has set a callback
        self._calls.put(functools.partial(self._call_back, request, use, call))

    def _call_back(self, request: InferRequest, use: int, call: Callable[[], object]) -> None:
        error = None
        try:
            call()
        except BaseException as raised:
            error = raised
        self.give_back(request, use, error)

    # -- forks --------------------------------------------------------------------------------------------------------

    def check_process(self) -> None:
        """Before a lock is taken, which another thread of the parent may have held. Raises ForkedError."""
        if os.getpid() != self._process:
            raise ForkedError(
                "this AsyncInferQueue was made before the process was forked, and its threads are not here; start "
                "processes with the method 'spawn' or 'forkserver', or make the queue after the fork"
            )


def _serve(calls: _Calls) -> None:
    """The life of a thread for callbacks; it does not keep the pool alive that it serves."""
    while (call := calls.get()) is not None:
        call()
        del call


def _stop(calls: _Calls, threads: int) -> None:
    for _ in range(threads):
        calls.put(None)


def _log(error: BaseException) -> None:
    _logger.error("a request of an AsyncInferQueue failed, and another error came before it was told", exc_info=error)
