"""Protocol Buffers on the wire: the fields of a message, where they lie, and nothing beyond its end.

https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from ovengine.errors import ModelError

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
WIDTHS = {FIXED64: 8, FIXED32: 4}
LONGEST_VARINT = 10
WINDOW_BYTES = 1 << 18


class Field(NamedTuple):
    """One field: its number and wire type, where it starts, and where its value lies. A varint has its value, too."""

    number: int
    wire: int
    start: int
    begin: int
    end: int
    value: int = 0


class Source:
    """A file or bytes, read in windows: a file that becomes shorter is an error, as a mapping of it would not be."""

    def __init__(self, what: str, data: bytes | None = None, fd: int = -1) -> None:
        self.what = what
        self._fd = fd
        self._window = data if data is not None else b""
        self._at = 0
        self.size = len(data) if data is not None else os.fstat(fd).st_size

    def read(self, begin: int, end: int) -> bytes:
        """Raises ModelError where the file has become shorter."""
        if begin < self._at or end > self._at + len(self._window):
            count = min(max(WINDOW_BYTES, end - begin), self.size - begin)
            self._window, self._at = os.pread(self._fd, count, begin), begin
            if len(self._window) < end - begin:
                raise ModelError(f"{self.what} was changed while it was read; load it again")
        return self._window[begin - self._at : end - self._at]

    def error(self, reason: str) -> ModelError:
        """To be raised."""
        return ModelError(f"{self.what} is damaged or no ONNX model: {reason}")


def fields(source: Source, begin: int, end: int) -> Iterator[Field]:
    """Of the message that lies there. Raises ModelError for what is not one."""
    at = begin
    while at < end:
        start = at
        tag, at = _varint(source, at, end)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise source.error(f"a field at byte {start} has number {number}")
        if wire == VARINT:
            value, after = _varint(source, at, end)
            yield Field(number, wire, start, at, after, value)
            at = after
            continue
        if wire == LENGTH:
            length, at = _varint(source, at, end)
        elif wire in WIDTHS:
            length = WIDTHS[wire]
        else:
            raise source.error(f"the field at byte {start} has wire type {wire}")
        if length > end - at:
            raise source.error(f"the field at byte {start} has {length} bytes, and {end - at} are left")
        yield Field(number, wire, start, at, at + length)
        at += length


def _varint(source: Source, at: int, end: int) -> tuple[int, int]:
    """The number, and where it ends."""
    data = source.read(at, min(at + LONGEST_VARINT, end))
    value = 0
    for index, byte in enumerate(data):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value & ((1 << 64) - 1), at + index + 1
    raise source.error(f"the number at byte {at} does not end")


def signed(value: int) -> int:
    """A varint as the int64 that it stands for."""
    return value - (1 << 64) if value >= 1 << 63 else value


def varints(source: Source, field: Field) -> list[int]:
    """Of a repeated int64, packed or one of many."""
    if field.wire == VARINT:
        return [signed(field.value)]
    if field.wire != LENGTH:
        raise source.error(f"the field at byte {field.start} is no integer")
    found, at = [], field.begin
    while at < field.end:
        value, at = _varint(source, at, field.end)
        found.append(signed(value))
    return found


def encoded(number: int, content: bytes) -> bytes:
    """A field with this content: bytes, a text or a message."""
    return _encoded_varint(number << 3 | LENGTH) + _encoded_varint(len(content)) + content


def _encoded_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
