"""Decides which trial runs a load makes, and keeps their outcome: once for each model, device and OpenVINO release."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ovengine import _proof, _values
from ovengine._memory import NoRoom
from ovengine._proof import Proof
from ovengine.errors import InferenceError, ModelError

if TYPE_CHECKING:
    from ovengine._cache import Cache
    from ovengine._compiler import Compiler
    from ovengine._core import Compiled
    from ovengine.config import Verify

KIND = "proof"
# Enough for each row to have neighbours on both sides.
TRIAL_ROWS = 4


def verify_model(compiler: Compiler, mode: Verify, cache: Cache) -> Proof:
    """Whether rows may share an inference at all: at TRIAL_ROWS, in f32, where a leak between rows shows best, and then
    in the precision in effect; on each device. With mode `off` the shapes are taken at their word.
    """

    def prove(device: int) -> Proof:
        values = compiler.values(1, TRIAL_ROWS)
        compiler.check_trial(TRIAL_ROWS, _proof.COPIES)
        with compiler.in_f32(1, device) as exact:
            with compiler.in_f32(TRIAL_ROWS, device) as several:
                proof = _proof.prove(exact, several, values)
            del several
            if proof.holds and (precision := compiler.precision(device)) != "f32":
                pair = compiler.compiled(1, device), compiler.compiled(TRIAL_ROWS, device)
                return _proof.prove(*pair, values, precision, exact)
        return proof

    if mode == "off":
        return Proof(None, "not verified (verify='off')")
    if (unknown := compiler.values(1, TRIAL_ROWS).unknown) is not None:
        return Proof(_values.CHECK, unknown)
    for device in range(len(compiler.devices)):
        proof = _kept(compiler, device, {"rows": TRIAL_ROWS}, partial(prove, device), mode, cache)
        if not proof.holds:
            break
    return proof


def verify_ladder(
    compiler: Compiler, ladder: Sequence[int], mode: Verify, cache: Cache, by_rules: bool
) -> tuple[tuple[int, ...], str | None]:
    """As much of the ladder as rows may share an inference at, where `verify_model` holds or rules for operators show
    that rows are independent, and why no more.
    """
    held = tuple(ladder)
    why = None
    for device in range(len(compiler.devices)) if mode != "off" else ():
        size, proof = _first_failure(compiler, device, held, mode, cache, by_rules)
        if not proof.holds:
            held = tuple(smaller for smaller in held if smaller < size) or (1,)
            why = f"check {proof.failed!r} failed at {size}: {proof.why}"
    return held, why


def _first_failure(
    compiler: Compiler, device: int, ladder: Sequence[int], mode: Verify, cache: Cache, by_rules: bool
) -> tuple[int, Proof]:
    """The first size that fails on a device, or the last one. In f32 each is compared with the one below it, in another
    precision with rows alone.
    """
    if by_rules and compiler.values(1).unknown is not None:
        return 1, Proof(None, "rows are independent, and no values are known to compare kernels with")
    precision = compiler.precision(device)
    prove_size = _proof.compare_kernels if by_rules else _proof.prove_size
    kind = "kernels" if by_rules else "size"
    with contextlib.ExitStack() as trial:
        exact: list[Compiled] = []

        def prove(known: int, size: int) -> Proof:
            compiler.check_trial(size, _proof.COPIES)
            larger = compiler.compiled(size, device)
            if precision == "f32":
                return prove_size(compiler.compiled(known, device), larger, compiler.values(known, size))
            if not exact:
                exact.append(trial.enter_context(compiler.in_f32(1, device)))
            return prove_size(compiler.compiled(1, device), larger, compiler.values(1, size), precision, exact[0])

        size, proof = 1, Proof(None, "")
        for known, size in itertools.pairwise((1, *(size for size in ladder if size > 1))):
            if by_rules or size != TRIAL_ROWS:
                proof = _kept(compiler, device, {kind: size}, partial(prove, known, size), mode, cache)
            if not proof.holds:
                break
    return size, proof


def _kept(
    compiler: Compiler, device: int, what: dict[str, int], prove: Callable[[], Proof], mode: Verify, cache: Cache
) -> Proof:
    """The outcome that is in the cache, or that of `prove`, which then is."""
    key = None if cache.directory is None or (known := compiler.identity(device)) is None else {**known, **what}
    if key is not None:
        key["checks"] = _proof.VERSION
        if compiler.samples is not None:
            key["samples"] = compiler.samples.digest
        if mode == "cached" and (found := cache.load(KIND, key, _parse)) is not None:
            return found
    try:
        proof = prove()
    except (InferenceError, ModelError, NoRoom) as error:
        return Proof(_proof.TRIAL_RUN, _proof.brief(error))
    if key is not None and proof.failed != _proof.TRIAL_RUN:  # which may work another time
        cache.save(KIND, key, {"failed": proof.failed, "why": proof.why})
    return proof


def _parse(value: Any) -> Proof:
    failed, why = value["failed"], value["why"]
    if not isinstance(why, str) or not (failed is None or isinstance(failed, str)):
        raise TypeError("an outcome is two texts")
    return Proof(failed, why)
