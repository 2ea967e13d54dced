"""OpenVINO's own ways of running many requests, which `ovengine bench` measures beside ovengine.

All get the same arrays, one after the other, and hand each result to the caller: ovengine as the value of a future,
AsyncInferQueue as a copy made in its callback, for the queue reuses the memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ovengine._load_generator import Contender, Inputs, Limit, Sample, blocking_clients, clock

if TYPE_CHECKING:
    import openvino as ov


class InferQueue(Contender):
    """An AsyncInferQueue: as many requests in flight as it has infer requests."""

    def __init__(self, name: str, compiled: ov.CompiledModel, nireq: int, detail: str = "") -> None:
        import openvino as ov

        self.name = name
        self._queue = ov.AsyncInferQueue(compiled, nireq)
        self._queue.set_callback(self._on_done)
        self._outputs = len(compiled.outputs)
        self.detail = ", ".join(filter(None, [detail, f"nireq {len(self._queue)}"]))

    def _on_done(self, request: ov.InferRequest, done: Callable[[list[npt.NDArray[Any]]], None]) -> None:
        done([request.get_output_tensor(index).data.copy() for index in range(self._outputs)])

    def answer(self, inputs: Inputs) -> list[npt.NDArray[Any]]:
        answers: list[list[npt.NDArray[Any]]] = []
        self._queue.start_async(inputs, answers.append)
        self._queue.wait_all()
        return answers[0]

    def closed_loop(self, data: Sequence[Inputs], limit: Limit) -> Sample:
        latencies = array("q")
        sent = 0
        interrupted = False

        def record(began: int, _: list[npt.NDArray[Any]]) -> None:
            latencies.append(clock() - began)

        def sent_so_far() -> int:
            return sent

        start_async = self._queue.start_async
        started = now = clock()
        try:
            for following, deadline in limit.stretches(data, sent_so_far):
                while now < deadline:
                    try:
                        inputs = following()
                    except StopIteration:
                        break
                    # To wait for an idle infer request is no part of the latency: in a closed loop no request is due.
                    self._queue.get_idle_request_id()
                    now = clock()
                    start_async(inputs, partial(record, now))
                    sent += 1
        except KeyboardInterrupt:
            interrupted = True
        self._queue.wait_all()
        return Sample(len(latencies), 0, (clock() - started) / 1e9, np.array(latencies, np.int64), interrupted)

    def start(self, inputs: Inputs, done: Callable[[], None]) -> None:
        self._queue.start_async(inputs, lambda _: done())

    def drain(self) -> None:
        self._queue.wait_all()


class CompiledModelCall(Contender):
    """`compiled_model(inputs)`: one blocking call after the other, in as many threads as clients."""

    name = "compiled_model()"

    def __init__(self, compiled: ov.CompiledModel, clients: int) -> None:
        # What `compiled_model(x)` does, with a request per thread: it keeps one, which no two threads can use.
        self._requests = [compiled.create_infer_request() for _ in range(clients)]
        self._outputs = len(compiled.outputs)
        self.detail = f"{clients} thread{'s' if clients > 1 else ''}"

    def _call(self, index: int) -> Callable[[Inputs], object]:
        infer = self._requests[index].infer
        return lambda inputs: infer(inputs, share_inputs=True, share_outputs=False)

    def answer(self, inputs: Inputs) -> list[npt.NDArray[Any]]:
        results = self._requests[0].infer(inputs)
        return [np.array(results[index]) for index in range(self._outputs)]

    def closed_loop(self, data: Sequence[Inputs], limit: Limit) -> Sample:
        return blocking_clients([self._call(index) for index in range(len(self._requests))], data, limit)

    def start(self, inputs: Inputs, done: Callable[[], None]) -> None:
        self._call(0)(inputs)
        done()

    def drain(self) -> None:
        pass
