"""`ovengine tune`: files, reports, exit status. What it finds is the subject of test_tuner.py."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import ovengine
from ovengine.cli import main
from ovengine.profile import Profile


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tuned here must not change what other tests load."""
    monkeypatch.setenv("OVENGINE_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_in_tmp")
def test_it_writes_a_profile_a_page_and_a_picture(
    tiny_mlp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", "-m", str(tiny_mlp), "-t", "1", "-q"]) == 0
    out = capsys.readouterr().out
    profile = Profile.load("tiny.profile.json")
    assert profile.why in out
    assert profile.why in (tmp_path / "tiny.tune.html").read_text()
    assert (tmp_path / "tiny.tune.png").read_bytes().startswith(b"\x89PNG")
    assert "profile: tiny.profile.json" in out
    with ovengine.load(tiny_mlp) as model:  # from the cache
        assert profile.why in str(model.plan)
    assert main(["bench", "-m", str(tiny_mlp), "--profile", "tiny.profile.json", "-t", "0.2", "--rounds", "1"]) == 0
    assert profile.why in " ".join(capsys.readouterr().out.split())


def test_json_holds_the_profile_and_every_candidate(
    tiny_mlp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "rows.npy", np.ones((10, 16), np.float32))
    arguments = ["--data", str(tmp_path / "rows.npy"), "--p99", "1000", "-o", str(tmp_path / "found")]
    assert main(["tune", "-m", str(tiny_mlp), "-t", "1", "--json", *arguments]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["meets_limit"]
    assert report["p99_limit_ms"] == 1000
    assert report["files"]["profile"] == str(tmp_path / "found.profile.json")
    assert Profile.load(report["files"]["profile"]) == Profile.parse(report["profile"])
    chosen = report["candidates"][report["chosen"]]
    assert chosen["saturated"][0]["requests_per_s"] > 0
    assert len(chosen["sustained_per_s"]) >= 3


def test_nothing_is_recommended_where_nothing_keeps_the_limit(
    tiny_mlp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", "-m", str(tiny_mlp), "-t", "1", "--p99", "1e-6", "-o", str(tmp_path / "x")]) == 1
    assert "No setting" in capsys.readouterr().out
    assert not (tmp_path / "x.profile.json").exists()
    assert (tmp_path / "x.tune.html").exists()
    assert not (tmp_path / "cache" / "profile").exists()


def test_what_cannot_work_is_said_before_measuring(
    tiny_mlp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], real_model: Callable[[str], Path]
) -> None:
    for arguments, text in (
        (["-m", str(tiny_mlp), "-o", str(tmp_path / "absent" / "x")], "no folder"),
        (["-m", str(tmp_path / "absent.xml")], "absent.xml"),
        (["-m", str(tiny_mlp), "--data", str(tmp_path / "absent.npy")], "no such input"),
        (["-m", str(real_model("text_direction"))], "-data_shape"),
    ):
        assert main(["tune", *arguments]) == 1
        error = capsys.readouterr().err
        assert text in error
        assert error.count("\n") == 1


def test_without_matplotlib_there_is_a_page_and_no_picture(
    tiny_mlp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "ovengine.tuner._png", raising=False)
    assert main(["tune", "-m", str(tiny_mlp), "-t", "0.5", "-o", str(tmp_path / "x")]) == 0
    assert "pip install 'ovengine[plot]'" in capsys.readouterr().err
    assert (tmp_path / "x.tune.html").exists()
    assert not (tmp_path / "x.tune.png").exists()
    with ovengine.load(tiny_mlp, profile=tmp_path / "x.profile.json") as model:
        assert model.plan.lanes
