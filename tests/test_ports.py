"""Inputs and results go by port: indices, names, and ports as keys, also where ports share a name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

import ovengine
from ovengine.testing import fake_model
from support import EXACT, Array, network, ready, tagged, two_in_two_out


def named(outputs: tuple[set[str], ...], inputs: tuple[set[str], ...] = ({"x"},), rows: int = -1) -> ov.Model:
    """Output `i` is `10 ** i` times (the first input minus the others)."""
    parameters = []
    for names in inputs:
        parameters.append(ops.parameter([rows, 4], np.float32))
        parameters[-1].output(0).set_names(names)
    node: Any = parameters[0]
    for other in parameters[1:]:
        node = ops.subtract(node, other)
    results = []
    for index, names in enumerate(outputs):
        scaled = ops.multiply(node, ops.constant(np.float32(10**index)))
        scaled.output(0).set_names(names)
        results.append(ops.result(scaled))
    return ov.Model(results, parameters, "named")


@pytest.fixture(scope="module")
def twins() -> Iterator[ovengine.Model]:
    """Two outputs named `y`."""
    with ovengine.load(named(({"y"}, {"y"})), config=EXACT) as model:
        yield ready(model)


@pytest.fixture(scope="module")
def alike() -> Iterator[ovengine.Model]:
    """Two inputs of equal shapes named `x`, of which OpenVINO renames the second; `y` is their difference."""
    with ovengine.load(named(({"y"},), ({"x"}, {"x"})), config=EXACT) as model:
        yield ready(model)


def same(result: ovengine.Result, wanted: dict[Any, Array]) -> bool:
    """Whether the mapping is this one, however it is looked at."""
    keys = list(wanted)
    views = [list(result), result.keys(), [key for key, _ in result.items()], list(dict(result))]
    values = [result.values(), [array for _, array in result.items()], [result[key] for key in keys]]
    return (
        all(view == keys for view in views)
        and all(all(map(np.array_equal, arrays, wanted.values())) for arrays in values)
        and len(result) == len(wanted) == len(dict(result))
    )


# -- results ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (({"y"}, {"z"}), ("y", "z")),
        (({"y"}, {"y"}), (0, 1)),
        (({"y"}, {"z"}, {"y"}), (0, "z", 2)),
        (({"y", "a"}, {"y", "b"}), ("a", "b")),  # each has a name of its own
        (({"a", "y"}, {"y"}), ("a", 1)),
    ],
)
@pytest.mark.parametrize("rows", [-1, 3])
def test_a_result_has_one_key_for_each_output(names: tuple[set[str], ...], keys: tuple[Any, ...], rows: int) -> None:
    x = tagged(3)
    with ovengine.load(named(names, rows=rows), config=EXACT) as model:
        wanted = {key: x * 10**index for index, key in enumerate(keys)}
        assert same(model(x), wanted)
        assert same(model.submit(x).result(), wanted)
        assert same(model.infer_rows(x), wanted)


def test_a_name_that_outputs_share_means_the_first_as_in_openvino(twins: ovengine.Model) -> None:
    x = tagged(1)
    plain = ov.Core().compile_model(named(({"y"}, {"y"})), "CPU", EXACT)(x)
    np.testing.assert_array_equal(twins(x)["y"], plain["y"])
    np.testing.assert_array_equal(twins(x)[1], plain[1])


def test_large_outputs_of_one_name_are_views_of_their_own() -> None:
    x = ops.parameter([-1, 4096], np.float32, name="x")
    doubled, tripled = (ops.multiply(x, ops.constant(np.float32(factor))) for factor in (2, 3))
    doubled.output(0).set_names({"y"})
    tripled.output(0).set_names({"y"})
    with ovengine.load(ov.Model([ops.result(doubled), ops.result(tripled)], [x], "large"), config=EXACT) as model:
        given = tagged(1, 4096)
        assert same(model(given), {0: given * 2, 1: given * 3})


def test_the_models_own_ports_are_keys_of_results(twins: ovengine.Model) -> None:
    x = tagged(2)
    result = twins(x)
    for index, port in enumerate(twins.outputs):
        assert port.index == index
        assert port in result
        np.testing.assert_array_equal(result[port], x * 10**index)
    assert len({port: None for port in twins.outputs}) == 2


def test_openvinos_ports_are_keys_of_results() -> None:
    source = two_in_two_out()
    compiled = ov.Core().compile_model(source, "CPU", EXACT)
    a, b = tagged(2, 3), np.ones((2, 2, 2), np.int32)
    with ovengine.load(source, config=EXACT) as model:
        result = model([a, b])
        for ports in (source.outputs, compiled.outputs, [ov.Core().compile_model(source, "CPU").output("scaled")]):
            for port in ports:
                assert port in result
                np.testing.assert_array_equal(result[port], result[port.any_name])


def test_a_port_of_another_model_that_could_be_several_is_refused(twins: ovengine.Model) -> None:
    port = named(({"y"}, {"y"})).outputs[1]
    result = twins(tagged(1))
    assert port not in result
    with pytest.raises(KeyError, match=r"any of the outputs 0, 1.*give the index"):
        result[port]


@pytest.mark.parametrize("key", [2, -1, 1.0, None, "z", b"y", (), [], {}, object(), np.int64(7), 10**30])
def test_what_is_no_key_is_a_key_error_that_lists_the_outputs(twins: ovengine.Model, key: Any) -> None:
    result = twins(tagged(1))
    assert key not in result
    assert result.get(key) is None
    with pytest.raises(KeyError, match=r"no output.*'y', 'y', or 0 to 1"):
        result[key]


def test_an_output_that_shows_nothing_is_not_vouched_for_by_another_of_its_name() -> None:
    def build(name: str) -> ov.Model:
        x = ops.parameter([-1, 4], np.float32, name="x")
        told, silent = ops.add(x, x), ops.multiply(x, ops.constant(np.float32(0)))
        told.output(0).set_names({"y"})
        silent.output(0).set_names({name})
        return ov.Model([ops.result(told), ops.result(silent)], [x], name)

    with ovengine.load(build("z"), cache_dir=None) as apart, ovengine.load(build("y"), cache_dir=None) as twin:
        assert twin.plan.mode == apart.plan.mode


# -- inputs -----------------------------------------------------------------------------------------------------------


def test_inputs_that_share_a_name_are_given_by_index_port_or_order(alike: ovengine.Model) -> None:
    a, b = tagged(2), tagged(2, first=7) * 3
    first, second = alike.inputs
    assert (first.name, second.name) == ("x", "x_1")
    for given in ([a, b], (a, b), {0: a, 1: b}, {"x_1": b, 0: a}, {"x": a, 1: b}, {np.int64(0): a, second: b}):
        np.testing.assert_array_equal(alike(given)["y"], a - b)
    np.testing.assert_array_equal(alike.submit({first: a, second: b}).result()["y"], a - b)
    np.testing.assert_array_equal(alike.infer_rows({second: b, first: a})["y"], a - b)


def test_an_input_without_a_value_is_named_by_its_key(alike: ovengine.Model) -> None:
    with pytest.raises(ovengine.InputError, match="no value for input 'x_1'"):
        alike({"x": tagged(1)})
    with pytest.raises(ovengine.InputError, match=r"input 'x' is given twice"):
        alike({0: tagged(1), "x": tagged(1)})


def test_openvinos_ports_are_keys_of_inputs() -> None:
    source = two_in_two_out()
    compiled = ov.Core().compile_model(source, "CPU", EXACT)
    a, b = tagged(2, 3), np.ones((2, 2, 2), np.int32)
    with ovengine.load(source, config=EXACT) as model:
        wanted = model([a, b])["total"]
        for ports in (source.inputs, compiled.inputs, model.inputs):
            np.testing.assert_array_equal(model(dict(zip(ports, (a, b), strict=True)))["total"], wanted)


def test_ports_without_names_have_openvinos() -> None:
    source = named((set(), set()), (set(), set()))
    a, b = tagged(1), tagged(1, first=3)
    with ovengine.load(source, config=EXACT) as model:
        found = model(dict(zip(source.inputs, (a, b), strict=True)))
        assert [found[port].tolist() for port in source.outputs] == [(a - b).tolist(), ((a - b) * 10).tolist()]
        assert list(found) == [port.any_name for port in source.outputs]


@pytest.mark.parametrize("key", [2, -1, 1.0, None, "z", (), object(), 10**30])
def test_what_is_no_input_is_an_input_error(alike: ovengine.Model, key: Any) -> None:
    with pytest.raises(ovengine.InputError, match=r"no input.*'x', 'x_1', or 0 to 1"):
        alike({key: tagged(1), 0: tagged(1)})


def test_a_lease_goes_by_port(alike: ovengine.Model) -> None:
    a, b = tagged(2), tagged(2, first=5)
    with alike.lease(2) as lease:
        for key, array in zip((0, alike.inputs[1]), (a, b), strict=True):
            lease[key][...] = array
        np.testing.assert_array_equal(lease.submit().result()["y"], a - b)


def test_row_classes_go_by_port() -> None:
    def build(a: Any, b: Any) -> dict[str, Any]:
        total = ops.add(ops.reduce_sum(a, ops.constant([1]), True), ops.reduce_sum(b, ops.constant([1]), True))
        return {"y": total}

    source = network({"a": ((-1,), np.float32), "b": ((-1,), np.float32)}, build)
    for parameter in source.inputs:
        parameter.set_names({"x"})
    with ovengine.load(source, config=EXACT) as model:
        a, b = tagged(1, 3), tagged(1, 5)
        for _ in range(64):
            np.testing.assert_array_equal(model([a, b])["y"], [[a.sum() + b.sum()]])
        assert model.wait_ready(60)
        for shapes in model.row_classes:
            assert shapes == {"x": (-1, 3), "x_1": (-1, 5)}


def test_shapes_go_by_port() -> None:
    source = named(({"y"},), ({"x"}, {"x"}))
    with ovengine.load(source, shapes={"x": [3, 4], 1: [3, 4]}, config=EXACT) as model:
        np.testing.assert_array_equal(model([tagged(3), tagged(3)])["y"], np.zeros((3, 4)))


def test_the_fakes_ports_are_keys() -> None:
    with fake_model() as model:
        assert list(model({model.inputs[0]: tagged(1)})) == ["y"]
