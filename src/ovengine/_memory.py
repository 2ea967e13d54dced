"""How much memory compiled models may take, and what they are reckoned to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ovengine.config import available_memory_bytes

if TYPE_CHECKING:
    from ovengine._compiler import Compiler
    from ovengine.plan import BatchPlan, TensorInfo

# Of the memory that is free, for the weights of all compiled batch sizes together.
MEMORY_SHARE = 0.25


def budget_bytes() -> int:
    """What the weights of all compiled models of one load together should stay below."""
    return int(available_memory_bytes() * MEMORY_SHARE)


def estimate_bytes(compiler: Compiler, batch: BatchPlan, tensors: Sequence[TensorInfo]) -> int:
    """Of weights, and of inputs and outputs at the largest batch."""
    copies = sum(plan.compiled_copies for plan in compiler.devices)
    lanes = sum(plan.lanes for plan in compiler.devices)
    rows = sum(tensor.row_bytes for tensor in tensors)
    return compiler.constant_bytes * copies * len(batch.ladder) + rows * lanes * batch.ladder[-1]
