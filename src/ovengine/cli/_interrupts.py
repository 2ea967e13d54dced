"""Ctrl-C at the right moment: not in the middle of a line, and while OpenVINO compiles, too."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TypeVar

Value = TypeVar("Value")


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Put off a Ctrl-C until the block is done, so that what it writes is whole. A second one ends it all the same."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupted = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupted:
        raise KeyboardInterrupt


def interruptible(work: Callable[[], Value]) -> Value:
    """Do `work` on another thread, so that this one hears Ctrl-C even where OpenVINO compiles for minutes.

    What is left behind then cannot be ended: see `leave`.
    """
    results: list[Value] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        global _left_behind
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    threading.Thread(target=run, name="ovengine-load", daemon=True).start()
    try:
        done.wait()
    except KeyboardInterrupt:
        global _left_behind
        _left_behind = True
        raise
    if errors:
        raise errors[0]
    return results[0]


_left_behind = False


def leave(status: int) -> None:
    """End the process now if work was left behind: the interpreter's own end would pull the floor from under it."""
    if _left_behind:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
