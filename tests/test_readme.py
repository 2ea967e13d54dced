"""What the README shows works, and what other files repeat of pyproject.toml agrees with it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """Code blocks of the README in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the examples run, one after the other: the first one saves the model of the others."""
    return tmp_path_factory.mktemp("readme")


@pytest.fixture(scope="module")
def ran(directory: Path) -> list[subprocess.CompletedProcess[str]]:
    return [
        subprocess.run([sys.executable, "-c", code], cwd=directory, capture_output=True, text=True)
        for code in blocks("python")
    ]


@pytest.mark.parametrize("index", range(len(blocks("python"))))
def test_python_examples_print_what_is_shown(ran: list[subprocess.CompletedProcess[str]], index: int) -> None:
    done = ran[index]
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout == blocks("text")[index]


def test_each_python_example_is_followed_by_its_output() -> None:
    languages = [language for language in re.findall(r"^```(\w+)$", README, re.MULTILINE) if language != "sh"]
    assert languages == ["python", "text"] * len(blocks("python"))


@pytest.mark.parametrize("line", [line for block in blocks("sh") for line in block.splitlines()])
@pytest.mark.usefixtures("ran")
def test_commands_run(directory: Path, line: str) -> None:
    assert line.startswith("ovengine ")
    command = line.replace("ovengine", f"{shlex.quote(sys.executable)} -m ovengine", 1)
    # What is tuned here must not change what other tests load.
    own_cache = {**os.environ, "OVENGINE_CACHE_DIR": str(directory / "cache")}
    done = subprocess.run(["/bin/sh", "-c", command], cwd=directory, capture_output=True, text=True, env=own_cache)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_the_readme_is_short_and_names_the_two_commands() -> None:
    assert len(README.splitlines()) < 120
    assert {"make demo", "make test"} <= set(re.findall(r"`(make \w+)`", README))


def test_what_documents_link_to_exists() -> None:
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("plugins/*/*.md")]:
        where = document.relative_to(ROOT)
        text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
        for target, anchor in re.findall(r"\]\((?!https?://)([^)#]*)(?:#([^)]*))?\)", text):
            file = document.parent / target if target else document
            assert file.exists(), f"{where} links to {target}"
            if anchor:
                content = file.read_text()
                headings = re.findall(r"^#+ (.*)$", content, re.MULTILINE)
                named = {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
                assert anchor in named or f'id="{anchor}"' in content, f"{where} links to #{anchor}"


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
