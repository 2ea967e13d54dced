# From what a user passes to rows of native memory.

cdef enum:
    # Copies of more than this let other Python threads run meanwhile.
    RELEASE_GIL_BYTES = 64 << 10
    # Instead of a number of rows: one sample, without a batch axis.
    SINGLE = -1


@cython.nonecheck(False)
cdef inline bint _is_plain(object inputs, PortSpec spec, uint32_t most_rows, uint32_t* rows, bint* single) noexcept:
    """The common case, recognised fast: one contiguous array of the dtype and shape of `spec`, which may be None."""
    cdef cnp.ndarray array
    cdef int ndim
    cdef cnp.npy_intp* dims
    if spec is None or not cnp.PyArray_CheckExact(inputs):
        return False
    array = <cnp.ndarray>inputs
    if cnp.PyArray_TYPE(array) != spec.type_num or not cnp.PyArray_ISCARRAY_RO(array):
        return False
    ndim = cnp.PyArray_NDIM(array)
    dims = cnp.PyArray_DIMS(array)
    if ndim == spec.row_ndim + 1 and _same_dims(dims + 1, spec.row_dims, spec.row_ndim):
        if dims[0] < 1 or dims[0] > most_rows:
            return False
        rows[0] = <uint32_t>dims[0]
        single[0] = False
        return True
    if ndim == spec.row_ndim and _same_dims(dims, spec.row_dims, ndim):
        rows[0] = 1
        single[0] = True
        return True
    return False


cdef object _expected(PortSpec spec, int mode):
    row = tuple([spec.row_dims[i] for i in range(spec.row_ndim)])
    if mode == ROWS and not spec.shared:
        rows = (*row[:spec.axis], "n", *row[spec.axis:])
        return f"{rows} or {row} for one sample".replace("'", "")
    if spec.kind == PACKED:
        return f"{spec.element_type}{_spelled(spec)} as packed bytes in one dimension, or as an openvino.Tensor"
    return _spelled(spec)


cdef str _spelled(PortSpec spec):
    """The shape as OpenVINO writes it, bounds included: (1..8, ?, 3)."""
    cdef int i
    lengths = [str(length) if length >= 0 else "?" for length in spec.shape]
    if spec.kind != PACKED:
        for i in range(spec.row_ndim):
            if spec.shape[i] < 0 and (spec.least[i] > 0 or spec.most[i] >= 0):
                lengths[i] = f"{spec.least[i]}..{spec.most[i] if spec.most[i] >= 0 else ''}"
    return f"({', '.join(lengths)}{',' if len(lengths) == 1 else ''})"


cdef cnp.ndarray _to_array(object value, PortSpec spec):
    """`value` as an array; numbers are yet to be checked by `_check_cast`."""
    if spec.kind != NUMBER:
        return _to_element(value, spec)
    if _is_tensor(value):
        if _kind(_element_type(value)) != NUMBER:
            raise errors.InputTypeError(
                f"input {spec.name!r} takes {spec.element_type}, not a tensor of {_element_type(value)}"
            )
        return _tensor_data(value, spec)
    return _plain_array(value, spec)


cdef int _check_cast(cnp.ndarray array, object value, PortSpec spec) except -1:
    """May these numbers be cast to the port's dtype? `value`: what `array` was made of."""
    if cnp.PyArray_TYPE(array) != spec.type_num or not cnp.PyArray_ISNOTSWAPPED(array):
        if array.dtype.kind not in "biuf":
            raise errors.InputTypeError(
                f"input {spec.name!r} takes numbers of dtype {spec.dtype}, not {array.dtype}"
            )
        if not isinstance(value, (np.ndarray, np.generic)) and array.dtype.kind in "iu" and spec.dtype.kind in "iu":
            # A list of Python ints has no dtype of its own that the user chose; its values decide.
            limits = np.iinfo(spec.dtype)
            if array.size and (array.min() < limits.min or array.max() > limits.max):
                raise errors.InputError(
                    f"input {spec.name!r} has values from {array.min()} to {array.max()}; {spec.dtype} holds "
                    f"{limits.min} to {limits.max}"
                )
        elif not np.can_cast(array.dtype, spec.dtype, "same_kind"):
            raise errors.InputTypeError(
                f"input {spec.name!r} has dtype {array.dtype}, which does not cast to {spec.dtype} by the rule "
                f"same_kind; convert it yourself if that is meant: array.astype('{spec.dtype}')"
            )
    return 0


cdef cnp.ndarray _plain_array(object value, PortSpec spec):
    """`value` as an array of NumPy's own class: subclasses may do anything when they are indexed or reshaped."""
    if cnp.PyArray_CheckExact(value):
        return value
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise errors.InputError(f"input {spec.name!r} is not an array: {error}") from None


cdef list _in_order(object inputs, tuple specs):
    """One value per port, in the model's order."""
    cdef PortSpec spec
    if isinstance(inputs, Mapping):
        values = [None] * len(specs)
        given = [False] * len(specs)
        for key, value in inputs.items():
            index = port_index(specs, key, "input")
            if given[index]:
                raise errors.InputError(f"input {port_keys(specs)[index]!r} is given twice, once as {key!r}")
            values[index] = value
            given[index] = True
        missing = [key for key, is_given in zip(port_keys(specs), given) if not is_given]
        if missing:
            names = ", ".join(map(repr, missing))
            raise errors.InputError(f"no value for input {names}; the model needs all its inputs")
        return values
    if isinstance(inputs, (list, tuple)):
        values = list(inputs)
        if len(values) != len(specs):
            names = ", ".join([repr(s.name) for s in specs])
            raise errors.InputError(
                f"{len(values)} values for {len(specs)} inputs ({names}); a list or tuple is one value per input, "
                "rows of one input go into one array"
            )
        return values
    if len(specs) != 1:
        names = ", ".join([repr(s.name) for s in specs])
        raise errors.InputError(f"one array for {len(specs)} inputs ({names}); pass a sequence or a mapping of them")
    return [inputs]


def request_arrays(inputs, ports):
    """Return copies of a request's arrays in the order of `ports`, cast to their dtypes. Raises InputError, but not
    for their shapes.
    """
    cdef PortSpec spec
    specs = _port_specs([(p.name, p.names, p.shape or (), p.dtype, p.element_type, ()) for p in ports], DYNAMIC)
    arrays = []
    for value, spec in zip(_in_order(inputs, specs), specs):
        array = _to_array(value, spec)
        if spec.kind == NUMBER:
            _check_cast(array, value, spec)
        arrays.append(np.array(array, spec.dtype) if spec.kind == NUMBER else array.copy())
    return arrays


cdef list _checked(object inputs, tuple specs, int mode, uint32_t* rows, bint* single):
    """Arrays in the model's order, of the right shapes and castable; how many rows, and whether it is one sample."""
    cdef PortSpec spec
    cdef cnp.ndarray array
    cdef PortSpec first = None
    cdef int i, ndim
    cdef int64_t n = 1, own
    values = _in_order(inputs, specs)
    # Code of the caller's runs in here, and may change any array: they are looked at when all that is over.
    given = [_to_array(value, spec) for value, spec in zip(values, specs)]
    arrays = list(given)
    for i in range(len(specs)):
        spec = <PortSpec>specs[i]
        array = arrays[i]
        if spec.kind == NUMBER:
            _check_cast(array, values[i], spec)
        ndim = cnp.PyArray_NDIM(array)
        if mode == DYNAMIC:
            if spec.kind != PACKED and not spec.fits(array):
                raise _shape_error(array, spec, mode)
            continue
        if mode == WHOLE or spec.shared:
            if ndim != spec.row_ndim or not _same_dims(cnp.PyArray_DIMS(array), spec.row_dims, ndim):
                raise _shape_error(array, spec, mode)
            continue
        if ndim == spec.row_ndim + 1:
            rows_first = array if spec.axis == 0 else np.moveaxis(array, spec.axis, 0)
            if not _same_dims(cnp.PyArray_DIMS(rows_first) + 1, spec.row_dims, spec.row_ndim):
                raise _shape_error(array, spec, mode)
            arrays[i] = rows_first
            own = cnp.PyArray_DIM(rows_first, 0)
        elif ndim == spec.row_ndim and _same_dims(cnp.PyArray_DIMS(array), spec.row_dims, ndim):
            own = SINGLE
        else:
            raise _shape_error(array, spec, mode)
        if first is not None and own != n:
            raise errors.InputError(
                f"inputs {first.name!r} and {spec.name!r} differ in their number of rows: "
                f"shapes {_shape(given[specs.index(first)])} and {_shape(given[i])}"
            )
        first = spec
        n = own
    if n > 0xFFFFFFF:
        raise errors.InputError(f"{n} rows in one request; {0xFFFFFFF} at most")
    single[0] = n == SINGLE
    rows[0] = 1 if n == SINGLE else <uint32_t>n
    return arrays


cdef object _shape(object array):
    return tuple(array.shape)


cdef object _shape_error(cnp.ndarray array, PortSpec spec, int mode):
    return errors.InputError(
        f"input {spec.name!r} has shape {_shape(array)}; the model takes {_expected(spec, mode)}"
    )


@cython.nonecheck(False)
cdef int _write(cnp.ndarray array, PortSpec spec, byte* destination, uint32_t rows) except -1:
    """Copies the rows, cast and made contiguous on the way. Raises InputError if they are no longer as many bytes as
    when they were checked."""
    cdef size_t size
    cdef void* source
    size = _checked_bytes(array, spec, 1 if spec.shared else rows)
    if cnp.PyArray_TYPE(array) == spec.type_num and cnp.PyArray_ISCARRAY_RO(array):
        source = cnp.PyArray_DATA(array)
        if size > RELEASE_GIL_BYTES:
            with nogil:
                memcpy(destination, source, size)
        else:
            memcpy(destination, source, size)
        return 0
    target = cnp.PyArray_SimpleNewFromData(
        cnp.PyArray_NDIM(array), cnp.PyArray_DIMS(array), spec.type_num, <void*>destination
    )
    return cnp.PyArray_CopyInto(<cnp.ndarray>target, array)


@cython.nonecheck(False)
cdef inline Py_ssize_t _checked_bytes(cnp.ndarray array, PortSpec spec, uint32_t rows) except -1:
    """Of these rows as native memory. Since the shape was checked, the caller may have waited for room, and other
    threads may have changed the array."""
    cdef Py_ssize_t size = cnp.PyArray_SIZE(array) * spec.itemsize
    if <size_t>size != spec.row_bytes * rows:
        raise errors.InputError(
            f"the array for input {spec.name!r} was changed to shape {_shape(array)} while it was submitted"
        )
    return size


cdef void _copy_to_rows(byte* destination, PortSpec spec, uint32_t rows) noexcept:
    """Of a shared input, which is there for the first row: a copy for each of the others."""
    cdef uint32_t row
    for row in range(1, rows):
        memcpy(destination + row * spec.row_bytes, destination, spec.row_bytes)


cdef cnp.ndarray _contiguous(cnp.ndarray array, PortSpec spec, uint32_t rows=1):
    """The same rows as native memory: the array itself where possible."""
    if spec.shared and rows > 1:
        array = np.repeat(np.asarray(array, dtype=spec.dtype)[np.newaxis], rows, axis=0)
    elif cnp.PyArray_TYPE(array) != spec.type_num or not cnp.PyArray_ISCARRAY_RO(array):
        array = np.asarray(array, dtype=spec.dtype, order="C")
    if spec.row_bytes != 0:  # in mode `dynamic` the shape goes along
        _checked_bytes(array, spec, rows)
    return array


cdef list _kept_arrays(list arrays, tuple specs, uint32_t rows, bint copy):
    """The inputs of a job as contiguous memory, which stays as it is until it is done."""
    cdef PortSpec spec
    kept = []
    for array, spec in zip(arrays, specs):
        if spec.kind == TEXT:
            kept.append(_Text.__new__(_Text, array))
            continue
        own = _contiguous(array, spec, rows)
        kept.append(own.copy() if copy and own is array else own)
    return kept


cdef byte* _data(object kept):
    """Of one of `_kept_arrays`."""
    return <byte*>(<_Text>kept).strings.data() if isinstance(kept, _Text) else <byte*>cnp.PyArray_DATA(kept)


cdef ShapedInput _shaped_input(cnp.ndarray array):
    cdef ShapedInput shaped
    cdef int i
    shaped.data = <byte*>cnp.PyArray_DATA(array)
    for i in range(cnp.PyArray_NDIM(array)):
        shaped.shape.push_back(cnp.PyArray_DIM(array, i))
    return shaped


cdef vector[ShapedInput] _shaped_inputs(list kept, list arrays, tuple specs):
    """`arrays`: what was kept, as it was checked. The shapes are those of the memory, whatever became of `arrays`."""
    cdef vector[ShapedInput] shaped
    cdef ShapedInput one
    for memory, array, spec in zip(kept, arrays, specs):
        one.data = _data(memory)
        one.shape.clear()
        if isinstance(memory, _Text):
            shape = (<_Text>memory).shape
        else:
            shape = _packed_shape(array, spec) if (<PortSpec>spec).kind == PACKED else _shape(memory)
        for length in shape:
            one.shape.push_back(length)
        shaped.push_back(one)
    return shaped


# For annotations at run time; the stub says what it stands for.
Inputs = object
