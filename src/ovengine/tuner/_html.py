"""The report as one page: no script, no network, light or dark as the reader's system is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING

from ovengine.tuner._report import HEADER, INCOMPLETE, Chart, charts, table

if TYPE_CHECKING:
    from ovengine.tuner._tune import Tuning

WIDTH, HEIGHT = 520, 320
LEFT, RIGHT, TOP, BOTTOM = 70, 12, 28, 44
COLOURS = 6
NUMBERS = slice(4, 8)  # columns of HEADER

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --page: #fff; --faint: #8883; --mark: #fff3c4;
  --c0: #0060c0; --c1: #c04a00; --c2: #1a7f37; --c3: #8250df; --c4: #b3123f; --c5: #57606a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --page: #14181d; --mark: #4a3d0b;
  --c0: #6cb6ff; --c1: #f69d50; --c2: #6bc46d; --c3: #c297ff; --c4: #ff8096; --c5: #adbac7; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 72rem;
  margin: 2rem auto; padding: 0 1rem; }
.why { font-size: 1.2rem; }
.charts { display: flex; flex-wrap: wrap; gap: 1rem; }
svg { max-width: 100%; height: auto; }
svg text { fill: var(--ink); font-size: 12px; }
svg .title { font-size: 14px; font-weight: 600; }
.grid { stroke: var(--faint); }
.line { fill: none; stroke-width: 2; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; }
th, td { padding: .25rem .6rem; text-align: left; border-bottom: 1px solid var(--faint); }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.chosen { background: var(--mark); }
"""


def page(tuning: Tuning) -> str:
    """The whole document."""
    conditions = tuning.profile.conditions
    facts = {
        "device": f"{conditions.device}: {conditions.device_name}",
        "CPUs": str(conditions.cpus),
        "OpenVINO": conditions.openvino,
        "hint": conditions.hint,
        "limit": "none" if tuning.found.p99_ms is None else f"p99 within {tuning.found.p99_ms:g} ms",
    }
    listed = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts.items())
    drawn = "".join(svg(chart) for chart in charts(tuning))
    unseen = "" if tuning.found.complete else f"<p>{INCOMPLETE}</p>\n"
    title = f"ovengine tune: {escape(tuning.name)}"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n"
        f'<body><h1>{title}</h1>\n<p class="why">{escape(tuning.why)}</p>\n{unseen}'
        f'<table>{listed}</table>\n<h2>Curves</h2>\n<div class="charts">{drawn}</div>\n'
        f"<h2>All that was measured</h2>\n{_candidates(tuning)}\n"
        "<p>Throughput and its spread are of the closed loop, which keeps every lane busy; latencies in the table are "
        "those at saturation. Over offered load, arrivals are random (Poisson), and latency counts from the intended "
        "arrival.</p></body></html>\n"
    )


def _candidates(tuning: Tuning) -> str:
    numbers = range(len(HEADER))[NUMBERS]

    def row(cells: Sequence[str], tag: str, chosen: bool = False) -> str:
        right = ' class="number"'
        marked = ' class="chosen"' if chosen else ""
        texts = (
            f"<{tag}{right if index in numbers else ''}>{escape(text)}</{tag}>" for index, text in enumerate(cells)
        )
        return f"<tr{marked}>{''.join(texts)}</tr>"

    rows = [
        row(cells, "td", candidate is tuning.found.chosen)
        for cells, candidate in zip(table(tuning), tuning.found.candidates, strict=True)
    ]
    return f'<div class="scroll"><table>{row(HEADER, "th")}{"".join(rows)}</table></div>'


# -- charts -----------------------------------------------------------------------------------------------------------


def svg(chart: Chart) -> str:
    """A chart, drawn with the colours of the page."""
    points = [point for _, line in chart.lines for point in line]
    if not points:
        return ""
    x_ticks = _ticks([x for x, _ in points], chart.log_x, 2)
    y_ticks = _ticks([y for _, y in points], chart.log_y, 10)
    x_at = _scale(x_ticks, chart.log_x, LEFT, WIDTH - RIGHT)
    y_at = _scale(y_ticks, chart.log_y, HEIGHT - BOTTOM, TOP)
    right, floor = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 18 * len(chart.lines)}" width="{WIDTH}" role="img" '
        f'aria-label="{escape(chart.title)}">',
        f'<text class="title" x="{LEFT}" y="16">{escape(chart.title)} ({escape(chart.y_label)})</text>',
        f'<text x="{(LEFT + right) / 2}" y="{floor + 36}" text-anchor="middle">{escape(chart.x_label)}</text>',
    ]
    for tick in x_ticks:
        at = x_at(tick)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{floor}"/>')
        parts.append(f'<text x="{at:.1f}" y="{floor + 16}" text-anchor="middle">{tick:,g}</text>')
    for tick in y_ticks:
        at = y_at(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{tick:,g}</text>')
    for index, (name, line) in enumerate(chart.lines):
        colour = f"var(--c{index % COLOURS})"
        path = " ".join(f"{x_at(x):.1f},{y_at(y):.1f}" for x, y in line)
        parts.append(f'<polyline class="line" stroke="{colour}" points="{path}"/>')
        parts += [f'<circle cx="{x_at(x):.1f}" cy="{y_at(y):.1f}" r="3" fill="{colour}"/>' for x, y in line]
        at = HEIGHT + 18 * index + 10
        parts.append(f'<rect x="{LEFT}" y="{at - 9}" width="14" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{LEFT + 20}" y="{at}">{escape(name)}</text>')
    return "".join([*parts, "</svg>"])


def _scale(ticks: Sequence[float], log: bool, start: float, end: float) -> Callable[[float], float]:
    def place(value: float) -> float:
        return math.log(value) if log else value

    low, high = place(ticks[0]), place(ticks[-1])
    return lambda value: start + (place(value) - low) / (high - low) * (end - start)


def _ticks(values: Sequence[float], log: bool, base: int) -> list[float]:
    """Round values that hold all of these between them; at least two."""
    if log:
        low = math.floor(math.log(min(values), base) + 1e-9)
        high = math.ceil(math.log(max(values), base) - 1e-9)
        return [float(base) ** power for power in range(low, max(high, low + 1) + 1)]
    step = 10 ** math.floor(math.log10(max(values) or 1.0))
    step = next(s for s in (step / 5, step / 2, step, step * 2) if max(values) <= 6 * s)
    return [step * index for index in range(max(2, math.ceil(max(values) / step) + 1))]
