"""AsyncInferQueue: OpenVINO's class, on ovengine's core."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ovengine._core import Future
from ovengine.compat._adopted import adopt
from ovengine.compat._errors import ArgumentTypeError
from ovengine.compat._own_tensors import OwnTensors
from ovengine.compat._pool import Callback, Pool
from ovengine.compat._ports import Ports
from ovengine.compat._row_tensors import RowTensors
from ovengine.compat._tensors import Tensors
from ovengine.compat.infer_request import InferRequest
from ovengine.model import Model
from ovengine.plan import TensorInfo

if TYPE_CHECKING:
    import openvino


class AsyncInferQueue:
    """A pool of infer requests, with the methods and the callback protocol of `openvino.AsyncInferQueue`.

    Given an `openvino.CompiledModel`, each job is an infer request of that model, with a state of its own, and one
    request is one inference: what the model was compiled from cannot be had back, so no other batch size either. Given
    an `ovengine.Model`, requests share batches.

    What differs from OpenVINO's class, for the better (`docs/async-infer-queue.md` has the whole list):

    - Any number of threads may call `start_async` at once.
    - An error belongs to its own request: `start_async` raises none but those of its own inputs, and the queue goes on
      as if nothing had been. `wait_all` raises the first that came since it was called last (others are logged), and
      `InferRequest.wait` that of its own request.
    - Requests can be started one by one (`queue[0].start_async()`, `infer()`), beside `start_async` of the queue.

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
        ModelError (a TypeError): `model` is neither.
        ConfigError (a TypeError): `jobs` is no integer of at least 0.
    """

    def __init__(self, model: openvino.CompiledModel | Model, jobs: int = 0) -> None:
        jobs = _number_of_jobs(jobs)
        if isinstance(model, Model):
            if jobs == 0:
                model.wait_ready()
            self._model, jobs = model, jobs or model._window(None)
            ports = Ports(model.inputs, model.outputs, None)
        else:
            self._model, compiled, jobs = adopt(model, jobs)
            inputs = [TensorInfo.of(port, index) for index, port in enumerate(compiled.inputs)]
            outputs = [TensorInfo.of(port, index) for index, port in enumerate(compiled.outputs)]
            ports = Ports(inputs, outputs, model)
        # A callback may wait for another queue, whose callbacks must go on meanwhile.
        self._pool = Pool(callback_threads=min(jobs, len(self._model.plan.lanes)))
        self._requests: list[InferRequest] = []
        in_flight = _InFlight(self._requests)
        has_state = isinstance(model, Model) and _has_state(model)
        for _ in range(jobs):
            tensors: Tensors
            if isinstance(model, Model):
                tensors = RowTensors(ports, model, model.session() if has_state else None, in_flight)
            else:
                tensors = OwnTensors(ports, self._model, compiled)
            request = InferRequest(self._pool, tensors)
            self._requests.append(request)
            self._pool.add(request)

    def start_async(self, inputs: Any = None, userdata: Any = None, share_inputs: bool = False) -> None:
        """Start an inference on the next idle request; waits for one.

        Args:
            inputs: by index, name or port; a sequence; or one value. Values are arrays, `openvino.Tensor` or what NumPy
                makes an array of. Inputs that are left out, or None for all of them, are those of the request's last
                inference, or what was written to its input tensors. An `openvino.Tensor` is not copied, but read while
                the inference runs.
            userdata: for the callback.
            share_inputs: whether to read the arrays while the inference runs, instead of copying them now.

        Raises:
            InputError (a RuntimeError), InputTypeError (a TypeError): the inputs do not fit the model.
            EngineClosed, ForkedError: the model is closed, or belongs to the parent process.
        """
        request, use = self._pool.take_next()
        request._userdata = userdata
        request._run(use, inputs, share_inputs)

    def set_callback(self, callback: Callback) -> None:
        """Call `callback(infer_request, userdata)` after each inference that succeeds, from now on.

        It runs on threads of the queue, as many as the model has lanes. The request is idle when it returns. What
        the callback raises is an error of that request.

        Args:
            callback: takes the `InferRequest`, and what `start_async` was given as `userdata`.

        Raises:
            ArgumentTypeError (a TypeError): `callback` is not callable.
        """
        if not callable(callback):
            raise ArgumentTypeError(f"the callback must be callable, not {callback!r}")
        self._pool.call_back_on_threads()
        for request in self._requests:
            request._callback = None
        self._pool.callback = callback

    def is_ready(self) -> bool:
        """Whether a request is idle, so that `start_async` would not wait."""
        return self._pool.has_idle

    def get_idle_request_id(self) -> int:
        """Wait for an idle request. Its id, which the next `start_async` will use unless another thread comes first."""
        return self._requests.index(self._pool.next_idle())

    def wait_all(self) -> None:
        """Wait until all requests are idle, callbacks included. Raises the first error since the last call."""
        self._pool.wait_all()

    @property
    def userdata(self) -> list[Any]:
        """Of each request, as given to its last `start_async`."""
        return [request.userdata for request in self._requests]

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[InferRequest]:
        return iter(self._requests)

    def __getitem__(self, i: int) -> InferRequest:
        try:
            index = operator.index(i)
        except TypeError:
            raise ArgumentTypeError(f"a request is found by its index, not by {i!r}") from None
        if not 0 <= index < len(self):
            raise IndexError(f"the queue has no request {index}; it has 0 to {len(self) - 1}")
        return self._requests[index]

    def __repr__(self) -> str:
        return f"<AsyncInferQueue: {len(self)} jobs>"

    def __reduce__(self) -> str:
        raise TypeError("an AsyncInferQueue belongs to its process and cannot be copied or pickled")


class _InFlight:
    """The futures of a pool's requests, looked up when somebody iterates."""

    def __init__(self, requests: Sequence[InferRequest]) -> None:
        self._requests = requests

    def __iter__(self) -> Iterator[Future]:
        return (future for request in self._requests if (future := request._future) is not None)


def _number_of_jobs(jobs: object) -> int:
    try:
        number = -1 if isinstance(jobs, bool) else operator.index(jobs)  # type: ignore[arg-type]  # it says so itself
    except TypeError:
        number = -1
    if number < 0:
        raise ArgumentTypeError(f"jobs must be an integer of at least 0, not {jobs!r}")
    return number


def _has_state(model: Model) -> bool:
    with model.session() as session:
        return len(session.state) > 0
