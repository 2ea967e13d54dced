"""AsyncInferQueue: OpenVINO's class, on ovengine's core."""

from __future__ import annotations

import functools
import logging
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ovengine._bulk import submit_when_room
from ovengine._core import Future
from ovengine.compat._adopted import adopt
from ovengine.compat._ports import Ports
from ovengine.compat.infer_request import InferRequest
from ovengine.errors import ConfigError
from ovengine.model import Model

if TYPE_CHECKING:
    import openvino

_logger = logging.getLogger("ovengine")

Callback = Callable[[InferRequest, Any], object]
_Calls = queue.SimpleQueue[Callable[[], None] | None]


class AsyncInferQueue:
    """A pool of infer requests, with the methods and the callback protocol of `openvino.AsyncInferQueue`.

    Given an `openvino.CompiledModel`, it runs infer requests of that model, one request an inference: what it was
    compiled from cannot be had back, so no other batch size either. Given an `ovengine.Model`, requests share batches.

    What differs from OpenVINO's class, for the better:

    - Any number of threads may call `start_async` at once.
    - An error belongs to its own request: `start_async` raises none but those of its own inputs, and the queue goes on
      as if nothing had been. `wait_all` raises the first that came since it was called last (others are logged), and
      `InferRequest.wait` that of its own request.
    - What was read from a request stays as it is when the request is used again.

    Example:
        >>> infer_queue = AsyncInferQueue(compiled_model, jobs=4)
        >>> infer_queue.set_callback(lambda request, userdata: print(userdata, request.results[0]))
        >>> for index, image in enumerate(images):
        ...     infer_queue.start_async({0: image}, userdata=index)
        >>> infer_queue.wait_all()

    Args:
        model: an `openvino.CompiledModel` or an `ovengine.Model`. The latter stays the caller's to close.
        jobs: requests in the pool. 0 is what OpenVINO calls optimal, or of an `ovengine.Model` enough to fill the
            batches of all lanes; to know that, all batch sizes are waited for.

    Raises:
        ModelError: `model` is neither, or has inputs or outputs of a type that NumPy lacks.
        ConfigError: `jobs` is no integer of at least 0.
    """

    def __init__(self, model: openvino.CompiledModel | Model, jobs: int = 0) -> None:
        if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 0:
            raise ConfigError(f"jobs must be an integer of at least 0, not {jobs!r}")
        if isinstance(model, Model):
            if jobs == 0:
                model.wait_ready()
            self._model, count, compiled_model = model, jobs or model._window(None), None
        else:
            (self._model, count), compiled_model = adopt(model, jobs), model
        ports = Ports(self._model.inputs, self._model.outputs, compiled_model)
        self._changed = threading.Condition()
        self._errors: dict[InferRequest, BaseException] = {}  # that nobody has been told of, oldest first
        self._requests = [InferRequest(ports, self._changed, self._errors) for _ in range(count)]
        self._in_flight = _InFlight(self._requests)
        self._idle = deque(range(count))
        self._callback: Callback | None = None
        self._completions: _Calls | None = None

    def start_async(self, inputs: Any = None, userdata: Any = None, share_inputs: bool = False) -> None:
        """Start an inference on the next idle request; waits for one.

        Args:
            inputs: by index, name or port; a sequence; or one value. Values are arrays, `openvino.Tensor` or what NumPy
                makes an array of. Inputs that are left out, or None for all of them, are those of the request's last
                inference.
            userdata: for the callback.
            share_inputs: whether to read the arrays while the inference runs, instead of copying them now.

        Raises:
            InputError, InputTypeError: the inputs do not fit the model.
            EngineClosed, ForkedError: the model is closed, or belongs to the parent process.
        """
        index = self._take_idle()
        request = self._requests[index]
        submit = functools.partial(self._model.submit, share_inputs=True)
        try:
            arrays = request._set_inputs(inputs, share_inputs)
            request._start(userdata)
            request._future = submit_when_room(submit, arrays, self._in_flight)
            request._future._add_callback(functools.partial(self._completed, index))
        except BaseException:
            self._give_up(index)
            raise

    def set_callback(self, callback: Callback) -> None:
        """Have `callback(infer_request, userdata)` called after each inference that succeeds, from now on.

        It runs on threads of the queue, as many as the model has lanes. The request is idle when it returns; what it
        raises is an error of that request.
        """
        if not callable(callback):
            raise ConfigError(f"the callback must be callable, not {callback!r}")
        with self._changed:
            if self._completions is None:
                completions: _Calls = queue.SimpleQueue()
                self._completions = completions
                threads = min(len(self._requests), len(self._model.plan.lanes))
                for _ in range(threads):
                    threading.Thread(target=_serve, args=(completions,), name="ovengine-callback", daemon=True).start()
                weakref.finalize(self, _stop, completions, threads)
            self._callback = callback

    def is_ready(self) -> bool:
        """Whether a request is idle, so that `start_async` would not wait."""
        return len(self._idle) > 0

    def get_idle_request_id(self) -> int:
        """Wait for an idle request. Its id, which the next `start_async` will use unless another thread comes first."""
        with self._changed:
            self._changed.wait_for(self.is_ready)
            return self._idle[0]

    def wait_all(self) -> None:
        """Wait until all requests are idle, callbacks included. Raises the first error since the last call."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._idle) == len(self._requests))
            errors = list(self._errors.values())
            self._errors.clear()
        if errors:
            for error in errors[1:]:
                _log(error)
            raise errors[0]

    @property
    def userdata(self) -> list[Any]:
        """Of each request, as given to its last `start_async`."""
        return [request.userdata for request in self._requests]

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[InferRequest]:
        return iter(self._requests)

    def __getitem__(self, i: int) -> InferRequest:
        if i < 0:
            raise IndexError(f"the queue has no request {i}; it has 0 to {len(self) - 1}")
        return self._requests[i]

    def __repr__(self) -> str:
        return f"<AsyncInferQueue: {len(self)} jobs>"

    # -- one request, from idle to idle -------------------------------------------------------------------------------

    def _take_idle(self) -> int:
        with self._changed:
            self._changed.wait_for(self.is_ready)
            index = self._idle.popleft()
            self._requests[index]._busy = True
            return index

    def _completed(self, index: int, future: Future) -> None:
        """Called by the core's thread for callbacks, or by `start_async`: neither may run what the user wrote."""
        error = self._requests[index]._end(future)
        if self._callback is None or self._completions is None or error is not None:
            self._give_back(index, error)
        else:
            self._completions.put(functools.partial(self._call_back, index, self._callback))

    def _call_back(self, index: int, callback: Callback) -> None:
        request = self._requests[index]
        error = None
        try:
            callback(request, request.userdata)
        except BaseException as raised:
            error = raised
        self._give_back(index, error)

    def _give_back(self, index: int, error: BaseException | None) -> None:
        request = self._requests[index]
        with self._changed:
            if error is not None:
                request._error = error
                if (untold := self._errors.pop(request, None)) is not None:
                    _log(untold)
                self._errors[request] = error
            request._busy = False
            self._idle.append(index)
            self._changed.notify_all()

    def _give_up(self, index: int) -> None:
        """The request could not be started: `start_async` tells its caller why."""
        request = self._requests[index]
        if request._future is not None:
            request._future.cancel()
            request._future = None
        self._give_back(index, None)


class _InFlight:
    """The futures of a pool's requests, looked up when somebody iterates."""

    def __init__(self, requests: Sequence[InferRequest]) -> None:
        self._requests = requests

    def __iter__(self) -> Iterator[Future]:
        return (future for request in self._requests if (future := request._future) is not None)


def _serve(completions: _Calls) -> None:
    """The life of a thread for callbacks; it does not keep the queue alive that it serves."""
    while (call := completions.get()) is not None:
        call()
        del call


def _stop(completions: _Calls, threads: int) -> None:
    for _ in range(threads):
        completions.put(None)


def _log(error: BaseException) -> None:
    _logger.error("a request of an AsyncInferQueue failed, and another error came before it was told", exc_info=error)
