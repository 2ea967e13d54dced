"""The packages in plugins/, installed into an environment of their own and used through their entry points."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

import models

PLUGINS = Path(__file__).parent.parent / "plugins"
PACKAGES = (
    "ovengine-sample-loader",
    "ovengine-sample-selector",
    "ovengine-sample-batcher",
    "ovengine-sample-policy",
    "ovengine-weighted-fair",
)

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with ovengine, into which all sample packages, and a broken one, were installed."""
    root = tmp_path_factory.mktemp("scratch")
    sources = []
    for package in PACKAGES:
        # A copy: building leaves files beside the sources.
        source = root / "sources" / package
        shutil.copytree(PLUGINS / package, source)
        sources.append(str(source))
    broken = root / "sources" / "broken"
    broken.mkdir()
    (broken / "ovengine_broken.py").write_text("raise RuntimeError('broken on purpose')\n")
    (broken / "pyproject.toml").write_text(
        "[project]\nname = 'ovengine-broken'\nversion = '9'\n"
        "[project.entry-points.ovengine]\nbroken = 'ovengine_broken'\n"
        "[tool.setuptools]\npy-modules = ['ovengine_broken']\n"
    )
    pairs = root / "sources" / "pairs"
    (pairs / "src").mkdir(parents=True)
    (pairs / "pyproject.toml").write_text(example("toml", "[build-system]"))
    (pairs / "src" / "ovengine_pairs.py").write_text(example("python", "class Pairs"))
    sources.append(str(pairs))
    python = environment(root / "environment")
    # The first as users install them, the others as authors do. Nothing comes from an index: ovengine is there.
    for arguments in (sources[:1], [*editable(sources[1:]), str(broken)]):
        command = [str(python), "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-index", *arguments]
        installed = subprocess.run(command, capture_output=True, text=True)
        assert installed.returncode == 0, installed.stderr
    return python


def example(language: str, part: str) -> str:
    """The code block of docs/hooks.md that has this part."""
    page = (PLUGINS.parent / "docs" / "hooks.md").read_text()
    (code,) = [code for code in re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL) if part in code]
    return str(code)


def environment(folder: Path) -> Path:
    """Make an environment that sees the packages of this one; its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    here = sysconfig.get_path("purelib")
    own = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    # Not just a path: an editable ovengine is found by its own .pth file there.
    (Path(own) / "shared.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    return folder / "bin" / "python"


def editable(sources: Iterable[str]) -> list[str]:
    return [argument for source in sources for argument in ("--editable", source)]


@pytest.fixture
def run(scratch: Path, tmp_path: Path) -> Run:
    """Run Python code in a process that has the scratch packages; fails when the code does."""

    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [str(scratch), *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=120,
            env={**os.environ, **environment},
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result

    return call


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_built_without_ovengine(tmp_path: Path, package: str) -> None:
    source = tmp_path / package
    shutil.copytree(PLUGINS / package, source)
    # pip builds in an environment of its own, where no ovengine is: here it is one that cannot be imported.
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "ovengine.py").write_text("raise ModuleNotFoundError('no ovengine in the build environment')\n")
    requires = re.search(r"^requires = (.*)$", (source / "pyproject.toml").read_text(), re.MULTILINE)
    assert requires is not None
    assert ast.literal_eval(requires[1]) == ["setuptools>=70.1"]
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    built = subprocess.run(
        [*command, "--wheel-dir", str(tmp_path / "wheels"), str(source)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(hidden)},
    )
    assert built.returncode == 0, built.stderr
    assert len(list((tmp_path / "wheels").glob("*.whl"))) == 1


def test_the_copies_of_the_policy_header_are_ovengines() -> None:
    copies = list(PLUGINS.glob("*/src/*/ovengine_policy.h"))
    assert len(copies) == 2
    ours = (PLUGINS.parent / "src" / "_native" / "ovengine_policy.h").read_text()
    assert all(copy.read_text() == ours for copy in copies)


def test_a_third_party_loader(run: Run, tmp_path: Path, real_model: Callable[[str], Path]) -> None:
    import gzip

    packed = tmp_path / "vad.onnx.gz"
    packed.write_bytes(gzip.compress(real_model("silero_vad").read_bytes()))
    code = f"""
import ovengine
model = ovengine.load({str(packed)!r})
assert "loader: onnx.gz" in str(model.plan), model.plan
assert [tensor.name for tensor in model.inputs] == ["input", "state"]
"""
    run("-c", code)


def test_a_third_party_selector(run: Run, tiny_mlp: Path) -> None:
    code = f"""
import ovengine
model = ovengine.load({str(tiny_mlp)!r}, device_selector="quiet")
assert len(model.plan.lanes) == 1, model.plan
assert "the other cores stay free" in str(model.plan)
"""
    run("-c", code)


def test_a_third_party_batcher(run: Run, tiny_mlp: Path) -> None:
    code = f"""
import ovengine
model = ovengine.load({str(tiny_mlp)!r}, batcher="within_10_ms", max_batch_size=8)
assert model.wait_ready(60)
assert model.plan.ladder == (1, 2, 4, 8), model.plan
"""
    run("-c", code)


def test_the_package_that_the_documentation_shows(run: Run, tiny_mlp: Path) -> None:
    code = f"""
import ovengine
model = ovengine.load({str(tiny_mlp)!r}, batcher="pairs")
assert model.wait_ready(60)
assert model.plan.ladder == (1, 2), model.plan
"""
    run("-c", code)


def test_a_third_party_policy_in_c_decides_for_each_batch(run: Run, tiny_mlp: Path) -> None:
    code = f"""
import numpy as np, ovengine, ovengine_sample_policy
model = ovengine.load({str(tiny_mlp)!r}, scheduler="fewest_rows", config={{"NUM_STREAMS": 2}})
assert model.plan.scheduler == "fewest_rows"
rows = np.random.default_rng(0).standard_normal((500, 16), np.float32)
expected = model.infer_rows(rows)["y"]
for row, result in zip(expected, model.map(rows)):
    np.testing.assert_allclose(result["y"], row, rtol=0.05, atol=0.05)
for row in rows[:20]:  # one after the other, so that both lanes are idle and there is something to decide
    model.submit(row).result()
assert ovengine_sample_policy.decisions() > 0
model.close()
"""
    run("-c", code)


def test_weights_of_groups_from_a_third_party_policy(run: Run, tiny_mlp: Path) -> None:
    code = f"""
import numpy as np, ovengine, ovengine_weighted_fair
ovengine_weighted_fair.set_weights({{"gold": 3}}, default=1)
model = ovengine.load({str(tiny_mlp)!r}, scheduler="weighted_fair")
assert model.plan.scheduler == "weighted_fair", model.plan
rows = np.random.default_rng(0).standard_normal((500, 16), np.float32)
expected = model.infer_rows(rows)["y"]
futures = [model.submit(row, group=("gold", "free", 7)[i % 3]) for i, row in enumerate(rows)]
for row, future in zip(expected, futures):
    np.testing.assert_allclose(future.result()["y"], row, rtol=0.05, atol=0.05)
assert model._native_stats()["policy_faults"] == 0
model.close()
"""
    run("-c", code)


def test_a_policy_of_another_abi_version_is_refused_and_replaced(run: Run, tiny_mlp: Path) -> None:
    code = f"""
import ctypes, warnings, ovengine, ovengine_sample_policy
make = ctypes.pythonapi.PyCapsule_New
make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
get = ctypes.pythonapi.PyCapsule_GetPointer
get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
address = get(ovengine_sample_policy.FewestRows().native, b"ovengine.policy")
copy = (ctypes.c_uint32 * 10).from_buffer_copy((ctypes.c_uint32 * 10).from_address(address))
copy[0] = 999
class Future:
    name, native = "future", make(ctypes.addressof(copy), b"ovengine.policy", None)
class Plugin:
    @ovengine.hookimpl
    def ovengine_scheduler_policies(self):
        return [Future()]
engine = ovengine.Engine(plugins=[Plugin()])
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model = engine.load({str(tiny_mlp)!r}, scheduler="future")
assert model.plan.scheduler == "priority", model.plan
assert any("999" in str(warning.message) for warning in caught), [str(w.message) for w in caught]
engine.close()
"""
    run("-c", code)


def test_the_command_line_lists_them_and_the_broken_one_stops_nothing(run: Run) -> None:
    result = run("-m", "ovengine", "plugins", "--json")
    listed = {(info["source"], info["name"]): info for info in json.loads(result.stdout)}
    for name, kind in (
        ("onnx.gz", "model_loader"),
        ("quiet", "device_selector"),
        ("within_10_ms", "batcher"),
        ("fewest_rows", "scheduler_policy"),
        ("weighted_fair", "scheduler_policy"),
    ):
        (info,) = [info for (_, listed_name), info in listed.items() if listed_name == name]
        assert (info["kind"], info["version"], info["status"]) == (kind, "0.1.0", "ok")
        assert info["source"].startswith(("ovengine-sample-", "ovengine-weighted-"))
    broken = listed["ovengine-broken", "broken"]
    assert (broken["status"], broken["version"]) == ("broken", "9")
    assert "broken on purpose" in broken["reason"]
    assert "ovengine-broken" in result.stderr


def test_a_disabled_distribution_is_left_out(run: Run) -> None:
    disabled = "ovengine_sample_batcher,broken"
    result = run("-m", "ovengine", "plugins", "--json", OVENGINE_DISABLED_PLUGINS=disabled)
    status = {info["name"]: info["status"] for info in json.loads(result.stdout)}
    assert (status["sample-batcher"], status["broken"], status["quiet"]) == ("disabled", "disabled", "ok")
    assert result.stderr == ""


@pytest.mark.parametrize("package", PACKAGES)
def test_the_packages_own_tests_pass(run: Run, package: str) -> None:
    tests = PLUGINS / package / "tests"
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tests), "-c", os.devnull, str(tests))
    assert " passed" in done.stdout


def test_the_reference_mlps_of_tests_and_of_the_package_are_the_same() -> None:
    import numpy as np

    import ovengine
    from ovengine.testing import TINY_MLP, mlp

    x = np.ones((2, 16), np.float32)
    precise = {"INFERENCE_PRECISION_HINT": "f32"}
    with ovengine.load(mlp(*TINY_MLP), config=precise) as a, ovengine.load(models.mlp(*TINY_MLP), config=precise) as b:
        np.testing.assert_allclose(a(x)["y"], b(x)["y"], rtol=1e-6)
