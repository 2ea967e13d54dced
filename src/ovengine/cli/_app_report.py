"""The report files of OpenVINO's benchmark_app, about ovengine, for programs that read those."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ovengine.cli._layers import Layer, average, in_order, share
from ovengine.errors import ConfigError

# Title in CSV, key in JSON.
SECTIONS = {
    "Command line parameters": "cmd_options",
    "Configuration setup": "configuration_setup",
    "Execution results": "execution_results",
}


def command_line(arguments: Sequence[str]) -> dict[str, str]:
    """Options and their last values, as they were written."""
    found: dict[str, str] = {}
    option = ""
    for argument in arguments:
        if argument.startswith("-"):
            option, separator, value = argument.partition("=")
            found[option] = value if separator else ""
        elif option:
            found[option] = argument
    return found


class AppReport:
    """Writes `benchmark_report` and the others into a folder."""

    def __init__(self, folder: Path, report_type: str, *, as_json: bool, order: str | None) -> None:
        self._folder = folder
        self._type = report_type
        self._suffix = "json" if as_json else "csv"
        self._order = order

    @property
    def paths(self) -> list[Path]:
        """All files that it writes."""
        names = ["report"]
        if self._type != "no_counters":
            names.append(f"{self._type}_report")
        if self._order is not None:
            names.append("sorted_report")
        return [self._folder / f"benchmark_{name}.{self._suffix}" for name in names]

    def write(
        self, arguments: Sequence[str], setup: Mapping[str, Any], results: Mapping[str, Any], layers: list[list[Layer]]
    ) -> None:
        """All of them. Raises ConfigError."""
        sections = dict(zip(SECTIONS, (command_line(arguments), setup, results), strict=True))
        contents = [self._sections(sections)]
        if self._type == "average_counters":
            contents.append(self._counters([average(layers)], "average"))
        elif self._type == "detailed_counters":
            contents.append(self._counters(layers, "detailed"))
        if self._order is not None:
            contents.append(self._sorted(in_order(average(layers), self._order)))
        for path, content in zip(self.paths, contents, strict=True):
            try:
                path.write_text(content, encoding="utf-8")
            except OSError as error:
                raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error

    def _sections(self, sections: Mapping[str, Mapping[str, Any]]) -> str:
        if self._suffix == "json":
            texts = {SECTIONS[title]: {k: str(v) for k, v in section.items()} for title, section in sections.items()}
            return json.dumps(texts)
        lines = []
        for title, section in sections.items():
            lines += [title, *(f"{name};{value}" for name, value in section.items()), ""]
        return "\n".join([*lines, ""])

    def _counters(self, inferences: Sequence[Sequence[Layer]], kind: str) -> str:
        if self._suffix == "json":
            found = [_as_json(layers) for layers in inferences]
            content = {"avg_performance": found[0]} if kind == "average" else {"detailed_performance": found}
            return json.dumps({"report_type": kind, **content}, indent=4)
        lines = []
        for layers in inferences:
            lines.append("layerName;execStatus;layerType;execType;realTime (ms);cpuTime (ms)")
            lines += [";".join(_cells(layer)) for layer in layers]
            lines += [";".join(["Total", "", "", "", *_totals(layers)]), ""]
        return "\n".join([*lines, ""])

    def _sorted(self, layers: Sequence[Layer]) -> str:
        shares = [f"{100 * share(layer, layers):.2f}%" for layer in layers]
        if self._suffix == "json":
            content = _as_json(layers)
            for node, text in zip(content["nodes"], shares, strict=True):
                node["%"] = text
            return json.dumps({"report_type": "sorted", "avg_performance": content}, indent=4)
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(
            ["layerName", "execStatus", "layerType", "execType", "realTime (ms)", "cpuTime (ms)", "proportion (%)"]
        )
        writer.writerows([*_cells(layer), text] for layer, text in zip(layers, shares, strict=True))
        real_ms, cpu_ms = _totals(layers)
        writer.writerows([[], [f"Total time: {real_ms} milliseconds"], [f"Total CPU time: {cpu_ms} milliseconds"]])
        return out.getvalue()


def _cells(layer: Layer) -> list[str]:
    return [
        layer.name,
        f"Status.{layer.status}",
        layer.kind,
        layer.implementation,
        f"{layer.real_ms:.3f}",
        f"{layer.cpu_ms:.3f}",
    ]


def _totals(layers: Sequence[Layer]) -> tuple[str, str]:
    return f"{sum(layer.real_ms for layer in layers):.3f}", f"{sum(layer.cpu_ms for layer in layers):.3f}"


def _as_json(layers: Sequence[Layer]) -> dict[str, Any]:
    keys = ("name", "status", "node_type", "exec_type", "real_time", "cpu_time")
    real_ms, cpu_ms = _totals(layers)
    nodes = [dict(zip(keys, _cells(layer), strict=True)) for layer in layers]
    return {"nodes": nodes, "total_real_time": real_ms, "total_cpu_time": cpu_ms}
