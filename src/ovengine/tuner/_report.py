"""A tuning as JSON, as text, and as charts, from which both the page and the picture are drawn."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ovengine.profile import Settings
from ovengine.tuner._candidates import Candidate
from ovengine.tuner._measuring import Turn

if TYPE_CHECKING:
    from ovengine.tuner._tune import Tuning

HEADER = ("setting", "batch sizes", "lanes", "precision", "requests/s", "spread", "p50 ms", "p99 ms", "note")


INCOMPLETE = "Time was up before every setting had been looked at; --seconds gives it more."


@dataclass(frozen=True)
class Chart:
    """Lines over one axis; both axes start at 0, or are logarithmic."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[tuple[str, tuple[tuple[float, float], ...]], ...]
    log_x: bool = False
    log_y: bool = False


def middle(turns: Sequence[Turn]) -> Turn | None:
    """The median of each figure; None of no turns."""
    if not turns:
        return None
    return Turn(
        statistics.median(turn.rate for turn in turns),
        statistics.median(turn.p50_ms for turn in turns),
        statistics.median(turn.p99_ms for turn in turns),
        sum(turn.requests for turn in turns),
    )


def by_rate(turns: Sequence[dict[float, Turn]]) -> dict[float, Turn]:
    """Of open-loop turns, the median turn of each rate."""
    rates = sorted({rate for turn in turns for rate in turn})
    found = {rate: middle([turn[rate] for turn in turns if rate in turn]) for rate in rates}
    return {rate: turn for rate, turn in found.items() if turn is not None}


# -- JSON and text ----------------------------------------------------------------------------------------------------


def as_json(tuning: Tuning) -> dict[str, Any]:
    """What `ovengine tune --json` prints."""
    return {
        "model": tuning.name,
        "why": tuning.why,
        "p99_limit_ms": tuning.found.p99_ms,
        "meets_limit": tuning.meets_limit,
        "complete": tuning.found.complete,
        "profile": tuning.profile.to_json(),
        "chosen": tuning.found.candidates.index(tuning.found.chosen),
        "default": tuning.found.candidates.index(tuning.found.default),
        "candidates": [_candidate_json(candidate, tuning.found.p99_ms) for candidate in tuning.found.candidates],
    }


def _candidate_json(candidate: Candidate, p99_ms: float | None) -> dict[str, Any]:
    open_loop = by_rate(candidate.curve) or by_rate(candidate.offered)
    return {
        "settings": asdict(candidate.settings),
        "plan": asdict(candidate.facts) if candidate.facts else None,
        "saturated": [_turn_json(turn) for turn in candidate.saturated],
        "sustained_per_s": None if p99_ms is None else candidate.sustained(p99_ms),
        "offered": [{"offered_per_s": rate, **_turn_json(turn)} for rate, turn in open_loop.items()],
        "deviation_from_f32": candidate.deviation,
        "refused": candidate.refused,
    }


def _turn_json(turn: Turn) -> dict[str, Any]:
    latency = {name: value if math.isfinite(value) else None for name, value in asdict(turn).items()}
    return {"requests_per_s": latency.pop("rate"), **latency}


def table(tuning: Tuning) -> list[tuple[str, ...]]:
    """A row of texts for each candidate, as in HEADER; latencies are those at saturation."""
    return [_row(tuning, candidate) for candidate in tuning.found.candidates]


def _row(tuning: Tuning, candidate: Candidate) -> tuple[str, ...]:
    facts, seen = candidate.facts, middle(candidate.saturated)
    lanes = f"{facts.lanes}" + (f" x {facts.threads_per_lane}" if facts.threads_per_lane else "") if facts else ""
    rates = [turn.rate for turn in candidate.saturated]
    return (
        str(candidate.settings),
        ", ".join(map(str, facts.ladder)) if facts else "",
        lanes,
        facts.precision if facts else "",
        f"{seen.rate:,.0f}" if seen else "",
        f"{min(rates):,.0f} - {max(rates):,.0f}" if len(rates) > 1 else "",
        f"{seen.p50_ms:.3g}" if seen else "",
        f"{seen.p99_ms:.3g}" if seen else "",
        _note(tuning, candidate),
    )


def _note(tuning: Tuning, candidate: Candidate) -> str:
    notes = ["chosen"] if candidate is tuning.found.chosen else []
    if tuning.found.p99_ms is not None and candidate.offered:
        load = statistics.median(candidate.sustained(tuning.found.p99_ms))
        notes.append(f"sustains {load:,.0f}/s within {tuning.found.p99_ms:g} ms")
    if candidate.refused is not None:
        notes.append(candidate.refused)
    elif candidate.deviation is not None:
        notes.append(f"within {candidate.deviation:.2g} of f32")
    return "; ".join(notes)


TEXT_HEADER = ("rows", "lanes", "type", "delay us", "requests/s", "p50 ms", "p99 ms", "note")


def text_table(tuning: Tuning) -> list[tuple[str, ...]]:
    """The same in fewer columns, as in TEXT_HEADER: the largest batch stands for all sizes."""
    return [_text_row(tuning, candidate) for candidate in tuning.found.candidates]


def _text_row(tuning: Tuning, candidate: Candidate) -> tuple[str, ...]:
    _, _, lanes, precision, rate, _, p50, p99, note = _row(tuning, candidate)
    settings, facts = candidate.settings, candidate.facts
    sizes = facts.ladder if facts is not None else settings.batch_sizes or ("",)
    delay_us = facts.max_queue_delay_us if facts is not None else settings.max_queue_delay_us or ""
    notes = ["the defaults"] if candidate is tuning.found.default else []
    return str(sizes[-1]), lanes, precision, str(delay_us), rate, p50, p99, "; ".join(filter(None, [*notes, note]))


def as_text(tuning: Tuning) -> str:
    """A table of the candidates, and the sentence."""
    rows = [TEXT_HEADER, *text_table(tuning)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(TEXT_HEADER) - 1)]
    lines = [
        "  ".join([*(text.rjust(width) for text, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, "", *sentences(tuning)])


def sentences(tuning: Tuning) -> list[str]:
    """What to use, and whether there was time for all."""
    return [tuning.why, *([] if tuning.found.complete else [INCOMPLETE])]


# -- charts -----------------------------------------------------------------------------------------------------------


def charts(tuning: Tuning) -> list[Chart]:
    """Throughput and latency over the batch size, and over the load that is offered."""
    return [*_over_batch(tuning), *_over_load(tuning)]


def _over_batch(tuning: Tuning) -> list[Chart]:
    rates: dict[str, list[tuple[float, float]]] = {}
    for candidate in tuning.found.candidates:
        seen, facts, sizes = middle(candidate.saturated), candidate.facts, candidate.settings.batch_sizes
        settings = candidate.settings
        varied = settings.max_queue_delay_us is not None or settings.precision is not None
        if seen is not None and facts is not None and sizes is not None and not varied:
            rates.setdefault(_place(candidate), []).append((sizes[-1], seen.rate))
    best = _place(tuning.found.chosen if tuning.found.chosen.settings.batch_sizes else tuning.found.default)
    latencies: dict[str, list[tuple[float, float]]] = {}
    for candidate in tuning.found.candidates:
        seen, sizes = middle(candidate.saturated), candidate.settings.batch_sizes
        if seen is not None and sizes is not None and _place(candidate) == best:
            for name, value in (("p50", seen.p50_ms), ("p99", seen.p99_ms)):
                latencies.setdefault(f"{name}, {best}", []).append((sizes[-1], value))
    return [
        Chart("Throughput over batch size", "largest batch, rows", "requests/s", _lines(rates), log_x=True),
        Chart("Latency at saturation", "largest batch, rows", "ms", _lines(latencies), log_x=True, log_y=True),
    ]


def _place(candidate: Candidate) -> str:
    facts = candidate.facts
    if facts is None:
        return ""
    return str(Settings(lanes=facts.lanes, threads_per_lane=facts.threads_per_lane or None))


def _over_load(tuning: Tuning) -> list[Chart]:
    answered: dict[str, list[tuple[float, float]]] = {}
    latencies: dict[str, list[tuple[float, float]]] = {}
    for name, candidate in {"defaults": tuning.found.default, "chosen": tuning.found.chosen}.items():
        if name == "defaults" and candidate is tuning.found.chosen:
            continue
        for rate, turn in by_rate(candidate.curve).items():
            answered.setdefault(name, []).append((rate, turn.rate))
            latencies.setdefault(f"p50, {name}", []).append((rate, turn.p50_ms))
            latencies.setdefault(f"p99, {name}", []).append((rate, turn.p99_ms))
    if tuning.found.p99_ms is not None and answered:
        rates = [rate for line in answered.values() for rate, _ in line]
        latencies["limit"] = [(min(rates), tuning.found.p99_ms), (max(rates), tuning.found.p99_ms)]
    return [
        Chart("Throughput over offered load", "offered, requests/s", "answered, requests/s", _lines(answered)),
        Chart("Latency over offered load", "offered, requests/s", "ms", _lines(latencies), log_y=True),
    ]


def _lines(found: dict[str, list[tuple[float, float]]]) -> tuple[tuple[str, tuple[tuple[float, float], ...]], ...]:
    finite = {name: sorted(p for p in points if math.isfinite(p[1])) for name, points in found.items()}
    return tuple((name, tuple(points)) for name, points in finite.items() if points)
