"""Ten thousand images, no two of the same width, on the text-direction CNN: `python -m bench.widths`.

Images are 3 x 48 x width, f32, of one row each; their widths are all those of `WIDTHS`, once each, in random order. The
model averages over the width, so the answer of a padded image would be another one.

The peer is an AsyncInferQueue on the dynamic compiled model, with the streams and infer requests that were fastest on a
portion of the images. ovengine has the padding buckets of `BUCKETS`, for a width that it pads to inside the model. The
two take turns, portion by portion; the ratio is that within each portion, and each of ovengine's answers is compared
with the peer's, which is plain OpenVINO's. Memory is measured by a process of its own, which answers all of them with
ovengine alone.

Prints one JSON object.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import openvino as ov

import models
import ovengine
from bench import ROOT
from bench.contenders import Contender, InferQueue
from bench.footprint import _resident_kib
from bench.rounds import Say, Spread
from bench.work import PROPERTIES, TOLERANCE, Array, Work

WIDTHS = range(32, 10_032)
STEP, RATIO = 32, 1.1
IN_FLIGHT = 8
"""Of ovengine's: enough to keep its lanes busy."""
PORTION = 100
SWEEP = 40
"""Images that the peer is chosen by."""
FEW = 0.2
"""Of the images: enough for pools and the buffers of every bucket to be at their high-water mark."""
TARGET = 1.2

THROUGHPUT = {"PERFORMANCE_HINT": "THROUGHPUT"}
PEERS: list[tuple[dict[str, str], int]] = [
    (THROUGHPUT, 0),
    *(({"NUM_STREAMS": str(streams)}, nireq) for streams in (1, 2) for nireq in (1, 2, 4, 8) if nireq >= streams),
]
"""Properties, and infer requests (0: as many as the queue finds best)."""


def buckets(longest: int = WIDTHS[-1]) -> list[int]:
    """Each about a tenth longer than the one before, up to one that holds the longest width."""
    lengths = [STEP]
    while lengths[-1] < longest:
        lengths.append(max(lengths[-1] + STEP, int(lengths[-1] * RATIO) // STEP * STEP))
    return lengths


BUCKETS = buckets()


@dataclass(frozen=True, eq=False)
class Widths(Work):
    """The images of one portion at a time, in `inputs`; all are cut from `noise`."""

    noise: Array = field(kw_only=True)

    def check(self, answers: Array, of: Sequence[int] | None = None) -> None:
        """Of any width: rows of two probabilities."""
        np.testing.assert_allclose(answers.sum(axis=1), 1, atol=TOLERANCE)

    def take(self, widths: Array) -> None:
        """Make images of these widths."""
        self.inputs[:] = [np.ascontiguousarray(self.noise[..., :width]) for width in widths]


def widths() -> Widths:
    """The model, and noise for images to be cut from."""
    noise = np.random.default_rng(0).uniform(-1, 1, (1, 3, 48, WIDTHS[-1])).astype(np.float32)
    return Widths("text direction", ov.Core().read_model(models.find("text_direction")), [], noise=noise)


def portions(requests: int, portion: int, rng: np.random.Generator) -> Iterator[Array]:
    """Widths, no two of which are the same."""
    chosen = rng.permutation(np.asarray(WIDTHS))[:requests]
    yield from np.array_split(chosen, max(1, requests // portion))


class Bucketed(Contender):
    """`submit` and `result` from one thread, with `IN_FLIGHT` requests in flight, padded inside the model."""

    def __init__(self, work: Work, lengths: list[int] = BUCKETS) -> None:
        super().__init__(work, "ovengine", f"{len(lengths)} buckets up to {lengths[-1]}")
        self.model = ovengine.load(
            work.model,
            config=PROPERTIES,
            shapes={"x": [-1, 3, 48, -1]},
            buckets={"x": ovengine.Buckets(lengths, axis=3)},
        )

    def run(self, passes: int) -> None:
        submit = self.model.submit
        for _ in range(passes):
            answers: list[Any] = []
            flying: deque[ovengine.Future] = deque()
            for x in self.work.inputs:
                if len(flying) == IN_FLIGHT:
                    answers.append(flying.popleft().result()[0])
                flying.append(submit(x))
            answers.extend(future.result()[0] for future in flying)
            self.answers = answers

    def close(self) -> None:
        super().close()
        self.model.close()


@dataclass(frozen=True)
class Outcome:
    """Milliseconds per request, and our speed over the peer's; resident set after `FEW` and after all requests."""

    requests: int
    peer: str
    ours_ms: Spread
    peer_ms: Spread
    ratio: Spread
    few_mib: int = 0
    many_mib: int = 0


def compare(
    requests: int,
    portion: int = PORTION,
    peers: list[tuple[dict[str, str], int]] = PEERS,
    tell: Say = lambda _: None,
) -> Outcome:
    """Let both take turns on so many images."""
    work, rng = widths(), np.random.default_rng(1)
    peer = _fastest([partial(_queue, work, *one) for one in peers], work, next(portions(SWEEP, SWEEP, rng)))
    ours = Bucketed(work)
    taken: dict[str, list[float]] = {"ours": [], "peer": []}
    try:
        for turn, chosen in enumerate(portions(requests, portion, rng)):
            work.take(chosen)
            both = [("ours", ours), ("peer", peer)]
            for name, contender in both[:: 1 if turn % 2 else -1]:
                taken[name].append(_ms_per_request(contender))
            np.testing.assert_allclose(
                np.concatenate(ours.answers), np.concatenate(peer.answers), rtol=TOLERANCE, atol=TOLERANCE
            )
            tell(f"turn {turn}: ovengine {taken['ours'][-1]:.1f} ms, the peer {taken['peer'][-1]:.1f} ms a request")
        detail = f"{peer.name}: {peer.detail}"
    finally:
        ours.close()
        peer.close()
    ratio = [theirs / mine for mine, theirs in zip(taken["ours"], taken["peer"], strict=True)]
    return Outcome(requests, detail, Spread.of(taken["ours"]), Spread.of(taken["peer"]), Spread.of(ratio))


def _queue(work: Work, properties: dict[str, str], nireq: int) -> InferQueue:
    return InferQueue(work, properties, nireq=nireq, share_inputs=True)


def _fastest(candidates: list[Callable[[], Contender]], work: Widths, chosen: Array) -> Contender:
    work.take(chosen)
    fastest: tuple[float, Contender] | None = None
    for make in candidates:
        contender = make()
        found = (_ms_per_request(contender), contender)
        loser = found
        if fastest is None or found[0] < fastest[0]:
            loser, fastest = fastest or found, found
        if loser is not fastest:
            loser[1].close()
    assert fastest is not None, "no candidates"
    return fastest[1]


def _ms_per_request(contender: Contender) -> float:
    contender.answers = [None] * len(contender.work.inputs)
    begin = time.perf_counter()
    contender.run(1)
    seconds = time.perf_counter() - begin
    contender.work.check(np.concatenate(contender.answers))
    return seconds * 1e3 / len(contender.work.inputs)


def memory(requests: int, portion: int = PORTION) -> tuple[int, int]:
    """Resident set of this process in MiB after `FEW` of so many images, and after all."""
    work = widths()
    ours = Bucketed(work)
    found: list[int] = []
    for chosen in portions(requests, portion, np.random.default_rng(1)):
        work.take(chosen)
        _ms_per_request(ours)
        work.inputs.clear()
        ours.answers = []
        gc.collect()
        found.append(_resident_kib() // 1024)
    ours.close()
    return found[int(FEW * len(found))], found[-1]


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.widths", description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=len(WIDTHS), help="fewer images, of as many other widths")
    parser.add_argument("--memory", action="store_true", help="ovengine alone, and its memory")
    options = parser.parse_args()
    if options.memory:
        print(json.dumps(memory(options.requests)))
        return
    command = [sys.executable, "-m", "bench.widths", "--memory", "--requests", str(options.requests)]
    printed = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    few_mib, many_mib = json.loads(printed)
    tell = partial(print, file=sys.stderr, flush=True)
    outcome = replace(compare(options.requests, tell=tell), few_mib=few_mib, many_mib=many_mib)
    print(json.dumps({**asdict(outcome), "reached": outcome.ratio.median >= TARGET}, indent=2))


if __name__ == "__main__":
    main()
