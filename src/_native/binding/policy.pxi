# A scheduler policy: the name of a built-in kind, or a plugin's capsule.


cdef void _release_capsule(void* owner) noexcept nogil:
    with gil:
        Py_DECREF(<object>owner)


cdef _set_policy(Builder* builder, object policy):
    cdef ovengine_policy* native
    if isinstance(policy, str):
        if policy not in ("priority", "round_robin"):
            raise errors.PluginError(f"no built-in scheduler kind {policy!r}; there are priority and round_robin")
        builder.set_policy(_utf8(policy))
        return
    if not PyCapsule_IsValid(policy, OVENGINE_POLICY_CAPSULE):
        raise errors.PluginError(
            f"a native policy is a PyCapsule named {OVENGINE_POLICY_CAPSULE.decode()!r}, not {policy!r}"
        )
    native = <ovengine_policy*>PyCapsule_GetPointer(policy, OVENGINE_POLICY_CAPSULE)
    if native.abi_version != OVENGINE_POLICY_ABI_VERSION or native.struct_size < OVENGINE_POLICY_LEAST_SIZE:
        raise errors.PluginError(
            f"the policy was built for ABI {native.abi_version} ({native.struct_size} bytes), this ovengine has "
            f"ABI {OVENGINE_POLICY_ABI_VERSION} (from {OVENGINE_POLICY_LEAST_SIZE} bytes); build the plugin again"
        )
    if native.select_lane == NULL:
        raise errors.PluginError("the native policy has no select_lane function; set it in the struct")
    Py_INCREF(policy)
    builder.set_native_policy(native, _release_capsule, <void*><PyObject*>policy)
