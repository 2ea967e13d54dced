"""The folders of the native core are layers: each includes only those that docs/design.md lists above it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
NATIVE = ROOT / "src" / "_native"


def sources() -> list[Path]:
    """Of the core, tests excepted."""
    return [path for path in sorted(NATIVE.glob("*/*.[hc]pp")) if path.parent.name != "tests"]


def layers() -> dict[str, int]:
    """Folder -> its line in the table of docs/design.md."""
    table = (ROOT / "docs" / "design.md").read_text().partition("## The native core")[2].partition("### Lanes")[0]
    lines = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in table.splitlines() if line.startswith("| `")]
    return {folder: level for level, folders in enumerate(lines) for folder in folders}


def test_a_folder_includes_only_what_is_above_it() -> None:
    level = layers()
    folders = {path.name for path in NATIVE.iterdir() if path.is_dir()} - {"tests"}
    assert folders == level.keys()
    included = 0
    for source in sources():
        for folder in re.findall(r'#include "(\w+)/', source.read_text()):
            assert level[folder] <= level[source.parent.name], f"{source.relative_to(ROOT)} includes {folder}/"
            included += 1
    assert included > 50


def test_only_the_openvino_device_knows_openvino_and_only_the_binding_knows_python() -> None:
    for source in sources():
        text, where = source.read_text(), source.relative_to(NATIVE).as_posix()
        assert "<openvino" not in text or where.startswith(("device/openvino_", "binding/")), where
        assert "Python.h" not in text or where.startswith("binding/"), where
