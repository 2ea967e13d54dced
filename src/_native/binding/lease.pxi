# Lease: rows of the batch's own input memory, handed to the caller.


cdef class _LeasedRows:
    """Base of a lease's arrays: the batch's memory, which is not used again while one of them lives."""
    cdef shared_ptr[ModelCore] core
    cdef Slot* slot

    def __dealloc__(self):
        if self.slot != NULL and not self.core.get().forked():
            self.core.get().let_go(self.slot)


@cython.no_gc_clear
cdef class Lease:
    """Rows of the batch's own input memory: write them in place, then submit them. No copy is made.

    `lease["x"]` (or `lease[0]`) is a writable array of shape (rows, *row) for that input. Write every row: the memory
    holds old values. A lease delays its batch. When it is not submitted within about 10 ms after the batch could run,
    the batch runs without it and `submit` raises LeaseLost.

    Leaving the `with` block releases a lease that was not submitted. After `submit` or `release`, its arrays are
    read-only. Arrays and views of them may outlive the lease: the batch's memory is not used again before they are
    gone, so drop them soon.

    Example:
        >>> with model.lease(rows=2) as lease:
        ...     lease["x"][...] = samples
        ...     future = lease.submit()
    """
    cdef NativeModel _model
    cdef Ticket _ticket
    cdef uint32_t _rows
    cdef _LeasedRows _memory  # rows of a batch; None where they are arrays of their own, in `_kept`
    cdef list _kept
    cdef list _arrays         # those that were asked for, by input
    cdef bint _open

    def __reduce__(self):
        raise TypeError("a Lease is native memory and cannot be pickled; pickle copies of its arrays")

    def __dealloc__(self):
        if self._open and not self._model.core.get().forked():
            self._model.core.get().abandon_lease(self._ticket)

    @property
    def rows(self):
        """Rows of the lease."""
        return self._rows

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.release()

    def __getitem__(self, key):
        """Return the writable array of one input, by name or index. Raises InputError for an unknown input, and
        LeaseLost after `submit` or `release`.
        """
        cdef list arrays = self._arrays
        cdef Py_ssize_t index
        self._check_open()
        index = port_index(self._model._inputs, key, "input")
        if arrays[index] is None:
            arrays[index] = self._make(index)
        return arrays[index]

    cdef cnp.ndarray _make(self, Py_ssize_t index):
        cdef PortSpec spec = <PortSpec>self._model._inputs[index]
        cdef cnp.npy_intp dims[33]
        cdef int i, ndim = 0
        self._check_open()  # the key may have run Python code, and other threads
        if self._memory is None:
            array = self._kept[index]
            array = array[0, ...] if spec.shared else array[:]  # the ellipsis keeps a scalar an array
        else:
            if self._model._mode == ROWS:
                dims[0] = self._rows
                ndim = 1
            for i in range(spec.row_ndim):
                dims[ndim + i] = spec.row_dims[i]
            array = cnp.PyArray_SimpleNewFromData(
                ndim + spec.row_ndim, dims, spec.type_num,
                <void*>self._model.core.get().destination(self._ticket, index)
            )
            cnp.set_array_base(array, self._memory)
        return np.moveaxis(array, 0, spec.axis) if spec.axis else array

    def submit(self):
        """Submit the rows as one request. The lease is over then.

        Returns:
            The `Future` of the request. Its result has a batch axis, also for one row.

        Raises:
            LeaseLost: the lease is over, or the batch ran without it.
            QueueFull: the queue filled up meanwhile.
            EngineClosed, ForkedError: the model is closed, or belongs to the parent process.
        """
        cdef Admission admission = Admission.ok
        cdef NativeModel model = self._model
        cdef Ticket ticket
        cdef Future future
        self._check_open()
        if model.core.get().forked() or model._closed:
            self.release()
            raise _closed_error(model)
        future = _new_future()
        kept = self._kept
        ticket = self._end()
        try:
            if model._has_shared:
                _set_key(model, ticket, kept)
        except BaseException:
            model.core.get().abandon_lease(ticket)
            raise
        if not model.core.get().publish_lease(ticket, admission):
            model.core.get().abandon_lease(ticket)
            raise errors.LeaseLost(
                "the batch ran without this lease, which was not submitted in time; "
                "submit it sooner, or fill an array of your own and submit that"
            )
        if admission == Admission.full:
            raise _queue_full(model)
        future._kept = kept
        return _hand_over(ticket, future, model, False)

    def release(self):
        """Give the rows back unused. Does nothing when the lease is over."""
        cdef Ticket ticket
        if self._open:
            ticket = self._end()
            if not self._model.core.get().forked():
                self._model.core.get().abandon_lease(ticket)

    cdef int _check_open(self) except -1:
        if not self._open:
            raise errors.LeaseLost(
                "the lease is over: its rows were submitted or released; take another one with model.lease()"
            )
        return 0

    cdef Ticket _end(self) noexcept:
        """The ticket is the caller's. Arrays that were handed out are read-only from here on. Views of them may still
        be written to, and keep the memory for themselves."""
        cdef Ticket ticket = self._ticket
        self._open = False
        self._ticket = Ticket()
        for array in self._arrays:
            if array is not None:
                cnp.PyArray_CLEARFLAGS(<cnp.ndarray>array, cnp.NPY_ARRAY_WRITEABLE)
        self._arrays = self._kept = None
        self._memory = None
        return ticket


cdef int _set_key(NativeModel model, Ticket& ticket, list kept) except -1:
    """By the shared inputs as they were written, which also get their copies for the other rows."""
    cdef Terms terms
    cdef PortSpec spec
    cdef cnp.ndarray array
    arrays = [array[0, ...] if spec.shared else array for array, spec in zip(kept, model._inputs)]
    terms.key = _key(model, arrays)
    ticket.request.set_terms(terms)
    for array, spec in zip(kept, model._inputs):
        if spec.shared:
            _copy_to_rows(<byte*>cnp.PyArray_DATA(array), spec, ticket.rows)
    return 0


cdef Lease _open_lease(NativeModel model, object wanted):
    cdef Lease lease
    cdef _LeasedRows memory
    cdef Admission admission
    cdef Terms terms
    if model._mode == DYNAMIC:
        raise errors.InputError(
            f"model {model.name!r} has dynamic dimensions and so no rows to lease; fix them with shapes= in load()"
        )
    rows = as_integer(wanted)
    if rows is None:
        raise errors.InputError(f"rows of a lease are an integer, not {wanted!r}")
    if rows > model._max_batch_size:
        model.wait_ready()
    limit = model._max_batch_size if model._mode == ROWS else 1
    if not 1 <= rows <= limit:
        raise errors.InputError(f"a lease of {rows} rows; a batch of model {model.name!r} has 1 to {limit}")
    lease = Lease.__new__(Lease)
    lease._model = model
    lease._rows = <uint32_t>rows
    lease._arrays = [None] * len(model._inputs)
    if model._has_shared:
        terms.key = model._next_key  # stands for what is to be written; it goes to the ring
        admission = model.core.get().begin(<uint32_t>rows, lease._ticket, terms)
    else:
        admission = model.core.get().begin_lease(<uint32_t>rows, lease._ticket)
    if admission == Admission.closed:
        raise _closed_error(model)
    if admission == Admission.full:
        raise _queue_full(model)
    lease._open = True
    if lease._ticket.slot != NULL:
        memory = _LeasedRows.__new__(_LeasedRows)
        memory.core = model.core
        memory.slot = model.core.get().hold(lease._ticket)
        lease._memory = memory
    else:
        lease._kept = _own_rows(model, lease._ticket)
    return lease


cdef list _own_rows(NativeModel model, const Ticket& ticket):
    """Arrays for the rows of a request that waits in the ring, which are read where they lie."""
    cdef vector[byte*] pointers
    cdef PortSpec spec
    cdef cnp.ndarray array
    kept = []
    for spec in model._inputs:
        row = tuple([spec.row_dims[i] for i in range(spec.row_ndim)])
        array = np.zeros((ticket.rows, *row) if model._mode == ROWS else row, spec.dtype)
        kept.append(array)
        pointers.push_back(<byte*>cnp.PyArray_DATA(array))
    ModelCore.share(ticket, pointers)
    return kept
