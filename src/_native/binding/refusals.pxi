# What callers are told whose request is not accepted, and how long they wait.


cdef Deadline _deadline(object timeout) except *:
    """The moment `timeout` seconds from now; none for None."""
    if timeout is None:
        return Deadline()
    if timeout != timeout:
        raise errors.InputError("the timeout is not a number")
    return deadline_after(timeout)


cdef object _queue_full(NativeModel model):
    model._rejected_full += 1
    return errors.QueueFull(
        f"{model.core.get().approx_waiting()} requests wait for model {model.name!r}, and max_queue_size is "
        f"{model._max_queue_size or 'the ring'}; submit less at a time, or raise the limit"
    )


cdef object _closed_error(NativeModel model):
    if model.core.get().forked():
        return errors.ForkedError(
            f"model {model.name!r} was loaded before this process was forked, and its threads are not here; "
            "start processes with the method 'spawn' or 'forkserver', or load no model before the fork"
        )
    model._rejected_closed += 1
    return errors.EngineClosed(f"model {model.name!r} is closed")
