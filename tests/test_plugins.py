"""Plugins: found, kept apart, replaced by a built-in where they fail, and listed with their state."""

from __future__ import annotations

import argparse
import inspect
import re
import types
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import ovengine
from ovengine import hookspecs, plugins
from ovengine.errors import ModelError, PluginError, PluginWarning, UnknownPluginError
from ovengine.plugins import PluginInfo, Plugins
from ovengine.testing import TINY_MLP, fake_model, mlp

MakePlugins = Callable[..., Plugins]
MakeEngine = Callable[..., ovengine.Engine]


def module(**functions: Callable[..., Any]) -> types.ModuleType:
    """A plugin module with these hooks."""
    made = types.ModuleType("sample_plugin")
    for name, function in functions.items():
        function.__name__ = name
        setattr(made, name, ovengine.hookimpl(function))
    return made


def info(of: Plugins, name: str) -> PluginInfo:
    return next(i for i in reversed(of.inventory()) if i.name == name)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], None]:
    """Pretend that entry points are installed: name -> the object that they load, or the exception that they raise."""

    class Fake:
        def __init__(self, name: str, value: Any) -> None:
            self.name, self.value, self.loaded = name, f"{name}_module", value
            self.dist = types.SimpleNamespace(name=f"{name}-dist", version="1.2")

        def load(self) -> Any:
            if isinstance(self.loaded, BaseException):
                raise self.loaded
            return self.loaded

    def install(entry_points: dict[str, Any]) -> None:
        monkeypatch.setattr(plugins, "_installed", lambda: [Fake(name, value) for name, value in entry_points.items()])

    return install


class Loader:
    def __init__(self, name: str = "mine", result: Any = None, suffix: str = ".mine") -> None:
        self.name, self.result, self.suffix = name, result, suffix

    def can_load(self, source: object) -> bool:
        return str(source).endswith(self.suffix)

    def load(self, source: Any, context: hookspecs.LoadContext) -> object:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


class Selector:
    name = "mine"

    def __init__(self, result: Any) -> None:
        self.result = result

    def select(self, context: hookspecs.DeviceContext) -> Any:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


class Batcher:
    name = "mine"

    def __init__(self, result: Any) -> None:
        self.result = result

    def plan(self, context: hookspecs.BatchContext) -> Any:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


class Policy:
    name = "mine"

    def __init__(self, native: Any) -> None:
        self.native = native


# -- the hooks, one by one --------------------------------------------------------------------------------------------


def test_ovengine_model_loaders(ovengine_engine: MakeEngine) -> None:
    plugin = module(ovengine_model_loaders=lambda: [Loader(result=mlp(*TINY_MLP))])
    model = ovengine_engine(plugin).load("anything.mine")
    assert "loader: mine" in str(model.plan)
    assert model.name == "anything"


def test_ovengine_device_selectors(ovengine_engine: MakeEngine) -> None:
    plan = ovengine.DevicePlan("CPU", {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1}, 1, 1, why="to be quiet")
    plugin = module(ovengine_device_selectors=lambda: [Selector([plan])])
    model = ovengine_engine(plugin).load(mlp(*TINY_MLP), device_selector="mine")
    assert model.plan.devices == (plan,)
    assert "CPU, by mine" in str(model.plan)


def test_ovengine_batchers(ovengine_engine: MakeEngine) -> None:
    batch = ovengine.BatchPlan((1, 3), {3: 7.5}, 11, "by threes")
    plugin = module(ovengine_batchers=lambda: [Batcher(batch)])
    model = ovengine_engine(plugin).load(mlp(*TINY_MLP), batcher="mine")
    assert model.wait_ready(60)
    assert model.plan.ladder == (1, 3)
    assert model.plan.batch.max_queue_delay_us == 11
    assert model.plan.batch.cost_us[3] == 7.5
    assert model.plan.batch.cost_us[1] > 0  # measured, as the plugin left it out


def test_ovengine_scheduler_policies(ovengine_engine: MakeEngine) -> None:
    plugin = module(ovengine_scheduler_policies=lambda: [Policy("round_robin")])
    model = ovengine_engine(plugin).load(mlp(*TINY_MLP), scheduler="mine")
    assert model.plan.scheduler == "mine"


def test_ovengine_model_loaded(ovengine_engine: MakeEngine) -> None:
    seen: list[Any] = []
    engine = ovengine_engine(module(ovengine_model_loaded=lambda model: seen.append(model)))
    model = engine.load(mlp(*TINY_MLP))
    assert seen == [model]


def test_ovengine_model_closed(ovengine_engine: MakeEngine) -> None:
    seen: list[Any] = []
    engine = ovengine_engine(module(ovengine_model_closed=lambda model: seen.append((model.name, model.closed))))
    model = engine.load(mlp(*TINY_MLP), name="observed")
    assert not seen
    model.close()
    model.close()
    assert seen == [("observed", True)]


def test_ovengine_cli_commands(ovengine_plugins: MakePlugins) -> None:
    def add(subparsers: Any) -> None:
        subparsers.add_parser("hello").set_defaults(run=lambda arguments: 7)

    parser = argparse.ArgumentParser()
    ovengine_plugins(module(ovengine_cli_commands=add)).cli_commands(parser.add_subparsers())
    arguments = parser.parse_args(["hello"])
    assert arguments.run(arguments) == 7


HOOKS = [name for name in hookspecs.__all__ if name.startswith("ovengine_")]


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented_and_has_a_test_of_its_own(hook: str) -> None:
    assert f"test_{hook}" in globals()
    page = (Path(__file__).parent.parent / "docs" / "hooks.md").read_text()
    section = re.search(rf"^## {hook}\((?P<arguments>[^)]*)\)$(?P<text>.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert section, f"docs/hooks.md has no section '## {hook}(...)'"
    assert section["arguments"] == ", ".join(inspect.signature(getattr(hookspecs, hook)).parameters)
    assert "```python" in section["text"]
    docstring = inspect.getdoc(getattr(hookspecs, hook)) or ""
    assert ">>>" in docstring
    assert docstring.split("\n\n")[-1].startswith("Cost and thread")


# -- choosing by name -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("model_loader", {"ir", "onnx", "blob", "openvino", "frontend"}),
        ("device_selector", {"auto"}),
        ("batcher", {"none", "fixed", "adaptive"}),
        ("scheduler_policy", {"priority", "round_robin"}),
    ],
)
def test_the_builtins_are_there_and_an_unknown_name_lists_them(
    ovengine_plugins: MakePlugins, kind: str, names: set[str]
) -> None:
    known = ovengine_plugins()
    assert set(known.names(kind)) == names
    with pytest.raises(UnknownPluginError) as caught:
        known.get(kind, "prioriti")
    assert kind.replace("_", " ") in str(caught.value)
    assert all(name in str(caught.value) for name in names)


def test_a_close_name_is_suggested(ovengine_plugins: MakePlugins) -> None:
    with pytest.raises(UnknownPluginError, match="did you mean adaptive"):
        ovengine_plugins().get("batcher", "adptive")


def test_loaders_of_plugins_are_asked_before_the_builtins_and_frontend_last(ovengine_plugins: MakePlugins) -> None:
    known = ovengine_plugins(module(ovengine_model_loaders=lambda: [Loader("first"), Loader("second")]))
    names = [loader.name for loader in known.model_loaders()]
    assert names[:2] == ["first", "second"]
    assert names[-1] == "frontend"


def test_the_blob_loader_is_asked_before_the_onnx_loader_for_bytes(ovengine_plugins: MakePlugins) -> None:
    takers = [loader.name for loader in ovengine_plugins().model_loaders() if loader.can_load(b"RR_UPCVO and so on")]
    assert takers == ["blob", "onnx"]


# -- broken plugins ---------------------------------------------------------------------------------------------------


def unknown_hook() -> types.ModuleType:
    return module(ovengine_nonsense=lambda: [])


def wrong_signature() -> types.ModuleType:
    return module(ovengine_batchers=lambda surprise: [])


def failing(error: Exception) -> Callable[[], Any]:
    def hook() -> Any:
        raise error

    return hook


def half_way() -> Iterator[Any]:
    yield Batcher(None)
    raise RuntimeError("half way through")


def duplicate() -> types.ModuleType:
    policy = Policy("priority")
    policy.name = "priority"
    return module(ovengine_scheduler_policies=lambda: [policy])


BROKEN: dict[str, tuple[Any, str]] = {
    "import-error": (ImportError("no module named nothing"), "cannot be imported: ImportError: no module named"),
    "exits": (SystemExit(3), "cannot be imported: SystemExit: 3"),
    "no-hooks": (types.ModuleType("empty"), "no function marked with ovengine.hookimpl"),
    "a-class": (Policy, "is a class"),
    "unknown-hook": (unknown_hook(), "unknown hook 'ovengine_nonsense'"),
    "signature": (wrong_signature(), "surprise"),
    "raises": (module(ovengine_batchers=failing(RuntimeError("boom"))), "ovengine_batchers failed: RuntimeError: boom"),
    "half-way": (module(ovengine_batchers=half_way), "RuntimeError: half way through"),
    "nothing": (module(ovengine_batchers=lambda: None), "ovengine_batchers failed: TypeError"),
    "text": (module(ovengine_batchers=lambda: "mine"), "ovengine_batchers failed"),
    "yields-class": (module(ovengine_batchers=lambda: [Batcher]), "yielded the class Batcher"),
    "nameless": (module(ovengine_batchers=lambda: [object()]), "yielded object without a name"),
    "methodless": (module(ovengine_batchers=lambda: [Policy("priority")]), "yielded Policy without plan"),
    "duplicate": (duplicate(), "the name 'priority' is taken by a built-in"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_costs_a_warning_and_itself(
    name: str, installed: Callable[[dict[str, Any]], None], ovengine_plugins: MakePlugins
) -> None:
    value, reason = BROKEN[name]
    good = module(ovengine_batchers=lambda: [Batcher(None)])
    installed({name: value, "zz-good": good})
    with pytest.warns(PluginWarning, match=f"{name}-dist") as caught:
        known = Plugins(disabled=())
    assert len(caught) == 1
    assert reason in str(caught[0].message)
    (broken,) = [i for i in known.inventory() if i.status == "broken"]
    assert (broken.source, broken.version) == (f"{name}-dist", "1.2")
    assert reason in broken.reason
    assert known.get("batcher", "mine") is not None
    assert set(known.names("batcher")) == {"mine", "none", "fixed", "adaptive"}
    assert set(known.names("scheduler_policy")) == {"priority", "round_robin"}


def test_a_disabled_plugin_is_not_even_imported(
    installed: Callable[[dict[str, Any]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed({"one": ImportError("must not happen"), "two": ImportError("nor this"), "three": module()})
    monkeypatch.setenv("OVENGINE_DISABLED_PLUGINS", " One, two.DIST ,three")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        known = Plugins()
    third_party = [i for i in known.inventory() if i.source != "built-in"]
    assert [(i.name, i.status, i.reason) for i in third_party] == [
        (name, "disabled", "in OVENGINE_DISABLED_PLUGINS") for name in ("one", "two", "three")
    ]
    with pytest.raises(UnknownPluginError, match="batcher 'one' is disabled: in OVENGINE_DISABLED_PLUGINS"):
        known.get("batcher", "one")


def test_a_plugin_that_is_handed_over_twice_keeps_its_first_registration(ovengine_plugins: MakePlugins) -> None:
    plugin = module(ovengine_batchers=lambda: [Batcher(None)])
    with pytest.warns(PluginWarning, match="is registered already"):
        known = ovengine_plugins(plugin, plugin)
    assert known.get("batcher", "mine") is not None


def test_the_inventory_starts_with_the_builtins_and_names_observers(ovengine_plugins: MakePlugins) -> None:
    known = ovengine_plugins(module(ovengine_model_loaded=lambda model: None, ovengine_cli_commands=lambda: None))
    inventory = known.inventory()
    assert {i.source for i in inventory[:11]} == {"built-in"}
    assert {i.status for i in inventory} == {"ok"}
    assert [(i.name, i.kind) for i in inventory[11:]] == [("sample_plugin", "observer"), ("sample_plugin", "cli")]


def test_entry_points_are_read_from_the_group_ovengine(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def entry_points(*, group: str) -> list[EntryPoint]:
        asked.append(group)
        return [EntryPoint("b", "m", group), EntryPoint("a", "m", group)]

    monkeypatch.setattr("importlib.metadata.entry_points", entry_points)
    assert [entry_point.name for entry_point in plugins._installed()] == ["a", "b"]
    assert asked == ["ovengine"]


# -- plugins that fail when they are used -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (RuntimeError("boom"), "RuntimeError: boom"),
        (ModelError("odd"), "ModelError: odd"),
        (None, "select returned None"),
        ([], "select returned"),
        (["CPU"], "returned a str among its plans"),
        ([ovengine.DevicePlan("NPU")], "chose 'NPU'"),
        ([ovengine.DevicePlan("CPU", lanes=0)], "planned 0 lanes on CPU"),
    ],
)
def test_a_failing_selector_is_replaced_by_auto(ovengine_engine: MakeEngine, result: Any, reason: str) -> None:
    engine = ovengine_engine(module(ovengine_device_selectors=lambda: [Selector(result)]))
    with pytest.warns(PluginWarning, match="'mine' .sample_plugin.* failed: .*auto"):
        model = engine.load(mlp(*TINY_MLP), device_selector="mine")
    assert model.plan.devices[0].device == "CPU"
    assert info(engine.plugins, "mine").status == "broken"
    assert reason in info(engine.plugins, "mine").reason


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (RuntimeError("boom"), "RuntimeError: boom"),
        (None, "NoneType, not a BatchPlan"),
        (ovengine.BatchPlan(()), "the ladder ()"),
        (ovengine.BatchPlan((4, 1)), "the ladder (4, 1)"),
        (ovengine.BatchPlan((0, 1)), "the ladder (0, 1)"),
        (ovengine.BatchPlan((1, 16)), "over max_batch_size=8"),
        (ovengine.BatchPlan((1, 1 << 20)), "2 sizes up to 1048576; a ladder has at most 256 sizes of up to 65536 rows"),
        (ovengine.BatchPlan((1,), {1: float("nan")}), "a cost of nan us"),
        (ovengine.BatchPlan((1,), {1: -5.0}), "a cost of -5.0 us"),
        (ovengine.BatchPlan((1,), {}, -1), "max_queue_delay_us=-1"),
    ],
)
def test_a_failing_batcher_is_replaced_by_none(ovengine_engine: MakeEngine, result: Any, reason: str) -> None:
    engine = ovengine_engine(module(ovengine_batchers=lambda: [Batcher(result)]))

    def load() -> ovengine.Model:
        model = engine.load(mlp(*TINY_MLP), batcher="mine", max_batch_size=8)
        assert model.wait_ready(60)
        return model

    with pytest.warns(PluginWarning, match="'mine' .* failed: .*batching is off"):
        model = load()
    assert model.plan.ladder == (1,)
    assert info(engine.plugins, "mine").status == "broken"
    assert reason in info(engine.plugins, "mine").reason


class Raising:
    name = "mine"

    @property
    def native(self) -> object:
        raise RuntimeError("boom")


@pytest.mark.parametrize("policy", [Policy("nonsense"), Policy(None), Raising()])
def test_a_failing_policy_is_replaced_by_priority(ovengine_engine: MakeEngine, policy: Any) -> None:
    engine = ovengine_engine(module(ovengine_scheduler_policies=lambda: [policy]))
    with pytest.warns(PluginWarning, match="'mine' .* failed: .*'priority' instead"):
        model = engine.load(mlp(*TINY_MLP), scheduler="mine")
    assert model.plan.scheduler == "priority"
    assert info(engine.plugins, "mine").status == "broken"


def test_a_capsule_that_is_no_policy_is_replaced_by_priority(ovengine_engine: MakeEngine) -> None:
    import datetime

    capsule = datetime.datetime_CAPI  # a PyCapsule that happens to be at hand
    engine = ovengine_engine(module(ovengine_scheduler_policies=lambda: [Policy(capsule)]))
    with pytest.warns(PluginWarning, match="'mine' .* failed: .*'priority' instead"):
        model = engine.load(mlp(*TINY_MLP), scheduler="mine")
    assert model.plan.scheduler == "priority"


def test_a_failing_loader_asked_for_by_name_is_an_error(ovengine_engine: MakeEngine) -> None:
    engine = ovengine_engine(module(ovengine_model_loaders=lambda: [Loader(result=RuntimeError("boom"))]))
    with pytest.raises(PluginError, match="loader 'mine' failed: RuntimeError: boom"):
        engine.load("x.mine", loader="mine")


def test_a_failing_loader_that_was_not_asked_for_gives_way_to_the_next(ovengine_engine: MakeEngine) -> None:
    broken, good = Loader("mine", RuntimeError("boom")), Loader("good", mlp(*TINY_MLP))
    engine = ovengine_engine(module(ovengine_model_loaders=lambda: [broken, good]))
    with pytest.warns(PluginWarning, match="'mine' .* failed: .*asking the next loader"):
        model = engine.load("x.mine")
    assert "loader: good" in str(model.plan)


def test_what_a_loader_says_about_the_model_is_passed_on(ovengine_engine: MakeEngine) -> None:
    engine = ovengine_engine(module(ovengine_model_loaders=lambda: [Loader(result=ModelError("it is torn"))]))
    with pytest.raises(ModelError, match="it is torn"):
        engine.load("x.mine")
    assert info(engine.plugins, "mine").status == "ok"


def test_a_loader_that_returns_no_model_is_an_error(ovengine_engine: MakeEngine) -> None:
    engine = ovengine_engine(module(ovengine_model_loaders=lambda: [Loader(result=42)]))
    with pytest.raises(PluginError, match="returned int, which is not a model"):
        engine.load("x.mine", loader="mine")


def test_a_loader_may_leave_the_reading_to_the_builtins(ovengine_engine: MakeEngine, tiny_mlp: Path) -> None:
    engine = ovengine_engine(module(ovengine_model_loaders=lambda: [Loader(result=tiny_mlp)]))
    assert engine.load("x.mine").inputs[0].name == "x"


def test_a_failing_observer_does_not_fail_what_it_observes(ovengine_engine: MakeEngine) -> None:
    def fail(model: Any) -> None:
        raise RuntimeError("boom")

    seen: list[Any] = []
    engine = ovengine_engine(
        module(ovengine_model_loaded=lambda model: seen.append(1)), module(ovengine_model_loaded=fail)
    )
    with pytest.warns(PluginWarning, match="failed in ovengine_model_loaded: RuntimeError: boom"):
        engine.load(mlp(*TINY_MLP))
    assert seen == [1]
    assert sum(i.status == "broken" for i in engine.plugins.inventory()) == 1


def test_a_cli_plugin_that_fails_does_not_stop_the_command_line(ovengine_plugins: MakePlugins) -> None:
    def fail(subparsers: Any) -> None:
        raise RuntimeError("boom")

    known = ovengine_plugins(module(ovengine_cli_commands=fail))
    with pytest.warns(PluginWarning, match="failed in ovengine_cli_commands"):
        known.cli_commands(argparse.ArgumentParser().add_subparsers())


# -- ovengine.testing -------------------------------------------------------------------------------------------------


def test_the_fake_model_adds_one() -> None:
    import numpy as np

    with fake_model((1, 4), lanes=2) as model:
        x = np.arange(12, dtype=np.float32).reshape(3, 4)
        np.testing.assert_array_equal(model(x)["y"], x + 1)
        assert len(model.plan.lanes) == 2


# -- docs/hooks.md ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", HOOKS)
def test_the_example_in_the_documentation_is_a_working_plugin(hook: str, ovengine_plugins: MakePlugins) -> None:
    page = (Path(__file__).parent.parent / "docs" / "hooks.md").read_text()
    section = page.split(f"## {hook}(")[1]
    example = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert example
    plugin = types.ModuleType(f"example_of_{hook}")
    exec(example[1], plugin.__dict__)  # code of our own documentation
    inventory = ovengine_plugins(plugin).inventory()
    assert [i.status for i in inventory if i.source == plugin.__name__] == ["ok"]
