"""The search: from a space of settings to the one that is best by more than the noise of measuring.

    screen      every batch size on every division of the CPUs, one short look each
    finals      the best few and the defaults, in turns: throughput, and under a limit the load that they sustain
    precision   where it is allowed and the outputs agree
    delay       whether holding back partial batches pays
    curves      the winner and the defaults over offered load

All look at the same requests. Who is compared is loaded at the same time and takes turns in changing order, so that a
drift of the machine hits all alike. Who is simpler stays unless somebody is clearly better (`clearly_better`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ovengine._load_generator import difference
from ovengine.errors import OvengineError
from ovengine.profile import Settings
from ovengine.tuner._measuring import Answers, Facts, Lab, Subject, Turn

Progress = Callable[[float, str], None]
"""Is told the share of the time that is used (0 to 1), and what is measured now."""

SIZES = (1, 4, 16, 64, 256)
# Besides the defaults.
FINALISTS = 4
TURNS = 7
LEAST_TURNS = 3
CURVE_TURNS = 3
# After one look, this share of the best is as good.
NEAR = 0.9
SHORTEST_TURN_SECONDS = 0.03
LONGEST_TURN_SECONDS = 2.0
LONGEST_LOOK_SECONDS = 0.5
# A gain below this is not worth a setting of its own, however clear.
LEAST_GAIN = 0.02
AGREEING_PAIRS = 0.85
# Larger batches are not tried once two in a row are this much below the best of their lanes.
FALLING = 0.9
# Shares of the best throughput that are offered.
OFFERED = (0.1, 0.25, 0.5, 0.65, 0.8, 0.9)
SHOWN = (0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 1.0)
BUSY = 0.8
LEAST_ARRIVALS = 10
# Held back for these shares of the time of a full batch.
DELAYS = (0.25, 1.0)
# Stages in order, and their shares of the time.
SHARES = {"screen": 0.4, "finals": 0.3, "precision": 0.1, "delay": 0.1, "curves": 0.1}


@dataclass(frozen=True, slots=True)
class Space:
    """What may be chosen.

    sizes: largest batches, ascending; (1,) where rows cannot be put together.
    places: (lanes, threads per lane), the simplest first; (None, None) leaves them as they are.
    delays: whether `max_queue_delay_us` is free.
    precisions: INFERENCE_PRECISION_HINTs beside the one that is in effect without.
    """

    sizes: tuple[int, ...]
    places: tuple[tuple[int | None, int | None], ...]
    delays: bool = True
    precisions: tuple[str, ...] = ()


@dataclass(eq=False)
class Candidate:
    """One setting, and all that was measured of it.

    saturated: turns of the closed loop. offered, curve: turns of the open loop by rate, to decide and to show.
    deviation: largest difference of an output from f32, relative to its magnitude; None where not compared.
    refused: why it is out of the running; None while it is in.
    """

    settings: Settings
    facts: Facts | None = None
    saturated: list[Turn] = field(default_factory=list)
    offered: list[dict[float, Turn]] = field(default_factory=list)
    curve: list[dict[float, Turn]] = field(default_factory=list)
    deviation: float | None = None
    refused: str | None = None

    @property
    def rate(self) -> float:
        """Requests per second at saturation: the median of the turns."""
        return statistics.median([turn.rate for turn in self.saturated]) if self.saturated else 0.0

    def sustained(self, p99_ms: float) -> list[float]:
        """By turn, the load in requests per second that keeps the limit."""
        return [min(sustained(turn, p99_ms), self.rate) for turn in self.offered]


def sustained(offered: Mapping[float, Turn], p99_ms: float) -> float:
    """The load that keeps the limit; between the rates that were offered the latency is taken to grow exponentially."""
    below, latency = 0.0, 0.0
    for rate, seen in sorted(offered.items()):
        if seen.p99_ms > p99_ms:
            if not below:
                return 0.0
            return below + (rate - below) * math.log(p99_ms / latency) / math.log(seen.p99_ms / latency)
        below, latency = rate, seen.p99_ms
    return below


@dataclass(frozen=True)
class Found:
    """What came of a search.

    chosen, default: the winner, and `load` without settings; the same where nothing is better.
    candidates: all that were looked at, in that order.
    p99_ms: the limit that was asked for.
    complete: whether there was time to look at all.
    """

    chosen: Candidate
    default: Candidate
    candidates: tuple[Candidate, ...]
    p99_ms: float | None
    complete: bool

    @property
    def meets_limit(self) -> bool:
        """Whether there is a load at which the winner keeps the limit; true without one."""
        return self.p99_ms is None or statistics.median(self.chosen.sustained(self.p99_ms) or [0.0]) > 0


def clearly_better(values: Sequence[float], than: Sequence[float]) -> bool:
    """Whether the medians differ by more than LEAST_GAIN, and most pairs of turns agree on who is better.

    With seven turns each that happens by chance once in seventy times (Mann-Whitney). One disturbed turn does not hide
    a difference, as it would if the ranges had to be apart.
    """
    before = statistics.median(than)
    gain = statistics.median(values) - before
    wins = sum(value > other for value in values for other in than)
    return gain > LEAST_GAIN * abs(before) and wins >= AGREEING_PAIRS * len(values) * len(than)


def simplest_of_the_best(candidates: Sequence[Candidate], score: Callable[[Candidate], Sequence[float]]) -> Candidate:
    """The first that the best one does not clearly beat; the candidates are in order of simplicity."""
    best = max(candidates, key=lambda candidate: statistics.median(score(candidate)))
    return next(c for c in candidates if c is best or not clearly_better(score(best), score(c)))


class Search:
    """One search; `run` it once.

    Args:
        lab: loads and measures.
        space: what may be chosen.
        seconds: to spend, loading included; a turn that was begun is finished.
        p99_ms: limit of the latency; None asks for throughput alone.
        tolerance: deviation from f32 that another precision may have.
        memory_bytes: what all models that are loaded at the same time may hold.
        progress: is told how far it is.
    """

    def __init__(
        self,
        lab: Lab,
        space: Space,
        *,
        seconds: float,
        p99_ms: float | None = None,
        tolerance: float = 0.01,
        memory_bytes: float = math.inf,
        progress: Progress = lambda share, what: None,
    ) -> None:
        self._lab = lab
        self._space = space
        self._seconds = seconds
        self._p99_ms = p99_ms
        self._tolerance = tolerance
        self._memory_bytes = memory_bytes
        self._progress = progress
        self._began = lab.now()
        self._stage_end = 0.0
        self._candidates: dict[Settings, Candidate] = {}
        self._open: dict[Settings, Subject] = {}

    def run(self) -> Found:
        """All stages. Raises the error of the defaults where not even they can be loaded or run."""
        try:
            self._begin("screen")
            default = self._look(Settings())
            if default.refused is not None:
                self._subject(default)  # raises
            complete = self._screen()
            self._begin("finals")
            finalists = self._finalists(default)
            self._compare(finalists)
            chosen = simplest_of_the_best(finalists, self._score)
            if self._space.precisions:
                self._begin("precision")
                chosen = self._try_precisions(chosen, finalists)
            if self._space.delays and chosen.facts is not None and chosen.facts.ladder[-1] > 1:
                self._begin("delay")
                chosen = self._try_delays(chosen)
            self._begin("curves")
            self._draw_curves([chosen] if chosen is default else [chosen, default], chosen.rate)
            self._progress(1.0, "done")
            return Found(chosen, default, tuple(self._candidates.values()), self._p99_ms, complete)
        finally:
            self._keep(())

    # -- stages -------------------------------------------------------------------------------------------------------

    def _screen(self) -> bool:
        """One short look at every size on every division of the CPUs, then at the sizes around the best one; false when
        time was up before.
        """
        for lanes, threads in self._space.places:
            best, falling = 0.0, 0
            for size in self._space.sizes:
                if self._stage_over():
                    return False
                looked = self._look(_settings(size, lanes, threads))
                falling = falling + 1 if looked.rate < FALLING * best else 0
                best = max(best, looked.rate)
                if looked.refused is not None or falling == 2 or self._too_slow(looked):
                    break
        best_of_all = max(self._in_the_running(), key=self._promise)
        if best_of_all.settings.batch_sizes:
            top = best_of_all.settings.batch_sizes[-1]
            for size in (top // 2, top * 2):
                if 1 < size <= self._space.sizes[-1] and not self._stage_over():
                    settings = best_of_all.settings
                    self._look(_settings(size, settings.lanes, settings.threads_per_lane))
        return True

    def _finalists(self, default: Candidate) -> list[Candidate]:
        """The defaults, the two most promising others, and the simplest of those near them; in order of simplicity, and
        as far as memory goes.
        """
        others = [candidate for candidate in self._in_the_running() if candidate is not default]
        ranked = sorted(others, key=self._promise, reverse=True)
        best = max((self._promise(candidate) for candidate in others), default=(False, 0.0))
        near = [candidate for candidate in others if self._promise(candidate) >= (best[0], NEAR * best[1])]
        room = self._memory_bytes - (default.facts.memory_bytes if default.facts else 0)
        taken: list[Candidate] = []
        for candidate in list(dict.fromkeys((*ranked[:2], *near, *ranked)))[:FINALISTS]:
            room -= candidate.facts.memory_bytes if candidate.facts else 0
            if room >= 0 or not taken:
                taken.append(candidate)
        return [default, *(candidate for candidate in others if candidate in taken)]

    def _try_precisions(self, chosen: Candidate, finalists: Sequence[Candidate]) -> Candidate:
        """The winner and the runner-up in each precision that agrees with f32."""
        expected = self._in_f32(chosen)
        runner_up = max((c for c in finalists if c is not chosen), key=self._median_score, default=chosen)
        rivals = [chosen]
        for precision in self._space.precisions:
            for base in dict.fromkeys((chosen, runner_up)):
                rival = self._register(replace(base.settings, precision=precision))
                rival.refused = self._disagreement(rival, expected)
                if rival.refused is None:
                    rivals.append(rival)
        self._compare(rivals)
        return simplest_of_the_best(rivals, self._score)

    def _in_f32(self, candidate: Candidate) -> Answers:
        reference = self._lab.open(replace(candidate.settings, precision="f32"))
        try:
            return reference.answers()
        finally:
            reference.close()

    def _disagreement(self, candidate: Candidate, expected: Answers) -> str | None:
        """Why its outputs will not do; None when they will."""
        self._tell(candidate)
        try:
            pairs = zip(self._subject(candidate).answers(), expected, strict=True)
        except OvengineError as error:
            return " ".join(str(error).split())
        candidate.deviation = max(
            (difference(ours, theirs) for answer, wanted in pairs for ours, theirs in zip(answer, wanted, strict=True)),
            default=0.0,
        )
        if candidate.deviation <= self._tolerance:
            return None
        return f"outputs deviate from f32 by {candidate.deviation:.2g}, more than {self._tolerance:g}"

    def _try_delays(self, chosen: Candidate) -> Candidate:
        """Holding partial batches back makes them fuller; whether that shortens the tail or not shows under load."""
        full_us = chosen.facts.inference_us if chosen.facts else 0.0
        delays = sorted({round(share * full_us) for share in DELAYS} - {0})
        rivals = [chosen, *(self._register(replace(chosen.settings, max_queue_delay_us=us)) for us in delays)]
        if self._p99_ms is not None:
            self._compare(rivals)
            return simplest_of_the_best(rivals, self._score)
        busy = BUSY * chosen.rate
        self._saturate(rivals, 0.5)
        self._offer(rivals, [busy])
        as_fast = [rival for rival in rivals if not clearly_better(self._score(chosen), self._score(rival))]
        return simplest_of_the_best(as_fast, lambda candidate: [-turn[busy].p99_ms for turn in candidate.offered])

    # -- measuring ----------------------------------------------------------------------------------------------------

    def _look(self, settings: Settings) -> Candidate:
        """Measure once, briefly, unless that was done before."""
        candidate = self._register(settings)
        if candidate.saturated or candidate.refused is not None:
            return candidate
        try:
            subject = self._subject(candidate)
            left = max(0.0, self._stage_end - self._lab.now())
            looks = 2 * len(self._space.sizes) * len(self._space.places)
            seconds = min(max(left / looks, SHORTEST_TURN_SECONDS), LONGEST_LOOK_SECONDS)
            self._tell(candidate)
            candidate.refused = _not_as_asked(settings, subject.facts)
            if candidate.refused is None:
                candidate.saturated.append(subject.saturate(seconds))
        except OvengineError as error:
            candidate.refused = " ".join(str(error).split())
        self._keep(())
        return candidate

    def _compare(self, rivals: Sequence[Candidate]) -> None:
        """Fill in what `_score` reads, in turns."""
        if self._p99_ms is None:
            self._saturate(rivals)
        else:
            self._saturate(rivals, 0.4)
            capacity = max(candidate.rate for candidate in rivals)
            self._offer(rivals, [share * capacity for share in OFFERED])

    def _saturate(self, rivals: Sequence[Candidate], share: float = 1.0) -> None:
        for candidate in rivals:
            candidate.saturated.clear()  # the short look was another measurement
        for candidate, _, seconds in self._in_turns(rivals, share):
            candidate.saturated.append(self._subject(candidate).saturate(seconds))

    def _offer(self, rivals: Sequence[Candidate], rates: Sequence[float]) -> None:
        """Open loop at these rates; who misses the limit is spared the higher ones."""
        for candidate in rivals:
            candidate.offered.clear()
        for candidate, turn, seconds in self._in_turns(rivals, 1.0, len(rates)):
            candidate.offered.append(self._offered(candidate, rates, turn, seconds, self._p99_ms or math.inf))

    def _draw_curves(self, candidates: Sequence[Candidate], capacity: float) -> None:
        rates = [share * capacity for share in SHOWN]
        for candidate, turn, seconds in self._in_turns(candidates, 1.0, len(rates), CURVE_TURNS):
            candidate.curve.append(self._offered(candidate, rates, turn, seconds, math.inf))

    def _offered(
        self, candidate: Candidate, rates: Sequence[float], turn: int, seconds: float, p99_ms: float
    ) -> dict[float, Turn]:
        """One turn, up to where requests would pile up, or miss the limit; all see the same arrivals."""
        found: dict[float, Turn] = {}
        for index, rate in enumerate(rates):
            if found and rate > candidate.rate:
                break
            enough = max(seconds, LEAST_ARRIVALS / rate)
            seen = found[rate] = self._subject(candidate).offer(rate, enough, turn * len(rates) + index)
            if seen.p99_ms > p99_ms:
                break
        return found

    def _in_turns(
        self, rivals: Sequence[Candidate], share: float, looks: int = 1, turns: int = TURNS
    ) -> Iterator[tuple[Candidate, int, float]]:
        """Who is next, the turn, and the seconds of one look; ends early, but between turns, when time is up."""
        self._keep(rivals)
        for candidate in rivals:
            self._subject(candidate)
        left = share * max(0.0, self._stage_end - self._lab.now())
        end = self._lab.now() + left
        seconds = left / (len(rivals) * turns * looks)
        seconds = min(max(seconds, SHORTEST_TURN_SECONDS), LONGEST_TURN_SECONDS)
        for turn in range(turns):
            if turn >= LEAST_TURNS and self._lab.now() >= end:
                return
            first = turn % len(rivals)
            for candidate in (*rivals[first:], *rivals[:first]):
                self._tell(candidate)
                yield candidate, turn, seconds

    # -- what is loaded -----------------------------------------------------------------------------------------------

    def _register(self, settings: Settings) -> Candidate:
        return self._candidates.setdefault(settings, Candidate(settings))

    def _subject(self, candidate: Candidate) -> Subject:
        if candidate.settings not in self._open:
            subject = self._lab.open(candidate.settings)
            self._open[candidate.settings] = subject
            candidate.facts = subject.facts
        return self._open[candidate.settings]

    def _keep(self, candidates: Sequence[Candidate]) -> None:
        """Close all others."""
        wanted = {candidate.settings for candidate in candidates}
        for settings in [settings for settings in self._open if settings not in wanted]:
            self._open.pop(settings).close()

    # -- judging ------------------------------------------------------------------------------------------------------

    def _in_the_running(self) -> list[Candidate]:
        return [candidate for candidate in self._candidates.values() if candidate.refused is None]

    def _promise(self, candidate: Candidate) -> tuple[bool, float]:
        """After one look: those that can keep the limit first, then the fastest."""
        return not self._too_slow(candidate), candidate.rate

    def _too_slow(self, candidate: Candidate) -> bool:
        """Whether a request that comes just after a full batch has begun, and runs in the next, misses the limit."""
        if self._p99_ms is None or candidate.facts is None:
            return False
        return 2 * candidate.facts.inference_us > 1e3 * self._p99_ms

    def _score(self, candidate: Candidate) -> Sequence[float]:
        """By turn, more is better: requests per second, within the limit where there is one."""
        if self._p99_ms is not None:
            return candidate.sustained(self._p99_ms)
        return [turn.rate for turn in candidate.saturated]

    def _median_score(self, candidate: Candidate) -> float:
        return statistics.median(self._score(candidate) or [0.0])

    # -- time ---------------------------------------------------------------------------------------------------------

    def _begin(self, stage: str) -> None:
        """Give a stage its share of what is left: what earlier ones did not use is not lost."""
        stages = list(SHARES)
        rest = sum(SHARES[name] for name in stages[stages.index(stage) :])
        left = max(0.0, self._began + self._seconds - self._lab.now())
        self._stage = stage
        self._stage_end = self._lab.now() + left * SHARES[stage] / rest

    def _stage_over(self) -> bool:
        return self._lab.now() >= self._stage_end

    def _tell(self, candidate: Candidate) -> None:
        share = (self._lab.now() - self._began) / self._seconds
        self._progress(min(share, 1.0), f"{self._stage}: {candidate.settings}")


def _settings(size: int, lanes: int | None, threads: int | None) -> Settings:
    return Settings(batch_sizes=(*(s for s in SIZES if s < size), size), lanes=lanes, threads_per_lane=threads)


def _not_as_asked(settings: Settings, facts: Facts) -> str | None:
    """A plan may give up on a batch size: rows that must not be put together, or too little memory."""
    if settings.batch_sizes is None or facts.ladder[-1] == settings.batch_sizes[-1]:
        return None
    return f"the plan has batches of up to {facts.ladder[-1]} only"
