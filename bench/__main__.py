"""`python -m bench`: measure everything, print the table, write docs/benchmarks.md and the table of README.md."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench import ROOT, core, footprint, widths
from bench.claims import Experiment
from bench.experiments import EXPERIMENTS
from bench.machine import Machine
from bench.report import Report, replace_block
from bench.rounds import Make, Say, best, play, with_capacity

SWEEP_SHARE = 0.5
"""A candidate's run while the best is chosen, as a part of a turn."""
QUIET_PERCENT = 5
"""Of the CPU time: what others may take without a warning."""


def main() -> None:
    """Do what the command line says."""
    options = _options()
    report = Report(Machine.here(), options.rounds, options.seconds)
    chosen = [e for e in EXPERIMENTS if not options.only or e.name in options.only]
    console = Console(stderr=True)
    if report.machine.others_percent > QUIET_PERCENT:
        console.print(f"[yellow]others use {report.machine.others_percent:g} % of the CPUs: expect a wide spread[/]")
    if not console.is_terminal:
        console.width = 160
    now = TextColumn("{task.fields[now]}")
    columns = (TextColumn("[bold]{task.description}"), BarColumn(), TimeElapsedColumn(), now)
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=len(chosen) + (0 if options.only else 3), now="")

        def tell(what: str) -> None:
            progress.update(bar, now=what)

        @contextlib.contextmanager
        def stage(name: str) -> Iterator[None]:
            progress.update(bar, description=name)
            if not console.is_terminal:  # where the bar shows only at the end
                console.print(name)
            yield
            progress.advance(bar)

        for experiment in chosen:
            with stage(experiment.name):
                run(experiment, report, tell)
        if not options.only:
            with stage("many widths"):
                report.add_widths(widths.measure(options.widths, tell))
            with stage("memory and rest"):
                report.footprint = footprint.measure()
            with stage("core"):
                report.core = core.measure()
        progress.update(bar, description="done", now="")
    console.print(_table(report))

    if options.json is not None:
        text = json.dumps(report.as_json(), indent=2)
        if options.json == Path("-"):
            print(text)
        else:
            options.json.write_text(text + "\n")
    if not options.only and not options.dry_run:
        (ROOT / "docs" / "benchmarks.md").write_text(report.page())
        replace_block(ROOT / "README.md", report.readme_table())


def run(experiment: Experiment, report: Report, tell: Say) -> None:
    """Choose the best candidates, let them take turns, and report."""
    seconds, rounds = report.seconds * experiment.seconds, report.rounds * experiment.rounds
    work = with_capacity(experiment.capacity, experiment.work(), seconds * SWEEP_SHARE, tell)
    chosen: dict[str, Make] = {}
    for key, candidates in experiment.field.items():
        tell(key)
        chosen[key] = best([partial(make, work) for make in candidates], seconds * SWEEP_SHARE, tell)
    turns, field = play(chosen, rounds, seconds, tell)
    report.add(experiment, {key: field[key] for key in chosen}, turns)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    names = [experiment.name for experiment in EXPERIMENTS]
    parser.add_argument("--only", action="append", choices=names, help="this experiment (may be repeated); no writing")
    parser.add_argument("--rounds", type=int, default=16, help="rounds of each experiment, at least (default 16)")
    parser.add_argument("--seconds", type=float, default=0.2, help="about how long one turn takes (default 0.2)")
    every = len(widths.WIDTHS)
    parser.add_argument(
        "--widths", type=int, default=every // 5, help=f"images of many widths, of {every} (default %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, too; - prints it")
    parser.add_argument("--dry-run", action="store_true", help="leave docs/benchmarks.md and README.md as they are")
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds and --seconds must be positive")
    return options


def _table(report: Report) -> Table:
    table = Table("work", "beside", "to reach", "median", "quartiles", "ceiling")
    for line in report.lines:
        style = {True: "green", False: "red", None: ""}[line.reached]
        ceiling = f"{line.ceiling.median:.3g} x" if line.ceiling else ""
        quartiles = f"{line.ratio.lower:.3g} - {line.ratio.upper:.3g}"
        median = f"{line.ratio.median:.3g} {line.claim.unit}"
        median = f"[{style}]{median}[/]" if style else median
        table.add_row(line.claim.what, line.claim.peer, line.target, median, quartiles, ceiling)
    return table


if __name__ == "__main__":
    main()
