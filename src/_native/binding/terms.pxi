# Terms: what a request asks for beside its rows: priority, deadline, group.

# Groups of one model that are remembered, until those where nobody waits are forgotten.
cdef Py_ssize_t MOST_IDLE_GROUPS = 1024


cdef class _Group:
    cdef shared_ptr[Group] native


cdef int _read_terms(NativeModel model, Terms& terms, object priority, object deadline, object group,
                     bint latest_only) except -1:
    """Checks the arguments of a request. Raises InputError."""
    cdef double seconds
    if priority is not None:
        number = as_integer(priority)
        if number is None or not 1 <= number <= kPriorities:
            raise errors.InputError(
                f"priority is an integer from 1, the highest, to {kPriorities}, not {priority!r}"
            )
        terms.priority = number
    if deadline is not None:
        real = as_real(deadline)
        if real is None:
            raise errors.InputError(f"deadline is a number of seconds from now, not {deadline!r}")
        seconds = real
        terms.deadline_ns = deadline_ns_after(seconds)
    if group is not None:
        terms.group = (<_Group>_group_of(model, group)).native
        terms.latest_only = latest_only
    elif latest_only:
        raise errors.InputError("latest_only says which request of a group is run; name the group with group=")
    return 0


cdef Terms _terms_of(NativeModel child, const Terms& terms, object group) except *:
    """The same for a row class, which has groups of its own."""
    cdef Terms own = terms
    if group is not None:
        own.group = (<_Group>_group_of(child, group)).native
    return own


cdef _Group _group_of(NativeModel model, object key):
    cdef _Group group
    try:
        known = model._groups.get(key)
    except TypeError:
        raise errors.InputError(f"a group is named by something hashable, not by {key!r}") from None
    if known is not None:
        return known
    if len(model._groups) >= model._most_groups:
        idle = [name for name, each in model._groups.items() if (<_Group>each).native.get().approx_waiting() == 0]
        for name in idle:
            del model._groups[name]
        model._most_groups = max(MOST_IDLE_GROUPS, 2 * len(model._groups))
    group = _Group.__new__(_Group)
    group.native = model.core.get().make_group(str(key).encode("utf-8", "surrogatepass"))
    model._groups[key] = group
    return group
