"""What a model file may have."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from ovengine._paths import StrOrBytesPath
from ovengine.config import check_integer
from ovengine.errors import ConfigError

# Name of a limit -> the most that it may be.
LIMITS = {
    "max_tensor_bytes": 1 << 44,
    "max_operators": None,
    "max_depth": 100,
    "isolated_memory_bytes": 1 << 44,
}


@dataclass(frozen=True)
class Inspection:
    """Limits for model files, which `load` checks before OpenVINO reads them.

    Attributes:
        external_data_roots: folders that the weights of an ONNX model may lie in, besides the model's own folder. A
            tree of symbolic links, as model hubs make them, needs the folder that the links lead to. Files below these
            may have hard links, too.
        max_tensor_bytes: of one constant, or of one input or output inside an IR.
        max_operators: of a model, the bodies of its control flow included.
        max_depth: how deep bodies of control flow may be nested.
        isolated_seconds: what the process of `load(isolate=True)` that tries the model may take.
        isolated_memory_bytes: what this process may take, beside the memory that it has before it reads the model.

    Raises:
        ConfigError: a limit is not a positive integer, or a root is not a folder.
    """

    external_data_roots: StrOrBytesPath | Iterable[StrOrBytesPath] = ()
    max_tensor_bytes: int = 1 << 40
    max_operators: int = 1_000_000
    max_depth: int = 32
    isolated_seconds: float = 300.0
    isolated_memory_bytes: int = 16 << 30

    def __post_init__(self) -> None:
        for name, most in LIMITS.items():
            object.__setattr__(self, name, check_integer(name, getattr(self, name), 1, most))
        if not isinstance(self.isolated_seconds, (int, float)) or not 0 < self.isolated_seconds <= 1e6:
            raise ConfigError(f"isolated_seconds must be a number of seconds, not {self.isolated_seconds!r}")
        roots = self.external_data_roots
        if isinstance(roots, (str, bytes, os.PathLike)):
            roots = (roots,)
        found = tuple(os.path.realpath(os.fsdecode(root)) for root in roots)
        for root in found:
            if not os.path.isdir(root):
                raise ConfigError(f"external_data_roots: {root!r} is not a folder")
        object.__setattr__(self, "external_data_roots", found)

    @property
    def real_roots(self) -> tuple[str, ...]:
        """The roots, with links followed."""
        return self.external_data_roots  # type: ignore[return-value]  # made so above
