"""Inputs and outputs by the keys that callers of OpenVINO use: indices, names and ports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ovengine.compat._tensor import check_type
from ovengine.errors import InputError, InputTypeError
from ovengine.plan import TensorInfo

if TYPE_CHECKING:
    import openvino


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
        # OpenVINO makes new objects for each look at them.
        self.input_keys: tuple[Any, ...] = self.inputs if compiled_model is None else tuple(compiled_model.inputs)
        self.output_keys: tuple[Any, ...] = self.outputs if compiled_model is None else tuple(compiled_model.outputs)

    def by_index(self, inputs: Any) -> dict[int, Any]:
        """What `start_async` takes (a mapping, a sequence, one value, or None for what there was) by input index."""
        if inputs is None:
            return {}
        if isinstance(inputs, Mapping):
            if type(inputs).__name__ == "OVDict":  # the results of another inference, which OpenVINO takes in order
                return self._in_order(list(inputs.values()))
            return {self.input_index(key): value for key, value in inputs.items()}
        # A list of numbers or of text is one value for a model with one input, as in OpenVINO.
        if isinstance(inputs, tuple) or (isinstance(inputs, list) and not (self._has_one() and _is_simple(inputs))):
            return self._in_order(inputs)
        check_type(inputs)
        if not self._has_one():
            raise InputError(f"one input is given, the model has {len(self.inputs)}; give them by name")
        return {0: inputs}

    def input_index(self, key: object) -> int:
        """Of an input by index, name or port. Raises InputError, or InputTypeError for what is none of them."""
        return self._checked_index(key, self.inputs, self.input_keys, "input")

    def output_index(self, key: object) -> int:
        """Of an output by index, name or port. Raises InputError, or InputTypeError for what is none of them."""
        return self._checked_index(key, self.outputs, self.output_keys, "output")

    def tensor_index(self, key: object) -> tuple[bool, int]:
        """Of an input or output by name or port: whether it is an output, and its index. Raises as `input_index`."""
        if isinstance(key, (int, np.integer)) or not _is_key(key):
            raise InputTypeError(f"a tensor is named by one of its names or by a port, not by {key!r}")
        if (index := _find(key, self.inputs, self.input_keys)) is not None:
            return False, index
        if (index := _find(key, self.outputs, self.output_keys)) is not None:
            return True, index
        names = ", ".join(repr(name) for tensor in (*self.inputs, *self.outputs) for name in tensor.names)
        raise InputError(f"Port for tensor name {key} was not found; the model has {names}")

    def only(self, is_output: bool) -> int:
        """The index of the only input or output. Raises InputError when there are several."""
        tensors, kind = (self.outputs, "output") if is_output else (self.inputs, "input")
        if len(tensors) != 1:
            raise InputError(f"the model has {len(tensors)} {kind}s; say which one")
        return 0

    def _has_one(self) -> bool:
        return len(self.inputs) == 1

    def _in_order(self, values: Sequence[Any]) -> dict[int, Any]:
        if len(values) > len(self.inputs):
            raise InputError(f"{len(values)} inputs are given, the model has {len(self.inputs)}")
        return dict(enumerate(values))

    def _checked_index(self, key: object, tensors: Sequence[TensorInfo], keys: Sequence[Any], kind: str) -> int:
        index = _find(key, tensors, keys)
        if index is not None:
            return index
        if not _is_key(key) or (isinstance(key, (int, np.integer)) and key < 0):
            raise InputTypeError(f"an {kind} is named by its index from 0, one of its names, or a port, not by {key!r}")
        known = ", ".join(repr(tensor.name) for tensor in tensors)
        raise InputError(f"the model has no {kind} {key!r}; it has {known}, or 0 to {len(tensors) - 1}")


def _find(key: object, tensors: Sequence[TensorInfo], keys: Sequence[Any]) -> int | None:
    if isinstance(key, (int, np.integer)):
        return int(key) if 0 <= key < len(tensors) else None
    if isinstance(key, str):
        return next((index for index, tensor in enumerate(tensors) if key in tensor.names), None)
    if not _is_key(key):
        return None
    # A port of the model itself; otherwise one of the model that it was made from, which has the same names.
    if (same := next((index for index, own in enumerate(keys) if own is key or own == key), None)) is not None:
        return same
    names = set(key.names if isinstance(key, TensorInfo) else key.get_names())  # type: ignore[attr-defined]
    return next((index for index, tensor in enumerate(tensors) if not names.isdisjoint(tensor.names)), None)


def _is_key(key: object) -> bool:
    """Whether this is an index, a name or a port, of whatever model."""
    return isinstance(key, (int, np.integer, str, TensorInfo)) or hasattr(key, "get_names")


def _is_simple(values: list[Any]) -> bool:
    """Whether this is a list of numbers or text, or of lists of them."""
    simple = (int, float, str, bytes)
    return all(_is_simple(value) if isinstance(value, list) else isinstance(value, simple) for value in values)
