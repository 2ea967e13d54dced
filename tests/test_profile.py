"""Profiles: the file, where they fit, and what `load` makes of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import models
import ovengine
from ovengine import _core, _profiles
from ovengine._cache import Cache
from ovengine.config import LoadOptions
from ovengine.engine import default_engine
from ovengine.errors import ConfigError, ModelNotFoundError
from ovengine.profile import FORMAT, Conditions, Profile, Settings
from support import EXACT

CONDITIONS = Conditions("hash", "CPU", "A CPU", 8, "2026.4.1", "throughput", {"x": [-1, 16]}, {"A": "b"})
SETTINGS = Settings((1, 4, 16), 4, 2, 50, "bf16")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tuned here must not change what other tests load."""
    monkeypatch.setenv("OVENGINE_CACHE_DIR", str(tmp_path / "cache"))


def here(source: Path, **options: Any) -> Conditions:
    """What a profile has to be for, to fit a load on this machine."""
    engine = default_engine()
    return _profiles.conditions(source, "CPU", engine.runtime, engine.cpu_budget, LoadOptions(**options))


@pytest.mark.parametrize("settings", [SETTINGS, Settings(), Settings((1,)), Settings(lanes=2, max_queue_delay_us=0)])
def test_a_profile_survives_its_file(settings: Settings, tmp_path: Path) -> None:
    profile = Profile(CONDITIONS, settings, "why")
    profile.save(tmp_path / "profile.json")
    assert Profile.load(tmp_path / "profile.json") == profile
    assert json.loads((tmp_path / "profile.json").read_text())["format"] == FORMAT


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda found: found.update(format=FORMAT + 1), f"reads {FORMAT}"),
        (lambda found: found.pop("format"), "lacks 'format'"),
        (lambda found: found.pop("why"), "lacks 'why'"),
        (lambda found: found.update(settings=[1]), "settings are not a JSON object"),
        (lambda found: found["settings"].pop("lanes"), "lacks 'lanes'"),
        (lambda found: found["settings"].update(lanes=0), "lanes must be"),
        (lambda found: found["settings"].update(lanes=True), "lanes must be"),
        (lambda found: found["settings"].update(lanes=None), "threads_per_lane needs lanes"),
        (lambda found: found["settings"].update(batch_sizes=[4, 1]), "must ascend"),
        (lambda found: found["settings"].update(batch_sizes=[]), "must ascend"),
        (lambda found: found["settings"].update(batch_sizes=3), "not iterable"),
        (lambda found: found["settings"].update(precision=16), "precision must be"),
        (lambda found: found["settings"].update(speed=11), "unknown entry 'speed'"),
        (lambda found: found["conditions"].update(cpus="8"), "cpus must be"),
        (lambda found: found["conditions"].update(model=None), "model must be"),
        (lambda found: found["conditions"].pop("hint"), "lacks 'hint'"),
    ],
)
def test_a_file_that_is_no_profile_is_refused_with_the_reason(change: Any, text: str, tmp_path: Path) -> None:
    found = Profile(CONDITIONS, SETTINGS, "why").to_json()
    change(found)
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(found))
    with pytest.raises(ConfigError, match=text) as caught:
        Profile.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"3"])
def test_a_corrupt_file_is_refused(content: bytes, tmp_path: Path, tiny_mlp: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is not a profile"):
        ovengine.load(tiny_mlp, profile=path)
    with pytest.raises(ConfigError, match="cannot read the profile"):
        ovengine.load(tiny_mlp, profile=tmp_path / "absent.json")


def test_load_takes_the_settings_over(tiny_mlp: Path, tmp_path: Path) -> None:
    settings = Settings((1, 4), lanes=1, threads_per_lane=1, max_queue_delay_us=70, precision="f32")
    path = tmp_path / "profile.json"
    Profile(here(tiny_mlp), settings, "because it is a test").save(path)
    with ovengine.load(tiny_mlp, profile=path) as model:
        model.wait_ready()
        plan = model.plan
        assert plan.ladder == (1, 4)
        assert [lane.threads for lane in plan.lanes] == [1]
        assert plan.batch.max_queue_delay_us == 70
        assert plan.precision == ("f32",)
        (decision,) = (decision for decision in plan.decisions if decision.what == "profile")
        assert decision.why == "because it is a test"
        assert len([decision for decision in plan.decisions if decision.what == "device"]) == 1
        assert np.asarray(model(np.ones(16, np.float32))).shape == (4,)
    # What the caller asks for wins.
    with ovengine.load(tiny_mlp, profile=Profile.load(path), max_batch_size=8, max_queue_delay_us=0) as model:
        model.wait_ready()
        assert model.plan.ladder[-1] <= 8
        assert model.plan.batch.max_queue_delay_us == 0
    with ovengine.load(tiny_mlp, profile=path, batcher="none") as model:
        model.wait_ready()
        assert model.plan.ladder == (1,)


def test_no_batching_and_defaults_are_settings_too(tiny_mlp: Path) -> None:
    with ovengine.load(tiny_mlp, profile=Profile(here(tiny_mlp), Settings((1,)))) as model:
        model.wait_ready()
        assert model.plan.ladder == (1,)
    with (
        ovengine.load(tiny_mlp, profile=Profile(here(tiny_mlp), Settings())) as model,
        ovengine.load(tiny_mlp) as other,
    ):
        assert model.plan.lanes == other.plan.lanes


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"model": "hash"}, "for another model"),
        ({"device": "GPU"}, "with device 'GPU', and not 'CPU'"),
        ({"device_name": "Another CPU"}, "with device_name 'Another CPU'"),
        ({"cpus": 1000}, "with cpus 1000"),
        ({"openvino": "2020.1"}, "with openvino '2020.1'"),
        ({"hint": "latency"}, "with hint 'latency', and not 'throughput'"),
        ({"shapes": [1, 16]}, "with shapes"),
        ({"config": {"NUM_STREAMS": "1"}}, "with config"),
    ],
)
def test_a_profile_that_does_not_fit_is_refused(tiny_mlp: Path, change: dict[str, Any], text: str) -> None:
    profile = Profile(dataclasses.replace(here(tiny_mlp), **change), Settings())
    with pytest.raises(ConfigError, match=text):
        ovengine.load(tiny_mlp, profile=profile)


def test_what_it_was_tuned_with_has_to_be_given_again(tiny_mlp: Path, tmp_path: Path) -> None:
    profile = Profile(here(tiny_mlp, config=EXACT, shapes={"x": (-1, 16)}, hint="latency"), Settings((1, 2)))
    profile.save(tmp_path / "profile.json")
    options: dict[str, Any] = {"config": EXACT, "shapes": {"x": (-1, 16)}, "hint": "latency"}
    options["config"] = {**EXACT, "CACHE_DIR": str(tmp_path)}  # where compiled models are kept makes no difference
    with ovengine.load(tiny_mlp, profile=tmp_path / "profile.json", **options) as model:
        model.wait_ready()
        assert model.plan.ladder == (1, 2)


def test_other_weights_are_another_model(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = models.save(models.mlp(*models.TINY_MLP, seed=0), tmp_path / "a" / "model.xml")
    second = models.save(models.mlp(*models.TINY_MLP, seed=1), tmp_path / "b" / "model.xml")
    with pytest.raises(ConfigError, match="for another model"):
        ovengine.load(second, profile=Profile(here(first), Settings()))
    assert here(first).openvino == _core.openvino_version


def test_a_missing_model_is_missing_with_a_profile_as_well(tmp_path: Path, tiny_mlp: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        ovengine.load(tmp_path / "absent.xml", profile=Profile(here(tiny_mlp), Settings()))


def test_settings_say_what_they_are() -> None:
    assert str(SETTINGS) == "batches of up to 16, 4 lanes of 2 threads, a delay of 50 us, bf16"
    assert str(Settings((1,), 1, 1)) == "no batching, 1 lane of 1 thread"
    assert str(Settings(lanes=2)) == "2 lanes"
    assert str(Settings()) == "the defaults"


# -- in the cache -----------------------------------------------------------------------------------------------------


def keep(profile: Profile) -> None:
    _profiles.keep(profile, Cache(LoadOptions().cache_directory))


def profile_decisions(source: Path, **options: Any) -> list[tuple[str, str]]:
    """What the plan of a load says about a profile."""
    with ovengine.load(source, **options) as model:
        return [(found.choice, found.why) for found in model.plan.decisions if found.what == "profile"]


def test_load_takes_the_profile_in_the_cache_by_default(tiny_mlp: Path, tmp_path: Path) -> None:
    assert profile_decisions(tiny_mlp) == []
    keep(Profile(here(tiny_mlp), Settings((1, 2), 1, 1), "tuned"))
    with ovengine.load(tiny_mlp) as model:
        model.wait_ready()
        assert (model.plan.ladder, len(model.plan.lanes)) == ((1, 2), 1)
    assert profile_decisions(tiny_mlp) == [("batches of up to 2, 1 lane of 1 thread", "tuned")]
    assert profile_decisions(tiny_mlp, cache_dir=None) == []
    assert profile_decisions(tiny_mlp, cache_dir=tmp_path / "other") == []


def test_who_decides_otherwise_does_not_get_it(tiny_mlp: Path) -> None:
    keep(Profile(here(tiny_mlp), Settings((1, 2), 1, 1), "tuned"))
    options: list[dict[str, Any]] = [
        {"profile": "off"},
        {"batcher": "adaptive"},
        {"max_batch_size": 4},
        {"batch_sizes": [1, 8]},
        {"max_queue_delay_us": 0},
    ]
    for one in options:
        assert profile_decisions(tiny_mlp, **one) == [], one
    own = Profile(here(tiny_mlp), Settings((1,)), "given")
    assert profile_decisions(tiny_mlp, profile=own) == [("no batching", "given")]


def test_one_in_the_cache_that_does_not_fit_is_left_out_and_the_plan_says_so(tiny_mlp: Path) -> None:
    keep(Profile(dataclasses.replace(here(tiny_mlp), cpus=1000), Settings((1, 2)), "tuned"))
    cpus = default_engine().cpu_budget
    expected = [("not used", f"the one in the cache was tuned with cpus 1000, and not {cpus}")]
    assert profile_decisions(tiny_mlp) == expected
    ((choice, why),) = profile_decisions(tiny_mlp, hint="latency", config=EXACT)
    assert choice == "not used"
    assert "with hint" in why
    assert "with config" in why


def test_a_spoilt_cache_entry_counts_as_none(tiny_mlp: Path, tmp_path: Path) -> None:
    keep(Profile(here(tiny_mlp), Settings((1, 2)), "tuned"))
    (entry,) = (tmp_path / "cache" / _profiles.KIND).iterdir()
    found = json.loads(entry.read_text())
    found["value"]["format"] = FORMAT + 1
    entry.write_text(json.dumps(found))
    with pytest.warns(ovengine.CacheWarning, match="cannot be read"):
        assert profile_decisions(tiny_mlp) == []


def test_models_without_a_file_load_as_ever(tiny_mlp: Path) -> None:
    keep(Profile(here(tiny_mlp), Settings((1, 2)), "tuned"))
    with ovengine.load(models.mlp(*models.TINY_MLP)) as model:
        assert not [decision for decision in model.plan.decisions if decision.what == "profile"]


def test_shapes_with_bounds_are_conditions_too() -> None:
    assert _profiles._plain([1, -1, "2..8"]) == [1, -1, "2..8"]
    assert _profiles._plain("[?,3,1..64]") == [-1, 3, "1..64"]
    assert _profiles._plain({"x": (4, "?")}) == {"x": [4, -1]}
    assert _profiles._plain(None) is None
