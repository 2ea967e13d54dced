"""The files that an ONNX model keeps weights in: confined to its folder, and opened once."""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
from collections.abc import Sequence
from pathlib import PurePosixPath, PureWindowsPath

import numpy as np

from ovengine.errors import ModelError

# OpenVINO and ONNX Runtime take the offset of such a tensor for an address in memory.
IN_MEMORY = "*/_ORT_MEM_ADDR_/*"


class ExternalData:
    """Opens what the tensors of one model refer to.

    `folder`: of the model; None for a model without a path, which may not refer to files. `roots`: other folders that
    files may lie in.
    """

    def __init__(self, folder: str | None, roots: Sequence[str]) -> None:
        self._folder = folder
        self._roots = roots
        self._files: dict[str, mmap.mmap | None] = {}

    def address(self, location: str, offset: int, length: int) -> int:
        """Where these bytes of the file lie in memory. Raises ModelError for what may not be read."""
        if location not in self._files:
            self._files[location] = self._map(location)
        mapped = self._files[location]
        size = 0 if mapped is None else len(mapped)
        if offset + length > size:
            raise ModelError(f"bytes {offset} to {offset + length} of {location!r} are asked for; it has {size}")
        return 0 if mapped is None else int(np.frombuffer(mapped, np.uint8).ctypes.data) + offset

    @property
    def kept(self) -> tuple[object, ...]:
        """What has to live as long as the addresses are used."""
        return tuple(self._files.values())

    def _map(self, location: str) -> mmap.mmap | None:
        """Null for an empty file. A private mapping: it is copied before anything is compiled from it."""
        with contextlib.ExitStack() as stack:
            fd = self._open(location)
            stack.callback(os.close, fd)
            if os.fstat(fd).st_size == 0:
                return None
            return mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)

    def _open(self, location: str) -> int:
        if location.strip() == IN_MEMORY:
            raise ModelError("a tensor gives an address in this process as its data")
        if not location or "\0" in location:
            raise ModelError(f"{location!r} is no file name")
        if self._folder is None:
            raise ModelError(f"it keeps weights in {location!r}, but was given without a path; load it by its path")
        parts = {*PurePosixPath(location).parts, *PureWindowsPath(location).parts}
        if PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor or ".." in parts:
            raise ModelError(f"it keeps weights in {location!r}, which is not below its own folder")
        path = os.path.join(self._folder, location)
        try:
            # Without waiting for the other end of a pipe.
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError as error:
            raise ModelError(f"its weights in {path!r} cannot be read ({error.strerror})") from None
        try:
            self._check(fd, location)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _check(self, fd: int, location: str) -> None:
        """Of the file that is open, not of a path that may lead elsewhere by now."""
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise ModelError(f"{location!r} is no file")
        real = os.readlink(f"/proc/self/fd/{fd}")
        if any(_is_below(real, root) for root in self._roots):
            return
        advice = "give its folder in Inspection(external_data_roots=...) if it may be read"
        if not _is_below(real, os.path.realpath(self._folder or "")):
            raise ModelError(f"{location!r} leads to {real!r}, outside of the model's folder; {advice}")
        if found.st_nlink > 1:
            raise ModelError(f"{location!r} has other names (hard links), which may lie outside; {advice}")


def _is_below(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder if os.path.isabs(path) else False
