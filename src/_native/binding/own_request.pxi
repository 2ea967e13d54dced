# OwnRequest: an infer request whose inputs and outputs are tensors that its owner binds.


@cython.no_gc_clear
cdef class OwnRequest:
    """One infer request of a compiled model, run by the lanes of `model`, which has no ports; for `ovengine.compat`.

    Tensors are objects of `openvino.Tensor`, whose memory it shares. They must stay alive while they are bound where
    they in turn share an array's. Nothing but `interrupt` is to be called while a run is under way. Raises InputError
    with OpenVINO's reason where it refuses a tensor.
    """
    cdef NativeModel _model
    # By address, so that a child of a fork can leave it alone.
    cdef shared_ptr[NativeOwnRequest]* _native
    cdef readonly tuple states

    def __cinit__(self, NativeModel model not None, Compiled compiled not None):
        cdef shared_ptr[NativeOwnRequest] native_request
        PyObject_GC_UnTrack(self)  # nobody finds it before it is whole
        if model._inputs or len(model._results.ports):
            raise ValueError("a model that runs infer requests of their owner's has no inputs and outputs")
        try:
            with nogil:
                native_request = compiled.native.get().make_own_request()
        except RuntimeError as error:
            raise errors.ModelError(f"model {model.name!r} cannot create an infer request: {_reason(error)}") from None
        self._model = model
        self._native = new shared_ptr[NativeOwnRequest](native_request)
        self.states = _ports(self._native[0].get().states())
        PyObject_GC_Track(self)

    def __dealloc__(self):
        # In the child of a fork OpenVINO's threads are not there.
        if self._native != NULL and not self._model.core.get().forked():
            with nogil:
                del self._native

    def submit(self):
        return self._submit(True)

    def infer(self):
        """Runs on the caller's thread where a lane is free, for inferences that are short: it hears no signals."""
        cdef NativeModel model = self._model
        cdef int lane = model.core.get().try_borrow_lane()
        cdef Ticket ticket
        cdef Future future
        try:
            future = self._submit(lane < 0)
        except BaseException:
            if lane >= 0:
                model.core.get().return_lane(lane)
            raise
        if lane >= 0:
            ticket = future._ticket
            with nogil:
                model.core.get().run_borrowed_job(lane, ticket, after(SLICE_S))
        return future

    cdef Future _submit(self, bint wake):
        cdef NativeModel model = self._model
        cdef Ticket ticket
        cdef Terms terms
        cdef Admission admission
        cdef Future future = _new_future()
        while True:
            admission = model.core.get().submit_own(self._native[0], ticket, wake)
            if admission == Admission.ok:
                return _hand_over(ticket, future, model, False)
            if not wake:
                raise _closed_error(model) if admission == Admission.closed else _queue_full(model)
            model._wait_for_room(admission, terms, True, Deadline(), None)

    def interrupt(self):
        if not self._model.core.get().forked():
            self._native[0].get().interrupt()

    cdef int _check_process(self) except -1:
        """OpenVINO's locks may be held by threads of the parent."""
        if self._model.core.get().forked():
            raise _closed_error(self._model)
        return 0

    # --- tensors ---

    def bind_input(self, size_t index, tensor):
        self._check_process()
        try:
            self._native[0].get().bind_input(index, _tensor_address(tensor))
        except RuntimeError as error:
            raise self._refusal("input", index, error) from None

    def bind_inputs(self, size_t index, tensors):
        cdef vector[const void*] addresses
        self._check_process()
        for tensor in tensors:
            addresses.push_back(_tensor_address(tensor))
        try:
            self._native[0].get().bind_inputs(index, addresses)
        except RuntimeError as error:
            raise self._refusal("input", index, error) from None

    def bind_output(self, size_t index, tensor, *, bint keep):
        """`keep`: the tensor gets the result of the last inference now."""
        self._check_process()
        try:
            self._native[0].get().bind_output(index, _tensor_address(tensor), keep)
        except RuntimeError as error:
            raise self._refusal("output", index, error) from None

    cdef object _refusal(self, str kind, size_t index, object error):
        return errors.InputError(f"{kind} {index} of model {self._model.name!r}: {_reason(error)}")

    # --- state and figures ---

    def read_state(self, size_t index, tensor):
        self._check_process()
        try:
            self._native[0].get().read_state(index, _tensor_address(tensor))
        except RuntimeError as error:
            raise errors.InferenceError(f"state {self.states[index].name!r} cannot be read: {_reason(error)}") from None

    def write_state(self, size_t index, tensor):
        self._check_process()
        try:
            self._native[0].get().write_state(index, _tensor_address(tensor))
        except RuntimeError as error:
            raise errors.InputError(
                f"state {self.states[index].name!r} does not take {tensor.get_element_type().get_type_name()} of shape "
                f"{tuple(tensor.get_shape())}: {_reason(error)}"
            ) from None

    def reset_state(self, index=None):
        self._check_process()
        try:
            if index is None:
                self._native[0].get().reset_state()
            else:
                self._native[0].get().reset_state(<size_t>index)
        except RuntimeError as error:
            raise errors.InferenceError(f"the state cannot be reset: {_reason(error)}") from None

    def profile(self):
        cdef vector[NodeProfile] nodes
        cdef NodeProfile node
        self._check_process()
        try:
            with nogil:
                nodes = self._native[0].get().profile()
        except RuntimeError as error:
            raise errors.InferenceError(f"there is no profile: {_reason(error)}") from None
        return [
            (node.status, node.real_us, node.cpu_us, node.node_name.decode(), node.exec_type.decode(),
             node.node_type.decode())
            for node in nodes
        ]


cdef const void* _tensor_address(object tensor) except NULL:
    return _address(tensor, openvino_tensor_type_info(), "openvino.Tensor")
