"""Rules for operators prove from the graph that rows are independent; where they do, trial runs agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset1, opset8, opset10, opset11
from openvino import opset13 as ops
from openvino.utils.node_factory import NodeFactory

from ovengine._core import Runtime
from support import EXACT, Array

Shape = Sequence[int]
Inputs = Mapping[str, Shape]
Axes = tuple["int | None", ...]
Build = Callable[..., Any]
RNG = np.random.default_rng(5)


def f32(value: Any) -> Any:
    return ops.constant(np.array(value, np.float32))


def i64(value: Any) -> Any:
    return ops.constant(np.array(value, np.int64))


def weights(*shape: int) -> Any:
    return f32(RNG.standard_normal(shape))


def model_of(inputs: Inputs, build: Build, dtypes: dict[str, Any] | None = None) -> ov.Model:
    """Of f32 inputs, but for `dtypes`; one output."""
    parameters = []
    for name, shape in inputs.items():
        parameter = ops.parameter(list(shape), (dtypes or {}).get(name, np.float32), name=name)
        parameter.output(0).set_names({name})
        parameters.append(parameter)
    return ov.Model([ops.result(build(*parameters))], parameters, "m")


def proof(model: ov.Model, axes: Axes) -> tuple[bool, Axes]:
    """Whether rows along these axes are independent by the rules, and the axes of the outputs."""
    inputs, outputs, _, unproven = Runtime().adopt(model).prove_rows([[axis] for axis in axes])
    assert inputs == axes
    return not unproven, outputs


def compiled(model: ov.Model, axes: Axes, rows: int) -> Callable[[Sequence[Array]], list[Array]]:
    copy = model.clone()
    shapes = {}
    for port, axis in zip(copy.inputs, axes, strict=True):
        shape = port.get_partial_shape()
        if axis is not None:
            shape[axis] = ov.Dimension(rows)
        shapes[port.get_node().get_friendly_name()] = shape
    copy.reshape({copy.input(name): shape for name, shape in shapes.items()})
    made = ov.Core().compile_model(copy, "CPU", EXACT)
    return lambda x: [np.array(y) for y in made(list(x)).values()]


def check_by_running(model: ov.Model, axes: Axes, outputs: Axes, rows: int = 3) -> None:
    """Rows together are what rows alone are."""
    together, alone = (compiled(model, axes, n) for n in (rows, 1))
    x = []
    for port, axis in zip(model.inputs, axes, strict=True):
        shape = [
            rows if at == axis else length.get_length() if length.is_static else 2
            for at, length in enumerate(port.get_partial_shape())
        ]
        kind = port.get_element_type().to_dtype()
        x.append(
            RNG.integers(0, 3, shape).astype(kind) if kind.kind != "f" else RNG.uniform(0.1, 1, shape).astype(kind)
        )
    found = together(x)
    for row in range(rows):
        part = [a if axis is None else a.take([row], axis) for a, axis in zip(x, axes, strict=True)]
        for a, b, axis in zip(found, alone(part), outputs, strict=True):
            assert axis is not None
            assert a.shape[axis] == rows
            np.testing.assert_allclose(a.take([row], axis), b, rtol=1e-5, atol=1e-6)


# -- proved -----------------------------------------------------------------------------------------------------------


def size(x: Any, *axes: int) -> Any:
    """Of these dimensions of x, as numbers in a row."""
    return ops.gather(ops.shape_of(x), i64(list(axes)), i64(0))


def split_heads(x: Any) -> Any:
    """`(n, 4, 6)` to `(n, 2, 4, 3)`, by a shape that is computed as PyTorch's export does."""
    shape = ops.concat([size(x, 0), size(x, 1), i64([2]), i64([3])], 0)
    return ops.transpose(ops.reshape(x, shape, False), i64([0, 2, 1, 3]))


def attention(x: Any) -> Any:
    heads = split_heads(x)
    scores = ops.softmax(ops.matmul(heads, heads, False, True), -1)
    back = ops.transpose(ops.matmul(scores, heads, False, False), i64([0, 2, 1, 3]))
    return ops.reshape(back, i64([0, 0, -1]), True)


def attention_in_one_dimension(x: Any) -> Any:
    """Heads and rows in one dimension, `n * 2`, as older exports have it."""
    heads = ops.reshape(split_heads(x), i64([-1, 4, 3]), False)
    scores = ops.softmax(ops.matmul(heads, heads, False, True), 2)
    together = ops.matmul(scores, heads, False, False)
    back = ops.reshape(together, ops.concat([size(x, 0), i64([2, 4, 3])], 0), False)
    return ops.reshape(ops.transpose(back, i64([0, 2, 1, 3])), i64([0, 0, -1]), True)


def scaled_attention(x: Any) -> Any:
    heads = split_heads(x)
    return ops.scaled_dot_product_attention(heads, heads, heads, causal=True)


def masked_attention(x: Any, mask: Any) -> Any:
    heads = split_heads(x)
    bias = ops.multiply(ops.unsqueeze(mask, i64([1, 2])), f32(-10))
    return ops.scaled_dot_product_attention(heads, heads, heads, bias)


def expanded(x: Any) -> Any:
    """A table that is repeated for each row, with PyTorch's way to say which dimensions stay."""
    wanted = ops.concat([size(x, 0), i64([-1, 4])], 0)
    shape = ops.select(ops.equal(wanted, i64(-1)), i64([1, 3, 4]), wanted)
    return ops.add(ops.unsqueeze(x, i64(1)), ops.broadcast(weights(1, 3, 4), shape))


def recurrent(x: Any) -> Any:
    """An LSTM over `(n, 5, 3)` whose first state is made for as many rows."""
    state = ops.broadcast(f32(0), ops.concat([size(x, 0), i64([1, 4])], 0))
    lengths = ops.broadcast(i64(5), size(x, 0))
    return ops.lstm_sequence(
        x, state, state, lengths, weights(1, 16, 3), weights(1, 16, 4), weights(1, 16), 4, "forward"
    ).output(0)


def layer_norm(x: Any) -> Any:
    centred = ops.subtract(x, ops.reduce_mean(x, i64([-1]), keep_dims=True))
    variance = ops.reduce_mean(ops.multiply(centred, centred), i64([-1]), keep_dims=True)
    return ops.add(ops.multiply(ops.divide(centred, ops.sqrt(ops.add(variance, f32(1e-5)))), weights(4)), weights(4))


def resized(x: Any) -> Any:
    """By a size that is computed of all dimensions, as ONNX's Resize is."""
    sizes = ops.concat([size(x, 0, 1), ops.multiply(size(x, 2, 3), i64([2, 2]))], 0)
    return opset11.interpolate(x, sizes, "nearest", "sizes", [0], [0], "asymmetric", axes=i64([0, 1, 2, 3]))


def padded(x: Any) -> Any:
    return ops.pad(x, i64([0, 1]), i64([0, 2]), "constant", f32(0))


def conv(x: Any) -> Any:
    return ops.convolution(x, weights(5, 3, 3, 3), [1, 1], [1, 1], [1, 1], [1, 1])


def channels(x: Any) -> Any:
    """Attention over channels: means, then a factor for each."""
    means = ops.reduce_mean(conv(x), i64([2, 3]), keep_dims=True)
    return ops.multiply(
        conv(x), ops.sigmoid(ops.convolution(means, weights(5, 5, 1, 1), [1, 1], [0, 0], [0, 0], [1, 1]))
    )


def reverse(x: Any, axis: int) -> Any:
    return NodeFactory("opset1").create("Reverse", [x, i64([axis])], {"mode": "index"})


def times(x: Any, factor: Any) -> Any:
    return ops.multiply(x, factor)


X, IMAGE, TEXT = {"x": [-1, 4]}, {"x": [-1, 3, 6, 6]}, {"x": [-1, 4, 6]}
PROVED: list[tuple[str, Inputs, Build, Axes, Axes]] = [
    ("one operator", X, ops.relu, (0,), (0,)),
    ("static", {"x": [1, 4]}, ops.relu, (0,), (0,)),
    ("along the second axis", {"x": [4, -1]}, lambda x: ops.softmax(x, 0), (1,), (1,)),
    ("weights", X, lambda x: ops.add(ops.matmul(x, weights(4, 5), False, False), weights(1, 5)), (0,), (0,)),
    ("weights in front", {"x": [4, -1]}, lambda x: ops.matmul(weights(5, 4), x, False, False), (1,), (1,)),
    ("transposed weights", X, lambda x: ops.matmul(x, weights(5, 4), False, True), (0,), (0,)),
    ("transposed rows", {"x": [4, -1]}, lambda x: ops.matmul(x, weights(4, 5), True, False), (1,), (0,)),
    ("a vector of weights", X, lambda x: ops.matmul(x, weights(4), False, False), (0,), (0,)),
    ("many matrices", TEXT, lambda x: ops.matmul(x, x, False, True), (0,), (0,)),
    ("a shared input", {"x": [-1, 4], "f": [4]}, times, (0, None), (0,)),
    ("a shared scalar", {"x": [-1, 4], "f": []}, times, (0, None), (0,)),
    ("two inputs of rows", {"x": [-1, 4], "y": [-1, 1]}, times, (0, 0), (0,)),
    ("aligned from the end", {"x": [3, -1, 4], "y": [-1, 4]}, times, (1, 0), (1,)),
    ("layer norm", X, layer_norm, (0,), (0,)),
    ("mvn", TEXT, lambda x: ops.mvn(x, i64([1, 2]), True, 1e-6, "inside_sqrt"), (0,), (0,)),
    ("l2", X, lambda x: ops.normalize_l2(x, i64([1]), 1e-6, "add"), (0,), (0,)),
    ("cumulative sum", TEXT, lambda x: ops.cum_sum(x, i64(-1)), (0,), (0,)),
    ("reduced", TEXT, lambda x: ops.reduce_max(x, i64([1]), keep_dims=False), (0,), (0,)),
    ("reduced before", {"x": [3, -1, 4]}, lambda x: ops.reduce_sum(x, i64([0]), keep_dims=False), (1,), (0,)),
    ("convolution", IMAGE, conv, (0,), (0,)),
    ("attention over channels", IMAGE, channels, (0,), (0,)),
    ("pooling", IMAGE, lambda x: ops.avg_pool(x, [2, 2], [0, 0], [0, 0], [2, 2], False), (0,), (0,)),
    ("largest", IMAGE, lambda x: ops.max_pool(x, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2]).output(0), (0,), (0,)),
    ("places from an axis on", IMAGE,
     lambda x: ops.max_pool(x, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2], axis=2).output(1), (0,), (0,)),
    ("flattened", IMAGE, lambda x: ops.reshape(x, i64([0, -1]), True), (0,), (0,)),
    ("flattened by -1", IMAGE, lambda x: ops.reshape(x, i64([-1, 108]), False), (0,), (0,)),
    ("flattened by its size", IMAGE,
     lambda x: ops.reshape(x, ops.concat([size(x, 0), i64([-1])], 0), False), (0,), (0,)),
    ("flattened by a product", IMAGE, lambda x: ops.reshape(
        x, ops.concat([size(x, 0), ops.unsqueeze(ops.reduce_prod(size(x, 1, 2, 3), i64(0)), i64(0))], 0), False),
     (0,), (0,)),
    ("attention", TEXT, attention, (0,), (0,)),
    ("heads and rows in one dimension", TEXT, attention_in_one_dimension, (0,), (0,)),
    ("heads and rows, static", {"x": [1, 4, 6]}, attention_in_one_dimension, (0,), (0,)),
    ("scaled attention", TEXT, scaled_attention, (0,), (0,)),
    ("masked attention", {"x": [-1, 4, 6], "mask": [-1, 4]}, masked_attention, (0, 0), (0,)),
    ("expanded", X, expanded, (0,), (0,)),
    ("expanded, static", {"x": [1, 4]}, expanded, (0,), (0,)),
    ("tiled for each row", X, lambda x: ops.add(
        ops.unsqueeze(x, i64(1)), ops.tile(weights(1, 3, 4), ops.concat([size(x, 0), i64([1, 1])], 0))), (0,), (0,)),
    ("tiled", X, lambda x: ops.tile(x, i64([2, 1, 3])), (0,), (1,)),
    ("lstm", {"x": [-1, 5, 3]}, recurrent, (0,), (0,)),
    ("joined", {"x": [-1, 4], "y": [-1, 2]}, lambda x, y: ops.concat([x, y], 1), (0, 0), (0,)),
    ("one part", TEXT, lambda x: ops.split(x, i64(2), 3).output(1), (0,), (0,)),
    ("parts", TEXT, lambda x: ops.variadic_split(x, i64(1), i64([1, 3])).output(1), (0,), (0,)),
    ("slice", TEXT, lambda x: ops.slice(x, i64([1]), i64([3]), i64([1]), i64([1])), (0,), (0,)),
    ("slice with all rows", TEXT, lambda x: ops.slice(x, i64([0, 1]), i64([2**40, 3]), i64([1, 1])), (0,), (0,)),
    ("slice up to where no batch ends", TEXT,
     lambda x: ops.slice(x, i64([0, 0]), i64([10**9, 2]), i64([1, 1]), i64([0, 2])), (0,), (0,)),
    ("last step", TEXT,
     lambda x: ops.strided_slice(x, i64([0, -1, 0]), i64([0, 0, 0]), i64([1, 1, 1]), [1, 0, 1], [1, 1, 1],
                                 [0, 0, 0], [0, 1, 0]), (0,), (0,)),
    ("after an ellipsis", TEXT,
     lambda x: ops.strided_slice(x, i64([0, 1]), i64([0, 3]), i64([1, 1]), [1, 0], [1, 0], [0, 0], [0, 0], [1, 0]),
     (0,), (0,)),
    ("a new axis in front", X,
     lambda x: ops.strided_slice(x, i64([0, 0]), i64([0, 0]), i64([1, 1]), [1, 1], [1, 1], [1, 0]), (0,), (1,)),
    ("step of a sequence", {"x": [5, -1, 4]}, lambda x: ops.gather(x, i64(3), i64(0)), (1,), (0,)),
    ("steps of a sequence", {"x": [5, -1, 4]}, lambda x: ops.gather(x, i64([[3, 1]]), i64(0)), (1,), (2,)),
    ("in front of what is gathered", TEXT, lambda x: ops.gather(x, i64([3, 1]), i64(1)), (0,), (0,)),
    ("padded", X, padded, (0,), (0,)),
    ("resized", IMAGE, resized, (0,), (0,)),
    ("resized by scales", IMAGE, lambda x: opset11.interpolate(
        x, f32([1.0, 1.0, 1.5, 2.0]), "nearest", "scales", [0], [0], "asymmetric", axes=i64([0, 1, 2, 3])), (0,), (0,)),
    ("resized along axes", IMAGE, lambda x: opset11.interpolate(
        x, i64([9, 9]), "linear_onnx", "sizes", [0], [0], "half_pixel", axes=i64([2, 3])), (0,), (0,)),
    ("squeezed", {"x": [1, -1, 4]}, lambda x: ops.squeeze(x, i64([0])), (1,), (0,)),
    ("unsqueezed", X, lambda x: ops.unsqueeze(x, i64([0, -1])), (0,), (1,)),
    ("transposed", TEXT, lambda x: ops.transpose(x, i64([2, 0, 1])), (0,), (1,)),
    ("largest of each row", X, lambda x: ops.topk(x, i64(2), 1, "max", "value").output(0), (0,), (0,)),
    ("reversed within rows", X, lambda x: reverse(x, 1), (0,), (0,)),
    ("rolled within rows", X, lambda x: ops.roll(x, i64([1]), i64([1])), (0,), (0,)),
    ("quantized", X, lambda x: ops.fake_quantize(x, f32(0), f32([[1, 2, 3, 4]]), f32(0), f32(4), 256), (0,), (0,)),
    ("slopes", IMAGE, lambda x: ops.prelu(x, weights(3)), (0,), (0,)),
    ("einsum", TEXT, lambda x: ops.einsum([x, weights(6, 2)], "nij,jk->ikn"), (0,), (2,)),
    ("upper and lower case", {"x": [-1, 3], "y": [-1, 3]}, lambda x, y: ops.einsum([x, y], "Ni,Ni->iN"), (0, 0), (1,)),
    ("of the larger sort", X, lambda x: ops.select(ops.greater(x, f32(0.5)), x, ops.negative(x)), (0,), (0,)),
    ("batch norm", IMAGE, lambda x: ops.batch_norm_inference(
        x, weights(3), weights(3), weights(3), f32([1, 2, 3]), 1e-5), (0,), (0,)),
    ("group norm", {"x": [-1, 4, 3]},
     lambda x: ops.group_normalization(x, weights(4), weights(4), 2, 1e-5), (0,), (0,)),
    ("depth to space", {"x": [-1, 4, 2, 2]}, lambda x: ops.depth_to_space(x, "blocks_first", 2), (0,), (0,)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "inputs", "build", "axes", "outputs"), PROVED, ids=[each[0] for each in PROVED])
def test_rows_that_no_operator_mixes_are_proved_independent(
    name: str, inputs: Inputs, build: Build, axes: Axes, outputs: Axes
) -> None:
    model = model_of(inputs, build)
    assert proof(model, axes) == (True, outputs)
    check_by_running(model, axes, outputs)


INDICES: list[tuple[str, Inputs, Build, Axes, Axes]] = [
    ("embedding", {"i": [-1, 5]}, lambda i: ops.gather(weights(4, 7), i, i64(0)), (0,), (0,)),
    ("embedding along another axis", {"i": [-1, 5]}, lambda i: ops.gather(weights(7, 4), i, i64(1)), (0,), (1,)),
    ("elements", {"x": [-1, 4], "i": [-1, 2]}, lambda x, i: ops.gather_elements(x, i, 1), (0, 0), (0,)),
    ("places", {"i": [-1, 5, 2]}, lambda i: ops.gather_nd(weights(4, 4, 3), i), (0,), (0,)),
    ("one hot", {"i": [-1, 5]}, lambda i: ops.one_hot(i, i64(4), f32(1), f32(0), 0), (0,), (1,)),
    ("reversed sequences", {"x": [-1, 4, 2], "i": [-1]},
     lambda x, i: ops.reverse_sequence(x, i, 0, 1), (0, 0), (0,)),
    ("a shared length", {"x": [1, 4, 2], "i": [2]},
     lambda x, i: ops.reverse_sequence(ops.concat([x, x], 2), ops.concat([i, i], 0), 2, 1), (0, None), (0,)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "inputs", "build", "axes", "outputs"), INDICES, ids=[each[0] for each in INDICES])
def test_rows_of_indices_are_proved_independent(
    name: str, inputs: Inputs, build: Build, axes: Axes, outputs: Axes
) -> None:
    model = model_of(inputs, build, {"i": np.int64})
    assert proof(model, axes) == (True, outputs)
    check_by_running(model, axes, outputs)


# -- not proved -------------------------------------------------------------------------------------------------------


def count(x: Any) -> Any:
    return ops.gather(ops.shape_of(x), i64(0), i64(0))


def batch_norm_in_training(x: Any) -> Any:
    mean = ops.reduce_mean(x, i64([0, 2, 3]), keep_dims=True)
    return ops.subtract(x, mean)


def loop(x: Any) -> Any:
    """A body that adds up rows, from one to the next."""
    state, part = ops.parameter([1, 4], np.float32), ops.parameter([1, 4], np.float32)
    added = ops.add(state, part)
    body = ov.Model([ops.result(added), ops.result(added)], [state, part], "body")
    node = ops.tensor_iterator()
    node.set_body(body)
    node.set_sliced_input(part, x.output(0), 0, 1, 1, -1, 0)
    node.set_merged_input(state, f32(np.zeros((1, 4))).output(0), body.get_results()[0].output(0))
    return node.get_concatenated_slices(body.get_results()[1].output(0), 0, 1, 1, -1, 0).get_node()


def condition(x: Any) -> Any:
    """One of two bodies by the sum of all rows."""
    then, other = (ops.parameter([-1, 4], np.float32) for _ in range(2))
    node = ops.if_op(ops.greater(ops.reduce_sum(x, i64([0, 1]), keep_dims=False), f32(0)).output(0))
    bodies = [ov.Model([ops.result(ops.negative(then))], [then], "a"), ov.Model([ops.result(other)], [other], "b")]
    node.set_then_body(bodies[0])
    node.set_else_body(bodies[1])
    node.set_input(x.output(0), then, other)
    return node.set_output(bodies[0].results[0], bodies[1].results[0]).get_node()


def roi_align(x: Any, boxes: Any, i: Any) -> Any:
    return opset10.roi_align(x, boxes, i, 2, 2, 2, 1.0, "avg", "asymmetric")


NOT_PROVED: list[tuple[str, Inputs, Build, Axes]] = [
    ("softmax over rows", X, lambda x: ops.softmax(x, 0), (0,)),
    ("softmax over rows from the end", X, lambda x: opset8.softmax(x, -2), (0,)),
    ("mean over rows", X, lambda x: ops.subtract(x, ops.reduce_mean(x, i64([0]), keep_dims=True)), (0,)),
    ("mean over all", X, lambda x: ops.subtract(x, ops.reduce_mean(x, i64([0, 1]), keep_dims=True)), (0,)),
    ("mean over no axes", X, lambda x: ops.subtract(x, ops.reduce_mean(x, i64([]), keep_dims=True)), (0,)),
    ("mean over rows from the end", X, lambda x: ops.subtract(x, ops.reduce_mean(x, i64([-2]), keep_dims=True)), (0,)),
    ("batch norm in training", IMAGE, batch_norm_in_training, (0,)),
    ("cumulative sum", X, lambda x: ops.cum_sum(x, i64(0)), (0,)),
    ("mvn over rows", X, lambda x: ops.mvn(x, i64([0, 1]), True, 1e-6, "inside_sqrt"), (0,)),
    ("l2 over rows", X, lambda x: ops.normalize_l2(x, i64([0]), 1e-6, "add"), (0,)),
    ("rows times rows", X, lambda x: ops.matmul(ops.matmul(x, x, False, True), x, False, False), (0,)),
    ("sum over rows", {"x": [-1, 4], "y": [-1, 3]}, lambda x, y: ops.matmul(x, y, True, False), (0, 0)),
    ("weights for rows", {"x": [1, 4]}, lambda x: ops.matmul(weights(3, 1), x, False, False), (0,)),
    ("a hard-coded shape", {"x": [1, 8]}, lambda x: ops.reshape(x, i64([1, 2, 4]), False), (0,)),
    ("rows in one", TEXT, lambda x: ops.reshape(x, i64([1, -1]), False), (0,)),
    ("rows in one and apart again", TEXT,
     lambda x: ops.reshape(ops.softmax(ops.reshape(x, i64([1, -1]), False), 1), i64([-1, 4, 6]), False), (0,)),
    ("columns for rows", X, lambda x: ops.reshape(ops.transpose(x, i64([1, 0])), i64([-1, 4]), False), (0,)),
    ("rows inside of others", TEXT, lambda x: ops.reshape(
        ops.reshape(ops.transpose(x, i64([1, 0, 2])), i64([-1, 6]), False), i64([-1, 4, 6]), False), (0,)),
    ("two rows for one", X, lambda x: ops.reshape(x, i64([-1, 2]), False), (0,)),
    ("half a row", X, lambda x: ops.reshape(x, i64([-1, 8]), False), (0,)),
    ("axis moved away", {"x": [-1, 3, 4]}, lambda x: ops.softmax(ops.transpose(x, i64([1, 0, 2])), 1), (0,)),
    ("one row of all", X, lambda x: ops.gather(x, i64(0), i64(0)), (0,)),
    ("the first row added", X, lambda x: ops.add(x, ops.slice(x, i64([0]), i64([1]), i64([1]), i64([0]))), (0,)),
    ("the row before added", X, lambda x: ops.add(x, ops.roll(x, i64([1]), i64([0]))), (0,)),
    ("reversed rows", X, lambda x: reverse(x, 0), (0,)),
    ("rows backwards", X, lambda x: ops.strided_slice(
        x, i64([0, 0]), i64([0, 0]), i64([-1, 1]), [1, 1], [1, 1]), (0,)),
    ("all but one", X, lambda x: ops.strided_slice(x, i64([1, 0]), i64([0, 0]), i64([1, 1]), [0, 1], [1, 1]), (0,)),
    ("up to the last", X, lambda x: ops.slice(x, i64([0]), i64([-1]), i64([1]), i64([0])), (0,)),
    ("the first thousand", X, lambda x: ops.slice(x, i64([0]), i64([1000]), i64([1]), i64([0])), (0,)),
    ("rows in a ring", X, lambda x: ops.pad(x, i64([1, 0]), i64([-1, 0]), "constant", f32(0)), (0,)),
    ("joined to others", X, lambda x: ops.concat([x, x], 0), (0,)),
    ("joined to a table", {"x": [1, 4]}, lambda x: ops.concat([x, weights(1, 4)], 1), (0,)),
    ("a table for each row", {"x": [1, 4]}, lambda x: ops.add(x, weights(3, 4)), (0,)),
    ("a column of rows", {"x": [-1, 1], "y": [-1]}, lambda x, y: ops.add(x, y), (0, 0)),
    ("the number of rows", X, lambda x: ops.divide(x, ops.convert(count(x), "f32")), (0,)),
    ("the places of rows", X, lambda x: ops.add(
        x, ops.unsqueeze(ops.range(i64(0), count(x), i64(1), "f32"), i64(1))), (0,)),
    ("as many columns as rows", X,
     lambda x: ops.slice(x, i64([0]), ops.unsqueeze(count(x), i64(0)), i64([1]), i64([1])), (0,)),
    ("largest rows", X, lambda x: ops.topk(x, i64(1), 0, "max", "value").output(0), (0,)),
    ("as many as there are rows", X, lambda x: ops.topk(x, count(x), 1, "max", "value").output(0), (0,)),
    ("tiled rows", X, lambda x: ops.tile(x, i64([2, 1])), (0,)),
    ("broadcast rows", {"x": [1, 4]}, lambda x: ops.broadcast(x, i64([3, 4])), (0,)),
    ("all dimensions of one squeezed", X, lambda x: ops.squeeze(x, i64([])), (0,)),
    ("places in all", IMAGE, lambda x: ops.max_pool(x, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2]).output(1), (0,)),
    ("noise", X, lambda x: ops.add(x, ops.random_uniform(ops.shape_of(x), f32(0), f32(1), "f32")), (0,)),
    ("shared noise", X, lambda x: ops.add(x, ops.random_uniform(i64([1, 4]), f32(0), f32(1), "f32")), (0,)),
    ("what is not zero", X, lambda x: ops.transpose(ops.non_zero(x, "i64"), i64([1, 0])), (0,)),
    ("unique", X, lambda x: opset10.unique(x, 0).output(0), (0,)),
    ("control flow from row to row", {"x": [-1, 4]}, loop, (0,)),
    ("control flow by all rows", X, condition, (0,)),
    ("convolution over rows", {"x": [1, 4, -1]},
     lambda x: ops.convolution(x, weights(4, 4, 3), [1], [1], [1], [1]), (2,)),
    ("rows as channels", {"x": [1, -1, 4]}, lambda x: ops.softmax(x, 1), (1,)),
    ("einsum over rows", X, lambda x: ops.einsum([x, x], "ni,nj->ij"), (0,)),
    ("einsum over all pairs", X, lambda x: ops.einsum([x, x], "ni,mi->nm"), (0,)),
    ("letters of another case", X, lambda x: ops.einsum([x, x], "Ni,nj->Nij"), (0,)),
    ("attention over rows", {"x": [4, -1, 6]}, lambda x: ops.scaled_dot_product_attention(x, x, x), (1,)),
    ("a mask of other rows", {"x": [-1, 2, 4, 3], "mask": [-1, 4, 4]},
     lambda x, mask: ops.scaled_dot_product_attention(x, x, x, mask), (0, 0)),
    ("aligned from the front", {"x": [-1, 4], "y": [-1]}, lambda x, y: opset1.add(x, y, "PDPD"), (0, 0)),
    ("resized along rows", IMAGE, lambda x: opset11.interpolate(
        x, f32([2.0, 1.0]), "nearest", "scales", [0], [0], "asymmetric", axes=i64([0, 1])), (0,)),
    ("heads of other rows", TEXT, lambda x: ops.matmul(
        ops.reshape(x, i64([-1, 2, 6]), False), ops.reshape(x, i64([-1, 6, 2]), False), False, False), (0,)),
    ("a constant", X, lambda x: ops.add(ops.multiply(ops.shape_of(x), i64(0)), i64(3)), (0,)),
    ("a table", X, lambda x: ops.broadcast(f32(1), i64([1, 4])), (0,)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "inputs", "build", "axes"), NOT_PROVED, ids=[each[0] for each in NOT_PROVED])
def test_rows_that_meet_or_are_counted_are_not_proved(name: str, inputs: Inputs, build: Build, axes: Axes) -> None:
    assert not proof(model_of(inputs, build), axes)[0]


UNSURE: list[tuple[str, Inputs, Build, Axes]] = [
    ("rows of a table by row", {"x": [-1, 4], "i": [-1]}, lambda x, i: ops.gather(x, i, i64(0)), (0, 0)),
    ("rows by shared index", {"x": [-1, 4], "i": [2]}, lambda x, i: ops.gather(x, i, i64(0)), (0, None)),
    ("places in all rows", {"x": [-1, 4], "i": [-1, 2]}, lambda x, i: ops.gather_nd(x, i), (0, 0)),
    ("scattered to rows", {"x": [-1, 4], "i": [-1, 1]},
     lambda x, i: ops.scatter_nd_update(x, i, x), (0, 0)),
    ("boxes by row", {"x": [-1, 3, 6, 6], "boxes": [-1, 4], "i": [-1]}, roi_align, (0, 0, 0)),
    ("lengths along rows", {"x": [4, -1], "i": [4]}, lambda x, i: ops.reverse_sequence(x, i, 0, 1), (1, None)),
    ("shared lengths", {"x": [1, 4], "i": [1]}, lambda x, i: ops.reverse_sequence(x, i, 0, 1), (0, None)),
    ("a shape that is an input", {"x": [-1, 4], "i": [2]}, lambda x, i: ops.reshape(x, i, True), (0, None)),
    ("an axis that is an input", {"x": [-1, 4], "i": []}, lambda x, i: ops.cum_sum(x, i), (0, None)),
    ("axes that are an input", {"x": [-1, 4], "i": [1]},
     lambda x, i: ops.subtract(x, ops.reduce_sum(x, i, keep_dims=True)), (0, None)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "inputs", "build", "axes"), UNSURE, ids=[each[0] for each in UNSURE])
def test_rows_that_meet_by_index_or_maybe_are_not_proved(name: str, inputs: Inputs, build: Build, axes: Axes) -> None:
    assert not proof(model_of(inputs, build, {"i": np.int64}), axes)[0]


def test_rows_of_indices_beside_rows_are_proved_independent() -> None:
    # Not run: OpenVINO's kernel for it leaves its memory at a batch of 1.
    model = model_of({"x": [-1, 4], "i": [-1, 2]}, lambda x, i: ops.gather(x, i, i64(1), 1), {"i": np.int64})
    assert proof(model, (0, 0)) == (True, (0,))


def test_an_operator_without_a_rule_is_named() -> None:
    x = ops.parameter([-1, 4], np.float32, name="x")
    strange = opset10.unique(ops.relu(x), 0)
    strange.set_friendly_name("strange")
    *_, unproven = Runtime().adopt(ov.Model([ops.result(strange.output(0))], [x], "m")).prove_rows([[0]])
    assert unproven == "Unique 'strange'"


class Relu(ov.Op):  # type: ignore[misc]
    """Of a user: the name of an operator of OpenVINO's, and none of its meaning."""

    def __init__(self, inputs: Any) -> None:
        super().__init__(self, inputs)

    def validate_and_infer_types(self) -> None:
        self.set_output_type(0, self.get_input_element_type(0), self.get_input_partial_shape(0))

    def clone_with_new_inputs(self, new_inputs: Any) -> Any:
        return Relu(new_inputs)


def test_operators_from_elsewhere_have_no_rule_whatever_their_name() -> None:
    assert not proof(model_of(X, lambda x: Relu([x])), (0,))[0]


# -- finding axes -----------------------------------------------------------------------------------------------------


def found(model: ov.Model, choices: Sequence[Sequence[int | None]]) -> tuple[Axes, str]:
    inputs, _, _, unproven = Runtime().adopt(model).prove_rows(choices)
    return inputs, unproven


def test_inputs_that_meet_decide_for_each_other() -> None:
    model = model_of({"x": [1, 4], "state": [1, 1, 4]}, lambda x, s: ops.add(ops.unsqueeze(x, i64(0)), s))
    assert found(model, [[0, None], [0, 1, None]]) == ((0, 1), "")
    # By the first choice where both are right.
    model = model_of({"x": [1, 1, 4], "y": [1, 1, 4]}, ops.add)
    assert found(model, [[0, 1, None]] * 2) == ((0, 0), "")
    assert found(model, [[1, 0, None], [0, 1, None]]) == ((0, 0), "")
    assert found(model, [[1], [0, 1, None]]) == ((1, 1), "")
    # An operator that comes later decides, too.
    model = model_of({"x": [1, 1, 4], "y": [1, 1, 4]}, lambda x, y: ops.softmax(ops.add(x, y), 0))
    assert found(model, [[0, 1, None]] * 2) == ((1, 1), "")
    # What can only be shared.
    model = model_of({"x": [1, 4], "y": [1, 4]}, lambda x, y: ops.add(x, ops.reduce_sum(y, i64([0]), keep_dims=True)))
    assert found(model, [[0, None]] * 2) == ((0, None), "")


@pytest.mark.parametrize("count", [10, 300])
def test_axes_of_many_inputs_are_found_in_one_pass(count: int) -> None:
    """Each input has another shape, and the batch axis that comes last of its choices."""
    parameters = [ops.parameter([1, 1, 2 + i], np.float32, name=f"x{i}") for i in range(count)]
    first = ops.softmax(parameters[0], 0)  # rows are not along the first axis
    total = ops.reduce_sum(first, i64([0, 2]), keep_dims=True)
    for parameter in parameters[1:]:
        total = ops.add(total, ops.reduce_sum(ops.cum_sum(parameter, i64(0)), i64([2]), keep_dims=True))
    model = ov.Model([ops.result(total)], parameters, "m")
    assert found(model, [[0, 1, None]] * count) == ((1,) * count, "")
