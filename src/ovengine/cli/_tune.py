"""`ovengine tune`: which settings are best for a model on this machine."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ovengine
from ovengine.cli import _streams, _types
from ovengine.cli._config_files import settings
from ovengine.cli._files import Source, check_writable, find_sources
from ovengine.cli._inputs import Reader
from ovengine.cli._options import add_plugin_options, add_source_options
from ovengine.cli._parser import EXIT_STATUS, Parser
from ovengine.cli._pictures import add_image_options, image_options
from ovengine.cli._progress import Progress
from ovengine.cli._tables import table, wrapped
from ovengine.tuner import MOST_DATA, Interrupted
from ovengine.tuner._report import TEXT_HEADER, sentences, text_table

if TYPE_CHECKING:
    from ovengine.tuner import Tuning

SUFFIXES = {"profile": ".profile.json", "report": ".tune.html", "picture": ".tune.png"}


DESCRIPTION = """\
Find the best settings for a model on this machine: load it with different batch sizes, lanes, threads, delays and \
precisions, put each under load, and write a profile of the best for `load(profile=...)`, with a report. The defaults \
stay unless another setting is better by more than the measurements scatter.\
"""

EPILOG = """\
Exit status 1 also where nothing keeps --p99. Keep the machine free of other work meanwhile. After Ctrl-C, what was \
measured is reported all the same.

example:
  ovengine tune -m model.xml --p99 20 --data samples/
"""


def add_command(commands: argparse._SubParsersAction[Parser], parents: list[Parser]) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "tune",
        help="find the best settings for this machine",
        usage="ovengine tune -m MODEL [options]",
        description=DESCRIPTION,
        epilog=EPILOG + EXIT_STATUS,
        parents=parents,
    )
    parser.set_defaults(run=run, parser=parser)
    add_source_options(parser)
    goal = parser.add_argument_group("goal")
    goal.add_argument(
        "--p99",
        type=_types.positive,
        metavar="MS",
        help="limit of the 99th percentile of latency: tune for the load that keeps it, instead of throughput alone",
    )
    goal.add_argument(
        "--precision",
        choices=["keep", "any"],
        default="keep",
        help="any: also try the precisions that the device offers, where outputs agree with f32 (default keep)",
    )
    goal.add_argument(
        "--tolerance",
        type=_types.positive,
        default=0.01,
        metavar="X",
        help="deviation from f32 that counts as agreeing, relative to an output's largest value (default 0.01)",
    )
    goal.add_argument(
        "-t",
        "--time",
        "--seconds",
        dest="seconds",
        type=_types.positive,
        default=60.0,
        metavar="S",
        help="time for all of it (default 60)",
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "-i",
        "--data",
        "--input",
        dest="data",
        metavar="INPUT",
        nargs="+",
        action="extend",
        help=f"pictures, .npy, .npz, .bin or folders, the first {MOST_DATA} requests of them (default: random numbers)",
    )
    data.add_argument(
        "-data_shape", metavar="SHAPE", type=_types.data_shape, help="of random numbers, for dynamic dimensions"
    )
    data.add_argument(
        "-layout", "--layout", metavar="LAYOUT", type=_types.layouts, default={}, help="of pictures, such as '[NCHW]'"
    )
    add_image_options(parser)
    report = parser.add_argument_group("report")
    report.add_argument(
        "-o",
        "--output",
        metavar="PREFIX",
        type=Path,
        help="of the files: PREFIX.profile.json, PREFIX.tune.html, PREFIX.tune.png (default: the model's name)",
    )
    report.add_argument("--json", action="store_true", help="report as JSON")
    report.add_argument("-q", "--quiet", action="store_true", help="no progress")
    add_plugin_options(parser.add_argument_group("engine"), "loader", "device_selector", "scheduler")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    prefix = args.output or Path(Path(args.model).stem)
    check_writable([Path(f"{prefix}{suffix}") for suffix in SUFFIXES.values()])
    asked = settings(args)
    arguments: dict[str, Any] = {
        "device": asked.device,
        "hint": asked.engine_hint,
        "config": asked.config,
        "shapes": args.shape,
        "loader": args.loader,
        "device_selector": args.device_selector,
        "scheduler": args.scheduler,
    }
    sources = find_sources(args.data) if args.data else None
    interrupted = False
    with Progress(quiet=args.quiet) as progress:
        progress.stage(f"loading {Path(args.model).name}", 1.0)
        try:
            tuning = ovengine.tune(
                Path(args.model),
                p99_ms=args.p99,
                data=None if sources is None else _read(args, arguments, sources),
                data_shape=args.data_shape,
                seconds=args.seconds,
                precision=args.precision,
                tolerance=args.tolerance,
                progress=progress.update,
                **arguments,
            )
        except Interrupted as so_far:
            tuning, interrupted = so_far.result, True
    files = _write(tuning, prefix)
    if args.json:
        _streams.write(json.dumps(tuning.report() | {"files": files, "interrupted": interrupted}, indent=2))
    else:
        shown = table(TEXT_HEADER, text_table(tuning), right=range(len(TEXT_HEADER) - 1))
        listed = [f"{kind}: {path}" for kind, path in files.items()]
        _streams.write("\n".join([shown, "", *map(wrapped, sentences(tuning)), "", *listed]))
    if interrupted:
        _streams.say("interrupted; what is shown was measured before")
        return 130
    return 0 if tuning.meets_limit else 1


def _read(args: argparse.Namespace, arguments: Mapping[str, Any], sources: list[Source]) -> Iterator[Any]:
    """The requests of the files, which are read when the clock runs already."""
    with ovengine.load(Path(args.model), **arguments) as model:
        reader = Reader(model.plan, image_options(args))
    for request in chain.from_iterable(reader.read(source) for source in sources):
        yield request.inputs


def _write(tuning: Tuning, prefix: Path) -> dict[str, str]:
    """Write all files, and say which; no profile where nothing keeps the limit, or was compared."""
    files = {}
    if tuning.found.decided and tuning.meets_limit:
        files["profile"] = f"{prefix}{SUFFIXES['profile']}"
        tuning.profile.save(files["profile"])
    files["report"] = f"{prefix}{SUFFIXES['report']}"
    tuning.save_html(files["report"])
    try:
        import matplotlib.figure  # noqa: F401  # whether it is there
    except ImportError:
        _streams.say("no picture of the curves: pip install 'ovengine[plot]'")
        return files
    files["picture"] = f"{prefix}{SUFFIXES['picture']}"
    tuning.save_png(files["picture"])
    return files
