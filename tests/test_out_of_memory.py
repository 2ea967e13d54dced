"""Memory runs out: requests get that as their error, the process goes on, and what comes next is served."""

from __future__ import annotations

import textwrap

import pytest

from support import run_python

PREAMBLE = """
import asyncio, gc, resource
import numpy as np
import openvino as ov
import ovengine
from openvino import opset13 as ops

def wide():
    x = ops.parameter([-1, 1], np.float32, name="x")
    y = ops.multiply(x, ops.constant(np.ones(500_000, np.float32)))  # 2 MB an answer
    y.output(0).set_names({"y"})
    return ov.Model([ops.result(y)], [x], "wide")

def limit_memory(megabytes):
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (megabytes << 20), resource.RLIM_INFINITY))

def exhaust(call):
    kept = []
    try:
        for _ in range(1000):
            kept.append(call())
    except (ovengine.InferenceError, MemoryError) as error:
        reason = f"{type(error).__name__}: {error}"
    else:
        raise AssertionError("there was memory for all of it")
    assert kept, reason
    for result in kept:
        assert (result["y"][:, ::1000] == 3).all()

async def awaited():
    return await model.ainfer(x)
"""

CALLS = [
    "model(x)",
    "model.submit(x).result()",
    "asyncio.run(awaited())",
    "model.infer_rows(rows)",
    "model.submit(x, priority=1, deadline=60, group='a').result()",
    "next(model.map([x] * 4))",
]


@pytest.mark.parametrize("sizes", ["[1]", "[1, 4]"])
def test_results_that_take_all_memory_end_neither_the_process_nor_later_requests(
    sizes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is freed is everybody's at once, whichever thread had it.
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    code = f"""
    model = ovengine.load(wide(), batch_sizes={sizes})
    assert model.wait_ready(60)
    x, rows = np.full((1, 1), 3, np.float32), np.full((3, 1), 3, np.float32)
    model(x), model.submit(x, priority=1, deadline=60).result(), asyncio.run(awaited())
    limit_memory(250)
    for call in {CALLS!r}:
        exhaust(lambda: eval(call))
        gc.collect()
        for value in (5, 7):
            assert (model(np.full((1, 1), value, np.float32))["y"] == value).all(), call
            assert (model.submit(np.full((2, 1), value, np.float32)).result()["y"] == value).all(), call
    model.close()
    assert not any(ovengine._core.debug_counters().values()), ovengine._core.debug_counters()
    print("end")
    """
    process = run_python(PREAMBLE + textwrap.dedent(code))
    assert (process.returncode, process.stdout, process.stderr) == (0, "end\n", "")
