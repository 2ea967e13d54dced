"""Contenders under the same load, in turns, and what comes of it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from ovengine._load_generator import Contender, Inputs, Limit, Sample, difference, open_loop, paced_loop
from ovengine.cli._bench_options import SECONDS
from ovengine.cli._progress import Progress
from ovengine.errors import InferenceError

WARM_UP_S = 0.5
QUANTILES = (50, 90, 99)
TOLERANCE = 0.05
"""Of the largest magnitude of an output: what bf16 and another batch size may change."""


@dataclass(frozen=True)
class Load:
    """What all contenders are put under.

    clients: requests in flight, in a closed loop. rows: of a request, on average.
    seconds, requests: of all rounds together; each round lasts until both are reached.
    """

    clients: int
    api: str
    rows: float
    seconds: float
    requests: int
    rounds: int
    rate: float | None
    arrivals: str
    max_rows_per_s: float
    warm_up: bool
    seed: int

    @classmethod
    def of(cls, args: argparse.Namespace, clients: int, rows: float) -> Load:
        """As the options say."""
        requests = args.requests or 0
        return cls(
            clients=clients,
            api=args.api,
            rows=rows,
            seconds=args.seconds or (0.0 if requests else SECONDS),
            requests=requests,
            rounds=min(args.rounds, requests or args.rounds),
            rate=args.rate,
            arrivals=args.arrivals,
            max_rows_per_s=args.max_rows_per_s,
            warm_up=not args.no_warmup,
            seed=args.seed,
        )

    def limits(self) -> Iterator[Limit]:
        """Of each round."""
        each, more = divmod(self.requests, self.rounds)
        for round_ in range(self.rounds):
            yield Limit(self.seconds / self.rounds, each + (round_ < more))

    def run(self, contender: Contender, data: Sequence[Inputs], limit: Limit, seed: int) -> Sample:
        """One round."""
        if self.rate:
            poisson = self.arrivals == "poisson"
            return open_loop(contender, data, self.rate, poisson=poisson, limit=limit, seed=seed)
        if self.max_rows_per_s:
            return paced_loop(contender, data, self.max_rows_per_s / self.rows, self.clients, limit)
        return contender.closed_loop(data, limit)

    def report(self) -> dict[str, Any]:
        """What `--json` prints of it."""
        rows = int(self.rows) if self.rows == int(self.rows) else self.rows
        common: dict[str, Any] = {"rows_per_request": rows, "rounds": self.rounds, "seconds": self.seconds}
        if self.requests:
            common["requests"] = self.requests
        if self.rate:
            return {"loop": "open", "rate": self.rate, "arrivals": self.arrivals} | common
        if self.max_rows_per_s:
            common["max_rows_per_s"] = self.max_rows_per_s
        return {"loop": "closed", "clients": self.clients, "api": self.api} | common

    def __str__(self) -> str:
        if self.rate:
            loop = f"open loop, {self.rate:g} requests/s ({self.arrivals})"
        else:
            loop = f"closed loop, {self.clients} request{'s' if self.clients > 1 else ''} in flight ({self.api})"
            if self.max_rows_per_s:
                loop += f", at most {self.max_rows_per_s:g} rows/s"
        seconds = [f"{self.seconds:g} s"] if self.seconds else []
        length = " and ".join(seconds + ([f"{self.requests} requests"] if self.requests else []))
        rounds = f" in {self.rounds} rounds" if self.rounds > 1 else ""
        return f"{loop}; {self.rows:g} row{'s' if self.rows != 1 else ''} a request; {length}{rounds} each"


@dataclass
class Outcome:
    """All rounds of one contender."""

    contender: Contender
    samples: list[Sample] = field(default_factory=list)
    rows: int = 0
    batches: int = 0

    def add(self, sample: Sample, before: tuple[int, int] | None, after: tuple[int, int] | None) -> None:
        """Take one round, with the contender's rows and batches before and after it."""
        self.samples.append(sample)
        if before is not None and after is not None:
            self.rows += after[0] - before[0]
            self.batches += after[1] - before[1]

    @property
    def rates(self) -> list[float]:
        """Requests per second of each round."""
        return [sample.requests / sample.seconds for sample in self.samples]

    @property
    def requests(self) -> int:
        """That were answered."""
        return sum(sample.requests for sample in self.samples)

    @property
    def seconds(self) -> float:
        """Of all rounds together."""
        return sum(sample.seconds for sample in self.samples)

    def latencies_ms(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Latencies of all rounds."""
        return np.concatenate([sample.latencies_ns for sample in self.samples]) / 1e6

    def report(self, load: Load, percentile: int) -> dict[str, Any]:
        """What `--json` prints of it."""
        latencies = self.latencies_ms()
        latency: dict[str, float] = {}
        if len(latencies):
            latency = {f"p{q}": float(np.percentile(latencies, q)) for q in sorted({*QUANTILES, percentile})}
            latency |= {"mean": float(latencies.mean()), "min": float(latencies.min()), "max": float(latencies.max())}
        rate = float(np.median(self.rates))
        return {
            "name": self.contender.name,
            "detail": self.contender.detail,
            "requests": self.requests,
            "seconds": self.seconds,
            "refused": sum(sample.refused for sample in self.samples),
            "requests_per_s": rate,
            "requests_per_s_rounds": self.rates,
            "rows_per_s": rate * load.rows,
            "rows_per_batch": self.rows / self.batches if self.batches else None,
            "latency_ms": latency,
        }


def measure(
    contenders: Sequence[Contender], data: Sequence[Inputs], load: Load, progress: Progress
) -> tuple[list[Outcome], bool]:
    """Warm everybody up, then take the rounds in turns, so that a drift of the machine hits all alike.

    Returns:
        What there is of each contender that had a round, and whether Ctrl-C ended it.
    """
    outcomes = [Outcome(contender) for contender in contenders]
    limits = list(load.limits())
    if load.warm_up:
        progress.stage("warming up")
        for contender in contenders:
            limit = Limit(min(WARM_UP_S, limits[0].seconds or WARM_UP_S), 1)
            if load.run(contender, data, limit, load.seed).interrupted:
                return [], True
    progress.stage("measuring", total=load.seconds * len(contenders), timed=True)
    for round_, limit in enumerate(limits):
        # Everybody sees the same arrivals in a round; who begins changes from round to round.
        start = round_ % len(outcomes)
        for outcome in outcomes[start:] + outcomes[:start]:
            progress.what = f"round {round_ + 1} of {load.rounds}: {outcome.contender.name}"
            before = outcome.contender.batches()
            sample = load.run(outcome.contender, data, limit, load.seed + 1 + round_)
            if sample.requests or not sample.interrupted:
                outcome.add(sample, before, outcome.contender.batches())
            if sample.interrupted:
                return [outcome for outcome in outcomes if outcome.samples], True
    return outcomes, False


def check_answers(contenders: Sequence[Contender], data: Sequence[Inputs]) -> dict[str, float]:
    """Compare everybody's answers with the first one's; largest difference relative to the output's magnitude.

    Raises:
        InferenceError: they differ by more than precision and batch size explain.
    """
    worst: dict[str, float] = {}
    first, *others = contenders
    for inputs in data[:4]:
        expected = first.answer(inputs)
        for other in others:
            for index, (ours, theirs) in enumerate(zip(expected, other.answer(inputs), strict=True)):
                found = difference(ours, theirs)
                worst[other.name] = max(worst.get(other.name, 0.0), found)
                if not found <= TOLERANCE:
                    raise InferenceError(f"{first.name} and {other.name} differ in output {index} by {found:.2g}")
    return worst


def ratios(outcomes: Sequence[Outcome], *, open_loop: bool) -> dict[str, dict[str, dict[str, float]]]:
    """Ours over each peer's, round by round: requests per second, or latencies where the rate is given.

    Returns:
        Median, least and most of the rounds by measure by peer.
    """

    def rate(sample: Sample) -> float:
        return sample.requests / sample.seconds

    def latency(quantile: float, sample: Sample) -> float:
        return float(np.percentile(sample.latencies_ns, quantile)) if sample.requests else 0.0

    measures: dict[str, Callable[[Sample], float]] = {"requests/s": rate}
    if open_loop:
        measures = {f"p{quantile}": partial(latency, quantile) for quantile in QUANTILES}
    ours, *peers = outcomes
    found: dict[str, dict[str, dict[str, float]]] = {}
    for peer in peers:
        for name, measure in measures.items():
            # Of rounds that both have had, should it have been interrupted.
            pairs = [(measure(mine), measure(theirs)) for mine, theirs in zip(ours.samples, peer.samples, strict=False)]
            quotients = [mine / theirs for mine, theirs in pairs if theirs]
            if quotients:
                spread = {"median": float(np.median(quotients)), "min": min(quotients), "max": max(quotients)}
                found.setdefault(peer.contender.name, {})[name] = spread
    return found
