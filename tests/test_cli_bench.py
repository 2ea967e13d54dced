"""`ovengine bench`: loads, peers and reports. Speed itself is measured in bench/, not here."""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ovengine.cli import main
from ovengine.cli._contenders import Contender, Inputs, Sample, open_loop
from ovengine.cli._options import parse_shapes

QUICK = ["-t", "0.4", "--rounds", "2"]


def report(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["bench", *QUICK, "--json", *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("api", ["async", "sync"])
def test_closed_loop_reports_throughput_and_latency(
    tiny_mlp: Path, capsys: pytest.CaptureFixture[str], api: str
) -> None:
    found = report(capsys, "-m", str(tiny_mlp), "-api", api, "-nireq", "3", "-b", "2")
    assert found["load"] == {
        "loop": "closed", "clients": 3, "api": api, "rows_per_request": 2, "rounds": 2, "seconds": 0.4,
    }  # fmt: skip
    (result,) = found["results"]
    assert result["name"] == "ovengine"
    assert result["requests"] > 0
    assert result["rows_per_s"] == pytest.approx(2 * result["requests_per_s"])
    assert result["rows_per_batch"] >= 2
    assert len(result["requests_per_s_rounds"]) == 2
    times = result["latency_ms"]
    assert 0 < times["p50"] <= times["p90"] <= times["p99"] <= times["max"]


@pytest.mark.parametrize("arrivals", ["poisson", "constant"])
def test_open_loop_offers_the_rate(tiny_mlp: Path, capsys: pytest.CaptureFixture[str], arrivals: str) -> None:
    found = report(capsys, "-m", str(tiny_mlp), "--rate", "500", "--arrivals", arrivals)
    assert found["load"]["loop"] == "open"
    (result,) = found["results"]
    assert result["requests"] + result["refused"] == pytest.approx(200, rel=0.3)


def test_compare_runs_all_peers_on_the_same_answers(tiny_mlp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = report(capsys, "-m", str(tiny_mlp), "--compare", "--max-batch-size", "8", "-infer_precision", "f32")
    names = [result["name"] for result in found["results"]]
    assert names == ["ovengine", "AsyncInferQueue", "BATCH:CPU(8)", "compiled_model()"]
    assert set(found["ratios"]) == set(names[1:])
    spreads = [ratio["requests/s"] for ratio in found["ratios"].values()]
    assert all(spread["min"] <= spread["median"] <= spread["max"] for spread in spreads)
    assert max(found["largest_difference"].values()) < 1e-3
    assert found["precision"] == ["f32"]


@pytest.mark.parametrize(("rate", "compared"), [((), "requests/s"), (("--rate", "200"), "p50")])
def test_a_peer_that_cannot_run_is_named_with_the_reason(
    tiny_mlp: Path, capsys: pytest.CaptureFixture[str], rate: tuple[str, ...], compared: str
) -> None:
    assert main(["bench", *QUICK, "-m", str(tiny_mlp), "--compare", "-b", "4", *rate]) == 0
    out = capsys.readouterr().out
    assert "BATCH:CPU(16): left out, it batches requests of one row only" in out
    assert f"ovengine / AsyncInferQueue: {compared} " in out


def test_real_models_with_and_without_a_batch_axis(
    real_model: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("face_detector", "silero_vad"):
        found = report(capsys, "-m", str(real_model(name)), "--compare", "--max-batch-size", "4")
        assert {"AsyncInferQueue", "compiled_model()"} <= set(found["ratios"])


def test_dynamic_dimensions_need_a_shape_of_the_data(
    real_model: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(real_model("text_direction"))
    assert main(["bench", *QUICK, "-m", model]) == 1
    assert "-data_shape" in capsys.readouterr().err
    found = report(capsys, "-m", model, "-data_shape", "[1,3,48,192]")
    assert found["results"][0]["requests"] > 0
    found = report(capsys, "-m", model, "-shape", "[?,3,48,192]", "--compare")
    assert found["ratios"]["AsyncInferQueue"]["requests/s"]["median"] > 0


def test_rows_for_a_model_without_rows_are_refused(
    real_model: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *QUICK, "-m", str(real_model("text_direction")), "-b", "4"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "-b 4" in err


def test_plot_writes_a_picture(tiny_mlp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "bench.png"
    report(capsys, "-m", str(tiny_mlp), "--plot", str(picture))
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_plot_that_cannot_be_drawn_is_said_before_measuring(
    tiny_mlp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["bench", "-m", str(tiny_mlp), "--plot", str(tmp_path / "absent" / "a.png")]) == 1
    assert "no directory" in capsys.readouterr().err
    monkeypatch.delitem(sys.modules, "ovengine.cli._plot", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    started = time.monotonic()
    assert main(["bench", "-m", str(tiny_mlp), "--plot", str(tmp_path / "a.png")]) == 1
    assert "pip install 'ovengine[plot]'" in capsys.readouterr().err
    assert time.monotonic() - started < 5


def test_shapes_are_written_as_for_benchmark_app() -> None:
    assert parse_shapes("[1,3,224,224]") == (1, 3, 224, 224)
    assert parse_shapes("[?, 16]") == (-1, 16)
    assert parse_shapes("a[?,16],b[-1]") == {"a": (-1, 16), "b": (-1,)}
    for text in ("", "1,3", "[1", "a[1],[2]", "[1]x", "[1.5]"):
        with pytest.raises(argparse.ArgumentTypeError):
            parse_shapes(text)


class SlowSender(Contender):
    """Answers at once, but holds up whoever starts a request, the first time."""

    name = "slow"

    def __init__(self, first_s: float) -> None:
        self._first_s = first_s

    def answer(self, inputs: Inputs) -> list[npt.NDArray[Any]]:
        return []

    def closed_loop(self, data: Sequence[Inputs], seconds: float) -> Sample:
        raise NotImplementedError

    def start(self, inputs: Inputs, done: Callable[[], None]) -> None:
        time.sleep(self._first_s)
        self._first_s = 0.0
        threading.Thread(target=done).run()

    def drain(self) -> None:
        pass


def test_open_loop_charges_those_that_were_due_while_the_sender_was_held_up() -> None:
    sample = open_loop(SlowSender(0.2), [{"x": np.zeros(1)}], rate=100, poisson=False, seconds=0.4, seed=0)
    assert sample.requests == 40
    late = np.sort(sample.latencies_ns)[::-1] / 1e9
    # Due every 10 ms while the first took 200 ms: waits of 200, 190, 180 ms and so on.
    assert late[:10] == pytest.approx(np.arange(0.2, 0.1, -0.01), abs=0.03)


def test_poisson_arrivals_repeat_with_the_seed() -> None:
    counts = {
        open_loop(SlowSender(0), [{"x": np.zeros(1)}], rate=1000, poisson=True, seconds=0.1, seed=seed).requests
        for seed in (1, 1, 1)
    }
    assert len(counts) == 1
