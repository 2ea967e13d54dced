"""Inputs and outputs as callers of OpenVINO name and give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ovengine.errors import InputError
from ovengine.plan import TensorInfo

if TYPE_CHECKING:
    import openvino

Array = npt.NDArray[Any]


class Ports:
    """The inputs and outputs of one model; `compiled_model` is the one whose ports are keys, if there is one."""

    def __init__(
        self,
        inputs: Sequence[TensorInfo],
        outputs: Sequence[TensorInfo],
        compiled_model: openvino.CompiledModel | None,
    ) -> None:
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.compiled_model = compiled_model

    def by_index(self, inputs: Any) -> dict[int, Any]:
        """What `start_async` takes (a mapping, a sequence, one value, or None for what there was) by input index."""
        if inputs is None:
            return {}
        if isinstance(inputs, Mapping):
            if _is_results(inputs):
                return dict(enumerate(inputs.values()))
            return {self.input_index(key): value for key, value in inputs.items()}
        # A list of numbers is one value for a model with one input, as in OpenVINO.
        if isinstance(inputs, tuple) or (isinstance(inputs, list) and not (self._has_one() and _is_simple(inputs))):
            if len(inputs) > len(self.inputs):
                raise InputError(f"{len(inputs)} inputs are given, the model has {len(self.inputs)}")
            return dict(enumerate(inputs))
        if not self._has_one():
            raise InputError(f"one input is given, the model has {len(self.inputs)}; give them by name")
        return {0: inputs}

    def input_index(self, key: object) -> int:
        """Of an input by index, name or port. Raises InputError."""
        return self._index(key, self.inputs, "input")

    def output_index(self, key: object) -> int:
        """Of an output by index, name or port. Raises InputError."""
        return self._index(key, self.outputs, "output")

    def zeros(self, tensor: TensorInfo) -> Array:
        """What a tensor is before anybody has written it; dimensions that may vary are 0."""
        return np.zeros([max(0, length) for length in tensor.shape or ()], tensor.dtype)

    def _has_one(self) -> bool:
        return len(self.inputs) == 1

    def _index(self, key: object, tensors: Sequence[TensorInfo], kind: str) -> int:
        if isinstance(key, (int, np.integer)) and 0 <= key < len(tensors):
            return int(key)
        if isinstance(key, str):
            names = {key}
        elif hasattr(key, "get_names"):  # a port, of the compiled model or of the model that it was made from
            ports = () if self.compiled_model is None else getattr(self.compiled_model, f"{kind}s")
            for index, port in enumerate(ports):
                if key == port:
                    return index
            names = set(key.get_names())
        else:
            names = set()
        for index, tensor in enumerate(tensors):
            if not names.isdisjoint(tensor.names):
                return index
        known = ", ".join(repr(tensor.name) for tensor in tensors)
        raise InputError(f"the model has no {kind} {key!r}; it has {known}, or 0 to {len(tensors) - 1}")


def as_array(value: Any) -> Array:
    """The data of an `openvino.Tensor`, or whatever NumPy makes of the value; no copy where there need be none."""
    if type(value).__module__.startswith("openvino") and hasattr(value, "get_element_type"):
        value = value.data
    return np.asarray(value)


def _is_simple(values: list[Any]) -> bool:
    """Whether this is a list of numbers, or of lists of numbers."""
    return all(_is_simple(value) if isinstance(value, list) else isinstance(value, (int, float)) for value in values)


def _is_results(inputs: Mapping[Any, Any]) -> bool:
    """Whether these are the results of another inference, which OpenVINO takes in their order."""
    return type(inputs).__name__ == "OVDict"
