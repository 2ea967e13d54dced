"""`ovengine plugins`: plugins, where they come from, and how they are."""

from __future__ import annotations

import argparse
import dataclasses
import json

from ovengine import plugins
from ovengine.cli import _streams
from ovengine.cli._tables import table


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], parents: list[argparse.ArgumentParser]
) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "plugins", help="list plugins and their state", description=__doc__, parents=parents, allow_abbrev=False
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
