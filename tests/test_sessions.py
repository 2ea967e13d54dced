"""Sessions of models with state: each like an infer request of its own, however many share the lanes."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

import ovengine
from ovengine import _core
from support import EXACT, PATIENCE, Array, each, fill, in_threads, run_python, wait_until

Find = Callable[[str], Path]


# -- models -----------------------------------------------------------------------------------------------------------


def parameter(name: str, shape: list[int], dtype: Any = np.float32) -> Any:
    node = ops.parameter(ov.PartialShape(shape), dtype, name=name)
    node.output(0).set_names({name})
    return node


def read(name: str, initial: Array, shape: list[int] | None = None) -> Any:
    shape = list(initial.shape) if shape is None else shape
    return ops.read_value(ops.constant(initial), name, ov.Type(initial.dtype), ov.PartialShape(shape))


def model_of(outputs: dict[str, Any], parameters: list[Any], states: dict[str, Any]) -> ov.Model:
    results = []
    for name, node in outputs.items():
        node.output(0).set_names({name})
        results.append(ops.result(node))
    return ov.Model(results, [ops.assign(node, name) for name, node in states.items()], parameters, "stateful")


def running_sum(rows: int = 1) -> ov.Model:
    """`y = x + sum`, which is the next `sum`: f32 `(rows, 4)`, from zero."""
    x = parameter("x", [rows, 4])
    total = ops.add(x, read("sum", np.zeros((rows, 4), np.float32)))
    return model_of({"y": total}, [x], {"sum": total})


def history() -> ov.Model:
    """All rows of `x` `(?, 4)` so far in the state `history`, and their sum `y` `(4,)`."""
    x = parameter("x", [-1, 4])
    rows = ops.concat([read("history", np.zeros((0, 4), np.float32), [-1, 4]), x], 0)
    return model_of({"y": ops.reduce_sum(rows, ops.constant(np.array([0])), False)}, [x], {"history": rows})


def cell() -> ov.Model:
    """A recurrent cell with the states `h` f32 `(3, 8)`, and `steps` i32 `(1,)`, for three rows at once."""
    rng = np.random.default_rng(3)
    x = parameter("x", [3, 8])
    weights = [ops.constant(rng.standard_normal((8, 8), np.float32)) for _ in range(2)]
    h = read("h", np.full((3, 8), 0.5, np.float32))
    steps = ops.add(read("steps", np.array([7], np.int32)), ops.constant(np.array([1], np.int32)))
    mixed = ops.add(ops.matmul(x, weights[0], False, False), ops.matmul(h, weights[1], False, False))
    following = ops.tanh(mixed)
    return model_of({"y": following, "count": steps}, [x], {"h": following, "steps": steps})


def one(*shape: int, value: float = 1) -> Array:
    return np.full(shape or (1, 4), value, np.float32)


class Peer:
    """An infer request of plain OpenVINO."""

    def __init__(self, compiled: ov.CompiledModel) -> None:
        self.request = compiled.create_infer_request()

    def __call__(self, *inputs: Array) -> dict[str, Array]:
        found = self.request.infer(list(inputs))
        return {port.any_name: np.array(found[port]) for port in found}

    @property
    def state(self) -> dict[str, Array]:
        return {variable.name: np.array(variable.state.data) for variable in self.request.query_state()}

    def reset(self) -> None:
        self.request.reset_state()


def peers(model: ov.Model) -> Callable[[], Peer]:
    compiled = ov.Core().compile_model(model, "CPU", {**EXACT, "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1})
    return lambda: Peer(compiled)


def assert_same(found: ovengine.Result | dict[str, Array], expected: dict[str, Array]) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, name)
        assert found[name].dtype == array.dtype


@pytest.fixture
def load(ovengine_engine: Callable[..., ovengine.Engine]) -> Callable[..., ovengine.Model]:
    engine = ovengine_engine()

    def load(source: object, **arguments: Any) -> ovengine.Model:
        arguments.setdefault("config", EXACT)
        return engine.load(source, device="CPU", **arguments)

    return load


@pytest.fixture
def summing(load: Callable[..., ovengine.Model]) -> ovengine.Model:
    return load(running_sum())


def sums(results: Any) -> list[float]:
    return [float(result["y"][0, 0]) for result in results]


# -- one session ------------------------------------------------------------------------------------------------------


def test_a_session_goes_on_from_where_its_last_request_ended(summing: ovengine.Model) -> None:
    with summing.session() as session:
        assert sums([session(one()), session.infer(one()), session.submit(one()).result()]) == [1, 2, 3]
        assert summing.stats().dispatch["session"] == 3


def test_a_sessions_requests_run_in_the_order_of_submission(summing: ovengine.Model) -> None:
    with summing.session() as session:
        futures = [session.submit(one()) for _ in range(500)]
        assert sums(future.result() for future in futures) == list(range(1, 501))


def test_the_array_is_the_callers_again_after_submit(summing: ovengine.Model) -> None:
    with summing.session() as session:
        x = one()
        futures = []
        for value in range(50):
            x[...] = value
            futures.append(session.submit(x))
        shared = [one(value=50), one(value=51)]
        futures += [session.submit(array, share_inputs=True) for array in shared]
        assert sums(future.result() for future in futures) == list(np.cumsum(range(52)))


def test_a_reset_stands_between_the_requests_before_and_after_it(summing: ovengine.Model) -> None:
    with summing.session() as session:
        before = [session.submit(one()) for _ in range(20)]
        session.reset()
        after = [session.submit(one()) for _ in range(3)]
        assert sums(future.result() for future in before) == list(range(1, 21))
        assert sums(future.result() for future in after) == [1, 2, 3]
        session.reset()
        np.testing.assert_array_equal(session.state["sum"], one(value=0))


def test_the_state_is_a_mapping_of_copies(summing: ovengine.Model) -> None:
    with summing.session() as session:
        assert list(session.state) == ["sum"]
        assert len(session.state) == 1
        assert "sum" in session.state
        assert "other" not in session.state
        futures = [session.submit(one()) for _ in range(30)]
        state = session.state["sum"]  # after all requests before it
        np.testing.assert_array_equal(state, one(value=30))
        state[...] = 0
        assert sums([session(one())]) == [31]
        assert all(future.done() for future in futures)
        with pytest.raises(KeyError, match="the model has 'sum'"):
            session.state["other"]


def test_the_state_can_be_set_saved_and_carried_to_another_session(summing: ovengine.Model) -> None:
    with summing.session() as session, summing.session() as other:
        session.state["sum"] = np.full((1, 4), 10, np.int32)  # cast as inputs are
        assert sums([session(one())]) == [11]
        other.state = session.state
        assert sums([other(one()), session(one())]) == [12, 12]
        saved = dict(session.state)
        session(one())
        session.state = saved
        assert sums([session(one())]) == [13]


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (np.ones((2, 4), np.float32), ovengine.errors.InputError, r"'sum' does not take shape \(2, 4\)"),
        (np.ones(4, np.float32), ovengine.errors.InputError, r"'sum' does not take shape \(4,\)"),
        (np.ones((1, 4), complex), ovengine.errors.InputTypeError, "same_kind"),
        (np.array([["a", "b", "c", "d"]]), ovengine.errors.InputTypeError, "same_kind"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_the_old_one_stays(
    summing: ovengine.Model, value: Array, error: type[Exception], text: str
) -> None:
    with summing.session() as session:
        session(one())
        with pytest.raises(error, match=text):
            session.state["sum"] = value
        assert sums([session(one())]) == [2]


def test_an_unknown_state_is_named_and_nothing_is_set(load: Callable[..., ovengine.Model]) -> None:
    with load(cell()).session() as session:
        with pytest.raises(ovengine.errors.InputError, match="no state 'x'; the model has 'h', 'steps'"):
            session.state = {"steps": np.array([1]), "x": 1}
        assert session.state["steps"] == [0]


def test_wrong_inputs_are_refused_as_by_the_model_and_leave_the_state_alone(summing: ovengine.Model) -> None:
    with summing.session() as session:
        session(one())
        for call in (session, session.infer, session.submit, session.ainfer):
            with pytest.raises(ovengine.errors.InputError, match=r"shape \(2, 4\)"):
                call(one(2, 4))
            with pytest.raises(ovengine.errors.InputTypeError):
                call({"x": np.ones((1, 4), complex)})
        assert sums([session({"x": one()}), session([one()])]) == [2, 3]


def test_a_session_holds_any_number_of_variables_and_rows(load: Callable[..., ovengine.Model]) -> None:
    peer = peers(cell())()
    rng = np.random.default_rng(0)
    with load(cell()).session() as session:
        for step in range(20):
            x = rng.standard_normal((3, 8), np.float32)
            assert_same(session(x), peer(x))
            if step == 12:
                session.reset()
                peer.reset()
        assert_same(dict(session.state), peer.state)


def test_a_state_whose_shape_grows(load: Callable[..., ovengine.Model]) -> None:
    model, peer = load(history()), peers(history())()
    assert model.plan.mode == "dynamic"
    with model.session() as session:
        assert session.state["history"].shape == (0, 4)
        for rows in (2, 1, 5, 3):
            x = one(rows, 4, value=rows)
            assert_same(session(x), peer(x))
        saved = session.state["history"]
        assert saved.shape == (11, 4)
        np.testing.assert_array_equal(saved, peer.state["history"])
        session.reset()
        assert session(one())["y"][0] == 1
        session.state["history"] = saved
        assert session(one())["y"][0] == 40
        session.state["history"] = np.zeros((0, 4), np.float32)
        assert session(one())["y"][0] == 1
        with pytest.raises(ovengine.errors.InputError, match="history"):
            session.state["history"] = np.zeros((2, 5), np.float32)
        assert session(one())["y"][0] == 2


# -- many sessions ----------------------------------------------------------------------------------------------------


def test_sessions_do_not_mix_from_many_threads(load: Callable[..., ovengine.Model]) -> None:
    model, peer = load(cell()), peers(cell())

    def client(seed: int) -> None:
        rng = np.random.default_rng(seed)
        with model.session() as session:
            expected, futures, own = [], [], peer()
            for _ in range(60):
                if rng.random() < 0.1:
                    session.reset()
                    own.reset()
                x = rng.standard_normal((3, 8), np.float32)
                expected.append(own(x))
                futures.append(session.submit(x))
                if rng.random() < 0.2:
                    assert_same(dict(session.state), own.state)
            for future, wanted in zip(futures, expected, strict=True):
                assert_same(future.result(PATIENCE), wanted)

    in_threads(each(client, range(16)))


def test_hundreds_of_sessions_of_asyncio_tasks(summing: ovengine.Model) -> None:
    async def client(number: int) -> list[float]:
        session = summing.session()
        return sums([await session.ainfer(one(value=number)) for _ in range(10)])

    async def main() -> list[list[float]]:
        return await asyncio.gather(*(client(number) for number in range(300)))

    for number, found in enumerate(asyncio.run(main())):
        assert found == [number * step for step in range(1, 11)]


def test_one_session_from_many_threads_adds_up(summing: ovengine.Model) -> None:
    with summing.session() as session:

        def client(_: int) -> list[float]:
            return sums(session(one()) for _ in range(50))

        found = sorted(value for values in in_threads(each(client, range(8))) for value in values)
        assert found == list(range(1, 401))


def test_sessions_and_plain_requests_beside_each_other(summing: ovengine.Model) -> None:
    def plain(value: int) -> None:
        for _ in range(100):
            assert sums([summing(one(value=value)), summing.submit(one(value=value)).result()]) == [value, value]

    def in_session(value: int) -> None:
        with summing.session() as session:
            assert sums(session(one(value=value)) for _ in range(100)) == [value * k for k in range(1, 101)]

    in_threads(each(plain, range(1, 4)) + each(in_session, range(1, 4)))


@pytest.mark.parametrize("source", [running_sum, history])
def test_a_plain_request_starts_from_the_initial_state(
    load: Callable[..., ovengine.Model], source: Callable[[], ov.Model]
) -> None:
    model = load(source())
    x = one()

    async def ainfer() -> list[ovengine.Result]:
        return [await model.ainfer(x), *[result async for result in model.amap([x] * 5)]]

    results = [model(x), model.infer_rows(x), *(model.submit(x).result() for _ in range(5)), *model.map([x] * 20)]
    results += asyncio.run(ainfer())
    if model.plan.mode == "whole":
        with model.lease() as lease:
            lease["x"][...] = x
            results.append(lease.submit().result())
    for result in results:
        np.testing.assert_array_equal(np.ravel(result["y"]), np.ones(4))


def test_a_blob_of_a_model_with_state_has_sessions(load: Callable[..., ovengine.Model], tmp_path: Path) -> None:
    compiled = ov.Core().compile_model(running_sum(), "CPU", EXACT)
    path = tmp_path / "sum.blob"
    path.write_bytes(compiled.export_model().getvalue())
    model = load(path)
    assert model.plan.mode == "whole"
    with model.session() as session:
        assert sums([session(one()), session(one()), model(one())]) == [1, 2, 1]


def test_lanes_that_share_a_compiled_model_share_its_sessions(load: Callable[..., ovengine.Model]) -> None:
    class Shared:
        name = "shared"

        def select(self, _: object) -> list[ovengine.DevicePlan]:
            properties = {"NUM_STREAMS": 2, "INFERENCE_NUM_THREADS": 2, **EXACT}
            return [ovengine.DevicePlan("CPU", properties, lanes=2, shared=True, why="a test")]

        @ovengine.hookimpl
        def ovengine_device_selectors(self) -> list[Any]:
            return [self]

    with ovengine.Engine(plugins=ovengine.Plugins([Shared()], entry_points=False)) as engine:
        model = engine.load(cell(), device_selector="shared")
        peer = peers(cell())

        def client(seed: int) -> None:
            rng, own = np.random.default_rng(seed), peer()
            with model.session() as session:
                for _ in range(50):
                    x = rng.standard_normal((3, 8), np.float32)
                    assert_same(session(x), own(x))

        in_threads(each(client, range(6)))


def test_a_model_without_state_has_sessions_too(load: Callable[..., ovengine.Model], tiny_mlp: Path) -> None:
    model = load(tiny_mlp)
    x = np.random.default_rng(0).random((5, 16), np.float32)
    with model.session() as session:
        assert dict(session.state) == {}
        session.reset()
        np.testing.assert_array_equal(session(x)["y"], model(x)["y"])
        np.testing.assert_array_equal(session.submit(x[0]).result()["y"], model(x[0])["y"])
    with pytest.raises(ovengine.errors.EngineClosed):
        session(x)


def test_a_voice_detector_with_its_state_inside(load: Callable[..., ovengine.Model], real_model: Find) -> None:
    transformations = pytest.importorskip("openvino._offline_transformations")
    core = ov.Core()
    plain = core.compile_model(core.read_model(real_model("silero_vad")), "CPU", EXACT)
    stateful = core.read_model(real_model("silero_vad"))
    transformations.apply_make_stateful_transformation(stateful, {"state": "stateN"})
    model = load(stateful)

    def channel(seed: int) -> None:
        rng = np.random.default_rng(seed)
        audio = rng.standard_normal((12, 1, 576), np.float32) * np.float32(0.1)
        request = plain.create_infer_request()
        state: Array = np.zeros((2, 1, 128), np.float32)
        with model.session() as session:
            for block, future in zip(audio, [session.submit(block) for block in audio], strict=True):
                found = request.infer([block, state])
                state = np.array(found["stateN"])
                np.testing.assert_allclose(future.result(PATIENCE)["output"], found["output"], rtol=1e-5, atol=1e-6)
            (carried,) = session.state.values()
            np.testing.assert_allclose(carried, state, rtol=1e-5, atol=1e-5)

    in_threads(each(channel, range(8)))


# -- giving up, and the end -------------------------------------------------------------------------------------------


def slow(load: Callable[..., ovengine.Model]) -> ovengine.Model:
    """A model with a state `n` that counts inferences, each of which takes long enough to be overtaken."""
    x = parameter("x", [1, 256])
    n = ops.add(read("n", np.zeros((1, 256), np.float32)), ops.constant(one(1, 256)))
    node = x
    weights = np.random.default_rng(0).standard_normal((256, 256), np.float32)
    for _ in range(100):
        node = ops.relu(ops.matmul(node, ops.constant(weights), False, False))
    return load(model_of({"y": n, "z": node}, [x], {"n": n}))


def test_a_request_that_was_cancelled_leaves_the_state_alone(load: Callable[..., ovengine.Model]) -> None:
    with slow(load).session() as session:
        futures = [session.submit(one(1, 256, value=0)) for _ in range(40)]
        cancelled = [future.cancel() for future in futures[20:]]
        assert not futures[0].cancel() or futures[0].cancelled()
        ran = 0
        for future in futures:
            if future.cancelled():
                with pytest.raises(ovengine.errors.Cancelled):
                    future.result()
            else:
                ran += 1
                assert future.result(PATIENCE)["y"][0, 0] == ran
        assert session.state["n"][0, 0] == ran == 40 - sum(cancelled) - futures[0].cancelled()


def test_a_timeout_says_what_became_of_the_state(load: Callable[..., ovengine.Model]) -> None:
    with slow(load).session() as session:
        queued = [session.submit(one(1, 256)) for _ in range(30)]
        with pytest.raises(ovengine.errors.InferenceTimeout, match="it was cancelled, and the state is as before"):
            session.infer(one(1, 256), timeout=0)
        for future in queued:
            future.result(PATIENCE)
        assert session.state["n"][0, 0] == 30


def test_a_task_that_is_cancelled_cancels_its_request(load: Callable[..., ovengine.Model]) -> None:
    async def main(session: Any) -> int:
        tasks = [asyncio.ensure_future(wait_for(session)) for _ in range(30)]
        await asyncio.sleep(0)
        tasks[-1].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(done[-1], asyncio.CancelledError)
        return sum(isinstance(result, ovengine.Result) for result in done)

    async def wait_for(session: Any) -> ovengine.Result:
        result: ovengine.Result = await session.ainfer(one(1, 256))
        return result

    with slow(load).session() as session:
        assert asyncio.run(main(session)) == 29
        assert session.state["n"][0, 0] == 29


def test_as_completed_wait_and_callbacks_take_a_sessions_futures(summing: ovengine.Model) -> None:
    with summing.session() as session:
        futures = [session.submit(one()) for _ in range(20)]
        assert sorted(sums(future.result() for future in ovengine.as_completed(futures))) == list(range(1, 21))
        futures = [session.submit(one()) for _ in range(20)]
        called = threading.Semaphore(0)
        for future in futures:
            future.add_done_callback(lambda _: called.release())
        assert all(called.acquire(timeout=PATIENCE) for _ in futures)
        assert ovengine.wait(futures) == (set(futures), set())


def test_close_finishes_what_is_pending_and_refuses_the_rest(summing: ovengine.Model) -> None:
    session = summing.session()
    futures = [session.submit(one()) for _ in range(50)]
    assert session.close()
    assert session.close()
    assert session.closed
    assert all(future.done() for future in futures)
    calls: list[Callable[[], object]] = [
        lambda: session(one()),
        lambda: session.submit(one()),
        lambda: session.ainfer(one()),
        session.reset,
        lambda: session.state["sum"],
        lambda: session.state.__setitem__("sum", one()),
    ]
    for call in calls:
        with pytest.raises(ovengine.errors.EngineClosed, match="this session"):
            call()
    assert sums([summing(one())]) == [1]


def test_close_with_a_deadline_ends_the_rest(load: Callable[..., ovengine.Model]) -> None:
    session = slow(load).session()
    futures = [session.submit(one(1, 256)) for _ in range(200)]
    assert not session.close(timeout=0)
    assert all(future.done() for future in futures)
    with pytest.raises(ovengine.errors.EngineClosed, match="the session was closed"):
        futures[-1].result()


def test_closing_the_model_ends_its_sessions(load: Callable[..., ovengine.Model]) -> None:
    model = slow(load)
    sessions = [model.session() for _ in range(5)]
    of_sessions = {session: [session.submit(one(1, 256)) for _ in range(40)] for session in sessions}
    futures = [future for own in of_sessions.values() for future in own]
    model.close(timeout=0)
    for future in futures:
        assert future.exception(PATIENCE) is None or isinstance(future.exception(), ovengine.errors.EngineClosed)
    assert any(future.exception() for future in futures)
    for session in sessions:
        assert session.closed
        with pytest.raises(ovengine.errors.EngineClosed, match="model"):
            session(one(1, 256))
        assert session.close() == all(future.exception() is None for future in of_sessions[session])
    with pytest.raises(ovengine.errors.EngineClosed):
        model.session()


def test_sessions_that_are_dropped_are_gone_and_their_requests_are_served(summing: ovengine.Model) -> None:
    futures = [session.submit(one(value=k)) for k, session in enumerate(summing.session() for _ in range(100))]
    assert sums(future.result() for future in futures) == list(range(100))
    gc.collect()
    wait_until(lambda: _core.debug_counters()["sessions"] == 0)


def test_memory_does_not_grow_with_sessions_that_came_and_went(load: Callable[..., ovengine.Model]) -> None:
    model = load(cell())
    page = os.sysconf("SC_PAGE_SIZE")

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * page

    def churn(count: int) -> None:
        for _ in range(count):
            model.session().submit(one(3, 8)).result(PATIENCE)

    churn(300)
    before = resident()
    churn(3000)
    assert resident() - before < 16 << 20


def test_a_full_queue_refuses_a_sessions_request(load: Callable[..., ovengine.Model]) -> None:
    x = parameter("x", [1, 256])
    total = ops.add(x, read("sum", np.zeros((1, 256), np.float32)))
    model = load(model_of({"y": total}, [x], {"sum": total}), max_queue_size=4)
    with model.session() as session:
        accepted = fill(lambda: session.submit(one(1, 256)))
        for number, future in enumerate(accepted):
            assert future.result(PATIENCE)["y"][0, 0] == number + 1
        assert model.stats().rejections["queue_full"] == 1


def test_a_session_cannot_be_made_or_pickled_by_hand(summing: ovengine.Model) -> None:
    import pickle

    with pytest.raises(TypeError, match=r"model\.session\(\)"):
        type(summing.session())()
    with pytest.raises(TypeError, match=r"session\.state"):
        pickle.dumps(summing.session())


def test_a_fork_and_the_interpreters_exit_with_sessions_in_use() -> None:
    ended = run_python(
        """
import os, sys
sys.path.insert(0, "tests")
import ovengine
from test_sessions import one, running_sum
model = ovengine.load(running_sum(), device="CPU")
session = model.session()
assert session(one())["y"][0, 0] == 1
pid = os.fork()
if pid == 0:
    try:
        session(one())
    except ovengine.errors.ForkedError:
        del session
        os._exit(7)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
assert session(one())["y"][0, 0] == 2
futures = [session.submit(one()) for _ in range(1000)]
"""
    )
    assert ended.returncode == 0, ended.stderr
