"""close(): several callers at once, signals while it waits, and the interpreter's exit beside it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

import ovengine
from support import EXACT, PATIENCE, fake, in_threads, run_python, wait_until
from test_lifecycle import script, succeeds

ROW = np.zeros(4, np.float32)


def heavy(products: int) -> ov.Model:
    """`y = x x x ...`, for `x` of shape `(n, n)`: how long it takes depends on the shape."""
    x = ops.parameter([-1, -1], np.float32, name="x")
    y = x
    for _ in range(products):
        y = ops.matmul(x, y, False, False)
    return ov.Model([ops.result(y)], [x], "heavy")


# -- several callers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [None, 1000.0])
def test_the_shortest_timeout_holds_for_all_who_close_a_model(first: float | None) -> None:
    with fake(1, service_time_us=20_000) as model:
        futures = [model.submit(ROW) for _ in range(1000)]

        def close_later() -> bool:
            wait_until(lambda: model.closed)
            return model.close(timeout=0.05)

        assert in_threads([lambda: model.close(first), close_later]) == [False, False]
        with pytest.raises(ovengine.EngineClosed):
            futures[-1].result(0)
        assert model.close() is False


def test_the_shortest_timeout_holds_for_all_who_close_an_engine(
    ovengine_engine: Callable[..., ovengine.Engine],
) -> None:
    engine = ovengine_engine()
    with fake(1, service_time_us=20_000) as one, fake(1, service_time_us=20_000) as other:
        for model in (one, other):
            engine.register(model)
        futures = [model.submit(ROW) for model in (one, other) for _ in range(1000)]

        def close_later() -> bool:
            wait_until(lambda: one.closed and other.closed)
            return engine.close(timeout=0.05)

        assert in_threads([engine.close, close_later]) == [False, False]
        for future in (futures[999], futures[-1]):
            with pytest.raises(ovengine.EngineClosed):
                future.result(0)


def test_the_shortest_timeout_holds_for_all_who_close_a_session() -> None:
    with ovengine.load(heavy(30), config=EXACT, batcher="none") as model:
        session = model.session()
        x = np.zeros((1000, 1000), np.float32)
        futures = [session.submit(x, share_inputs=True) for _ in range(100)]

        def close_later() -> bool:
            wait_until(lambda: session.closed)
            return session.close(timeout=0.05)

        assert in_threads([session.close, close_later]) == [False, False]
        with pytest.raises(ovengine.EngineClosed):
            futures[-1].result(PATIENCE)
        assert session.close() is False


def test_a_session_that_is_closed_ends_with_its_model() -> None:
    with ovengine.load(heavy(30), config=EXACT, batcher="none") as model:
        session = model.session()
        x = np.zeros((1000, 1000), np.float32)
        futures = [session.submit(x, share_inputs=True) for _ in range(100)]

        def close_model() -> bool:
            wait_until(lambda: session.closed)
            return model.close(timeout=0.05)

        assert in_threads([session.close, close_model]) == [False, False]
        with pytest.raises(ovengine.EngineClosed):
            futures[-1].result(0)


# -- signals ----------------------------------------------------------------------------------------------------------

CLOSING = [
    "model.close()",
    "model.close(1000)",
    "model.__exit__(None, None, None)",
    "engine.close()",
    "engine.close(1000)",
]


def test_control_c_is_heard_while_close_waits() -> None:
    # The device takes 100 s: it is the signal that ends each call.
    out = succeeds(
        f"""
        held = []
        for closing in {CLOSING!r}:
            model = fake_model((1,), service_time_us=100_000_000)
            engine = ovengine.Engine()
            engine.register(model)
            held.append((model, model.submit(ROW), model.submit(ROW)))
            timer = threading.Timer(0.1, signal.raise_signal, (signal.SIGINT,))  # of a thread that is not the main one
            try:
                timer.start()
                exec(compile(closing, "closing", "exec"))  # of text, a KeyboardInterrupt is taken to be unhandled
            except KeyboardInterrupt:
                print("interrupted", closing, flush=True)
        for model, *futures in held:
            assert model.closed
            assert not any(future.done() for future in futures)
            try:
                model(ROW)
            except ovengine.EngineClosed:
                pass
            assert not model.close(0)
            assert all(future.done() for future in futures)
        print("end")
        """
    )
    assert out.splitlines() == [*(f"interrupted {closing}" for closing in CLOSING), "end"]


def test_a_close_that_was_interrupted_may_be_continued() -> None:
    out = succeeds(
        """
        model = fake_model((1,), service_time_us=100_000)
        futures = [model.submit(ROW) for _ in range(5)]
        threading.Timer(0.1, signal.raise_signal, (signal.SIGINT,)).start()
        try:
            with model:
                pass
        except KeyboardInterrupt:
            assert not futures[-1].done()
            assert model.close()
            print([float(future.result(0)["y"][0]) for future in futures])
        """
    )
    assert out == "[1.0, 1.0, 1.0, 1.0, 1.0]\n"


# -- the interpreter's exit -------------------------------------------------------------------------------------------


def test_exit_does_not_wait_for_a_close_of_another_thread() -> None:
    # For 100 s, and run_python() is not so patient.
    out = succeeds(
        """
        model = fake_model((1,), service_time_us=100_000_000)
        engine = ovengine.Engine()
        engine.register(model)
        futures = [model.submit(ROW) for _ in range(10)]
        threading.Thread(target=model.close, daemon=True).start()
        while not model.closed:
            time.sleep(0.01)
        time.sleep(0.1)  # until it waits
        print("end")
        """
    )
    assert out == "end\n"


def test_exit_does_not_wait_for_many_devices_one_after_the_other() -> None:
    out = succeeds(
        """
        models = [fake_model((1,), service_time_us=100_000_000, name=str(i)) for i in range(100)]
        futures = [model.submit(ROW) for model in models]
        print("end")
        """
    )
    assert out == "end\n"


def test_exit_does_not_wait_for_a_preparation_that_never_ends() -> None:
    out = succeeds(
        """
        class Endless:
            name = "endless"
            def plan(self, context):
                context.measure(1)
                context.measure(2)  # leaves the loading thread here
                started.set()
                time.sleep(1000)
            @ovengine.hookimpl
            def ovengine_batchers(self):
                return [self]

        started = threading.Event()
        model = ovengine.Engine(plugins=[Endless()]).load(mlp(4, 4), batcher="endless")
        assert started.wait(30)
        print("end")
        """
    )
    assert out == "end\n"


def test_the_exit_status_stays_when_a_thread_does_not_come_back_from_openvino() -> None:
    process = run_python(
        script(
            """
            import openvino as ov
            from openvino import opset13 as ops

            x = ops.parameter([-1, -1], np.float32, name="x")
            y = x
            for _ in range(2000):
                y = ops.matmul(x, y, False, False)
            model = ovengine.load(ov.Model([ops.result(y)], [x], "heavy"), batcher="none")
            future = model.submit(np.zeros((3000, 3000), np.float32))
            time.sleep(0.2)
            print("end")
            sys.exit(3)
            """
        )
    )
    assert (process.returncode, process.stdout, process.stderr) == (3, "end\n", "")


# -- requests of unknown cost -----------------------------------------------------------------------------------------


def test_a_request_of_any_shape_times_out_whatever_those_before_took() -> None:
    with ovengine.load(heavy(30), config=EXACT, batcher="none") as model:
        small, large = np.ones((1, 1), np.float32), np.zeros((1200, 1200), np.float32)
        for x in (small, large):  # the first one, and after short ones
            with pytest.raises(ovengine.InferenceTimeout, match="was cancelled"):
                model.infer(large, timeout=0.05)
            for _ in range(20):
                assert model.infer(x[:1, :1], timeout=PATIENCE)[0].shape == (1, 1)
                assert model(x[:1, :1])[0].shape == (1, 1)


def test_a_request_of_a_session_times_out_whatever_those_before_took() -> None:
    with ovengine.load(heavy(30), config=EXACT, batcher="none") as model, model.session() as session:
        small, large = np.ones((1, 1), np.float32), np.zeros((1200, 1200), np.float32)
        with pytest.raises(ovengine.InferenceTimeout, match=r"it (has begun|was cancelled)"):
            session.infer(large, timeout=0.05)
        for _ in range(20):
            assert session.infer(small, timeout=PATIENCE)[0].shape == (1, 1)
            assert session(small)[0].shape == (1, 1)
        with pytest.raises(ovengine.InferenceTimeout, match=r"it (has begun|was cancelled)"):
            session.infer(large, timeout=0.05)


def test_rows_of_unknown_cost_time_out_and_hear_control_c() -> None:
    out = succeeds(
        """
        model = fake_model((1,), service_time_us=100_000_000, cost_us={1: 0.0})
        try:
            model.infer(ROW, timeout=0.05)
        except ovengine.InferenceTimeout:
            print("timed out")
        model = fake_model((1,), service_time_us=100_000_000, cost_us={1: 0.0})
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            model(ROW)
        except KeyboardInterrupt:
            print("interrupted")
        """
    )
    assert out == "timed out\ninterrupted\n"
