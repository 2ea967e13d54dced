"""`ovengine bench`: throughput and latency, and how they compare with OpenVINO's own ways."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ovengine import _core
from ovengine._load_generator import (
    Contender,
    Inputs,
    Ovengine,
    Sample,
    default_window,
    difference,
    make_data,
    open_loop,
)
from ovengine.cli import _streams
from ovengine.cli._contenders import CompiledModelCall, InferQueue
from ovengine.cli._options import (
    add_model_options,
    at_least,
    load_model,
    openvino_properties,
    parse_shapes,
    positive,
)
from ovengine.cli._progress import Progress
from ovengine.errors import ConfigError, InferenceError

if TYPE_CHECKING:
    from ovengine.plan import Plan

WARM_UP_S = 0.5
QUANTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0}
TOLERANCE = 0.05
"""Of the largest magnitude of an output: what bf16 and another batch size may change."""


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], parents: list[argparse.ArgumentParser]
) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "bench",
        help="measure throughput and latency",
        description="Measure a model under load. Closed loop: a number of clients, each with one request under way at "
        "all times. Open loop (--rate): requests arrive at a rate whatever the answers do, and latency counts from "
        "the arrival. Options are named as in OpenVINO's benchmark_app where it has them.",
        parents=parents,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    add_model_options(parser)
    load = parser.add_argument_group("load")
    load.add_argument(
        "-t",
        "--seconds",
        type=positive,
        default=10.0,
        metavar="S",
        help="measuring time of each contender (default 10)",
    )
    load.add_argument(
        "--rounds", type=at_least(1), default=5, metavar="N", help="parts of it, taken in turns (default 5)"
    )
    load.add_argument("-b", "--batch", type=at_least(1), default=1, metavar="ROWS", help="rows per request (default 1)")
    load.add_argument("-data_shape", metavar="SHAPE", type=parse_shapes, help="of the data, for dynamic dimensions")
    load.add_argument(
        "-nireq",
        "--clients",
        type=at_least(1),
        metavar="N",
        help="clients of the closed loop (default: enough to fill all lanes); infer requests of AsyncInferQueue",
    )
    load.add_argument(
        "-api",
        choices=["async", "sync"],
        default="async",
        help="clients submit from one thread (default), or block in one thread each",
    )
    load.add_argument("--rate", type=positive, metavar="R", help="open loop with R requests a second")
    load.add_argument(
        "--arrivals", choices=["poisson", "constant"], default="poisson", help="of the open loop (default poisson)"
    )
    load.add_argument("--seed", type=int, default=0, help="of data and arrivals (default 0)")
    compare = parser.add_argument_group("comparison and report")
    compare.add_argument("--compare", action="store_true", help="beside AsyncInferQueue, BATCH: and compiled_model()")
    compare.add_argument(
        "--batch-timeout-ms", type=at_least(0), default=1, metavar="MS", help="AUTO_BATCH_TIMEOUT of BATCH: (default 1)"
    )
    compare.add_argument("--json", action="store_true", help="report as JSON")
    compare.add_argument("--plot", type=Path, metavar="FILE.png", help="draw throughput and latencies")


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

    def latencies_ms(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Latencies of all rounds."""
        return np.concatenate([sample.latencies_ns for sample in self.samples]) / 1e6

    def report(self, rows_per_request: int) -> dict[str, Any]:
        """What `--json` prints of it."""
        latencies = self.latencies_ms()
        latency = {name: float(np.percentile(latencies, q)) for name, q in QUANTILES.items()} if len(latencies) else {}
        if len(latencies):
            latency |= {"mean": float(latencies.mean()), "max": float(latencies.max())}
        rate = float(np.median(self.rates))
        return {
            "name": self.contender.name,
            "detail": self.contender.detail,
            "requests": sum(sample.requests for sample in self.samples),
            "refused": sum(sample.refused for sample in self.samples),
            "requests_per_s": rate,
            "requests_per_s_rounds": self.rates,
            "rows_per_s": rate * rows_per_request,
            "rows_per_batch": self.rows / self.batches if self.batches else None,
            "latency_ms": latency,
        }


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    draw = _plotter(args.plot) if args.plot else None
    with ExitStack() as stack:
        progress = stack.enter_context(Progress())
        model = stack.enter_context(load_model(args, progress))
        model.wait_ready()
        plan = model.plan
        data = make_data(plan, args.batch, args.data_shape, args.seed)
        clients = args.clients or max(1, default_window(plan) // args.batch)
        if args.api == "sync" and not args.clients:
            clients = 1
        contenders: list[Contender] = [Ovengine(model, clients, blocking=args.api == "sync")]
        skipped: dict[str, str] = {}
        if args.compare:
            peers, skipped = make_peers(args, plan, data[0], clients)
            contenders += peers
        largest_difference = check_answers(contenders, data)
        outcomes = measure(contenders, data, args)
    report = {
        "model": str(args.model),
        "openvino": _core.openvino_version,
        "precision": list(plan.precision),
        "load": _load(args, clients),
        "results": [outcome.report(args.batch) for outcome in outcomes],
        "ratios": ratios(outcomes, open_loop=args.rate is not None),
        "skipped": skipped,
        "largest_difference": largest_difference,
    }
    _streams.write(json.dumps(report, indent=2) if args.json else _text(report, plan))
    if draw is not None:
        draw(outcomes)
    return 0


def _load(args: argparse.Namespace, clients: int) -> dict[str, Any]:
    common = {"rows_per_request": args.batch, "rounds": args.rounds, "seconds": args.seconds}
    if args.rate:
        return {"loop": "open", "rate": args.rate, "arrivals": args.arrivals} | common
    return {"loop": "closed", "clients": clients, "api": args.api} | common


def make_peers(
    args: argparse.Namespace, plan: Plan, inputs: Inputs, clients: int
) -> tuple[list[Contender], dict[str, str]]:
    """Make OpenVINO's own ways to run the same requests, and tell why one cannot."""
    import openvino as ov

    device = _concrete(args.device, plan)
    properties = openvino_properties(args)
    hint = {"PERFORMANCE_HINT": plan.hint.value}
    core = ov.Core()
    blob = Path(args.model).suffix == ".blob"
    latency = {"PERFORMANCE_HINT": "LATENCY"}
    if blob:
        exported = Path(args.model).read_bytes()
        compiled = core.import_model(exported, plan.devices[0].device, properties)
        lone = compiled
    else:
        model = core.read_model(args.model)
        if args.shape:
            model.reshape(args.shape)
        if plan.mode == "rows":
            model.reshape({name: array.shape for name, array in inputs.items()})
        compiled = core.compile_model(model, device, hint | properties)
        lone = core.compile_model(model, device, latency | properties)
    callers = clients if args.api == "sync" else 1
    peers: list[Contender] = [
        InferQueue("AsyncInferQueue", compiled, args.clients or 0),
        CompiledModelCall(lone, callers),
    ]
    size = args.max_batch_size or 16
    name = f"BATCH:{device}({size})"
    refusal = _no_batch_device(args, plan, blob)
    if refusal:
        return peers, {name: refusal}
    batching = {"AUTO_BATCH_TIMEOUT": str(args.batch_timeout_ms)}
    try:
        batched = core.compile_model(model, name, hint | batching | properties)
        peers.insert(
            1, InferQueue(name, batched, max(args.clients or 0, 2 * size), f"timeout {args.batch_timeout_ms} ms")
        )
    except RuntimeError as error:
        return peers, {name: " ".join(str(error).split())}
    return peers, {}


def _concrete(device: str, plan: Plan) -> str:
    """The device that ovengine runs on: AUTO costs its own time, and `BATCH:AUTO` is none that OpenVINO knows."""
    chosen = {lane.device for lane in plan.lanes}
    return chosen.pop() if len(chosen) == 1 and device.upper().split(":")[0] == "AUTO" else device


def _no_batch_device(args: argparse.Namespace, plan: Plan, blob: bool) -> str | None:
    if blob:
        return "a blob cannot be batched after it was compiled"
    if plan.mode != "rows":
        return f"the model takes no rows (mode {plan.mode})"
    if args.batch > 1:
        return "it batches requests of one row only"
    return None


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


def measure(contenders: Sequence[Contender], data: Sequence[Inputs], args: argparse.Namespace) -> list[Outcome]:
    """Warm everybody up, then take the rounds in turns, so that a drift of the machine hits all alike."""
    outcomes = [Outcome(contender) for contender in contenders]
    seconds = args.seconds / args.rounds

    def once(contender: Contender, seconds: float, seed: int) -> Sample:
        if args.rate:
            poisson = args.arrivals == "poisson"
            return open_loop(contender, data, args.rate, poisson=poisson, seconds=seconds, seed=seed)
        return contender.closed_loop(data, seconds)

    for contender in contenders:
        once(contender, min(WARM_UP_S, seconds), args.seed)
    for round_ in range(args.rounds):
        # Everybody sees the same arrivals in a round; who begins changes from round to round.
        start = round_ % len(outcomes)
        for outcome in outcomes[start:] + outcomes[:start]:
            before = outcome.contender.batches()
            sample = once(outcome.contender, seconds, args.seed + 1 + round_)
            outcome.add(sample, before, outcome.contender.batches())
    return outcomes


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
        measures = {name: partial(latency, quantile) for name, quantile in QUANTILES.items()}
    ours, *peers = outcomes
    found: dict[str, dict[str, dict[str, float]]] = {}
    for peer in peers:
        for name, measure in measures.items():
            pairs = [(measure(mine), measure(theirs)) for mine, theirs in zip(ours.samples, peer.samples, strict=True)]
            quotients = [mine / theirs for mine, theirs in pairs if theirs]
            if quotients:
                spread = {"median": float(np.median(quotients)), "min": min(quotients), "max": max(quotients)}
                found.setdefault(peer.contender.name, {})[name] = spread
    return found


def _text(report: dict[str, Any], plan: Plan) -> str:
    load = report["load"]
    loop = (
        f"open loop, {load['rate']:g} requests/s ({load['arrivals']})"
        if load["loop"] == "open"
        else f"closed loop, {load['clients']} client{'s' if load['clients'] > 1 else ''} ({load['api']})"
    )
    lines = [
        str(plan),
        "",
        f"{loop}; rows per request: {load['rows_per_request']}; {load['rounds']} rounds in {load['seconds']:g} s each",
        "",
        f"{'':44}{'requests/s':>11}  {'min-max':>17}{'rows/batch':>12}{'p50 ms':>9}{'p90':>9}{'p99':>9}{'max':>9}",
    ]
    for result in report["results"]:
        rounds = result["requests_per_s_rounds"]
        label = result["name"] + (f" ({result['detail']})" if result["detail"] else "")
        rows = f"{result['rows_per_batch']:.1f}" if result["rows_per_batch"] else ""
        latency = result["latency_ms"]
        times = "".join(f"{latency.get(name, float('nan')):9.3f}" for name in (*QUANTILES, "max"))
        spread = f"{min(rounds):.0f}-{max(rounds):.0f}"
        lines.append(f"{label:44}{result['requests_per_s']:11.0f}  {spread:>17}{rows:>12}{times}")
        if result["refused"]:
            lines.append(f"  refused: {result['refused']} of {result['refused'] + result['requests']}")
    if report["ratios"]:
        lines.append("")
        for name, measures in report["ratios"].items():
            parts = (f"{what} {r['median']:.2f} x ({r['min']:.2f}-{r['max']:.2f})" for what, r in measures.items())
            lines.append(f"ovengine / {name}: {', '.join(parts)}")
    lines += [f"{name}: left out, {reason}" for name, reason in report["skipped"].items()]
    return "\n".join(lines)


def _plotter(path: Path) -> Callable[[Sequence[Outcome]], None]:
    """The function that draws; found first, so that what is missing shows before the measuring, not after."""
    if not path.parent.is_dir():
        raise ConfigError(f"cannot write {path}: there is no directory {path.parent}")
    from ovengine.cli._plot import draw

    return lambda outcomes: draw(path, outcomes)
