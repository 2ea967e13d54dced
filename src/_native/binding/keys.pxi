# Keys of shared inputs.

# Different contents of shared inputs that are told apart at a time.
cdef enum:
    KEYS = 256


cdef uint64_t _key(NativeModel model, list arrays):
    """Only requests with equal shared inputs, byte for byte, share a batch; 0 where there are none."""
    cdef cnp.ndarray array
    cdef PortSpec spec
    if not model._has_shared:
        return 0
    shared = [_contiguous(array, spec).tobytes() for array, spec in zip(arrays, model._inputs) if spec.shared]
    content = shared[0] if len(shared) == 1 else tuple(shared)
    key = model._keys.get(content)
    if key is None:
        # Forgotten now and then: what comes again gets another key, and no key is used for two contents.
        if len(model._keys) >= KEYS:
            model._keys.clear()
        key = model._keys[content] = model._next_key
        model._next_key += 1
    return key
