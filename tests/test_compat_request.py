"""Requests of a queue that are run one by one: infer, start_async, wait, cancel, callbacks, and what they refuse."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

import ovengine
from ovengine import compat
from queues import Make, answers, everywhere, ours, over_compiled
from support import PATIENCE, double, fake, run_python, tagged, two_in_two_out, wait_until


def slow() -> ov.Model:
    """Half a second or so, and `y = x`, `(1, 512)`."""
    x = ops.parameter([1, 512], np.float32, name="x")
    x.output(0).set_names({"x"})
    rotation = ops.constant(np.roll(np.eye(512, dtype=np.float32), 1, axis=1))
    body_x = ops.parameter([1, 512], np.float32)
    body = ov.Model([ops.matmul(body_x, rotation, False, False), ops.constant(np.array(True))], [body_x], "body")
    loop = ops.loop(ops.constant(np.array(512 * 64, np.int64)), ops.constant(np.array(True)))
    loop.set_function(body)
    loop.set_special_body_ports([-1, 1])
    loop.set_merged_input(body_x, x.output(0), body.results[0].output(0))
    y = loop.get_iter_value(body.results[0].output(0), -1)
    return ov.Model([ops.result(y)], [x], "slow")


def each_request(queue: Any) -> list[Any]:
    return [request.get_output_tensor().data.copy() for request in queue]


# -- infer ------------------------------------------------------------------------------------------------------------


@everywhere
def test_a_request_infers(make: Make) -> None:
    queue = make(double(), 2)
    for rows in (1, 3):
        results = queue[1].infer({"x": tagged(rows)})
        assert np.array_equal(results["y"], 2 * tagged(rows))
        assert np.array_equal(results[0], queue[1].results[0])
        assert queue[1].latency > 0
    assert np.array_equal(queue[1].infer()[0], 2 * tagged(3))
    assert answers(queue, tagged(1, first=4))[0].tolist() == (2 * tagged(1, first=4)).tolist()


@over_compiled
@pytest.mark.parametrize("share", [False, True])
def test_results_share_memory_where_that_is_wanted(make: Make, share: bool) -> None:
    model = double()
    model.reshape([1, 4])
    queue = make(model, 1)
    request = queue[0]
    row = tagged(1)
    results = request.infer(row, share_inputs=share, share_outputs=share)
    assert np.shares_memory(request.get_input_tensor().data, row) == share
    assert np.shares_memory(request.get_output_tensor().data, results[0]) == share
    assert results[0].flags.owndata == (not share)


@everywhere
@pytest.mark.parametrize("decode_strings", [True, False])
def test_text_is_decoded_or_not(make: Make, decode_strings: bool) -> None:
    x = ops.parameter([-1], ov.Type.string)
    queue = make(ov.Model([ops.result(x)], [x], "echo"), 1)
    request = queue[0]
    texts = np.array(["text", "больше текста"])
    found = request.infer(texts, decode_strings=decode_strings)[0]
    assert np.array_equal(found, texts if decode_strings else np.char.encode(texts, "utf-8"))


@ours
def test_what_infer_fails_with_is_raised_there_and_not_by_wait_all(make: Make) -> None:
    x, shape = ops.parameter([-1], np.float32, name="x"), ops.parameter([2], np.int64, name="shape")
    for node, name in ((x, "x"), (shape, "shape")):
        node.output(0).set_names({name})
    queue = make(ov.Model([ops.result(ops.reshape(x, shape, False))], [x, shape], "reshape"), 2)
    values = np.arange(6, dtype=np.float32)
    with pytest.raises(RuntimeError):
        queue[0].infer({"x": values, "shape": np.array([4, 4])})
    with pytest.raises(RuntimeError):
        queue[0].infer({"none": values})
    queue.wait_all()
    assert queue[0].infer({"x": values, "shape": np.array([2, 3])})[0].shape == (2, 3)


# -- start_async ------------------------------------------------------------------------------------------------------


@everywhere
def test_requests_are_started_one_by_one(make: Make) -> None:
    queue = make(double(), 3)
    for index, request in enumerate(queue):
        request.start_async(tagged(1, first=index))
    for request in queue:
        request.wait()
        assert request.wait_for(0) is True
    assert [found.tolist() for found in each_request(queue)] == [(2 * tagged(1, first=i)).tolist() for i in range(3)]


@ours
def test_the_queue_uses_requests_only_while_nobody_else_does(make: Make) -> None:
    queue = make(double(), 2)
    go_on = threading.Event()
    queue[0].set_callback(lambda userdata: go_on.wait(PATIENCE), None)
    queue[0].start_async(tagged(1, first=7))
    for first in range(10):
        assert queue.get_idle_request_id() == 1
        queue.start_async(tagged(1, first=first))
        queue[1].wait()
    go_on.set()
    queue.wait_all()
    assert np.array_equal(queue[0].get_output_tensor().data, 2 * tagged(1, first=7))
    assert np.array_equal(queue[1].get_output_tensor().data, 2 * tagged(1, first=9))


@ours
def test_a_request_started_alone_has_the_queues_callback(make: Make) -> None:
    queue = make(double(), 1)
    seen: list[Any] = []
    queue.set_callback(lambda request, userdata: seen.append((request.get_output_tensor().data.item(1), userdata)))
    queue[0].start_async(tagged(1), "first")
    queue[0].wait()
    queue[0].start_async()
    queue[0].wait()
    assert seen == [(2, "first"), (2, "first")]
    assert queue.userdata == ["first"]


@everywhere
def test_userdata_that_no_callback_gets_is_a_warning(make: Make) -> None:
    queue = make(double(), 1)
    request = queue[0]
    with pytest.warns(RuntimeWarning, match="no callback function"):
        request.start_async(tagged(1), "userdata")
    request.wait()


@everywhere
def test_a_request_has_a_callback_of_its_own(make: Make) -> None:
    queue = make(double(), 2)
    request = queue[0]
    seen: list[Any] = []
    queue.set_callback(lambda request, userdata: seen.append(("queue's", userdata)))
    request.set_callback(lambda userdata: seen.append(("own", userdata)), "first")
    request.start_async(tagged(1))
    request.wait()
    request.start_async(tagged(1), "second")
    request.wait()
    assert seen == [("own", "first"), ("own", "second")]


@ours
def test_the_queues_callback_takes_the_place_of_those_before(make: Make) -> None:
    queue = make(double(), 1)
    seen: list[Any] = []
    queue[0].set_callback(seen.append, "own")
    queue.set_callback(lambda request, userdata: seen.append(userdata))
    queue.start_async(tagged(1), "queue's")
    queue.wait_all()
    assert seen == ["queue's"]
    for target in (queue, queue[0]):
        with pytest.raises(TypeError, match="callable"):
            target.set_callback(5, *([None] if target is not queue else []))


@ours
def test_a_callback_may_start_its_request_again(make: Make) -> None:
    queue = make(double(), 1)
    seen: list[float] = []

    def callback(request: Any, userdata: int) -> None:
        seen.append(request.get_output_tensor().data.item(1))
        if userdata < 5:
            request.start_async(request.get_output_tensor().data.copy(), userdata + 1)

    queue.set_callback(callback)
    queue.start_async(tagged(1), 0)
    queue.wait_all()
    assert seen == [2, 4, 8, 16, 32, 64]
    assert queue.is_ready()
    assert np.array_equal(answers(queue, tagged(1, first=3), userdata=5)[0], 2 * tagged(1, first=3))


# -- while it runs ----------------------------------------------------------------------------------------------------


def test_a_busy_request_refuses_all_but_to_be_waited_for() -> None:
    with fake(1, service_time_us=200_000) as model:
        queue = compat.AsyncInferQueue(model, 1)
        request = queue[0]
        tensor = ov.Tensor(np.zeros((1, 4), np.float32))
        request.start_async(np.zeros((1, 4), np.float32))
        calls: list[Any] = [
            request.start_async,
            request.infer,
            request.get_input_tensor,
            request.get_output_tensor,
            request.query_state,
            request.reset_state,
            lambda: request.results,
            lambda: request.input_tensors,
            lambda: request.set_input_tensor(tensor),
            lambda: request.set_output_tensor(tensor),
            lambda: request.set_callback(print, None),
        ]
        for call in calls:
            with pytest.raises(RuntimeError, match="busy"):
                call()
        assert request.userdata is None
        request.wait()
        assert request.get_output_tensor().data.tolist() == [[1, 1, 1, 1]]


def test_an_inference_that_waits_is_cancelled_and_the_request_is_usable() -> None:
    with fake(1, service_time_us=50_000) as model:
        queue = compat.AsyncInferQueue(model, 3)
        called: list[Any] = []
        queue.set_callback(lambda request, userdata: called.append(userdata))
        for index in range(3):
            queue.start_async(np.full((1, 4), index, np.float32), index)
        queue[2].cancel()
        with pytest.raises(ovengine.Cancelled) as raised:
            queue[2].wait()
        assert isinstance(raised.value, RuntimeError)  # as in OpenVINO
        queue.wait_all()
        assert sorted(called) == [0, 1]
        queue[2].infer()  # what it was given for the inference that was cancelled
        assert queue[2].get_output_tensor().data.tolist() == [[3, 3, 3, 3]]


@over_compiled
def test_an_inference_that_runs_is_cancelled(make: Make) -> None:
    queue = make(slow(), 1)
    request = queue[0]
    row = np.arange(512, dtype=np.float32)[None]
    request.start_async(row)
    wait_until(lambda: not request.wait_for(5))
    request.cancel()
    with pytest.raises(RuntimeError):
        request.wait()
    if make.kind != "openvino":
        assert np.array_equal(request.infer()[0], row)
        queue.wait_all()


@everywhere
def test_an_idle_request_can_be_cancelled_and_waited_for(make: Make) -> None:
    queue = make(double(), 1)
    request = queue[0]
    request.cancel()
    request.wait()
    assert request.wait_for(0) is False
    assert np.array_equal(request.infer(tagged(1))[0], 2 * tagged(1))


@everywhere
@pytest.mark.parametrize(("timeout", "kind"), [(-1, RuntimeError), ("1", TypeError), (None, TypeError)])
def test_a_timeout_that_makes_no_sense_is_an_error(make: Make, timeout: Any, kind: type[Exception]) -> None:
    queue = make(double(), 1)
    with pytest.raises(kind):
        queue[0].wait_for(timeout)


# -- what it is -------------------------------------------------------------------------------------------------------


@everywhere
def test_a_request_is_an_openvino_infer_request(make: Make) -> None:
    queue = make(two_in_two_out(), 2)
    for request in queue:
        assert isinstance(request, ov.InferRequest)
        assert "InferRequest" in repr(request)
        assert "total" in repr(request)
        if make.kind != "openvino":
            assert isinstance(request, compat.InferRequest)
    for thing in (queue, queue[0]):
        with pytest.raises(TypeError):
            pickle.dumps(thing)


@over_compiled
def test_it_has_all_that_openvinos_requests_have(make: Make) -> None:
    queue = make(double(), 1)
    for known, own in ((ov.AsyncInferQueue, queue), (ov.InferRequest, queue[0])):
        public = [name for name in dir(known) if not name.startswith("_")]
        assert [name for name in public if name not in dir(own)] == []


def test_in_the_child_of_a_fork_the_queue_says_so_and_does_not_hang() -> None:
    code = """
import os, sys
import numpy as np, openvino as ov, ovengine
from openvino import opset13 as ops
from ovengine.compat import AsyncInferQueue
x = ops.parameter([1, 4], np.float32)
queue = AsyncInferQueue(ov.Core().compile_model(ov.Model([ops.relu(x)], [x]), "CPU"), 2)
queue.start_async(np.ones((1, 4), np.float32))
queue.wait_all()
queue._pool.changed.acquire()  # as another thread might at that moment
child = os.fork()
if child == 0:
    told = 0
    for call in (queue.start_async, queue.wait_all, queue.get_idle_request_id, queue[0].infer, queue[0].wait):
        try:
            call()
        except ovengine.ForkedError:
            told += 1
    del queue
    os._exit(told)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    finished = run_python(code)
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "5\n", "")


def test_a_signal_while_infer_waits_is_heard_and_the_request_comes_back() -> None:
    code = """
import signal, time
import numpy as np
from ovengine import compat
from ovengine.testing import fake_model
model = fake_model([1], service_time_us=400_000)
queue = compat.AsyncInferQueue(model, 1)
signal.signal(signal.SIGALRM, signal.default_int_handler)
signal.setitimer(signal.ITIMER_REAL, 0.1)
try:
    queue[0].infer(np.zeros((1, 4), np.float32))
except KeyboardInterrupt:
    print("interrupted")
queue.get_idle_request_id()
print(queue[0].infer(np.ones((1, 4), np.float32))[0].tolist())
model.close()
"""
    finished = run_python(code)
    assert (finished.returncode, finished.stdout) == (0, "interrupted\n[[2.0, 2.0, 2.0, 2.0]]\n")
