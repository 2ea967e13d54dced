"""OpenVINO's own spellings of what `load` calls by other names: devices, property values."""

from __future__ import annotations

import os
import re
from pathlib import PurePath
from typing import Any

import numpy as np

from ovengine._numbers import as_integer
from ovengine.errors import ConfigError, PropertyError

_BATCH_DEVICE = re.compile(r"\s*BATCH\s*:\s*(?P<device>[^,()]*[^,()\s])\s*(?:\(\s*(?P<rows>[^()]*?)\s*\))?\s*", re.I)
_YES = frozenset({"YES", "TRUE", "ON", "1"})
_LOG_LEVELS = {"NO": "LOG_NONE", "ERR": "LOG_ERROR"}
_NO = frozenset({"NO", "FALSE", "OFF", "0"})


def batch_device(text: str) -> tuple[str, int | None] | None:
    """`BATCH:CPU(16)` is ('CPU', 16), `BATCH:CPU` is ('CPU', None); None for a device without BATCH.

    Raises ConfigError where OpenVINO would refuse it.
    """
    if not re.match(r"\s*BATCH\b", text, re.I):
        return None
    match = _BATCH_DEVICE.fullmatch(text)
    if match is None:
        raise ConfigError(f"device={text!r} must name one device, as in 'BATCH:CPU(16)' or 'BATCH:CPU'")
    rows = match["rows"]
    if rows is not None and (not rows.isdecimal() or int(rows) < 1):
        raise ConfigError(f"device={text!r}: the batch size must be an integer of at least 1, not {rows!r}")
    return match["device"], None if rows is None else int(rows)


def plain(value: Any) -> Any:
    """A property's value without the wrappers of `openvino.properties`; strings, numbers and the like as they are.

    `OVAny`, `streams.Num`, `Type`, and enums such as `hint.PerformanceMode`; the native side takes strings.
    """
    kind = type(value).__name__
    if kind == "OVAny":
        return plain(value.value)
    if hasattr(value, "to_integer"):  # streams.Num
        return value.to_integer()
    if hasattr(value, "get_type_name"):  # Type
        return value.get_type_name()
    if isinstance(getattr(value, "name", None), str) and hasattr(type(value), "__members__"):
        return _LOG_LEVELS.get(value.name, f"LOG_{value.name}") if kind == "Level" else value.name
    if isinstance(value, (bytes, os.PathLike)) and not isinstance(value, PurePath):  # CACHE_DIR
        return os.fsdecode(value)
    if isinstance(value, (set, frozenset, list, tuple)):  # MODEL_DISTRIBUTION_POLICY
        return " ".join(str(plain(each)) for each in value)
    if isinstance(value, np.generic):
        return value.item()
    number = as_integer(value)
    return value if number is None else number


def integer(name: str, value: object, least: int) -> int:
    """Of a property given as a number or as its text. Raises PropertyError."""
    is_text = isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d+\s*", value)
    number = int(str(value)) if is_text else as_integer(value)
    if number is None or number < least:
        raise PropertyError(f"{name} must be an integer of at least {least}, not {value!r}")
    return number


def boolean(name: str, value: object) -> bool:
    """Of a property given as a bool or as one of OpenVINO's words for it. Raises PropertyError."""
    text = str(value).strip().upper()
    if text not in _YES | _NO:
        raise PropertyError(f"{name} must be YES or NO, not {value!r}")
    return text in _YES
