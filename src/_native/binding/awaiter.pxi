# _Awaiter: what `await future` is to a task of asyncio.


@cython.freelist(256)
cdef class _Awaiter:
    """The part of asyncio.Future that tasks use, for one `await`.

    A task that is cancelled is resumed at once, with its message, and cancels the request as well.
    """
    cdef Future future
    cdef object callback        # of the task, until it is resumed
    cdef object context
    cdef object loop
    cdef object cancel_message
    cdef public bint _asyncio_future_blocking
    cdef bint is_cancelled      # by the task
    cdef bint is_over           # the task is resumed, or about to be

    def __iter__(self):
        return self

    def __next__(self):
        cdef Outcome outcome = self.future._outcome()
        if outcome == Outcome.pending and not self.is_cancelled:
            self._ask()
            outcome = self.future._outcome()
            if outcome == Outcome.pending:
                self._asyncio_future_blocking = True
                return self
            self.is_over = True
        if self.is_cancelled:
            raise self._cancelled_error()
        if outcome != Outcome.ok:
            raise self.future._error(outcome)
        raise StopIteration(self.future._take_result())

    cdef int _ask(self) except -1:
        """To be told of the outcome. All that may fail is done here, where the coroutine gets the exception."""
        self.loop = _running_loop()
        if not self.future._attach(_mailbox_of(self.loop), self) and self.future._outcome() == Outcome.pending:
            # The request left the ring in the moment its batch ended: the batch tells within microseconds.
            self.loop.call_soon(self._wake)
        return 0

    def _wake(self):
        self._finish()

    cdef int _finish(self) except -1:
        """On the loop's thread: the outcome is known, or a moment away."""
        if self.is_over:
            return 0
        if self.future._outcome() == Outcome.pending:
            return self._ask()
        return self._resume()

    cdef int _resume(self) except -1:
        self.is_over = True
        callback = self.callback
        self.callback = None
        if callback is not None:
            self.loop.call_soon(callback, self, context=self.context)
        return 0

    cdef object _cancelled_error(self):
        if self.cancel_message is None:
            return asyncio.CancelledError()
        return asyncio.CancelledError(self.cancel_message)

    # --- what a task calls ---

    def get_loop(self):
        return self.loop

    def add_done_callback(self, fn, *, context=None):
        self.callback = fn
        self.context = context
        if self.is_over:
            self._resume()

    def remove_done_callback(self, fn):
        removed = self.callback is not None
        self.callback = None
        return int(removed)

    def cancel(self, msg=None):
        if self.is_over or self.future._outcome() != Outcome.pending:
            return False
        self.is_over = self.is_cancelled = True
        self.cancel_message = msg
        self.future.cancel()  # a session's request that has begun goes on
        self._resume()
        return True

    def done(self):
        return self.is_over or self.future._outcome() != Outcome.pending

    def cancelled(self):
        return self.is_cancelled

    def result(self):
        """For the task that is resumed: the outcome itself comes from __next__."""
        if self.is_cancelled:
            raise self._cancelled_error()

    def exception(self):
        if self.is_cancelled:
            raise self._cancelled_error()


cdef _Awaiter _await(Future future):
    cdef _Awaiter awaiter = _Awaiter.__new__(_Awaiter)
    awaiter.future = future
    return awaiter


cdef object _running_loop():
    loop = asyncio._get_running_loop()
    if loop is None:
        raise RuntimeError(
            "a Future can be awaited on asyncio's event loops only, and none is running here; under trio, call infer() "
            "in a worker thread: await anyio.to_thread.run_sync(model.infer, inputs)"
        )
    return loop
