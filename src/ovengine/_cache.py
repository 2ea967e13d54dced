"""What is learned about a model is kept from one load to the next: a store of small JSON entries in a folder.

An entry has a kind (a namespace: who keeps it, and how its value reads) and a key, which says all that the value
depends on. Entries are written whole or not at all, so any number of threads and processes may share a folder; of two
that write the same entry the last one wins. Nothing depends on the cache: what cannot be read counts as not there, what
cannot be written is not kept, and both are a CacheWarning.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ovengine.errors import CacheWarning

T = TypeVar("T")


class Cache:
    """Entries below `directory`, which is made when it is needed; without one nothing is kept.

    Example:
        >>> cache = Cache(Path("/tmp/cache"))
        >>> cache.save("answer", {"question": "life"}, 42)
        >>> cache.load("answer", {"question": "life"}, int)
        42
    """

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory

    def load(self, kind: str, key: Mapping[str, Any], parse: Callable[[Any], T]) -> T | None:
        """The value kept under this key, as `parse` makes it from JSON; None when there is none.

        `parse` raises KeyError, TypeError or ValueError for what it cannot read.
        """
        if self.directory is None:
            return None
        path = self._path(kind, key)
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
            if entry["key"] != _plain(key):
                raise ValueError("it belongs to another key")
            return parse(entry["value"])
        except FileNotFoundError:
            return None
        except (OSError, KeyError, TypeError, ValueError) as error:
            _warn(f"the cache entry {path} cannot be read and is ignored", error)
            return None

    def save(self, kind: str, key: Mapping[str, Any], value: object) -> None:
        """Keep a value that JSON can hold."""
        if self.directory is None:
            return
        path = self._path(kind, key)
        text = json.dumps({"key": _plain(key), "value": value}, indent=1)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
                try:
                    file.write(text)
                    file.close()
                    os.replace(file.name, path)
                except BaseException:
                    with contextlib.suppress(OSError):
                        os.unlink(file.name)
                    raise
        except OSError as error:
            _warn(f"nothing is kept in the cache {self.directory}", error)

    def _path(self, kind: str, key: Mapping[str, Any]) -> Path:
        assert self.directory is not None
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self.directory / kind / f"{digest[:40]}.json"


def _plain(key: Mapping[str, Any]) -> Any:
    """As JSON gives it back: tuples are lists there."""
    return json.loads(json.dumps(key))


def _warn(text: str, error: Exception) -> None:
    warnings.warn(f"{text}: {type(error).__name__}: {error}", CacheWarning, stacklevel=3)
