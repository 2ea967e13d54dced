"""What the README shows works, and what other files repeat of pyproject.toml agrees with it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import models

ROOT = Path(__file__).resolve().parent.parent


def blocks(language: str) -> list[str]:
    """Code blocks of the README in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with the files that the README's examples speak of."""
    models.save(models.mlp(*models.TINY_MLP), tmp_path / "model.xml")
    np.save(tmp_path / "rows.npy", np.ones((10, 16), np.float32))
    (tmp_path / "more").mkdir()
    np.save(tmp_path / "more" / "row.npy", np.ones(16, np.float32))
    return tmp_path


@pytest.mark.parametrize("code", blocks("python"))
def test_python_examples_run(directory: Path, code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=directory, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


@pytest.mark.parametrize("line", [line for block in blocks("sh") for line in block.splitlines()])
def test_commands_run(directory: Path, line: str) -> None:
    assert line.startswith("ovengine ")
    command = line.replace("ovengine", f"{shlex.quote(sys.executable)} -m ovengine", 1)
    # What is tuned here must not change what other tests load.
    own_cache = {**os.environ, "OVENGINE_CACHE_DIR": str(directory / "cache")}
    done = subprocess.run(["/bin/sh", "-c", command], cwd=directory, capture_output=True, text=True, env=own_cache)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_the_make_targets_that_documents_name_exist() -> None:
    made = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)) | {"asan", "tsan"}
    for document in ("README.md", "CONTRIBUTING.md", ".ci/run"):
        named = set(re.findall(r"(?:^ *|`)make ([a-z-]+)", (ROOT / document).read_text(), re.MULTILINE))
        assert named, document
        assert named <= made, document


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_build_requirements_agree_with_pyproject() -> None:
    import tomllib  # type: ignore[import-not-found,unused-ignore]  # mypy checks for Python 3.10

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = (ROOT / "requirements" / "build.txt").read_text().splitlines()
    needed = project["build-system"]["requires"]
    assert set(needed) <= set(listed)
    pin = next(requirement for requirement in needed if requirement.startswith("openvino"))
    assert pin in project["project"]["dependencies"]


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="needs a git checkout")
def test_no_file_names_a_home_directory_or_holds_a_model() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        path = ROOT / name
        assert path.suffix not in {".onnx", ".tflite", ".mp4", ".bin", ".blob", ".pb"}, name
        if path.is_file():
            assert not re.search(rb"/(?:home|root|Users)/\w", path.read_bytes()), name
