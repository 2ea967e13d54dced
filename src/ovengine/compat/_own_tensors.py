"""Infer requests over an `openvino.CompiledModel`: each has an infer request of OpenVINO's, run by ovengine's lanes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import openvino
from openvino.utils.data_helpers.wrappers import OVDict

from ovengine._core import Compiled, Future, OwnRequest
from ovengine.compat import _tensor
from ovengine.compat._ports import Ports
from ovengine.compat._tensor import Array
from ovengine.compat._tensors import Tensors
from ovengine.model import Model
from ovengine.plan import TensorInfo


class OwnTensors(Tensors):
    """The tensors are bound to the infer request, so nothing is copied but what `start_async` is given."""

    def __init__(self, ports: Ports, model: Model, compiled: Compiled) -> None:
        super().__init__(ports)
        self._native = OwnRequest(model, compiled)
        self._may_lack_inputs = True

    def _new_input(self, port: TensorInfo) -> openvino.Tensor:
        return _tensor.new_tensor(port)

    def _bind_input(self, index: int, tensor: openvino.Tensor) -> None:
        self._native.bind_input(index, tensor)

    def _bind_batch(self, index: int, tensors: Sequence[openvino.Tensor]) -> None:
        self._native.bind_inputs(index, tensors)

    def _bind_output(self, index: int, tensor: openvino.Tensor, *, keep: bool) -> None:
        self._native.bind_output(index, tensor, keep=keep)

    def results(self, *, share: bool = False, decode_strings: bool = True) -> Mapping[Any, Array]:
        arrays = {
            key: _tensor.read(self.output(index), port, share=share, decode_strings=decode_strings)
            for index, (key, port) in enumerate(zip(self.ports.output_keys, self.ports.outputs, strict=True))
        }
        found: Mapping[Any, Array] = OVDict(arrays)
        return found

    def submit(self) -> Future:
        self._complete_inputs()
        return self._native.submit()

    def infer(self, *, brief: bool) -> Future:
        self._complete_inputs()
        return self._native.infer() if brief else self._native.submit()

    def _complete_inputs(self) -> None:
        """What was never given is zeros, and not what OpenVINO finds in new memory."""
        if self._may_lack_inputs:
            for index, port in enumerate(self.ports.inputs):
                if self._inputs[index] is None and index not in self._batches and _tensor.is_static(port):
                    self._use_own(index)
            self._may_lack_inputs = False

    def cancel(self, future: Future) -> None:
        if not future.cancel() and not future.done():
            self._native.interrupt()

    @property
    def states(self) -> Sequence[str]:
        return [port.name for port in self._native.states]

    def read_state(self, index: int) -> openvino.Tensor:
        port = self._native.states[index]
        tensor = openvino.Tensor(getattr(openvino.Type, port.element_type), [max(0, n) for n in port.shape or ()])
        self._native.read_state(index, tensor)
        return tensor

    def write_state(self, index: int, tensor: openvino.Tensor) -> None:
        self._native.write_state(index, tensor)

    def reset_state(self, index: int | None = None) -> None:
        self._native.reset_state(index)

    def profile(self) -> list[openvino.ProfilingInfo]:
        return [_profiling_info(*node) for node in self._native.profile()]


def _profiling_info(
    status: int, real_us: int, cpu_us: int, node_name: str, exec_type: str, node_type: str
) -> openvino.ProfilingInfo:
    info = openvino.ProfilingInfo()
    info.status = openvino.ProfilingInfo.Status(status)
    info.real_time = timedelta(microseconds=real_us)
    info.cpu_time = timedelta(microseconds=cpu_us)
    info.node_name = node_name
    info.exec_type = exec_type
    info.node_type = node_type
    return info
