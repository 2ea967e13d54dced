"""`ovengine plugins`: plugins, where they come from, and how they are."""

from __future__ import annotations

import argparse
import dataclasses
import json

from ovengine import plugins


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
        print(json.dumps([dataclasses.asdict(info) for info in found], indent=2))
        return 0
    header = ("NAME", "KIND", "VERSION", "FROM", "STATUS")
    rows = [(info.name, info.kind, info.version, info.source, info.status, info.reason) for info in found]
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [(*header, ""), *rows]:
        columns = (f"{text:{width}}" for text, width in zip(row, widths, strict=False))
        print("  ".join([*columns, row[-1]]).rstrip())
    return 0
