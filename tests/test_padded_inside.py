"""Buckets for models that see their padding: it is put on inside, and masked; or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

import ovengine
from support import EXACT, Array, each, in_threads, reference

LENGTHS = [8, 16, 24]
CHANNELS = 4
WIDTH = 3  # the axis that is padded

Build = Callable[[Any], Any]


def constant(*shape: int, seed: int) -> Any:
    return ops.constant(np.random.default_rng(seed).standard_normal(shape, np.float32))


def images(build: Build) -> ov.Model:
    """`y = build(x)`, x is `(n, 4, 6, width)` f32."""
    x = ops.parameter([-1, CHANNELS, 6, -1], np.float32, name="x")
    x.output(0).set_names({"x"})
    y = build(x)
    y.output(0).set_names({"y"})
    return ov.Model([ops.result(y)], [x], "images")


def image(tag: int, width: int, rows: int = 1) -> Array:
    return np.random.default_rng(tag).uniform(-1, 1, (rows, CHANNELS, 6, width)).astype(np.float32)


def conv(
    x: Any, kernel: int, stride: int = 1, pad: int = 0, dilation: int = 1, auto: str = "explicit", seed: int = 0
) -> Any:
    weights = constant(CHANNELS, CHANNELS, 3, kernel, seed=seed)
    return ops.convolution(x, weights, [1, stride], [1, pad], [1, pad], [1, dilation], auto)


def depthwise(x: Any) -> Any:
    weights = constant(CHANNELS, 1, 1, 3, 5, seed=3)
    return ops.group_convolution(x, weights, [2, 1], [1, 2], [1, 2], [1, 1])


def pool(x: Any, rounding: str = "floor", kernel: int = 3, stride: int = 2) -> Any:
    return ops.max_pool(x, [1, stride], [1, 1], [0, 1], [0, 1], [1, kernel], rounding).output(0)


def reduced(reduce: Callable[..., Any], x: Any, keep: bool = False) -> Any:
    return reduce(x, ops.constant(np.array([2, -1])), keep)


def mean(x: Any, keep: bool = False) -> Any:
    return reduced(ops.reduce_mean, x, keep)


def biased(x: Any) -> Any:
    """So that padding does not stay zero."""
    return ops.add(x, constant(1, CHANNELS, 1, 1, seed=9))


def squeeze_and_excite(x: Any) -> Any:
    weights = constant(CHANNELS, CHANNELS, 1, 1, seed=4)
    scale = ops.convolution(mean(x, True), weights, [1, 1], [0, 0], [0, 0], [1, 1])
    return ops.multiply(x, ops.hard_sigmoid(scale, np.float32(0.2), np.float32(0.5)))


def residual(x: Any) -> Any:
    hidden = ops.relu(biased(conv(x, 3, pad=1)))
    return ops.add(hidden, conv(hidden, 5, pad=2, seed=1))


def normalised(x: Any) -> Any:
    one = [constant(CHANNELS, seed=seed) for seed in (5, 6, 7)]
    return ops.batch_norm_inference(x, *one, ops.abs(constant(CHANNELS, seed=8)), 1e-3)


def network(x: Any) -> Any:
    hidden = squeeze_and_excite(depthwise(ops.hswish(normalised(conv(x, 3, 2, 1)))))
    return mean(pool(residual(hidden)))


def width_of(x: Any) -> Any:
    shape = ops.shape_of(x)
    return ops.convert(ops.gather(shape, ops.constant(np.array([WIDTH])), ops.constant(0)), "f32")


def flattened(x: Any) -> Any:
    """To two dimensions, of which one is read off a shape, as exporters write it."""
    hidden = conv(biased(x), 3)
    rows = ops.gather(ops.shape_of(hidden), ops.constant(np.array([0])), ops.constant(0))
    return ops.reshape(mean(hidden, True), ops.concat([rows, ops.constant(np.array([-1]))], 0), False)


ACCEPTED: dict[str, Build] = {
    "network": network,
    "mean": lambda x: mean(biased(x)),
    "one number": lambda x: ops.reduce_mean(biased(x), ops.constant(np.arange(4)), False),
    "sum": lambda x: reduced(ops.reduce_sum, biased(x)),
    "max": lambda x: reduced(ops.reduce_max, ops.negative(ops.abs(x))),
    "min": lambda x: reduced(ops.reduce_min, ops.abs(x)),
    "strided": lambda x: mean(conv(biased(x), 3, stride=3, pad=1)),
    "dilated": lambda x: mean(conv(biased(x), 3, pad=2, dilation=2)),
    "unpadded": lambda x: mean(conv(biased(x), 2)),
    "same": lambda x: mean(conv(biased(x), 4, auto="same_upper")),
    "pointwise": lambda x: mean(conv(biased(x), 1, stride=2)),
    "pooled": lambda x: mean(pool(ops.negative(ops.abs(x)))),
    "residual": lambda x: mean(residual(x)),
    "no number in the padding": lambda x: mean(ops.divide(x, ops.abs(x))),
    "every column": lambda x: biased(conv(biased(x), 3, stride=2, pad=1)),
    "flattened": flattened,
    "its own width": lambda x: ops.multiply(mean(biased(x)), width_of(x)),
}


def load(build: Build) -> ovengine.Model:
    return ovengine.load(images(build), config=EXACT, buckets={"x": ovengine.Buckets(LENGTHS, axis=WIDTH)})


@pytest.mark.parametrize("name", ACCEPTED)
def test_answers_are_those_of_the_unpadded(name: str) -> None:
    run = reference(images(ACCEPTED[name]))
    with load(ACCEPTED[name]) as model:
        assert "padded inside the model" in str(model.plan)
        for width in range(3, LENGTHS[-1] + 4):
            x = image(width, width, rows=1 + width % 2)
            expected = run(x)["y"]
            y = model(x)["y"]
            assert y.shape == expected.shape
            np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


REFUSED: dict[str, tuple[Build, str]] = {
    "softmax": (lambda x: mean(ops.softmax(biased(x), WIDTH)), "Softmax"),
    "sum so far": (lambda x: mean(ops.cum_sum(biased(x), np.int64(WIDTH), reverse=True)), "CumSum"),
    "rounded up": (lambda x: mean(pool(biased(x), "ceil")), "MaxPool .* rounds its length up"),
    "padded by length": (lambda x: mean(conv(biased(x), 3, 2, auto="same_upper")), "pads by the length of the axis"),
    "other axes": (lambda x: ops.reduce_max(ops.reduce_mean(biased(x), np.int64(2)), np.int64(2)), "keeps the axis"),
    "flat": (lambda x: ops.reduce_mean(ops.reshape(biased(x), [0, -1], True), np.int64(1)), "Reshape"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_operator_that_may_mix_columns_is_refused(name: str) -> None:
    build, reason = REFUSED[name]
    with pytest.raises(ovengine.ConfigError, match=f"differs when it is padded .* inside the model: .*{reason}"):
        load(build)


def test_what_is_too_short_for_the_model_stays_so() -> None:
    def build(x: Any) -> Any:
        return mean(conv(biased(x), 4))

    run = reference(images(build))
    with load(build) as model:
        with pytest.raises(ovengine.InferenceError):
            model(image(0, 1))
        for width in (3, 4):  # without a window, and with one
            np.testing.assert_allclose(model(image(0, width))["y"], run(image(0, width))["y"], rtol=1e-4)


def test_frequent_widths_still_get_models_of_their_own() -> None:
    run = reference(images(network))
    with load(network) as model:
        for tag in range(20):
            x = image(tag, 11)
            np.testing.assert_allclose(model(x)["y"], run(x)["y"], rtol=1e-4, atol=1e-4)
        assert model.wait_ready(60)
        assert model.row_classes == ({"x": (-1, CHANNELS, 6, 11)},)
        np.testing.assert_allclose(model(x)["y"], run(x)["y"], rtol=1e-4, atol=1e-4)


def test_the_text_direction_model_answers_every_width(real_model: Callable[[str], Path]) -> None:
    source = real_model("text_direction")
    run = reference(source)
    widths = [17, 32, 33, 63, 64, 65, 100, 127, 128, 129, 200]
    rng = np.random.default_rng(0)
    pictures = {width: rng.uniform(-1, 1, (1, 3, 48, width)).astype(np.float32) for width in widths}
    answers = {width: next(iter(run(picture).values())) for width, picture in pictures.items()}
    buckets: dict[str | int, Any] = {"x": ovengine.Buckets([32, 64, 128], axis=3)}
    with ovengine.load(source, config=EXACT, shapes={"x": [-1, 3, 48, -1]}, buckets=buckets) as model:
        assert "padded inside the model" in str(model.plan)

        def hammer(first: int) -> None:
            order = widths[first:] + widths[:first]
            futures = [model.submit(pictures[width]) for width in order]
            for width, future in zip(order, futures, strict=True):
                np.testing.assert_allclose(np.asarray(future.result()), answers[width], rtol=1e-4, atol=1e-5)

        in_threads(each(hammer, range(4)))
