"""OpenVINO's CPU plugin changes the signal stack of the thread that loads it, and frees it on any thread."""

from __future__ import annotations

import pytest

from test_lifecycle import succeeds

SIGNAL_STACK = """
    import ctypes, gc, signal, threading

    class Stack(ctypes.Structure):
        _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

    def signal_stack():
        found = Stack()
        assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found)) == 0
        return found.start, found.flags, found.size

    before = signal_stack()
"""


@pytest.mark.parametrize("has_stack", [False, True])
def test_a_signal_is_taken_after_an_engine_has_ended_on_another_thread(has_stack: bool) -> None:
    succeeds(
        ("    import faulthandler; faulthandler.enable()\n" if has_stack else "")
        + SIGNAL_STACK
        + """
    import openvino as ov
    x = ov.opset13.parameter([-1, 4], np.float32, name="x")
    source = ov.Model([ov.opset13.result(ov.opset13.relu(x))], [x], "relu")
    engine = ovengine.Engine(cpu_budget=1)
    model = engine.load(source, device="CPU", cache_dir=None)
    model(ROW)
    model.wait_ready()
    assert signal_stack() == before

    held = [engine, model]
    del engine, model
    thread = threading.Thread(target=lambda: (held[1].close(), held.clear(), gc.collect()))
    thread.start()
    thread.join()
    assert signal_stack() == before
    seen = []
    signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    signal.raise_signal(signal.SIGINT)
    assert seen == [signal.SIGINT]
    """
    )
