"""OpenVINO's own tools on ovengine's queue: benchmark_app, and what the throughput_benchmark sample calls."""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest

import models
from ovengine import compat
from queues import Make, over_compiled
from support import double, run_python

BENCHMARK_APP = """
import sys
import openvino
from ovengine import compat
openvino.AsyncInferQueue = compat.AsyncInferQueue
from openvino.tools.benchmark import benchmark, main
assert benchmark.AsyncInferQueue is compat.AsyncInferQueue
main.main()
"""


@pytest.mark.parametrize(
    "options",
    [
        "-shape [1,16] -niter 64 -nireq 1 -b 1",
        "-shape [1,16] -niter 64 -nireq 4",
        "-shape [1,16] -niter 64 -nireq 3 -inference_only False -pc",
        "-data_shape [1,16][2,16][4,16] -niter 63 -nireq 3 -pcseq",
        "-shape [1,16] -t 1",
    ],
)
def test_benchmark_app_runs(tiny_mlp: Path, options: str) -> None:
    finished = run_python(BENCHMARK_APP, *f"-m {tiny_mlp} -d CPU -api async {options}".split())
    assert finished.returncode == 0, finished.stdout + finished.stderr
    count = re.search(r"Count: +(\d+) iterations", finished.stdout)
    assert count is not None
    assert int(count[1]) >= 63
    assert "Throughput:" in finished.stdout
    if "-pc" in options.split():
        assert "Status.EXECUTED" in finished.stdout


@over_compiled
def test_the_loop_of_the_throughput_sample(make: Make) -> None:
    model = models.mlp(16, 16, 4, rows=1)
    queue = make(model)
    compiled = queue[0].get_compiled_model()
    rng = np.random.default_rng(0)
    for request in queue:
        for port in compiled.inputs:
            tensor = request.get_tensor(port)
            assert tensor.get_size() > 0
            tensor.data[:] = rng.uniform(0, 255, list(tensor.shape)).astype(tensor.data.dtype)
    for _ in range(len(queue)):
        queue.start_async()
    queue.wait_all()
    latencies: list[float] = []
    in_fly: set[int] = set()
    for _ in range(50):
        index = queue.get_idle_request_id()
        if index in in_fly:
            latencies.append(queue[index].latency)
        else:
            in_fly.add(index)
        queue.start_async()
    queue.wait_all()
    latencies += [queue[index].latency for index in in_fly]
    assert len(latencies) == 50
    assert min(latencies) > 0
    reference = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for request in queue:
        expected = reference(request.get_input_tensor().data)[0]
        assert np.allclose(request.get_output_tensor().data, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [ov.AsyncInferQueue, compat.AsyncInferQueue])
def test_a_model_compiled_with_perf_count_tells_what_its_nodes_take(kind: Any) -> None:
    compiled = ov.Core().compile_model(models.mlp(256, 1024, 64, rows=1), "CPU", {"PERF_COUNT": True})
    queue = kind(compiled, 1)
    request = queue[0]
    request.start_async(np.ones((1, 256), np.float32))
    request.wait()
    nodes = request.get_profiling_info()
    busiest = max(nodes, key=lambda node: node.real_time)
    assert busiest.status == ov.ProfilingInfo.Status.EXECUTED
    assert busiest.real_time > datetime.timedelta(0)
    assert isinstance(busiest.cpu_time, datetime.timedelta)
    assert busiest.exec_type
    assert [node.node_name for node in request.profiling_info] == [node.node_name for node in nodes]


def test_without_perf_count_there_are_no_times_as_in_openvino() -> None:
    queue = compat.AsyncInferQueue(ov.Core().compile_model(double(), "CPU"), 1)
    queue[0].infer(np.ones((1, 4), np.float32))
    times = [node.real_time for node in queue[0].get_profiling_info()]
    assert times
    assert not any(times)


@pytest.mark.parametrize("make", ["model"], indirect=True)
def test_over_an_ovengine_model_the_error_says_how_to_get_a_profile(make: Make) -> None:
    queue = make(double(), 1)
    queue[0].infer(np.ones((1, 4), np.float32))
    with pytest.raises(RuntimeError, match="PERF_COUNT"):
        queue[0].get_profiling_info()
    with pytest.raises(RuntimeError, match="CompiledModel"):
        _ = queue[0].profiling_info
