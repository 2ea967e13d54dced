"""The ways of getting a work's answers, each at its best."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from array import array
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import openvino as ov

import ovengine
from bench.work import PROPERTIES, Array, Work

TASKS = 64
"""Of the asyncio contenders."""


class Contender(ABC):
    """One way. `run` is what is timed; it leaves the answers of its last pass in `answers`.

    unit: of what is compared; less is better.
    """

    unit: ClassVar[str] = "us a request"

    def __init__(self, work: Work, name: str, detail: str = "") -> None:
        self.work = work
        self.name = name
        self.detail = detail
        self.answers: list[Any] = [None] * len(work.inputs)
        self.seed = 0
        """Of what is random in a turn: the same for all contenders of a round."""

    @abstractmethod
    def run(self, passes: int) -> None:
        """Answer every request of the work, so many times over."""

    def measure(self, passes: int) -> float:
        """Microseconds, which are what is compared: here of a request, on average over so many passes."""
        begin = time.perf_counter()
        self.run(passes)
        return (time.perf_counter() - begin) * 1e6 / (passes * len(self.work.inputs))

    def figures(self) -> Mapping[str, float]:
        """What else the last run showed, by name."""
        return {}

    def check(self) -> None:
        """Raise AssertionError unless all answers are there and right; then forget them."""
        self.work.check(np.concatenate(self.answers))
        self.answers = [None] * len(self.work.inputs)

    def close(self) -> None:
        """Free what the next contender may need. No other method may be called after it."""
        self.answers.clear()


class Ovengine(Contender):
    """A model loaded with defaults."""

    def __init__(self, work: Work, how: str, **options: Any) -> None:
        super().__init__(work, "ovengine", how)
        self.model = self.make_model(options)
        self.model.wait_ready()
        plan = self.model.plan
        self.detail += f"; {len(plan.lanes)} lanes, ladder {','.join(map(str, plan.ladder))}"

    def make_model(self, options: Mapping[str, Any]) -> ovengine.Model:
        """The model, at the precision of all."""
        return ovengine.load(self.work.model, config=PROPERTIES, **options)

    def close(self) -> None:
        super().close()
        self.model.close()


class Pipelined(Ovengine):
    """`submit` and `result` from one thread, with up to two portions of requests in flight."""

    def __init__(self, work: Work, portion: int, **options: Any) -> None:
        super().__init__(work, f"submit/result, {2 * portion} in flight", **options)
        self._portions = [
            (first, work.inputs[first : first + portion]) for first in range(0, len(work.inputs), portion)
        ]

    def run(self, passes: int) -> None:
        submit, answers = self.model.submit, self.answers
        ahead: list[ovengine.Future] = []
        begin = 0
        for _ in range(passes):
            for first, inputs in self._portions:
                futures = [submit(x) for x in inputs]
                answers[begin : begin + len(ahead)] = [future.result()[0] for future in ahead]
                ahead, begin = futures, first
        answers[begin:] = [future.result()[0] for future in ahead]


class LoneCaller(Ovengine):
    """`model(x)`, one after the other."""

    def __init__(self, work: Work) -> None:
        super().__init__(work, "model(x)")

    def run(self, passes: int) -> None:
        model, answers = self.model, self.answers
        for _ in range(passes):
            for i, x in enumerate(self.work.inputs):
                answers[i] = model(x)[0]


class MedianCaller(Ovengine):
    """One request after the other: `model(x)`, or `model.submit(x).result()`. Compared is the median of their times."""

    unit = "us, median"

    def __init__(self, work: Work, *, blocking: bool, **options: Any) -> None:
        super().__init__(work, "model(x)" if blocking else "submit(x).result()", **options)
        self._call = self.model if blocking else self._submit
        self._taken_ns: Array

    def _submit(self, x: Any) -> ovengine.Result:
        return self.model.submit(x).result()

    def run(self, passes: int) -> None:
        call, answers, clock = self._call, self.answers, time.perf_counter_ns
        taken_ns = array("q")
        for _ in range(passes):
            for i, x in enumerate(self.work.inputs):
                begin = clock()
                answers[i] = call(x)[0]
                taken_ns.append(clock() - begin)
        self._taken_ns = np.array(taken_ns)

    def measure(self, passes: int) -> float:
        self.run(passes)
        return float(np.median(self._taken_ns)) / 1e3


class Tasks(Ovengine):
    """`await model.ainfer(x)` from many tasks of one event loop."""

    def __init__(self, work: Work) -> None:
        super().__init__(work, f"{TASKS} tasks")
        self._loop = asyncio.new_event_loop()

    async def _answer(self, index: int) -> None:
        self.answers[index] = (await self.model.ainfer(self.work.inputs[index]))[0]

    def run(self, passes: int) -> None:
        self._loop.run_until_complete(_tasks(self._answer, len(self.answers), passes))

    def close(self) -> None:
        super().close()
        self._loop.close()


class InferRows(Ovengine):
    """`infer_rows` with all rows in one call."""

    def __init__(self, work: Work) -> None:
        super().__init__(work, f"infer_rows, {len(work.rows)} rows a call")

    def run(self, passes: int) -> None:
        for _ in range(passes):
            self.answers = [self.model.infer_rows(self.work.rows)[0]]


class InferQueue(Contender):
    """AsyncInferQueue; its callback copies the output, for the infer request that holds it is used again."""

    def __init__(
        self,
        work: Work,
        properties: Mapping[str, Any],
        *,
        nireq: int = 0,
        device: str = "CPU",
        share_inputs: bool = False,
    ) -> None:
        compiled = ov.Core().compile_model(work.model, device, {**PROPERTIES, **properties})
        self.queue = ov.AsyncInferQueue(compiled, nireq)
        self._share_inputs = share_inputs
        said = [f"{key} {value}" for key, value in properties.items()] or ["defaults"]
        said.append(f"nireq {len(self.queue)}" + (" (its own choice)" if nireq == 0 else ""))
        if share_inputs:
            said.append("share_inputs")
        super().__init__(work, f"AsyncInferQueue on {device}", ", ".join(said))

    def run(self, passes: int) -> None:
        start_async, share_inputs = self.queue.start_async, self._share_inputs
        self.queue.set_callback(self._keep)
        for _ in range(passes):
            for i, x in enumerate(self.work.inputs):
                start_async(x, i, share_inputs)
        self.queue.wait_all()

    def _keep(self, request: ov.InferRequest, index: int) -> None:
        self.answers[index] = request.get_output_tensor(0).data.copy()

    def close(self) -> None:
        super().close()
        del self.queue


class BridgedTasks(InferQueue):
    """AsyncInferQueue under many tasks of one event loop: its callback hands the output to the loop."""

    def __init__(self, work: Work, properties: Mapping[str, Any], *, nireq: int = 0) -> None:
        super().__init__(work, properties, nireq=nireq)
        self._loop = asyncio.new_event_loop()

    def _hand_over(self, request: ov.InferRequest, future: asyncio.Future[Array]) -> None:
        self._loop.call_soon_threadsafe(future.set_result, request.get_output_tensor(0).data.copy())

    async def _answer(self, index: int) -> None:
        future: asyncio.Future[Array] = self._loop.create_future()
        self.queue.start_async(self.work.inputs[index], future)
        self.answers[index] = await future

    def run(self, passes: int) -> None:
        self.queue.set_callback(self._hand_over)
        self._loop.run_until_complete(_tasks(self._answer, len(self.answers), passes))

    def close(self) -> None:
        super().close()
        self._loop.close()


class Call(Contender):
    """`compiled_model(x)`, one after the other."""

    def __init__(self, work: Work, properties: Mapping[str, Any]) -> None:
        said = [f"{key} {value}" for key, value in properties.items()] or ["defaults"]
        super().__init__(work, "compiled_model(x)", ", ".join(said))
        self._compiled = ov.Core().compile_model(work.model, "CPU", {**PROPERTIES, **properties})

    def run(self, passes: int) -> None:
        compiled, answers = self._compiled, self.answers
        for _ in range(passes):
            for i, x in enumerate(self.work.inputs):
                answers[i] = compiled(x)[0]

    def close(self) -> None:
        super().close()
        del self._compiled


async def _tasks(answer: Any, requests: int, passes: int) -> None:
    """Every task sees to its share of the requests, one after the other."""

    async def task(first: int) -> None:
        for _ in range(passes):
            for index in range(first, requests, TASKS):
                await answer(index)

    await asyncio.gather(*(task(first) for first in range(TASKS)))
