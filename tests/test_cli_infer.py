"""`ovengine infer`: what goes in, what comes out, and what is said when it does not work."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import pytest
from PIL import Image

from ovengine.cli import _interrupts, _outputs, main
from ovengine.cli._failures import Failures
from support import PATIENCE


def plain(model: Path, *inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """First output of plain OpenVINO."""
    return np.array(ov.Core().compile_model(model, "CPU")(list(inputs))[0])


def close(ours: Any, theirs: Any) -> None:
    # Other batch sizes, and bf16 where the CPU has it.
    np.testing.assert_allclose(ours, theirs, rtol=2e-2, atol=2e-2)


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.npy"
    np.save(path, np.random.default_rng(1).standard_normal((100, 16), np.float32))
    return path


def picture(path: Path, width: int, height: int) -> npt.NDArray[np.uint8]:
    pixels = np.random.default_rng(2).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def test_each_row_of_an_array_gets_its_own_result(tiny_mlp: Path, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    assert main(["infer", "-m", str(tiny_mlp), "-i", str(rows), "-o", str(out), "--window", "7"]) == 0
    with np.load(out) as results:
        close(results["y"], plain(tiny_mlp, np.load(rows)))
        assert results["source"][42] == f"{rows}:42"


def test_json_lines_come_in_order_on_standard_output(
    tiny_mlp: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["infer", "-m", str(tiny_mlp), "-i", str(rows)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = json_lines(out)
    assert [line["row"] for line in lines] == list(range(100))
    close([line["outputs"]["y"] for line in lines], plain(tiny_mlp, np.load(rows)))


def test_a_single_sample_is_one_request(tiny_mlp: Path, tmp_path: Path) -> None:
    sample = np.linspace(-1, 1, 16, dtype=np.float32)
    np.savez(tmp_path / "sample.npz", x=sample)
    out = tmp_path / "out.jsonl"
    assert main(["infer", "-m", str(tiny_mlp), "-i", str(tmp_path / "sample.npz"), "-o", str(out)]) == 0
    (line,) = json_lines(out.read_text())
    assert "row" not in line
    close(line["outputs"]["y"], plain(tiny_mlp, sample[None])[0])


def test_a_directory_is_read_in_order_of_name(tiny_mlp: Path, tmp_path: Path) -> None:
    directory = tmp_path / "inputs"
    directory.mkdir()
    data = np.random.default_rng(3).standard_normal((5, 16), np.float32)
    for index in (3, 0, 4, 1, 2):
        np.save(directory / f"{index}.npy", data[index])
    (directory / "notes.txt").write_text("not an input")
    out = tmp_path / "out.npz"
    assert main(["infer", "-m", str(tiny_mlp), "-i", str(directory), "-o", str(out)]) == 0
    with np.load(out) as results:
        close(results["y"], plain(tiny_mlp, data))
        assert [Path(source).name for source in results["source"]] == [f"{index}.npy" for index in range(5)]


def test_a_model_with_several_inputs_takes_an_npz(tmp_path: Path, real_model: Callable[[str], Path]) -> None:
    model = real_model("silero_vad")
    rng = np.random.default_rng(4)
    inputs = {"input": rng.random((1, 576), np.float32), "state": rng.random((2, 1, 128), np.float32)}
    np.savez(tmp_path / "audio.npz", input=inputs["input"], state=inputs["state"])
    np.save(tmp_path / "audio.npy", inputs["input"])
    out = tmp_path / "out.npz"
    assert main(["infer", "-m", str(model), "-i", str(tmp_path / "audio.npz"), "-o", str(out)]) == 0
    expected = ov.Core().compile_model(model, "CPU")(inputs)
    with np.load(out) as results:
        names = [name for name in results.files if name != "source"]
        for name, value in zip(names, expected.values(), strict=True):
            close(results[name].reshape(value.shape), value)


def test_what_cannot_be_read_costs_a_line_and_the_rest_is_done(
    tiny_mlp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = np.ones((2, 16), np.float32)
    np.save(tmp_path / "1.npy", good)
    (tmp_path / "2.npy").write_bytes(b"not numpy")
    np.save(tmp_path / "3.npy", np.ones((2, 5), np.float32))
    np.savez(tmp_path / "4.npz", z=good)
    np.save(tmp_path / "5.npy", np.array(["a", "b"]))
    (tmp_path / "6.png").write_bytes(b"\x89PNG\r\n")
    np.save(tmp_path / "7.npy", good)
    assert main(["infer", "-m", str(tiny_mlp), "-i", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert [Path(line["source"]).name for line in json_lines(out)] == ["1.npy", "1.npy", "7.npy", "7.npy"]
    assert "Traceback" not in err
    for name in ("2.npy", "3.npy", "4.npz", "5.npy", "6.png"):
        assert name in err


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path / "absent.npy", "no such input"),
        (lambda path: (path / "notes.txt", (path / "notes.txt").write_text(""))[0], "is no input"),
        (lambda path: (path / "empty", (path / "empty").mkdir())[0], "no pictures"),
    ],
)
def test_an_input_that_is_none_is_one_line(
    tiny_mlp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], Path], says: str
) -> None:
    assert main(["infer", "-m", str(tiny_mlp), "-i", str(make(tmp_path))]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("target", ["absent/out.npz", "out.csv", "rows.npy/out.npz", "folder.npz"])
def test_an_output_that_cannot_be_written_is_said_first(
    tiny_mlp: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    (tmp_path / "folder.npz").mkdir()
    # Before the model, which is not there, is missed.
    assert main(["infer", "-m", f"{tiny_mlp}.absent", "-i", str(rows), "-o", str(tmp_path / target)]) == 1
    _, err = capsys.readouterr()
    assert "cannot write" in err
    assert err.count("\n") == 1


def test_progress_is_shown_on_a_terminal_only(tiny_mlp: Path, rows: Path) -> None:
    out = rows.with_name("out.npz")
    impatient = (
        "import sys; from ovengine.cli import _progress as p, main; p.DELAY_S, p.TICK_S = 0, 1e-3; sys.exit(main())"
    )
    arguments = ["infer", "-m", str(tiny_mlp), "-i", str(rows), "-o", str(out)]
    command = [sys.executable, "-c", impatient, *arguments]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stderr == ""
    shown = on_a_terminal(command)
    assert "loading " in shown
    assert shown.rpartition("\r")[2] == ""  # nothing stays
    assert on_a_terminal([*command, "--quiet"]) == ""
    assert on_a_terminal([sys.executable, "-m", "ovengine", *arguments]) == ""  # nothing that takes less than 2 s


def on_a_terminal(command: list[str]) -> str:
    """Standard error of a command, where it is a terminal of 60 columns."""
    ours, theirs = pty.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 60, 0, 0))
        process = subprocess.Popen(command, stderr=theirs)
    finally:
        os.close(theirs)
    shown = b""
    # What nobody reads fills the terminal's 4 KiB, and the command would wait.
    with contextlib.suppress(OSError):  # the command has ended
        while some := os.read(ours, 65536):
            shown += some
    os.close(ours)
    assert process.wait() == 0
    return shown.decode()


def test_values_that_json_lacks_become_null(
    echo: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", np.array([[1, np.nan, np.inf]], np.float32))
    model = echo(-1, 3)
    assert main(["infer", "-m", str(model), "-i", str(tmp_path / "x.npy"), "-infer_precision", "f32"]) == 0
    (line,) = json_lines(capsys.readouterr().out)
    assert line["outputs"]["y"] == [1.0, None, None]


def test_equal_errors_are_one_line_with_a_count(
    tiny_mlp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(40):
        np.save(tmp_path / f"{index:03}.npy", np.ones((1, 17 + index), np.float32))
        (tmp_path / f"{index:03}.png").touch()
    np.save(tmp_path / "good.npy", np.ones((1, 16), np.float32))
    assert main(["infer", "-m", str(tiny_mlp), "-i", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    shape, layout = sorted(err.splitlines(), key=lambda line: "pictures" in line)
    assert f"{tmp_path / '000.npy'}" in shape
    assert shape.endswith("(and 39 more like it)")
    assert layout.endswith("(and 39 more like it)")


def test_errors_of_many_kinds_are_counted_in_the_end() -> None:
    lines: list[str] = []
    failures = Failures(lines.append)
    for index in range(30):
        for letter in "abcdefghijklmno":
            failures.add(f"{index}.npy", ValueError(f"{letter * 3} of {index}"))
    failures.report()
    assert failures.count == 450
    assert lines[0] == "0.npy: aaa of 0 (and 29 more like it)"
    assert lines[-1] == "150 errors of other kinds"
    assert len(lines) == 11


@pytest.mark.parametrize("kind", ["jsonl", "npz", "-"])
def test_an_interrupt_keeps_the_results_so_far(
    tiny_mlp: Path,
    rows: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    done = 0
    original = _interrupts.held

    @contextlib.contextmanager
    def interrupted() -> Iterator[None]:
        nonlocal done
        done += 1
        with original():
            if done == 10:
                signal.raise_signal(signal.SIGINT)  # to this thread: another one may hear of it late
            yield

    monkeypatch.setattr("ovengine.cli._outputs.held", interrupted)
    out = kind if kind == "-" else str(tmp_path / f"out.{kind}")
    assert main(["infer", "-m", str(tiny_mlp), "-i", str(rows), "-o", out]) == 130
    text, err = capsys.readouterr()
    assert err == "ovengine: interrupted\n"
    if kind == "npz":
        with np.load(out) as results:
            assert results["source"].tolist() == [f"{rows}:{row}" for row in range(10)]
            close(results["y"], plain(tiny_mlp, np.load(rows)[:10]))
    else:
        lines = json_lines(text if kind == "-" else Path(out).read_text())
        assert [line["row"] for line in lines] == list(range(10))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({rows.name, *({Path(out).name} - {"-"})})


def test_an_interrupt_is_heard_while_a_model_is_compiled(tiny_mlp: Path, rows: Path) -> None:
    slow = (
        "import sys, time, ovengine; from ovengine.cli import main\n"
        "def load(*args, **kwargs): print('loading', flush=True); time.sleep(600)\n"
        "ovengine.load = load\n"
        "sys.exit(main())"
    )
    command = [sys.executable, "-c", slow, "infer", "-m", str(tiny_mlp), "-i", str(rows)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "loading\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (130, "ovengine: interrupted\n")


def test_a_full_disk_leaves_whole_lines(tiny_mlp: Path, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    # No file of more than 16 blocks of 512 bytes, as on a disk that is full; the shell ignores the signal.
    limited = f"trap '' XFSZ; ulimit -f 16; exec {sys.executable} -m ovengine infer -m {tiny_mlp} -i {rows} -o {out}"
    done = subprocess.run(["/bin/sh", "-c", limited], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"ovengine: cannot write {out}: File too large\n"
    lines = json_lines(out.read_text())
    assert 10 < len(lines) < 100
    assert [line["row"] for line in lines] == list(range(len(lines)))
    full = f"{sys.executable} -m ovengine infer -m {tiny_mlp} -i {rows} > /dev/full"
    done = subprocess.run(["/bin/sh", "-c", full], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "ovengine: cannot write to standard output: No space left on device\n"


def test_a_file_that_was_there_stays_until_the_results_are_complete(
    tiny_mlp: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.npz"
    np.savez(out, before=np.ones(1))
    out.chmod(0o640)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(_outputs, "_save_npz", fail)
        assert main(["infer", "-m", str(tiny_mlp), "-i", str(rows), "-o", str(out)]) == 1
    assert f"cannot write {out}: No space left on device" in capsys.readouterr().err
    with np.load(out) as results:
        assert results.files == ["before"]
    assert main(["infer", "-m", str(tiny_mlp), "-i", str(rows), "-o", str(out)]) == 0
    with np.load(out) as results:
        assert len(results["y"]) == 100
    assert out.stat().st_mode & 0o777 == 0o640
    assert {path.name for path in tmp_path.iterdir()} == {"out.npz", "rows.npy"}


def test_names_that_are_not_utf8_are_read_and_written(
    tiny_mlp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/r\xff\xe4.npy")
    np.save(name, np.ones((2, 16), np.float32))
    assert main(["infer", "-m", str(tiny_mlp), "-i", name]) == 0
    out, err = capsys.readouterr()
    assert [line["source"] for line in json_lines(out)] == [name, name]
    assert err == ""
    for kind in ("npz", "jsonl"):
        target = os.fsdecode(os.fsencode(tmp_path) + b"/o\xff." + kind.encode())
        assert main(["infer", "-m", str(tiny_mlp), "-i", name, "-o", target]) == 0
        assert os.path.getsize(target)
    with np.load(os.fsdecode(os.fsencode(tmp_path) + b"/o\xff.npz")) as results:
        assert results["source"].tolist() == [f"{name}:0", f"{name}:1"]
