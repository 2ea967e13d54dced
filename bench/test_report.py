"""The report: from turns to the table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import models
from bench import work
from bench.__main__ import run
from bench.claims import OURS, Claim, Experiment
from bench.contenders import LoneCaller
from bench.core import CoreFigure
from bench.experiments import CALL, EXPERIMENTS
from bench.footprint import Footprint
from bench.machine import Machine
from bench.open_loop import arrivals_ns
from bench.report import BEGIN, END, Line, Report, replace_block
from bench.rounds import Spread, name_of
from bench.stolen import Runs
from bench.widths import Outcome


def test_spread_has_quartiles_and_extremes() -> None:
    assert Spread.of([5, 1, 2, 3, 4]) == Spread(median=3, lower=2, upper=4, least=1, most=5)
    assert Spread.of([7]) == Spread(7, 7, 7, 7, 7)


@pytest.mark.parametrize(
    ("latency", "median", "reached"), [(False, 2, True), (False, 0.5, False), (True, 0.5, True), (True, 2, False)]
)
def test_latency_is_reached_from_above(latency: bool, median: float, reached: bool) -> None:
    line = Line(Claim("work", "peer", 1, latency=latency), Spread.of([median]), None)
    assert line.reached is reached


def test_report_of_a_short_run_has_every_claim() -> None:
    lone = next(experiment for experiment in EXPERIMENTS if experiment.name == "lone")
    few = partial(work.mlp, "tiny", models.TINY_MLP, 8)
    claims = [*lone.claims, *(replace(claim, what="the same, in the README", headline=True) for claim in lone.claims)]
    field = {key: candidates[:1] for key, candidates in lone.field.items()}
    one_peer = replace(lone, work=few, field=field, claims=claims)
    report = Report(Machine.here(), rounds=2, seconds=0.01)
    run(one_peer, report, lambda _: None)
    report.core = [CoreFigure("two producers", "core", 123.4, 120, 130, 5, 0)]
    report.footprint = Footprint(few_kib=1000, many_kib=1001, idle_percent=0.001)
    two, three = Spread.of([2]), Spread.of([3])
    report.add_widths(Outcome(10, "buckets", "nireq 2", two, three, Spread.of([1.5]), few_mib=77, many_mib=78))

    assert set(one_peer.field) == {OURS, CALL}
    page = report.page()
    for claim in claims:
        assert f"| {claim.what} | {claim.peer} |" in page
        assert (f"| {claim.what} | {claim.peer} |" in report.readme_table()) == claim.headline
    assert "1,001 KiB" in page
    assert "10 images of as many widths (of 10,000) | AsyncInferQueue | 1.2 x | 1.5 x |" in page
    assert "77 MiB, after all 78 MiB" in page
    assert "| two producers | core | 123 | 120 - 130 | 0 |" in page
    assert json.loads(json.dumps(report.as_json()))["lines"][0]["peer"] == CALL


def test_figure_of_ours_alone_has_its_unit_and_no_peer() -> None:
    claim = Claim("a refusal", "", 50, latency=True, figure="refusal p50", unit="us")
    never = Claim("an event that does not come", "", figure="never")
    experiment = Experiment("overload", lambda: pytest.fail("not needed"), {}, [claim, never])
    report = Report(Machine.here(), rounds=3, seconds=0.01)
    refusals: list[Mapping[str, float]] = [{name_of(OURS, "refusal p50"): us} for us in (70.0, 3.0, 60.0)]
    report.add(experiment, {}, Runs(refusals, set_aside=4, stolen=0.02))
    assert "| a refusal |  | at most 50 us | 60 us |" in report.page()
    assert "- a refusal: 60 us of at most 50 us" in report.page()
    assert "never" not in report.page()
    assert "- 4 rounds set aside; still stolen of those that count: overload 2.0%" in report.page()
    assert report.as_json()["repeated"] == {"overload": {"set_aside": 4, "still_stolen": 0.02}}


def test_arrivals_come_at_the_rate_and_in_a_round_at_the_same_moments() -> None:
    offsets = arrivals_ns(1000, 5000, seed=1)
    assert offsets == arrivals_ns(1000, 6000, seed=1)[:5000] != arrivals_ns(1000, 5000, seed=2)
    assert list(offsets) == sorted(offsets)
    assert offsets[-1] == pytest.approx(5e9, rel=0.1)


def test_wrong_answers_do_not_count() -> None:
    tiny = work.mlp("tiny", models.TINY_MLP, 4)
    contender = LoneCaller(tiny)
    try:
        contender.run(1)
        contender.answers[1] = contender.answers[2]
        with pytest.raises(AssertionError):
            contender.check()
    finally:
        contender.close()


def test_table_replaces_the_marked_block(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    replace_block(file, "new")
    assert file.read_text() == f"before\n{BEGIN}\nnew\n{END}\nafter\n"


def test_file_without_the_marks_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text("nothing here\n")
    with pytest.raises(ValueError, match="no block"):
        replace_block(file, "new")
    assert file.read_text() == "nothing here\n"
