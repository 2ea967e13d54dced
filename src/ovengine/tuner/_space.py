"""What the tuner may choose, for one model on one device."""

from __future__ import annotations

from collections.abc import Sequence, Set

from ovengine.plan import MAX_LANES, Plan
from ovengine.tuner._search import SIZES, Space

# Entries of OPTIMIZATION_CAPABILITIES, and the INFERENCE_PRECISION_HINT that each stands for.
PRECISIONS = {"FP32": "f32", "BF16": "bf16", "FP16": "f16"}
# Inferences in flight on a device that brings its own compute; beside what its plan has.
ACCELERATOR_LANES = (1, 2, 4, 8)
LANES = ("NUM_STREAMS", "INFERENCE_NUM_THREADS")


def space_of(
    plan: Plan,
    *,
    cpus: int,
    given: Set[str],
    capabilities: Sequence[str],
) -> Space:
    """What is left to choose.

    Args:
        plan: of the model loaded by the defaults.
        cpus: that the process may use.
        given: OpenVINO properties that the caller sets, and the tuner therefore does not.
        capabilities: OPTIMIZATION_CAPABILITIES of the device; none where the precision has to stay.
    """
    batched = plan.mode == "rows"
    precisions = [PRECISIONS[name] for name in capabilities if name in PRECISIONS]
    return Space(
        sizes=SIZES if batched else (1,),
        places=((None, None),) if given & set(LANES) else _places(plan, cpus),
        delays=batched,
        precisions=tuple(precision for precision in precisions if precision not in plan.precision),
    )


def _places(plan: Plan, cpus: int) -> tuple[tuple[int | None, int | None], ...]:
    (device,) = plan.devices
    if not device.threads_per_lane:
        return tuple((lanes, None) for lanes in sorted(ACCELERATOR_LANES, key=lambda lanes: lanes != device.lanes))
    # A lane on each CPU first, then fewer with more threads each; and one CPU left to the callers.
    lanes, places = min(cpus, MAX_LANES), []
    while lanes:
        places.append((lanes, cpus // lanes))
        lanes //= 2
    if cpus > 1:
        places.append((min(cpus - 1, MAX_LANES), 1))
    return tuple(dict.fromkeys(places))
