"""The tensors of one infer request: which memory its inputs are read from, and where its outputs go."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import openvino

from ovengine._core import Future
from ovengine.compat import _tensor
from ovengine.compat._ports import Ports
from ovengine.compat._tensor import Array
from ovengine.errors import InputError, InputTypeError
from ovengine.plan import TensorInfo


class Tensors(ABC):
    """What one infer request reads and writes, and how it is run. Nothing is thread-safe; InferRequest sees to that.

    An input is read from the tensor that is bound to it: memory of the request's own, which values are copied to, or
    the caller's (a tensor, or an array with `share_inputs`), which is never written to. An output has a tensor from
    the moment that somebody asks for it, and that tensor gets the result of every inference from then on.
    """

    def __init__(self, ports: Ports) -> None:
        self.ports = ports
        self._inputs: list[openvino.Tensor | None] = [None] * len(ports.inputs)  # None: nothing has been given yet
        self._batches: dict[int, list[openvino.Tensor]] = {}  # instead of a tensor of `_inputs`
        self._own: list[openvino.Tensor | None] = [None] * len(ports.inputs)
        # Own tensors that somebody else may hold, and resize; of all others the data, which takes as long to look up as
        # a small copy.
        self._shown: set[int] = set()
        self._callers: set[int] = set()  # inputs whose tensor is the caller's
        self._views: list[Array | None] = [None] * len(ports.inputs)
        self._outputs: list[openvino.Tensor | None] = [None] * len(ports.outputs)

    # -- inputs -------------------------------------------------------------------------------------------------------

    def input(self, index: int) -> openvino.Tensor:
        """What the next inference reads."""
        if index in self._batches:
            raise InputError(
                f"input {self.ports.inputs[index].name!r} is a batch of tensors: get_tensor shall not be used together "
                "with batched set_tensors/set_input_tensors"
            )
        tensor = self._inputs[index]
        if tensor is None:
            tensor = self._use_own(index)
        if tensor is self._own[index]:
            self._shown.add(index)
            self._views[index] = None
        return tensor

    def set_input(self, index: int, tensor: object) -> None:
        """Read from this tensor from now on. Raises InputError, InputTypeError."""
        self._use(index, _tensor.check_tensor(tensor, self.ports.inputs[index], "input"))
        self._callers.add(index)

    def set_input_batch(self, index: int, tensors: Sequence[object]) -> None:
        """Read from these tensors, which together are a batch. Raises InputError, InputTypeError."""
        port = self.ports.inputs[index]
        batch: list[openvino.Tensor] = []
        for tensor in tensors:
            if not isinstance(tensor, openvino.Tensor):
                raise InputTypeError(f"input {port.name!r} takes openvino.Tensors, not {type(tensor).__name__}")
            batch.append(tensor)
        if len(batch) == 1:
            self.set_input(index, batch[0])
            return
        self._bind_batch(index, batch)
        self._batches[index] = batch
        self._inputs[index] = None

    def write(self, inputs: Any, share: bool) -> None:
        """Take over what `start_async` was given; what is not given stays as it was."""
        for index, value in self.ports.by_index(inputs).items():
            if isinstance(value, openvino.Tensor):
                self.set_input(index, value)
            else:
                self._write(index, value, share)

    def _write(self, index: int, value: Any, share: bool) -> None:
        port = self.ports.inputs[index]
        array = _tensor.as_array(value, port)
        view = self._views[index]
        if view is not None and view.shape == array.shape and not share:
            _tensor.cast_into(view, array, port)
        else:
            array = _tensor.at_shape(array, port)
            if not _tensor.is_packed(port) and not self._takes(port, array.shape):
                raise _tensor.shape_error(port, array.shape)
            if share and _tensor.may_share(array, port):
                self._use(index, openvino.Tensor(array, shared_memory=True))
                return
            own = self._own_tensor(index)
            _tensor.write(own, array, port)
            if index not in self._shown and not _tensor.is_text(port):
                self._views[index] = own.data
        if self._inputs[index] is not self._own[index]:
            self._use_own(index)

    def _use(self, index: int, tensor: openvino.Tensor) -> openvino.Tensor:
        self._bind_input(index, tensor)
        self._batches.pop(index, None)
        self._callers.discard(index)
        self._inputs[index] = tensor
        return tensor

    def _use_own(self, index: int) -> openvino.Tensor:
        return self._use(index, self._own_tensor(index))

    def _own_tensor(self, index: int) -> openvino.Tensor:
        tensor = self._own[index]
        if tensor is None:
            tensor = self._own[index] = self._new_input(self.ports.inputs[index])
        return tensor

    # -- outputs ------------------------------------------------------------------------------------------------------

    def output(self, index: int) -> openvino.Tensor:
        """What the last inference wrote, and the next ones will write to."""
        tensor = self._outputs[index]
        if tensor is None:
            tensor = _tensor.new_tensor(self.ports.outputs[index])
            self._bind_output(index, tensor, keep=True)
            self._outputs[index] = tensor
        return tensor

    def set_output(self, index: int, tensor: object) -> None:
        """Write to this tensor from now on. Raises InputError, InputTypeError."""
        checked = _tensor.check_tensor(tensor, self.ports.outputs[index], "output")
        self._bind_output(index, checked, keep=False)
        self._outputs[index] = checked

    # -- what there is to run it --------------------------------------------------------------------------------------

    def _takes(self, port: TensorInfo, shape: Sequence[int]) -> bool:
        """Whether an input may have this shape."""
        return _tensor.fits(port, shape)

    @abstractmethod
    def _new_input(self, port: TensorInfo) -> openvino.Tensor:
        """Memory for one input."""

    @abstractmethod
    def _bind_input(self, index: int, tensor: openvino.Tensor) -> None:
        """Read from this tensor."""

    @abstractmethod
    def _bind_batch(self, index: int, tensors: Sequence[openvino.Tensor]) -> None:
        """Read from these tensors. Raises InputError when they are no batch of the input."""

    @abstractmethod
    def _bind_output(self, index: int, tensor: openvino.Tensor, *, keep: bool) -> None:
        """Write to this tensor; with `keep` what the last inference found now."""

    @abstractmethod
    def results(self, *, share: bool = False, decode_strings: bool = True) -> Mapping[Any, Array]:
        """Outputs of the last inference by index, name and port; `share`: over the memory of tensors."""

    @abstractmethod
    def submit(self) -> Future:
        """Start an inference."""

    def infer(self, *, brief: bool) -> Future:
        """The same for a caller who will wait; `brief`: it takes so little time that it may be run in place."""
        return self.submit()

    def ended(self, future: Future) -> BaseException | None:
        """Take over what became of the inference; what it failed with."""
        try:
            return future.exception()
        except Exception as cancelled:
            return cancelled

    def cancel(self, future: Future) -> None:
        """Give up an inference that is under way, if possible."""
        future.cancel()

    # -- state and figures --------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def states(self) -> Sequence[str]:
        """The variables of the state that lasts from one inference to the next."""

    @abstractmethod
    def read_state(self, index: int) -> openvino.Tensor:
        """A copy of one variable."""

    @abstractmethod
    def write_state(self, index: int, tensor: openvino.Tensor) -> None:
        """Set one variable. Raises InputError, InputTypeError."""

    @abstractmethod
    def reset_state(self, index: int | None = None) -> None:
        """One variable or all of them to their initial values."""

    @abstractmethod
    def profile(self) -> list[openvino.ProfilingInfo]:
        """How long the nodes of the model took in the last inference."""


class Results(Mapping[Any, Array]):
    """Outputs of an `ovengine.Model`, with the keys and methods of OpenVINO's `OVDict`."""

    def __init__(self, ports: Ports, arrays: Sequence[Array]) -> None:
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

    def names(self) -> tuple[set[str], ...]:
        """All names of each output."""
        return tuple(set(tensor.names) for tensor in self._ports.outputs)

    def to_dict(self) -> dict[Any, Array]:
        """Arrays by name."""
        return dict(self)

    def to_tuple(self) -> tuple[Array, ...]:
        """Arrays in the order of the outputs."""
        return tuple(self._arrays)
