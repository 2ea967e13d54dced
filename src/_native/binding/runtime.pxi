# Runtime, Graph and Compiled: reading, reshaping and compiling models.

cdef str _reason(object error):
    """OpenVINO's message without the source lines that it prefixes; of a row that is named, too."""
    text = str(error)
    row, colon, rest = text.partition(": ") if text.startswith("row ") else ("", "", text)
    lines = [line.strip() for line in rest.splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from ", "Check '"))]
    return row + colon + " ".join(told or lines)


cdef class Port:
    """One input or output of a graph.

    `shape` has -1 where a dimension is dynamic, and is None when the rank is. `limits` are the least and most of each
    dimension, -1 for no limit. `dtype` is that of the arrays, `element_type` OpenVINO's name (`f32`, `bf16`, `u4`):
    what NumPy lacks is shown as OpenVINO's Python API shows it, as bits or packed bytes.
    """
    cdef readonly tuple names
    cdef readonly tuple shape
    cdef readonly object dtype
    cdef readonly str element_type
    cdef readonly tuple limits

    def __cinit__(self, tuple names not None, tuple shape, dtype, str element_type not None, tuple limits not None):
        self.names = names
        self.shape = shape
        self.dtype = dtype
        self.element_type = element_type
        self.limits = limits

    @property
    def name(self):
        """The first of `names`."""
        return self.names[0]

    def __repr__(self):
        return f"Port({self.name!r}, shape={self.shape}, element_type={self.element_type})"


cdef tuple _ports(const vector[NativePort]& ports):
    cdef size_t i, j
    result = []
    for i in range(ports.size()):
        names = tuple([ports[i].names[j].decode() for j in range(ports[i].names.size())])
        shape = tuple([ports[i].shape[j] for j in range(ports[i].shape.size())]) if ports[i].rank_is_static else None
        limits = tuple([(ports[i].least[j], ports[i].most[j]) for j in range(ports[i].least.size())])
        element_type = ports[i].element_type.decode()
        if ports[i].dtype.empty():
            raise errors.ModelError(f"port {names[0]!r} has no element type")
        result.append(Port(names, shape, np.dtype(ports[i].dtype.decode()), element_type, limits))
    return tuple(result)


cdef string _utf8(object text) except *:
    if not isinstance(text, str):
        raise TypeError(f"expected a string, not {text!r}")
    return (<str>text).encode("utf-8", "surrogateescape")


cdef string _native_path(object path) except *:
    """As the system has it: the name of a file need not be UTF-8."""
    name = os.fsencode(path)
    if b"\0" in name:
        raise errors.ModelNotFoundError(f"no path has a null character: {path!r}")
    return name


cdef cmap[string, string] _properties(object properties) except *:
    cdef cmap[string, string] result
    for name, value in properties.items():
        if isinstance(value, bool):
            value = "YES" if value else "NO"
        result[_utf8(str(name))] = _utf8(str(value))
    return result


cdef object _property_value(str text):
    if text in ("YES", "NO"):
        return text == "YES"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


cdef class Graph:
    """A model before it is compiled (an `ov::Model`). Python cannot change it."""
    cdef shared_ptr[NativeGraph] native
    cdef object _owner  # an adopted model stays with the object that it came from
    cdef readonly tuple inputs
    cdef readonly tuple outputs

    @property
    def name(self):
        """The model's own name."""
        return self.native.get().name().decode()

    @property
    def constant_bytes(self):
        """Bytes of the model's constants."""
        return self.native.get().constant_bytes()

    @property
    def has_state(self):
        """True when the model keeps variables between inferences (ReadValue, Assign)."""
        return self.native.get().has_state()

    @property
    def is_quantized(self):
        """True when values inside or weights are rounded to 8 bits or less."""
        return self.native.get().is_quantized()

    @property
    def borrowed_bytes(self):
        """Bytes of constants that others may change: those in mapped files, and all of an adopted model."""
        return self.native.get().borrowed_bytes()

    def with_own_constants(self):
        """Return a copy whose constants lie in memory of its own. Raises ModelError if a file changes meanwhile."""
        try:
            with nogil:
                copy = self.native.get().with_own_constants()
        except RuntimeError as error:
            raise errors.ModelError(f"the weights of {self.name!r} cannot be read: {_reason(error)}") from None
        return _graph(copy, None)

    def reshaped(self, shapes):
        """Return a copy with other input shapes, given by input name or index. -1 is a dynamic dimension, `"1..8"` one
        with bounds. Raises ModelError when the model cannot take them.
        """
        cdef cmap[size_t, string] native_shapes
        for key, shape in shapes.items():
            index = port_index(self.inputs, key, "input")
            native_shapes[index] = _utf8(f"[{','.join(map(str, shape))}]")
        try:
            with nogil:
                reshaped = self.native.get().reshaped(native_shapes)
        except RuntimeError as error:
            raise errors.ModelError(f"the model cannot be reshaped to {dict(shapes)}: {_reason(error)}") from None
        return _graph(reshaped, self._owner)

    def content(self):
        """The structure and a hash of the weights, as bytes: equal for models that compute the same by the same graph.
        Raises ModelError when a node cannot be written as IR.
        """
        cdef string content
        try:
            with nogil:
                content = self.native.get().content()
        except RuntimeError as error:
            raise errors.ModelError(f"model {self.name!r} cannot be written down: {_reason(error)}") from None
        return <bytes>content

    @property
    def tensor_bytes(self):
        """Bytes of all inputs and outputs, and of the largest tensors that one operator has at once.

        One inference takes no less memory than that, beside the weights.
        """
        return self.native.get().tensor_bytes()

    def layout_batch_axes(self):
        """Input index -> its batch axis, or None when its layout has none; for inputs that have a layout."""
        cdef cmap[size_t, optional[int64_t]] axes = self.native.get().layout_batch_axes()
        return {item.first: item.second.value() if item.second.has_value() else None for item in axes}

    def symbolic_batch_axes(self, inputs):
        """For each output, the axes that carry the symbol of the batch, given the batch axis of each input. Operators
        may lose the symbol: an output without such an axis proves nothing.
        """
        cdef vector[optional[int64_t]] native_inputs = _axes(inputs, self.inputs)
        try:
            return tuple([tuple(axes) for axes in self.native.get().symbolic_batch_axes(native_inputs)])
        except RuntimeError as error:
            raise errors.ModelError(f"the model refuses a symbolic batch: {_reason(error)}") from None

    def batch_first(self, inputs, outputs):
        """Return a copy whose inputs and outputs have the batch axis first, with a Transpose inside where it is
        another one.
        """
        cdef vector[optional[int64_t]] native_inputs = _axes(inputs, self.inputs)
        cdef vector[optional[int64_t]] native_outputs = _axes(outputs, self.outputs)
        try:
            with nogil:
                changed = self.native.get().batch_first(native_inputs, native_outputs)
        except RuntimeError as error:
            raise errors.ModelError(f"the batch axis cannot be moved to the front: {_reason(error)}") from None
        return _graph(changed, self._owner)

    def padded_inside(self, size_t input, int64_t axis, lengths):
        """Return a copy that pads this axis to one of `lengths` inside, and masks the padding where it would show.

        Inputs and outputs stay the same. It pads from half of the shortest length to the longest; others run as they
        are. Raises ModelError at an operator for which there is no rule.
        """
        cdef vector[int64_t] native_lengths = lengths
        port = self.inputs[input]
        if port.shape is None or not 0 <= axis < len(port.shape) or native_lengths.empty():
            raise errors.ModelError(f"input {port.name!r} cannot be padded on axis {axis} to {lengths}")
        try:
            with nogil:
                changed = self.native.get().padded_inside(input, axis, native_lengths)
        except RuntimeError as error:
            raise errors.ModelError(f"padding would show: {_reason(error)}") from None
        return _graph(changed, self._owner)

    def input_values(self):
        """Return which values each input can take without leading an operator astray.

        For each input `(low, high, free, fears_nan, unknown)`: bounds, both included; whether no operator relies on the
        values; whether values that are not finite are dangerous; and the operator that relies on values for which no
        bounds are known, or an empty string.
        """
        cdef vector[NativeInputValues] found
        with nogil:
            found = self.native.get().input_values()
        return tuple([(one.low, one.high, one.is_free, one.fears_nan, one.unknown.decode()) for one in found])

    def prove_rows(self, choices):
        """Find axes along which the operators of the graph keep rows apart.

        `choices` has for each input the axes to try, the most plausible first; None: all rows share the input. Return
        `(inputs, outputs, refuted, unproven)`: the axis of each input and output, or None; whether an operator mixes
        rows whatever the axes are; and the first operator that is not known to keep rows apart, or an empty string.
        If that is empty, rows are independent.
        """
        cdef vector[vector[optional[int64_t]]] native_choices
        cdef NativeRowProof found
        for axes, port in zip(choices, self.inputs, strict=True):
            native_choices.push_back(_axes(axes, (port,) * len(axes)))
        with nogil:
            found = self.native.get().prove_rows(native_choices)
        return _axes_of(found.inputs), _axes_of(found.outputs), found.is_refuted, found.unproven.decode()


cdef tuple _axes_of(vector[optional[int64_t]]& axes):
    return tuple([axis.value() if axis.has_value() else None for axis in axes])


cdef vector[optional[int64_t]] _axes(object axes, tuple ports) except *:
    """The axis of each port, or None."""
    cdef vector[optional[int64_t]] result
    cdef optional[int64_t] native_axis
    for axis, port in zip(axes, ports, strict=True):
        native_axis.reset()
        if axis is not None:
            own = -1 if port.shape is None else _index_below(len(port.shape), axis)
            if own < 0:
                raise errors.ModelError(f"port {port.name!r} has no axis {axis}")
            native_axis = <int64_t>own
        result.push_back(native_axis)
    return result


cdef Graph _graph(shared_ptr[NativeGraph] native_graph, object owner):
    cdef Graph graph = Graph.__new__(Graph)
    graph.native = native_graph
    graph._owner = owner
    graph.inputs = _ports(native_graph.get().inputs())
    graph.outputs = _ports(native_graph.get().outputs())
    return graph


# A trial inference that takes longer would hold up a load for too long.
cdef double _MOST_SECONDS = 10


cdef class Compiled:
    """One compiled model on one device: an `ov::CompiledModel`, or a fake one for tests."""
    cdef shared_ptr[CompiledModel] native
    cdef readonly tuple inputs
    cdef readonly tuple outputs

    def property(self, name):
        """The value of an OpenVINO property. Raises PropertyError."""
        try:
            return _property_value(self.native.get().property(_utf8(name)).decode())
        except RuntimeError as error:
            raise errors.PropertyError(f"the compiled model has no property {name!r}: {_reason(error)}") from None

    @property
    def has_state(self):
        """True when the model keeps variables between inferences."""
        return has_state(self.native.get()[0])

    def export(self):
        """The compiled model as a blob, for `Runtime.import_blob`."""
        cdef string blob
        with nogil:
            blob = self.native.get().export_blob()
        return <bytes>blob

    def measure(self, inputs, *, int min_runs=3, double max_seconds=0.05, double max_one=_MOST_SECONDS):
        """Seconds of one `infer()`, the least of several runs after some to warm up.

        Args:
            inputs: an array for each input; of elements smaller than a byte the first bytes count.
            min_runs, max_seconds: as many runs as this, and more while there is time.
            max_one: seconds of the first inference; one that takes longer is given up.

        Raises InputError and InferenceError.
        """
        cdef vector[ShapedInput] shaped
        cdef double seconds
        kept = self._arrays(inputs, &shaped)
        try:
            with nogil:
                seconds = measure(self.native.get()[0], shaped, min_runs, max_seconds, max_one)
        except RuntimeError as error:
            raise errors.InferenceError(f"a trial inference failed: {_reason(error)}") from None
        return seconds

    cdef list _arrays(self, object inputs, vector[ShapedInput]* shaped):
        """What `shaped` points to, which has to be kept as long."""
        cdef ShapedInput one
        kept = []
        for array, port in zip(inputs, self.inputs, strict=True):
            if port.element_type == "string":
                raise errors.InputError(f"input {port.name!r} is text, for which there are no trial runs")
            array = np.asarray(array, dtype=port.dtype, order="C")  # which leaves scalars alone
            if len(array.shape) != len(port.shape) or any(
                [wanted not in (-1, length) for wanted, length in zip(port.shape, array.shape)]
            ):
                raise errors.InputError(f"input {port.name!r} has shape {array.shape}, compiled is {port.shape}")
            kept.append(array)
            one.data = <byte*>cnp.PyArray_DATA(<cnp.ndarray>array)
            one.shape = array.shape
            shaped.push_back(one)
        return kept

    def run(self, inputs, *, double max_seconds=_MOST_SECONDS):
        """Run one inference outside any lane, at any shape that the model takes; returns copies of all outputs.

        For trial runs: one that takes longer than `max_seconds` is given up. Raises InputError and InferenceError.
        """
        cdef vector[ShapedInput] shaped
        cdef vector[ShapedOutput] found
        cdef size_t i
        kept = self._arrays(inputs, &shaped)
        try:
            with nogil:
                found = self.native.get().try_infer(shaped, max_seconds)
        except RuntimeError as error:
            raise errors.InferenceError(f"a trial inference failed: {_reason(error)}") from None
        outputs = []
        for i in range(found.size()):
            array = np.empty(tuple(found[i].shape), self.outputs[i].dtype)
            if not found[i].data.empty():
                memcpy(cnp.PyArray_DATA(<cnp.ndarray>array), found[i].data.data(), found[i].data.size())
            outputs.append(array)
        return outputs


cdef Compiled _compiled(shared_ptr[CompiledModel] native_model):
    cdef Compiled compiled = Compiled.__new__(Compiled)
    compiled.native = native_model
    compiled.inputs = _ports(native_model.get().inputs())
    compiled.outputs = _ports(native_model.get().outputs())
    return compiled


cdef class CpuBudget:
    """CPUs that the lanes of several models keep busy together; they take turns of 2 ms when CPUs are short."""
    cdef shared_ptr[NativeCpuBudget] native

    def __cinit__(self, uint32_t cpus):
        self.native = make_shared[NativeCpuBudget](cpus)

    @property
    def cpus(self):
        """How many CPUs."""
        return self.native.get().cpus()


cdef class Runtime:
    """Owns an `ov::Core`. Any thread may call it; calls that take long release the GIL."""
    cdef shared_ptr[NativeRuntime] native

    def __cinit__(self):
        self.native = make_shared[NativeRuntime]()

    @property
    def available_devices(self):
        """The devices that OpenVINO lists."""
        return tuple([name.decode() for name in self.native.get().available_devices()])

    def device_property(self, device, name):
        """The value of a device's property. Raises PropertyError."""
        try:
            return _property_value(self.native.get().device_property(_utf8(device), _utf8(name)).decode())
        except RuntimeError as error:
            raise errors.PropertyError(f"device {device!r} has no property {name!r}: {_reason(error)}") from None

    def supported_properties(self, device):
        """Property name -> whether `compile_model` may set it on this device. Raises UnknownDeviceError."""
        cdef cmap[string, cbool] supported
        try:
            supported = self.native.get().supported_properties(_utf8(device))
        except RuntimeError as error:
            raise errors.UnknownDeviceError(f"no device {device!r} here: {_reason(error)}") from None
        return {item.first.decode(): bool(item.second) for item in supported}

    def register_plugin(self, library, device):
        """Register an OpenVINO plugin library under a device name."""
        self.native.get().register_plugin(_utf8(library), _utf8(device))

    def set_property(self, properties, device=""):
        """Set properties of one device, or of the core when none is named. Raises PropertyError."""
        try:
            self.native.get().set_property(_utf8(device), _properties(properties))
        except RuntimeError as error:
            raise errors.PropertyError(f"OpenVINO refuses {dict(properties)}: {_reason(error)}") from None

    def read_model(self, path, weights=""):
        """Read a file that an OpenVINO frontend knows. Raises ModelError with OpenVINO's reason."""
        cdef string native_path = _native_path(path), native_weights = _native_path(weights)
        cdef shared_ptr[NativeGraph] graph
        try:
            with nogil:
                graph = self.native.get().read_model(native_path, native_weights)
        except RuntimeError as error:
            raise errors.ModelError(f"OpenVINO cannot read {os.fspath(path)!r}: {_reason(error)}") from None
        return _graph(graph, None)

    def read_model_bytes(self, bytes model not None, bytes weights=None, owner=None):
        """Read an ONNX model, or the text of an IR with its weights, from memory. Raises ModelError.

        `owner` lives as long as the graph: what the model refers to by address.
        """
        cdef string native_model = model
        cdef const char* data = NULL
        cdef size_t size = 0
        cdef shared_ptr[NativeGraph] graph
        if weights is not None:
            data = weights
            size = len(weights)
        try:
            with nogil:
                graph = self.native.get().read_model_bytes(native_model, data, size)
        except RuntimeError as error:
            raise errors.ModelError(
                f"OpenVINO cannot read the model of {len(model)} bytes: {_reason(error)}"
            ) from None
        return _graph(graph, owner)

    def adopt(self, model):
        """Take an `openvino.Model`. Raises ModelError for anything else."""
        cdef object inner = getattr(model, "_Model__model", model)  # held while its address is in use
        address = _address(inner, openvino_model_type_info(), "openvino.Model")
        return _graph(self.native.get().adopt(address), model)

    def adopt_compiled(self, model):
        """Take an `openvino.CompiledModel`, shared with its owner. Raises ModelError for anything else."""
        address = _address(model, openvino_compiled_model_type_info(), "openvino.CompiledModel")
        return _compiled(native_adopt_compiled(address))

    def compile(self, Graph graph not None, device, properties):
        """Compile a graph for a device. Raises ModelError with OpenVINO's reason."""
        cdef string native_device = _utf8(device)
        cdef cmap[string, string] native_properties = _properties(properties)
        cdef shared_ptr[CompiledModel] compiled
        try:
            with nogil:
                compiled = self.native.get().compile(graph.native.get()[0], native_device, native_properties)
        except RuntimeError as error:
            raise errors.ModelError(
                f"device {device} cannot compile {graph.name!r} with {dict(properties)}: {_reason(error)}"
            ) from None
        return _compiled(compiled)

    def import_blob(self, bytes blob not None, device, properties):
        """Import what `Compiled.export` or OpenVINO's `export_model` wrote. Raises ModelError."""
        cdef string native_blob = blob, native_device = _utf8(device)
        cdef cmap[string, string] native_properties = _properties(properties)
        cdef shared_ptr[CompiledModel] compiled
        try:
            with nogil:
                compiled = self.native.get().import_blob(native_blob, native_device, native_properties)
        except RuntimeError as error:
            raise errors.ModelError(
                f"device {device} cannot import the blob of {len(blob)} bytes: {_reason(error)}"
            ) from None
        return _compiled(compiled)


def fake_compiled(inputs, outputs, *, double service_time_us=0.0, double service_time_per_row_us=0.0, poison=None,
                  uint32_t fail_every=0):
    """A compiled model that needs no hardware: every output row repeats its input row's values, plus one.

    Args:
        inputs: (name, shape, dtype) of each input, at one compiled batch size: shapes are (batch, ...).
        outputs: the same for the outputs.
        service_time_us: microseconds of one inference.
        service_time_per_row_us: microseconds added for each row.
        poison: a row whose first value equals it makes `infer()` throw.
        fail_every: every so many-th inference throws; 0 for never.

    Returns:
        A `Compiled`.

    Raises:
        ModelError: a dtype is not float32, there is no input, or a shape is not static with the batch size first.
    """
    cdef FakeBehavior behavior
    behavior.service_time_us = service_time_us
    behavior.service_time_per_row_us = service_time_per_row_us
    behavior.fail_every = fail_every
    shapes = [tuple(shape) for _, shape, _ in (*inputs, *outputs)]
    if not inputs or len({shape[:1] for shape in shapes}) != 1 or min(map(min, shapes)) < 1:
        raise errors.ModelError(f"the fake device takes static shapes with one batch size, and an input; not {shapes}")
    return _compiled(
        make_fake(_native_ports(inputs), _native_ports(outputs), behavior, poison is not None, poison or 0.0)
    )


cdef vector[NativePort] _native_ports(object ports) except *:
    cdef vector[NativePort] result
    cdef NativePort port
    for name, shape, dtype in ports:
        if np.dtype(dtype) != np.float32:
            raise errors.ModelError(f"the fake device computes in float32, port {name!r} is {np.dtype(dtype)}")
        port.names = [_utf8(name)]
        port.shape = [int(length) for length in shape]
        port.dtype = b"f4"
        port.element_type = b"f32"
        port.bits = 32
        port.rank_is_static = True
        result.push_back(port)
    return result
