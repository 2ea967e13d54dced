"""An OpenVINO IR before OpenVINO reads it: shapes, ids, and where in the `.bin` its weights lie."""

from __future__ import annotations

import math
from collections.abc import Iterable
from xml.parsers import expat

from ovengine._inspection._settings import Inspection
from ovengine.errors import ModelError

LONGEST_NUMBER = 19
MOST_DIMENSIONS = 64
SUBBYTE = {"u1": 1, "bin": 1, "u2": 2, "u3": 3, "i4": 4, "u4": 4, "nf4": 4, "f4e2m1": 4, "u6": 6}
BYTES = {
    **dict.fromkeys(("boolean", "i8", "u8", "f8e4m3", "f8e5m2", "f8e8m0"), 1),
    **dict.fromkeys(("i16", "u16", "f16", "bf16"), 2),
    **dict.fromkeys(("i32", "u32", "f32"), 4),
    **dict.fromkeys(("i64", "u64", "f64"), 8),
}
# No port holds elements of more.
WIDEST_BYTES = 8


class IrInspection:
    """Of one `.xml`, which is `what` in errors. `weights_bytes`: size of the `.bin`."""

    def __init__(self, what: str, limits: Inspection, weights_bytes: int) -> None:
        self._what = what
        self._limits = limits
        self._weights_bytes = weights_bytes
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.StartDoctypeDeclHandler = self._doctype
        self._ids: list[set[str]] = []  # of the layers, by nesting
        self._operators = 0
        self._layer = ""
        self._is_constant = False
        self._dims: list[str] | None = None  # of the port, as they are read
        self._dim: str | None = None

    def run(self, blocks: Iterable[bytes]) -> None:
        """Of its text. Raises ModelError for what OpenVINO had better not see."""
        try:
            for block in blocks:
                self._parser.Parse(block, False)
            self._parser.Parse(b"", True)
        except expat.ExpatError as error:
            raise self._error(f"it is no XML: {error}") from None

    def _error(self, reason: str) -> ModelError:
        line = self._parser.CurrentLineNumber
        return ModelError(f"{self._what} is refused, line {line}: {reason}")

    def _doctype(self, *_: object) -> None:
        raise self._error("a document type has no place in an IR")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "layers":
            self._ids.append(set())
            if len(self._ids) > self._limits.max_depth:
                raise self._error(f"bodies are nested more than {self._limits.max_depth} deep (max_depth)")
        elif name == "layer":
            self._begin_layer(attributes)
        elif name == "data" and self._is_constant:
            self._check_constant(attributes)
        elif name == "port":
            self._dims = []
        elif name == "dim":
            self._dim = ""

    def _end(self, name: str) -> None:
        if name == "layers" and self._ids:
            self._ids.pop()
        elif name == "dim" and self._dim is not None:
            if self._dims is not None:
                self._dims.append(self._dim)
            self._dim = None
        elif name == "port" and self._dims is not None:
            self._check_shape(self._dims)
            self._dims = None

    def _characters(self, text: str) -> None:
        if self._dim is not None:
            self._dim += text

    def _begin_layer(self, attributes: dict[str, str]) -> None:
        self._operators += 1
        if self._operators > self._limits.max_operators:
            raise self._error(f"it has more than {self._limits.max_operators} operators (max_operators)")
        identity = attributes.get("id", "").strip()
        if self._ids:
            if identity in self._ids[-1]:
                raise self._error(f"two layers have the id {identity!r}")
            self._ids[-1].add(identity)
        self._layer = attributes.get("name", identity)
        self._is_constant = attributes.get("type") == "Const"

    def _check_shape(self, dims: list[str]) -> None:
        lengths = [self._integer("a length", dim, allow_unknown=True) for dim in dims]
        if len(lengths) > MOST_DIMENSIONS:
            raise self._error(f"a port of layer {self._layer!r} has {len(lengths)} dimensions")
        if math.prod(length for length in lengths if length > 0) * WIDEST_BYTES > self._limits.max_tensor_bytes:
            raise self._error(f"a port of layer {self._layer!r} has the shape {lengths} (max_tensor_bytes)")

    def _check_constant(self, attributes: dict[str, str]) -> None:
        if "offset" not in attributes and "size" not in attributes:
            return
        offset = self._integer("offset", attributes.get("offset", ""))
        size = self._integer("size", attributes.get("size", ""))
        if offset + size > self._weights_bytes:
            raise self._error(
                f"constant {self._layer!r} lies at bytes {offset} to {offset + size} of weights that have "
                f"{self._weights_bytes}"
            )
        shape = [part for part in attributes.get("shape", "").split(",") if part.strip()]
        count = math.prod(self._integer("a length", length) for length in shape)
        kind = attributes.get("element_type", "")
        needed = (count * SUBBYTE[kind] + 7) // 8 if kind in SUBBYTE else count * BYTES.get(kind, 0)
        if needed > size:
            raise self._error(f"constant {self._layer!r}, {kind} of shape {shape}, needs {needed} bytes and has {size}")

    def _integer(self, name: str, text: str, allow_unknown: bool = False) -> int:
        text = text.strip()
        if allow_unknown and (text in ("-1", "?") or ".." in text):
            return -1
        if not (text.isascii() and text.isdigit() and len(text) <= LONGEST_NUMBER):
            raise self._error(f"{name} of layer {self._layer!r} is {text[:40]!r}, not a number")
        return int(text)
