"""`ovengine bench`: throughput and latency, and how they compare with OpenVINO's own ways."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovengine._load_generator import Contender, Ovengine, default_window
from ovengine.cli import _layers, _streams
from ovengine.cli._app_report import AppReport
from ovengine.cli._bench_data import bench_data, mean_rows
from ovengine.cli._bench_options import DESCRIPTION, EPILOG, NOT_TAKEN, add_options, check
from ovengine.cli._bench_report import as_json, as_text, execution_results
from ovengine.cli._config_files import Settings, settings
from ovengine.cli._files import check_writable
from ovengine.cli._measuring import Load, Outcome, check_answers, measure
from ovengine.cli._model_source import ModelSource, load_from_file, load_model
from ovengine.cli._parser import EXIT_STATUS
from ovengine.cli._peers import PlainOpenVino
from ovengine.cli._progress import Progress
from ovengine.cli._tables import wrapped

if TYPE_CHECKING:
    from ovengine.cli._parser import Parser
    from ovengine.model import Model
    from ovengine.plan import Plan


def add_command(commands: argparse._SubParsersAction[Parser], parents: list[Parser]) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "bench",
        help="measure throughput and latency",
        usage="ovengine bench -m MODEL [options]",
        description=DESCRIPTION,
        epilog=EPILOG + EXIT_STATUS,
        parents=parents,
    )
    parser.set_defaults(run=run, parser=parser)
    parser.not_taken = NOT_TAKEN
    add_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    check(args)
    report = _app_report(args)
    check_writable(_files_to_write(args, report))
    draw = _plotter(args.plot) if args.plot else None
    asked = _settings(args)
    source = ModelSource(args)
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(quiet=args.quiet))
        began = time.perf_counter()
        if args.from_file:
            model = load_from_file(source, asked, args.clients or 0, progress)
        else:
            model = load_model(source, asked, args, progress)
        # Nothing is in flight when all went well, and nobody waits for it when not.
        stack.callback(model.close, 0)
        progress.stage("compiling batch sizes")
        model.wait_ready()
        load_ms = (time.perf_counter() - began) * 1e3
        if args.dump_config:
            asked.dump(args.dump_config)
        if args.requests == 0:
            return _show_load(args, model.plan, load_ms)
        bench = _Bench(args, asked, source, model, progress)
        outcomes, interrupted = measure(bench.contenders, bench.data, bench.load, progress)
        if not outcomes:
            raise KeyboardInterrupt
        layers = [] if interrupted else bench.layers()
    found = bench.report(outcomes, interrupted=interrupted) | {"load_ms": load_ms}
    if args.json:
        _streams.write(json.dumps(found | bench.layers_json(layers), indent=2))
    else:
        _streams.write(
            "\n".join([as_text(found, model.plan, bench.load, args.latency_percentile), *bench.layers_text(layers)])
        )
    if report is not None:
        report.write(args.command_line, bench.setup(), execution_results(found, args.latency_percentile), layers)
    if draw is not None:
        draw(outcomes)
    if interrupted:
        _streams.say("interrupted; what is shown was measured before")
    return 130 if interrupted else 0


class _Bench:
    """One model under one load: who takes part, with which data."""

    def __init__(
        self, args: argparse.Namespace, asked: Settings, source: ModelSource, model: Model, progress: Progress
    ) -> None:
        self._args = args
        self._plan = plan = model.plan
        self._device = asked.device
        self.data = bench_data(args, plan)
        rows = mean_rows(self.data, plan)
        clients = args.clients or (1 if args.api == "sync" else max(1, default_window(plan) // round(rows)))
        self.load = Load.of(args, clients, rows)
        self.contenders: list[Contender] = [Ovengine(model, clients, blocking=args.api == "sync")]
        self._skipped: dict[str, str] = {}
        self._openvino: PlainOpenVino | None = None
        if args.compare or _wants_layers(args):
            progress.stage("compiling with plain OpenVINO")
            self._openvino = PlainOpenVino(args, source, asked, plan)
        if args.compare and self._openvino is not None:
            peers, self._skipped = self._openvino.contenders(self.data[0], clients)
            self.contenders += peers
        progress.stage("comparing answers")
        self._largest_difference = check_answers(self.contenders, self.data)

    def report(self, outcomes: Sequence[Outcome], *, interrupted: bool) -> dict[str, Any]:
        """What `--json` prints, layers excepted."""
        return as_json(
            str(self._args.model),
            self._plan,
            self.load,
            outcomes,
            percentile=self._args.latency_percentile,
            skipped=self._skipped,
            largest_difference=self._largest_difference,
            interrupted=interrupted,
        )

    def setup(self) -> dict[str, Any]:
        """Of benchmark_app's report: what was run, and how."""
        load, plan = self.load, self._plan
        lanes = {f"number of {device.device} streams": device.lanes for device in plan.devices}
        return {
            "topology": plan.name,
            "target device": self._device,
            "API": load.api,
            "inference_only": False,
            "precision": ", ".join(plan.precision),
            "batch size": f"{load.rows:g}",
            "number of iterations": load.requests or "",
            "number of parallel infer requests": load.clients,
            "duration (ms)": load.seconds * 1e3,
            **lanes,
        }

    def layers(self) -> list[list[_layers.Layer]]:
        """Of a few inferences, if any option asks for them."""
        if self._openvino is None or not _wants_layers(self._args):
            return []
        return self._openvino.layers(self.data[0], self._plan.ladder[-1], self._args.exec_graph_path)

    def layers_json(self, layers: list[list[_layers.Layer]]) -> dict[str, Any]:
        """For `--json`."""
        shown = self._shown(layers)
        return {"layers": [asdict(layer) for layer in shown]} if shown else {}

    def layers_text(self, layers: list[list[_layers.Layer]]) -> list[str]:
        """For people."""
        shown = self._shown(layers)
        rows = self._plan.ladder[-1] if self._plan.mode == "rows" else self.load.rows
        return ["", _layers.as_text(shown, rows)] if shown else []

    def _shown(self, layers: list[list[_layers.Layer]]) -> list[_layers.Layer]:
        if not layers or not (self._args.pc or self._args.pcsort):
            return []
        return _layers.in_order(_layers.average(layers), self._args.pcsort)


def _wants_layers(args: argparse.Namespace) -> bool:
    counters = args.report_type in ("average_counters", "detailed_counters")
    return bool(args.pc or args.pcsort or args.exec_graph_path or counters)


def _settings(args: argparse.Namespace) -> Settings:
    """Also what the options do not say: the hint by the API, or the API by the hint."""
    asked = settings(args)
    if args.api is None:
        args.api = "sync" if asked.hint == "latency" else "async"
    hint = asked.hint or ("latency" if args.api == "sync" and (args.clients or 1) == 1 else "throughput")
    config = dict(asked.config)
    if args.clients and (args.batch or 1) == 1 and not args.data_shape:
        # As benchmark_app does. Rows of larger requests are more in number.
        config.setdefault("PERFORMANCE_HINT_NUM_REQUESTS", str(args.clients))
    return replace(asked, hint=hint, config=config)


def _show_load(args: argparse.Namespace, plan: Plan, load_ms: float) -> int:
    """`-niter 0`."""
    if args.json:
        _streams.write(json.dumps({"model": str(args.model), "load_ms": load_ms, "plan": str(plan)}, indent=2))
    else:
        _streams.write(f"{wrapped(str(plan))}\n\nloaded in {load_ms:.0f} ms; nothing measured (-niter 0)")
    return 0


def _app_report(args: argparse.Namespace) -> AppReport | None:
    if not args.report_type:
        return None
    return AppReport(args.report_folder or Path(), args.report_type, as_json=args.json_stats, order=args.pcsort)


def _files_to_write(args: argparse.Namespace, report: AppReport | None) -> list[Path]:
    graph = args.exec_graph_path
    single = [args.plot, args.dump_config, graph, graph and graph.with_suffix(".bin")]
    return [*filter(None, single), *(report.paths if report is not None else ())]


def _plotter(path: Path) -> Callable[[Sequence[Outcome]], None]:
    """The function that draws; found first, so that what is missing shows before the measuring, not after."""
    from ovengine.cli._plot import draw

    return lambda outcomes: draw(path, outcomes)
