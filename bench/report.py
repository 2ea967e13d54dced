"""What was found, as Markdown for people and as plain values for JSON."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.claims import Claim, Experiment
from bench.contenders import Contender
from bench.core import CoreFigure
from bench.footprint import FEW, MANY, Footprint
from bench.machine import Machine
from bench.rounds import Spread, name_of
from bench.stolen import CALM, Runs
from bench.widths import TARGET, WIDTHS, Outcome

BEGIN = "<!-- benchmarks: begin (written by make bench) -->"
END = "<!-- benchmarks: end -->"

CEILING = """\
Ratios of speed; of latency where it says so. The ceiling is what the own C++ loop reaches beside the same peer, in the
same rounds: raw `infer()` at the best batch size on all cores, with no Python and no requests. Where it is below the
target, so is everything on this machine."""


@dataclass(frozen=True)
class Line:
    """How one claim came out."""

    claim: Claim
    ratio: Spread
    ceiling: Spread | None

    @property
    def reached(self) -> bool | None:
        """Whether the median is where it should be; None where nothing was claimed."""
        if self.claim.target is None:
            return None
        return self.ratio.median <= self.claim.target if self.claim.latency else self.ratio.median >= self.claim.target

    @property
    def target(self) -> str:
        """As the table says it."""
        if self.claim.target is None:
            return ""
        target = f"{self.claim.target:g} {self.claim.unit}"
        return f"at most {target}" if self.claim.latency else target


@dataclass(frozen=True)
class Figure:
    """How one contender did, over the rounds: what was compared in microseconds (of what: `unit`), and as what."""

    work: str
    contender: str
    us: Spread
    unit: str
    detail: str

    @property
    def rate(self) -> str:
        """How many a second that makes; nothing where it is a latency."""
        return f"{1e6 / self.us.median:,.0f}" if self.unit.startswith("us a") else ""


@dataclass
class Report:
    """All that one run found."""

    machine: Machine
    rounds: int
    seconds: float
    repeated: dict[str, tuple[int, float]] = dataclasses.field(default_factory=dict)
    """By experiment: rounds that were set aside, and how much was stolen of those that count, of the CPU time."""
    lines: list[Line] = dataclasses.field(default_factory=list)
    figures: list[Figure] = dataclasses.field(default_factory=list)
    widths: Outcome | None = None
    footprint: Footprint | None = None
    core: list[CoreFigure] = dataclasses.field(default_factory=list)

    def add(self, experiment: Experiment, field: Mapping[str, Contender], turns: Runs[Mapping[str, float]]) -> None:
        """The outcome of an experiment: who took part, and what `take_turns` found."""
        self.repeated[experiment.name] = turns.set_aside, turns.stolen
        us: defaultdict[str, list[float]] = defaultdict(list)
        for taken in turns.values:
            for name, value in taken.items():
                us[name].append(value)
        for claim in experiment.claims:
            if claim.figure:
                values = us.get(name_of(claim.ours, claim.figure))
                if values:  # where nothing is refused, no refusal takes time
                    self.lines.append(Line(claim, Spread.of(values), None))
                continue
            ratio = _ratio(us, claim.ours, claim.peer, claim.latency)
            ceiling = _ratio(us, claim.ceiling, claim.peer) if claim.ceiling else None
            self.lines.append(Line(claim, ratio, ceiling))
        for key, contender in field.items():
            name = contender.name if key in (contender.name, "infer_rows") else f"{key}: {contender.name}"
            self.figures.append(Figure(contender.work.name, name, Spread.of(us[key]), contender.unit, contender.detail))

    def add_widths(self, found: Outcome) -> None:
        """The outcome of `bench.widths`, and its line."""
        self.widths = found
        work = f"text-direction CNN, {found.requests:,} images of as many widths (of {len(WIDTHS):,})"
        self.lines.append(Line(Claim(work, "AsyncInferQueue", TARGET), found.ratio, None))
        self.figures.append(Figure(work, "ovengine", found.ours_us, "us a request", found.ours))
        self.figures.append(Figure(work, "AsyncInferQueue", found.peer_us, "us a request", found.peer))

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        lines = [
            {**asdict(line.claim), "ratio": asdict(line.ratio), "reached": line.reached}
            | ({"ceiling_ratio": asdict(line.ceiling)} if line.ceiling else {})
            for line in self.lines
        ]
        return {
            "machine": asdict(self.machine),
            "rounds": self.rounds,
            "seconds_per_turn": self.seconds,
            "repeated": {
                name: {"set_aside": set_aside, "still_stolen": stolen}
                for name, (set_aside, stolen) in self.repeated.items()
            },
            "lines": lines,
            "figures": [asdict(figure) for figure in self.figures],
            "widths": asdict(self.widths) if self.widths else None,
            "footprint": asdict(self.footprint) if self.footprint else None,
            "core": [asdict(figure) for figure in self.core],
        }

    # --- Markdown ---

    def readme_table(self) -> str:
        """The headlines."""
        lines = [line for line in self.lines if line.claim.headline]
        rows = [(line.claim.what, line.claim.peer, _speed(line), _quartiles(line.ratio)) for line in lines]
        return "\n".join(
            [
                *_table(("work", "compared with", "median", "quartiles"), rows),
                "",
                f"Ratios of speed (of latency where it says so), measured in turns on {self.machine.brief}, at f32.",
            ]
        )

    def page(self) -> str:
        """docs/benchmarks.md."""
        return "\n".join([*self._introduction(), *self._ratios(), *self._figures(), *self._core(), *self._rest()])

    def _introduction(self) -> Iterator[str]:
        machine = self.machine
        yield f"""# Benchmarks

Written by `make bench`; do not edit. What is measured is in `bench/`: `pytest bench` runs the same under
pytest-benchmark.

Each ratio comes from one run, in which the contenders took turns, each round in another order: {self.rounds}
rounds, about {self.seconds:g} s a turn, or a multiple of both where a small difference matters. Before the first half
of the rounds the contenders are made in one order, before the second in the other; the first round of each half does
not count. A ratio is taken within each round; the table has the median, the quartiles and the extremes. A request
counts as answered when the caller holds an array of its outputs, and the answers of every turn are compared with those
of `compiled_model(x)`. All compute in f32. Every peer is the fastest of its candidates, chosen before the rounds in a
final of those that were fastest one by one (`bench/experiments.py` lists them); ovengine has its defaults.

Where a hypervisor gave more than {CALM:.2%} of a round's CPU time to other guests, the round is set aside and another
one is run, whatever it showed, up to twice as many rounds in all; then those with the least stolen are taken as well.

Where a load is offered, requests come at random (Poisson) at a rate that is a part of what was measured right before,
at the same moments for all contenders. A latency counts from when a request was due until a callback has its answer.

## Machine
"""
        isa = ", ".join(machine.isa) + machine.lacks
        yield f"- {machine.cpu}, {machine.cores} cores, {machine.memory_gib} GiB; {isa}"
        yield f"- {machine.system}, CPython {machine.python}, NumPy {machine.numpy}, OpenVINO {machine.openvino}"
        yield f"- others took {machine.others_percent:g} % of the CPU time in the second before"
        aside = sum(set_aside for set_aside, _ in self.repeated.values())
        noisy = [f"{name} {stolen:.1%}" for name, (_, stolen) in self.repeated.items() if stolen > CALM]
        yield f"- {aside} rounds set aside; still stolen of those that count: {', '.join(noisy) or 'next to nothing'}"
        yield ""

    def _ratios(self) -> Iterator[str]:
        yield "## Ratios\n"
        rows = [
            (
                line.claim.what,
                line.claim.peer,
                line.target,
                _speed(line),
                _quartiles(line.ratio),
                f"{_digits(line.ratio.least)} - {_digits(line.ratio.most)}",
                _digits(line.ceiling.median) + " x" if line.ceiling else "",
            )
            for line in self.lines
        ]
        yield from _table(("work", "beside", "to reach", "median", "quartiles", "extremes", "ceiling"), rows)
        yield ""
        if any(line.ceiling for line in self.lines):
            yield CEILING
            yield ""
        missed = [line for line in self.lines if line.reached is False]
        if missed:
            yield "Not reached here:\n"
            for line in missed:
                most = f"; the ceiling is {_digits(line.ceiling.median)} x" if line.ceiling else ""
                beside = f", beside {line.claim.peer}" if line.claim.peer else ""
                yield f"- {line.claim.what}{beside}: {_speed(line)} of {line.target}{most}"
            yield ""

    def _figures(self) -> Iterator[str]:
        yield "## The figures behind them\n"
        rows = [
            (f.work, f.contender, f"{_digits(f.us.median)} {f.unit}", _quartiles(f.us), f.rate, f.detail)
            for f in self.figures
        ]
        yield from _table(("work", "contender", "median", "quartiles", "a second", "as"), rows)
        yield ""

    def _core(self) -> Iterator[str]:
        if not self.core:
            return
        yield "## The core alone\n"
        yield (
            "Claim, write, publish and complete, on a device that takes no time, beside the same with a mutex and a "
            "deque;\nnanoseconds per row (`bench/native`)."
        )
        yield ""
        rows = [
            (
                figure.work,
                figure.version,
                _digits(figure.ns_per_row),
                f"{_digits(figure.min)} - {_digits(figure.max)}",
                f"{figure.allocations_per_row:.3g}",
            )
            for figure in self.core
        ]
        yield from _table(("work", "version", "ns per row", "extremes", "allocations per row"), rows)
        yield ""

    def _rest(self) -> Iterator[str]:
        if self.footprint is None:
            return
        found = self.footprint
        yield "## Memory and rest\n"
        yield f"- Resident set after {FEW:,} requests {found.few_kib:,} KiB, after {MANY:,} {found.many_kib:,} KiB."
        if self.widths is not None:
            few, many = self.widths.few_mib, self.widths.many_mib
            yield f"- Resident set after a fifth of the images of many widths {few:,} MiB, after all {many:,} MiB."
        yield f"- CPU time of a process with a loaded model and nothing to do: {found.idle_percent:.3f} % of a core."
        yield ""


def replace_block(file: Path, text: str) -> None:
    """Put `text` between the marks in `file`.

    Raises:
        ValueError: the marks are not there.
    """
    content = file.read_text()
    if content.count(BEGIN) != 1 or content.count(END) != 1:
        raise ValueError(f"{file} has no block between {BEGIN} and {END}")
    before, rest = content.split(BEGIN)
    _, after = rest.split(END)
    file.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def _ratio(us: Mapping[str, Sequence[float]], ours: str, peer: str, latency: bool = False) -> Spread:
    pairs = zip(us[ours], us[peer], strict=True)
    return Spread.of([mine / theirs if latency else theirs / mine for mine, theirs in pairs])


def _speed(line: Line) -> str:
    return f"{_digits(line.ratio.median)} {line.claim.unit}"


def _quartiles(spread: Spread) -> str:
    return f"{_digits(spread.lower)} - {_digits(spread.upper)}"


def _digits(value: float) -> str:
    """Three digits, or all those before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(row)} |"
