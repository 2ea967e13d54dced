"""The command line as a whole: help, errors, devices, plugins, commands of plugins."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ovengine import _core, hookimpl, plugins
from ovengine.cli import main, make_parser
from ovengine.cli._tables import table, wrapped


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    return main(arguments), *capsys.readouterr()


def shell(command: str, **environment: str) -> tuple[int, str, str]:
    """The same of a line of shell, in which $O is the command `ovengine`."""
    done = subprocess.run(
        ["/bin/bash", "-c", command],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "O": f"{sys.executable} -m ovengine", **environment},
    )
    return done.returncode, done.stdout, done.stderr


def one_line(text: str) -> bool:
    return text.count("\n") == 1 and text.endswith("\n") and "Traceback" not in text


def test_module_and_script_are_the_same_command() -> None:
    shown = subprocess.run([sys.executable, "-m", "ovengine", "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("ovengine ")
    script = Path(sys.executable).with_name("ovengine")
    assert subprocess.run([script, "--version"], capture_output=True, text=True, check=True).stdout == shown.stdout


@pytest.mark.parametrize("command", ["infer", "bench", "tune", "info", "devices", "plugins"])
def test_every_command_has_help_with_an_example_and_the_exit_statuses(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    status, out, err = run(capsys, command, "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"usage: ovengine {command}")
    assert f"example:\n  ovengine {command} " in out
    assert "130 interrupted" in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "COMMAND"),
        (("fly",), "fly"),
        (("infer",), "-m"),
        (("bench", "-m", "m.xml", "--rate", "0"), "not above zero"),
        (("bench", "-m", "m.xml", "-b", "0"), "below 1"),
        (("bench", "-m", "m.xml", "-shape", "[1,x]"), "'x'"),
        (("bench", "-m", "m.xml", "-shape", "1,2"), "no shape"),
        (("bench", "-m", "m.xml", "--config", "NUM_STREAMS"), "NAME=VALUE"),
        (("infer", "-m", "m.xml", "-i", "a.npy", "--mean", "1,2"), "three"),
        (("infer", "-m", "m.xml", "-i", "a.npy", "--scale", "0"), "divide by 0"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
) -> None:
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert one_line(err)
    assert says in err


@pytest.mark.parametrize("command", [("bench", "-m"), ("infer", "-i", "{rows}", "-m")])
def test_missing_model_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: tuple[str, ...]
) -> None:
    rows = tmp_path / "rows.npy"
    rows.write_bytes(b"")
    status, out, err = run(capsys, *(part.format(rows=rows) for part in command), str(tmp_path / "absent.xml"))
    assert (status, out) == (1, "")
    assert one_line(err)
    assert "absent.xml" in err


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("-d", "TPU", "CPU"),
        ("--batcher", "psychic", "adaptive"),
        ("--scheduler", "psychic", "priority"),
        ("--loader", "psychic", "onnx"),
        ("--device-selector", "psychic", "auto"),
        ("--config", "NO_SUCH=1", "NO_SUCH"),
        ("-nstreams", "many", "NUM_STREAMS"),
        ("--memory-limit", "plenty", "memory_limit"),
        ("--memory-limit", "1", "memory_limit"),
    ],
)
def test_a_wrong_choice_is_one_line_that_names_it(
    capsys: pytest.CaptureFixture[str], tiny_mlp: Path, option: str, value: str, says: str
) -> None:
    status, out, err = run(capsys, "bench", "-m", str(tiny_mlp), option, value)
    assert (status, out) == (1, "")
    assert one_line(err)
    assert says in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("benhc", "did you mean bench?"),
        ("--jsn plugins", "no option --jsn"),
        ("bench -maxi 5", "ovengine bench: no option -maxi ("),
        ("bench -model m.xml", "did you mean --model?"),
        ("bench -m m.xml --max-batch 4", "did you mean --max-batch-size"),
        ("bench -m m.xml --max_batch_size 4", "did you mean --max-batch-size?"),
        ("bench -m m.xml -hnt latency", "did you mean -hint?"),
        ("bench -m m.xml -t10", "did you mean -t 10?"),
        ("infer -m m.xml -i a.npy --compare", "`ovengine bench` has it"),
        ("tune -m m.xml --window 4", "`ovengine infer` has it"),
        ("infer -m m.xml -i a.npy --colour red --size 3", "no option --colour; no option --size"),
        ("plugins -json", "did you mean --json?"),
        ("plugins json", "unexpected argument 'json'"),
        ("devices --js", "did you mean --json?"),
    ],
)
def test_options_are_not_abbreviated_and_a_slip_gets_a_hint(
    capsys: pytest.CaptureFixture[str], arguments: str, says: str
) -> None:
    status, out, err = run(capsys, *arguments.split())
    assert (status, out) == (2, "")
    assert one_line(err)
    assert says in err
    command = arguments.split()[0]
    expected = f"ovengine {command}" if command in ("infer", "bench", "tune", "plugins", "devices") else "ovengine"
    assert err.startswith(f"{expected}: ")
    assert f"(see {expected} --help)" in err


@pytest.mark.parametrize("command", ["infer", "bench", "tune", "info", "devices", "plugins"])
def test_no_option_is_taken_by_its_beginning(command: str) -> None:
    (commands,) = [action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    parser = commands.choices[command]
    for option in parser.spellings:
        for beginning in {option[:length] for length in range(2, len(option))} - {"--", *parser.spellings}:
            with pytest.raises(SystemExit):
                parser.parse_known_args([beginning, "1"])


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for arguments in (["--debug", "bench"], ["bench", "--debug"]):
        status, _, err = run(capsys, *arguments, "-m", str(tmp_path / "absent.xml"))
        assert status == 1
        assert "Traceback" in err
        assert "ModelNotFoundError" in err


def test_an_unforeseen_error_is_one_line_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr(plugins, "inventory", fail)
    status, _, err = run(capsys, "plugins")
    assert status == 1
    assert one_line(err)
    assert "ZeroDivisionError: by zero" in err


def test_an_interrupt_is_status_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(plugins, "inventory", interrupt)
    assert run(capsys, "plugins") == (130, "", "ovengine: interrupted\n")


@pytest.mark.parametrize("arguments", ["plugins --json", "--help", "bench --help"])
def test_a_reader_that_leaves_early_is_no_traceback(arguments: str) -> None:
    status, _, err = shell(f"(sleep 0.2; $O {arguments}; echo $? >&2) | true")
    assert (status, err) == (0, "1\n")


@pytest.mark.parametrize("arguments", ["plugins", "plugins --json", "devices", "--help"])
def test_a_full_disk_is_one_line(arguments: str) -> None:
    status, _, err = shell(f"$O {arguments} > /dev/full")
    assert (status, err) == (1, "ovengine: cannot write to standard output: No space left on device\n")


def test_closed_streams_are_errors_and_nothing_else_is_written_to_their_numbers() -> None:
    assert shell("$O plugins >&-") == (1, "", "ovengine: standard output is closed\n")
    status, out, _ = shell("$O plugins --json 2>&-")
    assert status == 0
    assert json.loads(out)
    assert shell("$O bench -m absent.xml 2>&-")[:2] == (1, "")
    assert shell("$O bench -m absent.xml 2>/dev/full")[:2] == (1, "")


def test_names_that_the_encoding_lacks_are_shown_escaped() -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    status, _, err = shell("$O bench -m $'mod\\xc3\\xa8le.xml'", **ascii_only)
    assert status == 1
    assert one_line(err)
    assert "mod" in err
    status, _, err = shell("$O bench -m $'\\xff.xml'")
    assert status == 1
    assert one_line(err)
    assert ".xml" in err


@pytest.mark.parametrize("columns", [30, 40, 80, 200])
@pytest.mark.parametrize("command", ["plugins", "devices"])
def test_tables_are_no_wider_than_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    status, out, _ = run(capsys, command)
    assert status == 0
    assert max(map(len, out.splitlines())) <= columns


def test_long_text_is_wrapped_under_its_column() -> None:
    text = "one two three four five six seven eight nine ten"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "30")
        assert wrapped(f"  key     {text}") == "\n".join(
            ["  key     one two three four", *(f"          {line}" for line in ("five six seven eight", "nine ten"))]
        )
        assert table(("a", "b"), [("x", text)]).splitlines() == [
            "a  b", "x  one two three four five six", "   seven eight nine ten",
        ]  # fmt: skip
        wide = table(("name", "first", "second"), [("n", "1" * 12, "2" * 12)], right=[1, 2])
        assert wide.splitlines() == ["n", "  first 111111111111, second", "  222222222222"]
        patch.setenv("COLUMNS", "80")
        wide = table(("name", "first", "second"), [("n", "1" * 12, "2" * 12)], right=[1, 2])
        assert wide.splitlines() == ["name         first        second", "n     111111111111  222222222222"]


def test_devices_lists_what_openvino_lists(capsys: pytest.CaptureFixture[str]) -> None:
    available = list(_core.Runtime().available_devices)
    status, out, _ = run(capsys, "devices", "--json")
    assert status == 0
    assert [device["device"] for device in json.loads(out)] == available
    status, out, _ = run(capsys, "devices")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == ["DEVICE", *available]
    assert "FP32" in out


def test_plugins_lists_the_built_ins(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "plugins", "--json")
    assert status == 0
    found = {(info["kind"], info["name"]): info for info in json.loads(out)}
    for kind, name in (
        ("model_loader", "onnx"),
        ("device_selector", "auto"),
        ("batcher", "adaptive"),
        ("scheduler_policy", "priority"),
    ):
        assert found[kind, name]["status"] == "ok"
        assert found[kind, name]["source"] == "built-in"
    status, out, _ = run(capsys, "plugins")
    assert status == 0
    assert out.startswith("NAME")
    assert len(out.splitlines()) == len(found) + 1


def test_a_plugin_adds_a_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Hello:
        @hookimpl
        def ovengine_cli_commands(self, subparsers: object) -> None:
            parser = subparsers.add_parser("hello")  # type: ignore[attr-defined]  # argparse's own type is private
            parser.add_argument("name")
            parser.set_defaults(run=lambda arguments: print("hello", arguments.name))

    monkeypatch.setattr(plugins, "_default", plugins.Plugins(extra=[Hello()], entry_points=False))
    assert run(capsys, "hello", "you") == (0, "hello you\n", "")


def test_a_plugin_whose_command_is_broken_costs_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        @hookimpl
        def ovengine_cli_commands(self, subparsers: object) -> None:
            raise RuntimeError("no\ncommand")

    monkeypatch.setattr(plugins, "_default", plugins.Plugins(extra=[Broken()], entry_points=False))
    status, out, err = run(capsys, "plugins", "--json")
    assert status == 0
    assert one_line(err)
    assert err.startswith("ovengine: warning: ")
    assert [info["status"] for info in json.loads(out) if info["kind"] == "cli"] == ["broken"]
