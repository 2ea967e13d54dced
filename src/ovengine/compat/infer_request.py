"""What a callback is given: one job of an AsyncInferQueue, with the read-only methods of `openvino.InferRequest`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ovengine._core import Future, Result
from ovengine.compat._ports import Array, Ports, as_array
from ovengine.errors import InputError

if TYPE_CHECKING:
    import openvino


class InferRequest:
    """One of the requests that a queue has in its pool; made by `AsyncInferQueue`.

    Its tensors are those of its last inference, until the next one is started. Arrays and tensors that were taken from
    it keep their values afterwards.
    """

    def __init__(self, ports: Ports, changed: threading.Condition, untold: dict[InferRequest, BaseException]) -> None:
        self._ports = ports
        self._changed = changed  # notified when any request of the queue becomes idle
        self._untold = untold  # errors that wait_all() will raise
        self._inputs: list[Array | None] = [None] * len(ports.inputs)
        self._copies: list[Array | None] = [None] * len(ports.inputs)
        self._busy = False
        self._future: Future | None = None
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._userdata: Any = None
        self._started = self._ended = 0.0

    # -- outcome ------------------------------------------------------------------------------------------------------

    @property
    def userdata(self) -> Any:
        """As given to `start_async`; None before."""
        return self._userdata

    @property
    def latency(self) -> float:
        """Milliseconds from the start of the last inference to its end."""
        return (self._ended - self._started) * 1e3

    def wait(self) -> None:
        """Wait for the inference and its callback. Raises what it failed with; `wait_all` does not raise that again."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy)
            error = self._error
            if error is not None and self._untold.get(self) is error:
                del self._untold[self]
        if error is not None:
            raise error

    def wait_for(self, timeout: float) -> bool:
        """Wait up to `timeout` milliseconds; whether an inference has ended, its callback included."""
        with self._changed:
            idle = self._changed.wait_for(lambda: not self._busy, timeout / 1e3)
        return idle and self._ended > 0

    @property
    def results(self) -> Mapping[Any, Array]:
        """Outputs of the last inference by index, name and port; over an `ovengine.Model` the keys are names."""
        if self._ports.compiled_model is None:
            return _Results(self._ports, self._outputs())
        from openvino.utils.data_helpers.wrappers import OVDict

        results: Mapping[Any, Array] = OVDict(dict(zip(self.model_outputs, self._outputs(), strict=True)))
        return results

    # -- tensors ------------------------------------------------------------------------------------------------------

    @property
    def output_tensors(self) -> list[openvino.Tensor]:
        """All outputs of the last inference."""
        return [_tensor(array) for array in self._outputs()]

    @property
    def input_tensors(self) -> list[openvino.Tensor]:
        """All inputs of the last inference."""
        return [_tensor(self._input(index)) for index in range(len(self._inputs))]

    def get_output_tensor(self, index: int | None = None) -> openvino.Tensor:
        """An output by index, which may be left out where there is one."""
        return _tensor(self._outputs()[_only(self._ports.output_index, index, len(self._ports.outputs), "output")])

    def get_input_tensor(self, index: int | None = None) -> openvino.Tensor:
        """An input by index, which may be left out where there is one."""
        return _tensor(self._input(_only(self._ports.input_index, index, len(self._inputs), "input")))

    def get_tensor(self, name: Any) -> openvino.Tensor:
        """An output or input by one of its names, or by its port."""
        try:
            return self.get_output_tensor(self._ports.output_index(name))
        except InputError:
            return self.get_input_tensor(self._ports.input_index(name))

    # -- model --------------------------------------------------------------------------------------------------------

    def get_compiled_model(self) -> openvino.CompiledModel:
        """The one that the queue was given. Raises RuntimeError when it was given an `ovengine.Model`."""
        if self._ports.compiled_model is None:
            raise RuntimeError("this queue runs an ovengine.Model, which is several compiled models; see its plan")
        return self._ports.compiled_model

    @property
    def model_inputs(self) -> list[Any]:
        """Ports of the compiled model; of an `ovengine.Model` its `inputs`."""
        compiled = self._ports.compiled_model
        return list(self._ports.inputs if compiled is None else compiled.inputs)

    @property
    def model_outputs(self) -> list[Any]:
        """Ports of the compiled model; of an `ovengine.Model` its `outputs`."""
        compiled = self._ports.compiled_model
        return list(self._ports.outputs if compiled is None else compiled.outputs)

    # -- the queue's --------------------------------------------------------------------------------------------------

    def _set_inputs(self, inputs: Any, share: bool) -> Array | list[Array]:
        """Take over inputs, those that are not given staying as they were; all of them, as `submit` takes them."""
        for index, value in self._ports.by_index(inputs).items():
            array = as_array(value)
            dtype = self._ports.inputs[index].dtype
            if not (share and array.dtype == dtype):
                copy = self._copies[index]
                if copy is None or copy.shape != array.shape:
                    copy = self._copies[index] = np.empty(array.shape, dtype)
                np.copyto(copy, array, casting="unsafe")  # as OpenVINO does
                array = copy
            self._inputs[index] = array
        arrays = [self._input(index) for index in range(len(self._inputs))]
        return arrays[0] if len(arrays) == 1 else arrays

    def _start(self, userdata: Any) -> None:
        self._userdata = userdata
        self._future = self._result = self._error = None
        self._ended, self._started = 0.0, time.perf_counter()

    def _end(self, future: Future) -> BaseException | None:
        """Take over what became of the inference."""
        self._ended = time.perf_counter()
        self._future = None
        error = future.exception()
        if error is None:
            self._result = future.result()
        return error

    def _input(self, index: int) -> Array:
        array = self._inputs[index]
        return self._ports.zeros(self._ports.inputs[index]) if array is None else array

    def _outputs(self) -> list[Array]:
        if self._result is not None:
            return list(self._result.values())
        if self._busy:
            raise RuntimeError("the infer request is busy; its tensors are there in the callback, and after wait()")
        return [self._ports.zeros(tensor) for tensor in self._ports.outputs]


class _Results(Mapping[Any, Array]):
    """Outputs of an `ovengine.Model`."""

    def __init__(self, ports: Ports, arrays: list[Array]) -> None:
        self._ports = ports
        self._arrays = arrays

    def __getitem__(self, key: Any) -> Array:
        try:
            return self._arrays[self._ports.output_index(key)]
        except InputError as error:
            raise KeyError(str(error)) from None

    def __iter__(self) -> Iterator[str]:
        return iter([tensor.name for tensor in self._ports.outputs])

    def __len__(self) -> int:
        return len(self._arrays)


def _only(find: Any, index: int | None, count: int, kind: str) -> int:
    if index is None and count != 1:
        raise InputError(f"the model has {count} {kind}s; say which one")
    found: int = find(0 if index is None else index)
    return found


def _tensor(array: Array) -> openvino.Tensor:
    """A tensor over the array's memory; over a copy where OpenVINO does not share it."""
    import openvino

    shareable = array.size > 0 and array.flags.c_contiguous and array.flags.writeable
    return openvino.Tensor(array, shared_memory=shareable)
