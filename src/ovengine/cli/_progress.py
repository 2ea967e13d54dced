"""What a command is at, on standard error, for whoever sits before a terminal."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import AbstractContextManager

from ovengine.cli import _streams

# What is over sooner needs no progress.
DELAY_S = 2.0
TICK_S = 0.5
BAR = 20


class Progress(AbstractContextManager["Progress"]):
    """A line that tells the stage, and how far it is; nothing where standard error is no terminal.

    One stage at a time; each is shown once it has taken DELAY_S. Lines about errors go through `say` meanwhile. All
    methods from any thread.

    what: the stage is at, in words; may be set.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._is_shown = not quiet and sys.stderr.isatty()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._drawn = False
        self.stage("")

    def __enter__(self) -> Progress:
        if self._is_shown:
            self._thread = threading.Thread(target=self._run, name="ovengine-progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            self._clear()

    def stage(self, what: str, total: float | None = None, unit: str = "", *, timed: bool = False) -> None:
        """Begin the next stage. With `total` it has a bar; with `unit` the bar has figures, too.

        The total of a `timed` stage is seconds, which pass by themselves.
        """
        with self._lock:
            self._clear()
            self.what, self._total, self._unit, self._timed = what, total, unit, timed
            self._done = 0.0
            self._began = time.monotonic()

    def advance(self, amount: float = 1) -> None:
        """Go on with the stage."""
        self._done += amount

    def update(self, done: float, what: str) -> None:
        """Say how far the stage is, and what it is at."""
        self._done, self.what = done, what

    def say(self, text: str) -> None:
        """Print a line of its own."""
        with self._lock:
            self._clear()
            _streams.say(text)

    def _run(self) -> None:
        while not self._over.wait(TICK_S):
            with self._lock:
                if self.what and time.monotonic() - self._began >= DELAY_S:
                    self._write("\r" + self._line().ljust(_columns() - 1))
                    self._drawn = True

    def _line(self) -> str:
        seconds = time.monotonic() - self._began
        parts = [self.what]
        if self._total:
            share = min(1.0, (seconds if self._timed else self._done) / self._total)
            filled = int(share * BAR)
            parts.append(f"{share:4.0%} [{'#' * filled}{'.' * (BAR - filled)}]")
            if self._unit:
                parts.append(f"{self._done:.0f}/{self._total:.0f} {self._unit}")
            if 0 < share < 1:
                parts.append(f"{_clock(seconds / share - seconds)} left")
        elif self._unit:
            parts.append(f"{self._done:.0f} {self._unit}")
        parts.append(_clock(seconds))
        return "  ".join(parts)[: _columns() - 1]

    def _clear(self) -> None:
        if self._drawn:
            self._write("\r" + " " * (_columns() - 1) + "\r")
            self._drawn = False

    def _write(self, text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except (OSError, ValueError):  # the terminal is gone
            self._over.set()


def _columns() -> int:
    """Of standard error's terminal, which output may not go to."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02}"
