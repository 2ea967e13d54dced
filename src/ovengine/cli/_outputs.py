"""Results to a file: one `.npz`, or JSON lines."""

from __future__ import annotations

import contextlib
import json
import sys
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ovengine.cli._files import replaced
from ovengine.cli._inputs import Request
from ovengine.cli._interrupts import held
from ovengine.errors import ConfigError

Outputs = Mapping[Any, npt.NDArray[Any]]


class Writer(AbstractContextManager["Writer"], ABC):
    """Takes the results of requests in order; those that it took are kept however the context ends.

    path: None for standard output.
    """

    path: Path | None

    @abstractmethod
    def write(self, request: Request, outputs: Outputs) -> None:
        """Take one result; the arrays are the writer's from then on. Raises ConfigError where it cannot be written."""


def make_writer(target: str | None) -> Writer:
    """Choose by the name: `.npz`; `.jsonl` or `.json`; None or `-` is JSON lines on standard output.

    Raises:
        ConfigError: another name.
    """
    if target is None or target == "-":
        return JsonLinesOut()
    path = Path(target)
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
        self.path = path
        self._sources: list[str] = []
        self._outputs: dict[str, list[npt.NDArray[Any]]] = {}

    def write(self, request: Request, outputs: Outputs) -> None:
        """Keep the result until the end."""
        # A copy: a result is a view that keeps a whole batch alive.
        copies = {name: np.array(array) for name, array in outputs.items()}
        with held():
            self._sources.append(request.name)
            for name, array in copies.items():
                self._outputs.setdefault(name, []).append(array)

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
        assert self.path is not None
        with held(), replaced(self.path) as part:
            _save_npz(part, arrays)


def _save_npz(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    # What numpy.savez writes; but an output may be named "file", which savez takes for its own argument.
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


class JsonLinesOut(Writer):
    """One object per request on standard output: `source`, `row` where the file held several, and `outputs` as lists.

    Values that JSON does not have (NaN, infinities) become null.
    """

    path = None

    def __exit__(self, *exc: object) -> None:
        """Standard output stays open."""

    def write(self, request: Request, outputs: Outputs) -> None:
        """Write the line at once."""
        line = _json_line(request, outputs)
        try:
            with held():
                sys.stdout.write(line)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise ConfigError(f"cannot write to standard output: {error.strerror or error}") from error


class JsonLines(Writer):
    """The same lines in a file, which holds whole lines only, whatever happens."""

    def __init__(self, path: Path) -> None:
        self.path: Path = path
        self._file: FileIO | None = None

    def __enter__(self) -> JsonLines:
        """Open the file."""
        self._file = FileIO(self.path, "w")
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the file."""
        assert self._file is not None
        self._file.close()

    def write(self, request: Request, outputs: Outputs) -> None:
        """Write the line at once."""
        assert self._file is not None
        rest = memoryview(_json_line(request, outputs).encode())
        size = len(rest)
        try:
            with held():
                while rest:
                    rest = rest[self._file.write(rest) :]
        except (OSError, KeyboardInterrupt) as error:
            if rest:
                with contextlib.suppress(OSError):  # a pipe keeps what it has
                    self._file.truncate(self._file.tell() - (size - len(rest)))
            if isinstance(error, KeyboardInterrupt):
                raise
            raise ConfigError(f"cannot write {self.path}: {error.strerror or error}") from error


def _json_line(request: Request, outputs: Outputs) -> str:
    line: dict[str, Any] = {"source": request.source}
    if request.row is not None:
        line["row"] = request.row
    line["outputs"] = {name: _to_lists(array) for name, array in outputs.items()}
    return json.dumps(line, allow_nan=False) + "\n"


def _to_lists(array: npt.NDArray[Any]) -> Any:
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        values = array.astype(object)
        values[~np.isfinite(array)] = None
        return values.tolist()
    return array.tolist()
