"""Finds plugins, keeps them apart from each other, and knows how each is doing.

Built-ins are registered first and in the same way as third-party plugins: as modules with hooks. Each entry point of
the group `ovengine` is loaded on its own, so that a broken one costs a warning and itself, nothing else.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import pluggy

from ovengine import hookspecs
from ovengine.config import close_matches
from ovengine.errors import PluginError, PluginWarning, UnknownPluginError

if TYPE_CHECKING:
    import argparse
    from importlib.metadata import EntryPoint

    from ovengine.hookspecs import ModelLoader
    from ovengine.model import Model

__all__ = ["GROUP", "PluginInfo", "Plugins", "default", "inventory"]

GROUP = "ovengine"
# As with all plugins, the last one registered is asked first.
BUILTINS = (
    "ovengine.builtin.model_loaders.frontend",
    "ovengine.builtin.model_loaders.openvino",
    "ovengine.builtin.model_loaders.onnx",
    "ovengine.builtin.model_loaders.blob",
    "ovengine.builtin.model_loaders.ir",
    "ovengine.builtin.device_selectors.auto",
    "ovengine.builtin.batchers.none",
    "ovengine.builtin.batchers.fixed",
    "ovengine.builtin.batchers.adaptive",
    "ovengine.builtin.scheduler_policies.priority",
    "ovengine.builtin.scheduler_policies.round_robin",
)

Kind = Literal["model_loader", "device_selector", "batcher", "scheduler_policy", "observer", "cli", "plugin"]
Status = Literal["ok", "broken", "disabled"]


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """One line of `ovengine plugins`.

    name: what users pick it by; of an observer, or where the plugin did not get so far, the entry point's name.
    kind: `plugin` where it did not get so far as to tell.
    source: the distribution that it comes from, `built-in`, or the module when it was registered by hand.
    reason: why it is broken or disabled.
    """

    name: str
    kind: Kind
    version: str
    source: str
    status: Status = "ok"
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Kind:
    hook: str
    attributes: tuple[str, ...]  # of the objects, besides `name`


KINDS: Mapping[str, _Kind] = {
    "model_loader": _Kind("ovengine_model_loaders", ("can_load", "load")),
    "device_selector": _Kind("ovengine_device_selectors", ("select",)),
    "batcher": _Kind("ovengine_batchers", ("plan",)),
    "scheduler_policy": _Kind("ovengine_scheduler_policies", ("native",)),
}
OBSERVERS: Mapping[str, Kind] = {
    "ovengine_model_loaded": "observer",
    "ovengine_model_closed": "observer",
    "ovengine_cli_commands": "cli",
}


@dataclass(slots=True)
class _Source:
    """Where a registered plugin comes from."""

    name: str
    version: str
    source: str


@dataclass(slots=True)
class _Entry:
    """A named object that a plugin offers, or a plugin that offers none."""

    info: PluginInfo
    value: Any = None

    def mark(self, status: Status, reason: str) -> None:
        self.info = PluginInfo(self.info.name, self.info.kind, self.info.version, self.info.source, status, reason)


class Plugins:
    """A set of plugins: the built-ins, those installed, and those handed over.

    Example:
        >>> plugins = Plugins(extra=[my_module])
        >>> engine = ovengine.Engine(plugins=plugins)

    Args:
        extra: plugin objects to add: modules, or instances with hooks.
        entry_points: False leaves out installed plugins.
        disabled: names of distributions or entry points to leave out; None: those in OVENGINE_DISABLED_PLUGINS,
            separated by commas.
    """

    def __init__(
        self,
        extra: Iterable[object] = (),
        *,
        entry_points: bool = True,
        disabled: Iterable[str] | None = None,
    ) -> None:
        if disabled is None:
            disabled = os.environ.get("OVENGINE_DISABLED_PLUGINS", "").split(",")
        self._disabled = {_normal(name) for name in disabled if name.strip()}
        self._manager = pluggy.PluginManager("ovengine")
        self._manager.add_hookspecs(hookspecs)
        self._sources: dict[int, _Source] = {}
        self._entries: list[_Entry] = []
        self._preference: dict[str, list[_Entry]] = {kind: [] for kind in KINDS}
        for module in BUILTINS:
            self._register(importlib.import_module(module), _Source(module, _own_version(), "built-in"))
        if entry_points:
            for entry_point in _installed():
                self._register_entry_point(entry_point)
        for plugin in extra:
            module = getattr(plugin, "__name__", type(plugin).__module__)
            self._register(plugin, _Source(module, str(getattr(plugin, "__version__", "")), module))
        self._collect()

    # -- for the engine -----------------------------------------------------------------------------------------------

    def names(self, kind: str) -> tuple[str, ...]:
        """Return the names to choose from, those of third parties first.

        Args:
            kind: `model_loader`, `device_selector`, `batcher` or `scheduler_policy`.

        Returns:
            The names.
        """
        return tuple(entry.info.name for entry in self._preference[kind])

    def get(self, kind: str, name: str) -> Any:
        """Return the object of that name.

        Args:
            kind: as for `names`.
            name: of the object.

        Returns:
            What the plugin's hook yielded.

        Raises:
            UnknownPluginError: there is no such object, or its plugin is broken or disabled; the text lists the
                choices.
        """
        for entry in self._preference[kind]:
            if entry.info.name == name:
                return entry.value
        noun = kind.replace("_", " ")
        for entry in self._entries:
            if entry.info.status != "ok" and name in (entry.info.name, entry.info.source):
                raise UnknownPluginError(f"{noun} {name!r} is {entry.info.status}: {entry.info.reason}")
        choices = self.names(kind)
        raise UnknownPluginError(
            f"unknown {noun} {name!r}{close_matches(str(name), choices)}; available: {', '.join(choices)}"
        )

    def model_loaders(self) -> Iterator[ModelLoader]:
        """Return all model loaders, in the order in which they are asked."""
        return (entry.value for entry in self._preference["model_loader"])

    def report_failure(self, plugin: object, problem: object, consequence: str) -> None:
        """Warn that a plugin failed, and list it as broken from now on.

        Args:
            plugin: an object that `get` returned.
            problem: an exception, or a text.
            consequence: what happens instead, for the warning.
        """
        for entry in self._entries:
            if entry.value is plugin:
                reason = describe(problem)
                entry.mark("broken", reason)
                _warn(f"{_title(entry.info)} failed: {reason}; {consequence}")
                return

    def model_loaded(self, model: Model) -> None:
        """Call the hook `ovengine_model_loaded` of all plugins.

        Args:
            model: that was loaded.
        """
        self._notify("ovengine_model_loaded", model=model)

    def model_closed(self, model: Model) -> None:
        """Call the hook `ovengine_model_closed` of all plugins.

        Args:
            model: that was closed.
        """
        self._notify("ovengine_model_closed", model=model)

    # -- for the command line -----------------------------------------------------------------------------------------

    def cli_commands(self, subparsers: argparse._SubParsersAction[Any]) -> None:
        """Let plugins add commands to the command line.

        Args:
            subparsers: of the parser of `ovengine`.
        """
        self._notify("ovengine_cli_commands", subparsers=subparsers)

    def inventory(self) -> list[PluginInfo]:
        """Return a `PluginInfo` of each plugin, built-ins first, with its state now."""
        infos = [entry.info for entry in self._entries]
        return sorted(infos, key=lambda info: info.source != "built-in")

    # -- registration -------------------------------------------------------------------------------------------------

    def _register_entry_point(self, entry_point: EntryPoint) -> None:
        distribution = entry_point.dist
        source = _Source(
            entry_point.name,
            distribution.version if distribution else "",
            distribution.name if distribution else entry_point.value,
        )
        if {_normal(source.name), _normal(source.source)} & self._disabled:
            self._fail(source, "in OVENGINE_DISABLED_PLUGINS", status="disabled")
            return
        try:
            plugin = entry_point.load()
        # A plugin may do anything while it is imported, sys.exit() included.
        except (Exception, SystemExit) as error:
            self._fail(source, f"cannot be imported: {describe(error)}")
            return
        self._register(plugin, source)

    def _register(self, plugin: object, source: _Source) -> None:
        if self._manager.is_registered(plugin):
            self._fail(source, "is registered already")
            return
        try:
            if isinstance(plugin, type):
                raise PluginError("is a class; register an instance or a module")
            self._manager.register(plugin, name=f"{len(self._sources)}:{source.name}")
            self._manager.check_pending()
            callers = self._manager.get_hookcallers(plugin) or []
            if not callers:
                raise PluginError("has no function marked with ovengine.hookimpl")
            if any(impl.wrapper or impl.hookwrapper for c in callers for impl in c.get_hookimpls()):
                raise PluginError("wraps hooks, which ovengine does not support")
        except Exception as error:  # pluggy runs code of the plugin (attribute access) while it looks for hooks
            if self._manager.is_registered(plugin):
                self._manager.unregister(plugin)
            self._fail(source, describe(error))
            return
        self._sources[id(plugin)] = source
        for name, kind in OBSERVERS.items():
            if any(caller.name == name for caller in callers):
                info = PluginInfo(source.name, kind, source.version, source.source)
                self._entries.append(_Entry(info, plugin))

    def _fail(self, source: _Source, reason: str, status: Status = "broken") -> None:
        info = PluginInfo(source.name, "plugin", source.version, source.source, status, reason)
        self._entries.append(_Entry(info))
        if status == "broken":
            _warn(f"{_title(info)} is left out: {reason}")

    def _collect(self) -> None:
        """Ask each plugin for its objects; the first to take a name keeps it, and built-ins come first."""
        taken: dict[tuple[str, str], PluginInfo] = {}
        found: dict[int, list[_Entry]] = {}
        order = {plugin: index for index, plugin in enumerate(self._sources)}
        for kind, about in KINDS.items():
            impls = getattr(self._manager.hook, about.hook).get_hookimpls()
            for impl in sorted(impls, key=lambda impl: order[id(impl.plugin)]):
                source = self._sources[id(impl.plugin)]
                for value in self._offered(impl.function, source, about):
                    entry = self._accept(kind, about, value, source, taken)
                    if entry is not None:
                        found.setdefault(id(impl), []).append(entry)
            # pluggy keeps implementations in reverse order of calling (last registered, `tryfirst` last).
            self._preference[kind] = [entry for impl in reversed(impls) for entry in found.get(id(impl), ())]

    def _offered(self, hook: Callable[[], Any], source: _Source, about: _Kind) -> list[Any]:
        try:
            offered = hook()
            if isinstance(offered, (str, bytes, Mapping)):
                raise PluginError(f"{about.hook} returned {type(offered).__name__}, not a list of objects")
            return list(offered)
        except Exception as error:  # whatever a hook raises, or its result when iterated
            self._fail(source, f"{about.hook} failed: {describe(error)}")
            return []

    def _accept(
        self, kind: str, about: _Kind, value: Any, source: _Source, taken: dict[tuple[str, str], PluginInfo]
    ) -> _Entry | None:
        name = getattr(value, "name", None)
        label = name if isinstance(name, str) and name else source.name
        info = PluginInfo(label, cast("Kind", kind), source.version, source.source)
        entry = _Entry(info, value)
        problem = _shape_problem(value, name, about)
        if problem is None and (kind, label) in taken:
            owner = taken[kind, label].source
            problem = f"the name {label!r} is taken by {'a built-in' if owner == 'built-in' else owner}"
        self._entries.append(entry)
        if problem is not None:
            entry.mark("broken", problem)
            _warn(f"{_title(info)} is left out: {problem}")
            return None
        taken[kind, label] = info
        return entry

    def _notify(self, hook: str, **arguments: object) -> None:
        for impl in reversed(getattr(self._manager.hook, hook).get_hookimpls()):
            try:
                impl.function(*(arguments[name] for name in impl.argnames))
            except Exception as error:  # an observer must not fail what it observes
                kind = OBSERVERS[hook]
                for entry in self._entries:
                    if entry.value is impl.plugin and entry.info.kind == kind:
                        entry.mark("broken", f"{hook} failed: {describe(error)}")
                        _warn(f"{_title(entry.info)} failed in {hook}: {describe(error)}")


_ABSENT = object()


def _shape_problem(value: object, name: object, about: _Kind) -> str | None:
    """Why `value` is not a plugin object of this kind; None when it looks like one."""
    what = f"{about.hook} yielded {type(value).__name__}"
    if isinstance(value, type):
        return f"{about.hook} yielded the class {value.__name__}, not an instance of it"
    if not isinstance(name, str) or not name:
        return f"{what} without a name"
    # Looked up statically: `native` may be a property that raises, which is reported when the policy is used.
    missing = [a for a in about.attributes if inspect.getattr_static(value, a, _ABSENT) is _ABSENT]
    if missing:
        return f"{what} without {', '.join(missing)}"
    return None


def describe(problem: object) -> str:
    """One line for a warning: the type and text of an exception, or the text itself."""
    if not isinstance(problem, BaseException):
        return str(problem)
    text = " ".join(str(problem).split())
    kind = type(problem).__name__
    return text if text and isinstance(problem, PluginError) else f"{kind}: {text}" if text else kind


def _title(info: PluginInfo) -> str:
    kind = "plugin" if info.kind == "plugin" else f"{info.kind.replace('_', ' ')} plugin"
    return f"{kind} {info.name!r} ({info.source}{' ' + info.version if info.version else ''})"


def _warn(text: str) -> None:
    # Which stack level called is of no use here: the culprit is named in the text.
    warnings.warn(text, PluginWarning, stacklevel=2)


def _normal(name: str) -> str:
    """Distribution names compare regardless of case, dots, dashes and underscores (PyPI's own rule)."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _installed() -> list[EntryPoint]:
    from importlib.metadata import entry_points  # slow to import; needed here only

    return sorted(entry_points(group=GROUP), key=lambda entry_point: entry_point.name)


def _own_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ovengine")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return ""


_default: Plugins | None = None
_default_lock = threading.RLock()  # a signal handler may come back here on the same thread


def default() -> Plugins:
    """The plugins of the default engine: built-ins and all that are installed, found once per process."""
    global _default
    with _default_lock:
        if _default is None:
            _default = Plugins()
        return _default


def renew_lock() -> None:
    """In the child of a fork: another thread of the parent may have held it."""
    global _default_lock
    _default_lock = threading.RLock()


def inventory() -> list[PluginInfo]:
    """All plugins that the default engine knows, as `ovengine plugins` lists them."""
    return default().inventory()
