"""VariableState: one variable of the state that an infer request keeps from one inference to the next."""

from __future__ import annotations

from collections.abc import Callable

import openvino

from ovengine.compat._tensors import Tensors
from ovengine.errors import InputTypeError


class VariableState:
    """As `openvino.VariableState`. From `InferRequest.query_state`.

    All of it raises RequestBusy, a RuntimeError, while the request runs an inference.
    """

    def __init__(self, name: str, index: int, at_rest: Callable[[], Tensors]) -> None:
        self._name = name
        self._index = index
        self._at_rest = at_rest

    @property
    def name(self) -> str:
        """The id of the variable."""
        return self._name

    @property
    def state(self) -> openvino.Tensor:
        """A copy of its value. What is assigned is copied, too; it raises InputError, a RuntimeError, if it is refused.

        Before the first inference, and after a reset, OpenVINO shows zeros whatever the initial value is.
        """
        return self._at_rest().read_state(self._index)

    @state.setter
    def state(self, value: openvino.Tensor) -> None:
        if not isinstance(value, openvino.Tensor):
            raise InputTypeError(f"state {self._name!r} takes an openvino.Tensor, not {type(value).__name__}")
        self._at_rest().write_state(self._index, value)

    def reset(self) -> None:
        """To the value that the model gives it initially."""
        self._at_rest().reset_state(self._index)

    def __repr__(self) -> str:
        return f"<VariableState: {self._name}>"
