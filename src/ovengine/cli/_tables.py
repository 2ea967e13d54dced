"""Text that fits the terminal: tables, and lines that are wrapped."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Sequence

GAP = 2
# Below that a terminal is narrower than words are long.
LEAST_COLUMNS = 30
# Of the last column of a table, if it is to be wrapped.
LEAST_TEXT = 16


def columns() -> int:
    """Of standard output's terminal, or of COLUMNS; 80 where there is neither."""
    return max(LEAST_COLUMNS, shutil.get_terminal_size((80, 24)).columns)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """A table no wider than the terminal.

    Where it is too wide, the text of its last column is wrapped; where that is not enough, each row becomes a
    paragraph.

    Args:
        header: of all columns.
        rows: cells, as many in each row.
        right: columns that are aligned to the right.
    """
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    room = columns() - sum(width + GAP for width in widths[:-1])
    if room < min(widths[-1], LEAST_TEXT):
        return "\n".join(_paragraph(header, row) for row in rows)
    shown: list[str] = []
    for line in lines:
        *cells, last = (
            text.rjust(width) if column in right else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        start = "".join(cell + " " * GAP for cell in cells)
        texts = [last] if len(last) <= room else textwrap.wrap(line[-1], room) or [""]
        shown.append((start + texts[0]).rstrip())
        shown += [" " * len(start) + text for text in texts[1:]]
    return "\n".join(shown)


def _paragraph(header: Sequence[str], row: Sequence[str]) -> str:
    cells = (f"{name} {text}" for name, text in zip(header[1:], row[1:], strict=True) if text)
    return wrapped(f"{row[0]}\n  {', '.join(cells)}")


def wrapped(text: str) -> str:
    """Each line broken where it is longer than the terminal is wide, and indented like the column that it ends."""
    return "\n".join(_wrapped_line(line, columns()) for line in text.splitlines())


def _wrapped_line(line: str, width: int) -> str:
    if len(line) <= width:
        return line
    starts = [match.end() for match in re.finditer(r"^ *|  +", line)]
    indent = max((start for start in starts if start <= width // 2), default=0)
    # Wrapping would run the gaps between columns together, so what comes before the last column stays as it is.
    head, tail = line[:indent], line[indent:]
    lines = textwrap.wrap(tail, width, initial_indent=head, subsequent_indent=" " * indent, break_on_hyphens=False)
    return "\n".join(lines) or line
