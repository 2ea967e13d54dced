"""`python -m bench.healing`: how fast a model serves whose kept costs are wrong, beside one whose costs are right.

A first load on a busy machine may keep any figure. So kept costs are multiplied by factors from 0.25 to 4, each size
alone and all of them at random. The batch sizes follow from these costs. A model is loaded with them, serves for five
seconds, and then takes turns with one that has the right costs and with the best AsyncInferQueue, with as many requests
in flight.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

import models
import ovengine
from bench import work
from bench.contenders import Contender, InferQueue, Ovengine
from bench.rounds import Spread, best, order, passes_in, us_of
from bench.stolen import undisturbed
from bench.work import PROPERTIES, Work

TARGET = 0.97
"""Of the speed with the right costs, and of the best AsyncInferQueue."""
CLIENTS = (2, 4, 64)
QUICK_CLIENTS = (2, 64)
FACTORS = (0.25, 4.0)
MODELS: Mapping[str, Callable[[], Work]] = {
    "tiny": partial(work.mlp, "tiny MLP 16-16-4", models.TINY_MLP, 256),
    "mlp": partial(work.mlp, "MLP 256-1024-1024-64", models.MLP, 256),
    "resnet50": work.resnet50,
    "magika": work.magika,
    "text-direction": work.text_direction,
    "silero-vad": work.silero_vad,
}

QUICK_MODELS = ("tiny", "mlp", "magika")

Say = Callable[[str], None]
Factors = Mapping[int, float]
"""By batch size: what its cost is multiplied by."""


@dataclass(frozen=True)
class Effort:
    """How long things take."""

    served_seconds: float = 5.0
    """Of load, before anything is compared."""
    rounds: int = 5
    seconds: float = 0.3
    """Of one turn."""


@dataclass(frozen=True)
class Outcome:
    """One model with wrong costs: how fast it was in the end, as ratios of speed."""

    work: str
    clients: int
    factors: Factors
    at_first: float
    """Beside the right costs, in the first moment."""
    clean: Spread
    queue: Spread
    ladder: tuple[int, ...]

    def __str__(self) -> str:
        factors = " ".join(f"{size}:{factor:.2g}" for size, factor in self.factors.items())
        spread = f"{self.clean.lower:.2f} - {self.clean.upper:.2f}"
        ratios = f"right costs {self.clean.median:.3f} ({spread}), queue {self.queue.median:.3f}"
        return f"{factors}: at first {self.at_first:.2f}, then beside {ratios}; ladder {self.ladder}"

    @property
    def reached(self) -> bool:
        """Whether both medians are where they should be."""
        return min(self.clean.median, self.queue.median) >= TARGET


class InFlight(Ovengine):
    """So many requests in flight from one thread, the oldest result first."""

    def __init__(self, work: Work, clients: int, cache: Path) -> None:
        self._clients = clients
        super().__init__(work, f"submit/result, {clients} in flight", cache_dir=cache)

    def make_model(self, options: Mapping[str, Any]) -> ovengine.Model:
        return ovengine.load(self.work.model, config=PROPERTIES, **options)

    def run(self, passes: int) -> None:
        submit, answers, inputs = self.model.submit, self.answers, self.work.inputs
        pending: deque[tuple[int, ovengine.Future]] = deque()
        for _ in range(passes):
            for i, x in enumerate(inputs):
                if len(pending) == self._clients:
                    index, future = pending.popleft()
                    answers[index] = future.result()[0]
                pending.append((i, submit(x)))
        for index, future in pending:
            answers[index] = future.result()[0]

    def serve(self, seconds: float, passes: int) -> None:
        """For about so long, with pauses after so many passes."""
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            self.run(passes)


class QueueInFlight(InferQueue):
    """AsyncInferQueue with no more requests in flight than that."""

    def __init__(self, work: Work, clients: int, streams: int) -> None:
        super().__init__(work, {"NUM_STREAMS": str(streams)}, nireq=clients, share_inputs=True)


def best_queue(of: Work, clients: int, seconds: float, tell: Say) -> Contender:
    """The fastest of them, in runs of so many seconds."""
    candidates = [
        partial(QueueInFlight, of, requests, streams)
        for streams in (1, 2)
        for requests in sorted({min(clients, most) for most in (2, 4, 8)})
    ]
    return best(candidates, seconds, tell)()


def costs_file(cache: Path) -> Path:
    """Where the costs of the only model are kept."""
    (found,) = (cache / "cost").glob("*.json")
    return found


def kept_sizes(cache: Path) -> list[int]:
    """The batch sizes whose costs are kept."""
    return sorted(int(size) for size in json.loads(costs_file(cache).read_text())["value"]["seconds"])


def spoil(cache: Path, factors: Factors) -> None:
    """Multiply kept costs, as if a first load had measured them; the choice of batch sizes will follow from them."""
    file = costs_file(cache)
    entry = json.loads(file.read_text())
    seconds = entry["value"]["seconds"]
    entry["value"]["seconds"] = {size: kept * factors.get(int(size), 1.0) for size, kept in seconds.items()}
    entry["value"] |= {"before": {}, "plans": {}}
    file.write_text(json.dumps(entry))


def spoilings(sizes: Sequence[int], seed: int) -> Iterator[Factors]:
    """All sizes at random; each size alone, and again all at random, for ever."""
    low, high = np.log2(FACTORS)
    rng = np.random.default_rng(seed)

    def all_of_them() -> Factors:
        return {size: round(float(2 ** rng.uniform(low, high)), 2) for size in sizes}

    yield all_of_them()
    for size in sizes:
        for factor in FACTORS:
            yield {size: factor}
    while True:
        yield all_of_them()


def measure(
    make: Callable[[], Work],
    clients: int,
    wanted: Callable[[Sequence[int]], Iterable[Factors]],
    effort: Effort,
    tell: Say,
) -> Iterator[Outcome]:
    """What comes of each of the `wanted` factors, which are told the batch sizes of which costs are kept."""
    of = make()
    with tempfile.TemporaryDirectory() as folder:
        right = Path(folder) / "right"
        for _ in range(2):  # the second load adds what the first may have missed
            ovengine.load(of.model, config=PROPERTIES, cache_dir=right).wait_ready()
        with (
            closing(best_queue(of, clients, effort.seconds, lambda _: None)) as queue,
            closing(InFlight(of, clients, right)) as clean,
        ):
            passes = {"clean": passes_in(clean, effort.seconds), "queue": passes_in(queue, effort.seconds)}
            passes["healed"] = passes["clean"]
            clean.serve(effort.served_seconds, passes["clean"])
            tell(f"{of.name}, {clients} in flight: {clean.detail}; {queue.detail}")
            for number, factors in enumerate(wanted(kept_sizes(right))):
                wrong = Path(folder) / f"wrong-{number}"
                shutil.copytree(right, wrong)
                spoil(wrong, factors)
                with closing(InFlight(of, clients, wrong)) as healed:
                    at_first = us_of(clean, 1) / us_of(healed, 1)
                    healed.serve(effort.served_seconds, passes["healed"])
                    field: dict[str, Contender] = {"healed": healed, "clean": clean, "queue": queue}
                    turns = take_turns(field, passes, effort.rounds)
                    outcome = Outcome(
                        of.name,
                        clients,
                        factors,
                        at_first,
                        Spread.of([turn["clean"] / turn["healed"] for turn in turns]),
                        Spread.of([turn["queue"] / turn["healed"] for turn in turns]),
                        healed.model.plan.ladder,
                    )
                tell(f"   {outcome}")
                yield outcome


def take_turns(field: Mapping[str, Contender], passes: Mapping[str, int], rounds: int) -> list[Mapping[str, float]]:
    """Microseconds a request of each of them, round by round."""

    def take(index: int) -> Mapping[str, float]:
        return {key: us_of(field[key], passes[key]) for key in order(sorted(field), index)}

    return undisturbed(take, rounds).values


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.healing", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three models, 2 and 64 in flight, a few factors")
    parser.add_argument("--model", action="append", choices=list(MODELS))
    parser.add_argument("--clients", type=int, action="append", help="requests in flight")
    parser.add_argument("--count", type=int, help="how many sets of factors")
    parser.add_argument("--factors", help="this set alone, as in '1:4 4:0.25'")
    options = parser.parse_args()
    names = options.model or (QUICK_MODELS if options.quick else MODELS)
    in_flight = options.clients or (QUICK_CLIENTS if options.quick else CLIENTS)
    count = options.count or (3 if options.quick else 12)

    def wanted(sizes: Sequence[int]) -> Iterable[Factors]:
        if options.factors is None:
            return islice(spoilings(sizes, seed=1), count)
        pairs = (pair.split(":") for pair in options.factors.split())
        return [{int(size): float(factor) for size, factor in pairs}]

    tell = partial(print, file=sys.stderr, flush=True)
    outcomes = [
        outcome
        for name in names
        for clients in in_flight
        for outcome in measure(MODELS[name], clients, wanted, Effort(), tell)
    ]
    print(json.dumps([{**asdict(outcome), "reached": outcome.reached} for outcome in outcomes], indent=2))


if __name__ == "__main__":
    main()
