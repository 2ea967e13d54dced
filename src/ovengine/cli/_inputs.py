"""Files to requests: pictures, `.npy`, `.npz` and raw `.bin` files."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ovengine.cli._files import ARRAYS, Source
from ovengine.cli._pictures import ImageOptions, image_shape, layout_of, picture_input, resized_shape
from ovengine.errors import InputError
from ovengine.plan import is_number

if TYPE_CHECKING:
    from ovengine.plan import Plan, TensorInfo

Array = npt.NDArray[Any]

# Checks of the batch axis that say nothing against rows that stand for themselves. (`BatchAxis.failed`)
_HARMLESS = (None, "input shapes", "state")


@dataclass(frozen=True)
class Request:
    """One request: where it came from (and the row of that file, if it held several), and its inputs by name."""

    source: str
    row: int | None
    inputs: Mapping[str, Array]

    @property
    def name(self) -> str:
        """The source, with the row."""
        return self.source if self.row is None else f"{self.source}:{self.row}"


class Reader:
    """Reads files as requests for one model. Thread-safe.

    A file of n rows is n requests. Where the plan has a batch axis, the rows are along it. Elsewhere they are along the
    first dimension, if the model has a 1 there, or anything, or the arrays have one dimension more than the model.
    """

    def __init__(self, plan: Plan, images: ImageOptions) -> None:
        self._inputs = plan.inputs
        self._by_name = {name: tensor for tensor in plan.inputs for name in tensor.names}
        self._by_row = plan.mode == "rows"
        self._images = images
        axes = plan.axis.inputs if plan.axis is not None else ()
        # Not where trial runs have shown that what is along the first dimension belongs together.
        apart = plan.axis is None or plan.axis.failed in _HARMLESS
        self._dynamic_rows = {
            tensor.name for index, tensor in enumerate(plan.inputs) if apart and (not axes or axes[index] == 0)
        }

    def count(self, source: Source) -> int | None:
        """Requests that it will give; None where that takes reading all of it."""
        if any(path.suffix.lower() == ".npz" for _, path in source.paths):
            return None
        if source.path.suffix.lower() not in ARRAYS:
            return 1
        try:
            tensor = self._input(source.paths[0][0], source.path)
            rows = self._rows({tensor.name: self._load(source.path, tensor)}, source)
            return 1 if rows is None else rows
        except InputError:
            return 1  # reported when it is read for its values

    def read(self, source: Source) -> Iterable[Request]:
        """Requests of a source: one for each row.

        Raises:
            InputError: a file cannot be read, or does not fit the model's inputs.
        """
        arrays: dict[str, Array] = {}
        for name, path in source.paths:
            if path.suffix.lower() == ".npz" and name is None:
                arrays |= _load_npz(path)
            else:
                tensor = self._input(name, path)
                arrays[tensor.name] = self._load(path, tensor)
        unknown = [name for name in arrays if name not in self._by_name]
        if unknown:
            raise InputError(f"{source}: the model has no input {unknown[0]!r}, but {', '.join(self._by_name)}")
        return self._requests(source, arrays)

    def advice(self, source: Source) -> str | None:
        """Of a picture for a model that takes any size: how to have it resized. None where there is nothing to say.

        Raises:
            InputError: the model takes no pictures.
        """
        name, path = source.paths[0]
        if path.suffix.lower() in ARRAYS:
            return None
        tensor = self._input(name, path)
        shape = image_shape(tensor, layout_of(tensor, self._images.layouts))
        if shape.has_size:
            return None
        prefix = tensor.name if len(self._inputs) > 1 else ""
        return (
            f"input {tensor} has no fixed height and width, so pictures keep their sizes; "
            f"to resize and batch them give -shape '{prefix}{resized_shape(shape, path)}'"
        )

    def _input(self, name: str | None, path: Path) -> TensorInfo:
        """The one of that name, or the only one."""
        if name in self._by_name:
            return self._by_name[name]
        names = ", ".join(tensor.name for tensor in self._inputs)
        if name is not None:
            raise InputError(f"{path}: the model has no input {name!r}, but {names}")
        if len(self._inputs) > 1:
            raise InputError(
                f"{path}: the model has {len(self._inputs)} inputs ({names}); "
                "name one for each file (NAME:FILE,NAME:FILE), or give an .npz with these names"
            )
        return self._inputs[0]

    def _load(self, path: Path, tensor: TensorInfo) -> Array:
        suffix = path.suffix.lower()
        if suffix == ".npy":
            return _load_npy(path)
        if suffix == ".npz":
            raise InputError(f"{path}: the arrays of an .npz have names of their own; give it without {tensor.name!r}")
        if suffix == ".bin":
            return self._load_raw(path, tensor)
        pixels = picture_input(path, tensor, self._images)
        # A model that does not run rows takes its static shape whole, batch dimension of 1 included.
        whole = not self._by_row and tensor.shape is not None and len(tensor.shape) == 4
        return pixels[np.newaxis] if whole else pixels

    def _load_raw(self, path: Path, tensor: TensorInfo) -> Array:
        """The values as they lie in memory, of one row or several."""
        axis = _row_axis(tensor) if self._by_row else None
        row = [length for place, length in enumerate(tensor.shape or ()) if place != axis]
        if tensor.shape is None or min(row, default=1) < 0 or not _has_whole_bytes(tensor):
            raise InputError(f"{path}: input {tensor} has no fixed number of bytes; give -shape, or an .npy file")
        size, row_bytes = _size(path), math.prod(row) * tensor.dtype.itemsize
        rows = size // row_bytes if row_bytes else 0
        if not rows or size % row_bytes:
            raise InputError(f"{path}: {size} bytes are no rows of input {tensor}, which have {row_bytes} bytes each")
        values = np.memmap(path, tensor.dtype, "r").reshape(rows, *row)
        if axis is not None:
            return np.moveaxis(values, 0, axis)
        return values if rows > 1 else values[0]

    def _requests(self, source: Source, arrays: Mapping[str, Array]) -> Iterator[Request]:
        rows = self._rows(arrays, source)
        if rows is None:
            return iter([Request(str(source), None, arrays)])
        return (
            Request(str(source), row, {name: self._row(name, array, row) for name, array in arrays.items()})
            for row in range(rows)
        )

    def _row(self, name: str, array: Array, row: int) -> Array:
        tensor = self._by_name[name]
        if self._by_row:
            axis = _row_axis(tensor)
            return array if axis is None else array.take(row, axis)
        return array[row] if array.ndim > self._rank(tensor) else array[row : row + 1]

    def _rows(self, arrays: Mapping[str, Array], source: Source) -> int | None:
        """How many requests they are, or None where they are one as they stand. Raises InputError."""
        rows_of = self._rows_along_axis if self._by_row else self._rows_in_front
        found = {name: rows_of(array, self._by_name[name]) for name, array in arrays.items()}
        counts = {count for count in found.values() if count is not None}
        if not counts:
            return None
        mixed = any(
            count is None and not (self._by_row and _row_axis(self._by_name[name]) is None)
            for name, count in found.items()
        )
        if mixed or len(counts) > 1:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
            raise InputError(f"{source}: all inputs need the same number of rows: {shapes}")
        return counts.pop()

    def _rows_along_axis(self, array: Array, tensor: TensorInfo) -> int | None:
        axis = _row_axis(tensor)
        return None if axis is None or array.ndim != self._rank(tensor) else int(array.shape[axis])

    def _rows_in_front(self, array: Array, tensor: TensorInfo) -> int | None:
        rank = self._rank(tensor)
        if array.ndim == rank + 1:
            return len(array)
        if not rank or array.ndim != rank or tensor.shape is None:
            return None
        may_be_rows = tensor.shape[0] == 1 or (tensor.shape[0] < 0 and tensor.name in self._dynamic_rows)
        return len(array) if may_be_rows and len(array) != 1 else None

    def _rank(self, tensor: TensorInfo) -> int:
        return len(tensor.shape or ())


def _row_axis(tensor: TensorInfo) -> int | None:
    """Where an array for this input has its rows, where the model runs rows; None when it has none."""
    shape = tensor.shape or ()
    return shape.index(-1) if -1 in shape else None


def _has_whole_bytes(tensor: TensorInfo) -> bool:
    """Whether the array of an input holds its values one by one: not packed, and no text."""
    return is_number(tensor.element_type) or tensor.element_type.startswith(("bf16", "f8"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from error


def _load_npy(path: Path) -> Array:
    """Not read before it is used."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("it holds several arrays, as an .npz does")
        return array
    except (OSError, ValueError, EOFError) as error:
        raise _unreadable(path, error) from error


def _load_npz(path: Path) -> dict[str, Array]:
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise ValueError("it holds one array, as an .npy does")
        with archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = getattr(error, "strerror", None) or str(error)
    if isinstance(error, EOFError):
        reason = "the file is empty"
    elif "pickled" in reason:  # what NumPy takes all for that it does not know
        reason = "it is in another format"
    elif "mmap length" in reason or "EOF" in reason or "zip file" in reason:
        reason = "the file is truncated"
    return InputError(f"{path}: not a readable NumPy file ({reason})")
