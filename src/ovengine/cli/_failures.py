"""Errors of many requests: equal ones are one line, with a count."""

from __future__ import annotations

import re
from collections.abc import Callable

# Errors that differ only in these are equal: sizes, and names that OpenVINO makes up.
_NUMBER = re.compile(r"\d+")
MOST_KINDS = 10


class Failures:
    """Counts errors by kind. `say` prints a line; `report` says it all."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._kinds: dict[str, tuple[str, int]] = {}
        self._others = 0
        self.count = 0

    def add(self, source: str, error: Exception) -> None:
        """Take one."""
        self.count += 1
        text = " ".join(str(error).split())
        kind = _NUMBER.sub("#", text.replace(source, ""))
        if kind in self._kinds:
            first, count = self._kinds[kind]
            self._kinds[kind] = first, count + 1
        elif len(self._kinds) < MOST_KINDS:
            self._kinds[kind] = text if source in text else f"{source}: {text}", 1
        else:
            self._others += 1

    def report(self) -> None:
        """Print a line for each kind, the first of it with the number of others."""
        for first, count in self._kinds.values():
            self._say(first if count == 1 else f"{first} (and {count - 1} more like it)")
        if self._others:
            self._say(f"{self._others} errors of other kinds")
