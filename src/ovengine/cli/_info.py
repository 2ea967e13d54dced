"""`ovengine info`: what a model takes and gives, what is in it, and how it would be run."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from ovengine.cli import _streams
from ovengine.cli._config_files import settings
from ovengine.cli._model_source import ModelSource, load_model
from ovengine.cli._options import add_engine_options, add_preprocessing_options, add_source_options
from ovengine.cli._parser import EXIT_STATUS, Parser
from ovengine.cli._preprocessing import reason
from ovengine.cli._progress import Progress
from ovengine.cli._tables import wrapped
from ovengine.errors import ConfigError
from ovengine.plan import format_bytes

if TYPE_CHECKING:
    import openvino as ov

    from ovengine.plan import Plan

# Kinds of operators that are shown by name.
MOST_KINDS = 8

DESCRIPTION = """\
Show inputs and outputs of a model with their types, shapes and layouts, its weights, state and operators, and the \
plan by which `ovengine.load` would run it. The plan takes loading the model; --no-load compiles nothing.\
"""

EPILOG = """\
example:
  ovengine info -m model.xml --no-load
"""


def add_command(commands: argparse._SubParsersAction[Parser], parents: list[Parser]) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "info",
        help="describe a model and how it would run",
        usage="ovengine info -m MODEL [options]",
        description=DESCRIPTION,
        epilog=EPILOG + EXIT_STATUS,
        parents=parents,
    )
    parser.set_defaults(run=run, parser=parser)
    report = parser.add_argument_group("report")
    report.add_argument("--no-load", action="store_true", help="only read the model, without a plan")
    report.add_argument("--json", action="store_true", help="as JSON")
    report.add_argument("-q", "--quiet", action="store_true", help="no progress")
    add_source_options(parser)
    add_preprocessing_options(parser)
    add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    source = ModelSource(args)
    asked = settings(args)
    # What a plugin loads, or was compiled before, OpenVINO's Python API cannot look into.
    is_opaque = source.is_blob or args.loader is not None
    if args.no_load and is_opaque:
        raise ConfigError(f"{source.path} is known only once it is loaded; drop --no-load")
    found: dict[str, Any] = {"model": str(source.path)}
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(quiet=args.quiet))
        if not is_opaque:
            progress.stage(f"reading {source.path.name}")
            found |= describe(_reshaped(source, args))
        if not args.no_load:
            model = load_model(source, asked, args, progress)
            stack.callback(model.close, 0)
            progress.stage("compiling batch sizes")
            model.wait_ready()
            plan = model.plan
            found["plan"] = plan_json(plan)
    if args.json:
        _streams.write(json.dumps(found, indent=2))
    else:
        texts = [] if is_opaque else [as_text(found)]
        _streams.write("\n\n".join(texts if args.no_load else [*texts, wrapped(str(plan))]))
    return 0


def _reshaped(source: ModelSource, args: argparse.Namespace) -> ov.Model:
    model = source.read(source.core())
    if shape := args.shape:
        named = shape.items() if isinstance(shape, dict) else [(0, shape)]
        try:
            model.reshape({name: f"[{','.join(map(str, dimensions))}]" for name, dimensions in named})
        except RuntimeError as error:
            raise ConfigError(f"-shape: the model cannot be reshaped so: {reason(error)}") from None
    return model


def describe(model: ov.Model) -> dict[str, Any]:
    """What `--json` prints of a model that is not loaded."""
    kinds = Counter(node.get_type_name() for node in model.get_ops())
    constants = [node for node in model.get_ops() if node.get_type_name() == "Constant"]
    no_operators = {"Parameter", "Result", "Constant"}
    operators = {kind: count for kind, count in kinds.most_common() if kind not in no_operators}
    return {
        "name": model.get_friendly_name(),
        "inputs": [_port(port) for port in model.inputs],
        "outputs": [_port(port) for port in model.outputs],
        "weights_bytes": sum(node.get_byte_size() for node in constants),
        "state": [
            {
                "name": variable.info.variable_id,
                "type": variable.info.data_type.get_type_name(),
                "shape": str(variable.info.data_shape),
            }
            for variable in model.get_variables()
        ],
        "operators": operators,
    }


def _port(port: ov.Output) -> dict[str, Any]:
    names = sorted(port.get_names(), key=len) or [port.get_node().get_friendly_name()]
    layout = port.get_node().layout
    return {
        "name": names[0],
        "names": names,
        "type": port.get_element_type().get_type_name(),
        "shape": str(port.get_partial_shape()),
        "layout": None if layout.empty else str(layout),
    }


def plan_json(plan: Plan) -> dict[str, Any]:
    """What was decided, for `--json`."""
    return {
        "mode": plan.mode,
        "hint": plan.hint.value.lower(),
        "batch_sizes": list(plan.ladder),
        "cost_us": {str(size): cost for size, cost in plan.batch.cost_us.items()},
        "max_queue_delay_us": plan.batch.max_queue_delay_us,
        "devices": [
            {
                "device": device.device,
                "lanes": device.lanes,
                "threads_per_lane": device.threads_per_lane,
                "shared": device.shared,
                "precision": precision,
            }
            for device, precision in zip(plan.devices, plan.precision, strict=True)
        ],
        "inputs": [str(tensor) for tensor in plan.inputs],
        "outputs": [str(tensor) for tensor in plan.outputs],
        "memory_bytes": plan.memory_bytes,
        "scheduler": plan.scheduler,
        "decisions": [{"what": d.what, "choice": d.choice, "why": d.why} for d in plan.decisions],
    }


def as_text(found: dict[str, Any]) -> str:
    """For people, in the columns of a plan."""
    counts = found["operators"]
    shown = [f"{count} {kind}" for kind, count in list(counts.items())[:MOST_KINDS]]
    if len(counts) > MOST_KINDS:
        shown.append(f"{len(counts) - MOST_KINDS} other kinds")
    state = [f"{variable['name']} {variable['type']}{variable['shape']}" for variable in found["state"]]
    rows: list[tuple[str, Sequence[str]]] = [
        ("inputs", [_port_text(port) for port in found["inputs"]] or ["none"]),
        ("outputs", [_port_text(port) for port in found["outputs"]]),
        ("weights", [format_bytes(found["weights_bytes"])]),
        ("state", state or ["none"]),
        ("operators", [f"{sum(counts.values())}: {', '.join(shown)}" if counts else "none"]),
    ]
    lines = [f"{found['model']} ({found['name']})"]
    for label, values in rows:
        lines += [f"  {label if index == 0 else '':<10} {value}".rstrip() for index, value in enumerate(values)]
    return wrapped("\n".join(lines))


def _port_text(port: dict[str, Any]) -> str:
    layout = f", layout {port['layout']}" if port["layout"] else ""
    return f"{port['name']} {port['type']}{port['shape']}{layout}"
