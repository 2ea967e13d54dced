"""The tuner: the search on a virtual machine whose best setting is known, and on fake and real models."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import models
import ovengine
from ovengine.errors import ConfigError, InputError, ModelError
from ovengine.profile import Conditions, Profile, Settings
from ovengine.testing import fake_model
from ovengine.tuner._candidates import Candidate, Found, Interrupted, clearly_better, sustained
from ovengine.tuner._html import svg
from ovengine.tuner._measuring import Answers, Facts, ModelLab, Turn
from ovengine.tuner._report import Chart
from ovengine.tuner._search import Search, Space
from ovengine.tuner._space import space_of
from ovengine.tuner._tune import sentence

DEFAULTS = Settings(batch_sizes=(1, 4), lanes=2, threads_per_lane=1)
"""What the virtual machine makes of settings that leave everything open."""
PLACES = ((2, 1), (1, 2), (1, 1))
SPACE = Space((1, 4, 16, 64, 256), PLACES)

# What `rate` and `p99_ms` of a virtual machine are given: settings without a gap.
Model = Callable[[Settings], float]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tuned here must not change what other tests load."""
    monkeypatch.setenv("OVENGINE_CACHE_DIR", str(tmp_path / "cache"))


class VirtualLab:
    """Measures nothing: answers with given figures and repeatable noise, and its clock moves as time is spent.

    rate: requests per second at saturation. inference_ms: of a full batch; a request waits for one, and more the
    closer the load comes to saturation. noise: of each figure, relative. load_s: of a load. interrupt_at: on its clock,
    when Ctrl-C is pressed.
    """

    def __init__(
        self,
        rate: Model,
        inference_ms: Model = lambda settings: 1.0,
        *,
        noise: float = 0.01,
        deviation: dict[str | None, float] | None = None,
        refuses: Callable[[Settings], bool] = lambda settings: False,
        load_s: Model = lambda settings: 0.1,
        interrupt_at: float = math.inf,
    ) -> None:
        self.rate, self.inference_ms, self.refuses, self.load_s = rate, inference_ms, refuses, load_s
        self.interrupt_at = interrupt_at
        self.deviation = deviation or {}
        self.time = 0.0
        self.open_now: list[VirtualSubject] = []
        self.most_open = 0
        self._noise = noise
        self._rng = np.random.default_rng(0)

    def open(self, settings: Settings) -> VirtualSubject:
        given = {name: value for name, value in dataclasses.asdict(settings).items() if value is not None}
        complete = dataclasses.replace(DEFAULTS, **given)
        self.spend(self.load_s(complete))
        if self.refuses(complete):
            raise ModelError("the device\nrefuses")
        subject = VirtualSubject(self, complete)
        self.open_now.append(subject)
        self.most_open = max(self.most_open, len(self.open_now))
        return subject

    def now(self) -> float:
        return self.time

    def spend(self, seconds: float) -> None:
        self.time += seconds
        if self.time > self.interrupt_at:
            raise KeyboardInterrupt

    def noisy(self, value: float) -> float:
        return value * (1 + self._noise * float(self._rng.uniform(-1, 1)))


class VirtualSubject:
    def __init__(self, lab: VirtualLab, settings: Settings) -> None:
        self._lab, self._settings = lab, settings

    @property
    def facts(self) -> Facts:
        settings = self._settings
        assert settings.batch_sizes is not None
        assert settings.lanes is not None
        assert settings.threads_per_lane is not None
        return Facts(
            ladder=settings.batch_sizes,
            lanes=settings.lanes,
            threads_per_lane=settings.threads_per_lane,
            precision=settings.precision or "f32",
            max_queue_delay_us=settings.max_queue_delay_us or 0,
            inference_us=1e3 * self._lab.inference_ms(settings),
            memory_bytes=100,
        )

    def saturate(self, seconds: float) -> Turn:
        # What is in flight when the time is over: up to four full batches a lane.
        self._lab.spend(seconds + 3 * self._lab.inference_ms(self._settings) / 1e3)
        rate = self._lab.noisy(self._lab.rate(self._settings))
        return Turn(rate, 1.0, 2.0, int(rate * seconds))

    def offer(self, rate: float, seconds: float, seed: int) -> Turn:
        self._lab.spend(seconds)
        idle = max(1e-3, 1 - rate / self._lab.rate(self._settings))
        p99 = self._lab.noisy(self._lab.inference_ms(self._settings) / idle)
        return Turn(rate, p99 / 2, p99, int(rate * seconds))

    def answers(self) -> Answers:
        return [[np.array([1.0 + self._lab.deviation.get(self._settings.precision, 0.0)])]]

    def close(self) -> None:
        self._lab.open_now.remove(self)


def top(settings: Settings) -> int:
    assert settings.batch_sizes is not None
    return settings.batch_sizes[-1]


def told_share(told: list[float], share: float, what: str) -> None:
    told.append(share)


def search(lab: VirtualLab, space: Space = SPACE, seconds: float = 60.0, **options: float | None) -> Found:
    found = Search(lab, space, seconds=seconds, **options).run()  # type: ignore[arg-type]  # options are of its own
    assert not lab.open_now
    return found


# -- the search -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "place"), list(itertools.product((1, 4, 16, 256), PLACES)))
def test_the_best_pair_of_batch_size_and_place_is_found(size: int, place: tuple[int, int]) -> None:
    def rate(settings: Settings) -> float:
        # A ridge: what is best in one dimension alone depends on the other.
        off = abs(math.log2(top(settings)) - math.log2(size))
        return 1000.0 * float(0.97**off) * (1.0 if (settings.lanes, settings.threads_per_lane) == place else 0.8)

    chosen = search(VirtualLab(rate, noise=0.001)).chosen
    assert chosen.facts is not None
    assert (chosen.facts.lanes, chosen.facts.threads_per_lane) == place
    assert chosen.facts.ladder[-1] == size


def test_sizes_between_those_of_the_screen_are_looked_at_around_the_best() -> None:
    found = search(VirtualLab(lambda settings: 1000.0 - 100 * abs(math.log2(top(settings)) - 3), noise=0.001))
    assert found.chosen.settings.batch_sizes == (1, 4, 8)


def test_the_defaults_stay_where_others_are_better_by_less_than_the_noise() -> None:
    def rate(settings: Settings) -> float:
        return 1050.0 if top(settings) == 16 else 1000.0

    found = search(VirtualLab(rate, noise=0.15))
    assert found.chosen is found.default
    assert "Keep the defaults" in sentence(found)


def test_among_equals_the_simpler_one_wins() -> None:
    found = search(VirtualLab(lambda settings: 2000.0 if top(settings) >= 16 else 1000.0, noise=0.02))
    assert found.chosen.settings == Settings(batch_sizes=(1, 4, 16), lanes=2, threads_per_lane=1)
    assert re.search(
        r"^Use batches of up to 16, 2 lanes of 1 thread: [\d,]+ requests/s, \d\.\d\d times ", sentence(found)
    )


def test_a_limit_asks_for_the_load_that_keeps_it_rather_than_for_throughput() -> None:
    lab = VirtualLab(lambda settings: 1000.0 * top(settings) ** 0.5, inference_ms=lambda settings: 1.0 * top(settings))
    assert search(lab).chosen.settings.batch_sizes == (1, 4, 16, 64, 256)
    limited = search(lab, p99_ms=40)
    assert limited.chosen.settings.batch_sizes in ((1, 4, 8), (1, 4, 16))
    assert limited.meets_limit
    assert "with p99 within 40 ms" in sentence(limited)
    impossible = search(lab, p99_ms=0.5)
    assert not impossible.meets_limit
    assert sentence(impossible).startswith("No setting")


def test_a_delay_is_taken_only_where_it_shortens_the_tail_and_costs_no_throughput() -> None:
    def shorter(settings: Settings) -> float:
        return 5.0 if settings.max_queue_delay_us else 20.0

    found = search(VirtualLab(lambda settings: 1000.0, shorter))
    assert found.chosen.settings.max_queue_delay_us == 5000
    assert "a shorter tail of latencies" in sentence(found)
    found = search(VirtualLab(lambda settings: 500.0 if settings.max_queue_delay_us else 1000.0, shorter))
    assert found.chosen.settings.max_queue_delay_us is None


def test_another_precision_is_taken_where_its_outputs_agree_with_f32_and_it_is_faster() -> None:
    space = dataclasses.replace(SPACE, precisions=("bf16", "f16"))
    speed = {"bf16": 3.0, "f16": 2.0}
    lab = VirtualLab(lambda s: 1000 * speed.get(s.precision or "", 1.0), deviation={"bf16": 0.1, "f16": 0.004})
    found = search(lab, space)
    assert found.chosen.settings.precision == "f16"
    assert found.chosen.deviation == pytest.approx(0.004)
    assert "with outputs within 0.004 of those in f32" in sentence(found)
    refused = {c.refused for c in found.candidates if c.settings.precision == "bf16"}
    assert refused == {"outputs deviate from f32 by 0.1, more than 0.01"}
    assert search(lab, space, tolerance=0.2).chosen.settings.precision == "bf16"
    assert search(lab, dataclasses.replace(space, precisions=())).chosen.settings.precision is None


def test_settings_that_are_refused_are_told_and_the_search_goes_on() -> None:
    lab = VirtualLab(lambda settings: 1000.0 * top(settings), refuses=lambda settings: top(settings) > 16)
    found = search(lab)
    assert found.chosen.settings.batch_sizes == (1, 4, 16)
    assert "the device refuses" in {candidate.refused for candidate in found.candidates}
    with pytest.raises(ModelError, match="refuses"):
        search(VirtualLab(lambda settings: 1.0, refuses=lambda settings: True))


def test_the_time_is_kept_and_the_share_that_is_used_is_told() -> None:
    for seconds in (20.0, 200.0):
        lab = VirtualLab(lambda settings: 1000.0 * top(settings))
        told: list[float] = []
        Search(lab, SPACE, seconds=seconds, progress=partial(told_share, told)).run()
        assert 0.4 * seconds < lab.time < 1.2 * seconds
        assert told == sorted(told)
        assert told[-1] == 1.0


def slow(speed: float, load_s: float) -> VirtualLab:
    """A model of so many inferences of a row a second, that gains nothing by batches, and takes long to load."""
    return VirtualLab(
        lambda settings: speed,
        inference_ms=lambda settings: 1e3 * top(settings) / speed,
        load_s=lambda settings: load_s + 6 * sum(settings.batch_sizes or ()) / speed,
    )


@pytest.mark.parametrize("p99_ms", [None, 500.0])
@pytest.mark.parametrize(("speed", "load_s"), [(1000, 0.3), (100, 1), (100, 5), (20, 1), (5000, 10)])
@pytest.mark.parametrize("seconds", [10.0, 30.0, 120.0])
def test_the_time_is_kept_for_slow_models_too(
    p99_ms: float | None, speed: float, load_s: float, seconds: float
) -> None:
    lab = slow(speed, load_s)
    found = search(lab, seconds=seconds, p99_ms=p99_ms)
    # The defaults are loaded and looked at in any case, and have a turn of the open loop, where there is a limit.
    least = load_s + 60 / speed + (0.0 if p99_ms is None else 220 / speed)
    assert lab.time < max(1.1 * seconds, 1.1 * least + 0.5)
    assert found.default.rate > 0
    if seconds == 120 and load_s < 5:
        assert found.decided


def test_what_is_compared_was_not_loaded_again_after_the_screen() -> None:
    loads: list[Settings] = []

    def load_s(settings: Settings) -> float:
        loads.append(settings)
        return 0.1

    lab = VirtualLab(lambda settings: 1000.0 * top(settings), load_s=load_s)
    search(lab, Space((1, 4, 16), ((2, 1),), delays=False))
    assert [top(settings) for settings in loads] == [4, 1, 4, 16, 8]  # the defaults first


def test_an_interrupt_keeps_what_was_found() -> None:
    def rate(settings: Settings) -> float:
        return 1000.0 * float(top(settings) ** 0.5)

    uninterrupted = VirtualLab(rate)
    whole = search(uninterrupted)
    for seconds in (0.3, 0.9, 5.0, 20.0, 0.99 * uninterrupted.time):
        lab = VirtualLab(rate, interrupt_at=seconds)
        with pytest.raises(KeyboardInterrupt) as caught:
            search(lab)
        assert not lab.open_now
        if seconds == 0.3:  # before the defaults were measured
            assert not isinstance(caught.value, Interrupted)
            continue
        assert isinstance(caught.value, Interrupted)
        found = caught.value.result
        assert found.default.rate > 0
        assert not found.complete
        if found.decided:
            assert found.chosen.settings == whole.chosen.settings
        else:
            assert found.chosen is found.default
            assert "there was no time to compare others" in sentence(found)
            assert seconds < 40
        assert str(tuning_of(found))
    assert found.decided


def test_settings_that_there_was_no_time_for_are_owned_up_to() -> None:
    found = search(VirtualLab(lambda settings: 1000.0 * top(settings)), seconds=1.0)
    assert not found.complete
    assert "--seconds" in str(tuning_of(found))
    assert search(VirtualLab(lambda settings: 1000.0 * top(settings))).complete


def test_no_more_is_loaded_at_once_than_memory_allows() -> None:
    lab = VirtualLab(lambda settings: 1000.0 * top(settings))
    search(lab, memory_bytes=300)
    assert lab.most_open == 3


def test_a_gain_counts_where_turns_agree_on_it_and_it_is_more_than_two_percent() -> None:
    assert clearly_better([110, 111, 112], [100, 101, 102])
    assert not clearly_better([90, 110, 111], [100, 101, 102])
    assert not clearly_better([101.5, 101.5], [100.0, 100.0])
    assert not clearly_better([100, 100], [100, 100])
    assert clearly_better([110, 110, 110, 110, 110, 110, 1], [100] * 5), "one disturbed turn hides nothing"
    assert clearly_better([-5, -5], [-20, -20])


def test_the_sustained_load_lies_between_the_last_rate_within_and_the_first_beyond_the_limit() -> None:
    offered = {rate: Turn(rate, p99 / 2, p99, 100) for rate, p99 in ((100.0, 1.0), (200.0, 2.0), (400.0, 8.0))}
    assert sustained(offered, 4.0) == pytest.approx(300)
    assert sustained(offered, 0.5) == 0
    assert sustained(offered, 10.0) == 400
    assert sustained({}, 10.0) == 0


# -- what may be chosen -----------------------------------------------------------------------------------------------


def test_the_space_follows_from_the_plan() -> None:
    with fake_model() as model:
        plan = dataclasses.replace(model.plan, devices=(ovengine.DevicePlan("CPU", {}, 2, 1),), precision=("bf16",))
    capabilities = ("FP32", "BF16", "FP16", "INT8", "EXPORT_IMPORT")
    space = space_of(plan, cpus=8, given=set(), capabilities=capabilities)
    assert space.places == ((8, 1), (4, 2), (2, 4), (1, 8), (7, 1))
    assert space.precisions == ("f32", "f16")
    assert space_of(plan, cpus=1, given={"CACHE_DIR"}, capabilities=()).places == ((1, 1),)
    pinned = space_of(plan, cpus=8, given={"NUM_STREAMS"}, capabilities=())
    assert pinned.places == ((None, None),)
    whole = space_of(dataclasses.replace(plan, mode="whole"), cpus=8, given=set(), capabilities=())
    assert (whole.sizes, whole.delays) == ((1,), False)
    accelerator = dataclasses.replace(plan, devices=(ovengine.DevicePlan("GPU", {}, 2, 0, shared=True),))
    assert space_of(accelerator, cpus=8, given=set(), capabilities=()).places[0] == (2, None)


# -- on models --------------------------------------------------------------------------------------------------------


class UnhurriedLab(ModelLab):
    """Its clock is slow: a busy machine does not run out of time."""

    def now(self) -> float:
        return super().now() / 20


def test_the_best_setting_of_a_fake_device_is_found() -> None:
    """An inference takes 12 ms whatever it holds; with two threads, batches of 16 take 2 ms."""

    def load(settings: Settings) -> ovengine.Model:
        sizes, lanes, threads = settings.batch_sizes or (1, 4), settings.lanes or 2, settings.threads_per_lane or 1
        time_us = 12_000.0 if threads == 1 or sizes[-1] < 16 else 2_000.0
        return fake_model(sizes, lanes=lanes, service_time_us=time_us)

    data = [{"x": np.ones((1, 4), np.float32)}]
    space = Space((1, 4, 16), ((2, 1), (1, 2)), delays=False)
    found = Search(UnhurriedLab(load, data), space, seconds=2.0).run()
    assert found.chosen.settings == Settings(batch_sizes=(1, 4, 16), lanes=1, threads_per_lane=2)


def test_tuning_a_real_model_gives_a_profile_that_load_takes(tiny_mlp: Path, tmp_path: Path) -> None:
    told: list[str] = []
    tuning = ovengine.tune(
        tiny_mlp, seconds=1.5, precision="any", tolerance=0.1, progress=lambda share, what: told.append(what)
    )
    assert {what.partition(":")[0] for what in told} >= {"screen", "finals"}
    assert tuning.meets_limit
    tuning.profile.save(tmp_path / "tiny.json")
    assert Profile.load(tmp_path / "tiny.json") == tuning.profile
    with ovengine.load(tiny_mlp, profile=tmp_path / "tiny.json") as model:
        facts = tuning.found.chosen.facts
        assert facts is not None
        assert model.plan.precision == (facts.precision,)
        assert len(model.plan.lanes) == facts.lanes
        assert tuning.why in str(model.plan)
        assert model(np.ones(16, np.float32))["y"].shape == (4,)


def test_a_model_without_rows_is_tuned_by_lanes(real_model: Callable[[str], Path]) -> None:
    tuning = ovengine.tune(real_model("face_detector"), seconds=1)
    assert all(c.settings.batch_sizes in (None, (1,)) for c in tuning.found.candidates if c.refused is None)
    assert len({c.facts.lanes for c in tuning.found.candidates if c.facts}) > 1 or len(tuning.found.candidates) <= 2


def test_wrong_arguments_are_refused(tiny_mlp: Path, real_model: Callable[[str], Path]) -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"p99_ms": 0}, "p99_ms must be"),
        ({"seconds": -1}, "seconds must be"),
        ({"tolerance": math.inf}, "tolerance must be"),
        ({"precision": "bf16"}, "'keep' or 'any'"),
        ({"precision": "any", "config": {"INFERENCE_PRECISION_HINT": "f32"}}, "exclude each other"),
        ({"data": []}, "no requests"),
    ]
    for arguments, text in refused:
        with pytest.raises(ConfigError, match=text):
            ovengine.tune(tiny_mlp, **arguments)
    with pytest.raises(InputError):
        ovengine.tune(tiny_mlp, data=[{"z": np.ones(16)}], seconds=0.5)
    with pytest.raises(InputError, match="dynamic dimensions"):
        ovengine.tune(real_model("text_direction"), seconds=0.5)


# -- reports ----------------------------------------------------------------------------------------------------------


def tuning_of(found: Found) -> ovengine.Tuning:
    conditions = Conditions("hash", "CPU", "A <CPU>", 2, "2026.4.1", "throughput")
    profile = Profile(conditions, found.chosen.settings, sentence(found))
    return ovengine.Tuning("a & b", profile, found)


def test_reports_hold_every_candidate_and_need_nothing_else(tmp_path: Path) -> None:
    lab = VirtualLab(lambda settings: 1000.0 * top(settings), refuses=lambda settings: top(settings) > 16)
    tuning = tuning_of(search(lab, dataclasses.replace(SPACE, precisions=("bf16",)), p99_ms=50))
    report = json.loads(json.dumps(tuning.report(), allow_nan=False))
    assert len(report["candidates"]) == len(tuning.found.candidates)
    assert report["candidates"][report["chosen"]]["settings"]["batch_sizes"] == [1, 4, 16]
    assert report["why"] == tuning.why
    tuning.save_html(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("<tr") - 6 == len(tuning.found.candidates)  # a header and five facts
    assert "a &amp; b" in page
    assert "A &lt;CPU&gt;" in page
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"<script|<link|<img|https?:|url\(", page)
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == 4
    for drawing in drawings:
        ElementTree.fromstring(drawing)
    text = str(tuning)
    assert text.endswith(tuning.why)
    assert text.count("\n") >= len(tuning.found.candidates)


def test_curves_are_drawn_where_matplotlib_is(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    tuning = tuning_of(search(VirtualLab(lambda settings: 1000.0 * top(settings))))
    tuning.save_png(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    for save in (tuning.save_png, tuning.save_html, tuning.profile.save):
        with pytest.raises(ConfigError, match="cannot write"):
            save(tmp_path / "absent" / "file.png")


@pytest.mark.parametrize("points", [((1.0, 5.0),), ((1.0, 0.001), (256.0, 1e6)), ((3.0, 7.0), (5.0, 7.0))])
@pytest.mark.parametrize("log", [False, True])
def test_points_of_a_chart_lie_inside_it(points: tuple[tuple[float, float], ...], log: bool) -> None:
    drawn = ElementTree.fromstring(svg(Chart("t", "x", "y", (("a", points),), log, log)))
    places = [(float(c.get("cx", "nan")), float(c.get("cy", "nan"))) for c in drawn.iter("circle")]
    assert len(places) == len(points)
    assert all(70 <= x <= 508.1 and 27.9 <= y <= 276.1 for x, y in places)


def test_a_candidate_that_was_never_measured_has_no_figures() -> None:
    candidate = Candidate(Settings())
    assert candidate.rate == 0
    assert candidate.sustained(1.0) == []
    assert str(candidate.settings) == "the defaults"


def test_a_model_file_is_what_a_profile_is_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not of a Model"):
        ovengine.tune(models.mlp(*models.TINY_MLP), seconds=0.5)
