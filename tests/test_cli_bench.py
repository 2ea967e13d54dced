"""`ovengine bench`: loads, peers and reports. Speed itself is measured in bench/, not here."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import pytest
from openvino import opset13 as ops

import models
import ovengine
from ovengine._load_generator import Contender, Inputs, Limit, Ovengine, Sample, make_data, open_loop
from ovengine.cli import _bench, _measuring, main
from ovengine.errors import InferenceError
from support import fake, network

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
    assert not found["interrupted"]
    (result,) = found["results"]
    assert result["name"] == "ovengine"
    assert result["requests"] > 0
    assert result["rows_per_s"] == pytest.approx(2 * result["requests_per_s"])
    assert result["rows_per_batch"] >= 2
    assert len(result["requests_per_s_rounds"]) == 2
    times = result["latency_ms"]
    assert 0 < times["p50"] <= times["p90"] <= times["p99"] <= times["max"]


def test_random_inputs_have_the_values_that_operators_rely_on() -> None:
    ids, flags, x = (
        ops.parameter([-1, 5], dtype, name=name)
        for name, dtype in (("ids", np.int64), ("flags", np.int32), ("x", np.float32))
    )
    table = ops.constant(np.arange(40, dtype=np.float32).reshape(40, 1))
    found = ops.gather(table, ids, ops.constant(np.int64(0)))
    total = ops.add(ops.squeeze(found, ops.constant(np.array([2]))), ops.add(x, ops.convert(flags, "f32")))
    with ovengine.load(ov.Model([ops.result(total)], [ids, flags, x], "m"), batch_sizes=[1]) as model:
        assert [tensor.values for tensor in model.inputs] == [(0, 39), None, None]
        data = make_data(model.plan, 100, None, seed=0)
        drawn = np.concatenate([request["ids"] for request in data])
        assert (drawn.min(), drawn.max()) == (0, 39)
        assert {*np.unique(data[0]["flags"])} == {0, 1}
        assert 0 <= data[0]["x"].min() < data[0]["x"].max() <= 1
        model(data[0])


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


@pytest.mark.parametrize("load", [("-nireq", "5"), ("-hint", "latency"), ("-api", "sync", "-nireq", "3")])
def test_all_contenders_have_as_many_requests_in_flight(
    tiny_mlp: Path, capsys: pytest.CaptureFixture[str], load: tuple[str, ...]
) -> None:
    found = report(capsys, "-m", str(tiny_mlp), "--compare", *load)
    clients = found["load"]["clients"]
    assert clients == (int(load[-1]) if "-nireq" in load else 1)
    assert found["load"]["api"] == ("sync" if "latency" in load or "sync" in load else "async")
    details = {result["name"]: result["detail"] for result in found["results"]}
    for name, detail in details.items():
        if name == "compiled_model()":
            assert detail == f"{clients} thread{'s' if clients > 1 else ''}"
        elif name != "ovengine":
            assert detail.endswith(f"nireq {clients}")


@pytest.mark.parametrize("api", ["async", "sync"])
def test_the_number_of_requests_is_exact(tiny_mlp: Path, capsys: pytest.CaptureFixture[str], api: str) -> None:
    arguments = [
        "-m",
        str(tiny_mlp),
        "-niter",
        "101",
        "-nireq",
        "4",
        "--rounds",
        "3",
        "-api",
        api,
        "--compare",
        "--json",
    ]
    assert main(["bench", *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [result["requests"] for result in found["results"]] == [101] * 4
    assert (found["load"]["requests"], found["load"]["seconds"]) == (101, 0)
    # Both have to be reached.
    assert main(["bench", *arguments, "-t", "0.2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert all(result["requests"] > 101 and result["seconds"] >= 0.2 for result in found["results"])
    assert main(["bench", *arguments, "-niter", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [len(result["requests_per_s_rounds"]) for result in found["results"]] == [2] * 4


def test_no_iterations_load_the_model_and_measure_nothing(
    real_model: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    # Its data would need a shape.
    assert main(["bench", "-m", str(real_model("text_direction")), "-niter", "0"]) == 0
    out = capsys.readouterr().out
    assert "mode       dynamic" in out
    assert "nothing measured" in out
    assert main(["bench", "-m", str(real_model("text_direction")), "-niter", "0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["load_ms"] > 0
    assert "dynamic" in found["plan"]


@pytest.mark.parametrize("rows", [1, 4])
def test_the_rate_of_a_closed_loop_is_limited_in_rows(
    tiny_mlp: Path, capsys: pytest.CaptureFixture[str], rows: int
) -> None:
    arguments = ["-m", str(tiny_mlp), "-b", str(rows), "-niter", "21", "--rounds", "1", "-max_irate", "200", "--json"]
    assert main(["bench", *arguments, "--compare"]) == 0
    found = json.loads(capsys.readouterr().out)
    for result in found["results"]:
        assert result["requests"] == 21
        # The first one goes at once, and so the others take twenty gaps.
        assert result["seconds"] >= 20 * rows / 200
    assert main(["bench", *arguments, "-max_irate", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["requests"] == 21


def test_rows_of_a_request_are_those_of_the_data_shape(tiny_mlp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = report(capsys, "-m", str(tiny_mlp), "-data_shape", "[8,16]", "--compare")
    assert found["load"]["rows_per_request"] == 8
    assert found["results"][0]["rows_per_s"] == pytest.approx(8 * found["results"][0]["requests_per_s"])
    found = report(capsys, "-m", str(tiny_mlp), "-data_shape", "[8,16][2,16]")
    assert found["load"]["rows_per_request"] == 5
    found = report(capsys, "-m", str(tiny_mlp), "-data_shape", "[8,16]", "-b", "3")
    assert found["load"]["rows_per_request"] == 3
    assert main(["bench", *QUICK, "-m", str(tiny_mlp), "-data_shape", "[16]"]) == 1
    assert "-data_shape [16] has 1 dimensions" in capsys.readouterr().err


def test_files_are_sent_in_requests_of_so_many_rows(
    tiny_mlp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.arange(5 * 16, dtype=np.float32).reshape(5, 16)
    np.save(tmp_path / "rows.npy", rows)
    sent: list[Inputs] = []

    def note(contenders: object, data: Sequence[Inputs]) -> dict[str, float]:
        sent.extend(data)
        return {}

    monkeypatch.setattr(_bench, "check_answers", note)
    assert main(["bench", *QUICK, "-m", str(tiny_mlp), "-i", str(tmp_path / "rows.npy"), "-b", "2"]) == 0
    np.testing.assert_array_equal(np.concatenate([request["x"] for request in sent]), rows[[0, 1, 2, 3, 4, 0]])
    np.save(tmp_path / "wide.npy", np.ones((5, 17), np.float32))
    capsys.readouterr()
    assert main(["bench", *QUICK, "-m", str(tiny_mlp), "-i", str(tmp_path / "wide.npy")]) == 1
    assert "a row has shape (17,), and input x float32[?,16] takes (16,)" in capsys.readouterr().err


def test_inputs_without_files_are_random(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair: dict[str, tuple[tuple[int, ...], Any]] = {"a": ((3,), np.float32), "b": ((3,), np.float32)}
    model = models.save(network(pair, lambda a, b: {"y": ops.subtract(a, b)}), tmp_path / "two.xml")
    np.save(tmp_path / "a.npy", np.ones((2, 3), np.float32))
    found = report(capsys, "-m", str(model), "-i", f"a:{tmp_path / 'a.npy'}", "--compare")
    assert found["results"][0]["requests"] > 0


@pytest.mark.parametrize(
    "load",
    [
        ("--compare", "-nireq", "4"),
        ("--compare", "-api", "sync", "-nireq", "2"),
        ("--rate", "100"),
        ("-max_irate", "100"),
    ],
)
def test_an_interrupt_keeps_what_was_measured(
    tiny_mlp: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, load: tuple[str, ...]
) -> None:
    run, calls = _measuring.Load.run, 0

    def interrupted(self: _measuring.Load, contender: Contender, data: Any, limit: Limit, seed: int) -> Sample:
        nonlocal calls
        calls += 1
        if calls < 6:
            return run(self, contender, data, Limit(requests=10), seed)
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        try:
            return run(self, contender, data, Limit(seconds=1000), seed)
        finally:
            timer.cancel()  # a signal after the test would end the tests

    monkeypatch.setattr(_measuring.Load, "run", interrupted)
    assert main(["bench", "-m", str(tiny_mlp), "--json", "-no_warmup", "--rounds", "100", "-t", "1", *load]) == 130
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert err == "ovengine: interrupted; what is shown was measured before\n"
    assert found["interrupted"]
    rounds = [len(result["requests_per_s_rounds"]) for result in found["results"]]
    assert sum(rounds) == 6
    assert found["results"][0]["name"] == "ovengine"
    if "--compare" in load:
        assert set(found["ratios"]) == {result["name"] for result in found["results"][1:]}


def test_an_interrupt_before_the_first_round_leaves_nothing(
    tiny_mlp: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_measuring.Load, "run", lambda *_: Sample(0, 0, 0.1, np.zeros(0, np.int64), interrupted=True))
    assert main(["bench", "-m", str(tiny_mlp), "-t", "1"]) == 130
    assert capsys.readouterr() == ("", "ovengine: interrupted\n")


@pytest.mark.parametrize("columns", [40, 80])
def test_the_report_is_no_wider_than_the_terminal(
    tiny_mlp: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["bench", *QUICK, "-m", str(tiny_mlp), "--compare", "-nireq", "3", "-pc"]) == 0
    lines = capsys.readouterr().out.splitlines()
    long = [line for line in lines if len(line) > columns]
    # One word, which cannot be broken.
    assert all(len(line.split()) == 1 for line in long), long


def test_another_percentile_takes_the_place_of_the_90th(tiny_mlp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = report(capsys, "-m", str(tiny_mlp), "-latency_percentile", "75")
    times = found["results"][0]["latency_ms"]
    assert times["p50"] <= times["p75"] <= times["p90"]
    assert main(["bench", *QUICK, "-m", str(tiny_mlp), "-latency_percentile", "75"]) == 0
    header = next(line for line in capsys.readouterr().out.splitlines() if "requests/s" in line and "max" in line)
    assert header.split() == ["requests/s", "p50", "ms", "p75", "p99", "max", "rows/batch"]


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
    assert "no folder" in capsys.readouterr().err
    monkeypatch.delitem(sys.modules, "ovengine.cli._plot", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    started = time.monotonic()
    assert main(["bench", "-m", str(tiny_mlp), "--plot", str(tmp_path / "a.png")]) == 1
    assert "pip install 'ovengine[plot]'" in capsys.readouterr().err
    assert time.monotonic() - started < 5


class SlowSender(Contender):
    """Answers at once, but holds up whoever starts a request, the first time."""

    name = "slow"

    def __init__(self, first_s: float) -> None:
        self._first_s = first_s

    def answer(self, inputs: Inputs) -> list[npt.NDArray[Any]]:
        return []

    def closed_loop(self, data: Sequence[Inputs], limit: Limit) -> Sample:
        raise NotImplementedError

    def start(self, inputs: Inputs, done: Callable[[], None]) -> None:
        time.sleep(self._first_s)
        self._first_s = 0.0
        threading.Thread(target=done).run()

    def drain(self) -> None:
        pass


def test_open_loop_charges_those_that_were_due_while_the_sender_was_held_up() -> None:
    sample = open_loop(SlowSender(0.2), [{"x": np.zeros(1)}], rate=100, poisson=False, limit=Limit(0.4), seed=0)
    assert sample.requests == 40
    late = np.sort(sample.latencies_ns)[::-1] / 1e9
    # Due every 10 ms while the first took 200 ms: waits of 200, 190, 180 ms and so on.
    assert late[:10] == pytest.approx(np.arange(0.2, 0.1, -0.01), abs=0.03)


def test_a_request_that_fails_ends_the_open_loop_with_its_error() -> None:
    with fake(1, poison=7.0) as model, pytest.raises(InferenceError, match="refuses the value"):
        open_loop(
            Ovengine(model, 1, blocking=False),
            [{"x": np.full((1, 4), 7, np.float32)}],
            rate=100,
            poisson=False,
            limit=Limit(0.05),
            seed=0,
        )


def test_poisson_arrivals_repeat_with_the_seed() -> None:
    counts = {
        open_loop(SlowSender(0), [{"x": np.zeros(1)}], rate=1000, poisson=True, limit=Limit(0.1), seed=seed).requests
        for seed in (1, 1, 1)
    }
    assert len(counts) == 1
