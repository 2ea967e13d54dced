"""`ovengine tune`: files, reports, exit status. What it finds is the subject of test_tuner.py."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import ovengine
from ovengine.cli import main
from ovengine.profile import Profile
from ovengine.tuner import _measuring


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tuned here must not change what other tests load."""
    monkeypatch.setenv("OVENGINE_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def _unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of the search is slow: a busy machine does not run out of time. There is little to search."""
    monkeypatch.setattr(_measuring, "clock", lambda: time.monotonic() / 1000)
    monkeypatch.setattr("ovengine.tuner._space.SIZES", (1, 4))
    monkeypatch.setattr("ovengine.tuner._search.TURNS", 3)
    monkeypatch.setattr("ovengine.tuner._search.SHORTEST_TURN_SECONDS", 0.01)


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
    assert profile.why in " ".join(out.split())
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
    assert main(["tune", "-m", str(tiny_mlp), "-t", "3", "--json", *arguments]) == 0
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
    assert main(["tune", "-m", str(tiny_mlp), "-t", "3", "--p99", "1e-6", "-o", str(tmp_path / "x")]) == 1
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


@pytest.mark.parametrize("columns", [40, 80])
def test_the_report_is_no_wider_than_the_terminal(
    tiny_mlp: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    columns: int,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["tune", "-m", str(tiny_mlp), "-t", "0.3", "--p99", "1000", "-o", str(tmp_path / "x")]) == 0
    table = capsys.readouterr().out.partition("\n\n")[0]
    assert max(map(len, table.splitlines())) <= columns
    assert "the defaults" in " ".join(table.split())


def test_an_interrupt_keeps_what_was_measured(
    tiny_mlp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    saturate, looks = _measuring._ModelSubject.saturate, 0

    def interrupted(self: _measuring._ModelSubject, seconds: float) -> _measuring.Turn:
        nonlocal looks
        looks += 1
        if looks == 5:  # with a warm-up each: the third setting
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
            seconds = 1000
        return saturate(self, seconds)

    monkeypatch.setattr(_measuring._ModelSubject, "saturate", interrupted)
    arguments = ["tune", "-m", str(tiny_mlp), "-t", "1", "-o", str(tmp_path / "x"), "--json"]
    assert main(arguments) == 130
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["interrupted"]
    assert "there was no time to compare others" in report["why"]
    assert len(report["candidates"]) == 2
    assert err == "ovengine: interrupted; what is shown was measured before\n"
    assert "profile" not in report["files"]
    assert (tmp_path / "x.tune.html").exists()


def test_data_that_cannot_be_read_is_one_line(
    tiny_mlp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.npy").touch()
    arguments = ["-m", str(tiny_mlp), "-t", "1", "-i", str(tmp_path / "empty.npy"), "-o", str(tmp_path / "x")]
    assert main(["tune", *arguments]) == 1
    assert (
        capsys.readouterr().err
        == f"ovengine: {tmp_path / 'empty.npy'}: not a readable NumPy file (the file is empty)\n"
    )
