"""The model that the options describe, and how it is loaded."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import ovengine
from ovengine.cli._config_files import Settings
from ovengine.cli._interrupts import interruptible
from ovengine.cli._preprocessing import changed, changes_values, reason
from ovengine.cli._progress import Progress
from ovengine.errors import ConfigError, ModelError, ModelNotFoundError

if TYPE_CHECKING:
    import openvino as ov


class ModelSource:
    """The model that `-m` names: the file as it is, or read by OpenVINO's Python API and changed as options ask for."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.path = Path(args.model)
        self._args = args

    @property
    def is_blob(self) -> bool:
        """Whether it was compiled before."""
        return self.path.suffix.lower() == ".blob"

    @property
    def is_changed(self) -> bool:
        """Whether the options ask for another model than the file has."""
        # Pictures go by the layout that is given, and of a blob nothing else does.
        return changes_values(self._args) or bool(self._args.layout and not self.is_blob)

    def for_ovengine(self) -> object:
        """What `ovengine.load` takes. Raises ModelNotFoundError, ModelError, ConfigError."""
        if not self._args.extensions and not self.is_changed:
            return self.path
        if self._args.loader is not None:
            raise ConfigError("--loader reads models as they are; drop it, or the options that change the model")
        return self.read(self.core())

    def core(self) -> ov.Core:
        """A core of OpenVINO's Python API, with the extensions. Raises ConfigError."""
        import openvino as ov

        core = ov.Core()
        for library in filter(None, (self._args.extensions or "").split(",")):
            try:
                core.add_extension(library.strip())
            except RuntimeError as error:
                raise ConfigError(f"-extensions: OpenVINO cannot load {library.strip()!r}: {reason(error)}") from None
        return core

    def read(self, core: ov.Core) -> ov.Model:
        """The model with all changes but `-shape`. Raises ModelNotFoundError, ModelError, ConfigError."""
        if self.is_blob:
            raise ConfigError(f"{self.path} is compiled already: it cannot be changed, and is no model to compile")
        if not self.path.exists():
            raise ModelNotFoundError(f"no model file at {str(self.path)!r}")
        try:
            model = core.read_model(self.path)
        except RuntimeError as error:
            raise ModelError(f"OpenVINO cannot read {str(self.path)!r}: {reason(error)}") from None
        return changed(model, self._args) if self.is_changed else model


def load_model(source: ModelSource, settings: Settings, args: argparse.Namespace, progress: Progress) -> ovengine.Model:
    """Load the model with the options of `add_engine_options`; the caller closes it."""
    progress.stage(f"loading {source.path.name}")
    return interruptible(
        lambda: ovengine.load(
            source.for_ovengine(),
            device=settings.device,
            hint=settings.engine_hint,
            config=settings.config,
            shapes=args.shape,
            loader=args.loader,
            device_selector=args.device_selector,
            batcher=args.batcher,
            scheduler=args.scheduler,
            max_batch_size=args.max_batch_size,
            max_queue_delay_us=args.max_queue_delay_us,
            max_queue_size=args.max_queue_size,
            memory_limit=args.memory_limit,
            profile=args.profile,
            name=source.path.stem or None,
        )
    )


def load_from_file(source: ModelSource, settings: Settings, jobs: int, progress: Progress) -> ovengine.Model:
    """Let OpenVINO compile the file, without a graph in between, and serve what comes of it; the caller closes it.

    Args:
        source: the file.
        settings: of OpenVINO.
        jobs: requests in flight; 0 for as many as OpenVINO thinks best.
        progress: is told the stage.
    """
    from ovengine.compat._adopted import adopt

    def load() -> ovengine.Model:
        core = source.core()
        device = settings.device
        if device.upper() == "AUTO" and "CPU" in core.available_devices:
            device = "CPU"  # where AUTO ends up, too, after detours of its own
        try:
            compiled = core.compile_model(str(source.path), device, settings.openvino_config)
        except RuntimeError as error:
            raise ModelError(f"OpenVINO cannot load {str(source.path)!r}: {reason(error)}") from None
        return adopt(compiled, jobs, with_ports=True)[0]

    if source.is_changed:
        raise ConfigError("-lfile takes the file as it is; drop it, or the options that change the model")
    progress.stage(f"loading {source.path.name}")
    return interruptible(load)
