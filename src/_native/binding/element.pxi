# Elements that NumPy does not have: shown as OpenVINO's own Python API shows them, and taken as it takes them.

cdef dict _PACKED_BITS = {"u1": 1, "u2": 2, "u3": 3, "u4": 4, "u6": 6, "i4": 4, "nf4": 4, "f4e2m1": 4}
cdef frozenset _BITS = frozenset(("bf16", "f8e4m3", "f8e5m2", "f8e8m0"))
# The same types in the package ml_dtypes, whose arrays are taken as well.
cdef dict _ML_DTYPES = {
    "bf16": "bfloat16", "f8e4m3": "float8_e4m3fn", "f8e5m2": "float8_e5m2", "f8e8m0": "float8_e8m0fnu",
}


cdef Kind _kind(str element_type):
    if element_type == "string":
        return TEXT
    if element_type in _PACKED_BITS:
        return PACKED
    return BITS if element_type in _BITS else NUMBER


cdef object _packed_bytes(str element_type, tuple shape):
    return (math.prod(shape) * _PACKED_BITS[element_type] + 7) // 8


class _PackedArray(np.ndarray):
    """Packed bytes that know the shape of their tensor."""
    tensor_shape = None


cdef inline bint _is_tensor(object value):
    """An `openvino.Tensor`, without importing openvino for the question."""
    return not isinstance(value, (np.ndarray, np.generic, list, tuple, int, float)) and hasattr(
        value, "get_element_type"
    )


cdef str _element_type(object tensor):
    return str(tensor.get_element_type().get_type_name())


cdef cnp.ndarray _tensor_data(object tensor, PortSpec spec):
    data = tensor.data
    if not isinstance(data, np.ndarray):
        raise errors.InputTypeError(f"input {spec.name!r} is neither an array nor an openvino.Tensor: {type(tensor)}")
    return _plain_array(data, spec)


cdef cnp.ndarray _to_element(object value, PortSpec spec):
    """`value` as an array of the port's dtype: bits are never cast, text stays as it is."""
    if _is_tensor(value):
        if _element_type(value) != spec.element_type:
            raise errors.InputTypeError(
                f"input {spec.name!r} takes {spec.element_type}, not a tensor of {_element_type(value)}"
            )
        if spec.kind == TEXT:
            # Without any text its length is whatever OpenVINO finds in memory.
            value = value.bytes_data if value.get_size() > 0 else np.empty(tuple(value.get_shape()), "S1")
        else:
            array = _tensor_data(value, spec)
            if spec.kind == PACKED:
                array = array.view(_PackedArray)
                array.tensor_shape = tuple([int(length) for length in value.get_shape()])
                _check_packed(array, spec)
                return array
            value = array
    array = _plain_array(value, spec)
    if spec.kind == TEXT:
        if array.dtype.kind not in "US" and not (
            array.dtype == object and all([isinstance(text, (str, bytes)) for text in array.flat])
        ):
            raise errors.InputTypeError(f"input {spec.name!r} takes text (dtype U or S), not {array.dtype}")
        return array
    same_size = array.dtype.kind in "iu" and array.dtype.itemsize == spec.dtype.itemsize and array.dtype.isnative
    if array.dtype != spec.dtype and not same_size and array.dtype.name != _ML_DTYPES.get(spec.element_type):
        raise errors.InputTypeError(
            f"input {spec.name!r} takes {spec.element_type}, which NumPy does not have: pass its bits as "
            f"{spec.dtype}, or an openvino.Tensor, not {array.dtype}"
        )
    array = array.view(spec.dtype)
    if spec.kind == PACKED:
        _check_packed(array, spec)
    return array


cdef int _check_packed(object array, PortSpec spec) except -1:
    """Packed bytes do not tell their shape: it comes from the tensor, or it is the model's."""
    shape = getattr(array, "tensor_shape", None)
    if shape is not None and (min(shape, default=0) < 0 or array.nbytes != _packed_bytes(spec.element_type, shape)):
        raise errors.InputError(f"input {spec.name!r} has {array.nbytes} bytes, which is no {spec.element_type}{shape}")
    if shape is None:
        if -1 in spec.shape:
            raise errors.InputError(
                f"input {spec.name!r} is {spec.element_type} of a dynamic shape, which packed bytes do not tell; "
                f"pass an openvino.Tensor"
            )
        if array.shape == (_packed_bytes(spec.element_type, spec.shape),):
            return 0
    elif len(shape) == len(spec.shape) and all([d in (-1, own) for d, own in zip(spec.shape, shape)]):
        return 0
    raise errors.InputError(
        f"input {spec.name!r} has shape {shape or _shape(array)}; the model takes {_expected(spec, WHOLE)}"
    )


cdef tuple _packed_shape(cnp.ndarray array, PortSpec spec):
    """Of the tensor that these packed bytes stand for."""
    shape = getattr(array, "tensor_shape", None)
    return spec.shape if shape is None else shape


cdef class _Text:
    """The strings of one input, where the core reads them."""
    cdef vector[string] strings
    cdef tuple shape

    def __cinit__(self, cnp.ndarray array not None):
        texts = array.ravel().tolist()
        self.shape = _shape(array)
        for text in texts:
            if isinstance(text, str):
                text = str(text).encode("utf-8", "surrogateescape")
            elif not isinstance(text, bytes):  # the array was changed meanwhile
                raise errors.InputTypeError(f"text is of class str or bytes, not {type(text)}")
            self.strings.push_back(bytes(text))
        if len(texts) != math.prod(self.shape):
            raise errors.InputError(f"the array of {len(texts)} texts was changed to shape {self.shape} meanwhile")


cdef cnp.ndarray _text_array(const ShapedOutput& output):
    cdef size_t i
    texts = [output.text[i].decode("utf-8", "replace") for i in range(output.text.size())]
    shape = [output.shape[i] for i in range(output.shape.size())]
    return np.array(texts, dtype=None if texts else "U1").reshape(shape).copy()
