"""`ovengine.compat.AsyncInferQueue` beside OpenVINO's own class: the same body for both."""

from __future__ import annotations

import contextlib
import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

import models
import ovengine
from ovengine import compat
from queues import Make, everywhere, ours
from support import PATIENCE, double, each, in_threads, reference, run_python, tagged, two_in_two_out


def image_of(path: Path, seed: int) -> Any:
    shape = (1, 3, 224, 224) if "squeezenet" in path.name else (1, 3, 48, 192)
    return np.random.default_rng(seed).random(shape, np.float32)


# -- the same for both ------------------------------------------------------------------------------------------------


@everywhere
@pytest.mark.parametrize("name", ["squeezenet", "text_direction"])
@pytest.mark.parametrize("share_inputs", [False, True])
def test_a_real_model_answers_each_request_with_its_userdata(
    make: Make, real_model: Callable[[str], Path], name: str, share_inputs: bool
) -> None:
    path = real_model(name)
    queue = make(path, 3)
    found: dict[int, Any] = {}
    latencies = []

    def callback(request: Any, userdata: int) -> None:
        found[userdata] = request.get_output_tensor().data.copy()
        latencies.append(request.latency)

    queue.set_callback(callback)
    images = [image_of(path, seed) for seed in range(8)]
    for index, image in enumerate(images):
        queue.start_async({0: image}, index, share_inputs=share_inputs)
    queue.wait_all()
    expected = reference(path)
    for index, image in enumerate(images):
        assert np.allclose(found[index], next(iter(expected(image).values())), atol=1e-4)
    assert len(latencies) == 8
    assert min(latencies) > 0


@everywhere
def test_outputs_are_found_by_index_name_and_port(make: Make) -> None:
    model = two_in_two_out()
    queue = make(model, 1)
    a, b = np.ones((1, 3), np.float32), np.arange(4, dtype=np.int32).reshape(1, 2, 2)
    queue.start_async({"a": a, 1: b}, "tag")
    queue.wait_all()
    (request,) = queue
    total, scaled = np.array([[9]], np.float32), np.full((1, 3), 3, np.float32)
    for tensors in (request.output_tensors, [request.get_tensor("total"), request.get_tensor("scaled")]):
        assert np.array_equal(tensors[0].data, total)
        assert np.array_equal(tensors[1].data, scaled)
    assert np.array_equal(request.get_output_tensor(1).data, scaled)
    assert np.array_equal(request.get_tensor("a").data, a)
    assert np.array_equal(request.get_input_tensor(1).data, b)
    assert [np.array_equal(x.data, y) for x, y in zip(request.input_tensors, (a, b), strict=True)] == [True, True]
    results = request.results
    for key, value in ((0, total), (1, scaled), ("total", total), ("scaled", scaled)):
        assert np.array_equal(results[key], value)
    assert [array.shape for array in results.values()] == [(1, 1), (1, 3)]
    assert len(request.model_inputs) == len(request.model_outputs) == 2
    with pytest.raises(KeyError):
        results["none"]
    assert np.array_equal(results[model.output(1) if make.kind == "model" else request.model_outputs[1]], scaled)
    if make.kind != "model":
        ports = request.get_compiled_model().outputs
        assert list(results) == ports == request.model_outputs
        assert np.array_equal(results[ports[1]], scaled)
        assert np.array_equal(request.get_tensor(ports[0]).data, total)


@everywhere
def test_userdata_and_requests_are_one_for_each_job(make: Make) -> None:
    queue = make(double(), 3)
    assert (len(queue), queue.userdata, len(list(queue))) == (3, [None] * 3, 3)
    assert queue.is_ready() is True
    assert "3 jobs" in repr(queue)
    for index in range(3):
        assert queue.get_idle_request_id() == index
        queue.start_async(tagged(1), f"tag {index}")
    queue.wait_all()
    assert queue.userdata == ["tag 0", "tag 1", "tag 2"]
    iterator = iter(queue)
    assert [next(iterator).get_output_tensor().data.shape for _ in range(3)] == [(1, 4)] * 3
    with pytest.raises(StopIteration):
        next(iterator)
    for request in queue:
        assert request.wait_for(0) is True
        request.wait()


@everywhere
def test_a_queue_without_a_number_of_jobs_chooses_one(make: Make) -> None:
    options: dict[str, Any] = {"batch_sizes": [1, 64]} if make.kind == "model" else {}
    queue = make(double(), **options)
    assert len(queue) >= (64 if make.kind == "model" else 1)


@everywhere
def test_requests_that_never_ran_have_empty_or_zeroed_outputs(make: Make) -> None:
    queue = make(double(), 2)
    assert queue[1].get_output_tensor().data.shape == (0, 4)
    assert queue[1].results[0].shape == (0, 4)
    assert queue[1].latency == 0


@everywhere
def test_start_async_waits_for_an_idle_request(make: Make) -> None:
    queue = make(double(), 2)
    go_on = threading.Event()
    running = threading.Semaphore(0)

    def callback(request: Any, userdata: Any) -> None:
        running.release()
        assert go_on.wait(PATIENCE)

    queue.set_callback(callback)
    queue.start_async(tagged(1))
    assert running.acquire(timeout=PATIENCE)
    queue.start_async(tagged(1))
    third = threading.Thread(target=queue.start_async, args=(tagged(1), "third"), daemon=True)
    third.start()
    third.join(0.05)
    assert third.is_alive()
    assert queue.is_ready() is False
    go_on.set()
    third.join(PATIENCE)
    assert not third.is_alive()
    queue.wait_all()
    assert "third" in queue.userdata


@everywhere
def test_a_callback_may_feed_another_queue(make: Make) -> None:
    # Detection and recognition: the second queue is full while the callbacks of the first one wait for it.
    first, second = make(double(), 4), make(models.mlp(*models.TINY_MLP), 1)
    found: dict[int, Any] = {}
    second.set_callback(lambda request, index: found.update({index: request.get_output_tensor().data.copy()}))

    # OpenVINO's class takes one producer at a time, and callbacks come from several threads.
    guard: Any = threading.Lock() if make.kind == "openvino" else contextlib.nullcontext()

    def feed(request: Any, index: int) -> None:
        with guard:
            second.start_async(np.resize(request.get_output_tensor().data, (1, 16)), index)

    first.set_callback(feed)
    rows = tagged(30)[:, None]
    for index, row in enumerate(rows):
        first.start_async(row, index)
    first.wait_all()
    second.wait_all()
    expected = reference(models.mlp(*models.TINY_MLP))
    for index, row in enumerate(rows):
        assert np.allclose(found[index], expected(np.resize(2 * row, (1, 16)))["y"], rtol=1e-4, atol=1e-4)


@everywhere
def test_several_producers(make: Make) -> None:
    queue = make(models.mlp(*models.TINY_MLP), 4)
    # OpenVINO's class takes one producer at a time: "Infer Request is busy" otherwise.
    guard: Any = threading.Lock() if make.kind == "openvino" else contextlib.nullcontext()
    found: dict[Any, Any] = {}
    queue.set_callback(lambda request, userdata: found.update({userdata: request.get_output_tensor().data.copy()}))
    rows = np.random.default_rng(0).random((4, 50, 1, 16), np.float32)

    def produce(producer: int) -> None:
        for index, row in enumerate(rows[producer]):
            with guard:
                queue.start_async(row, (producer, index))

    in_threads(each(produce, range(4)))
    queue.wait_all()
    expected = reference(models.mlp(*models.TINY_MLP))
    assert len(found) == 200
    for (producer, index), y in found.items():
        assert np.allclose(y, expected(rows[producer, index])["y"], atol=1e-5)


def reshape_on_demand() -> ov.Model:
    """`y = reshape(x, shape)`: fails while it runs when the sizes do not agree."""
    x, shape = ops.parameter([-1], np.float32, name="x"), ops.parameter([2], np.int64, name="shape")
    for node, name in ((x, "x"), (shape, "shape")):
        node.output(0).set_names({name})
    return ov.Model([ops.result(ops.reshape(x, shape, False))], [x, shape], "reshape")


GOOD = {"x": np.arange(6, dtype=np.float32), "shape": np.array([2, 3])}
BAD = {"x": np.arange(6, dtype=np.float32), "shape": np.array([4, 4])}


@everywhere
@pytest.mark.parametrize("with_callback", [False, True])
def test_a_request_that_fails_has_no_callback_and_wait_all_raises(make: Make, with_callback: bool) -> None:
    queue = make(reshape_on_demand(), 2)
    called: list[Any] = []
    if with_callback:
        queue.set_callback(lambda request, userdata: called.append(userdata))
    queue.start_async(BAD, "bad")
    with pytest.raises(RuntimeError):
        queue.wait_all()
    assert called == []


@everywhere
def test_what_a_callback_raises_comes_out_of_wait_all(make: Make) -> None:
    queue = make(double(), 1)

    def callback(request: Any, userdata: Any) -> None:
        raise TypeError("mine")

    queue.set_callback(callback)
    queue.start_async(tagged(1))
    with pytest.raises(TypeError, match="mine"):
        queue.wait_all()


# -- better than OpenVINO's class, which hangs or aborts here ---------------------------------------------------------


@ours
def test_an_error_belongs_to_its_own_request(make: Make) -> None:
    queue = make(reshape_on_demand(), 4)
    found: list[Any] = []
    queue.set_callback(lambda request, userdata: found.append((userdata, request.get_output_tensor().data.shape)))
    for index in range(20):
        queue.start_async(BAD if index == 3 else GOOD, index)
    with pytest.raises(ovengine.InferenceError):
        queue.wait_all()
    assert sorted(found) == [(index, (2, 3)) for index in range(20) if index != 3]
    queue.wait_all()
    queue.start_async(GOOD, 20)
    queue.wait_all()
    assert found[-1] == (20, (2, 3))


@ours
def test_waiting_for_a_request_raises_its_error_and_wait_all_not_again(make: Make) -> None:
    queue = make(reshape_on_demand(), 2)
    queue.start_async(GOOD)
    queue.start_async(BAD)
    queue[0].wait()
    with pytest.raises(ovengine.InferenceError):
        queue[1].wait()
    queue.wait_all()


@ours
def test_errors_that_wait_all_does_not_raise_are_logged(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    queue = make(double(), 1)

    def callback(request: Any, userdata: int) -> None:
        raise KeyError(userdata)

    queue.set_callback(callback)
    for index in range(3):
        queue.start_async(tagged(1), index)
    with pytest.raises(KeyError, match="2"):
        queue.wait_all()
    errors = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert [error.args for error in errors if error is not None] == [(0,), (1,)]
    del errors
    caplog.clear()  # their tracebacks hold the request


@ours
def test_a_busy_request_says_so(make: Make) -> None:
    queue = make(double(), 1)
    seen: list[Any] = []
    go_on = threading.Event()

    def callback(request: Any, userdata: Any) -> None:
        seen.append(request.get_output_tensor().data.shape)
        assert go_on.wait(PATIENCE)

    queue.set_callback(callback)
    queue.start_async(tagged(1))
    assert queue[0].wait_for(1) is False
    go_on.set()
    queue.wait_all()
    assert (seen, queue[0].wait_for(1)) == ([(1, 4)], True)


@ours
@pytest.mark.parametrize("jobs", [-1, True, 1.5])
def test_a_number_of_jobs_that_makes_no_sense_is_an_error(make: Make, jobs: Any) -> None:
    with pytest.raises(ovengine.ConfigError, match="jobs") as raised:
        make(double(), jobs)
    assert isinstance(raised.value, TypeError)  # as in OpenVINO


@ours
def test_an_index_out_of_range_is_an_index_error(make: Make) -> None:
    queue = make(double(), 2)
    for index in (-1, 2):
        with pytest.raises(IndexError):
            queue[index]
    with pytest.raises(TypeError):
        queue["first"]


def test_something_that_is_no_model_is_an_error() -> None:
    with pytest.raises(ovengine.ModelError, match=r"str is not an openvino\.CompiledModel") as raised:
        compat.AsyncInferQueue("model.xml")
    assert isinstance(raised.value, TypeError)  # as in OpenVINO


@ours
def test_a_queue_that_is_dropped_goes_with_its_threads(make: Make) -> None:
    before = threading.active_count()
    queue = make(double(), 2)
    queue.set_callback(lambda request, userdata: None)
    queue.start_async(tagged(1))
    queue.wait_all()
    gone = weakref.ref(queue)
    del queue
    gc.collect()
    assert gone() is None
    threads = [thread for thread in threading.enumerate() if thread.name == "ovengine-callback"]
    for thread in threads:
        thread.join(PATIENCE)
    assert threading.active_count() <= before + 1  # the core's own, for callbacks, stays


@pytest.mark.parametrize("make", ["model"], indirect=True)
def test_requests_to_a_model_share_batches(make: Make) -> None:
    queue = make(double(), 64, batcher="fixed", max_batch_size=16)
    make.to_close[0].wait_ready()
    found: dict[int, Any] = {}
    queue.set_callback(lambda request, index: found.update({index: request.get_output_tensor().data.copy()}))
    rows = tagged(500)[:, None]
    for index, row in enumerate(rows):
        queue.start_async(row, index)
    queue.wait_all()
    for index, row in enumerate(rows):
        assert np.array_equal(found[index], 2 * row)
    stats = make.to_close[0].stats()
    assert stats.requests == 500
    assert stats.batches < 500


@pytest.mark.parametrize("make", ["model"], indirect=True)
def test_a_small_queue_of_the_model_is_waited_for(make: Make) -> None:
    queue = make(double(), 32, max_queue_size=1, max_batch_size=2)
    for index, row in enumerate(tagged(200)[:, None]):
        queue.start_async(row, index)
    queue.wait_all()
    assert make.to_close[0].stats().requests == 200


def test_a_closed_model_ends_its_queues_requests() -> None:
    model = ovengine.load(double(), device="CPU")
    queue = compat.AsyncInferQueue(model, 2)
    model.close()
    with pytest.raises(ovengine.EngineClosed):
        queue.start_async(tagged(1))
    assert queue.is_ready()


def test_the_process_ends_while_requests_run() -> None:
    code = """
import numpy as np, openvino as ov
from openvino import opset13 as ops
from ovengine.compat import AsyncInferQueue
x = ops.parameter([1, 4], np.float32)
queue = AsyncInferQueue(ov.Core().compile_model(ov.Model([ops.relu(x)], [x]), "CPU"), 8)
queue.set_callback(lambda request, userdata: request.get_output_tensor().data.sum())
for _ in range(100):
    queue.start_async(np.ones((1, 4), np.float32))
print("done")
"""
    finished = run_python(code)
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "done\n", "")
