"""Shows by trial runs that rows of different requests may share an inference.

The shapes of a model cannot show it (a softmax over the batch axis keeps them all), so rows are made up and run:
together they must give what each gives alone, wherever they stand, beside padding, and whatever the other rows are. A
model that cannot be judged counts as failed: it runs unbatched, and right.

"What each gives alone" is up to rounding. In f32 that is little. In a coarser precision a model may turn rounding into
answers that are far off, and another kernel, for another batch size, into others as far off, both as right as the
precision allows; there rows together must come as close to the f32 answers as rows alone do. That rows do not see each
other or padding is shown bit for bit in any precision.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ovengine._core import port_keys
from ovengine.errors import InferenceError, OvengineError

if TYPE_CHECKING:
    from ovengine._core import Compiled
    from ovengine._values import Draw, Values

Array = np.ndarray[Any, Any]

# What is kept in the cache is found anew when this changes. To be raised with the checks.
VERSION = 3

# Kernels for another batch size may add in another order: what that may change, relative to the largest value. For f16
# and bf16 it is two units in the last place, and comes on top of what rounding does to rows alone, see ERROR_RATIO.
TOLERANCE = {"f32": 1e-3, "f16": 2**-9, "bf16": 2**-6}
UNKNOWN_TOLERANCE = 5e-2
# The largest error of rows together may be this many times that of rows alone: both are samples of the same rounding.
ERROR_RATIO = 3.0
# The same kernel at the same batch size repeats itself; this only allows for the last bits.
REPEAT_TOLERANCE = 1e-6
# It may treat the last rows of a batch by other instructions than the first ones; in f32.
POSITION_TOLERANCE = 1e-4
# Rows that differ by less than this tell nothing about which of them a result belongs to.
DISTINCT_TOLERANCE = 1e-4

# The failure that is none of a check's: no outcome for good.
TRIAL_RUN = "trial run"

# All runs of one proof may take so long together, and each of them so long. A proof is about so many runs.
MOST_SECONDS = 60.0
MOST_SECONDS_EACH = 10.0
USUAL_RUNS = 20
# Of inputs and outputs, that it holds at a time.
COPIES = 6


@dataclass(frozen=True, slots=True)
class Proof:
    """Whether rows may share an inference.

    failed: the name of the check that says no; None when all passed.
    why: the reason, in one line.
    """

    failed: str | None
    why: str

    @property
    def holds(self) -> bool:
        """Whether rows may share an inference."""
        return self.failed is None


def prove(
    single: Compiled, batched: Compiled, values: Values, precision: str = "f32", exact: Compiled | None = None
) -> Proof:
    """All checks, on made-up rows; no state, any thread, some twenty inferences of each.

    Args:
        single: the model compiled for one row (or several that were proven before).
        batched: the same for more rows, at least 2.
        values: how rows of both are made up.
        precision: INFERENCE_PRECISION_HINT of the two; what is not known is taken for the coarsest. f32 shows most.
        exact: the model for one row in f32, where `precision` is another one.

    An output that is the same for all rows proves nothing, so other inputs are tried, and it counts as a failure if
    none makes a difference.
    """
    return _prove(_Trial(single, batched, values, precision, exact), CHECKS)


def prove_size(
    known: Compiled, larger: Compiled, values: Values, precision: str = "f32", exact: Compiled | None = None
) -> Proof:
    """That a larger size gives what a proven one gives, where `prove` holds for the model: a few inferences of it."""
    return _prove(_Trial(known, larger, values, precision, exact), SIZE_CHECKS)


def compare_kernels(
    known: Compiled, larger: Compiled, values: Values, precision: str = "f32", exact: Compiled | None = None
) -> Proof:
    """That the kernels for a larger size compute what those for a smaller one compute, where it is known that rows are
    independent: a few inferences of it. Rows need not differ in their outputs.
    """
    return _prove(_Trial(known, larger, values, precision, exact), KERNEL_CHECKS, must_tell=False)


def _prove(trial: _Trial, checks: Sequence[tuple[str, Check]], must_tell: bool = True) -> Proof:
    silent = set(trial.names)
    try:
        for draw, usual in trial.values.draws(trial.shared):
            try:
                trial.fill(draw)
            except OvengineError:
                if usual:
                    raise
                continue  # the model has no use for such a value
            telling = {name for name, array in zip(trial.names, trial.y, strict=True) if _tells_rows_apart(array)}
            if usual and silent and not telling & silent:
                continue  # the checks, which take many times as long, would show nothing new
            for name, check in checks:
                problem = check(trial)
                if problem is not None:
                    return Proof(name, problem)
            silent -= telling
            if usual and not silent:
                return Proof(None, f"{trial.rows} rows together equal rows alone ({', '.join(n for n, _ in checks)})")
    except (OvengineError, TypeError, ValueError) as error:
        return Proof(TRIAL_RUN, brief(error))
    if not must_tell:
        return Proof(None, f"{trial.rows} rows together equal rows alone")
    return Proof(
        "distinct rows", f"output {min(silent)!r} is the same for all rows that were tried; nothing shows them apart"
    )


class _Trial:
    """Two compiled models, rows `x` for the larger one, and what it makes of them, `y`; one array a port."""

    def __init__(
        self, single: Compiled, batched: Compiled, values: Values, precision: str, exact: Compiled | None
    ) -> None:
        self.single = single
        self.batched = batched
        self.values = values
        self.exact = exact
        self.tolerance = TOLERANCE.get(precision, UNKNOWN_TOLERANCE)
        self.position_tolerance = POSITION_TOLERANCE if precision == "f32" else self.tolerance
        self.names = [str(key) for key in port_keys(batched.outputs)]
        self.rows = _rows(batched)
        # An input of the same shape at any number of rows is shared by them all.
        self.shared = [one.shape == many.shape for one, many in zip(single.inputs, batched.inputs, strict=True)]
        self.draw: Draw
        self.x: list[Array] = []
        self.y: list[Array] = []
        self._apart: dict[Compiled, list[Array]] = {}
        self._begun = time.monotonic()

    def fill(self, draw: Draw) -> None:
        self.draw = draw
        self.x = self.fresh()
        self._apart.clear()
        begun = time.monotonic()
        self.y = self.run(self.batched, self.x)
        seconds = time.monotonic() - begun
        if seconds * USUAL_RUNS > MOST_SECONDS:
            raise InferenceError(
                f"{self.rows} rows take {seconds:.2g} s, and all trial runs at most {MOST_SECONDS:g} s"
            )

    def run(self, compiled: Compiled, inputs: Sequence[Array]) -> list[Array]:
        """One inference, as long as there is time. Raises InferenceError."""
        left = MOST_SECONDS - (time.monotonic() - self._begun)
        if left <= 0:
            raise InferenceError(f"all trial runs together take longer than {MOST_SECONDS:g} s")
        return compiled.run(inputs, max_seconds=min(left, MOST_SECONDS_EACH))

    def apart(self, compiled: Compiled) -> list[Array]:
        """What a model for fewer rows makes of them."""
        if compiled not in self._apart:
            step = _rows(compiled)
            firsts = range(0, self.rows, step)
            parts = [self.run(compiled, self.by_row(_part, first, first + step, step)) for first in firsts]
            self._apart[compiled] = [np.concatenate(arrays)[: self.rows] for arrays in zip(*parts, strict=True)]
        return self._apart[compiled]

    def unlike_alone(self, found: Sequence[Array]) -> str | None:
        """The first output that differs from that of rows alone by more than rounding."""
        alone = self.apart(self.single)
        if self.exact is None:
            return self.differing(found, alone, slice(None), self.tolerance)
        for name, a, b, exact in zip(self.names, found, alone, self.apart(self.exact), strict=True):
            if not _as_accurate(a, b, exact, self.tolerance):
                return name
        return None

    def changed(self, change: Callable[..., Array], *arguments: int) -> list[Array]:
        """The outputs for other rows; what the rows share stays."""
        return self.run(self.batched, self.by_row(change, *arguments))

    def mixed(self, kept: Array, others: Sequence[Array]) -> list[Array]:
        """The outputs when only some rows (flags) are kept, and the rest are those of `others`."""
        return self.run(
            self.batched,
            [
                x if shared else np.where(kept.reshape(-1, *[1] * (x.ndim - 1)), x, other)
                for x, other, shared in zip(self.x, others, self.shared, strict=True)
            ],
        )

    def by_row(self, change: Callable[..., Array], *arguments: int) -> list[Array]:
        return [x if shared else change(x, *arguments) for x, shared in zip(self.x, self.shared, strict=True)]

    def fresh(self) -> list[Array]:
        return self.draw(self.batched.inputs)

    def differing(self, found: Sequence[Array], wanted: Sequence[Array], rows: Any, tolerance: float) -> str | None:
        """The first output of which these rows (an index) differ."""
        for name, a, b, whole in zip(self.names, found, wanted, self.y, strict=True):
            if not _same(a[rows], b[rows], tolerance, whole):
                return name
        return None


Check = Callable[[_Trial], "str | None"]


def _repeats(trial: _Trial) -> str | None:
    name = trial.differing(trial.run(trial.batched, trial.x), trial.y, slice(None), REPEAT_TOLERANCE)
    return name and f"output {name!r} differs between two runs of the same rows"


def _equals_alone(trial: _Trial) -> str | None:
    name = trial.unlike_alone(trial.y)
    return name and f"output {name!r} of a row differs between a batch of {_rows(trial.single)} and one of {trial.rows}"


def _equals_elsewhere(trial: _Trial) -> str | None:
    for places in range(1, trial.rows):
        back = [np.roll(array, -places, axis=0) for array in trial.changed(np.roll, places, 0)]
        if trial.exact is None:
            name = trial.differing(back, trial.y, slice(None), trial.position_tolerance)
        else:
            name = trial.unlike_alone(back)
        if name is not None:
            return f"output {name!r} of a row depends on its place in the batch of {trial.rows}"
    return None


def _ignores_padding(trial: _Trial) -> str | None:
    for used in sorted({1, trial.rows // 2, trial.rows - 1}):
        kept = np.arange(trial.rows) < used
        for y in (trial.changed(_part, 0, used, trial.rows), trial.mixed(kept, trial.values.empty(trial.x))):
            name = trial.differing(y, trial.y, kept, REPEAT_TOLERANCE)
            if name is not None:
                return f"output {name!r} of {used} rows depends on the padding that makes them {trial.rows}"
    return None


def _ignores_others(trial: _Trial) -> str | None:
    # By the bits of their places: any two rows are in different halves once, so that each meets a change of each other.
    return _ignores_halves(trial, range((trial.rows - 1).bit_length()))


def _ignores_neighbours(trial: _Trial) -> str | None:
    """What is next to a row, and what is far from it; in a few inferences whatever the size."""
    return _ignores_halves(trial, sorted({0, (trial.rows - 1).bit_length() - 1}))


def _ignores_halves(trial: _Trial, bits: Iterable[int]) -> str | None:
    place = np.arange(trial.rows)
    for bit in bits:
        for kept in (place >> bit & 1 == 0, place >> bit & 1 == 1):
            for others in (trial.values.enlarged(trial.fresh()), trial.values.spoilt(trial.x)):
                name = trial.differing(trial.mixed(kept, others), trial.y, kept, REPEAT_TOLERANCE)
                if name is not None:
                    return f"output {name!r} of a row depends on the other rows of its batch"
    return None


CHECKS: tuple[tuple[str, Check], ...] = (
    ("repeatability", _repeats),
    ("rows alone", _equals_alone),
    ("row position", _equals_elsewhere),
    ("padding", _ignores_padding),
    ("other rows", _ignores_others),
)
SIZE_CHECKS: tuple[tuple[str, Check], ...] = (
    ("rows alone", _equals_alone),
    ("padding", _ignores_padding),
    ("other rows", _ignores_neighbours),
)
KERNEL_CHECKS: tuple[tuple[str, Check], ...] = (("rows alone", _equals_alone),)


def _rows(compiled: Compiled) -> int:
    shape = compiled.outputs[0].shape
    assert shape
    return shape[0]


def _part(array: Array, first: int, last: int, rows: int) -> Array:
    """Some rows, made `rows` by more of the first, as the core pads."""
    part = array[first:last]
    return np.concatenate([part, np.repeat(part[:1], rows - len(part), axis=0)])


def _same(a: Array, b: Array, tolerance: float, whole: Array) -> bool:
    """Whether rows are equal, within `tolerance` of the largest value in the output that they are from."""
    if a.shape != b.shape:
        return False
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    return bool(np.allclose(a, b, rtol=tolerance, atol=tolerance * _largest(whole), equal_nan=True))


def _as_accurate(found: Array, alone: Array, exact: Array, tolerance: float) -> bool:
    """Whether an output is about as close to the exact one as that of rows alone is; of integers, as often wrong."""
    if found.dtype.kind != "f":
        return bool((found != exact).sum() <= ERROR_RATIO * (alone != exact).sum())
    finite = np.isfinite(alone) & np.isfinite(exact)
    if not np.array_equal(found[~finite], alone[~finite], equal_nan=True):
        return False
    error, own = (np.abs(array[finite] - exact[finite]).max(initial=0) for array in (found, alone))
    return bool(error <= ERROR_RATIO * own + tolerance * _largest(exact))


def _largest(array: Array) -> float:
    finite = np.abs(array[np.isfinite(array)])
    return float(finite.max()) if finite.size else 0.0


def _tells_rows_apart(array: Array) -> bool:
    """Whether at least two rows differ by more than rounding."""
    return any(not _same(array[0], row, DISTINCT_TOLERANCE, array) for row in array[1:])


def brief(error: BaseException) -> str:
    """The last line of OpenVINO's reason, where what matters is."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
