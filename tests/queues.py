"""Queues for tests of `ovengine.compat`: the same test body runs on OpenVINO's class and on ovengine's.

A test takes `make` and is marked with one of `everywhere`, `ours`, and `over_compiled`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openvino as ov
import pytest

import ovengine
from ovengine import compat
from support import EXACT

# With one thread the CPU plugin of OpenVINO 2026.4 swallows what shape inference throws, and the outputs are old ones.
TWO_THREADS = {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 2}


class Make:
    """Make a queue over a model: OpenVINO's, ovengine's over a compiled model, or over an `ovengine.Model`."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.to_close: list[ovengine.Model] = []

    def __call__(self, model: Any, jobs: int = 0, **options: Any) -> Any:
        if self.kind == "model":
            self.to_close.append(ovengine.load(model, device="CPU", config={**EXACT, **TWO_THREADS}, **options))
            return compat.AsyncInferQueue(self.to_close[-1], jobs)
        compiled = ov.Core().compile_model(model, "CPU", {**EXACT, "PERFORMANCE_HINT": "THROUGHPUT"})
        kinds = {"openvino": ov.AsyncInferQueue, "compiled": compat.AsyncInferQueue}
        return kinds[self.kind](compiled, jobs)


@pytest.fixture
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """For tests that take `make`, parametrized over the kinds."""
    maker = Make(request.param)
    yield maker
    for model in maker.to_close:
        model.close(0)


everywhere = pytest.mark.parametrize("make", ["openvino", "compiled", "model"], indirect=True)
ours = pytest.mark.parametrize("make", ["compiled", "model"], indirect=True)
over_compiled = pytest.mark.parametrize("make", ["openvino", "compiled"], indirect=True)


def answers(queue: Any, inputs: Any = None, **arguments: Any) -> list[Any]:
    """One inference: copies of its outputs."""
    queue.start_async(inputs, **arguments)
    queue.wait_all()
    return [tensor.data.copy() for tensor in queue[0].output_tensors]
