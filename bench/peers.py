"""OpenVINO's own ways, in the settings of which the best takes part."""

from __future__ import annotations

from functools import partial

from bench.contenders import InferQueue

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
