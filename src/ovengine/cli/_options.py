"""Options that several commands share, spelled as OpenVINO's benchmark_app spells them where it has them."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ovengine
from ovengine.cli._interrupts import interruptible
from ovengine.cli._progress import Progress
from ovengine.errors import ConfigError

if TYPE_CHECKING:
    from ovengine.config import Shapes

_ONE_SHAPE = re.compile(r"(?P<name>[^\[\],]*)\[(?P<dims>[^\[\]]*)\]\s*(?:,|$)")


PLUGIN_OPTIONS = {
    "loader": "--loader",
    "device_selector": "--device-selector",
    "batcher": "--batcher",
    "scheduler": "--scheduler",
}


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add what `load_model` reads."""
    add_source_options(parser)
    group = parser.add_argument_group("engine")
    group.add_argument("--profile", metavar="FILE", help="settings that `ovengine tune` found")
    group.add_argument("--max-batch-size", type=int, metavar="ROWS", help="most rows per inference (default: measured)")
    group.add_argument("--max-queue-delay-us", type=int, metavar="US", help="longest wait for a batch to fill")
    group.add_argument("--max-queue-size", type=int, metavar="N", help="requests that may wait; more are refused")
    group.add_argument("--memory-limit", metavar="SIZE", help="of all compiled models together, for example 512MB")
    add_plugin_options(group, *PLUGIN_OPTIONS)


def add_plugin_options(group: argparse._ArgumentGroup, *kinds: str) -> None:
    """Add options that pick a plugin of each kind by its name."""
    for kind in kinds:
        name = PLUGIN_OPTIONS[kind]
        group.add_argument(name, dest=kind, metavar="NAME", help="plugin to use, see `ovengine plugins`")


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which model runs where, with which OpenVINO properties."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "-m", "--model", metavar="MODEL", required=True, help="IR, ONNX, cached blob, or any other model OpenVINO reads"
    )
    group.add_argument("-d", "--device", default="AUTO", metavar="DEVICE", help="OpenVINO device (default AUTO)")
    group.add_argument(
        "-hint",
        "--hint",
        default="throughput",
        metavar="HINT",
        help="throughput (default), latency or cumulative_throughput",
    )
    group.add_argument(
        "-shape", metavar="SHAPE", type=parse_shapes, help="reshape the model: '[1,3,224,224]' or 'a[?,16],b[?,4]'"
    )
    group.add_argument("-nstreams", metavar="N", help="NUM_STREAMS")
    group.add_argument("-nthreads", metavar="N", help="INFERENCE_NUM_THREADS")
    group.add_argument("-infer_precision", metavar="TYPE", help="INFERENCE_PRECISION_HINT, for example f32")
    group.add_argument("-cdir", "--cache_dir", metavar="DIR", help="CACHE_DIR")
    group.add_argument(
        "--config",
        metavar="NAME=VALUE",
        action="append",
        type=_property,
        default=[],
        help="any other OpenVINO property; may be repeated",
    )


def openvino_properties(args: argparse.Namespace) -> dict[str, str]:
    """OpenVINO properties given on the command line, hint excepted."""
    named = {
        "NUM_STREAMS": args.nstreams,
        "INFERENCE_NUM_THREADS": args.nthreads,
        "INFERENCE_PRECISION_HINT": args.infer_precision,
        "CACHE_DIR": args.cache_dir,
    }
    return {name: value for name, value in named.items() if value is not None} | dict(args.config)


def load_model(args: argparse.Namespace, progress: Progress) -> ovengine.Model:
    """Load the model with the options of `add_model_options`; the caller closes it."""
    progress.stage(f"loading {args.model}")
    return interruptible(
        lambda: ovengine.load(
            Path(args.model),
            device=args.device,
            hint=args.hint,
            config=openvino_properties(args),
            shapes=args.shape,
            loader=args.loader,
            device_selector=args.device_selector,
            batcher=args.batcher,
            scheduler=args.scheduler,
            max_batch_size=args.max_batch_size,
            max_queue_delay_us=args.max_queue_delay_us,
            max_queue_size=args.max_queue_size,
            memory_limit=args.memory_limit,
            profile=args.profile,
        )
    )


def parse_shapes(text: str) -> Shapes:
    """Shapes as benchmark_app writes them: `[1,3,224,224]`, or `name[...],other[...]`; `?` or -1 is dynamic."""
    shapes: dict[str | int, tuple[int, ...]] = {}
    end = 0
    while match := _ONE_SHAPE.match(text, end):
        shapes[match["name"].strip()] = tuple(
            _dimension(part, text) for part in match["dims"].split(",") if part.strip()
        )
        end = match.end()
    if not shapes or end != len(text) or ("" in shapes and len(shapes) > 1):
        raise argparse.ArgumentTypeError(f"{text!r} is no shape; write '[1,3,224,224]' or 'a[1,16],b[1,4]'")
    return shapes.get("", shapes)


def _dimension(part: str, text: str) -> int:
    part = part.strip()
    if part == "?":
        return -1
    if not re.fullmatch(r"-1|\d+", part):
        raise argparse.ArgumentTypeError(f"{part!r} in {text!r} is no dimension; write a number, ? or -1")
    return int(part)


def _property(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def at_least(least: int) -> Any:
    """An argparse type: an integer not below `least`."""

    def integer(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is below {least}")
        return value

    return integer


def positive(text: str) -> float:
    """An argparse type: a number above zero."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return value


def missing_extra(package: str, extra: str, purpose: str) -> ConfigError:
    """The error for an optional dependency that is not installed."""
    return ConfigError(f"{purpose} needs {package}: pip install 'ovengine[{extra}]'")
