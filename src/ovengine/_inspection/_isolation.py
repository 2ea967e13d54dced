"""Parses and compiles a model in a child process first, which may crash, hang or run out of memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ovengine._inspection._settings import Inspection
from ovengine._paths import is_path
from ovengine.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from ovengine.config import LoadOptions

# Without the working directory, which Python searches first: it may be the folder of the model.
CHILD = "import sys; sys.path = [*filter(None, sys.path)]; from ovengine._inspection._isolation import child; child()"
# Exit statuses of the child, besides 0: the model is refused, for a reason on standard output.
REFUSED = 3


def load_apart(source: object, options: LoadOptions, loader: str | None) -> None:
    """Load `source` in a child, and let it go. Raises ModelError where the child does not come through."""
    limits = options.inspection or Inspection()
    request: dict[str, Any] = {
        "device": options.device,
        "config": {name: str(value) for name, value in options.config.items()},
        "shapes": options.shapes,
        "loader": loader,
        "inspection": asdict(limits),
    }
    with tempfile.TemporaryFile() as held:
        if is_path(source):
            request["path"] = os.fsdecode(source)
        elif isinstance(source, (bytes, bytearray, memoryview)):
            held.write(source)
            held.flush()
            request["path"] = None
        else:
            raise ConfigError(f"isolate=True takes the path or the bytes of a model, not {type(source).__name__}")
        try:
            text = json.dumps(request)
        except TypeError as error:
            raise ConfigError(f"isolate=True cannot hand on an argument: {error}") from None
        done = _run(text, held.fileno(), limits.isolated_seconds)
    if done.returncode == REFUSED:
        raise ModelError(done.stdout.strip())
    if done.returncode != 0:
        raise ModelError(f"{_name(source)} {_end(done)} in the process that tried it; it is not loaded")


def _run(request: str, held: int, seconds: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CHILD, request, str(held)]
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            pass_fds=[held],
            check=False,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, -signal.SIGALRM, "", "")


def _name(source: object) -> str:
    return repr(os.fsdecode(source)) if is_path(source) else f"the model of {len(source)} bytes"  # type: ignore[arg-type]


def _end(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode == -signal.SIGALRM:
        return "took longer than isolated_seconds"
    if done.returncode < 0:
        return f"ended it with {signal.Signals(-done.returncode).name}"
    last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return f"failed ({last})"


def child() -> None:
    """What the child does: its arguments are the request, and the descriptor of the bytes."""
    import resource

    import ovengine

    request, held = json.loads(sys.argv[1]), int(sys.argv[2])
    inspection = Inspection(**request.pop("inspection"))
    path = request.pop("path")
    source: object = path
    if path is None:
        with open(held, "rb") as file:
            file.seek(0)
            source = file.read()
    with open("/proc/self/statm", encoding="ascii") as statm:
        mapped = int(statm.read().split()[0]) * resource.getpagesize()
    most = mapped + inspection.isolated_memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        model = ovengine.load(source, **request, batcher="none", verify="off", cache_dir=None, inspection=inspection)
        model.close()
    except MemoryError:
        print("the model needs more memory than isolated_memory_bytes")
        sys.exit(REFUSED)
    except ovengine.OvengineError as error:
        print(error)
        sys.exit(REFUSED)
