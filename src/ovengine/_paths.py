"""Paths as callers give them: text, bytes or `os.PathLike`. The name of a file need not be UTF-8."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias, TypeGuard

StrOrBytesPath: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]
MOST_PATH_BYTES = 4096


def as_path(path: StrOrBytesPath) -> Path:
    """The path as Python has it: bytes that are not UTF-8 are surrogates. Raises TypeError for what is no path."""
    return Path(os.fsdecode(path))


def printable(path: StrOrBytesPath) -> str:
    """The path as text that can be written anywhere: bytes that are not UTF-8 as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def is_path(source: object) -> TypeGuard[StrOrBytesPath]:
    """Whether `source` is meant as a path. Bytes are one where a file has that name; otherwise they are contents."""
    if isinstance(source, bytes):
        return 0 < len(source) <= MOST_PATH_BYTES and b"\0" not in source and os.path.exists(source)
    return isinstance(source, (str, os.PathLike))
