"""Beginnings and ends: close, signals, the interpreter's exit, and idleness."""

from __future__ import annotations

import os
import platform
import re
import signal
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ovengine
from ovengine import _core
from support import EXACT, PATIENCE, double, fake, occupy, run_python, tagged, wait_until

ROW = np.zeros(4, np.float32)
SLOW_US = 100_000

PREAMBLE = """
import asyncio, os, signal, sys, threading, time
import numpy as np
import ovengine
from ovengine.testing import fake_model, mlp
ROW = np.zeros(4, np.float32)
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell ignores for what runs in its background

async def started(loop):
    loop.held = [model.ainfer(ROW) for _ in range(10)]
    loop.held[0].add_done_callback(lambda future: None)

def serve():
    try:
        while True:
            model(ROW)
    except ovengine.EngineClosed:
        pass
"""


def script(code: str) -> str:
    return PREAMBLE + textwrap.dedent(code)


def succeeds(code: str) -> str:
    """Run in a process of its own; it must end well, with nothing on its standard error. What it printed."""
    process = run_python(script(code))
    assert (process.returncode, process.stderr) == (0, "")
    return process.stdout


# -- close ------------------------------------------------------------------------------------------------------------


def test_a_closed_model_refuses_everything_with_a_clear_error() -> None:
    with fake() as model:
        assert [model.closed, model.close(), model.closed] == [False, True, True]
        calls: list[Any] = [model, model.infer, model.submit, model.ainfer, model.infer_rows]
        for call in calls:
            with pytest.raises(ovengine.EngineClosed, match="model 'fake' is closed"):
                call(ROW)
            with pytest.raises(RuntimeError):
                call(np.zeros((50, 4), np.float32))
        with pytest.raises(ovengine.EngineClosed):
            model.lease()
        with pytest.raises(ovengine.EngineClosed):
            list(model.map([ROW]))
        assert "closed" in repr(model)
        assert model.stats().rejections["closed"] == 12


def test_closing_twice_and_from_many_threads_is_closing_once() -> None:
    with fake(service_time_us=SLOW_US) as model:
        future = occupy(model)
        threads = [threading.Thread(target=model.close) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        assert future.exception() is None
        assert model.close()
        assert model.close(0)
        assert model.close(timeout=-1)


def test_the_block_of_a_model_ends_when_all_is_served() -> None:
    with ovengine.load(double(), config=EXACT) as model:
        futures = [model.submit(tagged(1, first=i)) for i in range(1000)]
    for i, future in enumerate(futures):
        assert future.done()
        np.testing.assert_array_equal(future.result()["y"], tagged(1, first=i) * 2)


def test_closing_an_engine_closes_its_models() -> None:
    with ovengine.Engine() as engine:
        models = [engine.load(double(), config=EXACT) for _ in range(2)]
        futures = [model.submit(ROW) for model in models]
    assert all(model.closed for model in models)
    assert [future.exception() for future in futures] == [None, None]
    with pytest.raises(ovengine.EngineClosed):
        models[0](ROW)
    with pytest.raises(ovengine.EngineClosed):
        engine.load(double())


def test_an_error_in_the_block_closes_the_model_too() -> None:
    with pytest.raises(ovengine.InputError), fake() as model:
        model(np.zeros(5, np.float32))
    assert model.closed


def test_a_model_that_is_dropped_unclosed_stops_its_threads() -> None:
    # In a process of its own: other tests' lanes come and go.
    succeeds(
        """
        import contextlib, gc
        def lanes():
            names = []
            for task in os.listdir("/proc/self/task"):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it may end while it is looked at
                    names.append(open(f"/proc/self/task/{task}/comm").read())
            return sum(name.startswith("ovengine ") for name in names)
        model = ovengine.load(mlp(4, 4))
        give_up = time.monotonic() + 30
        while lanes() == 0:  # they say who they are when they run
            assert time.monotonic() < give_up
            time.sleep(0.01)
        pending = [model.submit(ROW) for _ in range(3)]
        del model, pending
        gc.collect()
        while lanes() > 0:
            assert time.monotonic() < give_up
            time.sleep(0.01)
        """
    )


# -- idleness ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_queue_delay_us", [0, 500])
def test_an_idle_engine_uses_no_processor(max_queue_delay_us: int) -> None:
    # In a process of its own: what other tests left behind is not idle.
    succeeds(
        f"""
        models = [
            ovengine.load(mlp(4, 4), max_queue_delay_us={max_queue_delay_us}),
            fake_model((1, 16), lanes=4, max_queue_delay_us={max_queue_delay_us}),
        ]
        for model in models:
            assert model.wait_ready(60)
            model(ROW)
            model.submit(ROW).result()
            model.infer_rows(np.zeros((50, 4), np.float32))
            model.submit(ROW).add_done_callback(lambda future: None)
        lease = models[0].lease()
        while any(model.stats().pending_requests for model in models):
            time.sleep(0.01)
        def used():
            begin = time.process_time()
            time.sleep(1)
            return time.process_time() - begin
        # Polling at a millisecond, or spinning on one thread, would be far above. What a busy system charges to whoever
        # it interrupts comes and goes: the least of a few counts.
        seconds = [used()]
        while seconds[-1] >= 0.005 and len(seconds) < 5:
            seconds.append(used())
        assert min(seconds) < 0.005, seconds
        """
    )


# -- the interpreter's exit -------------------------------------------------------------------------------------------


IN_FLIGHT = [
    "futures = [model.submit(ROW) for _ in range(1000)]",
    "threading.Thread(target=serve, daemon=True).start(); time.sleep(0.1)",
    "loop = asyncio.new_event_loop(); loop.run_until_complete(started(loop))",
    "future = model.submit(np.zeros((1000, 4)), share_inputs=True)",
    "model.submit(ROW)",
    "future = model.submit(np.zeros((1000, 4), np.float32))",
    "futures = [model.submit(np.zeros((4, 4), np.float32), share_inputs=True) for _ in range(10)]",
    "future = model.submit(ROW); future.add_done_callback(lambda future: future.done())",
    "lease = model.lease(); lease['x'][...] = 1",
    "results = model.map([ROW] * 1000); next(results)",
    "completed = ovengine.as_completed([model.submit(ROW) for _ in range(10)]); next(completed)",
    "results = [model(ROW) for _ in range(3)]; array = results[0]['y']",
    "threading.Thread(target=lambda: [model.submit(ROW).exception() for _ in range(5)]).start()",
    "threading.Thread(target=model.submit(ROW).exception, daemon=True).start()",
    "ovengine.held = [model, model.submit(ROW)]",
    "model.me = model; model.submit(ROW)",
    "sys.modules['held'] = model; threading.current_thread().held = model.submit(ROW)",
]


@pytest.mark.parametrize("in_flight", IN_FLIGHT)
def test_exit_with_requests_in_flight_is_quick_and_quiet(in_flight: str) -> None:
    assert succeeds(f"model = fake_model((1, 4), service_time_us=50_000)\n{in_flight}\nprint('end')") == "end\n"


@pytest.mark.parametrize("in_flight", IN_FLIGHT[:4])
def test_exit_with_inferences_running_in_openvino_is_quiet_too(in_flight: str) -> None:
    assert succeeds(f"model = ovengine.load(mlp(4, 4))\n{in_flight}\nprint('end')") == "end\n"


def test_exit_does_not_wait_for_a_device_that_does_not_come_back() -> None:
    begin = time.monotonic()
    out = succeeds(
        """
        model = fake_model((1,), service_time_us=100_000_000)
        future = model.submit(ROW)
        threading.Thread(target=future.exception, daemon=True).start()
        time.sleep(0.1)
        print("end")
        """
    )
    assert out == "end\n"
    assert time.monotonic() - begin < 50  # it would take 100 s


def test_exit_through_an_exception_shows_that_exception_only() -> None:
    process = run_python(
        script("model = fake_model(service_time_us=50_000); future = model.submit(ROW); raise SystemExit('why')")
    )
    assert (process.returncode, process.stderr) == (1, "why\n")


def test_a_model_may_be_used_until_the_very_end() -> None:
    out = succeeds(
        """
        import atexit
        model = fake_model((1, 4))
        class AtEnd:
            def __del__(self):
                print("deleted", float(model(ROW)["y"][0]) if not model.closed else "closed")
        held = AtEnd()
        atexit.register(lambda: print("atexit", float(model(ROW)["y"][0])))
        """
    )
    assert out.startswith("atexit 1.0\n")


# -- signals ----------------------------------------------------------------------------------------------------------


BLOCKING = [
    "model(ROW)",
    "model.infer(ROW)",
    "model.infer(ROW, timeout=1000)",
    "model.infer_rows(np.zeros((100, 4), np.float32))",
    "model.submit(ROW).result()",
    "model.submit(ROW).exception()",
    "model.submit(ROW).result(1000)",
    "ovengine.wait([model.submit(ROW)])",
    "list(ovengine.as_completed([model.submit(ROW)]))",
    "list(model.map([ROW] * 5))",
    "list(model.map([ROW] * 5, ordered=False))",
    "[model.submit(ROW) for _ in range(20_000)]",  # waits for room
    "asyncio.run(main())",
]


def test_a_blocking_call_is_interrupted_by_control_c() -> None:
    # The device takes 100 s: it is the signal that ends each call.
    out = succeeds(
        f"""
        async def main():
            await model.ainfer(ROW)

        held = []
        for blocking in {BLOCKING!r}:
            model = fake_model((1,), service_time_us=100_000_000)
            timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
            try:
                timer.start()
                exec(blocking)
            except KeyboardInterrupt:
                print("interrupted", blocking, flush=True)
            held.append(model)  # without this, each would be waited for when it goes
        os._exit(0)
        """
    )
    assert out.splitlines() == [f"interrupted {blocking}" for blocking in BLOCKING]


def test_control_c_ends_a_program_that_waits_for_a_device_that_does_not_come_back() -> None:
    process = run_python(
        script(
            """
            model = fake_model((1,), service_time_us=100_000_000)
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
            with model:
                try:
                    model(ROW)
                finally:
                    model.close(0)
            """
        )
    )
    assert process.returncode == -signal.SIGINT
    assert process.stderr.endswith("\nKeyboardInterrupt\n")


def test_a_signal_handler_that_returns_does_not_end_the_call() -> None:
    out = succeeds(
        """
        seen = []
        signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        model = fake_model((1,), service_time_us=300_000)
        assert (model(ROW)["y"] == 1).all()
        assert (model.submit(ROW).result(100)["y"] == 1).all()
        assert len(ovengine.wait([model.submit(ROW) for _ in range(2)])[0]) == 2
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert seen
        print("end")
        """
    )
    assert out == "end\n"


def test_signals_are_left_to_the_applications_own_threads() -> None:
    with fake(lanes=4) as model:
        model(ROW)
        masks = []
        for task in sorted(Path("/proc/self/task").iterdir()):
            try:
                status = (task / "status").read_text()
            except (FileNotFoundError, ProcessLookupError):  # a thread of another test that has ended since
                continue
            masks.append(int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk")), 16))
        assert sum(bool(mask >> (signal.SIGINT - 1) & 1) for mask in masks) >= 4


@pytest.mark.parametrize(("chosen", "of_lanes"), [("SCHED_OTHER", "SCHED_BATCH"), ("SCHED_IDLE", "SCHED_IDLE")])
def test_lanes_take_no_cpu_from_who_wakes_them_unless_a_policy_was_chosen(chosen: str, of_lanes: str) -> None:
    succeeds(
        f"""
        import contextlib
        os.sched_setscheduler(0, os.{chosen}, os.sched_param(0))
        model = ovengine.load(mlp(4, 4))
        model(ROW)

        def of_lanes():
            found = set()
            for task in os.listdir("/proc/self/task"):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it may end while it is looked at
                    if open(f"/proc/self/task/{{task}}/comm").read().startswith("ovengine "):
                        found.add(os.sched_getscheduler(int(task)))
            return found

        give_up = time.monotonic() + 30
        while of_lanes() != {{os.{of_lanes}}}:  # once they run
            assert time.monotonic() < give_up, of_lanes()
            time.sleep(0.01)
        assert os.sched_getscheduler(0) == os.{chosen}
        model.close()
        """
    )


SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}.get(platform.machine())
LINUX = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))


@pytest.mark.skipif(SCHED_GETATTR is None or LINUX < (6, 12), reason="time slices of one's own are of Linux 6.12")
@pytest.mark.parametrize("chosen", ["SCHED_OTHER", "SCHED_BATCH"])
def test_the_thread_that_calls_back_takes_short_turns_unless_a_policy_was_chosen(chosen: str) -> None:
    succeeds(
        f"""
        import ctypes, queue, struct
        os.sched_setscheduler(0, os.{chosen}, os.sched_param(0))
        nice = os.nice(5)

        def attributes():  # the policy, the niceness, the time slice in nanoseconds
            found = ctypes.create_string_buffer(48)
            assert ctypes.CDLL(None).syscall({SCHED_GETATTR}, 0, found, len(found), 0) == 0
            _, policy, _, nice, _, runtime, _, _ = struct.unpack("=IIQiIQQQ", found.raw)
            return policy, nice, runtime

        seen = queue.SimpleQueue()
        note = lambda *_: seen.put(attributes())
        model = fake_model(service_time_us=200_000)
        model.submit(ROW).add_done_callback(note)
        of_callbacks = seen.get(timeout={PATIENCE})
        model.submit(ROW).add_done_callback(lambda future: threading.Thread(target=note).start())
        of_its_thread = seen.get(timeout={PATIENCE})
        usual = attributes()
        assert usual[:2] == (os.{chosen}, nice)
        assert of_its_thread == usual
        if usual[0] == os.SCHED_OTHER:
            usual = (*usual[:2], 100_000)
        assert of_callbacks == usual
        model.close()
        """
    )


def test_nothing_is_in_use_when_all_is_done() -> None:
    assert set(_core.debug_counters()) >= {"slots", "batches", "requests", "rows", "notices"}
    with fake(1, 4) as model:
        futures = [model.submit(ROW) for _ in range(10)]
        assert any(_core.debug_counters().values())
        ovengine.wait(futures)
        futures.clear()
        wait_until(lambda: not any(_core.debug_counters().values()))
