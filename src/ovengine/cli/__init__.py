"""The command `ovengine`.

    ovengine infer -m MODEL -i INPUT... [-o OUT]    run files through a model
    ovengine bench -m MODEL [--compare]             measure throughput and latency
    ovengine tune -m MODEL [--p99 MS]               find the best settings for this machine
    ovengine devices                                OpenVINO devices
    ovengine plugins                                plugins and their state

Exit status: 0 success, 1 failure (one line on standard error says which), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn, TextIO

from ovengine import plugins
from ovengine.cli import _bench, _devices, _infer, _plugins, _tune
from ovengine.errors import OvengineError

__all__ = ["main"]


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the options are in `--help`."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; None takes them from `sys.argv`.

    Returns:
        The exit status.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in arguments
    with warnings.catch_warnings():
        if not debug:
            warnings.showwarning = _show_warning
        try:
            parsed = _parser().parse_args(arguments)
            status = int(parsed.run(parsed) or 0)
            sys.stdout.flush()
            return status
        except BrokenPipeError:
            # Whoever read the output has closed it (`| head`); keep the interpreter from failing on it at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except KeyboardInterrupt:
            print("ovengine: interrupted", file=sys.stderr)
            return 130
        except Exception as error:
            if debug:
                traceback.print_exc()
            else:
                print(f"ovengine: {_one_line(error)}", file=sys.stderr)
            return 1


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser = _Parser(
        prog="ovengine",
        description="Run OpenVINO models for many concurrent small requests.",
        parents=[common],
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"ovengine {version('ovengine')}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (_infer, _bench, _tune, _devices, _plugins):
        module.add_command(commands, [common])
    plugins.default().cli_commands(commands)
    return parser


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, (OvengineError, OSError)) and text:
        return text
    return f"{type(error).__name__}: {text} (--debug shows where)"


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"ovengine: warning: {' '.join(str(message).split())}", file=sys.stderr)
