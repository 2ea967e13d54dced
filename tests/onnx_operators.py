"""Runs the operator tests of the `onnx` package: each answer is compared with OpenVINO's, and with the expected one.

    python tests/onnx_operators.py --times 3 --processes 2

Each test is a model with its inputs and outputs. The model is loaded with a cold cache and asked alone, many times at
once, before and after its larger batches are ready, and row by row where rows are batched. An answer may be wrong only
where OpenVINO's is wrong, too; an error of OpenVINO's must be an error here, of ovengine's own types. The name of each
test is written to a file before the test runs, so that the file names the test that ends the process.
"""

from __future__ import annotations

import argparse
import faulthandler
import functools
import importlib
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openvino as ov

import ovengine
from ovengine import _compiler
from support import EXACT, Array

# One that takes longer hangs.
MOST_SECONDS = 120
AT_ONCE = 6
# Modules of tests of operators with an input of indices, lengths, counts, axes or shapes.
INDEXED = (
    *("compress", "cumsum", "expand", "gather", "gatherelements", "gathernd", "if_", "loop", "maxunpool"),
    *("nonmaxsuppression", "onehot", "rangeop", "reshape", "reversesequence", "roialign", "rotaryembedding", "scan"),
    *("scatter", "scatterelements", "scatternd", "slice", "split", "tensorscatter", "tile", "topk"),
    "ai_onnx_ml.array_feature_extractor",
)
# Of NumPy's extensions: what OpenVINO calls them, and the dtype that shows their bits.
BITS = {
    "bfloat16": ("bf16", np.uint16),
    "float8_e4m3fn": ("f8e4m3", np.uint8),
    "float8_e5m2": ("f8e5m2", np.uint8),
    "float8_e8m0fnu": ("f8e8m0", np.uint8),
}
PACKED = {"int4": "i4", "uint4": "u4", "float4_e2m1fn": "f4e2m1"}


class Case(NamedTuple):
    """One test: a model, and arrays by the name of the input or output."""

    name: str
    model: bytes
    inputs: dict[str, Any]
    outputs: dict[str, Any]


class NotComparable(Exception):
    """OpenVINO's Python API cannot take or give such a value: a sequence, an optional, another type of number."""


class Answer(NamedTuple):
    """What came of a model: arrays in the order of the outputs, or the step that failed and its error."""

    arrays: list[Array]
    failed: str = ""
    error: str = ""


def cases(modules: Sequence[str] = ()) -> list[Case]:
    """The tests of these modules of `onnx.backend.test.case.node`; without any all tests that need no download."""
    from onnx.backend.test.case import model, node
    from onnx.backend.test.case.utils import import_recursive
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NumPy, about what the tests do with it
        if modules:
            for module in modules:
                importlib.import_module(f"{node.__name__}.{module}")
            return sorted((_in_memory(test) for test in node._NodeTestCases), key=lambda case: case.name)
        import_recursive(node)
        import_recursive(model)
    found = {test.name: _in_memory(test) for test in (*node._NodeTestCases, *model._SimpleModelTestCases)}
    for kind in ("simple", "pytorch-converted", "pytorch-operator"):
        found |= {test.name: _on_disk(test) for test in load_model_tests(kind=kind) if test.name not in found}
    return [found[name] for name in sorted(found)]


def _in_memory(test: Any) -> Case:
    inputs, outputs = test.data_sets[0]
    return _case(test.name, test.model, inputs, outputs)


def _on_disk(test: Any) -> Case:
    import onnx

    folder = Path(test.model_dir)
    model = onnx.load(folder / "model.onnx")
    data = folder / "test_data_set_0"

    def read(kind: str, infos: Sequence[Any]) -> list[Any]:
        values: list[Any] = []
        for index, info in enumerate(infos):
            content = (data / f"{kind}_{index}.pb").read_bytes()
            if not info.type.HasField("tensor_type"):
                values.append([])  # a sequence, which is not compared
            else:
                values.append(onnx.numpy_helper.to_array(onnx.TensorProto.FromString(content)))
        return values

    initialized = {one.name for one in model.graph.initializer}
    inputs = [info for info in model.graph.input if info.name not in initialized]
    return _case(test.name, model, read("input", inputs), read("output", model.graph.output))


def _case(name: str, model: Any, inputs: Sequence[Any], outputs: Sequence[Any]) -> Case:
    from onnx import TensorProto, numpy_helper

    def by_name(infos: Sequence[Any], values: Sequence[Any]) -> dict[str, Any]:
        arrays = [numpy_helper.to_array(one) if isinstance(one, TensorProto) else one for one in values]
        return dict(zip([info.name for info in infos], arrays, strict=False))

    initialized = {one.name for one in model.graph.initializer}
    taken = [info for info in model.graph.input if info.name not in initialized]
    return Case(name, model.SerializeToString(), by_name(taken, inputs), by_name(model.graph.output, outputs))


# -- values -----------------------------------------------------------------------------------------------------------


def as_given(value: Any) -> Any:
    """An array as OpenVINO and ovengine take it. Raises NotComparable."""
    if value is None or isinstance(value, (list, tuple, dict)):
        raise NotComparable("a sequence, an optional or a map")
    array = np.asarray(value)
    if (bits := BITS.get(array.dtype.name)) is not None:
        kind, dtype = bits
        return ov.Tensor(np.ascontiguousarray(array).view(dtype), ov.Shape(array.shape), getattr(ov.Type, kind))
    if array.dtype.name in PACKED:
        halves = array.view(np.uint8).ravel() & 15
        halves = np.append(halves, np.zeros(halves.size % 2, np.uint8))
        packed = halves[::2] | halves[1::2] << 4
        return ov.Tensor(packed, ov.Shape(array.shape), getattr(ov.Type, PACKED[array.dtype.name]))
    if array.dtype == object or array.dtype.kind == "U":
        return np.array([str(text) for text in array.ravel()] or np.empty(0, "U1")).reshape(array.shape)
    if array.dtype.kind not in "biufS":
        raise NotComparable(array.dtype.name)
    return array


def expected(value: Any) -> Any:
    """An output of a test, as OpenVINO and ovengine show it; None where they cannot."""
    try:
        given = as_given(value)
    except NotComparable:
        return None
    return np.array(given.data) if isinstance(given, ov.Tensor) else given


def same(a: Any, b: Any) -> bool:
    """Up to the rounding of f32."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape:
        return False
    if a.dtype.kind not in "biuf" or b.dtype.kind not in "biuf":
        return bool(a.astype(str).tolist() == b.astype(str).tolist())
    if a.dtype.kind != "f" and b.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    a, b = a.astype(np.float64), b.astype(np.float64)
    finite = np.abs(b[np.isfinite(b)])
    return bool(np.allclose(a, b, rtol=1e-3, atol=1e-5 * max(1.0, finite.max(initial=0.0)), equal_nan=True))


# -- one test ---------------------------------------------------------------------------------------------------------


def by_openvino(case: Case, inputs: Mapping[str, Any]) -> tuple[Answer, dict[int, Any]]:
    """Plain OpenVINO's answer, and the inputs that its model has, by index."""
    core = ov.Core()
    step = "load"
    taken: dict[int, Any] = {}
    try:
        compiled = core.compile_model(core.read_model(case.model), "CPU", EXACT)
        for index, port in enumerate(compiled.inputs):
            own = [value for name, value in inputs.items() if name in port.get_names()]
            # An input that is passed through has the name of the output.
            taken[index] = own[0] if own else list(inputs.values())[index]
        step = "infer"
        request = compiled.create_infer_request()
        request.infer(taken)
        return Answer([_shown(request.get_output_tensor(i)) for i in range(len(compiled.outputs))]), taken
    except Exception as error:
        return Answer([], step, str(error)), taken or dict(enumerate(inputs.values()))


def _shown(tensor: ov.Tensor) -> Array:
    return np.array(tensor.str_data if tensor.element_type == ov.Type.string else tensor.data)


def problems(case: Case, cache: Path) -> Iterator[str]:
    """What is worse than in plain OpenVINO; nothing, if all is well. Raises NotComparable."""
    inputs = {name: as_given(value) for name, value in case.inputs.items()}
    plain, taken = by_openvino(case, inputs)
    random = not plain.failed and not all(map(same, plain.arrays, by_openvino(case, inputs)[0].arrays))
    try:
        model = ovengine.load(case.model, config=EXACT, batch_sizes=[1, 4], cache_dir=cache)
    except ovengine.OvengineError as error:
        if plain.failed != "load":
            yield f"it does not load: {error}"
        return
    wanted = [expected(value) for value in case.outputs.values()]
    with model:
        if plain.failed == "load":
            yield f"it loads, and OpenVINO says {plain.error}"
            return

        def compare(what: str, found: Answer) -> Iterator[str]:
            if bool(found.failed) != bool(plain.failed):
                yield f"{what}: {found.error or f'an answer, and OpenVINO says {plain.error}'}"
                return
            for index, (ours, theirs) in enumerate(zip(found.arrays, plain.arrays, strict=True)):
                if random:
                    if ours.shape != theirs.shape:
                        yield f"{what}: output {index} has the shape {ours.shape}, not {theirs.shape}"
                elif not same(ours, theirs) and same(theirs, wanted[index]) and not same(ours, wanted[index]):
                    yield f"{what}: {_differs(index, ours, theirs)}"

        request: Any = taken or []
        yield from compare("at first", _answer(lambda: model(request)))
        yield from compare("at once", _at_once(model, [request] * AT_ONCE))
        if not model.wait_ready(MOST_SECONDS):
            yield "it is never ready"
        yield from compare("alone", _answer(lambda: model(request)))
        yield from compare("at once, when ready", _at_once(model, [request] * AT_ONCE))
        right = not random and all(map(same, plain.arrays, wanted))
        if not plain.failed and right and model.plan.mode == "rows" and len(model.plan.ladder) > 1:
            yield from _row_by_row(model, taken, plain)


def _answer(ask: Any) -> Answer:
    try:
        return Answer([np.array(array) for array in ask().values()])
    except ovengine.OvengineError as error:
        return Answer([], "infer", f"{type(error).__name__}: {error}")


def _at_once(model: ovengine.Model, requests: Sequence[Any]) -> Answer:
    """The answer of them all; the first that differs from the first."""
    try:
        futures = [model.submit(request) for request in requests]
    except ovengine.OvengineError as error:
        return Answer([], "infer", f"{type(error).__name__}: {error}")
    answers = [_answer(functools.partial(future.result, MOST_SECONDS)) for future in futures]
    for answer in answers:
        if answer.failed != answers[0].failed or not all(map(same, answer.arrays, answers[0].arrays)):
            return answer
    return answers[0]


def _row_by_row(model: ovengine.Model, inputs: Mapping[int, Any], plain: Answer) -> Iterator[str]:
    """Rows that are asked for apart, and put together by ovengine."""
    axis = model.plan.axis
    assert axis is not None
    if not all(isinstance(value, np.ndarray) for value in inputs.values()):
        return
    (count,) = {inputs[index].shape[at] for index, at in enumerate(axis.inputs) if at is not None}
    requests = [
        [inputs[index] if at is None else inputs[index].take([row], at) for index, at in enumerate(axis.inputs)]
        for row in range(count)
    ]
    futures = [model.submit(request) for request in requests]
    for row, future in enumerate(futures):
        answer = _answer(functools.partial(future.result, MOST_SECONDS))
        if answer.failed:
            yield f"row {row}: {answer.error}"
        for index, (ours, theirs, at) in enumerate(zip(answer.arrays, plain.arrays, axis.outputs, strict=False)):
            wanted = theirs if at is None else theirs.take([row], at)
            if not same(ours, wanted):
                yield f"row {row} of {count} alone: {_differs(index, ours, wanted)}"


def _differs(index: int, ours: Array, theirs: Array) -> str:
    with np.printoptions(threshold=20):
        return f"output {index} is {ours} and not {theirs}"


# -- all of them ------------------------------------------------------------------------------------------------------


def sweep(chosen: Sequence[Case], log: Path | None = None) -> dict[str, str]:
    """Run them in order; those that fail, with their problems."""
    failed = {}
    uncompared = 0
    _compiler.MEASURE_SECONDS = 0.01  # what batch sizes cost does not matter here
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as cache:
        for case in chosen:
            if log is not None:
                log.write_text(case.name)
            faulthandler.dump_traceback_later(MOST_SECONDS, exit=True)
            try:
                found = list(problems(case, Path(cache)))
            except NotComparable:
                uncompared += 1
                continue
            except Exception as error:  # of this module, or of one that should have been ovengine's
                found = [f"{type(error).__name__}: {error}"]
            finally:
                faulthandler.cancel_dump_traceback_later()
            if found:
                failed[case.name] = "\n".join(found)
                print(f"{case.name}: {failed[case.name]}", flush=True)
    print(
        f"{len(chosen)} tests in {time.monotonic() - begun:.0f} s: {len(failed)} worse than OpenVINO, "
        f"{uncompared} with values that OpenVINO's Python API does not take",
        flush=True,
    )
    return failed


def main() -> int:
    """The command. Each part is a process of its own, so that one that dies can be told of."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--times", type=int, default=1, help="so many sweeps in each process")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--match", default="", help="only tests whose name matches this regular expression")
    parser.add_argument("--indexed", action="store_true", help="only operators with an input of indices or lengths")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part is not None:
        place, count, log = arguments.part.split("/", 2)
        found = cases(INDEXED if arguments.indexed else ())
        chosen = [case for case in found if re.search(arguments.match, case.name)][int(place) :: int(count)]
        return int(any([sweep(chosen, Path(log)) for _ in range(arguments.times)]))
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / str(place) for place in range(arguments.processes)]
        parts = [f"{place}/{len(logs)}/{log}" for place, log in enumerate(logs)]
        children = [subprocess.Popen([sys.executable, *sys.argv, "--part", part]) for part in parts]
        codes = [child.wait() for child in children]
        for code, log in zip(codes, logs, strict=True):
            if code:
                print(f"a process ended with {code}; its last test was {log.read_text()}", flush=True)
        return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
