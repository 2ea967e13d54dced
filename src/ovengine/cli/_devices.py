"""`ovengine devices`: the OpenVINO devices of this machine."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ovengine._core import Runtime
from ovengine.cli import _streams
from ovengine.cli._parser import EXIT_STATUS, Parser
from ovengine.cli._tables import table
from ovengine.errors import OvengineError

DESCRIPTION = "Show the OpenVINO devices of this machine, and what they can do."
EPILOG = """\
example:
  ovengine devices --json
"""


def add_command(commands: argparse._SubParsersAction[Parser], parents: list[Parser]) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "devices", help="list OpenVINO devices", description=DESCRIPTION, epilog=EPILOG + EXIT_STATUS, parents=parents
    )
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    runtime = Runtime()
    devices = [
        {
            "device": device,
            "name": _property(runtime, device, "FULL_DEVICE_NAME"),
            "capabilities": _property(runtime, device, "OPTIMIZATION_CAPABILITIES"),
        }
        for device in runtime.available_devices
    ]
    if args.json:
        _streams.write(json.dumps(devices, indent=2))
        return 0
    rows = [
        (device["device"], device["name"], ", ".join(capabilities) if isinstance(capabilities, list) else capabilities)
        for device in devices
        for capabilities in [device["capabilities"]]
    ]
    _streams.write(table(("DEVICE", "NAME", "CAPABILITIES"), rows))
    return 0


def _property(runtime: Runtime, device: str, name: str) -> Any:
    try:
        value = runtime.device_property(device, name)
    except OvengineError as error:  # a device may be listed and still not answer
        return f"not available: {' '.join(str(error).split())}"
    return list(value) if isinstance(value, (tuple, list)) else str(value)
