# NativeModel: a loaded model's native half.

_MODES = {"rows": ROWS, "whole": WHOLE, "dynamic": DYNAMIC}

# Requests of so many bytes that the caller shares, or waits for, go to the ring, and are not copied if they run alone.
cdef enum:
    LARGE_BYTES = 256 << 10

# How long a blocking caller runs chunks of its bulk request before it hands the lane back, and hears of signals again.
cdef double SLICE_S = 0.1
# How long close() waits before it looks for signals, which may come to another thread or between two looks.
cdef double SIGNAL_S = 0.05
# Inferences that may take longer are not run on a blocking caller's thread.
cdef double BRIEF_S = 0.01
cdef object _models = weakref.WeakSet()


@cython.no_gc_clear
cdef class NativeModel:
    """The native half of a loaded model: slots, queue and lanes. `ovengine.Model` derives from it.

    Args:
        name: of the model, in errors and statistics.
        inputs: (name, all names, shape, dtype, element type, limits) of each input; see `TensorInfo`. In mode `rows`
            exactly one dimension is -1, the batch axis, unless all rows of a request share the input. In mode `whole`
            no dimension is -1. In mode `dynamic` any may be.
        outputs: the same for the outputs.
        mode: `rows`, `whole` or `dynamic`.
        lanes: (device, {batch size: compiled model}) of each lane. All lanes have the same sizes, which are the
            ladder; in modes `whole` and `dynamic` it is size 1 alone.
        cost_us: measured microseconds of one `infer()` for each batch size.
        policy: the name of a built-in scheduler (`priority`, `round_robin`), or a PyCapsule named `ovengine.policy`
            around a `struct ovengine_policy`.
        max_queue_size: requests that may wait; None: as many as the core has room for.
        max_queue_delay_us: how long a partial batch may wait for more rows.
        queue_full_action: `reject` (QueueFull) or `block` (the caller waits). None rejects when there is a
            max_queue_size.
        budget: shared with other models; None for no limit.
        threads: CPUs of the budget that one inference of each lane takes.
    """
    cdef shared_ptr[ModelCore] core
    cdef readonly str name
    cdef tuple _inputs
    cdef _Outputs _results
    cdef int _mode
    cdef uint32_t _max_batch_size  # rows of a batch at most: what has more is a job
    cdef PortSpec _only_input     # where there is one, and rows: the fast way in
    cdef tuple _devices
    cdef uint32_t _max_queue_size
    cdef bint _has_shared
    cdef bint _holds_batches
    cdef size_t _row_bytes        # of all inputs of one row; 0 in mode `dynamic`
    cdef dict _keys               # the bytes of shared inputs -> the key that requests with them have
    cdef uint64_t _next_key
    cdef bint _rejects            # requests for which there is no room, instead of letting their callers wait
    cdef str _queue_full_action
    cdef dict _groups             # by what users call them
    cdef Py_ssize_t _most_groups
    cdef bint _closed
    cdef long _rejected_full, _rejected_input, _rejected_closed, _rejected_deadline, _timeouts
    cdef _RowClasses _classes     # in mode `dynamic`, where requests of equal shapes may share batches
    cdef list _leaving            # children that made room for others and have yet to finish
    cdef _Tally _gone
    cdef object __weakref__

    # Not __init__, so that each object is whole, and made once.
    def __cinit__(self, *, str name not None, inputs, outputs, mode, lanes, cost_us, policy="priority",
                  max_queue_size=None, max_queue_delay_us=0, queue_full_action=None, CpuBudget budget=None,
                  threads=()):
        cdef Builder builder
        cdef PortSpec spec
        PyObject_GC_UnTrack(self)  # other threads and the arguments' own code cannot find it before it is whole
        self.name = name
        self._mode = _MODES[mode]
        self._inputs = _port_specs(inputs, self._mode)
        self._results = _Outputs.__new__(_Outputs, _port_specs(outputs, self._mode), self._mode)
        has_one = self._mode == ROWS and len(self._inputs) == 1 and (<PortSpec>self._inputs[0]).axis == 0
        self._only_input = self._inputs[0] if has_one else None
        self._has_shared = any([(<PortSpec>spec).shared for spec in self._inputs])
        self._row_bytes = sum([(<PortSpec>spec).row_bytes for spec in self._inputs])
        self._keys = {}
        self._next_key = 1
        self._queue_full_action = queue_full_action
        self._set_queue(max_queue_size)
        builder.max_queue_size = self._max_queue_size
        self._groups = {}
        self._most_groups = MOST_IDLE_GROUPS
        builder.max_queue_delay_ns = <int64_t>(max_queue_delay_us) * 1000
        self._holds_batches = max_queue_delay_us > 0
        self._devices = tuple(dict.fromkeys([device for device, _ in lanes]))
        if budget is not None:
            builder.budget = budget.native
        self._set_ladder(&builder, cost_us, lanes, threads)
        _set_policy(&builder, policy)
        with nogil:
            self.core = builder.build()
        self._results.core = self.core
        self._max_batch_size = self.core.get().capacity()
        self.core.get().start()
        PyObject_GC_Track(self)
        _models.add(self)

    cdef _set_ladder(self, Builder* builder, object cost_us, object lanes, object threads):
        cdef vector[shared_ptr[CompiledModel]] ladder
        cdef Compiled compiled
        cdef PortSpec spec
        if self._mode != DYNAMIC:
            builder.input_row_bytes = [(<PortSpec>spec).row_bytes for spec in self._inputs]
            builder.output_row_bytes = [(<PortSpec>spec).row_bytes for spec in self._results.ports]
        builder.sizes = sorted(cost_us)
        for size in builder.sizes:
            builder.cost_us.push_back(cost_us[size])
        for (device, by_size), cpus in zip(lanes, itertools.chain(threads, itertools.repeat(0))):
            ladder.clear()
            for size in builder.sizes:
                compiled = by_size.get(size)
                ladder.push_back(shared_ptr[CompiledModel]() if compiled is None else compiled.native)
            builder.add_lane(self._devices.index(device), ladder, cpus)

    def _install(self, *, lanes, cost_us):
        """Put another ladder in use while requests run. `lanes`: the same lanes, each with the compiled models of the
        sizes that it does not have; the largest size must not become smaller.
        """
        cdef Builder builder
        self._set_ladder(&builder, cost_us, lanes, ())
        with nogil:
            builder.install(self.core.get()[0])
        self._max_batch_size = self.core.get().max_batch_rows()

    def wait_ready(self, timeout=None):
        """Overridden by `Model`, whose larger batches are made behind it."""
        return True

    def _costs(self):
        """Microseconds of one inference by batch size, as the core knows them now: measured, then observed."""
        if self.core.get().forked():
            raise _closed_error(self)
        return dict(self.core.get().costs())

    cdef _set_queue(self, max_queue_size):
        self._max_queue_size = max_queue_size or 0
        action = self._queue_full_action or ("reject" if self._max_queue_size else "block")
        self._rejects = action == "reject"

    def __reduce__(self):
        raise TypeError("a model is threads and compiled code and cannot be pickled; load it where it is needed")

    def __dealloc__(self):
        # Also after a close() that a signal has interrupted.
        if self.core.get() == NULL or self.core.get().forked():
            return
        with nogil:
            self.core.get().begin_close(deadline_after(0))
            self.core.get().wait_closed(Deadline())

    # --- one request ---

    cdef list _prepare(self, object inputs, uint32_t* rows, bint* single):
        try:
            return _checked(inputs, self._inputs, self._mode, rows, single)
        except errors.OvengineError:
            self._rejected_input += 1
            raise

    @cython.nonecheck(False)
    cdef int _begin(self, uint32_t rows, Ticket& ticket, const Terms& terms, bint may_wait, Deadline deadline,
                    object timeout) except -1:
        cdef Admission admission = self.core.get().begin(rows, ticket, terms)
        while admission != Admission.ok:
            self._wait_for_room(admission, terms, may_wait, deadline, timeout)
            admission = self.core.get().begin(rows, ticket, terms)
        return 0

    cdef int _wait_for_room(self, Admission refused, const Terms& terms, bint may_wait, Deadline deadline,
                            object timeout) except -1:
        """Where that helps, and the caller may; otherwise raises what was the matter."""
        cdef WaitResult waited
        cdef shared_ptr[Group] group = terms.group
        cdef int64_t deadline_ns = terms.deadline_ns
        if refused == Admission.closed:
            raise _closed_error(self)
        if refused == Admission.unmeetable:
            self._rejected_deadline += 1
            raise errors.DeadlineUnmeetable(
                f"model {self.name!r} would have the result after the deadline; "
                f"{self.core.get().approx_waiting()} requests wait"
            )
        if self._rejects or not may_wait:
            raise _queue_full(self)
        with nogil:
            waited = self.core.get().wait_for_room(sooner(deadline, deadline_ns), group.get())
        PyErr_CheckSignals()
        if waited == WaitResult.timed_out and is_over(deadline):
            self._timeouts += 1
            raise errors.InferenceTimeout(f"no room in the queue of model {self.name!r} within {timeout} s")
        return 0

    @cython.nonecheck(False)
    cdef int _fill(self, Ticket& ticket, object inputs, list arrays) except -1:
        """Writes the rows; abandons the ticket when that fails."""
        cdef Py_ssize_t i
        cdef cnp.ndarray array
        cdef PortSpec spec
        try:
            if arrays is None:
                _write(<cnp.ndarray>inputs, self._only_input, self.core.get().destination(ticket, 0), ticket.rows)
                return 0
            for i in range(len(arrays)):
                array = arrays[i]
                spec = <PortSpec>self._inputs[i]
                _write(array, spec, self.core.get().destination(ticket, i), ticket.rows)
                if spec.shared:
                    _copy_to_rows(self.core.get().destination(ticket, i), spec, ticket.rows)
        except BaseException:
            self.core.get().abandon(ticket)
            raise
        return 0

    cdef list _share(self, Ticket& ticket, object inputs, list arrays):
        """Instead of _fill, for a request in the ring: its input stays where it is. The arrays to be kept for it."""
        cdef vector[byte*] pointers
        try:
            kept = [
                _contiguous(array, spec, ticket.rows)
                for array, spec in zip([inputs] if arrays is None else arrays, self._inputs)
            ]
            for array in kept:
                pointers.push_back(<byte*>cnp.PyArray_DATA(<cnp.ndarray>array))
            ModelCore.share(ticket, pointers)
        except BaseException:
            self.core.get().abandon(ticket)
            raise
        return kept

    @cython.nonecheck(False)
    cdef Future _submit(self, object inputs, Terms& terms, bint share_inputs, bint may_wait, object group=None):
        cdef uint32_t rows = 0
        cdef bint single = False
        cdef Ticket ticket
        cdef list arrays = None
        cdef list kept = None
        cdef Future future
        cdef _RowClasses classes
        cdef NativeModel child
        cdef Terms own
        cdef int64_t length
        if not _is_plain(inputs, self._only_input, self._max_batch_size, &rows, &single):
            arrays = self._prepare(inputs, &rows, &single)
            # The latest of a group is the latest of whatever shape.
            if self._classes is not None and not terms.latest_only:
                child = self._class_of(arrays)
                if child is not None:
                    classes, length = self._classes, self._classes.length
                    try:
                        fitted = self._fitted(arrays)  # first: a group's own code may look up another class
                        own = _terms_of(child, terms, group)
                        future = child._submit(fitted, own, share_inputs, may_wait)
                    except (errors.EngineClosed, errors.InputError):
                        pass  # it made room for another class, or takes less than the dynamic model
                    else:
                        if length >= 0:
                            future._buckets = classes.buckets
                            future._length = length
                        return future
            if rows > self._max_batch_size or rows == 0 or self._mode == DYNAMIC:
                return self._submit_job(arrays, rows, single, terms, not share_inputs, may_wait, Deadline(), None)
            terms.key = _key(self, arrays)
        if share_inputs and self._is_large(rows, terms):
            return self._submit_large([inputs] if arrays is None else arrays, rows, single, may_wait, Deadline(), None)
        future = _new_future()
        self._begin(rows, ticket, terms, may_wait, Deadline(), None)
        if share_inputs and ticket.request != NULL:
            kept = self._share(ticket, inputs, arrays)
        else:
            self._fill(ticket, inputs, arrays)
        while self.core.get().publish(ticket) == Admission.full:
            # Another thread took the last place after begin(): back to waiting for one.
            self._begin(rows, ticket, terms, may_wait, Deadline(), None)
            kept = None
            self._fill(ticket, inputs, arrays)
        future._kept = kept
        return _hand_over(ticket, future, self, single)

    cdef Future _submit_job(self, list arrays, uint32_t rows, bint single, const Terms& terms, bint copy,
                            bint may_wait, Deadline deadline, object timeout, int* lane=NULL):
        """`lane`: borrowed, to run the job on; given back, and -1 then, when the job has to wait for room."""
        cdef vector[byte*] pointers
        cdef vector[ShapedInput] shaped
        cdef Ticket ticket
        cdef Admission admission
        cdef Future future = _new_future()
        kept = _kept_arrays(arrays, self._inputs, rows, copy)
        if self._mode == DYNAMIC:
            shaped = _shaped_inputs(kept, arrays, self._inputs)
        else:
            for one in kept:
                pointers.push_back(_data(one))
        while True:
            if self._mode == DYNAMIC:
                admission = self.core.get().submit_shaped(shaped, ticket, terms)
            else:
                admission = self.core.get().submit_rows(pointers, rows, ticket, terms)
            if admission == Admission.ok:
                break
            if lane != NULL and lane[0] >= 0:
                self.core.get().return_lane(lane[0])
                lane[0] = -1
            self._wait_for_room(admission, terms, may_wait, deadline, timeout)
        future._kept = kept
        return _hand_over(ticket, future, self, single)

    def submit(self, inputs, *, bint share_inputs=False, priority=None, deadline=None, group=None,
               bint latest_only=False):
        """Queue one request and return its future. Call it from any thread.

        Args:
            inputs: one array for a model with one input; otherwise a sequence with one value per input, or a mapping
                by name, index or port (a `TensorInfo`, or OpenVINO's). A value is an array, an `openvino.Tensor`, or
                anything that NumPy makes an array of. In mode `rows` its shape is (n, *row) for n rows, or the shape of
                one row for one sample; in mode `whole` the model's shape; in mode `dynamic` any shape that fits.
                Numbers are cast by NumPy's rule same_kind.
            share_inputs: read the arrays while the inference runs instead of copying them now. Do not change them
                until the request is done.
            priority: 1 (runs first) to 9; None is 5. A request gains one step for each second that it waits longer
                than another.
            deadline: seconds from now within which the result is wanted; None for no deadline. Within one priority,
                the earliest deadline runs first.
            group: any hashable that says whom the request is for, such as a camera or a tenant. Groups share each
                priority equally, counted in rows, unless the scheduler policy has weights. None: no group.
            latest_only: replace the older request of the group that still waits and has `latest_only` too. Its future
                raises Superseded.

        Returns:
            The `Future` of the request. Unless `share_inputs` is set, the arrays may be changed at once.

        Raises:
            InputError, InputTypeError: the inputs do not fit the model, or an argument is out of range.
            QueueFull: the queue has no room and the model rejects (see `queue_full_action` of `load`); otherwise this
                method waits for room.
            DeadlineUnmeetable: the result would come after the deadline.
            EngineClosed, ForkedError: the model is closed, or belongs to the parent process.
        """
        cdef Terms terms
        if priority is not None or deadline is not None or group is not None or latest_only:
            _read_terms(self, terms, priority, deadline, group, latest_only)
        return self._submit(inputs, terms, share_inputs, True, group)

    def ainfer(self, inputs, *, bint share_inputs=False, priority=None, deadline=None, group=None,
               bint latest_only=False):
        """Like `submit`, for callers on an event loop: never waits for room, raises QueueFull instead.

        Args:
            inputs: as for `submit`.
            share_inputs: as for `submit`.
            priority: as for `submit`.
            deadline: as for `submit`.
            group: as for `submit`.
            latest_only: as for `submit`.

        Returns:
            The `Future` of the request: `result = await model.ainfer(x)`.

        Raises:
            QueueFull: the queue has no room. Other errors are those of `submit`.
        """
        cdef Terms terms
        if priority is not None or deadline is not None or group is not None or latest_only:
            _read_terms(self, terms, priority, deadline, group, latest_only)
        return self._submit(inputs, terms, share_inputs, False, group)

    def infer(self, inputs, *, timeout=None, priority=None, deadline=None, group=None):
        """Run one request and return its result. `model(inputs)` does the same without arguments.

        A short inference runs on the calling thread when a lane is free; then neither the timeout nor a signal is
        noticed until it ends.

        Args:
            inputs: as for `submit`.
            timeout: seconds to wait; None waits as long as it takes. The request is cancelled after that.
            priority: as for `submit`.
            deadline: as for `submit`.
            group: as for `submit`.

        Returns:
            The `Result` of the request.

        Raises:
            InferenceTimeout: there is no result after `timeout` seconds.
            Other errors are those of `submit` and `Future.result`.
        """
        cdef Terms terms
        if priority is not None or deadline is not None or group is not None:
            _read_terms(self, terms, priority, deadline, group, False)
        return self._infer(inputs, terms, timeout, group)

    def __call__(self, inputs):
        """Run one request and return its result, as `infer` does."""
        cdef Terms terms
        return self._infer(inputs, terms, None)

    @cython.nonecheck(False)
    cdef Result _infer(self, object inputs, Terms& terms, object timeout, object group=None):
        cdef uint32_t rows = 0
        cdef bint single = False
        cdef Ticket ticket
        cdef list arrays = None
        cdef int lane
        cdef _RowClasses classes
        cdef NativeModel child
        cdef Terms own
        cdef Future future
        cdef Result result
        cdef int64_t length
        cdef Deadline deadline = _deadline(timeout)
        if not _is_plain(inputs, self._only_input, self._max_batch_size, &rows, &single):
            arrays = self._prepare(inputs, &rows, &single)
            if self._classes is not None:
                child = self._class_of(arrays)
                if child is not None:
                    classes, length = self._classes, self._classes.length
                    try:
                        fitted = self._fitted(arrays)
                        own = _terms_of(child, terms, group)
                        result = child._infer(fitted, own, timeout)
                    except (errors.EngineClosed, errors.InputError):
                        pass
                    else:
                        if length >= 0:
                            result._buckets = classes.buckets
                            result._length = length
                        return result
            if rows > self._max_batch_size or rows == 0 or self._mode == DYNAMIC:
                return self._run_job(arrays, rows, single, terms, deadline, timeout)
            terms.key = _key(self, arrays)
        if self._is_large(rows, terms):
            arrays = [inputs] if arrays is None else arrays
            return self._finish(self._submit_large(arrays, rows, single, True, deadline, timeout), deadline, timeout)
        lane = self.core.get().try_borrow_lane() if self._may_run(timeout) else -1
        if lane >= 0:
            try:
                result = Result.__new__(Result)
                self._begin(rows, ticket, terms, False, deadline, timeout)
                self._fill(ticket, inputs, arrays)
            except BaseException:
                self.core.get().return_lane(lane)
                raise
            if self.core.get().publish(ticket, False) == Admission.ok:
                with nogil:
                    self.core.get().run_borrowed(lane)
                if ModelCore.outcome(ticket) == Outcome.ok:
                    self.core.get().drop_request(ticket)
                    return _hand_over_to_result(ticket, result, self._results, rows, single)
                try:
                    future = _new_future()
                except BaseException:
                    self.core.get().release(ticket)
                    raise
                return self._finish(_hand_over(ticket, future, self, single), deadline, timeout)
            self.core.get().return_lane(lane)
        future = _new_future()
        self._begin(rows, ticket, terms, True, deadline, timeout)
        self._fill(ticket, inputs, arrays)
        while self.core.get().publish(ticket) == Admission.full:
            self._begin(rows, ticket, terms, True, deadline, timeout)
            self._fill(ticket, inputs, arrays)
        return self._finish(_hand_over(ticket, future, self, single), deadline, timeout)

    cdef inline bint _is_large(self, uint32_t rows, const Terms& terms) noexcept:
        return rows * self._row_bytes >= LARGE_BYTES and not self._holds_batches and terms.is_plain()

    cdef Future _submit_large(self, list arrays, uint32_t rows, bint single, bint may_wait, Deadline deadline,
                              object timeout):
        """Of up to a batch's rows, read where they lie unless the batch has others as well."""
        cdef Ticket ticket
        cdef Terms terms
        cdef Admission admission
        cdef vector[byte*] pointers
        cdef Future future = _new_future()
        kept = _kept_arrays(arrays, self._inputs, rows, False)
        for one in kept:
            pointers.push_back(_data(one))
        while True:
            admission = self.core.get().begin_shared(rows, ticket)
            if admission == Admission.ok:
                try:
                    ModelCore.share(ticket, pointers)
                except BaseException:
                    self.core.get().abandon(ticket)
                    raise
                admission = self.core.get().publish(ticket)
            if admission == Admission.ok:
                break
            self._wait_for_room(admission, terms, may_wait, deadline, timeout)
        future._kept = kept
        return _hand_over(ticket, future, self, single)

    cdef inline bint _may_run(self, object timeout) except -1:
        """May a blocking caller run its batch itself? Meanwhile neither its timeout nor a signal can reach it: only
        for inferences that are known to be short, also beside the timeout. Those that no table knows the cost of may
        take any time at other shapes or values, so they are taken for short only where there is no timeout."""
        cdef double seconds = self.core.get().slowest_us() * 1e-6
        if seconds == 0:
            return timeout is None and 0 < self.core.get().unknown_us() < BRIEF_S * 1e6
        return seconds < BRIEF_S and (timeout is None or timeout > 10 * seconds)

    cdef Result _finish(self, Future future, Deadline deadline, object timeout):
        """The blocking caller's wait; a request that it stops waiting for is given up."""
        try:
            future._wait_until(deadline, timeout)
            return future.result()
        except errors.InferenceTimeout:
            future.cancel()
            self._timeouts += 1
            raise errors.InferenceTimeout(
                f"no result from model {self.name!r} within {timeout} s; the request was cancelled"
            ) from None
        except BaseException:
            future.cancel()
            raise

    def infer_rows(self, inputs, *, timeout=None, priority=None, deadline=None, group=None):
        """Run many rows as one request that is cut into batches and spread over all lanes. No Python runs per row.

        Args:
            inputs: as for `submit`, with any number of rows.
            timeout: as for `infer`.
            priority: as for `submit`.
            deadline: as for `submit`.
            group: as for `submit`.

        Returns:
            The `Result`, with as many rows as the inputs.

        Raises:
            As `infer` does. One error ends the whole request, and names a row that is at fault, counted from 0.
        """
        cdef uint32_t rows = 0
        cdef bint single = False
        cdef Terms terms
        if priority is not None or deadline is not None or group is not None:
            _read_terms(self, terms, priority, deadline, group, False)
        arrays = self._prepare(inputs, &rows, &single)
        if self._mode == WHOLE or self._classes is not None:
            return self._infer(inputs, terms, timeout, group)
        return self._run_job(arrays, rows, single, terms, _deadline(timeout), timeout)

    cdef Result _run_job(self, list arrays, uint32_t rows, bint single, const Terms& terms, Deadline deadline,
                         object timeout):
        cdef int lane = self.core.get().try_borrow_lane() if self._mode == ROWS and self._may_run(timeout) else -1
        cdef Future future
        cdef Ticket ticket
        cdef double slice_s
        try:
            future = self._submit_job(arrays, rows, single, terms, False, True, deadline, timeout, &lane)
        except BaseException:
            if lane >= 0:
                self.core.get().return_lane(lane)
            raise
        if lane >= 0:
            ticket = future._ticket
            slice_s = SLICE_S if timeout is None else min(SLICE_S, timeout)
            with nogil:
                self.core.get().run_borrowed_job(lane, ticket, after(slice_s))
        return self._finish(future, deadline, timeout)

    def lease(self, rows=1):
        """Lease rows of a batch's input memory, to write them in place.

        Args:
            rows: 1 up to the rows of a batch at most.

        Returns:
            A `Lease`.

        Raises:
            InputError: the model has dynamic dimensions, or `rows` is out of range.
            QueueFull: there is no room.
            EngineClosed, ForkedError: the model is closed, or belongs to the parent process.
        """
        return _open_lease(self, rows)

    def session(self):
        """Open a session: requests that run in order and carry the model's state from one to the next.

        Returns:
            A `Session`.

        Raises:
            InferenceError: OpenVINO cannot make another infer request.
            EngineClosed, ForkedError: the model is closed, or belongs to the parent process.
        """
        return _open_session(self)

    # --- limits ---

    @property
    def _ring_capacity(self):
        """Requests that can wait at all, whatever `max_queue_size` says."""
        return self.core.get().ring_capacity()

    def _set_limits(self, *, max_batch_size, max_queue_size, max_queue_delay_us):
        """Set all limits while requests run. `max_batch_size`: 1 to the largest size of the ladder."""
        if self._closed or self.core.get().forked():
            raise _closed_error(self)
        self._set_queue(max_queue_size)
        self.core.get().set_max_batch_rows(max_batch_size)
        self._max_batch_size = self.core.get().max_batch_rows()
        self.core.get().set_max_queue_size(self._max_queue_size)
        self.core.get().set_max_queue_delay_ns(<int64_t>(max_queue_delay_us) * 1000)
        self._holds_batches = max_queue_delay_us > 0

    # --- the end, and figures ---

    @property
    def closed(self):
        """True when `close` was called."""
        return self._closed

    def close(self, timeout=None):
        """Stop accepting requests, finish the pending ones, and stop the lanes. May be called again.

        Several threads may close a model at once: the shortest timeout holds for all of them. When a signal ends the
        call, as Ctrl-C does, the model accepts nothing any more, and goes on with the pending requests until `close`
        is called again.

        Args:
            timeout: seconds to wait; None waits as long as it takes. What is still pending then gets EngineClosed.

        Returns:
            True when all requests were served.

        Raises:
            InputError: `timeout` is not a number.
        """
        self._begin_close(timeout)
        return self._finish_close()

    def _begin_close(self, timeout):
        """Refuse new requests, and end the pending ones after so many seconds. Returns at once."""
        cdef Deadline deadline = _deadline(timeout)
        if self.core.get() == NULL or self.core.get().forked():
            return
        self._closed = True
        with nogil:
            self.core.get().begin_close(deadline)
        for child in self._children():
            child._begin_close(timeout)

    def _finish_close(self):
        """Wait until the model is closed. True when all requests were served."""
        cdef cbool is_closed = False
        if self.core.get() == NULL or self.core.get().forked():
            return True
        while not is_closed:
            with nogil:
                is_closed = self.core.get().wait_closed(deadline_after(SIGNAL_S))
            PyErr_CheckSignals()
        served = self.core.get().all_served()
        for child in self._children():
            served = child._finish_close() and served
        return served

    def _mark_forked(self):
        """In a forked child: every call raises ForkedError from now on."""
        if self.core.get() != NULL:
            self.core.get().mark_forked()
            for child in self._children():
                child._mark_forked()

    def _native_stats(self):
        """The figures of `ModelStats`, as a dict; see `_Tally.as_dict`."""
        cdef _Tally tally = _Tally.__new__(_Tally)
        tally.add(self)
        for child in self._children():
            tally.add(child)
        if self._gone is not None:
            tally.add_tally(self._gone)
        return tally.as_dict()

    # --- row classes ---

    def _serve_classes(self, wanted, *, uint32_t uses=1, Py_ssize_t most=1, buckets=None):
        """In mode `dynamic`: serve shapes that come often by children, `most` of them at most.

        `wanted(shapes)` is called on a request's thread whenever a shape has come another `uses` times and a child has
        not been used since its first use, or there is room for one more. None ends it. `buckets`: lengths, axis and
        pad value of each input, axis of each output; requests are padded to the lengths that a child has.
        """
        if wanted is None:
            self._classes = None
            return
        self._classes = _RowClasses.__new__(_RowClasses)
        self._classes.wanted = wanted
        self._classes.uses_to_want = uses
        self._classes.most = most
        if buckets is not None:
            lengths, axes, pads, cut_axes = buckets
            self._classes.buckets = _Buckets.__new__(_Buckets, lengths, axes, pads, cut_axes)
        self._leaving = []
        self._gone = _Tally.__new__(_Tally)

    def _add_class(self, tuple shapes, NativeModel child not None):
        """Serve requests of these shapes by `child`. Returns the children that made room; give them to
        `_retire_class`. Raises EngineClosed.
        """
        if self._closed or self.core.get().forked() or self._classes is None:
            raise _closed_error(self)
        gone = self._classes.add(shapes, child)
        self._leaving += gone
        return gone

    def _retire_class(self, NativeModel child not None):
        """Wait until a child that made room has answered its requests, close it, and keep its figures."""
        child.close()
        if child in self._leaving:
            self._leaving.remove(child)
            self._gone.add(child)
            self._gone.waiting = 0

    @property
    def _class_shapes(self):
        """Shapes that have a child, per input."""
        return () if self._classes is None else tuple(self._classes.shapes.values())

    @property
    def _class_models(self):
        """The children, in the order of `_class_shapes`."""
        return () if self._classes is None else tuple(self._classes.children.values())

    cdef list _children(self):
        if self._classes is None:
            return []
        return [*self._classes.children.values(), *self._leaving]

    cdef list _fitted(self, list arrays):
        """Padded, where the class that was just found needs it."""
        if self._classes.bucket < 0:
            return arrays
        return self._classes.buckets.padded(arrays, self._inputs, self._classes.bucket)

    cdef NativeModel _class_of(self, list arrays):
        """The child that serves this shape, or None. Raises QueueFull: all classes together have one queue."""
        cdef uint64_t waiting
        cdef _RowClasses classes = self._classes  # held: it may be given up while a class is asked for
        if classes is None or self._closed or self.core.get().forked():
            return None
        if self._max_queue_size != 0:
            waiting = self.core.get().approx_waiting()
            for child in classes.children.values():
                waiting += (<NativeModel>child).core.get().approx_waiting()
            if waiting >= self._max_queue_size:
                raise _queue_full(self)
        return classes.find(arrays, self._inputs)
