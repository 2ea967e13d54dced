# Lease: rows of the batch's own input memory, handed to the caller.


cdef str _LEASE_IS_OVER = "the lease is over: its rows were submitted or released; take another one with model.lease()"


cdef class Lease:
    """Rows of the batch's own input memory: write them in place, then submit them. No copy is made.

    `lease["x"]` (or `lease[0]`) is a writable array of shape (rows, *row) for that input. Write every row: the memory
    holds old values. A lease delays its batch. When it is not submitted within about 10 ms after the batch could run,
    the batch runs without it and `submit` raises LeaseLost.

    Leaving the `with` block releases a lease that was not submitted. After `submit` or `release`, its arrays are
    read-only.

    Example:
        >>> with model.lease(rows=2) as lease:
        ...     lease["x"][...] = samples
        ...     future = lease.submit()
    """
    cdef NativeModel _model
    cdef Ticket _ticket
    cdef uint32_t _rows
    cdef list _arrays
    cdef bint _open

    def __init__(self):
        raise TypeError("a lease comes from model.lease()")

    def __reduce__(self):
        raise TypeError("a Lease is native memory and cannot be pickled; pickle copies of its arrays")

    def __dealloc__(self):
        if self._open:
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
        cdef PortSpec spec
        cdef cnp.npy_intp dims[33]
        cdef int i, ndim
        cdef Py_ssize_t index
        if not self._open:
            raise errors.LeaseLost(_LEASE_IS_OVER)
        index = port_index(self._model._inputs, key, "input")
        if self._arrays[index] is None:
            spec = <PortSpec>self._model._inputs[index]
            ndim = 0
            if self._model._mode == ROWS and not spec.shared:
                dims[0] = self._rows
                ndim = 1
            for i in range(spec.row_ndim):
                dims[ndim + i] = spec.row_dims[i]
            # The array owns nothing and holds nothing: the lease holds the array, and the model the memory.
            array = cnp.PyArray_SimpleNewFromData(
                ndim + spec.row_ndim, dims, spec.type_num,
                <void*>self._model.core.get().destination(self._ticket, index)
            )
            cnp.set_array_base(array, self._model)
            self._arrays[index] = np.moveaxis(array, 0, spec.axis) if spec.axis else array
        return self._arrays[index]

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
        if not self._open:
            raise errors.LeaseLost(_LEASE_IS_OVER)
        if model.core.get().forked() or model._closed:
            self.release()
            raise _closed_error(model)
        self._seal()
        if model._has_shared:
            self._set_key()
        if not model.core.get().publish_lease(self._ticket, admission):
            self.release()
            raise errors.LeaseLost(
                "the batch ran without this lease, which was not submitted in time; "
                "submit it sooner, or fill an array of your own and submit that"
            )
        self._open = False
        if admission == Admission.full:
            raise _queue_full(model)
        return _make_future(model, self._ticket, False)

    def release(self):
        """Give the rows back unused. Does nothing when the lease is over."""
        if self._open:
            self._seal()
            self._open = False
            self._model.core.get().abandon_lease(self._ticket)

    cdef _set_key(self):
        """By the shared inputs as they were written, which also get their copies for the other rows."""
        cdef Terms terms
        cdef PortSpec spec
        arrays = [self[index] for index in range(len(self._arrays))]
        terms.key = _key(self._model, arrays)
        self._ticket.request.set_terms(terms)
        for index, spec in enumerate(self._model._inputs):
            if spec.shared:
                _copy_to_rows(self._model.core.get().destination(self._ticket, index), spec, self._rows)

    cdef _seal(self):
        """The arrays that were handed out are not to be written any more: their memory goes on to others."""
        for array in self._arrays:
            if array is not None:
                array.flags.writeable = False


cdef Lease _open_lease(NativeModel model, int64_t rows):
    cdef Lease lease
    cdef Admission admission
    cdef Terms terms
    if model._mode == DYNAMIC:
        raise errors.InputError(
            f"model {model.name!r} has dynamic dimensions and so no rows to lease; fix them with shapes= in load()"
        )
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
    return lease
