"""The options of `ovengine bench`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ovengine.cli import _types
from ovengine.cli._options import add_engine_options, add_preprocessing_options, add_source_options
from ovengine.cli._pictures import add_image_options

SECONDS = 10.0

NOT_TAKEN = {
    "-pcseq": "the shapes of a -data_shape sequence share one figure here; measure one shape at a time",
    "--pcseq": "the shapes of a -data_shape sequence share one figure here; measure one shape at a time",
    "-c": "kernels of your own for a GPU are given by --config CONFIG_FILE=FILE.xml",
    "--path_to_cldnn_config": "kernels of your own for a GPU are given by --config CONFIG_FILE=FILE.xml",
}

DESCRIPTION = """\
Measure throughput and latency of a model under load.

Closed loop: a number of clients, each with one request under way at all times.
Open loop (--rate): requests arrive at a rate whatever the answers do, and latency counts from the arrival.\
"""

EPILOG = """\
Options that OpenVINO's benchmark_app has, too, mean the same here, except:
  -d        defaults to AUTO
  -t        is the time of each contender, and defaults to 10 s
  -b        is the number of rows in a request; the engine chooses the sizes that it compiles, and may run rows of \
several requests together
  -nireq    with -api sync is the number of threads
  -niter    is not rounded up to a multiple of -nireq
  -nstreams, -nthreads and -pin do not need -hint none
  -i        reads pictures as RGB (--bgr swaps), and leaves the input's type alone (-ip u8 changes it)
  -pc       looks at single inferences after the measurement
Inputs are copied for each request, as with benchmark_app's -inference_only false.

example:
  ovengine bench -m model.xml -t 10 --compare
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add all of them."""
    add_source_options(parser)
    _add_load_options(parser.add_argument_group("load"))
    _add_data_options(parser.add_argument_group("data"))
    _add_report_options(parser.add_argument_group("report"))
    add_preprocessing_options(parser)
    add_image_options(parser)
    add_engine_options(parser)


def _add_load_options(load: argparse._ArgumentGroup) -> None:
    load.add_argument(
        "-t",
        "--time",
        "--seconds",
        dest="seconds",
        type=_types.positive,
        metavar="S",
        help=f"measuring time of each contender (default {SECONDS:g})",
    )
    load.add_argument(
        "-niter",
        "--number_iterations",
        dest="requests",
        type=_types.at_least(0),
        metavar="N",
        help="number of requests, instead of -t or besides; 0 loads the model and measures nothing",
    )
    load.add_argument(
        "--rounds", type=_types.at_least(1), default=5, metavar="N", help="parts of it, taken in turns (default 5)"
    )
    load.add_argument(
        "-b",
        "--batch",
        "--batch_size",
        dest="batch",
        type=_types.at_least(1),
        metavar="ROWS",
        help="rows of a request (default 1, or as -data_shape has them)",
    )
    load.add_argument(
        "-nireq",
        "--number_infer_requests",
        "--clients",
        dest="clients",
        type=_types.at_least(1),
        metavar="N",
        help="requests in flight, of each contender (default: enough to fill all lanes; 1 with -api sync)",
    )
    load.add_argument(
        "-api",
        "--api_type",
        dest="api",
        choices=["async", "sync"],
        help="submit from one thread, or block in one thread each (default async; sync with -hint latency)",
    )
    rates = load.add_mutually_exclusive_group()
    rates.add_argument(
        "-max_irate",
        "--maximum_inference_rate",
        dest="max_rows_per_s",
        type=_types.number,
        default=0.0,
        metavar="R",
        help="closed loop that starts no more than R rows a second; 0 is no limit",
    )
    rates.add_argument("--rate", type=_types.positive, metavar="R", help="open loop with R requests a second")
    load.add_argument(
        "--arrivals", choices=["poisson", "constant"], default="poisson", help="of the open loop (default poisson)"
    )
    load.add_argument("-no_warmup", action="store_true", help="do not run the contenders before they are measured")
    load.add_argument(
        "-inference_only",
        "--inference_only",
        type=_types.boolean,
        nargs="?",
        const=True,
        default=False,
        metavar="no",
        help="only `no` is taken: each request brings its inputs",
    )
    load.add_argument("--compare", action="store_true", help="beside AsyncInferQueue, BATCH: and compiled_model()")
    load.add_argument(
        "--batch-timeout-ms",
        type=_types.at_least(0),
        default=1,
        metavar="MS",
        help="AUTO_BATCH_TIMEOUT of BATCH: (default 1)",
    )
    load.add_argument(
        "-lfile",
        "--load_from_file",
        dest="from_file",
        action="store_true",
        help="let OpenVINO compile the file as it is; the engine then knows no graph, and makes no batches",
    )


def _add_data_options(data: argparse._ArgumentGroup) -> None:
    data.add_argument(
        "-i",
        "--input",
        "--paths_to_input",
        dest="input",
        metavar="INPUT",
        nargs="+",
        action="extend",
        help="pictures, .npy, .npz, .bin, or folders of these, also NAME:FILE,NAME:FILE (default: random numbers)",
    )
    data.add_argument(
        "-data_shape",
        metavar="SHAPE",
        type=_types.data_shapes,
        default=[],
        help="of random numbers, for dynamic dimensions; several take turns: '[1,3,64,64][1,3,96,96]'",
    )
    data.add_argument("--seed", type=int, default=0, help="of data and arrivals (default 0)")


def _add_report_options(report: argparse._ArgumentGroup) -> None:
    report.add_argument("--json", action="store_true", help="report as JSON")
    report.add_argument("-q", "--quiet", action="store_true", help="no progress")
    report.add_argument(
        "-latency_percentile",
        "--latency_percentile",
        type=_types.within(1, 100),
        default=50,
        metavar="P",
        help="also show this percentile of latency (default 50)",
    )
    report.add_argument("--plot", type=Path, metavar="FILE.png", help="draw throughput and latencies")
    report.add_argument(
        "-report_type",
        "--report_type",
        choices=["no_counters", "average_counters", "detailed_counters"],
        metavar="TYPE",
        help="write benchmark_app's report files about ovengine: no_counters, average_counters or detailed_counters",
    )
    report.add_argument(
        "-report_folder", "--report_folder", type=Path, metavar="DIR", help="for these (default: the current folder)"
    )
    report.add_argument(
        "-json_stats",
        "--json_stats",
        type=_types.boolean,
        nargs="?",
        const=True,
        default=False,
        metavar="yes",
        help="report files as JSON instead of CSV",
    )
    report.add_argument(
        "-pc",
        "--perf_counts",
        dest="pc",
        type=_types.boolean,
        nargs="?",
        const=True,
        default=False,
        metavar="yes",
        help="show the time of each layer",
    )
    report.add_argument(
        "-pcsort",
        "--perf_counts_sort",
        dest="pcsort",
        choices=["no_sort", "sort", "simple_sort"],
        metavar="ORDER",
        help="the same in the model's order (no_sort), the slowest first (sort), or only those that ran (simple_sort)",
    )
    report.add_argument(
        "-exec_graph_path", "--exec_graph_path", type=Path, metavar="FILE.xml", help="write the graph that is executed"
    )
    report.add_argument(
        "-dump_config", type=Path, metavar="FILE.json", help="write device and properties, for -load_config"
    )


def check(args: argparse.Namespace) -> None:
    """What argparse cannot see: options that do not go together. Ends with wrong usage."""
    if args.inference_only:
        args.parser.error("-inference_only: each request brings its inputs here; drop the option, or say `no`")
    if not args.report_type and (args.report_folder or args.json_stats):
        args.parser.error("-report_folder and -json_stats need -report_type")
    if args.rate and args.clients:
        args.parser.error("--rate: in an open loop the number of requests in flight is not given; drop -nireq")
    if args.input and args.data_shape:
        args.parser.error("-data_shape is of random numbers; drop it, or -i")
    if args.from_file and (args.shape or args.loader or args.profile or args.batch):
        args.parser.error("-lfile takes the file as it is; drop -shape, -b, --loader and --profile")
