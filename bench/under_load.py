"""Open loop: latency under a load that can be served, and what becomes of one that cannot."""

from __future__ import annotations

from functools import partial

import models
from bench import work
from bench.claims import OURS, Claim, Experiment
from bench.contenders import Pipelined
from bench.open_loop import OpenLoopOvengine, OpenLoopQueue
from bench.overload import QuietGroup, WithDeadlines
from bench.peers import BATCHES, THROUGHPUT

BATCH = "best of BATCH"
FULL, TWICE = "as much as it can serve", "twice as much"
ALONE, BESIDE = "alone", "beside a flood"

DEADLINE_S = 0.1
FLOOD = 256

MLP = "MLP 256-1024-1024-64"
TEXT = "text-direction CNN"


def _batches(load: float) -> list[partial[OpenLoopQueue]]:
    """Settings of BATCH for a load below its capacity."""
    return [
        partial(
            OpenLoopQueue,
            load=load,
            device=f"BATCH:CPU({size})",
            properties={**THROUGHPUT, "AUTO_BATCH_TIMEOUT": str(timeout_ms)},
            nireq=size * groups,
        )
        for size in (4, 8, 16, 32)
        for timeout_ms in (1, 2, 5, 10)
        for groups in (2, 4)
    ]


UNDER_LOAD = [
    # Both are offered the same, which is a part of what the slower of them can serve.
    *(
        Experiment(
            f"load-{load:.0%}".rstrip("%"),
            partial(work.mlp, MLP, models.MLP, 256),
            {OURS: [partial(OpenLoopOvengine, load=load)], BATCH: _batches(load)},
            [
                Claim(
                    f"{MLP}, open loop at {load:.0%} of BATCH's capacity, p99 latency",
                    BATCH,
                    target,
                    latency=True,
                    headline=load == 0.5,
                )
            ],
            capacity=BATCHES,
            # Short turns, many of them: of those more are calm.
            seconds=2,
            rounds=2,
        )
        for load, target in ((0.5, 0.3), (0.8, 0.5))
    ),
    Experiment(
        "overload",
        work.text_direction,
        {
            TWICE: [partial(WithDeadlines, load=2, deadline_s=DEADLINE_S)],
            FULL: [partial(WithDeadlines, load=1, deadline_s=DEADLINE_S)],
        },
        [
            Claim(f"{TEXT}, deadlines, twice the load it can serve: goodput", FULL, 0.9, ours=TWICE),
            Claim(f"{TEXT}, the same: answers in time", "", 99, ours=TWICE, figure="in time", unit="%"),
            *(
                Claim(
                    f"{TEXT}, the same: a refusal, {rank}",
                    "",
                    50,
                    ours=TWICE,
                    latency=True,
                    figure=f"refusal {rank}",
                    unit="us",
                )
                for rank in ("p50", "p99")
            ),
        ],
        capacity=[partial(Pipelined, portion=64)],
        seconds=5,
    ),
    # An inference of some milliseconds: what is to be seen is the engine's order, not that of threads on a busy core.
    Experiment(
        "groups",
        work.magika,
        {
            BESIDE: [partial(QuietGroup, load=0.2, flood=FLOOD)],
            ALONE: [partial(QuietGroup, load=0.2, flood=0)],
        },
        [Claim("Magika, a quiet group beside a flood, p99 latency", ALONE, 2, ours=BESIDE, latency=True)],
        capacity=[partial(Pipelined, portion=8)],
        seconds=10,
    ),
]
