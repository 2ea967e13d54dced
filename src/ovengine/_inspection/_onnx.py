"""An ONNX model before OpenVINO reads it: lengths, offsets, nesting, and where its weights lie.

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import math

from ovengine._inspection._external import IN_MEMORY, ExternalData
from ovengine._inspection._protobuf import LENGTH, VARINT, Field, Source, encoded, fields, varints
from ovengine._inspection._settings import Inspection
from ovengine.errors import ModelError

# Kind of message -> its fields that have messages in which tensors may be, and which of them come once.
MESSAGES = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
# Two of these would become one: each half harmless, the whole maybe not.
ONCE = {"model": {7}, "training": {1, 2}, "attribute": {5, 6, 22}, "sparse": {1, 2}}
# Of TensorProto, and of its data types.
DIMS, DATA_TYPE, NAME, RAW_DATA, EXTERNAL_DATA, DATA_LOCATION = 1, 2, 8, 9, 13, 14
EXTERNAL = 1
BITS = {
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20, 24), 8),
    **dict.fromkeys((4, 5, 10, 16), 16),
    **dict.fromkeys((1, 6, 12), 32),
    **dict.fromkeys((7, 11, 13, 14), 64),
    15: 128,
    **dict.fromkeys((21, 22, 23), 4),
    **dict.fromkeys((25, 26), 2),
}
MOST_DIMENSIONS = 64


class OnnxInspection:
    """Of one model; `external` opens its files."""

    def __init__(self, source: Source, limits: Inspection, external: ExternalData) -> None:
        self._source = source
        self._limits = limits
        self._external = external
        self._operators = 0

    def run(self) -> bytes | None:
        """The model to read instead, in which tensors outside lie in memory; None: as it is. Raises ModelError."""
        return self._message("model", 0, self._source.size, 0)

    def _message(self, kind: str, begin: int, end: int, depth: int) -> bytes | None:
        if kind == "graph" and (depth := depth + 1) > self._limits.max_depth:
            raise self._source.error(f"graphs are nested more than {self._limits.max_depth} deep (max_depth)")
        if kind == "node":
            self._operators += 1
            if self._operators > self._limits.max_operators:
                raise self._source.error(f"it has more than {self._limits.max_operators} operators (max_operators)")
        children, once = MESSAGES[kind], set(ONCE.get(kind, ()))
        parts, copied = [], begin
        for field in fields(self._source, begin, end):
            child = children.get(field.number)
            if child is None:
                continue
            if field.wire != LENGTH:
                raise self._source.error(f"the field at byte {field.start} is no message")
            if field.number in ONCE.get(kind, ()):
                if field.number not in once:
                    raise self._source.error(f"the field at byte {field.start} comes twice")
                once.discard(field.number)
            inside = field.begin, field.end
            new = self._tensor(*inside) if child == "tensor" else self._message(child, *inside, depth)
            if new is not None:
                parts += [self._source.read(copied, field.start), encoded(field.number, new)]
                copied = field.end
        return b"".join([*parts, self._source.read(copied, end)]) if parts else None

    def _tensor(self, begin: int, end: int) -> bytes | None:
        found = list(fields(self._source, begin, end))
        name = ""
        dims: list[int] = []
        data_type = location = raw = 0
        outside: dict[str, str] = {}
        for field in found:
            if field.number == DIMS:
                dims += varints(self._source, field)
            elif field.number == DATA_TYPE and field.wire == VARINT:
                data_type = field.value
            elif field.number == DATA_LOCATION and field.wire == VARINT:
                location = field.value
            elif field.number == NAME and field.wire == LENGTH:
                name = self._text(field)
            elif field.number == RAW_DATA and field.wire == LENGTH:
                raw = field.end - field.begin
            elif field.number == EXTERNAL_DATA and field.wire == LENGTH:
                self._entry(field, outside)
        if len(dims) > MOST_DIMENSIONS or any(length < 0 for length in dims):
            raise self._source.error(f"tensor {name!r} has the shape {dims[:MOST_DIMENSIONS]}")
        count, bits = math.prod(dims), BITS.get(data_type, 8)
        needed = (count * bits + 7) // 8
        if needed > self._limits.max_tensor_bytes:
            raise self._source.error(f"tensor {name!r} of shape {dims} has {needed} bytes (max_tensor_bytes)")
        if location != EXTERNAL:
            # No element takes less than two bits, in whichever field the elements are.
            if count > 8 * (end - begin) or 0 < raw < needed:
                raise self._source.error(f"tensor {name!r} of shape {dims} has no more than {raw or end - begin} bytes")
            return None
        try:
            return self._from_outside(found, outside, needed, data_type in BITS)
        except ModelError as error:
            raise ModelError(f"{self._source.what} is refused: tensor {name!r}: {error}") from None

    def _from_outside(self, found: list[Field], outside: dict[str, str], needed: int, is_plain: bool) -> bytes:
        """The tensor, with its data in memory."""
        if not is_plain:
            raise ModelError("elements of its type cannot lie in a file")
        offset = _integer("offset", outside.get("offset", "0"))
        length = _integer("length", outside.get("length", str(needed)))
        if length < needed:
            raise ModelError(f"its shape needs {needed} bytes, and the file has {length} for it")
        address = self._external.address(outside.get("location", ""), offset, needed)
        content = [self._source.read(f.start, f.end) for f in found if f.number not in (EXTERNAL_DATA, DATA_LOCATION)]
        if needed == 0:
            return b"".join([*content, encoded(RAW_DATA, b"")])
        for key, value in (("location", IN_MEMORY), ("offset", str(address)), ("length", str(needed))):
            content.append(encoded(EXTERNAL_DATA, encoded(1, key.encode()) + encoded(2, value.encode())))
        return b"".join([*content, bytes([DATA_LOCATION << 3 | VARINT, EXTERNAL])])

    def _entry(self, field: Field, into: dict[str, str]) -> None:
        """One StringStringEntryProto."""
        pair = {part.number: self._text(part) for part in fields(self._source, *field[3:5]) if part.wire == LENGTH}
        key = pair.get(1, "")
        if key in into:
            raise self._source.error(f"external_data at byte {field.start} has {key!r} twice")
        into[key] = pair.get(2, "")

    def _text(self, field: Field) -> str:
        return self._source.read(field.begin, field.end).decode(errors="surrogateescape")


def _integer(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ModelError(f"its {name} is {text[:40]!r}, not a number of bytes")
    return int(text)
