"""Infer requests over an `ovengine.Model`: each inference is a request to the model, and may share a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import openvino

from ovengine._bulk import submit_when_room
from ovengine._core import Future, Result, Session
from ovengine.compat import _tensor
from ovengine.compat._ports import Ports
from ovengine.compat._tensor import Array
from ovengine.compat._tensors import Results, Tensors
from ovengine.errors import Cancelled, InputError
from ovengine.model import Model
from ovengine.plan import TensorInfo


class RowTensors(Tensors):
    """Results lie in the batch, and are copied to the tensors of those outputs that somebody has asked for."""

    def __init__(self, ports: Ports, model: Model, session: Session | None, in_flight: Iterable[Future]) -> None:
        super().__init__(ports)
        self._submit: Callable[..., Future] = model.submit if session is None else session.submit
        self._session = session
        self._in_flight = in_flight  # of the whole queue
        self._result: Result | None = None

    def _takes(self, port: TensorInfo, shape: Sequence[int]) -> bool:
        axis = port.batch_axis
        if axis is not None and port.shape is not None and len(shape) < len(port.shape):
            shape = (*shape[:axis], 1, *shape[axis:])  # one row without its batch axis
        return super()._takes(port, shape)

    def _new_input(self, port: TensorInfo) -> openvino.Tensor:
        if port.batch_axis is None or port.shape is None:
            return _tensor.new_tensor(port)
        shape = list(port.shape)
        shape[port.batch_axis] = 1
        return _tensor.new_tensor(port, shape)

    def _bind_input(self, index: int, tensor: openvino.Tensor) -> None:
        """Nothing to do: it is looked at when the request is submitted."""

    def _bind_batch(self, index: int, tensors: Sequence[openvino.Tensor]) -> None:
        port = self.ports.inputs[index]
        axis = port.batch_axis or 0
        for tensor in tensors:
            _tensor.check_tensor(tensor, port, "input")
        if not tensors or any(tensor.get_shape()[axis] != 1 for tensor in tensors):
            raise InputError(f"a batch of input {port.name!r} is one or more tensors of one row each")

    def _bind_output(self, index: int, tensor: openvino.Tensor, *, keep: bool) -> None:
        if keep and self._result is not None:
            self._copy_out(index, tensor, self._result)

    def _copy_out(self, index: int, tensor: openvino.Tensor, result: Result) -> None:
        _tensor.write(tensor, result[index], self.ports.outputs[index])

    def results(self, *, share: bool = False, decode_strings: bool = True) -> Mapping[Any, Array]:
        """Arrays that nothing writes to any more; text is decoded, or not, from what the batch has."""
        arrays = [self._array(index) for index in range(len(self.ports.outputs))]
        if not decode_strings:
            arrays = [
                np.char.encode(array, "utf-8") if _tensor.is_text(port) else array
                for array, port in zip(arrays, self.ports.outputs, strict=True)
            ]
        return Results(self.ports, arrays)

    def _array(self, index: int) -> Array:
        if self._result is not None:
            return self._result[index]
        port = self.ports.outputs[index]
        return _tensor.read(_tensor.new_tensor(port), port)

    def submit(self) -> Future:
        self._result = None
        inputs = [self._value(index) for index in range(len(self.ports.inputs))]
        # The model may look at the inputs of a cancelled request for a moment longer than that lasts. So what others
        # may resize, and so move elsewhere, is copied.
        share_inputs = not self._callers and not self._shown
        submit = partial(self._submit, share_inputs=share_inputs)
        return submit_when_room(submit, inputs[0] if len(inputs) == 1 else inputs, self._in_flight)

    def _value(self, index: int) -> Any:
        port = self.ports.inputs[index]
        if (batch := self._batches.get(index)) is not None:
            return np.concatenate([tensor.data for tensor in batch], axis=port.batch_axis or 0)
        tensor = self._inputs[index]
        if tensor is None:
            tensor = self._use_own(index)
        if _tensor.is_text(port) or _tensor.is_packed(port):
            return tensor
        view = self._views[index]
        return tensor.data if view is None or tensor is not self._own[index] else view

    def ended(self, future: Future) -> BaseException | None:
        error = super().ended(future)
        if error is not None:
            if isinstance(error, Cancelled):
                self._leave_own()
            return error
        self._result = future.result()
        try:
            for index, tensor in enumerate(self._outputs):
                if tensor is not None:
                    self._copy_out(index, tensor, self._result)
        except (InputError, RuntimeError, ValueError) as refused:  # a tensor of another shape
            return refused
        return None

    def _leave_own(self) -> None:
        """To a request that was cancelled and may still be read: the same values elsewhere."""
        for index, own in enumerate(self._own):
            if own is None or index in self._shown:
                continue
            copy = openvino.Tensor(own.get_element_type(), own.get_shape())
            own.copy_to(copy)
            self._own[index] = copy
            self._views[index] = None
            if self._inputs[index] is own:
                self._inputs[index] = copy

    # -- state --------------------------------------------------------------------------------------------------------

    @property
    def states(self) -> Sequence[str]:
        return () if self._session is None else list(self._session.state)

    def read_state(self, index: int) -> openvino.Tensor:
        return openvino.Tensor(self._only_session().state[self.states[index]])

    def write_state(self, index: int, tensor: openvino.Tensor) -> None:
        self._only_session().state[self.states[index]] = tensor.data

    def reset_state(self, index: int | None = None) -> None:
        if self._session is None:
            return
        if index is not None and len(self.states) > 1:
            raise InputError("a session of an ovengine.Model resets all its variables at once: call reset_state()")
        self._session.reset()

    def _only_session(self) -> Session:
        assert self._session is not None  # otherwise there are no variables to ask for
        return self._session

    def profile(self) -> list[openvino.ProfilingInfo]:
        raise RuntimeError(
            "an ovengine.Model may run several requests in one inference, which has no profile of one of them; give "
            'the queue an openvino.CompiledModel that was compiled with {"PERF_COUNT": True}'
        )
