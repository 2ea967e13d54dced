"""Forks: the parent does not notice, and the child gets clear errors, and takes no lock that the parent may hold."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from support import run_python
from test_lifecycle import script, succeeds


def test_the_child_of_a_fork_gets_a_clear_error_and_the_parent_goes_on() -> None:
    out = succeeds(
        """
        import gc, warnings
        warnings.simplefilter("ignore")  # newer Pythons warn of forks with threads
        network = mlp(4, 4)
        loaded = ovengine.load(network)
        fake = fake_model((1,), service_time_us=100_000)
        done, pending = loaded.submit(ROW), [fake.submit(ROW) for _ in range(4)]
        bulk, shared = fake.submit(np.zeros((9, 4), np.float32)), fake.submit(np.zeros((2, 4)), share_inputs=True)
        lease, result = fake.lease(), done.result()
        engine = ovengine.Engine()

        def refused(call):
            try:
                call()
            except ovengine.ForkedError as error:
                assert "before this process was forked" in str(error) or "parent" in str(error), error
            else:
                raise AssertionError(call)

        def in_child():
            for model in (loaded, fake):
                for call in (model, model.submit, model.ainfer, model.infer_rows):
                    refused(lambda: call(ROW))
                    refused(lambda: call(np.zeros((50, 4), np.float32)))
                refused(model.lease)
                refused(lambda: list(model.map([ROW])))
            async def awaited():
                await pending[0]
            for future in (*pending, bulk, shared):
                refused(future.result)
                refused(lambda: future.exception(1))
                refused(lambda: future.add_done_callback(print))
                refused(lambda: ovengine.wait([future]))
                refused(lambda: list(ovengine.as_completed([future])))
            refused(lambda: asyncio.run(awaited()))
            refused(lambda: engine.load(network))
            refused(lease.submit)
            lease.release()
            assert result["y"].shape == (4,)  # what was there before is still there
            for model in (loaded, fake):
                model.stats()
                model.close()
            pending.clear()
            gc.collect()
            refused(lambda: ovengine.load(network))  # OpenVINO does not survive a fork once it is in use
            with fake_model((1, 4)) as own:
                assert (own.submit(ROW).result()["y"] == 1).all()
                async def main():
                    return await own.ainfer(ROW)
                assert (asyncio.run(main())["y"] == 1).all()
                told = threading.Event()
                own.submit(ROW).add_done_callback(lambda future: told.set())
                assert told.wait(10)

        child = os.fork()
        if child == 0:
            try:
                in_child()
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(1)
            sys.exit(0)  # the whole way out
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        # The parent does not notice.
        for future in (*pending, bulk, shared):
            assert (future.result()["y"] == 1).all()
        lease["x"][...] = 1
        assert (lease.submit().result()["y"] == 2).all()
        assert (fake(ROW)["y"] == 1).all()
        assert np.array_equal(loaded(ROW)["y"], result["y"])
        print("parent")
        """
    )
    assert out == "parent\n"


def test_an_engine_that_has_loaded_nothing_before_a_fork_serves_in_the_child() -> None:
    code = script(
        """
        import os, warnings
        from ovengine.testing import mlp

        warnings.simplefilter("ignore")
        engine = ovengine.Engine(cpu_budget=2)
        if (pid := os.fork()) == 0:
            with engine.load(mlp(16, 16, 4)) as model:
                os._exit(model(np.ones((1, 16), np.float32))[0].shape != (1, 4))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        print("end")
        """
    )
    process = run_python(code)
    assert (process.returncode, process.stdout, process.stderr) == (0, "end\n", "")


def test_forked_and_spawned_workers_serve_with_models_of_their_own() -> None:
    code = script(
        """
        import multiprocessing, warnings
        warnings.simplefilter("ignore")

        def work(seed):
            with fake_model((1, 4)) as model:
                return float(model(np.full(4, seed, np.float32))["y"][0])

        if __name__ == "__main__":
            model = fake_model((1, 4))
            model(ROW)
            with multiprocessing.get_context("fork").Pool(2) as pool:
                assert pool.map(work, range(10)) == [i + 1.0 for i in range(10)]
            assert (model(ROW)["y"] == 1).all()
            print("end")
        """
    )
    process = run_python(code)
    assert (process.returncode, process.stdout, process.stderr) == (0, "end\n", "")


def test_forking_while_requests_are_served_hangs_neither_side() -> None:
    out = succeeds(
        """
        import warnings
        warnings.simplefilter("ignore")
        model = fake_model((1, 4, 16), lanes=2, service_time_us=10)
        stop = threading.Event()
        def serve():
            while not stop.is_set():
                futures = [model.submit(ROW) for _ in range(50)]
                futures[7].cancel()
                assert (futures[-1].result()["y"] == 1).all()
        threads = [threading.Thread(target=serve) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            child = os.fork()
            if child == 0:
                try:
                    model(ROW)
                except ovengine.ForkedError:
                    with fake_model((1, 4)) as own:
                        os._exit(0 if own(ROW)["y"][0] == 1 else 2)
                os._exit(3)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        stop.set()
        for thread in threads:
            thread.join()
        print("end")
        """
    )
    assert out == "end\n"


# -- what the child must leave alone ----------------------------------------------------------------------------------

# In the child of a fork a lock may be held by a thread that is not there. So this ends a child that locks a mutex in
# code of the extension or of OpenVINO.
NO_LOCKS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int is_child = 0;
static int (*lock)(pthread_mutex_t*) = 0;
static void in_child(void) { is_child = 1; }
__attribute__((constructor)) static void start(void) {
    lock = (int (*)(pthread_mutex_t*))dlsym(RTLD_NEXT, "pthread_mutex_lock");
    pthread_atfork(0, 0, in_child);
}
int pthread_mutex_lock(pthread_mutex_t* mutex) {
    Dl_info found;
    if (is_child && dladdr(__builtin_return_address(0), &found) && found.dli_fname &&
        (strstr(found.dli_fname, "/_core.") || strstr(found.dli_fname, "libopenvino"))) {
        fprintf(stderr, "a mutex is locked in %s\n", found.dli_fname);
        _exit(9);
    }
    return lock(mutex);
}
"""

IN_CHILD = """
import gc, warnings
warnings.simplefilter("ignore")
import openvino as ov
from openvino import opset13 as ops
from ovengine.compat import AsyncInferQueue
from ovengine.engine import default_engine

def any_shape():
    x = ops.parameter([-1, -1], np.float32, name="x")
    return ov.Model([ops.result(ops.relu(x))], [x], "dynamic")

def attempt(call):
    try:
        call()
    except (ovengine.ForkedError, ovengine.LeaseLost, ovengine.InferenceError, ovengine.InputError):
        pass

def check(model, held):
    rows = np.zeros((50, 4), np.float32)
    for call in (lambda: model(ROW[None]), lambda: model.infer(ROW[None], timeout=1),
                 lambda: model.submit(ROW[None], priority=1, deadline=9, group="a", latest_only=True),
                 lambda: model.ainfer(ROW[None]), lambda: model.infer_rows(rows), model.lease, model.session,
                 lambda: next(model.map([ROW[None]])), lambda: model.set(max_queue_delay_us=5), model.wait_ready,
                 model.stats, lambda: str(model.plan), lambda: repr(model), model._costs, lambda: model.row_classes,
                 ovengine._core.debug_counters):
        attempt(call)
    for future in held["futures"]:
        for call in (future.done, future.cancelled, lambda: future.result(1), lambda: future.exception(1),
                     lambda: future.add_done_callback(id), lambda: future.remove_done_callback(id),
                     lambda: repr(future), future.cancel, lambda: ovengine.wait([future], 1),
                     lambda: list(ovengine.as_completed([future], 1))):
            attempt(call)
    for session in held["sessions"]:
        for call in (lambda: session(ROW[None]), lambda: session.infer(ROW[None], timeout=1),
                     lambda: session.submit(ROW[None]), session.reset, lambda: dict(session.state), session.close,
                     lambda: repr(session)):
            attempt(call)
    for lease in held["leases"]:
        for call in (lambda: lease["x"], lease.submit, lease.release):
            attempt(call)
    for result in held["results"]:
        attempt(lambda: (dict(result), result[0], repr(result)))
    attempt(lambda: (model.close(0.1), model.close()))

def in_child(models, everything, engine, queue):
    for model in models:
        check(model, everything[model])
    for call in (lambda: engine.devices, lambda: engine.runtime, lambda: engine.load(network),
                 lambda: queue.start_async(ROW[None]), queue.wait_all, lambda: queue[0].infer(ROW[None]),
                 queue[0].wait, queue[0].cancel, lambda: queue[0].get_input_tensor().data, lambda: queue[0].results):
        attempt(call)
    everything.clear()
    queue = None
    gc.collect()
    attempt(engine.close)
    attempt(lambda: ovengine.load(network))

fake = fake_model((1, 4), service_time_us=50_000, poison=7)
engine = default_engine()
network = any_shape()
rows, shapes = ovengine.load(mlp(4, 4)), ovengine.load(network)
queue = AsyncInferQueue(ov.Core().compile_model(any_shape(), "CPU"), 2)
queue.start_async(ROW[None])
queue.wait_all()
everything = {}
for model in (rows, shapes, fake):  # the slow one last: most of its requests are pending
    model.wait_ready()
    model(ROW[None]), model.submit(ROW[None]).result()
    futures = [model.submit(ROW[None]) for _ in range(6)] + [model.submit(np.full((1, 4), 7, np.float32))]
    futures[0].exception(), futures[-1].exception()
    futures += [model.submit(ROW[None], share_inputs=True), model.submit(ROW[None], priority=1)]
    everything[model] = {
        "futures": futures,
        "sessions": [model.session()],
        "leases": [model.lease()] if model is not shapes else [],
        "results": [futures[0].result(), model(np.zeros((300, 4), np.float32))],
    }
"""


def test_no_call_in_the_child_takes_a_lock_that_the_parent_may_hold(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    (tmp_path / "no_locks.c").write_text(NO_LOCKS)
    library = str(tmp_path / "no_locks.so")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, str(tmp_path / "no_locks.c"), "-ldl"], check=True)
    code = """
child = os.fork()
if child == 0:
    try:
        in_child((fake, rows, shapes), everything, engine, queue)
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
for model, held in everything.items():
    for future in held["futures"]:
        future.exception()
print("end")
"""
    process = run_python(script(IN_CHILD) + code, environment={"LD_PRELOAD": library})
    assert (process.returncode, process.stdout, process.stderr) == (0, "end\n", "")


def test_an_iterator_that_the_child_drops_still_yields_in_the_parent() -> None:
    out = succeeds(
        """
        import gc, warnings
        warnings.simplefilter("ignore")
        model = fake_model((1,), service_time_us=50_000)
        futures = [model.submit(ROW) for _ in range(2)]
        finished = ovengine.as_completed(futures, timeout=20)
        next(finished)
        while not all(future.done() for future in futures):
            time.sleep(0.01)
        time.sleep(0.1)  # until the iterator's descriptor says so
        child = os.fork()
        if child == 0:
            del finished
            gc.collect()
            ovengine._core.debug_counters()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert next(finished).done()
        print("end")
        """
    )
    assert out == "end\n"


def test_a_request_of_the_parent_cannot_be_cancelled_in_the_child() -> None:
    succeeds(
        """
        import warnings
        warnings.simplefilter("ignore")
        model = fake_model((1,), service_time_us=100_000)
        futures = [model.submit(ROW) for _ in range(4)]
        child = os.fork()
        if child == 0:
            os._exit(any(future.cancel() for future in futures))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert futures[-1].cancel()
        """
    )


def test_the_child_leaves_at_once_while_the_parent_is_in_the_middle_of_close() -> None:
    out = succeeds(
        """
        import warnings
        warnings.simplefilter("ignore")
        model = fake_model((1,), service_time_us=100_000_000)
        future = model.submit(ROW)
        threading.Thread(target=model.close, daemon=True).start()
        while not model.closed:
            time.sleep(0.01)
        child = os.fork()
        if child == 0:
            model.close()
            sys.exit(0)  # the whole way out
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        print("end")
        """
    )
    assert out == "end\n"
