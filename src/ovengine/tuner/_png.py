"""The curves as a picture. Importing this module needs the extra `plot`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ovengine.errors import ConfigError
from ovengine.tuner._report import charts

try:
    from matplotlib.figure import Figure
except ImportError:
    raise ConfigError("drawing the curves needs matplotlib: pip install 'ovengine[plot]'") from None

if TYPE_CHECKING:
    from ovengine.tuner._tune import Tuning


def draw(tuning: Tuning, path: Path) -> None:
    """Write the four charts. Raises ConfigError where matplotlib does not write this kind of file."""
    figure = Figure(figsize=(12, 8), layout="constrained")
    figure.suptitle(f"{tuning.name}: {tuning.why}", wrap=True)
    for axes, chart in zip(figure.subplots(2, 2).flat, charts(tuning), strict=True):
        for name, points in chart.lines:
            axes.plot(*zip(*points, strict=True), marker="o", label=name)
        axes.set(title=chart.title, xlabel=chart.x_label, ylabel=chart.y_label)
        axes.grid(alpha=0.3)
        if chart.log_x:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:g}")
        if chart.log_y:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        if chart.lines:
            axes.legend()
    try:
        figure.savefig(path)
    except (ValueError, OSError) as error:
        raise ConfigError(f"cannot write {path}: {error}") from error
