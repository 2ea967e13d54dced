"""Files to requests: images, `.npy`, `.npz` and directories of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ovengine.cli._options import missing_extra
from ovengine.errors import InputError

if TYPE_CHECKING:
    from ovengine.plan import Mode, TensorInfo

Array = npt.NDArray[Any]
Layout = Literal["NCHW", "NHWC"]

IMAGES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
ARRAYS = frozenset({".npy", ".npz"})


@dataclass(frozen=True)
class Request:
    """One request: where it came from (and the row of that file, if it held several), and its inputs by name."""

    source: str
    row: int | None
    inputs: Mapping[str, Array]


def find_files(paths: Iterable[Path]) -> list[Path]:
    """Return the files, directories replaced by the images and arrays in them in order of name.

    Raises:
        InputError: a path does not exist, is of no known kind, or a directory holds nothing to read.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(
                file for file in path.iterdir() if file.suffix.lower() in IMAGES | ARRAYS and file.is_file()
            )
            if not inside:
                raise InputError(f"no images, .npy or .npz files in directory {path}")
            files += inside
        elif not path.exists():
            raise InputError(f"no such input: {path}")
        elif path.suffix.lower() not in IMAGES | ARRAYS:
            raise InputError(f"{path} is no input: images ({_suffixes(IMAGES)}), .npy, .npz or a directory of those")
        else:
            files.append(path)
    return files


def _suffixes(suffixes: Iterable[str]) -> str:
    return ", ".join(sorted(suffixes))


@dataclass(frozen=True)
class ImageOptions:
    """How a picture becomes an input: `(x - mean) / scale` per channel, x being 0..255 in RGB order.

    layout: None takes it from the input's shape. bgr: the model wants its channels in the other order.
    """

    layout: Layout | None = None
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    bgr: bool = False


class Reader:
    """Reads files as requests for one model. Thread-safe."""

    def __init__(self, inputs: Sequence[TensorInfo], mode: Mode, images: ImageOptions) -> None:
        self._inputs = inputs
        self._by_row = mode == "rows"
        self._images = images

    def count(self, path: Path) -> int | None:
        """Requests that the file will give; None where that takes reading all of it."""
        if path.suffix.lower() == ".npz" and self._by_row:
            return None
        if path.suffix.lower() == ".npy" and self._by_row:
            try:
                array = _load_numpy(path)
            except InputError:
                return 1  # reported when it is read for its values
            tensor = self._inputs[0]
            return array.shape[_row_axis(tensor) or 0] if array.ndim == self._rank(tensor) else 1
        return 1

    def read(self, path: Path) -> Iterable[Request]:
        """Requests of a file: one per row where the model runs rows, one per file otherwise.

        Raises:
            InputError: the file cannot be read, or does not fit the model's inputs.
        """
        suffix = path.suffix.lower()
        if suffix == ".npy":
            return self._requests(path, {self._only_input(path).name: _load_numpy(path)})
        if suffix == ".npz":
            return self._requests(path, _load_numpy(path))
        return [Request(str(path), None, {self._only_input(path).name: self._read_image(path)})]

    def _only_input(self, path: Path) -> TensorInfo:
        if len(self._inputs) > 1:
            names = ", ".join(tensor.name for tensor in self._inputs)
            raise InputError(
                f"{path}: the model has {len(self._inputs)} inputs ({names}); give an .npz with these names"
            )
        return self._inputs[0]

    def _rank(self, tensor: TensorInfo) -> int | None:
        return None if tensor.shape is None else len(tensor.shape)

    def _requests(self, path: Path, arrays: Mapping[str, Array]) -> Iterator[Request]:
        known = {name: tensor for tensor in self._inputs for name in tensor.names}
        for name in arrays:
            if name not in known:
                raise InputError(f"{path}: the model has no input {name!r}, but {', '.join(known)}")
        axes = {name: axis for name in arrays if (axis := _row_axis(known[name])) is not None}
        full = {name for name in axes if arrays[name].ndim == self._rank(known[name])}
        if not self._by_row or not full:
            return iter([Request(str(path), None, arrays)])
        rows = {arrays[name].shape[axes[name]] for name in full}
        if len(full) < len(axes) or len(rows) > 1:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
            raise InputError(f"{path}: all inputs need the same number of rows: {shapes}")
        return (
            Request(str(path), row, {n: a.take(row, axes[n]) if n in axes else a for n, a in arrays.items()})
            for row in range(rows.pop())
        )

    def _read_image(self, path: Path) -> Array:
        try:
            from PIL import Image
        except ImportError:
            raise missing_extra("Pillow", "images", f"reading {path}") from None
        tensor = self._inputs[0]
        layout, channels, height, width = image_shape(tensor, self._images.layout)
        try:
            with Image.open(path) as opened:
                picture = opened.convert("L" if channels == 1 else "RGB")
                if height > 0 and width > 0:
                    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
                pixels = np.asarray(picture)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise InputError(f"{path}: not a readable image ({error})") from error
        pixels = pixels.reshape(*pixels.shape[:2], channels)
        return self._normalise(pixels, tensor, layout)

    def _normalise(self, pixels: Array, tensor: TensorInfo, layout: Layout) -> Array:
        options = self._images
        if options.bgr:
            pixels = pixels[..., ::-1]
        if options.mean or options.scale:
            pixels = pixels.astype(np.float32)
            if options.mean:
                pixels -= np.asarray(options.mean, np.float32)
            if options.scale:
                pixels /= np.asarray(options.scale, np.float32)
        if np.issubdtype(tensor.dtype, np.floating):
            pixels = pixels.astype(tensor.dtype, copy=False)
        if layout == "NCHW":
            pixels = pixels.transpose(2, 0, 1)
        # A model that does not run rows takes its static shape whole, batch dimension of 1 included.
        whole = not self._by_row and tensor.shape is not None and len(tensor.shape) == 4
        return pixels[np.newaxis] if whole else pixels


def _row_axis(tensor: TensorInfo) -> int | None:
    """Where an array for this input has its rows, where the model runs rows; None when it has none."""
    shape = tensor.shape or ()
    return shape.index(-1) if -1 in shape else None


def image_shape(tensor: TensorInfo, layout: Layout | None) -> tuple[Layout, int, int, int]:
    """Layout, channels, height and width that an input of an image model has; -1 where dynamic.

    Raises:
        InputError: the input has no shape of an image, or its layout cannot be told from it.
    """
    shape = tensor.shape or ()
    if len(shape) not in (3, 4):
        raise InputError(f"input {tensor} takes no images: it has {len(shape)} dimensions, not N,C,H,W or N,H,W,C")
    first, *middle, last = shape[-3:]
    if layout is None:
        fits = {"NCHW": first in (1, 3), "NHWC": last in (1, 3)}
        if fits["NCHW"] == fits["NHWC"]:
            raise InputError(f"cannot tell the layout of input {tensor}; give --layout NCHW or NHWC")
        layout = "NCHW" if fits["NCHW"] else "NHWC"
    if layout == "NCHW":
        return layout, first, middle[0], last
    return layout, last, first, middle[0]


def _load_numpy(path: Path) -> Any:
    """An array of a `.npy`, not read before it is used, or the arrays of a `.npz` by name."""
    try:
        if path.suffix.lower() == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: not a readable NumPy file ({error})") from error
