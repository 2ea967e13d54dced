"""More load than can be served: deadlines that are kept by refusing, and groups that do not suffer from others."""

from __future__ import annotations

import itertools
from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np

import ovengine
from bench.open_loop import OpenLoopOvengine, clock
from bench.work import Work


class OneModel(OpenLoopOvengine):
    """Uses the model of the contender that it meets: the load differs, and not what was made of the model."""

    _latest: ClassVar[tuple[Work, ovengine.Model] | None] = None

    def make_model(self, options: Mapping[str, Any]) -> ovengine.Model:
        if OneModel._latest is not None:
            work, model = OneModel._latest
            if work is self.work and not model.closed:
                return model
        model = super().make_model(options)
        OneModel._latest = self.work, model
        return model


class WithDeadlines(OneModel):
    """`submit(deadline=...)`. Compared is the time per answer that its caller has by the deadline."""

    unit = "us an answer in time"

    def __init__(self, work: Work, load: float, deadline_s: float) -> None:
        super().__init__(work, load)
        self.detail += f", deadline {deadline_s * 1e3:g} ms"
        self._deadline_s = deadline_s
        self._refusals_ns = array("q")
        self._in_time = 0  # written by the one thread that calls back
        self._late = 0

    def start(self, number: int, index: int, due: int) -> None:
        begin = clock()
        try:
            future = self.model.submit(self.work.inputs[index], deadline=self._deadline_s)
        except ovengine.DeadlineUnmeetable:
            self._refusals_ns.append(clock() - begin)
            self.finish(number, due)
        else:
            future.add_done_callback(partial(self._judge, number, index, begin))

    def _judge(self, number: int, index: int, begin: int, future: ovengine.Future) -> None:
        try:
            self.answers[index] = future.result()[0]
            in_time = clock() - begin <= self._deadline_s * 1e9
        except ovengine.DeadlineExceeded:
            in_time = False
        self._in_time += in_time
        self._late += not in_time
        self.finish(number, begin)

    def check(self) -> None:
        _check(self.work, self.answers)
        self.answers = [None] * len(self.answers)

    def measure(self, passes: int) -> float:
        self._refusals_ns = array("q")
        self._in_time = self._late = 0
        begin = clock()
        self.run(passes)
        return (clock() - begin) / 1e3 / max(1, self._in_time)

    def figures(self) -> Mapping[str, float]:
        admitted = self._in_time + self._late
        shown = {"in time": 100 * self._in_time / max(1, admitted)}
        if self._refusals_ns:
            p50, p99 = (np.percentile(self._refusals_ns, (50, 99)) / 1e3).tolist()
            shown |= {"refusal p50": p50, "refusal p99": p99}
        return shown


class QuietGroup(OneModel):
    """A group of a modest load, whose latency is compared: alone, or beside one that has `flood` requests in flight."""

    def __init__(self, work: Work, load: float, flood: int) -> None:
        super().__init__(work, load)
        if flood:
            self.detail += f", beside a group with {flood} in flight"
        self._flood = flood
        self._flooded: list[Any] = self.answers[:]
        self._in_flight: deque[tuple[int, ovengine.Future]] = deque()
        self._next_index = itertools.cycle(range(len(work.inputs))).__next__

    def start(self, number: int, index: int, due: int) -> None:
        future = self.model.submit(self.work.inputs[index], group="quiet")
        future.add_done_callback(partial(self._keep, number, index, due))
        self._send_flood()

    def run(self, passes: int) -> None:
        self._send_flood()
        super().run(passes)
        while self._in_flight:
            self._take_oldest()

    def _send_flood(self) -> None:
        """Again for each that is done. By the one sender, after its own: a second one would take its time from it."""
        while self._in_flight and self._in_flight[0][1].done():
            self._take_oldest()
        while len(self._in_flight) < self._flood:
            index = self._next_index()
            self._in_flight.append((index, self.model.submit(self.work.inputs[index], group="flood")))

    def _take_oldest(self) -> None:
        index, future = self._in_flight.popleft()
        self._flooded[index] = future.result()[0]

    def check(self) -> None:
        super().check()
        if self._flood:
            _check(self.work, self._flooded)


def _check(work: Work, answers: Sequence[Any]) -> None:
    """Those that are there, which are some."""
    answered = [index for index, answer in enumerate(answers) if answer is not None]
    work.check(np.concatenate([answers[index] for index in answered]), answered)
