"""Padding buckets: sequences of nearby lengths share batches and get the answers they get alone, or are refused."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

import ovengine
from support import EXACT, PATIENCE, Array, each, in_threads, reference

WORDS, WIDTH = 10, 8
LENGTHS = [4, 8, 16]


def constant(*shape: int, seed: int) -> Any:
    return ops.constant(np.random.default_rng(seed).standard_normal(shape, np.float32) / np.float32(np.sqrt(WIDTH)))


def parameter(name: str, shape: list[int]) -> Any:
    node = ops.parameter(shape, np.int64, name=name)
    node.output(0).set_names({name})
    return node


def named(outputs: dict[str, Any], inputs: list[Any]) -> ov.Model:
    for name, node in outputs.items():
        node.output(0).set_names({name})
    return ov.Model([ops.result(node) for node in outputs.values()], inputs, "sequences")


def transformer() -> ov.Model:
    """One layer of masked attention: `tokens` `(n, length, 8)`, and their mean `pooled` `(n, 8)`."""
    ids, mask = parameter("input_ids", [-1, -1]), parameter("attention_mask", [-1, -1])
    words = ops.gather(constant(WORDS, WIDTH, seed=0), ids, ops.constant(0))
    query, key, value = (ops.matmul(words, constant(WIDTH, WIDTH, seed=seed), False, False) for seed in (1, 2, 3))
    kept = ops.convert(mask, "f32")
    hidden = ops.multiply(ops.subtract(ops.constant(np.float32(1)), kept), ops.constant(np.float32(-1e4)))
    scores = ops.add(ops.matmul(query, key, False, True), ops.unsqueeze(hidden, ops.constant(1)))
    tokens = ops.add(words, ops.matmul(ops.softmax(scores, -1), value, False, False))
    weights = ops.unsqueeze(kept, ops.constant(2))
    axis = ops.constant(np.array([1]))
    total = ops.reduce_sum(ops.multiply(tokens, weights), axis, False)
    pooled = ops.divide(total, ops.reduce_sum(weights, axis, False))
    return named({"tokens": tokens, "pooled": pooled}, [ids, mask])


def averaged() -> ov.Model:
    """The mean over all words, whether they are padding or not."""
    ids = parameter("input_ids", [-1, -1])
    words = ops.gather(constant(WORDS, WIDTH, seed=0), ids, ops.constant(0))
    return named({"mean": ops.reduce_mean(words, ops.constant(np.array([1])), False)}, [ids])


def doubled() -> ov.Model:
    """Two outputs for every word."""
    ids = parameter("input_ids", [-1, -1])
    words = ops.gather(constant(WORDS, WIDTH, seed=0), ids, ops.constant(0))
    return named({"pairs": ops.concat([words, words], 1)}, [ids])


def silent() -> ov.Model:
    ids = parameter("input_ids", [-1, -1])
    return named({"zero": ops.multiply(ids, ops.constant(np.int64(0)))}, [ids])


def text(tag: int, length: int, rows: int = 1) -> dict[str, Array]:
    rng = np.random.default_rng(tag)
    return {
        "input_ids": rng.integers(1, WORDS, (rows, length)),
        "attention_mask": np.ones((rows, length), np.int64),
    }


def same(result: Any, expected: dict[str, Array]) -> None:
    assert set(result) == set(expected)
    for name, array in expected.items():
        assert result[name].shape == array.shape
        np.testing.assert_allclose(result[name], array, rtol=1e-4, atol=1e-5)


def ready(model: ovengine.Model, lengths: list[int]) -> bool:
    return [shapes["input_ids"][1] for shapes in model.row_classes] == lengths


@pytest.mark.parametrize(
    "buckets",
    [
        {"input_ids": LENGTHS, "attention_mask": LENGTHS},
        {"input_ids": ovengine.Buckets(LENGTHS, pad=7, axis=1), 1: ovengine.Buckets(LENGTHS)},
    ],
)
def test_texts_of_different_length_share_batches(buckets: Any) -> None:
    plain, one_at_a_time = reference(transformer()), threading.Lock()

    def run(*inputs: Array) -> dict[str, Array]:
        with one_at_a_time:
            return plain(*inputs)

    with ovengine.load(transformer(), config=EXACT, buckets=buckets) as model:
        assert "buckets: 4, 8, 16" in str(model.plan)
        same(model(text(0, 5)), run(*text(0, 5).values()))
        assert model.wait_ready(PATIENCE)
        assert ready(model, LENGTHS)
        alone = model.stats().dispatch["bulk"]

        def hammer(first: int) -> None:
            texts = [text(100 * first + tag, 1 + (first + tag) % 16, rows=1 + tag % 3) for tag in range(60)]
            futures = [model.submit(one) for one in texts]
            for one, future in zip(texts, futures, strict=True):
                same(future.result(), run(*one.values()))
                same(future.result(), run(*one.values()))
            same(model(texts[0]), run(*texts[0].values()))
            same(model.infer_rows(texts[1]), run(*texts[1].values()))
            for one, result in zip(texts[:10], model.map(texts[:10]), strict=True):
                same(result, run(*one.values()))

        in_threads(each(hammer, range(4)))
        assert model.stats().dispatch["bulk"] - alone <= 4, "but for infer_rows, all were rows of batches"
        assert ready(model, LENGTHS)
        for length in (17, 40):
            same(model(text(1, length)), run(*text(1, length).values()))
        masked = text(2, 7)
        masked["attention_mask"][0, 3:] = 0
        same(model(masked), run(*masked.values()))


@pytest.mark.parametrize(
    ("source", "buckets", "reason"),
    [
        (averaged, {"input_ids": LENGTHS}, r"output 'mean' of a sequence of \d+ differs when it is padded to \d+"),
        (doubled, {"input_ids": LENGTHS}, r"nothing says which part belongs to the sequence"),
        (silent, {"input_ids": LENGTHS}, r"output 'zero' is the same for all sequences that were tried"),
        (transformer, {"input_ids": LENGTHS}, r"axis 1 of input 'attention_mask' is dynamic as well"),
        (transformer, {"input_ids": [4], "attention_mask": [8]}, r"all inputs must have the same lengths"),
        (
            transformer,
            {"input_ids": LENGTHS, "attention_mask": ovengine.Buckets(LENGTHS, pad=1)},
            r"does not ignore the padding",
        ),
        (averaged, {"input_ids": ovengine.Buckets([4], pad=0.5)}, r"of int64 cannot hold the pad 0.5"),
        (averaged, {"input_ids": ovengine.Buckets([4], pad=2**70)}, r"of int64 cannot hold the pad"),
        (averaged, LENGTHS, r"output 'mean' of a sequence of \d+ differs when it is padded to \d+"),
        (averaged, ovengine.Buckets([4], axis=2), r"has no dynamic axis 2"),
        (transformer, LENGTHS, r"several inputs; give lengths by input \('input_ids', 'attention_mask'\)"),
        (averaged, {"ids": LENGTHS}, r"the model has no input 'ids'; it has 'input_ids'"),
        (averaged, {"input_ids": ovengine.Buckets([4], axis=2)}, r"has no dynamic axis 2"),
    ],
)
def test_what_would_change_answers_is_refused(source: Any, buckets: Any, reason: str) -> None:
    with pytest.raises(ovengine.ConfigError, match=reason):
        ovengine.load(source(), config=EXACT, buckets=buckets)


def test_a_model_without_a_dynamic_axis_has_no_buckets() -> None:
    with pytest.raises(ovengine.ConfigError, match="for models with a dynamic sequence axis, and this one has none"):
        ovengine.load(averaged(), config=EXACT, shapes={"input_ids": [-1, 4]}, buckets={"input_ids": LENGTHS})


@pytest.mark.parametrize("lengths", [[], [0, 4], [4, 4], [8, 4], [1.5], [True]])
def test_lengths_ascend(lengths: Any) -> None:
    with pytest.raises(ovengine.ConfigError, match="bucket lengths"):
        ovengine.Buckets(lengths)


@pytest.mark.parametrize("axis", [0, -1, 1.0])
def test_axis_0_counts_rows(axis: Any) -> None:
    with pytest.raises(ovengine.ConfigError, match="sequence axis"):
        ovengine.Buckets([4], axis=axis)
