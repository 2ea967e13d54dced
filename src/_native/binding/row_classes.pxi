# Row classes: requests whose dimensions are equal but for the number of rows, served by a child model once they are
# frequent. The child is a NativeModel of its own, with static batch sizes; all others run on the dynamic one.

# Shapes whose use is counted at a time. Beyond that counting starts anew, so that it stays a matter of recent use.
cdef enum:
    MOST_COUNTED = 4096

cdef struct RowClass:
    PyObject* child   # a NativeModel, held in _RowClasses.children; null until there is one
    uint32_t uses     # without a child, since the request number `first`
    uint64_t first
    uint64_t last     # number of the last request


cdef extern from * nogil:
    """
    // The entry of this key, made where there is none.
    template <class Map>
    typename Map::mapped_type* ovengine_entry(Map& map, const typename Map::key_type& key) { return &map[key]; }
    """
    RowClass* _entry "ovengine_entry"(cmap[vector[int64_t], RowClass]& classes, const vector[int64_t]& shape) except +


@cython.no_gc_clear
cdef class _RowClasses:
    """The classes of one model. Under the GIL."""
    cdef cmap[vector[int64_t], RowClass] by_shape
    cdef vector[int64_t] shape     # of the request that is being looked up
    cdef dict children             # key -> child
    cdef dict shapes               # key -> shapes
    cdef object wanted
    cdef uint32_t uses_to_want
    cdef Py_ssize_t most
    cdef uint64_t requests
    cdef _Buckets buckets          # None: nothing is padded
    # Of the request that was looked up last: the sequence's length and what to pad it to, or -1.
    cdef int64_t length, bucket

    def __cinit__(self):
        self.children = {}
        self.shapes = {}

    cdef NativeModel find(self, list arrays, tuple specs):
        """The child for these arrays, or None. Asks for one when the class has been used often enough."""
        cdef RowClass* found
        cdef NativeModel child
        self.length = self.bucket = -1
        if not self._look_at(arrays):
            return None
        if self.buckets is not None:
            self._fit_bucket(arrays)
        self.requests += 1
        if self.by_shape.count(self.shape) == 0 and self.by_shape.size() >= MOST_COUNTED:
            self._forget_uses()
        found = _entry(self.by_shape, self.shape)
        found.last = self.requests
        if found.child != NULL:
            child = <NativeModel>found.child
            return child
        if found.uses == 0:
            found.first = self.requests
        found.uses += 1
        if found.uses % self.uses_to_want == 0:
            if self._has_place(found.first):
                self.wanted(self._shapes(arrays, specs))
            else:
                found.uses = 0
        return None

    cdef bint _look_at(self, list arrays):
        """Its key: all dimensions but the first of each input. False for tensors without elements."""
        cdef cnp.ndarray array
        cdef int i
        self.shape.clear()
        for array in arrays:
            if cnp.PyArray_SIZE(array) == 0:
                return False
            for i in range(1, cnp.PyArray_NDIM(array)):
                self.shape.push_back(cnp.PyArray_DIM(array, i))
        return True

    cdef int _fit_bucket(self, list arrays) except -1:
        """Makes the key that of the padded inputs, where padding is needed."""
        cdef Py_ssize_t input, position = -1
        cdef int64_t length = self.buckets.length(arrays)
        cdef int64_t bucket = -1 if length < 0 else self.buckets.bucket(length)
        if bucket < 0 or bucket == length:
            return 0
        self.length = length
        self.bucket = bucket
        for input in range(len(arrays)):
            if self.buckets.axes[input] != 0:
                self.shape[position + <int>self.buckets.axes[input]] = bucket
            position += cnp.PyArray_NDIM(<cnp.ndarray>arrays[input]) - 1
        return 0

    cdef tuple _shapes(self, list arrays, tuple specs):
        found = []
        for input in range(len(arrays)):
            shape = [(<PortSpec>specs[input]).shape[0], *_shape(arrays[input])[1:]]
            if self.bucket >= 0 and self.buckets.axes[input] != 0:
                shape[self.buckets.axes[input]] = self.bucket
            found.append(tuple(shape))
        return tuple(found)

    cdef bint _has_place(self, uint64_t first):
        """Is there room, or a child that was not used once since `first`? One that is busy is not worth replacing."""
        return len(self.children) < self.most or self._oldest(NULL) < first

    cdef uint64_t _oldest(self, vector[int64_t]* shape) except? 0:
        """When the least recently used child was last used; its key to `shape`."""
        cdef uint64_t least = self.requests + 1
        for item in self.by_shape:
            if item.second.child != NULL and item.second.last < least:
                least = item.second.last
                if shape != NULL:
                    shape.assign(item.first.begin(), item.first.end())
        return least

    cdef int _forget_uses(self) except -1:
        cdef cmap[vector[int64_t], RowClass] kept
        for item in self.by_shape:
            if item.second.child != NULL:
                _entry(kept, item.first)[0] = item.second
        self.by_shape.swap(kept)
        return 0

    cdef list add(self, tuple shapes, NativeModel child):
        """Serves these shapes by `child` from now on; the children that had to go for it."""
        cdef vector[int64_t] key, oldest
        cdef list gone = []
        for shape in shapes:
            for length in shape[1:]:
                key.push_back(length)
        while len(self.children) >= self.most:
            self._oldest(&oldest)
            self.by_shape.erase(oldest)  # first of all: it points to the child
            gone.append(self.children.pop(tuple(oldest)))
            self.shapes.pop(tuple(oldest))
        self.children[tuple(key)] = child
        self.shapes[tuple(key)] = shapes
        added = _entry(self.by_shape, key)
        added.child = <PyObject*>child
        added.last = self.requests
        return gone
