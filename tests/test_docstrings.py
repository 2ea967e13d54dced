"""What help() and dir() show of the public API: whole docstrings, signatures, and no internals."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import ovengine
from ovengine import _core, compat

# pluggy's own, documented there.
FOREIGN = {"hookimpl"}
# Classes that users meet besides those of `ovengine.__all__`.
MORE = [_core.SessionState, *(getattr(compat, name) for name in compat.__all__)]
# Methods with parameters that raise nothing of their own.
SAFE = {
    "Future.remove_done_callback",
    "Result.get",
    "ModelStats.of",
    "TensorInfo.of",
    "Engine.close",
    "Plugins.names",
    "Plugins.report_failure",
    "Plugins.model_loaded",
    "Plugins.model_closed",
    "Plugins.cli_commands",
}


def classes() -> list[type]:
    """Public classes, errors excepted."""
    public = [getattr(ovengine, name) for name in ovengine.__all__]
    found = [each for each in public if inspect.isclass(each) and not issubclass(each, (Exception, Warning))]
    return [*found, *MORE]


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """Public attributes that ovengine defines, as they stand in the class."""
    for name in dir(cls):
        owner = next((base for base in cls.__mro__ if name in vars(base)), object)
        if not name.startswith("_") and owner.__module__.startswith("ovengine"):
            yield name, vars(owner)[name]


def fields(cls: type) -> set[str]:
    """Of a dataclass; its docstring tells of them together."""
    return {field.name for field in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()


def callables() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Public functions and methods."""
    for name in ovengine.__all__:
        function = getattr(ovengine, name)
        if not inspect.isclass(function) and name not in FOREIGN:
            yield name, function
    for cls in classes():
        for name, member in members(cls):
            if isinstance(member, (classmethod, staticmethod)):
                member = member.__func__
            if callable(member) and not isinstance(member, type(cls)) and name not in fields(cls):
                yield f"{cls.__name__}.{name}", member


def sections(text: str) -> dict[str, str]:
    """Heading -> text of a docstring in Google's style."""
    parts = re.split(r"^(Args|Returns|Raises|Attributes|Example):\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def parameters(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


@pytest.mark.parametrize("name", ovengine.__all__)
def test_every_public_name_has_a_docstring(name: str) -> None:
    assert inspect.getdoc(getattr(ovengine, name)), name


@pytest.mark.parametrize("cls", classes(), ids=lambda cls: cls.__name__)
def test_every_public_member_has_a_docstring(cls: type) -> None:
    text = inspect.getdoc(cls) or ""
    assert text
    for name, member in members(cls):
        if name in fields(cls):
            assert re.search(rf"^    {name}:", text, re.MULTILINE), f"{cls.__name__} does not say what {name} is"
        elif not isinstance(member, cls):  # which members of an enum are
            assert inspect.getdoc(member), f"{cls.__name__}.{name}"


@pytest.mark.parametrize(
    ("name", "function"), list(callables()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_docstring_tells_of_parameters_result_and_errors(name: str, function: Callable[..., Any]) -> None:
    text = inspect.getdoc(function) or ""
    summary = text.partition("\n\n")[0]
    assert re.match(r"[A-Z].*[.:]$", summary, re.DOTALL), summary
    assert not re.match(r"\w+(\.\w+)?\(", summary), "a signature stands in place of the docstring"
    told = sections(text)
    for parameter in parameters(function):
        assert re.search(rf"^    {parameter}: .", told.get("Args", ""), re.MULTILINE), f"{name} has {parameter}"
    if parameters(function) and name not in SAFE:
        assert "Raises" in told, name
    if parameters(function) and inspect.signature(function).return_annotation not in ("None", None):
        # Native methods have no annotations; those that return nothing are the exceptions here.
        returns_nothing = name in ("Future.add_done_callback",)
        assert returns_nothing or "Returns" in told, name


def test_load_says_the_same_in_both_places() -> None:
    assert inspect.getdoc(ovengine.Engine.load) == inspect.getdoc(ovengine.load)
    assert inspect.signature(ovengine.Engine.load).parameters.keys() - {"self"} == set(parameters(ovengine.load))


@pytest.mark.parametrize("name", ["__call__", "__getitem__", "__await__", "__array__"])
def test_special_methods_of_native_classes_have_docstrings_of_their_own(name: str) -> None:
    found = 0
    for cls in (_core.NativeModel, _core.Session, _core.Future, _core.Result, _core.Lease, _core.SessionState):
        if name in vars(cls):
            assert inspect.getdoc(vars(cls)[name]) not in (None, inspect.getdoc(vars(type)["__call__"])), cls
            assert "Return self" not in (inspect.getdoc(vars(cls)[name]) or ""), cls
            found += 1
    assert found


def test_dir_of_a_model_shows_what_is_public() -> None:
    assert [name for name in dir(ovengine.Model) if not name.startswith("_")] == [
        "ainfer",
        "amap",
        "close",
        "closed",
        "infer",
        "infer_rows",
        "inputs",
        "lease",
        "map",
        "name",
        "outputs",
        "plan",
        "row_classes",
        "session",
        "set",
        "stats",
        "submit",
        "wait_ready",
    ]
