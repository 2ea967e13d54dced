"""Who meets whom on which work, and what is claimed of the outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import models
from bench import work
from bench.contenders import BridgedTasks, Call, Contender, InferQueue, InferRows, LoneCaller, Pipelined, Tasks
from bench.own_loop import OwnLoop
from bench.work import Work

OURS, ROWS, QUEUE, TUNED, BATCH, CALL, LOOP = (
    "ovengine",
    "infer_rows",
    "AsyncInferQueue",
    "AsyncInferQueue, tuned by hand",
    "best of BATCH",
    "compiled_model(x)",
    "own C++ loop",
)


@dataclass(frozen=True)
class Claim:
    """One line of the table: a ratio of speeds (ours over the peer's), or of latencies.

    target: to be reached, or for latencies not to be exceeded; None where the figure is for information only.
    ceiling: a contender as fast as the machine allows; its ratio to the peer is reported as what could be had.
    """

    what: str
    peer: str
    target: float | None = None
    ours: str = OURS
    latency: bool = False
    ceiling: str | None = None


@dataclass(frozen=True)
class Experiment:
    """Contenders that take turns on one work.

    field: each contender's candidates, of which the fastest takes part.
    seconds, rounds: how much longer its turns are, and how many more rounds it has, than others.
    """

    name: str
    work: Callable[[], Work]
    field: Mapping[str, Sequence[Callable[[Work], Contender]]]
    claims: Sequence[Claim]
    seconds: float = 1.0
    rounds: int = 1


DEFAULTS: dict[str, str] = {}
LATENCY = {"PERFORMANCE_HINT": "LATENCY"}
THROUGHPUT = {"PERFORMANCE_HINT": "THROUGHPUT"}
ONE_THREAD = {"NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": "1"}

# As many infer requests as the queue itself finds best, in each hint.
QUEUES = [partial(InferQueue, properties=hint) for hint in (DEFAULTS, THROUGHPUT)]
# What somebody may find out who tries: no copy of the input, and many more infer requests than are suggested.
TUNED_QUEUES = [
    partial(InferQueue, properties=properties, nireq=nireq, share_inputs=True)
    for properties in (DEFAULTS, THROUGHPUT, ONE_THREAD)
    for nireq in (4, 16, 64)
]
BATCHES = [
    partial(
        InferQueue,
        device=f"BATCH:CPU({size})",
        properties={**THROUGHPUT, "AUTO_BATCH_TIMEOUT": str(timeout_ms)},
        nireq=size * groups,
    )
    for size in (16, 64)
    for timeout_ms in (1, 10)
    for groups in (1, 2, 4)
]
SWEEP = [
    partial(InferQueue, properties={"NUM_STREAMS": str(streams)}, nireq=nireq)
    for streams in (1, 2, 4)
    for nireq in (1, 2, 4, 8)
    if nireq >= streams
]

TINY, MLP = "tiny MLP 16-16-4", "MLP 256-1024-1024-64"

EXPERIMENTS = [
    Experiment(
        "tiny",
        partial(work.mlp, TINY, models.TINY_MLP, 1024),
        {OURS: [partial(Pipelined, portion=512)], QUEUE: QUEUES, BATCH: BATCHES, TUNED: TUNED_QUEUES},
        [
            Claim(f"{TINY}, one thread, pipelined", QUEUE, 150),
            Claim(f"{TINY}, one thread, pipelined", BATCH, 90),
            Claim(f"{TINY}, one thread, pipelined", TUNED),
        ],
    ),
    Experiment(
        "mlp",
        partial(work.mlp, MLP, models.MLP, 1024),
        {
            OURS: [partial(Pipelined, portion=512)],
            QUEUE: QUEUES,
            BATCH: BATCHES,
            LOOP: [partial(OwnLoop, sweep_seconds=0.2)],
        },
        [
            Claim(f"{MLP}, one thread, pipelined", QUEUE, 20, ceiling=LOOP),
            Claim(f"{MLP}, one thread, pipelined", BATCH, 8, ceiling=LOOP),
        ],
    ),
    # Apart from the slow peers, so that those compared here take their turns close to each other.
    Experiment(
        "own-loop",
        partial(work.mlp, MLP, models.MLP, 4096),
        {OURS: [partial(Pipelined, portion=512)], LOOP: [partial(OwnLoop, sweep_seconds=0.2)], ROWS: [InferRows]},
        [
            Claim(f"{MLP}, one thread, pipelined", LOOP, 0.9),
            Claim(f"{MLP}, `infer_rows`", LOOP, 0.95, ours=ROWS),
        ],
        rounds=3,
    ),
    Experiment(
        "lone",
        partial(work.mlp, TINY, models.TINY_MLP, 1024),
        {
            OURS: [LoneCaller],
            CALL: [partial(Call, properties=p) for p in (DEFAULTS, LATENCY, {**LATENCY, **ONE_THREAD})],
        },
        [Claim(f"{TINY}, lone blocking caller, latency", CALL, 0.35, latency=True)],
    ),
    Experiment(
        "asyncio",
        partial(work.mlp, TINY, models.TINY_MLP, 1024),
        {
            OURS: [Tasks],
            QUEUE: [partial(BridgedTasks, properties=p, nireq=n) for p in (DEFAULTS, THROUGHPUT) for n in (0, 64)],
        },
        [Claim(f"{TINY}, 64 asyncio tasks", QUEUE, 15)],
    ),
    Experiment(
        "resnet50",
        work.resnet50,
        {OURS: [partial(Pipelined, portion=4)], QUEUE: SWEEP},
        [Claim("ResNet-50", QUEUE, 1.0)],
        seconds=3,
        rounds=2,
    ),
    Experiment(
        "magika",
        work.magika,
        {OURS: [partial(Pipelined, portion=8)], QUEUE: SWEEP},
        [Claim("Magika", QUEUE, 1.0)],
        rounds=2,
    ),
]
