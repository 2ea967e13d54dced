"""The search: from a space of settings to the one that is best by more than the noise of measuring.

    screen      every batch size on every division of the CPUs, one short look each
    finals      the best few and the defaults, in turns: throughput, and under a limit the load that they sustain
    precision   where it is allowed and the outputs agree
    delay       whether holding back partial batches pays
    curves      the winner and the defaults over offered load

All look at the same requests. Who is compared is loaded at the same time and takes turns in changing order, so that a
drift of the machine hits all alike. Who is simpler stays unless somebody is clearly better (`clearly_better`). What
does not fit into the time (`_schedule`) is left out.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ovengine._load_generator import difference
from ovengine.errors import OvengineError
from ovengine.profile import Settings
from ovengine.tuner._candidates import Candidate, Found, Interrupted, clearly_better, simplest_of_the_best
from ovengine.tuner._measuring import Answers, Facts, Lab, Subject, Turn
from ovengine.tuner._schedule import Schedule, offering_s

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
# Larger batches are not tried once two in a row are this much below the best of their lanes.
FALLING = 0.9
# Shares of the best throughput that are offered.
OFFERED = (0.1, 0.25, 0.5, 0.65, 0.8, 0.9)
SHOWN = (0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 1.0)
BUSY = 0.8
LEAST_ARRIVALS = 10
# Held back for these shares of the time of a full batch.
DELAYS = (0.25, 1.0)
# Full batches that each lane has ahead when the time of a closed loop is over.
IN_FLIGHT = 4


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


class Search:
    """One search; `run` it once.

    Args:
        lab: loads and measures.
        space: what may be chosen.
        seconds: to spend, loading included. The defaults are looked at in any case.
        p99_ms: limit of the latency; None asks for throughput alone.
        tolerance: deviation from f32 that another precision may have.
        memory_bytes: what all models that are loaded at the same time may hold.
        progress: is told how far it is.
        began: when the time began, on the lab's clock; None for now.
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
        began: float | None = None,
    ) -> None:
        self._lab = lab
        self._space = space
        self._p99_ms = p99_ms
        self._tolerance = tolerance
        self._memory_bytes = memory_bytes
        self._progress = progress
        self._schedule = Schedule(lab.now, seconds, lab.now() if began is None else began)
        self._chosen: Candidate | None = None
        self._complete = True
        self._decided = False
        self._candidates: dict[Settings, Candidate] = {}
        self._open: dict[Settings, Subject] = {}

    def run(self) -> Found:
        """All stages. Raises the error of the defaults where not even they can be loaded or run.

        Raises Interrupted where Ctrl-C ends it and the defaults were measured before.
        """
        default = self._register(Settings())
        try:
            self._run(default)
        except KeyboardInterrupt:
            if not default.rate:
                raise
            self._complete = False
            raise Interrupted(self._found(default)) from None
        finally:
            self._keep(())
        self._progress(1.0, "done")
        return self._found(default)

    def _run(self, default: Candidate) -> None:
        self._schedule.begin("screen")
        self._look(default, default)
        if default.refused is not None:
            self._subject(default)  # raises
        self._screen(default)
        self._schedule.begin("finals")
        finalists = self._affordable(self._finalists(default))
        self._compare(finalists, LEAST_TURNS if len(finalists) > 1 else 1)
        self._chosen = simplest_of_the_best(finalists, self._score)
        # With nothing to compare them with, the defaults are the answer.
        self._decided = len(finalists) > 1 or self._complete
        if self._space.precisions:
            self._schedule.begin("precision")
            self._chosen = self._try_precisions(self._chosen, finalists)
        facts = self._chosen.facts
        if self._space.delays and facts is not None and facts.ladder[-1] > 1:
            self._schedule.begin("delay")
            self._chosen = self._try_delays(self._chosen)
        self._schedule.begin("curves")
        self._draw_curves([self._chosen] if self._chosen is default else [self._chosen, default], self._chosen.rate)

    def _found(self, default: Candidate) -> Found:
        candidates = tuple(candidate for candidate in self._candidates.values() if candidate.is_seen)
        return Found(self._chosen or default, default, candidates, self._p99_ms, self._complete, self._decided)

    # -- stages -------------------------------------------------------------------------------------------------------

    def _screen(self, default: Candidate) -> None:
        """One short look at every size on every division of the CPUs, then at the sizes around the best one."""
        for lanes, threads in self._space.places:
            best, falling = 0.0, 0
            for size in self._space.sizes:
                if not self._fits(size):
                    break
                looked = self._register(_settings(size, lanes, threads))
                self._look(looked, default)
                falling = falling + 1 if looked.rate < FALLING * best else 0
                best = max(best, looked.rate)
                if looked.refused is not None or falling == 2 or self._too_slow(looked):
                    break
        best_of_all = max(self._in_the_running(), key=self._promise)
        if best_of_all.settings.batch_sizes:
            top = best_of_all.settings.batch_sizes[-1]
            for size in (top // 2, top * 2):
                if 1 < size <= self._space.sizes[-1] and self._fits(size):
                    settings = best_of_all.settings
                    self._look(self._register(_settings(size, settings.lanes, settings.threads_per_lane)), default)

    def _fits(self, rows: int) -> bool:
        """Whether there is time for a look at batches of up to `rows`."""
        looking_s = SHORTEST_TURN_SECONDS + IN_FLIGHT * self._schedule.inference_s(rows)
        fits = self._schedule.loading_s(rows) + looking_s <= self._schedule.stage_left
        self._complete = self._complete and fits
        return fits

    def _finalists(self, default: Candidate, spare: float = 0.0) -> list[Candidate]:
        """The defaults, the two most promising others, and the simplest of those near them; in order of simplicity, and
        as far as memory goes, `spare` bytes of which are for something else.
        """
        others = [candidate for candidate in self._in_the_running() if candidate is not default]
        ranked = sorted(others, key=self._promise, reverse=True)
        best = max((self._promise(candidate) for candidate in others), default=(False, 0.0))
        near = [candidate for candidate in others if self._promise(candidate) >= (best[0], NEAR * best[1])]
        room = self._memory_bytes - spare - (default.facts.memory_bytes if default.facts else 0)
        taken: list[Candidate] = []
        for candidate in list(dict.fromkeys((*ranked[:2], *near, *ranked)))[:FINALISTS]:
            room -= candidate.facts.memory_bytes if candidate.facts else 0
            if room >= 0 or (not taken and not spare):
                taken.append(candidate)
        return [default, *(candidate for candidate in others if candidate in taken)]

    def _affordable(self, rivals: Sequence[Candidate]) -> list[Candidate]:
        """The first of them, and as many of the others as there is time to compare, the most promising first."""
        taken = {rivals[0].settings}
        for rival in sorted(rivals[1:], key=self._promise, reverse=True):
            more = [candidate for candidate in rivals if candidate.settings in {*taken, rival.settings}]
            if self._comparing_s(more) <= self._schedule.left:
                taken.add(rival.settings)
        found = [candidate for candidate in rivals if candidate.settings in taken]
        self._complete = self._complete and len(found) == len(rivals)
        return found

    def _comparing_s(self, rivals: Sequence[Candidate]) -> float:
        """What the shortest comparison takes, loading included."""
        missing = [candidate for candidate in rivals if candidate.settings not in self._open]
        loading_s = sum(self._schedule.loading_s(_largest_batch(candidate)) for candidate in missing)
        turn_s = SHORTEST_TURN_SECONDS
        if self._p99_ms is not None:
            turn_s += offering_s(self._rates(rivals), SHORTEST_TURN_SECONDS, LEAST_ARRIVALS)
        batches_s = sum(self._schedule.inference_s(_largest_batch(candidate)) for candidate in rivals)
        return loading_s + LEAST_TURNS * (len(rivals) * turn_s + IN_FLIGHT * batches_s)

    def _try_precisions(self, chosen: Candidate, finalists: Sequence[Candidate]) -> Candidate:
        """The winner and the runner-up in each precision that agrees with f32."""
        if self._schedule.loading_s(_largest_batch(chosen)) > self._schedule.left:
            self._complete = False
            return chosen
        expected = self._in_f32(chosen)
        runner_up = max((c for c in finalists if c is not chosen), key=self._median_score, default=chosen)
        rivals = [chosen]
        for precision in self._space.precisions:
            for base in dict.fromkeys((chosen, runner_up)):
                rival = self._register(replace(base.settings, precision=precision), like=base)
                if len(self._affordable([*rivals, rival])) == len(rivals):
                    continue
                rival.refused = self._disagreement(rival, expected)
                if rival.refused is None:
                    rivals.append(rival)
        if len(rivals) == 1:
            return chosen
        self._compare(rivals)
        self._decided = True
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
        delayed = [replace(chosen.settings, max_queue_delay_us=us) for us in delays]
        rivals = self._affordable([chosen, *(self._register(settings, like=chosen) for settings in delayed)])
        if len(rivals) == 1:
            return chosen
        self._decided = True
        if self._p99_ms is not None:
            self._compare(rivals)
            return simplest_of_the_best(rivals, self._score)
        busy = BUSY * chosen.rate
        self._saturate(rivals, 0.5)
        self._offer(rivals, [busy])
        as_fast = [rival for rival in rivals if not clearly_better(self._score(chosen), self._score(rival))]
        return simplest_of_the_best(as_fast, lambda candidate: [-turn[busy].p99_ms for turn in candidate.offered])

    # -- measuring ----------------------------------------------------------------------------------------------------

    def _look(self, candidate: Candidate, default: Candidate) -> None:
        """Measure once, briefly, unless that was done before. What is promising stays open for the finals."""
        if candidate.is_seen:
            return
        try:
            subject = self._subject(candidate)
            looks = 2 * len(self._space.sizes) * len(self._space.places)
            seconds = min(max(self._schedule.stage_left / looks, SHORTEST_TURN_SECONDS), LONGEST_LOOK_SECONDS)
            self._tell(candidate)
            candidate.refused = _not_as_asked(candidate.settings, subject.facts)
            if candidate.refused is None:
                candidate.saturated.append(subject.saturate(seconds))
        except OvengineError as error:
            candidate.refused = " ".join(str(error).split())
        newcomer = max((c.facts.memory_bytes for c in self._candidates.values() if c.facts is not None), default=0)
        self._keep(self._finalists(default, newcomer) if default.refused is None else ())

    def _compare(self, rivals: Sequence[Candidate], least: int = LEAST_TURNS) -> None:
        """Fill in what `_score` reads, in turns; at least so many."""
        if self._p99_ms is None:
            self._saturate(rivals, least=least)
        else:
            self._saturate(rivals, 0.4, least)
            self._offer(rivals, self._rates(rivals), least)

    def _rates(self, rivals: Sequence[Candidate]) -> list[float]:
        """Rates to offer, by what the best of them can do."""
        capacity = max(candidate.rate for candidate in rivals)
        return [share * capacity for share in OFFERED]

    def _saturate(self, rivals: Sequence[Candidate], share: float = 1.0, least: int = LEAST_TURNS) -> None:
        for candidate in rivals:
            candidate.short_look = candidate.rate  # the short look was another measurement
            candidate.saturated.clear()
        for candidate, _, seconds in self._in_turns(rivals, share, least=least):
            candidate.saturated.append(self._subject(candidate).saturate(seconds))

    def _offer(self, rivals: Sequence[Candidate], rates: Sequence[float], least: int = LEAST_TURNS) -> None:
        """Open loop at these rates; who misses the limit is spared the higher ones."""
        for candidate in rivals:
            candidate.offered.clear()
        for candidate, turn, seconds in self._in_turns(rivals, 1.0, len(rates), least=least):
            candidate.offered.append(self._offered(candidate, rates, turn, seconds, self._p99_ms or math.inf))

    def _draw_curves(self, candidates: Sequence[Candidate], capacity: float) -> None:
        """As many turns as there is time for, perhaps none: nothing is decided by them."""
        rates = [share * capacity for share in SHOWN]
        turn_s = offering_s(rates, SHORTEST_TURN_SECONDS, LEAST_ARRIVALS)
        affordable = list(candidates[: int(self._schedule.left / turn_s)])
        for candidate, turn, seconds in self._in_turns(affordable, 1.0, len(rates), CURVE_TURNS, least=1):
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
        self, rivals: Sequence[Candidate], share: float, looks: int = 1, turns: int = TURNS, least: int = LEAST_TURNS
    ) -> Iterator[tuple[Candidate, int, float]]:
        """Who is next, the turn, and the seconds of one look; ends early, but between turns, when time is up."""
        self._keep(rivals)
        for candidate in rivals:
            self._subject(candidate)
        left = share * self._schedule.stage_left
        begin = self._lab.now()
        seconds = left / max(1, len(rivals) * turns * looks)
        seconds = min(max(seconds, SHORTEST_TURN_SECONDS), LONGEST_TURN_SECONDS)
        for turn in range(turns):
            spent = self._lab.now() - begin
            if turn >= least and spent * (turn + 1) / turn > 1.05 * left:
                return
            first = turn % max(1, len(rivals))
            for candidate in (*rivals[first:], *rivals[:first]):
                self._tell(candidate)
                yield candidate, turn, seconds

    # -- what is loaded -----------------------------------------------------------------------------------------------

    def _register(self, settings: Settings, like: Candidate | None = None) -> Candidate:
        """The candidate of these settings, which will do about as well as another one."""
        candidate = self._candidates.setdefault(settings, Candidate(settings))
        if like is not None and candidate.facts is None:
            candidate.facts = like.facts
        return candidate

    def _subject(self, candidate: Candidate) -> Subject:
        if candidate.settings not in self._open:
            begin = self._lab.now()
            subject = self._lab.open(candidate.settings)
            self._open[candidate.settings] = subject
            candidate.facts = facts = subject.facts
            self._schedule.loaded(facts.ladder[-1], self._lab.now() - begin, facts.inference_us / 1e6)
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

    def _tell(self, candidate: Candidate) -> None:
        self._progress(self._schedule.share, f"{self._schedule.stage}: {candidate.settings}")


def _largest_batch(candidate: Candidate) -> int:
    if candidate.facts is not None:
        return candidate.facts.ladder[-1]
    return candidate.settings.batch_sizes[-1] if candidate.settings.batch_sizes else 1


def _settings(size: int, lanes: int | None, threads: int | None) -> Settings:
    return Settings(batch_sizes=(*(s for s in SIZES if s < size), size), lanes=lanes, threads_per_lane=threads)


def _not_as_asked(settings: Settings, facts: Facts) -> str | None:
    """A plan may give up on a batch size: rows that must not be put together, or too little memory."""
    if settings.batch_sizes is None or facts.ladder[-1] == settings.batch_sizes[-1]:
        return None
    return f"the plan has batches of up to {facts.ladder[-1]} only"
