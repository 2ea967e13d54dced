# What callers are told whose request is not accepted, and how long they wait.


cdef Deadline _deadline(object timeout) except *:
    """The moment `timeout` seconds from now; none for None."""
    if timeout is None:
        return Deadline()
    return deadline_after(_seconds(timeout))


cdef double _seconds(object timeout) except? -1:
    real = as_real(timeout)
    if real is None:
        text = f"the timeout is not a number of seconds, or None for as long as it takes: {timeout!r}"
        raise errors.InputError(text) if timeout != timeout else errors.InputTypeError(text)
    return real


cdef object _queue_full(NativeModel model):
    cdef uint64_t waiting = model.core.get().approx_waiting()
    cdef uint64_t room = model._max_queue_size or model.core.get().ring_capacity()
    model._rejected_full += 1
    share = ", of which the request's group has its share" if waiting < room else ""
    return errors.QueueFull(
        f"{waiting} requests wait for model {model.name!r}, and there is room for {room}{share}; "
        "submit less at a time, or raise max_queue_size"
    )


cdef object _closed_error(NativeModel model):
    if model.core.get().forked():
        return errors.ForkedError(
            f"model {model.name!r} was loaded before this process was forked, and its threads are not here; "
            "start processes with the method 'spawn' or 'forkserver', or load no model before the fork"
        )
    model._rejected_closed += 1
    return errors.EngineClosed(f"model {model.name!r} is closed; load it again")
