# Future: the pending outcome of one request, and waiting for several.


@cython.no_gc_clear
@cython.freelist(1024)
cdef class Future:
    """The pending outcome of one request: await it on an event loop, or call `result` from any thread.

    `submit` and `ainfer` of a model or a session return futures, and so does `Lease.submit`. Any number of threads and
    tasks may wait for the same future. A task that is cancelled while it awaits a future resumes at once and cancels
    the request. Awaiting needs asyncio's event loop or uvloop.

    Example:
        >>> future = model.submit(x)
        >>> future.result(timeout=1.0)["y"]
        >>> (await model.ainfer(x))["y"]
    """
    cdef NativeModel _model
    cdef Ticket _ticket           # its references are this object's, until the result takes them over
    cdef Result _result
    cdef object _kept             # arrays whose memory the core reads until the request is done
    cdef _Buckets _buckets        # of a sequence that was padded: `_length` is its own
    cdef int64_t _length
    cdef list _callbacks
    cdef uint32_t _rows
    cdef bint _single
    cdef bint _cancelled
    cdef bint _callbacks_done
    cdef int _waiters             # threads that look at the ticket without the GIL

    def __reduce__(self):
        raise TypeError("a Future belongs to its process and cannot be pickled; pickle the arrays of its result")

    def __dealloc__(self):
        # In the child of a fork nobody is there to give anything back to.
        if self._model is None or self._model.core.get().forked():
            return
        if self._kept is not None:
            self._give_up_kept()
        self._model.core.get().release(self._ticket)

    cdef void _give_up_kept(self) noexcept:
        cdef _Lingering lingering
        if self._outcome() == Outcome.pending:
            ModelCore.cancel(self._ticket)
        _sweep_lingering()
        if ModelCore.may_read_input(self._ticket):
            lingering = _Lingering.__new__(_Lingering)
            lingering.core = self._model.core
            lingering.ticket = self._ticket
            lingering.kept = self._kept
            self._ticket = Ticket()
            _lingering.append(lingering)

    @cython.nonecheck(False)
    cdef inline Outcome _outcome(self) noexcept:
        if self._result is not None:
            return Outcome.ok
        if self._cancelled:
            return Outcome.cancelled
        return ModelCore.outcome(self._ticket)

    cdef int _wait(self, object timeout) except -1:
        return self._wait_until(_deadline(timeout), timeout)

    cdef int _wait_until(self, Deadline deadline, object timeout) except -1:
        """Until the outcome is known. Raises InferenceTimeout, or what a signal handler raises."""
        cdef WaitResult waited
        cdef Ticket ticket
        while self._outcome() == Outcome.pending:
            if self._model.core.get().forked():
                raise _closed_error(self._model)
            ticket = self._ticket
            self._waiters += 1
            with nogil:
                waited = ModelCore.wait(ticket, deadline)
            self._waiters -= 1
            PyErr_CheckSignals()
            if waited == WaitResult.timed_out and self._outcome() == Outcome.pending:
                raise errors.InferenceTimeout(
                    f"no result from model {self._model.name!r} within {timeout} s; the request goes on, "
                    "cancel() gives it up"
                )
        return 0

    @cython.nonecheck(False)
    cdef Result _take_result(self):
        cdef Ticket ticket
        cdef Result result
        if self._result is None:
            result = Result.__new__(Result)
            if self._result is not None:
                return self._result  # by another thread, while the garbage collector ran finalizers
            ticket = self._ticket
            if self._waiters != 0:
                # Another thread still waits on this ticket: it stays, and the result gets references of its own.
                ModelCore.completion(ticket).retain(1 if ticket.job != NULL else ticket.rows)
                ticket.request = NULL
            else:
                # Let go of at the end: that may run Python code, and other threads meanwhile.
                kept = self._kept
                self._kept = None
                self._ticket = Ticket()
                self._model.core.get().drop_request(ticket)
            self._result = _hand_over_to_result(ticket, result, self._model._results, self._rows, self._single)
            result._buckets = self._buckets
            result._length = self._length
        return self._result

    cdef object _error(self, Outcome outcome):
        if outcome == Outcome.cancelled:
            return errors.Cancelled(f"the request to model {self._model.name!r} was cancelled")
        if outcome == Outcome.closed:
            what = f"model {self._model.name!r}" if self._model._closed else "the session"
            return errors.EngineClosed(
                f"{what} was closed before the request was served; collect the results first, or give close() more time"
            )
        if outcome == Outcome.lease_lost:
            return errors.LeaseLost(
                f"the batch of model {self._model.name!r} ran without this lease; submit it sooner, or submit an array"
            )
        if outcome == Outcome.expired:
            return errors.DeadlineExceeded(
                f"the deadline passed before model {self._model.name!r} could run the request, which was dropped; "
                "allow more time, or submit less at a time"
            )
        if outcome == Outcome.no_memory:
            return errors.OutOfMemory(
                f"there was no memory for a batch of model {self._model.name!r}; the request was not run. "
                "Let go of results, or give load() a smaller max_batch_size"
            )
        if outcome == Outcome.superseded:
            return errors.Superseded("a newer request of the group, with latest_only, took the place of this one")
        if self._model.core.get().forked():
            # To read the reason takes a lock, which a thread of the parent may have held when it forked.
            return errors.InferenceError(
                f"inference on model {self._model.name!r} failed; the reason stayed with the parent process"
            )
        reason = ModelCore.completion(self._ticket).failure(self._ticket.row).decode(errors="replace")
        return errors.InferenceError(f"inference on model {self._model.name!r} failed: {_reason(reason)}")

    def result(self, timeout=None):
        """Wait for the outcome and return the result.

        Args:
            timeout: seconds to wait; None waits as long as it takes. A request whose caller stops waiting goes on.

        Returns:
            The `Result`; the same object each time.

        Raises:
            InferenceTimeout: there is no outcome after `timeout` seconds.
            Cancelled: `cancel` ended the request.
            Superseded: a newer request of its group, with `latest_only`, took its place.
            DeadlineExceeded: the deadline passed before the request could run.
            InferenceError: OpenVINO failed on this request's inputs; the text has its reason.
            OutOfMemory: there was no memory for the batch of the request.
            LeaseLost: the batch ran without the lease that this request came from.
            EngineClosed: the model or the session was closed before the request ran.
            ForkedError: the request belongs to the parent process.
            InputError: `timeout` is not a number.
        """
        cdef Outcome outcome
        if self._result is not None:
            return self._result
        outcome = self._outcome()
        if outcome == Outcome.pending:
            self._wait(timeout)
            outcome = self._outcome()
        if outcome == Outcome.ok:
            return self._take_result()
        raise self._error(outcome)

    def exception(self, timeout=None):
        """Wait for the outcome and return the error that `result` would raise.

        Args:
            timeout: seconds to wait; None waits as long as it takes.

        Returns:
            The error, or None when the request succeeded.

        Raises:
            InferenceTimeout: there is no outcome after `timeout` seconds.
            Cancelled: `cancel` ended the request.
            ForkedError: the request belongs to the parent process.
            InputError: `timeout` is not a number.
        """
        self._wait(timeout)
        outcome = self._outcome()
        if outcome == Outcome.ok:
            return None
        error = self._error(outcome)
        if outcome == Outcome.cancelled:
            raise error
        return error

    def done(self):
        """Return True when the outcome is known: a result, an error or a cancellation. Never waits."""
        return self._outcome() != Outcome.pending

    def cancelled(self):
        """Return True when `cancel` ended the request. Never waits."""
        return self._outcome() == Outcome.cancelled

    def cancel(self):
        """Cancel the request unless its outcome is known.

        A request that waits is taken out of the queue. A request that is running is cancelled at once for its callers,
        and its rows of the result are dropped. A session's request cannot be cancelled once it runs, because it
        changes the state.

        Returns:
            True when the request is cancelled, False when it already had another outcome or can no longer be
            cancelled, or belongs to the parent process.
        """
        if self._outcome() != Outcome.pending or self._model.core.get().forked():
            return self._cancelled
        if not ModelCore.cancel(self._ticket):
            return False
        self._cancelled = True
        if self._callbacks is not None:
            self._run_callbacks()
        return True

    def add_done_callback(self, fn, *, context=None):
        """Call `fn(future)` when the outcome is known.

        On an event loop, the loop calls `fn`, as asyncio does. On any other thread, a thread of ovengine calls it;
        when the outcome is known already, `fn` runs before this method returns. An exception that `fn` raises is
        logged.

        Args:
            fn: called with this future. Callbacks off the event loop share one thread, so they should return soon.
            context: the `contextvars.Context` to run `fn` in; None takes a copy of the current one on an event loop.

        Raises:
            ForkedError: the request belongs to the parent process.
            OSError: no file descriptor is left for the first callback of this process.
        """
        loop = asyncio._get_running_loop()
        if loop is not None:
            fn = _OnLoop(fn, loop, context or contextvars.copy_context())
        elif context is not None:
            fn = _InContext(fn, context)
        self._add_callback(fn)

    def _add_callback(self, fn):
        """Like add_done_callback(), but never on an event loop: for callers that block the loop they are on."""
        if self._outcome() == Outcome.pending and not self._callbacks_done:
            if self._model.core.get().forked():
                raise _closed_error(self._model)
            mailbox = _callbacks()  # first: it may raise
            if self._callbacks is not None:
                self._callbacks.append(fn)
                return
            self._callbacks = [fn]
            if self._attach(mailbox, self):
                return
            # Done, or in a batch that is about to say so; another thread may have added to the list meanwhile.
            self._run_callbacks()
        else:
            _call(fn, self)

    def remove_done_callback(self, fn):
        """Remove every callback equal to `fn` that has not been called.

        Args:
            fn: as given to `add_done_callback`.

        Returns:
            The number of callbacks removed.
        """
        if self._callbacks is None:
            return 0
        before = len(self._callbacks)
        self._callbacks = [known for known in self._callbacks if known != fn]
        return before - len(self._callbacks)

    cdef _run_callbacks(self):
        if self._outcome() == Outcome.pending:
            # A request that left the ring at the moment its batch ended: its outcome is a moment away.
            self._wait(None)
        self._callbacks_done = True
        while self._callbacks:
            _call(self._callbacks.pop(0), self)

    cdef bint _attach(self, _Mailbox mailbox, object receiver) except -1:
        if self._model.core.get().forked():
            raise _closed_error(self._model)
        return mailbox.attach(self._ticket, receiver)

    def __await__(self):
        """Await the result; raises what `result` raises."""
        cdef _Awaiter awaiter = _Awaiter.__new__(_Awaiter)
        awaiter.future = self
        return awaiter

    def __repr__(self):
        state = {
            Outcome.pending: "pending", Outcome.ok: "done", Outcome.cancelled: "cancelled",
            Outcome.failed: "failed", Outcome.closed: "closed", Outcome.lease_lost: "lease lost",
            Outcome.expired: "expired", Outcome.superseded: "superseded", Outcome.no_memory: "out of memory",
        }[self._outcome()]
        return f"<Future {state} of model {self._model.name!r}, {self._rows} rows>"


@cython.no_gc_clear
cdef class _Lingering:
    """Arrays of a request that was given up, for as long as the core may read them: until an inference ends."""
    cdef shared_ptr[ModelCore] core
    cdef Ticket ticket
    cdef object kept

    def __dealloc__(self):
        if self.core.get() != NULL and not self.core.get().forked():
            self.core.get().release(self.ticket)


cdef list _lingering = []


cdef _sweep_lingering():
    cdef _Lingering lingering
    # Changed in place: a garbage collection in here may come back here.
    for lingering in list(_lingering):
        if not ModelCore.may_read_input(lingering.ticket) and lingering in _lingering:
            _lingering.remove(lingering)


def _before_collection(phase, info):
    """What only waits to be swept may be the last that holds a model."""
    if phase == "start":
        _sweep_lingering()
        _sweep_abandoned()


gc.callbacks.append(_before_collection)


cdef _call(fn, Future future):
    try:
        fn(future)
    except Exception:
        # As concurrent.futures does: a callback's failure is its own affair, but never silent.
        _logger.exception("the done callback %r of %r failed", fn, future)


class _InContext:
    """A done callback with a context to run it in; equal to the bare function, for remove_done_callback."""
    __slots__ = ("context", "fn")

    def __init__(self, fn, context):
        self.fn = fn
        self.context = context

    def __call__(self, future):
        self.context.run(self.fn, future)

    def __eq__(self, other):
        return self.fn == other

    __hash__ = None


class _OnLoop(_InContext):
    """A done callback that was added on an event loop and runs there, as asyncio's own do."""
    __slots__ = ("loop",)

    def __init__(self, fn, loop, context):
        super().__init__(fn, context)
        self.loop = loop

    def __call__(self, future):
        try:
            self.loop.call_soon_threadsafe(self.fn, future, context=self.context)
        except RuntimeError:
            _logger.debug("the loop of the done callback %r is closed", self.fn)


cdef inline Future _new_future():
    """For a request that is yet to be made: until it is handed over, not even the garbage collector shows it."""
    future = Future.__new__(Future)
    PyObject_GC_UnTrack(future)
    return future


@cython.nonecheck(False)
cdef inline Future _hand_over(Ticket& ticket, Future future, NativeModel model, bint single):
    """To a future that was made before the request, so that no request is left without one when memory is short."""
    future._model = model
    future._ticket = ticket
    future._rows = ticket.rows
    future._single = single
    PyObject_GC_Track(future)
    return future


def as_completed(futures, timeout=None):
    """Yield futures in the order in which their outcomes become known.

    Args:
        futures: an iterable of `Future`, of any models. A future that occurs twice is yielded once.
        timeout: seconds for all of them together; None waits as long as it takes.

    Returns:
        An iterator of `Future`. Each is done when it is yielded.

    Raises:
        InferenceTimeout: some futures are not done after `timeout` seconds. Raised by the iterator.
        ForkedError: a request belongs to the parent process. Raised by the iterator.
        InputError: `timeout` is not a number.
    """
    cdef Future future
    cdef _Mailbox mailbox = _Mailbox.__new__(_Mailbox)
    deadline = None if timeout is None else time.monotonic() + _seconds(timeout)
    pending = set()
    finished = deque()
    try:
        for future in set(futures):
            if future._outcome() == Outcome.pending and future._attach(mailbox, future):
                pending.add(future)
            else:
                finished.append(future)
        while True:
            while finished:
                future = finished.popleft()
                if future._outcome() == Outcome.pending:
                    future._wait(None)  # microseconds: it was in the ring when its batch ended
                yield future
            if not pending:
                return
            _wait_readable(mailbox, deadline, f"{len(pending)} of the futures are not done within {timeout} s")
            for future in mailbox.take():
                pending.discard(future)
                finished.append(future)
    finally:
        _abandon(mailbox)


cdef _wait_readable(_Mailbox mailbox, object deadline, str late):
    poll = select.poll()
    poll.register(mailbox.fd(), select.POLLIN)
    while True:
        # Polled once in any case, so that a timeout of 0 looks before it gives up; never for more than poll() takes.
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if poll.poll(None if left is None else min(left, 1e6) * 1e3):
            return
        if left < 1e6:
            raise errors.InferenceTimeout(late)


def wait(futures, timeout=None, return_when="ALL_COMPLETED"):
    """Wait for several futures, like `concurrent.futures.wait`.

    Args:
        futures: an iterable of `Future`, of any models.
        timeout: seconds to wait; None waits as long as it takes. A timeout is no error here.
        return_when: `ALL_COMPLETED`, `FIRST_COMPLETED`, or `FIRST_EXCEPTION` (a cancelled request does not count).

    Returns:
        Two sets of futures: those that are done, and the others.

    Raises:
        InputError: `timeout` is not a number, or `return_when` is none of the three.
        ForkedError: a request belongs to the parent process.
    """
    cdef Future future
    if return_when not in ("ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION"):
        raise errors.InputError(
            f"return_when is {return_when!r}; it is ALL_COMPLETED, FIRST_COMPLETED or FIRST_EXCEPTION"
        )
    everything = set(futures)
    done = set()

    def enough(future):
        if return_when == "FIRST_COMPLETED":
            return True
        return return_when == "FIRST_EXCEPTION" and (
            (<Future>future)._outcome() not in (Outcome.ok, Outcome.cancelled, Outcome.pending)
        )

    for future in everything:
        if future._outcome() != Outcome.pending:
            done.add(future)
    if any([enough(future) for future in done]) or len(done) == len(everything):
        return done, everything - done
    completed = as_completed(everything - done, timeout)
    try:
        for finished in completed:
            done.add(finished)
            if enough(finished):
                break
    except errors.InferenceTimeout:
        pass
    finally:
        completed.close()
    for future in everything:
        if future._outcome() != Outcome.pending:
            done.add(future)
    return done, everything - done
