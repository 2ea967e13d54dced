"""Loader `openvino`: an `openvino.Model` that the caller built or read."""

from __future__ import annotations

import sys

from ovengine._core import Graph
from ovengine.hookspecs import LoadContext, ModelLoader, hookimpl


class OpenVinoLoader:
    """Takes a copy of the model as it is in memory, without a temporary file."""

    name = "openvino"

    def can_load(self, source: object) -> bool:
        """Without importing `openvino`: whoever holds such a model has imported it."""
        openvino = sys.modules.get("openvino")
        model_type = getattr(openvino, "Model", None)
        return isinstance(model_type, type) and isinstance(source, model_type)

    def load(self, source: object, context: LoadContext) -> Graph:
        """Adopt the model."""
        return context.runtime.adopt(source)


@hookimpl
def ovengine_model_loaders() -> list[ModelLoader]:
    """Offer `openvino`."""
    return [OpenVinoLoader()]
