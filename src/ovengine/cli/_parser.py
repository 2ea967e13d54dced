"""The parser of the command line: options count as they are spelled in `--help`, and a slip gets a hint."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from ovengine.cli import _streams
from ovengine.cli._tables import wrapped

MOST_SUGGESTIONS = 3
_OPTION = re.compile(r"-[^\d.]")
EXIT_STATUS = "\nExit status: 0 success, 1 failure, 2 wrong usage, 130 interrupted (Ctrl-C)."


class Parser(argparse.ArgumentParser):
    """Takes no abbreviations, and says in one line what is wrong with an argument, and what to write instead.

    argparse would read `-max_irate 5` as `-m ax_irate` where only `-m` is known, and `--max` as whichever option begins
    so. Both are errors here.

    not_taken: spelling -> reason, of options that users of other tools may expect and that this command does not have.
    siblings: name -> parser of all commands, to tell to which one an option belongs.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", _Formatter)
        super().__init__(*args, **kwargs)
        self.not_taken: Mapping[str, str] = {}
        self.siblings: Mapping[str, Parser] = {}

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with status 2."""
        self.exit(2, f"{self.prog}: {' '.join(message.split())} (see {self.prog} --help)\n")

    def print_help(self, file: Any = None) -> None:
        """On standard output; argparse itself says nothing where that fails."""
        _streams.write(self.format_help().rstrip())

    @property
    def spellings(self) -> list[str]:
        """All options, as they may be written."""
        return list(self._option_string_actions)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, but what is not known is an error of the command that it was given to."""
        arguments = list(args or ())
        # Looked for first: argparse would read a part of it, or miss an option that is misspelt.
        unknown = [argument.partition("=")[0] for argument in self._options(arguments)]
        unknown = [option for option in dict.fromkeys(unknown) if option not in self._option_string_actions]
        if unknown:
            self.error("; ".join(map(self._explain, unknown)))
        parsed, rest = super().parse_known_args(arguments, namespace)
        if rest:
            self.error(f"unexpected argument {rest[0]!r}")
        return parsed, rest

    def _options(self, arguments: Sequence[str]) -> Iterator[str]:
        """Those that argparse takes for options of this parser, known or not."""
        # What follows belongs to another parser, or to whoever asked for all that follows.
        has_rest = any(action.nargs in (argparse.PARSER, argparse.REMAINDER) for action in self._actions)
        for argument in arguments:
            if argument == "--" or (has_rest and not argument.startswith("-")):
                return
            if _OPTION.match(argument) and " " not in argument:
                yield argument

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            commands = ", ".join(action.choices)
            raise argparse.ArgumentError(
                None, f"no command {value!r}{_or_else(value, action.choices)}; there are {commands}"
            )
        super()._check_value(action, value)

    def _explain(self, option: str) -> str:
        if option in self.not_taken:
            return f"option {option} is not taken: {self.not_taken[option]}"
        elsewhere = [name for name, parser in self.siblings.items() if option in parser._option_string_actions]
        if elsewhere:
            return f"no option {option} here; `ovengine {elsewhere[0]}` has it"
        joined = next((known for known in self.spellings if _is_joined(option, known)), None)
        if joined is not None:
            return f"no option {option} (did you mean {joined} {option[len(joined) :]}?)"
        return f"no option {option}{_or_else(option, self.spellings)}"


class _Formatter(argparse.HelpFormatter):
    """Shows what an option takes once, behind all its spellings, and keeps the paragraphs of descriptions."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return wrapped(text)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"


def _is_joined(option: str, known: str) -> bool:
    """Whether this is an option of one letter with a number behind it, as in `-t10`."""
    return len(known) == 2 and option.startswith(known) and option[2:3].isdigit()


def _or_else(given: str, choices: Sequence[str] | Mapping[str, Any]) -> str:
    """A clause with what was perhaps meant, or nothing. Dashes, underscores and case do not count."""
    plain = {choice: _plain(choice) for choice in choices}
    wanted = _plain(given)
    close = difflib.get_close_matches(wanted, plain.values(), MOST_SUGGESTIONS, cutoff=0.7)
    begun = [text for text in plain.values() if len(wanted) > 1 and text.startswith(wanted)]
    found: list[str] = []
    for text in [wanted] if wanted in plain.values() else dict.fromkeys([*close, *begun]):
        # Of two spellings of one option, the one with as many dashes.
        same = [choice for choice in choices if plain[choice] == text]
        found.append(min(same, key=lambda choice: _dashes(choice) != _dashes(given)))
    return f" (did you mean {' or '.join(found[:MOST_SUGGESTIONS])}?)" if found else ""


def _plain(text: str) -> str:
    return text.lstrip("-").replace("-", "_").lower()


def _dashes(text: str) -> int:
    return len(text) - len(text.lstrip("-"))
