"""`ovengine info`: what a model takes, what is in it, and how it would run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

import models
import ovengine
from ovengine.cli import main


def info(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["info", "--json", *arguments]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_inputs_outputs_weights_and_operators_are_shown(tiny_mlp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = info(capsys, "-m", str(tiny_mlp), "--no-load")
    assert found["inputs"] == [{"name": "x", "names": ["x"], "type": "f32", "shape": "[?,16]", "layout": None}]
    assert [(port["name"], port["shape"]) for port in found["outputs"]] == [("y", "[?,4]")]
    assert found["weights_bytes"] == 4 * (16 * 16 + 16 + 16 * 4 + 4)
    assert found["operators"] == {"MatMul": 2, "Add": 2, "Relu": 1}
    assert found["state"] == []
    assert "plan" not in found


def test_options_that_change_the_model_show(tiny_mlp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["-layout", "[NC]", "-ip", "f16", "-shape", "[1..8,16]"]
    (port,) = info(capsys, "-m", str(tiny_mlp), "--no-load", *options)["inputs"]
    assert (port["type"], port["shape"], port["layout"]) == ("f16", "[1..8,16]", "[N,C]")


def test_variables_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = ops.parameter([1, 3], np.float32, name="x")
    kept = ops.read_value(x, "memory", ov.Type.f32, ov.PartialShape([1, 3]))
    total = ops.add(kept, x)
    model = ov.Model([ops.result(total)], [ops.assign(total, "memory")], [x], "stateful")
    path = models.save(model, tmp_path / "stateful.xml")
    assert info(capsys, "-m", str(path), "--no-load")["state"] == [{"name": "memory", "type": "f32", "shape": "[1,3]"}]
    assert main(["info", "-m", str(path), "--no-load"]) == 0
    assert "state      memory f32[1,3]" in capsys.readouterr().out


def test_the_plan_is_that_of_load(tiny_mlp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = info(capsys, "-m", str(tiny_mlp), "--max-batch-size", "4", "-nstreams", "1")
    with ovengine.load(tiny_mlp, max_batch_size=4, config={"NUM_STREAMS": 1}) as model:
        model.wait_ready()
        assert found["plan"]["batch_sizes"] == list(model.plan.ladder)
        assert found["plan"]["mode"] == model.plan.mode == "rows"
    assert [device["lanes"] for device in found["plan"]["devices"]] == [1]


@pytest.mark.parametrize("columns", [40, 80])
def test_the_text_is_no_wider_than_the_terminal(
    real_model: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    columns: int,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.chdir(real_model("silero_vad").parent)
    assert main(["info", "-m", real_model("silero_vad").name, "--no-load"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    assert any("other kinds" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-m", "absent.xml", "--no-load"], "no model file at 'absent.xml'"),
        (["-m", "absent.blob", "--no-load"], "drop --no-load"),
        (["-m", "{model}", "--no-load", "--loader", "ir"], "drop --no-load"),
        (["-m", "{model}", "--no-load", "-shape", "[3,3]"], "cannot be reshaped so"),
    ],
)
def test_what_cannot_be_described_is_one_line(
    tiny_mlp: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert main(["info", *(argument.format(model=tiny_mlp) for argument in arguments)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert says in err
