"""What the loaders of files have in common."""

from __future__ import annotations

import os
import pathlib
from typing import TypeAlias, TypeGuard

from ovengine.errors import ModelError, ModelNotFoundError

Path: TypeAlias = str | os.PathLike[str]


def is_path(source: object) -> TypeGuard[Path]:
    """Whether `source` is meant as a path."""
    return isinstance(source, (str, os.PathLike))


def has_suffix(source: object, *suffixes: str) -> bool:
    """Whether `source` is a path that ends so, in any case."""
    return is_path(source) and os.fspath(source).lower().endswith(suffixes)


def require_file(source: Path) -> pathlib.Path:
    """Return the path, once it is known to name a file with something in it, or a directory."""
    path = pathlib.Path(source)
    try:
        size = path.stat().st_size
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise ModelNotFoundError(f"no model file at {os.fspath(source)!r} ({error})") from error
    if path.is_file() and size == 0:
        raise ModelError(f"the model file {str(path)!r} is empty")
    return path
