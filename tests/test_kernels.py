"""Lanes of a quantized model answer as OpenVINO's default configuration does, whatever kernels one thread has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

import ovengine
from models import mlp
from ovengine import _kernels
from support import EXACT, PATIENCE, Array, ready

WIDTHS = [(32, 64, 8), (16, 32, 4), (128, 256, 16)]
ONE_THREAD = {**EXACT, "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1}


def rounded(node: Any, low: float, high: float, levels: int = 256) -> Any:
    bounds = [ops.constant(np.array(bound, np.float32)) for bound in (low, high, low, high)]
    return ops.fake_quantize(node, *bounds, levels)


def quantized(widths: tuple[int, int, int], rows: int) -> ov.Model:
    """A perceptron as a static quantization makes it; `(rows, width)` f32."""
    rng = np.random.default_rng(0)

    def weights(fan_in: int, fan_out: int) -> Any:
        return rounded(ops.constant(rng.standard_normal((fan_in, fan_out)).astype(np.float32)), -4, 4, 255)

    x = ops.parameter([rows, widths[0]], np.float32, name="x")
    x.output(0).set_names({"x"})
    hidden = ops.relu(ops.matmul(rounded(x, -4, 4), weights(*widths[:2]), False, False))
    y = ops.matmul(rounded(hidden, 0, 30), weights(*widths[1:]), False, False)
    y.output(0).set_names({"y"})
    return ov.Model([ops.result(y)], [x], "quantized")


def by_default(model: ov.Model, rows: Array, config: Any = EXACT) -> Array:
    compiled = ov.Core().compile_model(model, "CPU", config)
    return np.concatenate([compiled(row[None])[0] for row in rows])


def rows_of(width: int) -> Array:
    return np.random.default_rng(1).standard_normal((24, width)).astype(np.float32)


def close(found: Any, wanted: Array) -> None:
    np.testing.assert_allclose(np.asarray(found), wanted, atol=5e-2 * float(np.abs(wanted).max()))


@pytest.mark.parametrize("rows", [1, -1])
@pytest.mark.parametrize("widths", WIDTHS)
def test_a_quantized_model_answers_as_by_default(widths: tuple[int, int, int], rows: int) -> None:
    x, source = rows_of(widths[0]), quantized(widths, rows)
    wanted = by_default(source, x)
    differs = float(np.abs(by_default(source, x, ONE_THREAD) - wanted).max()) > 0.1 * float(np.abs(wanted).max())
    for _ in range(2):  # the second time the outcome comes from the cache
        with ovengine.load(source, config=EXACT, max_batch_size=16) as model:
            close(np.concatenate([np.asarray(model(row[None])) for row in x]), wanted)
            ready(model)
            close(model.infer_rows(x), wanted)
            close(
                np.concatenate([np.asarray(f.result(PATIENCE)) for f in [model.submit(row[None]) for row in x]]), wanted
            )
            if rows == 1:
                assert ("kernels: " in str(model.plan)) == differs


@pytest.mark.parametrize(
    ("wrong", "name", "lanes"), [(0, None, 2), (1, "one thread without a stream", 2), (2, "default", 1)]
)
def test_lanes_that_disagree_are_configured_otherwise(
    monkeypatch: pytest.MonkeyPatch, wrong: int, name: str | None, lanes: int
) -> None:
    answers = ["it differs"] * wrong + [None] * 3
    monkeypatch.setattr(_kernels, "_difference", lambda *_: answers.pop(0))
    x, source = rows_of(32), quantized(WIDTHS[0], 1)
    with ovengine.load(source, config={**EXACT, "NUM_STREAMS": 2}, batcher="none", cache_dir=None) as model:
        assert len(model.plan.lanes) == lanes
        decided = [decision for decision in model.plan.decisions if decision.what == "kernels"]
        assert [decision.why for decision in decided] == ["it differs"] * bool(wrong)
        if name is not None:
            assert name in decided[0].choice
            close(np.concatenate([np.asarray(model(row[None])) for row in x]), by_default(source, x))


def test_the_outcome_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = quantized(WIDTHS[0], 1)
    with ovengine.load(source, config=EXACT, batcher="none", cache_dir=tmp_path) as model:
        first = model.plan

    def compare(*_: object) -> None:
        raise AssertionError("it was compared before")

    monkeypatch.setattr(_kernels, "_first_that_agrees", compare)
    with ovengine.load(source, config=EXACT, batcher="none", cache_dir=tmp_path) as model:
        assert model.plan.devices == first.devices


def test_other_models_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    def compare(*_: object) -> None:
        raise AssertionError("it is not quantized")

    monkeypatch.setattr(_kernels, "choose", compare)
    ovengine.load(mlp(16, 16, 4), config=EXACT, batcher="none").close()
    with pytest.raises(AssertionError, match="not quantized"):
        ovengine.load(quantized(WIDTHS[1], 1), config=EXACT, batcher="none")
    ovengine.load(quantized(WIDTHS[1], 1), config=EXACT, batcher="none", verify="off").close()
