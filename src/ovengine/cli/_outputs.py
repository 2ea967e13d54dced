"""Results to a file: one `.npz`, or JSON lines."""

from __future__ import annotations

import json
import sys
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from ovengine.cli._inputs import Request
from ovengine.errors import ConfigError

Outputs = Mapping[Any, npt.NDArray[Any]]


class Writer(AbstractContextManager["Writer"], ABC):
    """Takes the results of requests in order; what it wrote is complete when the context ends."""

    @abstractmethod
    def write(self, request: Request, outputs: Outputs) -> None:
        """Take one result; the arrays are the writer's from then on."""


def open_writer(target: str | None) -> Writer:
    """Choose by the name: `.npz`; `.jsonl` or `.json`; None or `-` is JSON lines on standard output.

    Raises:
        ConfigError: another name, or a directory that does not exist.
    """
    if target is None or target == "-":
        return JsonLines(None)
    path = Path(target)
    if not path.parent.is_dir():
        raise ConfigError(f"cannot write {path}: there is no directory {path.parent}")
    if path.suffix == ".npz":
        return Npz(path)
    if path.suffix in (".jsonl", ".json"):
        return JsonLines(path)
    raise ConfigError(f"cannot write {path}: results go to .npz, or to .jsonl as JSON lines")


class Npz(Writer):
    """One array per output with a row per request, and `source` saying where each row came from.

    Outputs whose shapes differ between requests become one array per request, named `output/0`, `output/1`...
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sources: list[str] = []
        self._outputs: dict[str, list[npt.NDArray[Any]]] = {}

    def write(self, request: Request, outputs: Outputs) -> None:
        """Keep the result until the end."""
        self._sources.append(request.source if request.row is None else f"{request.source}:{request.row}")
        for name, array in outputs.items():
            # A copy: a result is a view that keeps a whole batch alive.
            self._outputs.setdefault(name, []).append(np.array(array))

    def __exit__(self, *exc: object) -> None:
        """Write the file, also when an error ended the run early: what was computed is kept."""
        if not self._sources:
            return
        arrays: dict[str, npt.NDArray[Any]] = {"source": np.array(self._sources)}
        for name, rows in self._outputs.items():
            if len({row.shape for row in rows}) == 1:
                arrays[name] = np.stack(rows)
            else:
                arrays |= {f"{name}/{index}": row for index, row in enumerate(rows)}
        _save_npz(self._path, arrays)


def _save_npz(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    # What numpy.savez writes; but an output may be named "file", which savez takes for its own argument.
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


class JsonLines(Writer):
    """One object per request: `source`, `row` where the file held several, and `outputs` as nested lists.

    Values that JSON does not have (NaN, infinities) become null.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: TextIO = sys.stdout

    def __enter__(self) -> JsonLines:
        """Open the file."""
        if self._path is not None:
            self._file = self._path.open("w", encoding="utf-8")
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the file; standard output stays open."""
        if self._path is not None:
            self._file.close()

    def write(self, request: Request, outputs: Outputs) -> None:
        """Write the line at once."""
        line: dict[str, Any] = {"source": request.source}
        if request.row is not None:
            line["row"] = request.row
        line["outputs"] = {name: _to_lists(array) for name, array in outputs.items()}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")


def _to_lists(array: npt.NDArray[Any]) -> Any:
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        values = array.astype(object)
        values[~np.isfinite(array)] = None
        return values.tolist()
    return array.tolist()
