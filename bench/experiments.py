"""Who meets whom on which work, and what is claimed of the outcome."""

from __future__ import annotations

from functools import partial

import models
from bench import work
from bench.batching import BATCHING
from bench.claims import OURS, Claim, Experiment
from bench.contenders import BridgedTasks, Call, InferRows, LoneCaller, Pipelined, Tasks
from bench.own_loop import OwnLoop
from bench.peers import BATCHES, DEFAULTS, LATENCY, ONE_THREAD, QUEUES, SWEEP, THROUGHPUT, TUNED_QUEUES
from bench.under_load import UNDER_LOAD

ROWS, QUEUE, TUNED, BATCH, CALL, LOOP = (
    "infer_rows",
    "AsyncInferQueue",
    "AsyncInferQueue, tuned by hand",
    "best of BATCH",
    "compiled_model(x)",
    "own C++ loop",
)

TINY, MLP = "tiny MLP 16-16-4", "MLP 256-1024-1024-64"

EXPERIMENTS = [
    Experiment(
        "tiny",
        partial(work.mlp, TINY, models.TINY_MLP, 1024),
        {OURS: [partial(Pipelined, portion=512)], QUEUE: QUEUES, BATCH: BATCHES, TUNED: TUNED_QUEUES},
        [
            Claim(f"{TINY}, one thread, pipelined", QUEUE, 150, headline=True),
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
            Claim(f"{MLP}, one thread, pipelined", BATCH, 8, ceiling=LOOP, headline=True),
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
        [Claim(f"{TINY}, 64 asyncio tasks", QUEUE, 15, headline=True)],
    ),
    Experiment(
        "resnet50",
        work.resnet50,
        {OURS: [partial(Pipelined, portion=4)], QUEUE: SWEEP},
        [Claim("ResNet-50", QUEUE, 1.0, headline=True)],
        # The last request of a turn keeps one lane busy and lets the others idle: a turn is many requests.
        seconds=6,
        rounds=2,
    ),
    Experiment(
        "magika",
        work.magika,
        {OURS: [partial(Pipelined, portion=8)], QUEUE: SWEEP},
        [Claim("Magika", QUEUE, 1.0)],
        rounds=2,
    ),
    *BATCHING,
    *UNDER_LOAD,
]
