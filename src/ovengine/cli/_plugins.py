"""`ovengine plugins`: plugins, where they come from, and how they are."""

from __future__ import annotations

import argparse
import dataclasses
import json

from ovengine import plugins
from ovengine.cli import _streams
from ovengine.cli._parser import EXIT_STATUS, Parser
from ovengine.cli._tables import table

DESCRIPTION = (
    "Show all plugins: the built-in ones and those that are installed, where they come from, and whether they work."
)
EPILOG = """\
example:
  ovengine plugins --json
"""


def add_command(commands: argparse._SubParsersAction[Parser], parents: list[Parser]) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "plugins",
        help="list plugins and their state",
        description=DESCRIPTION,
        epilog=EPILOG + EXIT_STATUS,
        parents=parents,
    )
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    found = plugins.inventory()
    if args.json:
        _streams.write(json.dumps([dataclasses.asdict(info) for info in found], indent=2))
        return 0
    header = ("NAME", "KIND", "VERSION", "FROM", "STATUS")
    rows = [(info.name, info.kind, info.version, info.source, _status(info)) for info in found]
    _streams.write(table(header, rows))
    return 0


def _status(info: plugins.PluginInfo) -> str:
    return f"{info.status}: {info.reason}" if info.reason else info.status
