"""The command `ovengine`.

    ovengine infer -m MODEL -i INPUT... [-o OUT]    run files through a model
    ovengine bench -m MODEL [--compare]             measure throughput and latency
    ovengine tune -m MODEL [--p99 MS]               find the best settings for this machine
    ovengine info -m MODEL [--no-load]              describe a model and how it would run
    ovengine devices                                list OpenVINO devices
    ovengine plugins                                list plugins and their state

Results go to standard output, all else to standard error. Exit status: 0 success, 1 failure (one line on standard error
says which), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import TextIO

from ovengine import plugins
from ovengine.cli import _bench, _devices, _infer, _info, _interrupts, _plugins, _streams, _tune
from ovengine.cli._parser import EXIT_STATUS, Parser
from ovengine.errors import OvengineError

__all__ = ["main"]


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
            _streams.prepare()
            parsed = make_parser().parse_args(arguments)
            parsed.command_line = arguments
            status = int(parsed.run(parsed) or 0)
        except BrokenPipeError:
            # Whoever read the output has closed it (`| head`).
            status = 1
        except KeyboardInterrupt:
            _streams.say("interrupted")
            status = 130
        except SystemExit as stopped:  # by the parser, or a plugin's command
            if isinstance(stopped.code, str):
                _streams.say(stopped.code)
            status = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
        except Exception as error:
            if debug:
                traceback.print_exc()
            else:
                _streams.say(_one_line(error))
            status = 1
        status = status if _streams.finish() else status or 1
        _interrupts.leave(status)
        return status


def make_parser() -> Parser:
    """All commands, those of plugins included."""
    common = Parser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser = Parser(
        prog="ovengine",
        usage="ovengine COMMAND [options]",
        description="Run OpenVINO models for many small concurrent requests.",
        epilog="`ovengine COMMAND --help` describes the options of a command, with an example.\n"
        "Results go to standard output; progress and errors go to standard error." + EXIT_STATUS,
        parents=[common],
    )
    parser.add_argument("--version", action="version", version=f"ovengine {version('ovengine')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", prog="ovengine", required=True)
    for module in (_infer, _bench, _tune, _info, _devices, _plugins):
        module.add_command(commands, [common])
    plugins.default().cli_commands(commands)
    for command in commands.choices.values():
        command.siblings = commands.choices
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
    _streams.say(f"warning: {message}")
