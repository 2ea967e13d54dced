"""Options that several commands share, spelled as OpenVINO's benchmark_app spells them where it has them."""

from __future__ import annotations

import argparse

from ovengine.cli import _types
from ovengine.errors import ConfigError

HINTS = {"tput": "throughput", "ctput": "cumulative_throughput"}
HINT_CHOICES = ("throughput", "tput", "latency", "cumulative_throughput", "ctput", "none")
PLUGIN_OPTIONS = {
    "loader": "--loader",
    "device_selector": "--device-selector",
    "batcher": "--batcher",
    "scheduler": "--scheduler",
}


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which model runs where, with which OpenVINO properties."""
    model = parser.add_argument_group("model")
    model.add_argument(
        "-m",
        "--model",
        "--path_to_model",
        metavar="MODEL",
        required=True,
        help="IR (.xml), ONNX, TensorFlow Lite, a cached blob, or any other model that OpenVINO reads",
    )
    model.add_argument(
        "-d", "--device", "--target_device", metavar="DEVICE", help="OpenVINO device (default AUTO; benchmark_app: CPU)"
    )
    model.add_argument(
        "-shape",
        metavar="SHAPE",
        type=_types.shapes,
        help="reshape the model: '[1,3,224,224]', 'a[?,16],b[?,4]', '[1..8,3,224,224]'",
    )
    properties = parser.add_argument_group("OpenVINO properties")
    properties.add_argument(
        "-hint",
        "--hint",
        "--perf_hint",
        choices=HINT_CHOICES,
        metavar="HINT",
        help="throughput (tput), latency, cumulative_throughput (ctput), or none: what OpenVINO does without a hint",
    )
    properties.add_argument(
        "-nstreams", "--number_streams", dest="nstreams", metavar="N", type=_types.one_value, help="NUM_STREAMS: lanes"
    )
    properties.add_argument(
        "-nthreads",
        "--number_threads",
        dest="nthreads",
        metavar="N",
        help="INFERENCE_NUM_THREADS, of all lanes",
    )
    properties.add_argument(
        "-pin", "--infer_threads_pinning", dest="pin", choices=["YES", "NO"], help="ENABLE_CPU_PINNING (default NO)"
    )
    properties.add_argument(
        "-infer_precision", metavar="TYPE", type=_types.one_value, help="INFERENCE_PRECISION_HINT, for example f32"
    )
    properties.add_argument("-cdir", "--cache_dir", metavar="DIR", help="CACHE_DIR: folder for compiled models")
    properties.add_argument(
        "--config",
        metavar="NAME=VALUE",
        action="append",
        type=_types.assignment,
        default=[],
        help="any other OpenVINO property; may be repeated",
    )
    properties.add_argument(
        "-load_config",
        metavar="FILE.json",
        help="properties by device, as benchmark_app reads them; options given here win",
    )


def add_preprocessing_options(parser: argparse.ArgumentParser) -> None:
    """Add what changes the model before it is loaded."""
    group = parser.add_argument_group("changes to the model")
    group.add_argument(
        "-extensions",
        "--extensions",
        metavar="LIBRARY",
        help="libraries with operators of your own, separated by commas",
    )
    group.add_argument(
        "-layout",
        "--layout",
        metavar="LAYOUT",
        type=_types.layouts,
        default={},
        help="meaning of the inputs' dimensions: '[NCHW]' or 'a[NCHW],b[NC]'; N is the batch",
    )
    group.add_argument(
        "-ip", "--input_precision", choices=_types.ELEMENT_TYPES, metavar="TYPE", help="element type of all inputs"
    )
    group.add_argument(
        "-op", "--output_precision", choices=_types.ELEMENT_TYPES, metavar="TYPE", help="element type of all outputs"
    )
    group.add_argument(
        "-iop",
        "--input_output_precision",
        metavar="NAME:TYPE,...",
        type=_types.element_types,
        default={},
        help="element types of single inputs and outputs",
    )
    group.add_argument(
        "--mean_values",
        metavar="[R,G,B]",
        type=_types.channel_values,
        default={},
        help="subtracted from the channels of an input, inside the model: '[R,G,B]' or 'a[R,G,B]'",
    )
    group.add_argument(
        "--scale_values",
        metavar="[R,G,B]",
        type=_types.channel_values,
        default={},
        help="divides the channels of an input, inside the model, after the mean",
    )


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Add what is ovengine's own."""
    group = parser.add_argument_group("engine")
    group.add_argument("--profile", metavar="FILE", help="settings that `ovengine tune` found")
    group.add_argument(
        "--max-batch-size", type=_types.at_least(1), metavar="ROWS", help="most rows per inference (default: measured)"
    )
    group.add_argument(
        "--max-queue-delay-us", type=_types.at_least(0), metavar="US", help="longest wait for a batch to fill"
    )
    group.add_argument(
        "--max-queue-size", type=_types.at_least(0), metavar="N", help="requests that may wait; more are refused"
    )
    group.add_argument("--memory-limit", metavar="SIZE", help="of all compiled models together, for example 512MB")
    add_plugin_options(group, *PLUGIN_OPTIONS)


def add_plugin_options(group: argparse._ArgumentGroup, *kinds: str) -> None:
    """Add options that pick a plugin of each kind by its name."""
    for kind in kinds:
        what = kind.replace("_", " ")
        group.add_argument(PLUGIN_OPTIONS[kind], dest=kind, metavar="NAME", help=f"{what}, of `ovengine plugins`")


def missing_extra(package: str, extra: str, purpose: str) -> ConfigError:
    """The error for an optional dependency that is not installed."""
    return ConfigError(f"{purpose} needs {package}: pip install 'ovengine[{extra}]'")
