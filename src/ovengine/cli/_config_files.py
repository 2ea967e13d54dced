"""OpenVINO properties from options and from benchmark_app's JSON files: `{"CPU": {"NUM_STREAMS": "3"}}`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovengine.cli._options import HINTS
from ovengine.errors import ConfigError

HINT = "PERFORMANCE_HINT"


@dataclass(frozen=True)
class Settings:
    """Where a model runs, and with which OpenVINO properties.

    device: as given, or the only one of the file that properties come from, or AUTO.
    hint: a name of `ovengine.Hint` in lower case, `none`, or None where nobody said.
    config: other properties, by name.
    """

    device: str
    hint: str | None
    config: Mapping[str, Any]

    @property
    def engine_hint(self) -> str:
        """What `ovengine.load` takes. With none, OpenVINO gives one request all cores, unless `-nstreams` is given."""
        if self.hint == "none":
            return "throughput" if "NUM_STREAMS" in self.config else "latency"
        return self.hint or "throughput"

    @property
    def openvino_config(self) -> dict[str, Any]:
        """What `compile_model` takes."""
        hint = {} if self.hint == "none" else {HINT: self.engine_hint.upper()}
        return {**hint, **self.config}

    def dump(self, path: Path) -> None:
        """Write the file from which `-load_config` makes the same settings, here and in benchmark_app."""
        values = {name: _text(value) for name, value in self.openvino_config.items()}
        try:
            path.write_text(json.dumps({self.device: values}, indent=4) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error


def settings(args: argparse.Namespace) -> Settings:
    """Those of the options of `add_source_options`. Raises ConfigError where the file is not what it should be."""
    file = _read(Path(args.load_config)) if args.load_config else {}
    device = args.device or (next(iter(file)) if len(file) == 1 else "AUTO")
    config = _section(file, device, args.load_config)
    named = {
        "NUM_STREAMS": args.nstreams,
        "INFERENCE_NUM_THREADS": args.nthreads,
        "ENABLE_CPU_PINNING": args.pin,
        "INFERENCE_PRECISION_HINT": args.infer_precision,
        "CACHE_DIR": args.cache_dir,
    }
    config |= {name: value for name, value in named.items() if value is not None}
    config |= dict(args.config)
    hint = config.pop(HINT, None)
    if args.hint is not None:
        hint = HINTS.get(args.hint, args.hint)
    return Settings(device, None if hint is None else str(hint).lower(), config)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(section, dict) for section in content.values()):
        raise ConfigError(f'{path} has no properties by device, as in {{"CPU": {{"NUM_STREAMS": "3"}}}}')
    return content


def _section(file: Mapping[str, dict[str, Any]], device: str, path: str) -> dict[str, Any]:
    """Of the device, or of all devices of its kind: `GPU` for `GPU.1`."""
    if not file:
        return {}
    base = device.partition(":")[0].partition("(")[0]
    for name in (device, base, base.partition(".")[0]):
        if name in file:
            return dict(file[name])
    raise ConfigError(f"{path} has properties of {', '.join(file)}, and none of {device}; choose one with -d")


def _text(value: Any) -> str:
    return ("NO", "YES")[value] if isinstance(value, bool) else str(value)
