"""What the loaders of files have in common."""

from __future__ import annotations

import os
from pathlib import Path

from ovengine.errors import ModelError, ModelNotFoundError


def has_suffix(source: object, *suffixes: str) -> bool:
    """Whether `source` is a path that ends so, in any case."""
    return isinstance(source, (str, os.PathLike)) and os.fspath(source).lower().endswith(suffixes)


def require_file(source: str | os.PathLike[str]) -> Path:
    """The path, once it is known to name a file with something in it, or a directory."""
    path = Path(source)
    try:
        size = path.stat().st_size
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise ModelNotFoundError(f"no model file at {os.fspath(source)!r} ({error})") from error
    if path.is_file() and size == 0:
        raise ModelError(f"the model file {str(path)!r} is empty")
    return path
