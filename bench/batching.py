"""Batching where it pays, and none where it does not: `adaptive` beside what somebody might have set by hand."""

from __future__ import annotations

from functools import partial

import models
from bench import work
from bench.claims import OURS, Claim, Experiment
from bench.contenders import MedianCaller, Pipelined

FIXED, NONE = "best fixed batch size", "without batching"

MLP = partial(work.mlp, "MLP 256-1024-1024-64", models.MLP)
FIXED_SIZES = (8, 16, 32, 64, 128, 256, 512)

# A small difference matters here: three times as many rounds.
BATCHING = [
    Experiment(
        "batching-mlp",
        partial(MLP, 1024),
        {
            OURS: [partial(Pipelined, portion=512)],
            FIXED: [partial(Pipelined, portion=512, batcher="fixed", max_batch_size=size) for size in FIXED_SIZES],
        },
        [Claim("MLP 256-1024-1024-64, batching", FIXED, 0.97)],
        rounds=3,
    ),
    *(
        Experiment(
            f"batching-{name}",
            make,
            {OURS: [partial(Pipelined, portion=portion)], NONE: [partial(Pipelined, portion=portion, batcher="none")]},
            [Claim(f"{what}, batching", NONE, target)],
            seconds=seconds,
            rounds=rounds,
        )
        for name, what, make, portion, target, seconds, rounds in (
            ("magika", "Magika", work.magika, 8, 0.98, 1, 3),
            ("text-direction", "text-direction CNN", work.text_direction, 64, 0.98, 1, 3),
            ("resnet50", "ResNet-50", work.resnet50, 4, 0.98, 3, 2),
            ("face-detector", "face detector", work.face_detector, 64, 0.98, 1, 3),
            ("silero-vad", "silero VAD", work.silero_vad, 128, 2, 1, 1),
        )
    ),
    *(
        Experiment(
            f"lone-{how}",
            partial(MLP, 256),
            {
                OURS: [partial(MedianCaller, blocking=blocking)],
                NONE: [partial(MedianCaller, blocking=blocking, batcher="none")],
            },
            [Claim(f"MLP 256-1024-1024-64, lone {what}, p50", NONE, 1.1, latency=True)],
        )
        for how, what, blocking in (("call", "blocking caller", True), ("submit", "`submit`", False))
    ),
]
