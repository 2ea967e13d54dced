"""The picture of `ovengine bench --plot`. Importing this module needs the extra `plot`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ovengine.cli._options import missing_extra
from ovengine.errors import ConfigError

try:
    from matplotlib.figure import Figure
except ImportError:
    raise missing_extra("matplotlib", "plot", "--plot") from None

if TYPE_CHECKING:
    from ovengine.cli._measuring import Outcome


def draw(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write throughput with its spread, and the share of requests answered within a time.

    Raises:
        ConfigError: matplotlib does not write this kind of file.
    """
    figure = Figure(figsize=(11, 4), layout="constrained")
    bars, curves = figure.subplots(1, 2, width_ratios=[2, 3])
    for place, outcome in enumerate(outcomes):
        rates = outcome.rates
        middle = float(np.median(rates))
        spread = [[middle - min(rates)], [max(rates) - middle]]
        bars.barh(place, middle, xerr=spread, color=f"C{place}", capsize=3)
        latencies = np.sort(outcome.latencies_ms())
        shown = latencies[:: max(1, len(latencies) // 2000)]
        shares = np.linspace(0, 100, len(shown))
        curves.plot(shown, shares, color=f"C{place}", label=outcome.contender.name)
    bars.set_yticks(range(len(outcomes)), [outcome.contender.name for outcome in outcomes])
    bars.invert_yaxis()
    bars.set_xlabel("requests per second (bar: median; line: all rounds)")
    curves.set_xscale("log")
    curves.set_xlabel("latency, ms")
    curves.set_ylabel("requests answered within, %")
    curves.grid(alpha=0.3)
    curves.legend()
    try:
        figure.savefig(path)
    except (ValueError, OSError) as error:
        raise ConfigError(f"cannot write {path}: {error}") from error
