"""Build ovengine and run a smoke test on every CPython from 3.10 to 3.13 that this machine has.

python tests/pythons.py DIRECTORY, which gets one environment per version. Exit status 1 if one fails.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

VERSIONS = ("3.10", "3.11", "3.12", "3.13")
ROOT = Path(__file__).resolve().parent.parent


def candidates(version: str) -> Iterator[str]:
    """Where an interpreter of this version may be: on the PATH, or installed by pyenv."""
    name = f"python{version}"
    for directory in os.get_exec_path():
        if found := shutil.which(name, path=directory):
            yield found
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from map(str, sorted(pyenv.glob(f"versions/*/bin/{name}")))


def usable(interpreter: str, version: str) -> bool:
    """Whether it runs, is a CPython of this version (no shim without one behind), and can build extensions."""
    code = (
        "import ensurepip, os, sys, sysconfig, venv;"
        "os.stat(sysconfig.get_path('include') + '/Python.h');"
        "print(sys.implementation.name, '%d.%d' % sys.version_info[:2])"
    )
    asked = subprocess.run([interpreter, "-c", code], capture_output=True, text=True)
    return asked.returncode == 0 and asked.stdout.split() == ["cpython", version]


def build_and_smoke(interpreter: str, environment: Path) -> None:
    """Build, install and use ovengine in a fresh environment. Raises CalledProcessError."""
    shutil.rmtree(environment, ignore_errors=True)
    python = environment / "bin" / "python"
    pip: list[str | Path] = [python, "-m", "pip", "--disable-pip-version-check", "install", "-qq"]
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    commands: list[list[str | Path]] = [
        [interpreter, "-m", "venv", environment],
        [*pip, "-r", ROOT / "requirements" / "build.txt"],
        [*pip, "--no-build-isolation", ROOT],
        # From another directory, so that the installed package is what is imported.
        [python, ROOT / "tests" / "smoke.py"],
    ]
    for command in commands:
        subprocess.run(command, check=True, cwd=environment.parent, env={**os.environ, "PATH": path})


def main() -> int:
    """Run all versions; return the exit status."""
    base = Path(sys.argv[1]).resolve()
    base.mkdir(parents=True, exist_ok=True)
    failed, done = [], []
    for version in VERSIONS:
        interpreter = next((found for found in candidates(version) if usable(found, version)), None)
        if interpreter is None:
            print(f"==> Python {version}: not on this machine", flush=True)
            continue
        print(f"==> Python {version}: {interpreter}", flush=True)
        started = time.monotonic()
        try:
            build_and_smoke(interpreter, base / version)
        except subprocess.CalledProcessError as error:
            print(f"    failed: {error}", flush=True)
            failed.append(version)
        else:
            print(f"    ok, {time.monotonic() - started:.0f} s", flush=True)
            shutil.rmtree(base / version)  # half a gigabyte
            done.append(version)
    print(f"==> passed: {', '.join(done) or 'none'}; failed: {', '.join(failed) or 'none'}")
    return 1 if failed or not done else 0


if __name__ == "__main__":
    sys.exit(main())
