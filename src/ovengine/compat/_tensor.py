"""One `openvino.Tensor` of one port: how it is made, what fits into it, and how values get in and out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino

from ovengine.errors import InputError, InputTypeError
from ovengine.plan import TensorInfo, is_number

Array = npt.NDArray[Any]

_PACKED = frozenset(["u1", "u2", "u3", "u4", "u6", "i4", "nf4", "f4e2m1"])  # smaller than a byte


def is_static(port: TensorInfo) -> bool:
    """Whether only one shape fits the port."""
    return port.shape is not None and min(port.shape, default=0) >= 0


def is_text(port: TensorInfo) -> bool:
    """Whether the port takes strings."""
    return port.element_type == "string"


def element_type(port: TensorInfo) -> openvino.Type:
    """OpenVINO's type of the port's elements."""
    if not port.element_type:  # a fake device's
        return openvino.Type(port.dtype)
    found: openvino.Type = getattr(openvino.Type, port.element_type)
    return found


def new_tensor(port: TensorInfo, shape: Sequence[int] | None = None) -> openvino.Tensor:
    """Zeros in memory of its own; dimensions that may vary are 0 unless `shape` says otherwise."""
    if shape is None:
        shape = [0] if port.shape is None else [max(0, length) for length in port.shape]
    tensor = openvino.Tensor(element_type(port), list(shape))
    if not is_text(port):
        tensor.data.fill(0)
    return tensor


def check_tensor(tensor: object, port: TensorInfo, kind: str) -> openvino.Tensor:
    """The tensor, if it is one that this port may be bound to. Raises InputError, InputTypeError."""
    if not isinstance(tensor, openvino.Tensor):
        raise InputTypeError(f"{kind} {port.name!r} takes an openvino.Tensor, not {type(tensor).__name__}")
    own, others = (one.get_type_name() for one in (element_type(port), tensor.get_element_type()))
    if own != others:
        raise InputError(f"{kind} {port.name!r} is of {own}, the tensor of {others}")
    shape = tuple(tensor.get_shape())
    # A tensor of no size is resized to its first result.
    if not fits(port, shape) and not (kind == "output" and tensor.size == 0):
        raise shape_error(port, shape, kind)
    return tensor


def fits(port: TensorInfo, shape: Sequence[int]) -> bool:
    """Whether the model takes this shape, by the dimensions that never vary."""
    if port.shape is None:
        return True
    return len(shape) == len(port.shape) and all(
        own in (-1, length) for own, length in zip(port.shape, shape, strict=True)
    )


def shape_error(port: TensorInfo, shape: Sequence[int], kind: str = "input") -> InputError:
    """What the caller is told whose array or tensor does not fit."""
    takes = "any" if port.shape is None else tuple(length if length >= 0 else "?" for length in port.shape)
    return InputError(f"{kind} {port.name!r} has shape {tuple(shape)}; the model takes {takes}".replace("'?'", "?"))


def as_array(value: Any, port: TensorInfo) -> Array:
    """Any value but a tensor as an array, whose elements may be written to the port.

    Raises InputTypeError for what is no array, and for elements that have no place in the port's.
    """
    if isinstance(value, np.ndarray):
        array = value
    else:
        check_type(value)
        # Text as objects: NumPy's own text has no zeros at its end.
        as_text = is_text(port) and isinstance(value, (list, tuple))
        try:
            array = np.array(value, dtype=object) if as_text else np.asarray(value)
        except (ValueError, TypeError) as error:
            raise InputError(f"input {port.name!r} is not an array: {error}") from None
    if is_text(port):
        texts = array.dtype.kind in "US" or all(isinstance(text, (str, bytes)) for text in array.flat)
        if not texts:
            raise InputTypeError(f"input {port.name!r} takes text, not {array.dtype}")
    elif not is_number(port.element_type) and array.dtype != port.dtype:
        # Bits and packed bytes are never cast.
        if array.dtype.itemsize != port.dtype.itemsize or array.dtype.kind not in "iuV":
            raise InputTypeError(
                f"input {port.name!r} takes {port.element_type}, which NumPy does not have: pass its bits as "
                f"{port.dtype}, or an openvino.Tensor, not {array.dtype}"
            )
        array = array.view(port.dtype)
    return array


def check_type(value: object) -> None:
    """Raises InputTypeError for what cannot be the value of an input."""
    types = (list, tuple, str, bytes, int, float, complex, np.generic, openvino.Tensor)
    if not isinstance(value, types) and not hasattr(value, "__array__"):
        raise InputTypeError(
            f"Incompatible inputs of type: {type(value)}; an input takes arrays, an openvino.Tensor, numbers, text, or "
            "lists of them"
        )


def at_shape(array: Array, port: TensorInfo) -> Array:
    """A single number or text at the shape of the port, as OpenVINO takes it; any other array as it is."""
    if array.ndim > 0 or port.shape == () or port.shape is None:
        return array
    shape = [1] * len(port.shape)
    if not fits(port, shape):
        raise shape_error(port, ())
    return array.reshape(shape)


def may_share(array: Array, port: TensorInfo) -> bool:
    """Whether a tensor can be this array's memory: OpenVINO would read past what lies elsewhere."""
    return is_number(port.element_type) and array.dtype == port.dtype and array.flags.carray and array.size > 0


def is_packed(port: TensorInfo) -> bool:
    """Whether NumPy sees packed bytes, which do not tell the shape."""
    return port.element_type in _PACKED


def write(tensor: openvino.Tensor, array: Array, port: TensorInfo) -> None:
    """Cast the array into the tensor, which takes its shape. Raises InputError for what cannot be cast."""
    if not is_packed(port) and tuple(tensor.shape) != array.shape:
        tensor.shape = list(array.shape)
    if is_text(port):
        _write_text(tensor, array)
    else:
        cast_into(tensor.data, array, port)


def cast_into(view: Array, array: Array, port: TensorInfo) -> None:
    """Write an array over one of the same shape, as OpenVINO casts: whatever it costs."""
    if view.shape != array.shape:  # packed bytes
        raise InputError(
            f"input {port.name!r} takes {port.element_type} as {view.shape} packed bytes, or as an openvino.Tensor, "
            f"not {array.shape}"
        )
    try:
        np.copyto(view, array, casting="unsafe")
    except (ValueError, TypeError) as error:
        raise InputError(f"input {port.name!r} takes {port.dtype}: {error}") from None


def _write_text(tensor: openvino.Tensor, array: Array) -> None:
    if array.size == 0:
        return
    if array.dtype.kind == "O":
        encoded = [text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape") for text in array.flat]
        if array.ndim > 0:
            tensor.copy_from(np.array(encoded, dtype=object).reshape(array.shape).tolist())
            return
        array = np.array(encoded[0])
    tensor.copy_from(array)


def read(tensor: openvino.Tensor, port: TensorInfo, *, share: bool = False, decode_strings: bool = True) -> Array:
    """The tensor as an array of its own, or with `share` over its memory; text is always a copy."""
    array: Array
    if is_text(port):
        # The length of no bytes at all is whatever OpenVINO finds in memory.
        array = tensor.bytes_data if tensor.size > 0 and not decode_strings else tensor.str_data
        return array
    array = tensor.data
    return array if share else array.copy()
