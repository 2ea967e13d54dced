"""What options take: numbers, shapes, layouts and the like, as argparse types that say what is wrong."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ovengine.config import Shapes

ELEMENT_TYPES = ("bool", "f16", "f32", "f64", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64")
YES = frozenset({"yes", "true", "t", "y", "1"})
NO = frozenset({"no", "false", "f", "n", "0"})

_BRACKETS = re.compile(r"(?P<name>[^\[\],]*)(?P<lists>(?:\[[^\[\]]*\]\s*)+)(?:,|$)")
_LIST = re.compile(r"\[([^\[\]]*)\]")
_DIMENSION = re.compile(r"\d+|\d*\.\.\d*")


def at_least(least: int) -> Callable[[str], int]:
    """An integer not below `least`."""

    def integer(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is below {least}")
        return value

    return integer


def within(least: int, most: int) -> Callable[[str], int]:
    """An integer within these bounds, both included."""

    def integer(text: str) -> int:
        value = at_least(least)(text)
        if value > most:
            raise argparse.ArgumentTypeError(f"{value} is above {most}")
        return value

    return integer


def number(text: str) -> float:
    """A number of zero or more."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is below zero, or no number")
    return value


def positive(text: str) -> float:
    """A number above zero."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return value


def boolean(text: str) -> bool:
    """One of benchmark_app's words for it."""
    if text.lower() not in YES | NO:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() in YES


def by_name(text: str, what: str, example: str) -> dict[str, list[str]]:
    """`name[...],other[...][...]` as the texts in brackets, by name; '' is the name where none is given."""
    found: dict[str, list[str]] = {}
    end = 0
    while match := _BRACKETS.match(text, end):
        found[match["name"].strip()] = [part.strip() for part in _LIST.findall(match["lists"])]
        end = match.end()
    if not found or end != len(text) or ("" in found and len(found) > 1):
        raise argparse.ArgumentTypeError(f"{text!r} is no {what}; write {example}")
    return found


def shapes(text: str) -> Shapes:
    """`[1,3,224,224]`, or `name[...],other[...]`. A dimension is a length, `?` or -1 for any, or bounds as in 1..64."""
    return _one_each(text, lambda part, text: _shape(part, text, dynamic=True))


def data_shape(text: str) -> Shapes:
    """One static shape for each input."""
    return _one_each(text, lambda part, text: _shape(part, text, dynamic=False))


def data_shapes(text: str) -> list[Shapes]:
    """Static shapes that take turns: `[1,3,224,224][1,3,448,448]`, or several for each of several names."""
    found = by_name(text, "shape", "'[1,3,224,224]' or 'a[1,16][1,32],b[1,4]'")
    parsed = {name: [_shape(part, text, dynamic=False) for part in parts] for name, parts in found.items()}
    turns = max(map(len, parsed.values()))
    if "" in parsed:
        return list(parsed[""])
    return [{name: parts[turn % len(parts)] for name, parts in parsed.items()} for turn in range(turns)]


def _one_each(text: str, parse: Callable[[str, str], tuple[int | str, ...]]) -> Shapes:
    found = by_name(text, "shape", "'[1,3,224,224]' or 'a[1,16],b[1,4]'")
    if more := [name for name, parts in found.items() if len(parts) > 1]:
        raise argparse.ArgumentTypeError(f"{text!r} has several shapes for {more[0] or 'one input'}, and one is taken")
    parsed: dict[str | int, tuple[int | str, ...]] = {name: parse(parts[0], text) for name, parts in found.items()}
    return parsed.get("", parsed)


def _shape(part: str, text: str, *, dynamic: bool) -> tuple[int | str, ...]:
    return tuple(_dimension(dimension.strip(), text, dynamic) for dimension in part.split(",") if dimension.strip())


def _dimension(part: str, text: str, dynamic: bool) -> int | str:
    part = part.replace(" ", "")
    if part.isdecimal():
        return int(part)
    if dynamic and part in ("?", "-1"):
        return -1
    if dynamic and _DIMENSION.fullmatch(part):
        return part
    kinds = "a length, ? for any, or bounds such as 1..64" if dynamic else "a length"
    raise argparse.ArgumentTypeError(f"{part!r} in {text!r} is no dimension; write {kinds}")


def layouts(text: str) -> Mapping[str, str]:
    """`NCHW`, `[NCHW]`, or `name[NCHW],other[NC]`: a letter for each dimension, by name."""
    found = (
        {"": [text]} if re.fullmatch(r"[A-Za-z.]+", text) else by_name(text, "layout", "'[NCHW]' or 'a[NCHW],b[NC]'")
    )
    for parts in found.values():
        letters = [letter for letter in parts[0].replace(",", "").upper() if letter.isalpha()]
        if len(parts) > 1 or not letters or len(set(letters)) < len(letters):
            raise argparse.ArgumentTypeError(
                f"{text!r} is no layout; write a letter for each dimension, as in '[NCHW]'"
            )
    return {name: parts[0].replace(",", "").upper() for name, parts in found.items()}


def element_types(text: str) -> Mapping[str, str]:
    """`input:f16, output:f32`; names may have colons."""
    found: dict[str, str] = {}
    for pair in text.split(","):
        name, separator, kind = (part.strip() for part in pair.rpartition(":"))
        if not separator or not name:
            raise argparse.ArgumentTypeError(f"{pair.strip()!r} is not NAME:TYPE")
        if kind not in ELEMENT_TYPES:
            raise argparse.ArgumentTypeError(f"{kind!r} is no type; there are {', '.join(ELEMENT_TYPES)}")
        found[name] = kind
    return found


def channel_values(text: str) -> Mapping[str, tuple[float, ...]]:
    """`[R,G,B]`, or `name[R,G,B],other[X]`."""
    try:
        return {
            name: tuple(float(value) for value in parts[0].split(","))
            for name, parts in by_name(text, "list of values", "'[123,117,104]' or 'data[127.5]'").items()
        }
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: these are no numbers") from None


def assignment(text: str) -> tuple[str, str]:
    """`NAME=VALUE`."""
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def one_value(text: str) -> str:
    """A value for all devices; benchmark_app's `CPU:4,GPU:2` only where they agree."""
    values = {part.rpartition(":")[2].strip() for part in text.split(",")}
    if len(values) > 1:
        raise argparse.ArgumentTypeError(f"{text!r}: all devices get the same value here; measure them one at a time")
    return values.pop()
