"""Nothing that is passed in ends the process: objects made by hand, arrays that change, and all that hostile.py has."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ovengine
from hostile import Changes, LyingInt
from ovengine import _core
from ovengine.testing import fake_ladder
from support import PATIENCE, fake, ready, two_in_two_out

# Whole without arguments, or classes of Python's.
MADE_BY_ANYBODY = {"Runtime", "SessionState", "_InContext", "_OnLoop", "_PackedArray"}
KINDS = [kind for kind in vars(_core).values() if isinstance(kind, type) and kind.__module__ == _core.__name__]


def test_whatever_is_passed_in_the_process_goes_on() -> None:
    script = Path(__file__).with_name("fuzz_binding.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=4 * PATIENCE,
        check=False,
    )
    told = "\n".join([*done.stdout.splitlines()[-3:], done.stderr[-5000:]])
    assert done.returncode == 0, f"status {done.returncode}; the last calls, and what was said:\n{told}"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.__name__ not in MADE_BY_ANYBODY])
def test_an_object_without_its_native_half_cannot_be_made(kind: Any) -> None:
    for make in (lambda: kind.__new__(kind), kind, lambda: object.__new__(kind)):
        with pytest.raises(TypeError):
            make()


def test_a_second_init_changes_nothing() -> None:
    with fake() as model:
        for thing in (model, model.submit(np.zeros(4, np.float32)), _core.CpuBudget(2), _core.Runtime()):
            with contextlib.suppress(TypeError):
                thing.__init__(1, name="other")  # type: ignore[misc]
        np.testing.assert_array_equal(model(np.zeros(4, np.float32))["y"], np.ones(4, np.float32))


def test_a_model_refuses_compiled_models_that_would_write_beyond_its_rows() -> None:
    port = ("x", ("x",), (-1, 4), np.dtype("f4"), "f32", ())

    def start(sizes: dict[int, Any]) -> None:
        _core.NativeModel(
            name="own",
            inputs=[port],
            outputs=[port],
            mode="rows",
            lanes=[("CPU", sizes)],
            cost_us={1: 1.0, 4: 1.0},
            policy="priority",
        ).close()

    ladder = fake_ladder((1, 4))
    start(ladder)
    with pytest.raises(ValueError, match="takes 64 bytes, and 1 rows of the model have 16"):
        start({1: ladder[4], 4: ladder[4]})
    with pytest.raises(ValueError, match="input 0 of a compiled model takes 80 bytes"):
        start({1: ladder[1], 4: fake_ladder((4,), row_shape=(5,))[4]})
    with pytest.raises(ValueError, match="no compiled model for one of the batch sizes"):
        start({1: ladder[1]})


@pytest.mark.parametrize("how", ["grow", "shape", "dtype"])
@pytest.mark.parametrize("way", ["submit", "infer", "infer_rows"])
def test_an_array_that_another_input_changes_is_not_read_beyond_its_end(how: str, way: str) -> None:
    with ovengine.load(two_in_two_out(), batch_sizes=[1, 4]) as model:
        ready(model)
        a = np.ones((3, 3), np.float32)
        with pytest.raises(ovengine.InputError):
            getattr(model, way)({"a": a, "b": Changes(a, how)})


@pytest.mark.parametrize("key", [LyingInt(1 << 40), LyingInt(-3), np.uint64(1 << 63), 10**400, -(10**400)])
def test_an_index_is_what_it_is_and_not_what_it_says(key: Any) -> None:
    with fake() as model:
        x = np.zeros(4, np.float32)
        with pytest.raises(ovengine.InputError, match="no input"):
            model({key: x})
        with pytest.raises(KeyError), model.lease() as lease:
            model(x)[key]
        with pytest.raises(ovengine.InputError, match="no input"), model.lease() as lease:
            lease[key]


def test_waiting_for_what_is_no_future_is_an_error() -> None:
    with fake() as model:
        future = model.submit(np.zeros(4, np.float32))
        for wait in (ovengine.wait, lambda futures: list(ovengine.as_completed(futures))):
            for other in (None, 5, "future"):
                with pytest.raises((TypeError, AttributeError)):
                    wait([future, other])  # type: ignore[list-item]
