"""benchmark_app's options: taken with the same meaning, or refused with a reason; its files, read and written."""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino.tools.benchmark.parameters import parse_args as app_parser
from PIL import Image

from ovengine.cli import _types, main, make_parser
from ovengine.cli._bench import _settings
from ovengine.cli._bench_options import NOT_TAKEN
from ovengine.cli._config_files import settings
from ovengine.cli._parser import Parser

QUICK = ["-t", "0.1", "--rounds", "1"]


def bench_parser() -> Parser:
    (commands,) = [action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    parser = commands.choices["bench"]
    assert isinstance(parser, Parser)
    return parser


def bench_arguments(*arguments: str) -> argparse.Namespace:
    parsed = bench_parser().parse_args(["-m", "m.xml", *arguments])
    assert isinstance(parsed, argparse.Namespace)
    return parsed


@pytest.mark.parametrize("action", app_parser()._actions, ids=lambda action: action.option_strings[0])
def test_every_option_of_benchmark_app_is_taken_or_refused_with_a_reason(action: argparse.Action) -> None:
    parser = bench_parser()
    ours = parser._option_string_actions
    for spelling in action.option_strings:
        assert (spelling in ours) != (spelling in NOT_TAKEN), spelling
        if spelling in NOT_TAKEN or spelling in ("-h", "--help"):
            continue
        own = ours[spelling]
        assert own is ours[action.option_strings[0]]
        # What may follow it: nothing, a value, perhaps one, or several.
        takes_value = {True: "no", False: "yes"}[action.nargs == 0]
        assert takes_value == {True: "no", False: "yes"}[own.nargs == 0] or spelling in ("-lfile", "--load_from_file")
        if action.nargs == "?" and own.nargs != 0:
            assert own.nargs == "?"
        for choice in action.choices or ():
            assert own.choices is None or choice in own.choices


def test_an_option_that_is_not_taken_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    for option in NOT_TAKEN:
        assert main(["bench", "-m", "m.xml", option, "x"]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"ovengine bench: option {option} is not taken: {NOT_TAKEN[option]}")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-inference_only"], "each request brings its inputs"),
        (["-inference_only", "maybe"], "neither true nor false"),
        (["-report_folder", "/tmp"], "need -report_type"),
        (["-json_stats"], "need -report_type"),
        (["-max_irate", "5", "--rate", "5"], "not allowed with"),
        (["--rate", "5", "-nireq", "3"], "drop -nireq"),
        (["-lfile", "-shape", "[1]"], "drop -shape"),
        (["-latency_percentile", "0"], "below 1"),
        (["-latency_percentile", "101"], "above 100"),
        (["-niter", "-1"], "below 0"),
        (["-hint", "fast"], "invalid choice"),
        (["-pin", "maybe"], "invalid choice"),
        (["-nstreams", "CPU:2,GPU:4"], "all devices get the same value"),
        (["-layout", "[NCCH]"], "no layout"),
        (["-iop", "x:float"], "is no type"),
        (["-iop", "f32"], "not NAME:TYPE"),
        (["--mean_values", "[a,b]"], "no numbers"),
        (["-t", "soon"], "'soon' is not a number"),
        (["-b", "?"], "'?' is not an integer"),
        (["-data_shape", "[?,3]"], "no dimension"),
    ],
)
def test_wrong_values_are_wrong_usage(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    assert main(["bench", "-m", "m.xml", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert says in err


# -- values -----------------------------------------------------------------------------------------------------------


def test_shapes_are_written_as_for_benchmark_app() -> None:
    assert _types.shapes("[1,3,224,224]") == (1, 3, 224, 224)
    assert _types.shapes("[?, 16]") == (-1, 16)
    assert _types.shapes("a[?,16],b[-1]") == {"a": (-1, 16), "b": (-1,)}
    assert _types.shapes("in:0[1..8,3.. 64]") == {"in:0": ("1..8", "3..64")}
    for text in ("", "1,3", "[1", "a[1],[2]", "[1]x", "[1.5]", "[1,x]", "[1][2]", "a[1][2]"):
        with pytest.raises(argparse.ArgumentTypeError):
            _types.shapes(text)
    assert _types.data_shapes("[1,3][2,3]") == [(1, 3), (2, 3)]
    assert _types.data_shapes("a[1,3][2,3],b[4]") == [{"a": (1, 3), "b": (4,)}, {"a": (2, 3), "b": (4,)}]
    with pytest.raises(argparse.ArgumentTypeError):
        _types.data_shapes("[1..8]")


def test_layouts_types_and_values_are_written_as_for_benchmark_app() -> None:
    assert _types.layouts("NCHW") == _types.layouts("[NCHW]") == _types.layouts("[N,C,H,W]") == {"": "NCHW"}
    assert _types.layouts("a[nchw],b[N...]") == {"a": "NCHW", "b": "N..."}
    assert _types.element_types("in:0:f16, out:u8") == {"in:0": "f16", "out": "u8"}
    assert _types.channel_values("[1,2.5,3]") == {"": (1, 2.5, 3)}
    assert _types.channel_values("a[1,2,3],b[4]") == {"a": (1, 2, 3), "b": (4,)}
    assert (_types.one_value("4"), _types.one_value("CPU:4"), _types.one_value("CPU:f32,GPU:f32")) == ("4", "4", "f32")
    for text, value in {"yes": True, "TRUE": True, "1": True, "no": False, "f": False}.items():
        assert _types.boolean(text) is value


# -- device and properties --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "hint", "api", "clients"),
    [
        ([], "THROUGHPUT", "async", None),
        (["-hint", "tput"], "THROUGHPUT", "async", None),
        (["-hint", "ctput"], "CUMULATIVE_THROUGHPUT", "async", None),
        (["-hint", "latency"], "LATENCY", "sync", None),
        (["-hint", "latency", "-api", "async"], "LATENCY", "async", None),
        (["-api", "sync"], "LATENCY", "sync", None),
        (["-api", "sync", "-nireq", "4"], "THROUGHPUT", "sync", "4"),
        (["-nireq", "4"], "THROUGHPUT", "async", "4"),
        (["-hint", "none"], None, "async", None),
    ],
)
def test_hint_and_api_follow_each_other(arguments: list[str], hint: str | None, api: str, clients: str | None) -> None:
    args = bench_arguments(*arguments)
    found = _settings(args).openvino_config
    assert found.get("PERFORMANCE_HINT") == hint
    assert args.api == api
    assert found.get("PERFORMANCE_HINT_NUM_REQUESTS") == clients


def test_without_a_hint_it_is_one_lane_or_as_many_as_streams() -> None:
    assert settings(bench_arguments("-hint", "none")).engine_hint == "latency"
    assert settings(bench_arguments("-hint", "none", "-nstreams", "2")).engine_hint == "throughput"


def test_properties_come_from_options_and_from_a_file_in_that_order(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"CPU": {"NUM_STREAMS": "3", "PERF_COUNT": "NO", "PERFORMANCE_HINT": "LATENCY"}}))
    found = settings(bench_arguments("-load_config", str(file)))
    # As benchmark_app, whose default device is the CPU.
    assert (found.device, found.hint) == ("CPU", "latency")
    assert found.config == {"NUM_STREAMS": "3", "PERF_COUNT": "NO"}
    options = ["-nstreams", "2", "-nthreads", "4", "-pin", "NO", "-infer_precision", "CPU:f32", "-cdir", "/c"]
    found = settings(
        bench_arguments("-load_config", str(file), *options, "-hint", "tput", "--config", "PERF_COUNT=YES")
    )
    assert found.hint == "throughput"
    assert found.config == {
        "NUM_STREAMS": "2", "PERF_COUNT": "YES", "INFERENCE_NUM_THREADS": "4", "ENABLE_CPU_PINNING": "NO",
        "INFERENCE_PRECISION_HINT": "f32", "CACHE_DIR": "/c",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("not json", "is no JSON"),
        ("[1]", "no properties by device"),
        ('{"CPU": 3}', "no properties by device"),
        ('{"GPU": {}, "NPU": {}}', "and none of CPU; choose one with -d"),
        (None, "cannot read"),
    ],
)
def test_a_file_of_properties_that_is_none_is_said_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, says: str
) -> None:
    file = tmp_path / "config.json"
    if content is not None:
        file.write_text(content)
    assert main(["bench", "-m", "absent.xml", "-d", "CPU", "-load_config", str(file)]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert says in err


def test_dumped_properties_load_again(tiny_mlp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "dumped.json"
    options = ["-d", "CPU", "-nstreams", "1", "--config", "ENABLE_CPU_PINNING=NO", "-dump_config", str(file)]
    assert main(["bench", *QUICK, "-m", str(tiny_mlp), *options]) == 0
    assert json.loads(file.read_text()) == {
        "CPU": {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": "1", "ENABLE_CPU_PINNING": "NO"}
    }
    capsys.readouterr()
    assert main(["bench", *QUICK, "-m", str(tiny_mlp), "-load_config", str(file)]) == 0
    assert "CPU: 1 lane" in capsys.readouterr().out
    # benchmark_app takes it, too.
    app = "import sys; from openvino.tools.benchmark.main import main; sys.exit(main())"
    arguments = ["-m", str(tiny_mlp), "-data_shape", "[1,16]", "-niter", "1", "-load_config", str(file)]
    done = subprocess.run([sys.executable, "-c", app, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NUM_STREAMS: 1" in done.stdout


# -- changes to the model ---------------------------------------------------------------------------------------------


def infer(capsys: pytest.CaptureFixture[str], model: Path, data: Path, *arguments: str) -> dict[str, Any]:
    """The only result."""
    assert main(["infer", "-m", str(model), "-i", str(data), "-infer_precision", "f32", *arguments]) == 0
    outputs: dict[str, Any] = json.loads(capsys.readouterr().out)["outputs"]
    return outputs


def test_element_types_of_inputs_and_outputs_change(
    echo: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = echo(-1, 3)
    np.save(tmp_path / "float.npy", np.array([1.75, 2.5, 300], np.float32))
    np.save(tmp_path / "bytes.npy", np.array([1, 2, 255], np.uint8))
    assert infer(capsys, model, tmp_path / "float.npy", "-op", "i32") == {"y": [1, 2, 300]}
    assert infer(capsys, model, tmp_path / "bytes.npy", "-ip", "u8") == {"y": [1.0, 2.0, 255.0]}
    assert infer(capsys, model, tmp_path / "bytes.npy", "-iop", "x:u8, y:i64") == {"y": [1, 2, 255]}
    # Single ones win over all.
    assert infer(capsys, model, tmp_path / "bytes.npy", "-ip", "f16", "-iop", "x:u8") == {"y": [1.0, 2.0, 255.0]}
    assert main(["infer", "-m", str(model), "-i", str(tmp_path / "float.npy"), "-ip", "u8"]) == 1
    assert "uint8" in capsys.readouterr().err
    assert main(["infer", "-m", str(model), "-i", str(tmp_path / "float.npy"), "-iop", "z:u8"]) == 1
    assert "the model has no input or output 'z', but x, y" in capsys.readouterr().err


def test_means_and_scales_become_part_of_the_model(
    echo: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (8, 6, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    model = echo(1, 3, 8, 6)
    expected = ((pixels - np.array([10, 20, 30], np.float32)) / np.array([2, 4, 8], np.float32)).transpose(2, 0, 1)
    for values in (("[10,20,30]", "[2,4,8]"), ("x[10,20,30]", "x[2,4,8]")):
        options = ["--mean_values", values[0], "--scale_values", values[1], "-ip", "u8"]
        found = np.reshape(infer(capsys, model, tmp_path / "a.png", *options)["y"], (3, 8, 6))
        np.testing.assert_allclose(found, expected)
    np.save(tmp_path / "row.npy", np.array([2, 4, 6], np.float32))
    assert infer(capsys, echo(-1, 3), tmp_path / "row.npy", "--mean_values", "x[1]", "--scale_values", "x[2]") == {
        "y": [0.5, 1.5, 2.5]
    }
    assert infer(capsys, echo(-1, 3), tmp_path / "row.npy", "--mean_values", "x[1,2,3]", "-layout", "[NC]") == {
        "y": [1.0, 2.0, 3.0]
    }
    for arguments, says in (
        (["--mean_values", "[1,2,3]"], "no input is known to take pictures"),
        (["--mean_values", "x[1,2,3]"], "3 values for an input of unknown channels"),
        (["--mean_values", "z[1]"], "the model has no input 'z', but x"),
    ):
        assert main(["infer", "-m", str(echo(-1, 3)), "-i", str(tmp_path / "row.npy"), *arguments]) == 1
        assert says in capsys.readouterr().err


def test_a_layout_says_where_the_batch_and_the_channels_are(
    echo: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = echo(4, 3)
    np.save(tmp_path / "rows.npy", np.arange(20, dtype=np.float32).reshape(4, 5))
    assert main(["infer", "-m", str(model), "-i", str(tmp_path / "rows.npy"), "-layout", "[CN]"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["outputs"]["y"] for line in lines] == np.arange(20).reshape(4, 5).T.tolist()
    Image.fromarray(np.full((3, 3, 3), (1, 2, 3), np.uint8)).save(tmp_path / "a.png")
    square = echo(1, 3, 3, 3)
    assert main(["infer", "-m", str(square), "-i", str(tmp_path / "a.png")]) == 1
    assert "give -layout NCHW or NHWC" in capsys.readouterr().err
    for layout, first in (("NHWC", [1, 2, 3]), ("x[NCHW]", [1, 1, 1])):
        found = infer(capsys, square, tmp_path / "a.png", "-layout", layout)["y"]
        assert np.reshape(found, (3, 3, 3))[0, 0].tolist() == first
    assert main(["infer", "-m", str(square), "-i", str(tmp_path / "a.png"), "-layout", "[NC]"]) == 1
    err = capsys.readouterr().err
    assert "the model cannot be changed so" in err
    assert err.count("\n") == 1
    assert main(["infer", "-m", str(square), "-i", str(tmp_path / "a.png"), "-layout", "z[NCHW]"]) == 1
    assert "-layout: the model has no input 'z', but x" in capsys.readouterr().err


def test_contenders_get_the_changed_model(echo: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    model = str(echo(-1, 3))
    assert main(["bench", *QUICK, "-m", model, "-ip", "u8", "-op", "i32", "--compare", "-nireq", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [result["name"] for result in found["results"]][:2] == ["ovengine", "AsyncInferQueue"]
    assert set(found["largest_difference"].values()) == {0.0}


def test_libraries_of_operators_are_loaded(tiny_mlp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "extension.cpp"
    # What OPENVINO_CREATE_EXTENSIONS makes, without an operator.
    source.write_text(
        "#include <cstdio>\n#include <openvino/core/extension.hpp>\n"
        'extern "C" __attribute__((visibility("default"))) void create_extensions(std::vector<ov::Extension::Ptr>&) {\n'
        '    std::fputs("extension loaded\\n", stderr);\n}\n'
    )
    library = tmp_path / "extension.so"
    include = Path(ov.__file__).parent / "include"
    subprocess.run(["c++", "-std=c++17", "-shared", "-fPIC", f"-I{include}", source, "-o", library], check=True)
    command = [sys.executable, "-m", "ovengine", "bench", *QUICK, "-m", str(tiny_mlp)]
    done = subprocess.run([*command, "-extensions", str(library)], capture_output=True, text=True, check=True)
    assert done.stderr == "extension loaded\n"
    assert main(["bench", *QUICK, "-m", str(tiny_mlp), "-extensions", str(tmp_path / "absent.so")]) == 1
    err = capsys.readouterr().err
    assert "-extensions: OpenVINO cannot load" in err
    assert err.count("\n") == 1


# -- from a file, layers, reports -------------------------------------------------------------------------------------


def test_a_file_that_is_compiled_as_it_is_makes_no_batches(
    echo: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = str(echo(1, 3))
    assert main(["bench", *QUICK, "-m", model, "-lfile", "--compare", "-nireq", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [result["name"] for result in found["results"]] == ["ovengine", "AsyncInferQueue", "compiled_model()"]
    assert "takes no rows" in found["skipped"]["BATCH:CPU(16)"]
    assert main(["bench", *QUICK, "-m", str(tmp_path / "absent.xml"), "-lfile"]) == 1
    assert "absent.xml" in capsys.readouterr().err
    assert main(["bench", *QUICK, "-m", model, "-lfile", "-ip", "u8"]) == 1
    assert "-lfile takes the file as it is" in capsys.readouterr().err


def test_the_times_of_layers_are_shown(tiny_mlp: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    graph = tmp_path / "graph.xml"
    arguments = ["bench", *QUICK, "-m", str(tiny_mlp), "--max-batch-size", "4", "-exec_graph_path", str(graph)]

    def layers(*more: str) -> list[dict[str, Any]]:
        assert main([*arguments, "--json", *more]) == 0
        found: list[dict[str, Any]] = json.loads(capsys.readouterr().out).get("layers", [])
        return found

    assert layers() == []
    assert layers("-pc", "no") == []
    names = [layer["name"] for layer in layers("-pc")]
    assert names[0] == "x"
    assert [layer["name"] for layer in layers("-pcsort", "no_sort")] == names
    slowest = layers("-pcsort", "sort")
    assert sorted(layer["name"] for layer in slowest) == sorted(names)
    times = [layer["real_ms"] for layer in slowest]
    assert times == sorted(times, reverse=True)
    executed = layers("-pc", "-pcsort", "simple_sort")
    assert {layer["status"] for layer in executed} == {"EXECUTED"}
    assert len(executed) < len(names)
    assert all(layer["kind"] and layer["implementation"] for layer in executed)
    assert graph.read_text().startswith("<?xml")
    assert main([*arguments, "-pc"]) == 0
    out = capsys.readouterr().out
    assert "layers of one inference of 4 rows (average of 5):" in out
    assert "all layers" in out


@pytest.mark.parametrize("as_json", [False, True])
def test_reports_are_those_of_benchmark_app(
    tiny_mlp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    app_folder, our_folder = tmp_path / "app", tmp_path / "ours"
    app = "import sys; from openvino.tools.benchmark.main import main; sys.exit(main())"
    for report_type in ("average_counters", "detailed_counters"):
        common = ["-m", str(tiny_mlp), "-data_shape", "[1,16]", "-niter", "20", "-nireq", "1", "-hint", "tput"]
        common += ["-latency_percentile", "90", "-report_type", report_type, "-pcsort", "sort"]
        common += ["-json_stats"] if as_json else []
        for folder in (app_folder, our_folder):
            folder.mkdir(exist_ok=True)
        subprocess.run(
            [sys.executable, "-c", app, *common, "-report_folder", str(app_folder)], check=True, capture_output=True
        )
        assert main(["bench", *common, "-report_folder", str(our_folder)]) == 0
    capsys.readouterr()
    names = {path.name for path in app_folder.iterdir()}
    assert names == {path.name for path in our_folder.iterdir()}
    read: Callable[[Path], Mapping[str, Any]] = _read_json if as_json else _read_csv
    name = f"benchmark_report.{'json' if as_json else 'csv'}"
    theirs, ours = read(app_folder / name), read(our_folder / name)
    assert theirs.keys() == ours.keys()
    setup, results = list(theirs)[1:]
    assert set(ours[setup]) >= set(theirs[setup])
    differ = {"read model time (ms)", "compile model time (ms)", "first inference time (ms)", "load model time (ms)"}
    assert set(ours[results]) - differ == set(theirs[results]) - differ
    assert (ours[results]["total number of iterations"], ours[setup]["batch size"]) == ("20", "1")
    for name in names - {"benchmark_report.csv", "benchmark_report.json"}:
        if as_json:
            assert _skeleton(_read_json(our_folder / name)) == _skeleton(_read_json(app_folder / name))
        else:
            assert (our_folder / name).read_text().split("\n")[0].rstrip() == (
                (app_folder / name).read_text().split("\n")[0].strip().rstrip('"').rstrip()
            ).replace('"', "")


def _read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def _read_csv(path: Path) -> dict[str, dict[str, str]]:
    """Sections by title."""
    found: dict[str, dict[str, str]] = {}
    for section in path.read_text().strip().split("\n\n"):
        title, *lines = section.split("\n")
        found[title] = dict(csv.reader(lines, delimiter=";"))
    return found


def _skeleton(value: Any) -> Any:
    """Keys, and of lists the first element."""
    if isinstance(value, dict):
        return {key: _skeleton(one) for key, one in value.items() if key != "report_type"}
    return [_skeleton(value[0])] if isinstance(value, list) else None


@pytest.mark.parametrize("option", ["--plot", "-dump_config", "-exec_graph_path", "-report_folder"])
def test_what_cannot_be_written_is_said_before_the_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    target = tmp_path / "absent" / "file.xml"
    arguments = [option, str(target), *(["-report_type", "no_counters"] if option == "-report_folder" else [])]
    assert main(["bench", "-m", "absent.xml", *arguments]) == 1
    err = capsys.readouterr().err
    assert "cannot write" in err
    assert err.count("\n") == 1
