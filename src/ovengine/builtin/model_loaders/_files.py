"""What the loaders of files have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ovengine._paths import StrOrBytesPath, as_path, is_path
from ovengine.errors import ModelError, ModelNotFoundError


def has_suffix(source: Any, *suffixes: str) -> bool:
    """Whether `source` is a path that ends so, in any case."""
    return is_path(source) and str(as_path(source)).lower().endswith(suffixes)


def require_file(source: StrOrBytesPath) -> Path:
    """Return the path, once it is known to name a file with something in it, or a directory."""
    path = as_path(source)
    try:
        size = path.stat().st_size
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise ModelNotFoundError(f"no model file at {str(path)!r} ({error})") from error
    if path.is_file() and size == 0:
        raise ModelError(f"the model file {str(path)!r} is empty")
    return path
