"""Loader `frontend`: any other file that one of OpenVINO's frontends reads (`.tflite`, `.pb`, `.pdmodel`, ...)."""

from __future__ import annotations

from ovengine._core import Graph
from ovengine._paths import StrOrBytesPath, is_path
from ovengine.builtin.model_loaders._files import require_file
from ovengine.hookspecs import LoadContext, ModelLoader, hookimpl


class FrontendLoader:
    """Lets OpenVINO find out what a file, or a directory such as TensorFlow's SavedModel, is."""

    name = "frontend"

    def can_load(self, source: object) -> bool:
        """Take any path; asked last."""
        return is_path(source)

    def load(self, source: StrOrBytesPath, context: LoadContext) -> Graph:
        """Read the file."""
        return context.runtime.read_model(str(require_file(source)))


@hookimpl(trylast=True)
def ovengine_model_loaders() -> list[ModelLoader]:
    """Offer `frontend`, after all other loaders."""
    return [FrontendLoader()]
