# Inputs and outputs: what each of them takes, and which one a key means.

cdef enum Mode:
    ROWS = 0     # arrays of (n, *row), or n at another axis, or (*row,) for one sample
    WHOLE = 1    # exactly the model's shape; one request is one inference
    DYNAMIC = 2  # any shape that fits the model's; each request runs alone


# What an element is to NumPy; see element.pxi.
cdef enum Kind:
    NUMBER = 0  # the same
    BITS = 1    # as large as a number of NumPy's, which shows its bits
    PACKED = 2  # smaller than a byte: shown as packed bytes, in one dimension
    TEXT = 3


# By what it is found: an index, a name, or a port. Several ports may share a name.


def port_keys(ports):
    """Return the key of each port in a mapping: a name that no other port has, or else its index.

    The first of a port's own names is preferred. `dict(result)` has these keys.
    """
    shared = collections.Counter([name for port in ports for name in set(port.names)])
    keys = []
    for index, port in enumerate(ports):
        own = [name for name in (port.name, *port.names) if shared[name] == 1]
        keys.append(own[0] if own else index)
    return tuple(keys)


def port_index(ports, key, kind):
    """Return the index of the port that a key means. Raises InputError, which lists the ports.

    A key is an index, a name, a `TensorInfo`, or one of OpenVINO's ports. A name that several ports share means the
    first of them, as in OpenVINO. `kind` is "input" or "output".
    """
    cdef Py_ssize_t index = _find_port(ports, key)
    if index < 0:
        raise errors.InputError(_no_port(ports, key, kind))
    return index


cdef Py_ssize_t _find_port(object ports, object key) except -2:
    """Of several ports with that name the first, as in OpenVINO; -1 when no port is meant."""
    if isinstance(key, (int, np.integer)):
        return _index_below(len(ports), key)
    if isinstance(key, str):
        for index, port in enumerate(ports):
            if key in port.names:
                return index
        return -1
    index = getattr(key, "index", None)  # of a TensorInfo
    if isinstance(index, int) and (own := _index_below(len(ports), index)) >= 0:
        if ports[own].names == getattr(key, "names", None):
            return own
    named = _named(ports, key)
    return named[0] if len(named) == 1 else -1


cdef Py_ssize_t _index_below(Py_ssize_t count, object number) except -2:
    """As C has it, whatever comparisons an integer of the caller's defines; -1 when it is out of range."""
    cdef Py_ssize_t index
    try:
        index = number
    except OverflowError:
        return -1
    return index if 0 <= index < count else -1


cdef list _named(object ports, object key):
    """The ports that share a name with `key`, which is one of OpenVINO's ports, or of another model's."""
    get_names = getattr(key, "get_names", None)
    names = getattr(key, "names", ()) if get_names is None else get_names()
    names = set(names) if isinstance(names, (tuple, set)) else set()
    return [index for index, port in enumerate(ports) if not names.isdisjoint(port.names)]


cdef str _no_port(object ports, object key, str kind):
    if not isinstance(key, (str, int, np.integer)) and len(shared := _named(ports, key)) > 1:
        return f"{key!r} may be any of the {kind}s {', '.join(map(str, shared))}, which share a name; give the index"
    names = ", ".join([repr(port.name) for port in ports])
    return f"the model has no {kind} {key!r}; it has {names}, or 0 to {len(ports) - 1}"


cdef class PortSpec:
    """One input or output, ready for fast comparison."""
    cdef readonly str name
    cdef readonly tuple names
    cdef readonly tuple shape       # the whole port; -1 for the batch axis and what is dynamic
    cdef readonly object dtype
    cdef readonly str element_type
    cdef Kind kind
    cdef int type_num
    cdef int axis                   # of the rows in a user's array; here and below it is always the first
    cdef bint shared                # mode `rows`: all rows of a request see the whole of it; below, each has a copy
    cdef int row_ndim
    cdef Py_ssize_t itemsize
    cdef cnp.npy_intp row_dims[32]  # NumPy 1.26's limit on dimensions
    cdef cnp.npy_intp least[32]     # in mode `dynamic`: what the dimensions may be; `most` is -1 without a limit
    cdef cnp.npy_intp most[32]
    cdef size_t row_bytes           # of the whole port in mode `whole`; 0 in mode `dynamic`

    def __cinit__(self, str name, tuple names, tuple shape, dtype, str element_type, tuple limits, int mode):
        cdef int i
        self.name = name
        self.names = names
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.element_type = element_type
        self.kind = _kind(element_type)
        self.type_num = self.dtype.num
        self.itemsize = self.dtype.itemsize
        self.shared = mode == ROWS and -1 not in shape
        self.axis = shape.index(-1) if mode == ROWS and not self.shared else 0
        row = (*shape[:self.axis], *shape[self.axis + 1:]) if mode == ROWS and not self.shared else shape
        if self.kind == TEXT and mode == ROWS:
            raise errors.ModelError(f"port {name!r} is text, which has no rows of memory")
        if self.kind == PACKED and mode == WHOLE:
            row = (_packed_bytes(element_type, shape),)
        if len(row) > 31:
            raise errors.ModelError(f"port {name!r} has {len(row)} dimensions; NumPy has 32 at most")
        self.row_ndim = len(row)
        self.row_bytes = 0 if mode == DYNAMIC else self.dtype.itemsize
        for i in range(self.row_ndim):
            self.row_dims[i] = row[i]
            self.row_bytes *= max(0, row[i])
            self.least[i], self.most[i] = limits[i] if mode == DYNAMIC and limits else (max(0, row[i]), row[i])

    cdef bint fits(self, cnp.ndarray array) noexcept:
        """In mode `dynamic`: may the model be run at this shape?"""
        cdef int i
        cdef cnp.npy_intp length
        if cnp.PyArray_NDIM(array) != self.row_ndim:
            return False
        for i in range(self.row_ndim):
            length = cnp.PyArray_DIM(array, i)
            if length < self.least[i] or (self.most[i] >= 0 and length > self.most[i]):
                return False
        return True


cdef tuple _port_specs(object ports, int mode):
    return tuple([
        PortSpec.__new__(PortSpec, name, names, shape, dtype, element_type, limits, mode)
        for name, names, shape, dtype, element_type, limits in ports
    ])


cdef inline bint _same_dims(const cnp.npy_intp* a, const cnp.npy_intp* b, int count) noexcept:
    cdef int i
    for i in range(count):
        if a[i] != b[i]:
            return False
    return True
