"""Loader `ir`: OpenVINO's own format, an `.xml` with its `.bin` beside it."""

from __future__ import annotations

from ovengine._core import Graph
from ovengine._paths import StrOrBytesPath
from ovengine.builtin.model_loaders._files import has_suffix, require_file
from ovengine.errors import ModelError, ModelNotFoundError
from ovengine.hookspecs import LoadContext, ModelLoader, hookimpl

# How far from the start and the end of the file its root element begins and ends at most.
EDGE_BYTES = 4096


class IrLoader:
    """Reads `.xml` paths. The `.bin` may be missing only where the model has no constants."""

    name = "ir"

    def can_load(self, source: object) -> bool:
        """Judge by the suffix."""
        return has_suffix(source, ".xml")

    def load(self, source: StrOrBytesPath, context: LoadContext) -> Graph:
        """Read the pair of files."""
        path = require_file(source)
        with path.open("rb") as file:
            head = file.read(EDGE_BYTES)
            file.seek(max(0, path.stat().st_size - EDGE_BYTES))
            tail = file.read()
        # OpenVINO would hand a foreign .xml to each of its frontends and report what the last one says.
        if b"<net" not in head:
            raise ModelError(f"{str(path)!r} is not an OpenVINO IR: it has no <net> element at its start")
        if b"</net>" not in tail:
            raise ModelError(f"{str(path)!r} is truncated: its <net> element does not end")
        try:
            return context.runtime.read_model(str(path))
        except ModelError as error:
            weights = path.with_suffix(".bin")
            if not weights.exists():
                raise ModelNotFoundError(f"{str(path)!r} needs its weights, and {str(weights)!r} is missing") from error
            raise


@hookimpl
def ovengine_model_loaders() -> list[ModelLoader]:
    """Offer `ir`."""
    return [IrLoader()]
