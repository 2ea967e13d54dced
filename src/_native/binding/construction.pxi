# Classes whose objects only the binding makes. Python cannot call `__new__` of these, so that it never has an object
# without its native half.

cdef extern from *:
    """
    // For calls of the class, and of its __new__. The binding calls the C function that these slots had before.
    static void ovengine_forbid_new(PyTypeObject* type, newfunc refuse) {
        type->tp_new = refuse;
        type->tp_vectorcall = NULL;
        PyType_Modified(type);
    }
    """
    void _forbid_new "ovengine_forbid_new"(PyTypeObject* type, newfunc refuse)

_COMES_FROM = {
    Future: "model.submit(), ainfer() or lease.submit()",
    Result: "infer(), result() or await",
    Lease: "model.lease()",
    Session: "model.session()",
    Graph: "Runtime.read_model, read_model_bytes or adopt",
    Compiled: "Runtime.compile or import_blob",
}


cdef object _refuse_new(type cls, PyObject* args, PyObject* kwargs):
    for base in cls.__mro__:
        if base in _COMES_FROM:
            raise TypeError(f"a {base.__name__} comes from {_COMES_FROM[base]}")
    raise TypeError(f"a {cls.__name__} is made by ovengine alone")


cdef _forbid_construction():
    internal = (
        PortSpec, _Text, _Mailbox, _LoopMailbox, _CallbackMailbox, _Buckets, _Outputs, _Lingering, _Awaiter,
        _LeasedRows, _Group, _Tally, _RowClasses,
    )
    for each in (*_COMES_FROM, *internal):
        _forbid_new(<PyTypeObject*>each, <newfunc>_refuse_new)


_forbid_construction()
