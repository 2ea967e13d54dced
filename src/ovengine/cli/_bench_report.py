"""What `ovengine bench` shows in the end: a table for people, or JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ovengine import _core
from ovengine.cli._measuring import QUANTILES, Load, Outcome, ratios
from ovengine.cli._tables import table, wrapped

if TYPE_CHECKING:
    from ovengine.plan import Plan


def as_json(
    path: str,
    plan: Plan,
    load: Load,
    outcomes: Sequence[Outcome],
    *,
    percentile: int,
    skipped: Mapping[str, str],
    largest_difference: Mapping[str, float],
    interrupted: bool,
) -> dict[str, Any]:
    """All that was measured."""
    return {
        "model": path,
        "openvino": _core.openvino_version,
        "precision": list(plan.precision),
        "load": load.report(),
        "results": [outcome.report(load, percentile) for outcome in outcomes],
        "ratios": ratios(outcomes, open_loop=load.rate is not None) if outcomes else {},
        "skipped": dict(skipped),
        "largest_difference": dict(largest_difference),
        "interrupted": interrupted,
    }


def as_text(report: Mapping[str, Any], plan: Plan, load: Load, percentile: int) -> str:
    """The plan, a table of the contenders, and how they compare."""
    shown = sorted({QUANTILES[0], QUANTILES[-1], QUANTILES[1] if percentile in QUANTILES else percentile})
    latencies = [*(f"p{quantile}" for quantile in shown), "max"]
    header = [
        "",
        "requests/s",
        "p50 ms" if latencies[0] == "p50" else f"{latencies[0]} ms",
        *latencies[1:],
        "rows/batch",
    ]
    rows = []
    for result in report["results"]:
        times = (f"{result['latency_ms'][name]:.3f}" if result["latency_ms"] else "-" for name in latencies)
        batch = f"{result['rows_per_batch']:.1f}" if result["rows_per_batch"] else ""
        rows.append([result["name"], f"{result['requests_per_s']:.0f}", *times, batch])
    lines = [wrapped(str(plan)), "", wrapped(str(load)), "", table(header, rows, right=range(1, len(header))), ""]
    lines += [wrapped(_details(result)) for result in report["results"]]
    for name, measures in report["ratios"].items():
        parts = (f"{what} {r['median']:.2f} x ({r['min']:.2f}-{r['max']:.2f})" for what, r in measures.items())
        lines.append(wrapped(f"ovengine / {name}: {', '.join(parts)}"))
    lines += [wrapped(f"{name}: left out, {reason}") for name, reason in report["skipped"].items()]
    return "\n".join(lines)


def _details(result: Mapping[str, Any]) -> str:
    rounds = result["requests_per_s_rounds"]
    texts = [result["detail"]]
    if len(rounds) > 1:
        texts.append(f"rounds from {min(rounds):.0f} to {max(rounds):.0f} requests/s")
    if result["refused"]:
        texts.append(f"refused {result['refused']} of {result['refused'] + result['requests']}")
    return f"{result['name']}: {'; '.join(filter(None, texts))}"


def execution_results(report: Mapping[str, Any], percentile: int) -> dict[str, str]:
    """Of benchmark_app's report: about ovengine, by its names."""
    (ours, *_), load = report["results"], report["load"]
    latency = ours["latency_ms"]
    name = "latency (ms)" if percentile == 50 else f"latency ({percentile} percentile) (ms)"
    times = {
        name: latency.get(f"p{percentile}"),
        "avg latency": latency.get("mean"),
        "min latency": latency.get("min"),
        "max latency": latency.get("max"),
    }
    return {
        "load model time (ms)": f"{report['load_ms']:.2f}",
        "total execution time (ms)": f"{ours['seconds'] * 1e3:.2f}",
        "total number of iterations": str(ours["requests"]),
        **{key: f"{value:.2f}" for key, value in times.items() if value is not None},
        "throughput": f"{ours['requests'] * load['rows_per_request'] / ours['seconds']:.2f}",
    }
