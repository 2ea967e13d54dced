# Padding to a bucket's length, and cutting the outputs back.


cdef class _Buckets:
    cdef tuple lengths    # ascending
    cdef tuple axes       # of each input; 0: not padded
    cdef tuple pads
    cdef tuple cut_axes   # of each output; 0: as it is

    def __cinit__(self, lengths, axes, pads, cut_axes):
        self.lengths = lengths
        self.axes = axes
        self.pads = pads
        self.cut_axes = cut_axes

    cdef int64_t length(self, list arrays) except -2:
        """Of the sequence; -1 when the inputs differ in it."""
        cdef Py_ssize_t i
        cdef int axis
        cdef int64_t own, found = -1
        for i in range(len(arrays)):
            axis = self.axes[i]
            if axis == 0:
                continue
            own = cnp.PyArray_DIM(<cnp.ndarray>arrays[i], axis)
            if found >= 0 and own != found:
                return -1
            found = own
        return found

    cdef int64_t bucket(self, int64_t length) except -2:
        """The shortest that holds it; -1 when none does."""
        cdef int64_t one
        for one in self.lengths:
            if one >= length:
                return one
        return -1

    cdef list padded(self, list arrays, tuple specs, int64_t bucket):
        cdef list found = []
        for array, axis, pad, spec in zip(arrays, self.axes, self.pads, specs):
            if axis != 0:
                shape = list(array.shape)
                length = shape[axis]
                shape[axis] = bucket
                whole = np.full(shape, pad, (<PortSpec>spec).dtype)
                whole[(slice(None),) * axis + (slice(length),)] = array
                array = whole
            found.append(array)
        return found

    cdef cnp.ndarray cut(self, cnp.ndarray array, Py_ssize_t output, int64_t length):
        cdef int axis = self.cut_axes[output]
        return array if axis == 0 else array[(slice(None),) * axis + (slice(length),)]
