"""Which files a command reads, and whether it can write those that it will."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from ovengine.cli import _pictures, _streams
from ovengine.errors import ConfigError, InputError

ARRAYS = frozenset([".bin", ".npy", ".npz"])
KNOWN = _pictures.SUFFIXES | ARRAYS


@dataclass(frozen=True)
class Source:
    """One file, or a file for each of several inputs.

    paths: by the name of the input; None is the name where none was given.
    """

    paths: tuple[tuple[str | None, Path], ...]

    def __str__(self) -> str:
        return ",".join(str(path) if name is None else f"{name}:{path}" for name, path in self.paths)

    @property
    def path(self) -> Path:
        """Of the first input."""
        return self.paths[0][1]


def find_sources(arguments: Iterable[str]) -> list[Source]:
    """The files that are meant; a folder stands for the pictures and arrays in it, in order of name.

    An argument is a path, or as for benchmark_app several of them separated by commas, each with the name of an input
    in front (`a:1.npy,2.npy,b:folder`) or not. The first files of all inputs belong together, then the second ones.

    Raises:
        InputError: a path does not exist, is of no known kind, or a folder holds nothing to read.
    """
    plain: list[Source] = []
    named: dict[str, list[Path]] = {}
    for argument in arguments:
        for name, path in _split(argument):
            files = _expand(path)
            if name is None:
                plain += [Source(((None, file),)) for file in files]
            else:
                named.setdefault(name, []).extend(files)
    if plain and named:
        raise InputError(f"either all inputs are named, or none: {plain[0]} has no name, {next(iter(named))!r} is one")
    counts = {len(files) for files in named.values()} - {1}
    if len(counts) > 1:
        shown = ", ".join(f"{name} {len(files)}" for name, files in named.items())
        raise InputError(f"inputs have different numbers of files: {shown}; give as many of each, or one for all")
    # One file of an input goes with each of the others.
    rows = zip_longest(*([(name, file) for file in files] for name, files in named.items()))
    first = {name: (name, files[0]) for name, files in named.items()}
    return plain + [Source(tuple(pair or first[name] for pair, name in zip(row, named, strict=True))) for row in rows]


def _split(argument: str) -> Iterator[tuple[str | None, Path]]:
    """The paths in an argument, each with the name of its input."""
    if os.path.lexists(argument):  # commas, colons and all
        yield None, Path(argument)
        return
    name: str | None = None
    for part in filter(None, argument.split(",")):
        found = _named(part)
        if found is None:
            raise InputError(f"no such input: {part}")
        name = found[0] or name
        yield name, found[1]


def _named(text: str) -> tuple[str | None, Path] | None:
    """`FILE` or `NAME:FILE`, both of which may have colons of their own; None where there is no such file."""
    if os.path.lexists(text):
        return None, Path(text)
    colons = (place for place, letter in enumerate(text) if letter == ":" and place)
    place = next((place for place in colons if os.path.lexists(text[place + 1 :])), None)
    return None if place is None else (text[:place], Path(text[place + 1 :]))


def _expand(path: Path) -> list[Path]:
    if path.is_dir():
        return _inside(path)
    if not path.exists():
        raise InputError(f"no such input: {path}")
    if path.suffix.lower() not in KNOWN:
        kinds = ", ".join(sorted(_pictures.SUFFIXES))
        raise InputError(f"{path} is no input: give pictures ({kinds}), .npy, .npz, .bin, or a folder of those")
    return [path]


def _inside(folder: Path) -> list[Path]:
    """Of a folder what can be read, with a word about the rest."""
    entries = sorted(folder.iterdir())
    files = [path for path in entries if path.suffix.lower() in KNOWN and path.is_file()]
    folders = [path for path in entries if path.is_dir()]
    others = len(entries) - len(files) - len(folders)
    left_out = []
    if folders:
        left_out.append(f"{_count(len(folders), 'subfolder')} not searched (give {folders[0]} and so on)")
    if others:
        left_out.append(f"{_count(others, 'file')} of other kinds left out")
    rest = "; ".join(left_out)
    if not files:
        raise InputError(f"no pictures, .npy, .npz or .bin files in folder {folder}{f': {rest}' if rest else ''}")
    if rest:
        _streams.say(f"{folder}: {_count(len(files), 'file')} read; {rest}")
    return files


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def check_writable(paths: Sequence[Path]) -> None:
    """That the files can be written later; none is changed.

    Raises:
        ConfigError: one cannot.
    """
    for path in paths:
        if not path.parent.is_dir():
            raise ConfigError(f"cannot write {path}: there is no folder {path.parent}")
        if path.exists() and not path.is_file() and not path.is_dir():
            continue  # a pipe or a device: to open it is to use it
        existed = os.path.lexists(path)
        try:
            with path.open("ab"):
                pass
            if not existed:
                path.unlink()
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its place when the block ends well: nobody sees half of it.

    Raises:
        ConfigError: the file cannot be written.
    """
    target = path.resolve()  # a link stays one
    if target.exists() and not target.is_file():
        yield target
        return
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield part
        if target.exists():
            shutil.copymode(target, part)
        os.replace(part, target)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
