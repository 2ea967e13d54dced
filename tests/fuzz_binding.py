"""Calls the binding with all that hostile.py has; test_hostile.py runs it as a script.

Each call is written down before it is made, so that the last line of the output is the call that ended the process.
Any exception of Python's or ovengine's is a right answer; a crash, a hang, SystemError and a wrong result are not.
"""

from __future__ import annotations

import contextlib
import copy
import faulthandler
import gc
import pickle
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from operator import contains, getitem, setitem
from typing import Any

import numpy as np
import openvino as ov
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from openvino import opset15 as ops

import ovengine
from hostile import Mischief, inputs, keys, numbers, one_of
from ovengine import _core
from ovengine.testing import fake_model
from support import EXACT, double, ready, two_in_two_out

WAIT_S = 20.0
Models = Mapping[str, ovengine.Model]


def attempt(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Make one call. SystemError, which Python raises when a function breaks its rules, is not among the answers."""
    owner = type(getattr(function, "__self__", None)).__name__
    what = f"{owner} {getattr(function, '__qualname__', function)} {told(arguments)} {told(named)}"
    print(what.encode("ascii", "backslashreplace").decode().replace("\n", " ")[:2000], flush=True)
    try:
        return function(*arguments, **named)
    except SystemError:
        raise
    except (Exception, Mischief):
        return None


def told(value: Any) -> str:
    """For the report; hostile objects may have no text."""
    if isinstance(value, (tuple, list)) and len(value) < 9:
        return f"[{', '.join(map(told, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{told(key)}: {told(item)}' for key, item in value.items())}}}"
    try:
        return f"{value.dtype}{value.shape}" if isinstance(value, np.ndarray) else repr(value)
    except Exception:
        return f"a {type(value).__name__}"


def fuzz(examples: int, *strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], None]:
    """Run a function with so many examples, the same each time."""

    def run(function: Callable[..., None]) -> None:
        limits = settings(
            max_examples=examples,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        limits(given(*strategies)(function))()

    return run


# -- models -----------------------------------------------------------------------------------------------------------


def sources() -> dict[str, ov.Model]:
    """Models of each mode, one with text, and one with elements that NumPy lacks."""
    x = ops.parameter([-1, -1], np.float32, name="x")
    dynamic = ov.Model([ops.multiply(x, ops.constant(np.float32(2)))], [x], "dynamic")
    x = ops.parameter([1, 4], np.float32, name="x")
    total = ops.add(x, ops.read_value(ops.constant(np.zeros((1, 4), np.float32)), "sum"))
    state = ov.Model([ops.result(total)], [ops.assign(total, "sum")], [x], "state")
    x = ops.parameter([-1], ov.Type.string, name="x")
    text = ov.Model([ops.string_tensor_unpack(x).output(1)], [x], "text")
    x = ops.parameter([2, 3], ov.Type.u4, name="x")
    packed = ov.Model([ops.convert(x, "f32")], [x], "packed")
    rows = {"double": double(), "pair": two_in_two_out()}
    return {**rows, "dynamic": dynamic, "state": state, "text": text, "packed": packed}


@contextlib.contextmanager
def models() -> Iterator[Models]:
    """All of them, ready, and one of the fake device."""
    with contextlib.ExitStack() as stack:
        loaded = {"fake": stack.enter_context(fake_model((1, 4)))}
        for name, source in sources().items():
            sizes = [1, 4] if name in ("double", "pair") else None
            model = ovengine.load(source, config=EXACT, batch_sizes=sizes, cache_dir=None)
            loaded[name] = ready(stack.enter_context(model))
        yield loaded


def check_answers(loaded: Models) -> None:
    """After all that, plain requests get their answers."""
    x = np.arange(4, dtype=np.float32)
    np.testing.assert_array_equal(loaded["fake"].infer(x, timeout=WAIT_S)["y"], x + 1)
    np.testing.assert_array_equal(loaded["double"].infer(x, timeout=WAIT_S)["y"], x * 2)
    a, b = np.arange(9, dtype=np.float32).reshape(3, 3), np.ones((3, 2, 2), np.int32)
    np.testing.assert_array_equal(loaded["pair"].infer([a, b], timeout=WAIT_S)["scaled"], a * 3)


# -- requests ---------------------------------------------------------------------------------------------------------


def request(model: ovengine.Model, way: str, given: Any, terms: dict[str, Any]) -> Any:
    """Send one request, and wait for its result."""
    if way == "session":
        with model.session() as session:
            return session.submit(given).result(WAIT_S)
    found = getattr(model, way)(given, **terms)
    return found if isinstance(found, ovengine.Result) else found.result(WAIT_S)


def fuzz_requests(loaded: Models) -> None:
    """All kinds of requests with all kinds of inputs and terms."""
    ways = st.sampled_from(["submit", "submit", "share", "infer", "infer", "infer_rows", "session"])
    terms = st.dictionaries(st.sampled_from(["priority", "deadline", "group"]), one_of(numbers), max_size=2)

    @fuzz(1500, st.sampled_from(sorted(loaded)), ways, inputs(), st.one_of(st.just({}), terms))
    def check(name: str, way: str, given: Any, terms: dict[str, Any]) -> None:
        if way == "share":
            way, terms = "submit", {**terms, "share_inputs": True}
        result = attempt(request, loaded[name], way, given, terms)
        if result is not None and name in ("double", "dynamic") and type(given) is np.ndarray:
            np.testing.assert_array_equal(result[0], 2 * given.astype(np.float32))


def fuzz_results(loaded: Models) -> None:
    """Results, futures and leases, by all kinds of keys, numbers and values."""

    @fuzz(400, st.sampled_from(["fake", "pair"]), one_of(keys), one_of(numbers), inputs())
    def check(name: str, key: Any, number: Any, value: Any) -> None:
        model = loaded[name]
        a, b = np.ones((2, 3), np.float32), np.ones((2, 2, 2), np.int32)
        given = np.ones((2, 4), np.float32) if name == "fake" else [a, b]
        future = model.submit(given)
        result = future.result(WAIT_S)
        for by_key in (result.__getitem__, result.__contains__, result.get, result.__eq__):
            attempt(by_key, key)
        attempt(np.asarray, result, dtype=number)
        attempt(future.exception, number)
        attempt(future.add_done_callback, number)
        attempt(future.remove_done_callback, value)
        attempt(lambda: list(ovengine.as_completed(value, number)))
        attempt(lambda: list(ovengine.as_completed([future, number])))
        attempt(ovengine.wait, [future, None], number)
        lease = attempt(model.lease, number) or model.lease(2)
        array = attempt(lease.__getitem__, key)
        attempt(setitem, array, ..., value)
        attempt(lambda: lease.submit().result(WAIT_S))
        attempt(lease.submit)
        lease.release()
        attempt(model.set, max_batch_size=number, max_queue_size=number)
        model.set(max_batch_size=None, max_queue_size=None)
        attempt(lambda: list(model.map([value, given], window=number)))
        attempt(model.infer, given, timeout=number)


def fuzz_sessions(loaded: Models) -> None:
    """Sessions and their state."""

    @fuzz(150, one_of(keys), one_of(numbers), inputs())
    def check(key: Any, number: Any, value: Any) -> None:
        session = loaded["state"].session()
        attempt(getitem, session.state, key)
        attempt(contains, session.state, key)
        attempt(setitem, session.state, "sum", value)
        attempt(setitem, session.state, key, value)
        attempt(setattr, session, "state", value)
        attempt(session.infer, np.ones((1, 4), np.float32), timeout=number)
        attempt(session.close, number)
        session.close()


# -- objects ----------------------------------------------------------------------------------------------------------


def try_objects(loaded: Models) -> None:
    """Each object of the binding, also those that the garbage collector knows: made by hand, copied, taken apart."""
    future = loaded["fake"].submit(np.ones(4, np.float32))
    future.add_done_callback(lambda _: None)
    lease, session = loaded["fake"].lease(), loaded["state"].session()
    runtime = _core.Runtime()
    graph = runtime.adopt(double())
    compiled = runtime.compile(graph, "CPU", {})
    held = [future, future.result(WAIT_S), lease, session, session.state, runtime, graph, compiled, *graph.inputs]
    held += [future.__await__(), _core.CpuBudget(2), *loaded.values()]
    for thing in [*held, *(one for one in gc.get_objects() if type(one).__module__ == _core.__name__)]:
        try_object(thing)
    attempt(dict, _core.SessionState.__new__(_core.SessionState))
    lease.release()
    session.close()


def try_object(thing: Any) -> None:
    """What Python does with any object."""
    kind: Any = type(thing)
    for function in (copy.copy, copy.deepcopy, weakref.ref, hash, repr, len, bool, iter, dir, sys.getsizeof):
        attempt(function, thing)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        attempt(pickle.dumps, thing, protocol)
        attempt(thing.__reduce_ex__, protocol)
    attempt(gc.get_referents, thing)
    for name in dir(kind) if kind is not ovengine.Model else []:  # whose attributes are Python's
        attempt(delattr, thing, name)
        attempt(setattr, thing, name, 5)
    attempt(thing.__init__)
    attempt(thing.__init__, 1, x=2)
    attempt(repr, attempt(kind.__new__, kind))
    attempt(lambda: repr(type("Own", (kind,), {})()))


def fuzz_load_time() -> None:
    """The classes that loaders and plugins are given."""
    runtime = _core.Runtime()
    graph = runtime.adopt(double())
    compiled = runtime.compile(graph, "CPU", {})
    port = ("x", ("x",), (-1, 4), np.float32, "f32", ())
    anything = st.one_of(one_of(numbers), one_of(keys), inputs())

    @fuzz(300, anything, anything)
    def check(value: Any, other: Any) -> None:
        takers: list[Any] = [graph.reshaped, graph.symbolic_batch_axes, compiled.run, compiled.property]
        takers += [runtime.read_model, runtime.adopt, runtime.adopt_compiled, _core.CpuBudget]
        for take in takers:
            attempt(take, value)
        attempt(lambda: graph.reshaped({value: other}))
        attempt(graph.symbolic_batch_axes, [value])
        attempt(graph.batch_first, [value], [other])
        attempt(graph.prove_rows, [[value], [other]])
        attempt(graph.prove_rows, [[value, other]])
        attempt(graph.padded_inside, value, other, [4])
        attempt(graph.padded_inside, 0, 1, value)
        attempt(compiled.run, [value], max_seconds=1.0)
        attempt(compiled.measure, [value], max_one=1.0)
        attempt(runtime.device_property, "CPU", value)
        attempt(runtime.compile, graph, value, other)
        attempt(lambda: runtime.compile(graph, "CPU", {value: other}))
        attempt(runtime.read_model_bytes, value, other)
        attempt(runtime.import_blob, value, "CPU", {})
        attempt(_core.fake_compiled, [("x", value, np.float32)], [("y", other, np.float32)])
        attempt(_core.OwnRequest, value, compiled)
        sizes = {"lanes": [("CPU", {1: compiled})], "cost_us": {1: other}}
        attempt(_core.NativeModel, name="own", inputs=[port], outputs=value, mode="rows", policy="priority", **sizes)


def main() -> None:
    """All of it; nothing is in use at the end."""
    faulthandler.enable()
    fuzz_load_time()
    with models() as loaded:
        for part in (try_objects, fuzz_requests, fuzz_results, fuzz_sessions):
            part(loaded)
            check_answers(loaded)
    gc.collect()
    left = {name: count for name, count in _core.debug_counters().items() if count}
    assert not left, left


if __name__ == "__main__":
    main()
