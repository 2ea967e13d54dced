"""Pictures as inputs: decoded to 8 bits a channel as OpenCV's `imread` does it, resized, and laid out for the model."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ovengine.cli._options import missing_extra
from ovengine.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

    from ovengine.plan import TensorInfo

Array = npt.NDArray[Any]
Layout = Literal["NCHW", "NHWC"]

# Files of these kinds are taken from a folder; Pillow goes by what is in them.
SUFFIXES = frozenset((".avif", ".bmp", ".dib", ".gif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png"))
SUFFIXES |= {".pnm", ".ppm", ".ras", ".tif", ".tiff", ".webp"}
CHANNELS = (1, 3)


@dataclass(frozen=True)
class ImageOptions:
    """How a picture becomes an input: `(x - mean) / scale` per channel, x being 0..255 in RGB order.

    layouts: by the name of the input, '' for all; what is not there is taken from the input's shape.
    bgr: the model wants its channels in the other order.
    """

    layouts: Mapping[str, str] = field(default_factory=dict)
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    bgr: bool = False


def add_image_options(parser: argparse.ArgumentParser) -> None:
    """Add what `image_options` reads."""
    images = parser.add_argument_group(
        "pictures", "Resized to the model's height and width; RGB, 0..255, unless changed here."
    )
    images.add_argument(
        "-imean", "--mean", metavar="R,G,B", type=_numbers, default=(), help="subtracted from each channel"
    )
    images.add_argument(
        "-iscale", "--scale", metavar="R,G,B", type=_scales, default=(), help="divides each channel, after the mean"
    )
    images.add_argument("--bgr", action="store_true", help="the model wants BGR")


def image_options(args: argparse.Namespace) -> ImageOptions:
    """As given on the command line."""
    return ImageOptions(args.layout, args.mean, args.scale, args.bgr)


def layout_of(tensor: TensorInfo, layouts: Mapping[str, str]) -> Layout | None:
    """The one that is given for an input, if any. Raises InputError where it is not that of a picture."""
    given = next((layouts[name] for name in (*tensor.names, "") if name in layouts), None)
    if given is None:
        return None
    picture = "".join(letter for letter in given if letter in "CHW")
    if picture not in ("CHW", "HWC"):
        raise InputError(f"input {tensor} takes no pictures: its layout is {given}, not NCHW or NHWC")
    return "NCHW" if picture == "CHW" else "NHWC"


def _numbers(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.strip("[]").split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in CHANNELS:
        raise argparse.ArgumentTypeError(f"{text!r}: give one number, or three separated by commas")
    return numbers


def _scales(text: str) -> tuple[float, ...]:
    numbers = _numbers(text)
    if 0 in numbers:
        raise argparse.ArgumentTypeError(f"{text!r}: cannot divide by 0")
    return numbers


@dataclass(frozen=True)
class ImageShape:
    """Layout, channels, height and width of an input that takes pictures; -1 where dynamic."""

    layout: Layout
    channels: int
    height: int
    width: int

    @property
    def has_size(self) -> bool:
        """Whether pictures are resized for it."""
        return self.height > 0 and self.width > 0


def image_shape(tensor: TensorInfo, layout: Layout | None) -> ImageShape:
    """The dimensions of an input as those of a picture.

    Raises:
        InputError: the input has no shape of a picture, or its layout cannot be told from it.
    """
    shape = tensor.shape or ()
    if len(shape) not in (3, 4):
        raise InputError(f"input {tensor} takes no pictures: it has {len(shape)} dimensions, not N,C,H,W or N,H,W,C")
    first, *middle, last = shape[-3:]
    if layout is None:
        fits = {"NCHW": first in CHANNELS, "NHWC": last in CHANNELS}
        if fits["NCHW"] == fits["NHWC"]:
            raise InputError(f"cannot tell the layout of input {tensor}; give -layout NCHW or NHWC")
        layout = "NCHW" if fits["NCHW"] else "NHWC"
    found = ImageShape(layout, *((first, middle[0], last) if layout == "NCHW" else (last, first, middle[0])))
    if found.channels > 0 and found.channels not in CHANNELS:
        raise InputError(f"input {tensor} takes no pictures: it has {found.channels} channels, not 1 or 3")
    return found


def resized_shape(shape: ImageShape, path: Path) -> str:
    """For an input that takes pictures of any size, the shape of those of the size of this one."""
    try:
        height, width = read_picture(path, 3, None).shape[:2]
    except InputError:  # reported when its turn comes
        height, width = 224, 224
    channels = "?" if shape.channels < 0 else str(shape.channels)
    dimensions = (channels, height, width) if shape.layout == "NCHW" else (height, width, channels)
    return f"[?,{','.join(map(str, dimensions))}]"


def picture_input(path: Path, tensor: TensorInfo, options: ImageOptions) -> Array:
    """The input of one picture, without a batch dimension.

    Raises:
        InputError: it cannot be read, or the input takes no pictures.
    """
    shape = image_shape(tensor, layout_of(tensor, options.layouts))
    pixels = read_picture(path, shape.channels, (shape.width, shape.height) if shape.has_size else None)
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
    return pixels.transpose(2, 0, 1) if shape.layout == "NCHW" else pixels


def read_picture(path: Path, channels: int, size: tuple[int, int] | None) -> Array:
    """Height x width x channels, uint8; gray with 1 channel, RGB otherwise. Upright, as the file's EXIF data says.

    Alpha is dropped, and of 16 bits the upper 8 count. Of several pictures in a file the first is read.

    Args:
        path: of any format that Pillow reads.
        channels: 1 or 3; -1 counts as 3.
        size: width and height to resize to; None keeps its own.

    Raises:
        InputError: it cannot be read, or has 32 bits a channel.
        ConfigError: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError:
        raise missing_extra("Pillow", "images", f"reading {path}") from None
    try:
        with Image.open(path) as opened:
            picture = _to_8_bits(ImageOps.exif_transpose(opened), opened.format)
            # Palettes, CMYK and others say what gray they are by way of RGB only.
            picture = picture if picture.mode in ("L", "RGB") else picture.convert("RGB")
            picture = picture.convert("L" if channels == 1 else "RGB")
            if size is not None and picture.size != size:
                picture = picture.resize(size, Image.Resampling.BILINEAR)
            return np.asarray(picture).reshape(picture.height, picture.width, 1 if channels == 1 else 3)
    except UnidentifiedImageError:
        reason = "the file is empty" if path.stat().st_size == 0 else "Pillow does not know its format"
        raise InputError(f"{path}: not a readable picture ({reason})") from None
    except Exception as error:  # decoders raise what they like about a broken file
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: not a readable picture ({reason})") from error


def _to_8_bits(picture: Picture, file_format: str | None) -> Picture:
    """Pillow itself cuts off what is above 255. Raises ValueError for pictures whose white is nowhere written."""
    from PIL import Image

    if picture.mode.startswith("I;16") or (picture.mode == "I" and file_format in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ValueError("32 bits a channel have no fixed range; store the input as .npy")
    return picture
