"""Standard output holds results and nothing else; progress, warnings and errors go to standard error.

Either may be closed, full, a pipe that nobody reads any more, or of an encoding that lacks a character. None of it is
a traceback, and no result is lost in silence.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any, TextIO

from ovengine.errors import ConfigError


def prepare() -> None:
    """Before anything is written.

    Raises:
        ConfigError: standard output is closed.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The next file that is opened would get this number, and what is written to the stream.
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # for the rest of the process
    if sys.stdout is None:
        raise ConfigError("standard output is closed")
    for stream in (sys.stdout, sys.stderr):
        # A name may hold what the terminal's encoding, or UTF-8, does not have.
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def write(text: str) -> None:
    """Print a result, and see it out.

    Raises:
        ConfigError: standard output does not take it.
        BrokenPipeError: nobody reads it any more.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        _drop(sys.stdout)
        raise ConfigError(f"cannot write to standard output: {error.strerror or error}") from error


def say(text: str) -> None:
    """A line about the run on standard error, if that can be written."""
    try:
        print(f"ovengine: {' '.join(text.split())}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        _drop(sys.stderr)


def finish() -> bool:
    """See out what is buffered; false when that fails."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
        return True
    except BrokenPipeError:
        pass
    except (OSError, ValueError) as error:
        say(f"cannot write to standard output: {getattr(error, 'strerror', None) or error}")
    _drop(sys.stdout)
    return False


def _drop(stream: TextIO) -> None:
    """What is buffered goes nowhere: the interpreter would try to write it at exit, and fail again."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
