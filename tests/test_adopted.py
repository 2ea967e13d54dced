"""Objects of the openvino package are taken only where they lie in memory as this build expects."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import types
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest

import ovengine
from ovengine._core import Runtime
from support import PATIENCE, double


class Mimic:
    """An object of another package with the conduit of pybind11, which answers as an inner object does."""

    def __init__(self, inner: Any, answer: Any = ...) -> None:
        self.inner, self.answer = inner, answer

    def _pybind11_conduit_v1_(self, *asked: Any) -> Any:
        return self.inner._pybind11_conduit_v1_(*asked) if self.answer is ... else self.answer


def in_package(monkeypatch: pytest.MonkeyPatch, release: str | None) -> type[Mimic]:
    """The class Mimic in a package whose OpenVINO has this release."""
    package = types.ModuleType("another_openvino")
    if release is not None:
        package.get_version = lambda: release  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, package.__name__, package)
    return type(
        "Model", (Mimic,), {"__module__": package.__name__, "_pybind11_conduit_v1_": Mimic._pybind11_conduit_v1_}
    )


def inner(model: ov.Model) -> Any:
    return model._Model__model


def test_an_object_of_the_same_release_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    source = double()
    mimic = in_package(monkeypatch, ov.get_version())(inner(source))
    assert Runtime().adopt(mimic).name == Runtime().adopt(source).name == "network"


def test_an_object_of_another_release_is_refused_with_both_named(monkeypatch: pytest.MonkeyPatch) -> None:
    mimic = in_package(monkeypatch, "2025.1.0-1-abc")(inner(double()))
    with pytest.raises(
        ovengine.ModelError, match=r"OpenVINO 2025\.1\.0-1-abc, and this ovengine was built for OpenVINO 20"
    ):
        Runtime().adopt(mimic)


def test_an_object_of_a_package_without_a_release_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ovengine.ModelError, match="not a class of the openvino package"):
        Runtime().adopt(in_package(monkeypatch, None)(inner(double())))


@pytest.mark.parametrize("answer", [None, 5, object(), np.zeros(3)])
def test_a_capsule_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    kind = in_package(monkeypatch, ov.get_version())
    with pytest.raises(ovengine.ModelError, match=r"not an openvino\.Model, or was compiled for another C"):
        Runtime().adopt(kind(None, answer))


def test_an_object_of_another_class_of_openvino_is_refused() -> None:
    runtime, source = Runtime(), double()
    compiled = ov.Core().compile_model(source, "CPU")
    for other in (compiled, ov.Tensor(np.zeros(4, np.float32)), ov.Core(), source.inputs[0], None, "model"):
        with pytest.raises(ovengine.ModelError, match=r"not an openvino\.Model"):
            runtime.adopt(other)
    with pytest.raises(ovengine.ModelError, match=r"not an openvino\.CompiledModel"):
        runtime.adopt_compiled(source)


def test_a_subclass_of_openvinos_own_class_is_taken() -> None:
    class Own(ov.CompiledModel):  # type: ignore[misc]  # openvino has no types
        pass

    compiled = ov.Core().compile_model(double(), "CPU")
    assert Runtime().adopt_compiled(Own(compiled, [])).outputs[0].name == "y"


def test_without_the_libraries_of_its_release_the_import_says_what_to_install(tmp_path: Path) -> None:
    package = tmp_path / "ovengine"
    source = Path(ovengine.engine.__file__).parent
    package.mkdir()
    for file in source.iterdir():
        if not file.name.startswith("_core."):
            (package / file.name).symlink_to(file)
    shutil.copy(ovengine._core.__file__, package)  # which looks for the libraries beside itself
    places = [str(tmp_path), *(path for path in sys.path if path != str(source.parent))]
    code = f"import sys; sys.path[:] = {places!r}; import ovengine"
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert f"openvino {version('openvino')} is installed; install the right one with" in done.stderr
    assert f"pip install 'openvino=={version('openvino')}'" in done.stderr
