"""What a callback is given: one job of an AsyncInferQueue, with the methods of `openvino.InferRequest`."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import openvino

from ovengine._core import Future
from ovengine.compat._errors import ArgumentTypeError, RequestBusy, RequestCancelled
from ovengine.compat._pool import Pool
from ovengine.compat._state import VariableState
from ovengine.compat._tensor import Array
from ovengine.compat._tensors import Tensors
from ovengine.errors import Cancelled, InferenceError, InputError

# An inference that is no longer than this may be run on the thread of a blocking caller, which then hears no signals.
BRIEF_SECONDS = 0.01


class InferRequest:
    """One of the requests that a queue has in its pool; made by `AsyncInferQueue`.

    Its tensors are live, as in OpenVINO: an output tensor that was taken once has the result of each inference, and
    what is written to an input tensor is read by the next one. `results` are copies. While an inference runs, all that
    reads or changes tensors, the state or the callback raises RequestBusy, a RuntimeError.
    """

    def __init__(self, pool: Pool, tensors: Tensors) -> None:
        self._pool = pool
        self._tensors = tensors
        self._callback: Callable[[Any], object] | None = None  # of its own, instead of the queue's
        self._userdata: Any = None
        self._future: Future | None = None
        self._error: BaseException | None = None  # of the last inference, or of its callback
        self._started = self._ended = 0.0
        self._running = False  # an inference; the callback comes after it
        self._calls_back = False
        self._cancelled = False
        self._failed = False  # the last inference
        # Under the pool's lock:
        self._uses: set[int] = set()
        self._starting = False  # taken, and not running yet

    @property  # type: ignore[misc]  # mypy knows no stand-ins
    def __class__(self) -> Any:
        """`openvino.InferRequest`, so that `isinstance` says yes to that as well."""
        return openvino.InferRequest

    # -- inference ----------------------------------------------------------------------------------------------------

    def infer(
        self,
        inputs: Any = None,
        share_inputs: bool = False,
        share_outputs: bool = False,
        *,
        decode_strings: bool = True,
    ) -> Mapping[Any, Array]:
        """Run an inference and wait for it. No callback is called.

        Args:
            inputs: as for `AsyncInferQueue.start_async`.
            share_inputs: read the arrays while the inference runs, instead of copying them now.
            share_outputs: return views of the output tensors, which the next inference overwrites.
            decode_strings: return text as `str`, not as bytes.

        Returns:
            The outputs, by index, name and port.

        Raises:
            InputError (a RuntimeError), InputTypeError (a TypeError): the inputs do not fit the model.
            InferenceError (a RuntimeError): the inference failed.
            RequestBusy, RequestCancelled (RuntimeErrors): the request runs already, or was cancelled.
            EngineClosed, ForkedError: the model is closed, or belongs to the parent process.
        """
        brief = 0 < self._ended - self._started < BRIEF_SECONDS
        use = self._pool.take(self)
        future = self._start(use, inputs, share_inputs, lambda: self._tensors.infer(brief=brief))
        try:
            future.done() or future.exception()
        except Cancelled:
            pass
        except BaseException:
            self._tensors.cancel(future)
            future._add_callback(partial(self._completed, use))
            raise
        error = self._error = self._take_outcome(future)
        self._pool.give_back(self, use, None)
        if error is not None:
            raise error
        return self._tensors.results(share=share_outputs, decode_strings=decode_strings)

    def start_async(self, inputs: Any = None, userdata: Any = None, share_inputs: bool = False) -> None:
        """Start an inference on this request, which must be idle or in its callback.

        Args:
            inputs: as for `AsyncInferQueue.start_async`.
            userdata: for the callback.
            share_inputs: as for `AsyncInferQueue.start_async`.

        Raises:
            RequestBusy (a RuntimeError): the request runs already.
            Other errors are those of `AsyncInferQueue.start_async`.
        """
        use = self._pool.take(self)
        if userdata is not None:
            self._userdata = userdata
        self._run(use, inputs, share_inputs)
        if userdata is not None and self._callback is None and self._pool.callback is None:
            warnings.warn("There is no callback function!", RuntimeWarning, stacklevel=2)

    def cancel(self) -> None:
        """Cancel the inference that runs, if any. Unless it is done first, `wait` raises RequestCancelled."""
        future = self._future
        if self._running and future is not None:
            self._cancelled = True
            self._tensors.cancel(future)

    def wait(self) -> None:
        """Wait for the inference and its callback. Raises its error, which `wait_all` does not raise again then."""
        self._pool.wait_for(self)
        if (error := self._error) is not None:
            self._pool.told(self)
            raise error

    def wait_for(self, timeout: float) -> bool:
        """Wait for the inference and its callback for a limited time.

        Args:
            timeout: milliseconds, as in OpenVINO.

        Returns:
            True when an inference has ended, its callback included.

        Raises:
            As `wait` does.
        """
        if not hasattr(timeout, "__float__"):
            raise ArgumentTypeError(f"the timeout is a number of milliseconds, not {timeout!r}")
        if not timeout >= 0:
            raise InputError(f"the timeout is at least 0 milliseconds, not {timeout}")
        return self._pool.wait_for(self, timeout / 1e3) and self._ended > 0

    def set_callback(self, callback: Callable[[Any], object], userdata: Any) -> None:
        """Call `callback(userdata)` after each successful inference of this request, instead of the queue's callback.

        Args:
            callback: runs on a thread of the queue.
            userdata: its argument.

        Raises:
            ArgumentTypeError (a TypeError): `callback` is not callable.
        """
        if not callable(callback):
            raise ArgumentTypeError(f"the callback must be callable, not {callback!r}")
        self._at_rest()
        self._pool.call_back_on_threads()
        self._callback, self._userdata = callback, userdata

    # -- outcome ------------------------------------------------------------------------------------------------------

    @property
    def userdata(self) -> Any:
        """What `start_async` was given last; None before."""
        return self._userdata

    @property
    def latency(self) -> float:
        """Milliseconds from the start of the last inference to its end; 0 when there is none."""
        return max(0.0, (self._ended - self._started) * 1e3)

    @property
    def results(self) -> Mapping[Any, Array]:
        """Outputs of the last inference by index, name and port. They keep their values when the request runs again."""
        return self._with_outputs().results()

    # -- tensors ------------------------------------------------------------------------------------------------------

    @property
    def input_tensors(self) -> list[openvino.Tensor]:
        """All inputs, to be read or written."""
        tensors = self._at_rest()
        return [tensors.input(index) for index in range(len(tensors.ports.inputs))]

    @property
    def output_tensors(self) -> list[openvino.Tensor]:
        """All outputs of the last inference."""
        tensors = self._with_outputs()
        return [tensors.output(index) for index in range(len(tensors.ports.outputs))]

    def get_input_tensor(self, index: int | None = None) -> openvino.Tensor:
        """Return the tensor of an input, to read or write.

        Args:
            index: of the input; None for the only one.

        Returns:
            An `openvino.Tensor`.

        Raises:
            InputError (a RuntimeError): there is no such input, or there are several and `index` is None.
            RuntimeError: an inference runs.
        """
        tensors = self._at_rest()
        return tensors.input(_index(tensors, index, False))

    def get_output_tensor(self, index: int | None = None) -> openvino.Tensor:
        """Return the tensor of an output of the last inference.

        Args:
            index: of the output; None for the only one.

        Returns:
            An `openvino.Tensor`.

        Raises:
            InputError (a RuntimeError): there is no such output, or there are several and `index` is None.
            RuntimeError: an inference runs.
        """
        tensors = self._with_outputs()
        return tensors.output(_index(tensors, index, True))

    def get_tensor(self, name: Any) -> openvino.Tensor:
        """Return the tensor of an input or output.

        Args:
            name: one of its names, or its port.

        Returns:
            An `openvino.Tensor`.

        Raises:
            InputError (a RuntimeError): there is no such input or output.
            RuntimeError: an inference runs.
        """
        is_output, index = self._tensors.ports.tensor_index(name)
        return self._with_outputs().output(index) if is_output else self._at_rest().input(index)

    def set_tensor(self, name: Any, tensor: openvino.Tensor) -> None:
        """Bind an input or output to a tensor. All inferences from now on read it, or write to it.

        Args:
            name: one of the names of the input or output, or its port.
            tensor: of the port's type and shape.

        Raises:
            InputError (a RuntimeError), InputTypeError (a TypeError): a tensor does not fit its port.
            RuntimeError: an inference runs.
        """
        is_output, index = self._tensors.ports.tensor_index(name)
        if is_output:
            self._at_rest().set_output(index, tensor)
        else:
            self._at_rest().set_input(index, tensor)

    def set_tensors(self, inputs: Any, tensors: Sequence[openvino.Tensor] | None = None) -> None:
        """Bind several inputs and outputs to tensors; or, with two arguments, one input to a batch of tensors.

        Args:
            inputs: a mapping from name, port, or index of an input to a tensor; with `tensors`, the input.
            tensors: one for each row of the input.

        Raises:
            InputError (a RuntimeError), InputTypeError (a TypeError): a tensor does not fit its port.
            RuntimeError: an inference runs.
        """
        if tensors is not None:
            is_output, index = self._tensors.ports.tensor_index(inputs)
            if is_output:
                raise InputError(f"only inputs take a batch of tensors; {inputs!r} is an output")
            self._at_rest().set_input_batch(index, tensors)
            return
        for key, tensor in _mapping(inputs).items():
            if isinstance(key, int):
                self.set_input_tensors({key: tensor})
            else:
                self.set_tensor(key, tensor)

    def set_input_tensor(self, index: Any, tensor: openvino.Tensor | None = None) -> None:
        """Bind an input to a tensor.

        Args:
            index: of the input; or the tensor alone, for the only input.
            tensor: of the input's type and shape.

        Raises:
            InputError (a RuntimeError), InputTypeError (a TypeError): a tensor does not fit its port.
            RuntimeError: an inference runs.
        """
        own = self._at_rest()
        if tensor is None:
            index, tensor = None, index
        own.set_input(_index(own, index, False), tensor)

    def set_input_tensors(self, inputs: Any, tensors: Sequence[openvino.Tensor] | None = None) -> None:
        """Bind several inputs to tensors; or one input to a batch of tensors.

        Args:
            inputs: a mapping from index to tensor; or, with `tensors`, the index of one input.
            tensors: one for each row of the input.

        Raises:
            InputError (a RuntimeError), InputTypeError (a TypeError): a tensor does not fit its port.
            RuntimeError: an inference runs.
        """
        own = self._at_rest()
        if isinstance(inputs, Mapping) and tensors is None:
            for key, tensor in inputs.items():
                own.set_input(own.ports.input_index(key), tensor)
        elif tensors is None:
            own.set_input_batch(own.ports.only(is_output=False), inputs)
        else:
            own.set_input_batch(own.ports.input_index(inputs), tensors)

    def set_output_tensor(self, index: Any, tensor: openvino.Tensor | None = None) -> None:
        """Bind an output to a tensor.

        Args:
            index: of the output; or the tensor alone, for the only output.
            tensor: of the output's type and shape.

        Raises:
            InputError (a RuntimeError), InputTypeError (a TypeError): a tensor does not fit its port.
            RuntimeError: an inference runs.
        """
        own = self._at_rest()
        if tensor is None:
            index, tensor = None, index
        own.set_output(_index(own, index, True), tensor)

    def set_output_tensors(self, outputs: Any) -> None:
        """Bind several outputs to tensors.

        Args:
            outputs: a mapping from index to tensor.

        Raises:
            InputError (a RuntimeError), InputTypeError (a TypeError): a tensor does not fit its port.
            RuntimeError: an inference runs.
        """
        own = self._at_rest()
        for key, tensor in _mapping(outputs).items():
            own.set_output(own.ports.output_index(key), tensor)

    # -- state and figures --------------------------------------------------------------------------------------------

    def query_state(self) -> list[VariableState]:
        """Return the variables that this request keeps between inferences; none for a model without state."""
        return [VariableState(name, index, self._at_rest) for index, name in enumerate(self._at_rest().states)]

    def reset_state(self) -> None:
        """Set all variables to their initial values."""
        self._at_rest().reset_state()

    def get_profiling_info(self) -> list[openvino.ProfilingInfo]:
        """Return how long each node of the compiled model took in the last inference; 0 without PERF_COUNT.

        Raises:
            RuntimeError: the queue runs an `ovengine.Model`, whose inferences serve several requests.
        """
        return self._at_rest().profile()

    @property
    def profiling_info(self) -> list[openvino.ProfilingInfo]:
        """As `get_profiling_info`."""
        return self.get_profiling_info()

    # -- model --------------------------------------------------------------------------------------------------------

    def get_compiled_model(self) -> openvino.CompiledModel:
        """Return the compiled model that the queue was given. Raises RuntimeError for an `ovengine.Model`."""
        compiled = self._tensors.ports.compiled_model
        if compiled is None:
            raise RuntimeError("this queue runs an ovengine.Model, which is several compiled models; see its plan")
        return compiled

    @property
    def model_inputs(self) -> list[Any]:
        """Ports of the compiled model; of an `ovengine.Model` its `inputs`."""
        return list(self._tensors.ports.input_keys)

    @property
    def model_outputs(self) -> list[Any]:
        """Ports of the compiled model; of an `ovengine.Model` its `outputs`."""
        return list(self._tensors.ports.output_keys)

    def __repr__(self) -> str:
        inputs, outputs = (", ".join(map(str, ports)) for ports in (self.model_inputs, self.model_outputs))
        return f"<InferRequest: inputs[{inputs}] outputs[{outputs}]>"

    def __reduce__(self) -> str:
        raise TypeError("an InferRequest belongs to its queue and cannot be copied or pickled")

    # -- from idle to idle --------------------------------------------------------------------------------------------

    def _run(self, use: int, inputs: Any, share_inputs: bool) -> None:
        """An inference of this request, which the caller has taken; it gives itself back to the pool."""
        future = self._start(use, inputs, share_inputs, self._tensors.submit)
        self._calls_back = True
        try:
            future._add_callback(partial(self._completed, use))
        except BaseException:  # a signal, while _completed() was run here for an inference that was done already
            self._running = False
            self._pool.give_back(self, use, None)
            raise

    def _start(self, use: int, inputs: Any, share_inputs: bool, submit: Callable[[], Future]) -> Future:
        """Gives the request back when it raises."""
        try:
            self._tensors.write(inputs, share_inputs)
            self._error = self._future = None
            self._calls_back = self._cancelled = self._failed = False
            self._ended, self._started = 0.0, time.perf_counter()
            self._running = True
            self._starting = False
            self._future = future = submit()
            return future
        except BaseException:
            self._running = self._starting = False
            self._pool.give_back(self, use, None)
            raise

    def _completed(self, use: int, future: Future) -> None:
        """Called by the core's thread for callbacks, or by who starts the inference: it runs nothing of the user's."""
        error = self._take_outcome(future)
        callback = self._pool.callback
        if error is not None or not self._calls_back or (self._callback is None and callback is None):
            self._pool.give_back(self, use, error)
        elif self._callback is not None:
            self._pool.call_back(self, use, partial(self._callback, self._userdata))
        elif callback is not None:
            self._pool.call_back(self, use, partial(callback, self, self._userdata))

    def _take_outcome(self, future: Future) -> BaseException | None:
        error = self._tensors.ended(future)
        self._ended = time.perf_counter()
        if error is not None:
            self._failed = True
            if self._cancelled and isinstance(error, (Cancelled, InferenceError)):
                error = RequestCancelled("the inference was cancelled")
        self._future = None
        self._running = False
        return error

    def _at_rest(self) -> Tensors:
        if self._running:
            raise RequestBusy("the infer request is busy; its tensors are there in the callback, and after wait()")
        return self._tensors

    def _with_outputs(self) -> Tensors:
        tensors = self._at_rest()
        if self._failed and self._error is not None:
            raise self._error
        return tensors


def _index(tensors: Tensors, index: int | None, is_output: bool) -> int:
    ports = tensors.ports
    if index is None:
        return ports.only(is_output)
    return ports.output_index(index) if is_output else ports.input_index(index)


def _mapping(tensors: Any) -> Mapping[Any, Any]:
    if not isinstance(tensors, Mapping):
        raise ArgumentTypeError(f"tensors are given as a dict by name, index or port, not as {type(tensors).__name__}")
    return tensors
