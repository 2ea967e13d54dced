# Result: the outputs of one request.

# Outputs of up to this size are copied when they are read: cheaper than to keep their batch.
cdef enum:
    COPY_BYTES = 1024


cdef class _Outputs:
    """What results need of their model. They do not hold the model itself, so that no cycle leads through a result."""
    cdef shared_ptr[ModelCore] core
    cdef tuple ports
    cdef tuple keys
    cdef dict by_name
    cdef int mode

    def __cinit__(self, tuple ports, int mode):
        self.ports = ports
        self.keys = port_keys(ports)
        self.by_name = {name: _find_port(ports, name) for port in ports for name in port.names}
        self.mode = mode


@cython.no_gc
@cython.freelist(256)
cdef class Result:
    """The outputs of one request: a read-only mapping from outputs to arrays.

    A key is an index, a name, a `TensorInfo` of `model.outputs`, or one of OpenVINO's ports. A name that several
    outputs share means the first of them, as in OpenVINO. Iteration gives one key for each output, in the model's
    order: a name that no other output has, or else the index. So `dict(result)` has all outputs. With one output,
    `numpy.asarray(result)` is that output. Arrays of more than 1 KiB are views of the batch's outputs: they
    keep the memory of the whole batch alive, so copy what you keep for long.

    A request of n rows gets arrays with n rows. A request of one sample, without a batch axis, gets arrays without
    one.
    """
    cdef _Outputs _outputs
    cdef Ticket _ticket  # the references to the batch or job are this object's
    cdef uint32_t _rows
    cdef bint _single
    cdef object _arrays  # copies made so far: the array of an only output, otherwise a list by output
    cdef _Buckets _buckets  # of a sequence that was padded: `_length` is its own
    cdef int64_t _length

    def __reduce__(self):
        raise TypeError("a Result is a view of native memory and cannot be pickled; pickle its arrays: dict(result)")

    def __dealloc__(self):
        if self._outputs is not None:
            self._outputs.core.get().release(self._ticket)

    @cython.nonecheck(False)
    cdef cnp.ndarray _get(self, Py_ssize_t index):
        cdef cnp.ndarray array
        cdef Py_ssize_t outputs = len(self._outputs.ports)
        if self._arrays is not None:
            known = self._arrays if outputs == 1 else (<list>self._arrays)[index]
            if known is not None:
                return <cnp.ndarray>known
        array = self._make(index)
        if self._buckets is not None:
            array = self._buckets.cut(array, index, self._length)
        # Views are not kept: they hold this object, and must not be held by it.
        if cnp.PyArray_BASE(array) != NULL:
            return array
        if outputs == 1:
            self._arrays = array
            # A job stays: its memory is its own, and another thread may be at it, making an array of Python objects.
            if self._ticket.job == NULL:
                self._outputs.core.get().release(self._ticket)
        else:
            if self._arrays is None:
                self._arrays = [None] * outputs
            (<list>self._arrays)[index] = array
        return array

    @cython.nonecheck(False)
    cdef cnp.ndarray _make(self, Py_ssize_t index):
        cdef PortSpec spec = <PortSpec>self._outputs.ports[index]
        cdef cnp.npy_intp dims[33]
        cdef int ndim, i
        cdef byte* data
        cdef size_t size
        cdef cnp.ndarray array
        if self._ticket.job != NULL and self._ticket.job.is_shaped():
            return self._make_shaped(index, spec)
        data = self._outputs.core.get().output(self._ticket, index)
        size = spec.row_bytes * self._rows
        ndim = spec.row_ndim
        if self._outputs.mode == ROWS and not self._single:
            dims[0] = self._rows
            for i in range(ndim):
                dims[i + 1] = spec.row_dims[i]
            ndim += 1
        else:
            for i in range(ndim):
                dims[i] = spec.row_dims[i]
        if size <= COPY_BYTES:
            array = cnp.PyArray_SimpleNew(ndim, dims, spec.type_num)
            memcpy(cnp.PyArray_DATA(array), data, size)
            return array if spec.axis == 0 or self._single else np.moveaxis(array, 0, spec.axis).copy()
        array = cnp.PyArray_SimpleNewFromData(ndim, dims, spec.type_num, <void*>data)
        cnp.set_array_base(array, self)
        return array if spec.axis == 0 or self._single else np.moveaxis(array, 0, spec.axis)

    cdef cnp.ndarray _make_shaped(self, Py_ssize_t index, PortSpec spec):
        cdef ShapedOutput* output = &self._ticket.job.shaped_outputs()[index]
        cdef cnp.npy_intp dims[32]
        cdef size_t i
        cdef int ndim = <int>output.shape.size()
        if spec.kind == TEXT:
            return _text_array(output[0])
        if output.data.empty():
            return np.empty([output.shape[i] for i in range(output.shape.size())], spec.dtype)
        for i in range(output.shape.size()):
            dims[i] = output.shape[i]
        if spec.kind == PACKED:
            ndim = 1
            dims[0] = output.data.size()
        array = cnp.PyArray_SimpleNewFromData(ndim, dims, spec.type_num, <void*>output.data.data())
        cnp.set_array_base(array, self)
        return array

    def __getitem__(self, key):
        """Return the array of one output, by any of its keys. Raises KeyError, which lists the outputs."""
        found = self._outputs.by_name.get(key) if isinstance(key, str) else None
        cdef Py_ssize_t index = _find_port(self._outputs.ports, key) if found is None else found
        if index < 0:
            raise KeyError(_no_port(self._outputs.ports, key, "output"))
        return self._get(index)

    def __iter__(self):
        return iter(self._outputs.keys)

    def __len__(self):
        return len(self._outputs.ports)

    def __contains__(self, key):
        return _find_port(self._outputs.ports, key) >= 0

    def __array__(self, dtype=None, copy=None):
        """Return the only output. Raises TypeError when the model has several outputs."""
        if len(self._outputs.ports) != 1:
            names = ", ".join([repr((<PortSpec>spec).name) for spec in self._outputs.ports])
            raise TypeError(f"the result has {len(self._outputs.ports)} outputs ({names}); choose one of them")
        array = self._get(0)
        if dtype is not None and array.dtype != dtype:
            if copy is False:
                raise ValueError(f"a copy is needed to convert {array.dtype} to {np.dtype(dtype)}")
            return array.astype(dtype)
        return array.copy() if copy else array

    def keys(self):
        """Return the key of each output, in the model's order: a name of its own, or else its index."""
        return list(self._outputs.keys)

    def values(self):
        """Return the arrays of all outputs, in the model's order."""
        return [self._get(i) for i in range(len(self._outputs.ports))]

    def items(self):
        """Return (name, array) of all outputs, in the model's order."""
        return list(zip(self.keys(), self.values()))

    def get(self, key, default=None):
        """Return the array of one output, or `default` when the model has no such output.

        Args:
            key: a name or an index.
            default: returned in place of an array.

        Returns:
            The array or `default`.
        """
        return self[key] if key in self else default

    def __eq__(self, other):
        return self is other

    def __hash__(self):
        return id(self)

    def __repr__(self):
        outputs = ", ".join([f"{key!r}: {array.dtype}{list(array.shape)}" for key, array in self.items()])
        return f"Result({{{outputs}}})"


Mapping.register(Result)


cdef inline Result _hand_over_to_result(Ticket& ticket, Result result, _Outputs outputs, uint32_t rows, bint single):
    """To a result that was made before, so that nothing is lost when memory is short."""
    result._outputs = outputs
    result._ticket = ticket
    result._rows = rows
    result._single = single
    ticket = Ticket()
    return result
