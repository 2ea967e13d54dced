# Session: requests in order on one infer request, whose state lasts from one to the next.


@cython.no_gc_clear
cdef class Session:
    """A sequence of requests that share one state, for a model that keeps state between inferences. From
    `model.session()`.

    Requests of a session run one at a time, in the order of submission; each starts from the state that the one before
    left. Sessions run beside each other. Any thread may call any method. Inputs, results and errors are those of the
    model.

    A waiting request can be cancelled and leaves the state alone. A request that runs cannot be cancelled, because it
    changes the state. An inference that fails leaves the state as it was; when that is impossible, the InferenceError
    says that the session starts from its initial state. A model without state has sessions too.

    A session that is dropped without `close` still serves what was submitted.

    Example:
        >>> with model.session() as session:
        ...     for chunk in audio:
        ...         speech = session(chunk)["output"]
        ...     saved = dict(session.state)
        ...     session.reset()  # for the next recording
    """
    cdef NativeModel _model
    # By address, so that a child of a fork can leave it alone; null where the model runs rows, and so has no state.
    cdef shared_ptr[NativeSession]* _native
    cdef tuple _states  # one Port per variable of the state
    cdef bint _closed

    def __reduce__(self):
        raise TypeError("a Session is an infer request and cannot be pickled; pickle dict(session.state)")

    def __dealloc__(self):
        # In the child of a fork nobody is there to give anything back to.
        if self._native != NULL and not self._model.core.get().forked():
            with nogil:
                del self._native

    def submit(self, inputs, *, bint share_inputs=False):
        """Queue one request behind those submitted before.

        Args:
            inputs: as for `Model.submit`.
            share_inputs: read the arrays while the inference runs instead of copying them now. Do not change them
                until the request is done.

        Returns:
            The `Future` of the request.

        Raises:
            InputError, InputTypeError: the inputs do not fit the model.
            QueueFull: there is no room and the model rejects; otherwise this method waits for room.
            EngineClosed, ForkedError: the session or the model is closed, or belongs to the parent process.
        """
        return self._submit(inputs, not share_inputs, True, Deadline(), None, -1)

    def ainfer(self, inputs, *, bint share_inputs=False):
        """Like `submit`, for callers on an event loop: never waits for room, raises QueueFull instead.

        Args:
            inputs: as for `submit`.
            share_inputs: as for `submit`.

        Returns:
            The `Future` of the request; await it.

        Raises:
            QueueFull: there is no room. Other errors are those of `submit`.
        """
        return self._submit(inputs, not share_inputs, False, Deadline(), None, -1)

    def infer(self, inputs, *, timeout=None):
        """Run one request and return its result. `session(inputs)` does the same without a timeout.

        Args:
            inputs: as for `Model.submit`.
            timeout: seconds to wait; None waits as long as it takes.

        Returns:
            The `Result` of the request.

        Raises:
            InferenceTimeout: the text says whether the request was cancelled, which leaves the state as it was, or
                runs and will still change it.
            Other errors are those of `submit` and `Future.result`.
        """
        return self._infer(inputs, timeout)

    def __call__(self, inputs):
        """Run one request and return its result, as `infer` does."""
        return self._infer(inputs, None)

    cdef Future _submit(self, object inputs, bint copy, bint may_wait, Deadline deadline, object timeout, int lane):
        """`lane`: the caller's, for this request to be run on; otherwise -1. Given back when this raises."""
        cdef NativeModel model = self._model
        cdef uint32_t rows = 0
        cdef bint single = False
        cdef vector[ShapedInput] shaped
        cdef Ticket ticket
        cdef Terms terms
        cdef Admission admission
        cdef Future future
        try:
            future = _new_future()
            self._check_open()
            if self._native == NULL:
                return model._submit(inputs, terms, not copy, may_wait)
            arrays = model._prepare(inputs, &rows, &single)
            kept = _kept_arrays(arrays, model._inputs, rows, copy)
            shaped = _shaped_inputs(kept, arrays, model._inputs)
            while True:
                admission = model.core.get().submit_in_session(self._native[0], shaped, ticket, lane < 0)
                if admission == Admission.ok:
                    break
                self._wait_for_room(admission, may_wait and lane < 0, deadline, timeout)
        except BaseException:
            if lane >= 0:
                model.core.get().return_lane(lane)
            raise
        future._kept = kept
        return _hand_over(ticket, future, model, single)

    cdef int _wait_for_room(self, Admission refused, bint may_wait, Deadline deadline, object timeout) except -1:
        cdef NativeModel model = self._model
        cdef WaitResult waited
        if refused == Admission.closed:
            self._check_open()
            raise _closed_error(model)
        if model._rejects or not may_wait:
            raise _queue_full(model)
        with nogil:
            waited = model.core.get().wait_for_session_room(deadline)
        PyErr_CheckSignals()
        if waited == WaitResult.timed_out:
            model._timeouts += 1
            raise errors.InferenceTimeout(f"no room in the queue of model {model.name!r} within {timeout} s")
        return 0

    cdef Result _infer(self, object inputs, object timeout):
        cdef NativeModel model = self._model
        cdef Deadline deadline = _deadline(timeout)
        cdef Future future
        cdef Ticket ticket
        cdef Terms terms
        cdef double slice_s
        cdef int lane = -1
        if self._native == NULL:
            self._check_open()
            return model._infer(inputs, terms, timeout)
        if model._may_run(timeout):
            lane = model.core.get().try_borrow_lane(model.core.get().lanes_of(self._native[0].get()[0]))
        # Copied, since a request that has begun goes on when its caller gives up.
        future = self._submit(inputs, True, True, deadline, timeout, lane)
        if lane >= 0:
            ticket = future._ticket
            slice_s = SLICE_S if timeout is None else min(SLICE_S, timeout)
            with nogil:
                model.core.get().run_borrowed_job(lane, ticket, after(slice_s))
        try:
            future._wait_until(deadline, timeout)
            return future.result()
        except errors.InferenceTimeout:
            model._timeouts += 1
            left = "it was cancelled, and the state is as before" if future.cancel() else "it has begun and goes on"
            raise errors.InferenceTimeout(
                f"no result from this session of model {model.name!r} within {timeout} s; {left}"
            ) from None
        except BaseException:
            future.cancel()
            raise

    # --- the state ---

    @property
    def state(self):
        """The variables of the state, by their ids: a mapping to read and write (`SessionState`).

        Assign a mapping to set several variables: `session.state = saved`. Raises InputError and InputTypeError as
        `SessionState` does.
        """
        return SessionState._of(self)

    @state.setter
    def state(self, values):
        given = dict(values)
        for name in given:
            _state_index(self, name, errors.InputError)
        for name, value in given.items():
            SessionState._of(self)[name] = value

    def reset(self):
        """Start requests submitted from here on from the initial state. Waits for nothing.

        Raises:
            EngineClosed, ForkedError: the session or the model is closed, or belongs to the parent process.
        """
        self._check_open()
        if self._native != NULL:
            self._model.core.get().sessions().reset(self._native[0].get()[0])

    cdef int _hold(self) except -1:
        """Waits until all requests so far are done; _let_go() is due then."""
        cdef cbool reset = False
        self._check_open()
        while not self._model.core.get().sessions().try_hold(self._native[0].get()[0], reset):
            self._wait_for_rest(Deadline())
            self._check_open()
        if reset:
            try:
                self._native[0].get().executor().reset_state()
            except RuntimeError as error:
                self._let_go()
                raise errors.InferenceError(f"the state cannot be reset: {_reason(error)}") from None
        return 0

    cdef int _let_go(self) except -1:
        self._model.core.get().let_go(self._native[0])
        return 0

    cdef bint _wait_for_rest(self, Deadline deadline) except -1:
        """False when the deadline came first. May return early."""
        cdef WaitResult waited
        with nogil:
            waited = self._model.core.get().sessions().wait_for_rest(self._native[0].get()[0], deadline)
        PyErr_CheckSignals()
        return waited != WaitResult.timed_out

    cdef int _check_open(self) except -1:
        if self._model.core.get().forked() or self._model._closed:
            raise _closed_error(self._model)
        if self._closed:
            self._model._rejected_closed += 1
            raise errors.EngineClosed(
                f"this session of model {self._model.name!r} is closed; open another one with model.session()"
            )
        return 0

    # --- the end ---

    @property
    def closed(self):
        """True when the session or its model is closed."""
        return self._closed or self._model._closed

    def close(self, timeout=None):
        """Finish the pending requests and close the session. May be called again, and by several threads at once: the
        shortest timeout holds for all of them.

        Args:
            timeout: seconds to wait; None waits as long as it takes. What is still pending then gets EngineClosed.

        Returns:
            True when all requests were served.

        Raises:
            InputError: `timeout` is not a number.
        """
        cdef Deadline deadline = _deadline(timeout)
        cdef cbool reset = False
        self._closed = True
        if self._native == NULL or self._model.core.get().forked():
            return True
        self._model.core.get().sessions().close(self._native[0].get()[0])
        while not self._model.core.get().sessions().try_hold(self._native[0].get()[0], reset):
            if self._has_ended():  # somebody else's timeout is over, or that of the model's close()
                return False
            if not self._wait_for_rest(deadline):
                with nogil:
                    self._model.core.get().end_session(self._native[0].get()[0])
                return False
        self._let_go()
        return not self._has_ended()

    cdef bint _has_ended(self) except -1:
        return self._model.core.get().sessions().ended(self._native[0].get()[0])

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def __repr__(self):
        state = "closed" if self.closed else "state " + ", ".join([port.name for port in self._states])
        return f"<Session of model {self._model.name!r}: {state}>"


cdef Session _open_session(NativeModel model):
    cdef Session session = Session.__new__(Session)
    cdef shared_ptr[NativeSession] native_session
    session._model = model
    session._states = ()
    session._check_open()
    if model._mode == ROWS:
        return session
    try:
        with nogil:
            native_session = model.core.get().open_session()
    except RuntimeError as error:
        raise errors.InferenceError(f"model {model.name!r} cannot open a session: {_reason(error)}") from None
    session._states = _ports(native_session.get().executor().states())
    session._native = new shared_ptr[NativeSession](native_session)
    return session


class SessionState(Mapping):
    """The variables of a session's state, by their ids: a mapping of arrays. From `session.state`.

    Reading copies. Both reading and writing wait until the requests submitted before are done. Before the first
    inference, and after a reset, OpenVINO shows zeros whatever the initial value is.

    Example:
        >>> saved = dict(session.state)
        >>> session.state["hidden"] = saved["hidden"]
    """
    __slots__ = ("_session",)

    def __init__(self):
        raise TypeError("a SessionState comes from session.state")

    @classmethod
    def _of(cls, Session session):
        state = cls.__new__(cls)
        state._session = session
        return state

    def __iter__(self):
        cdef Session session = self._session
        return iter([port.name for port in session._states])

    def __len__(self):
        cdef Session session = self._session
        return len(session._states)

    def __contains__(self, name):
        return name in list(self)

    def __getitem__(self, name):
        """Return a copy of one variable. Raises KeyError for an unknown name."""
        cdef Session session = self._session
        cdef size_t index = _state_index(session, name, KeyError)
        cdef ShapedOutput value
        cdef cnp.ndarray array
        dtype = session._states[index].dtype
        session._hold()
        try:
            with nogil:
                value = session._native[0].get().executor().state(index)
        except RuntimeError as error:
            raise errors.InferenceError(f"state {name!r} cannot be read: {_reason(error)}") from None
        finally:
            session._let_go()
        array = np.empty(tuple([value.shape[i] for i in range(value.shape.size())]), dtype)
        if not value.data.empty():
            memcpy(cnp.PyArray_DATA(array), value.data.data(), value.data.size())
        return array

    def __setitem__(self, name, value):
        """Set one variable; casts by NumPy's rule same_kind.

        Raises InputError for an unknown name or a shape that the model refuses, and InputTypeError for a dtype that
        does not cast. The state stays as it was then.
        """
        cdef Session session = self._session
        cdef size_t index = _state_index(session, name, errors.InputError)
        cdef ShapedInput shaped
        dtype = session._states[index].dtype
        array = np.asarray(value)
        if not np.can_cast(array.dtype, dtype, "same_kind"):
            raise errors.InputTypeError(
                f"state {name!r} has dtype {dtype}, to which {array.dtype} does not cast by the rule same_kind; "
                f"convert it yourself if that is meant: array.astype('{dtype}')"
            )
        array = np.ascontiguousarray(array, dtype).reshape(array.shape)  # which makes a scalar one value
        shaped = _shaped_input(array)
        session._hold()
        try:
            with nogil:
                session._native[0].get().executor().set_state(index, shaped)
        except RuntimeError as error:
            raise errors.InputError(f"state {name!r} does not take shape {_shape(array)}: {_reason(error)}") from None
        finally:
            session._let_go()

    def __repr__(self):
        return f"SessionState({', '.join(self)})"


cdef Py_ssize_t _state_index(Session session, object name, object error) except -1:
    names = [port.name for port in session._states]
    if name not in names:
        raise error(f"no state {name!r}; the model has {', '.join(map(repr, names)) or 'none'}")
    return names.index(name)
