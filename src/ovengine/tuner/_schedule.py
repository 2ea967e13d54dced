"""The time of a search: what is left of it, and what the next step will take."""

from __future__ import annotations

from collections.abc import Callable, Sequence

# Stages in order, and their shares of the time.
SHARES = {"screen": 0.4, "finals": 0.3, "precision": 0.1, "delay": 0.1, "curves": 0.1}
# With a batch size come so many inferences of it: trial runs, measurements, a warm-up and what is in flight at its end.
LOADING_INFERENCES = 12
# The first load proves rows and tries sizes that it then leaves out, of which later ones know the outcome.
LATER_LOAD = 0.5


class Schedule:
    """Divides `seconds` among stages.

    A step that would probably not fit is not begun: a search that takes much longer than it was given is worse than one
    that says what it had no time for.

    Args:
        now: seconds of a clock.
        seconds: to spend.
        began: when, on that clock.
    """

    def __init__(self, now: Callable[[], float], seconds: float, began: float) -> None:
        self._now = now
        self._seconds = seconds
        self._began = began
        self._stage_end = began
        self.stage = ""
        # Of each load: its largest batch, seconds, and seconds of one inference of that batch.
        self._first: tuple[int, float, float] | None = None
        self._later: list[tuple[int, float, float]] = []

    def begin(self, stage: str) -> None:
        """Give a stage its share of what is left: what earlier ones did not use is not lost."""
        stages = list(SHARES)
        rest = sum(SHARES[name] for name in stages[stages.index(stage) :])
        self.stage = stage
        self._stage_end = self._now() + self.left * SHARES[stage] / rest

    @property
    def left(self) -> float:
        """Seconds until all is to be over; 0 when it should be."""
        return max(0.0, self._began + self._seconds - self._now())

    @property
    def stage_left(self) -> float:
        """Seconds until the next stage."""
        return max(0.0, self._stage_end - self._now())

    @property
    def share(self) -> float:
        """Of the time, how much is used, 0 to 1."""
        return min((self._now() - self._began) / self._seconds, 1.0)

    # -- what loading takes -------------------------------------------------------------------------------------------

    def loaded(self, rows: int, seconds: float, inference_s: float) -> None:
        """Learn from a load, warm-up included, with batches of up to `rows`, one of which takes `inference_s`."""
        if self._first is None:
            self._first = rows, LATER_LOAD * seconds, inference_s
        else:
            self._later.append((rows, seconds, inference_s))

    def inference_s(self, rows: int) -> float:
        """What one inference of so many rows probably takes; 0 before anything was loaded."""
        known, _, inference_s = self._nearest(rows)
        return inference_s * rows / known

    def loading_s(self, rows: int) -> float:
        """What a load with batches of up to `rows` probably takes; 0 before anything was loaded."""
        _, seconds, inference_s = self._nearest(rows)
        return seconds + LOADING_INFERENCES * max(0.0, self.inference_s(rows) - inference_s)

    def _nearest(self, rows: int) -> tuple[int, float, float]:
        """The load of the largest batch up to this one, if any, or else of the smallest."""
        known = self._later or ([self._first] if self._first is not None else [(rows, 0.0, 0.0)])
        return max([load for load in known if load[0] <= rows] or [min(known)])


def offering_s(rates: Sequence[float], seconds: float, least_arrivals: int) -> float:
    """What one turn at these rates takes, where each sees enough arrivals."""
    return sum(max(seconds, least_arrivals / rate) for rate in rates)
