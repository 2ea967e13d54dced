# Objects of OpenVINO's own Python package, and the C++ objects in them.

cdef extern from *:
    """
    #include <typeinfo>
    static const char* const ovengine_type_info_name = typeid(std::type_info).name();
    static const char* ovengine_name_of(const void* type) { return static_cast<const std::type_info*>(type)->name(); }

    // The ABI that this file is compiled for, as pybind11 spells it.
    #define OVENGINE_TEXT_OF(value) #value
    #define OVENGINE_TEXT(value) OVENGINE_TEXT_OF(value)
    static const char* const ovengine_abi =
        "system_libstdcpp_gxx_abi_1xxx_use_cxx11_abi_" OVENGINE_TEXT(_GLIBCXX_USE_CXX11_ABI);
    """
    const char* _type_info_name "ovengine_type_info_name"
    const char* _name_of "ovengine_name_of"(const void* type_info)
    const char* _abi "ovengine_abi"

# pybind11 classes whose objects are known to be of this release.
cdef set _known_types = set()


cdef void* _address(object model, const void* type_info, str kind) except NULL:
    """Of the C++ object in `model`, by pybind11's conduit: it gives the address to those who were built for the same
    ABI and name the exact type. Raises ModelError for any other object, and for one of another OpenVINO release."""
    cdef const char* name = _name_of(type_info)
    owner = next((base for base in type(model).__mro__ if "_pybind11_conduit_v1_" in vars(base)), None)
    if owner is None:
        raise errors.ModelError(f"{type(model).__name__} is not an {kind}")
    if owner not in _known_types:
        _check_release(owner)
        _known_types.add(owner)
    asked = PyCapsule_New(<void*>type_info, _type_info_name, NULL)
    capsule = model._pybind11_conduit_v1_(<bytes>_abi, asked, b"raw_pointer_ephemeral")
    if not PyCapsule_IsValid(capsule, name):
        raise errors.ModelError(
            f"{type(model).__name__} is not an {kind}, or was compiled for another C++ ABI than this ovengine"
        )
    return PyCapsule_GetPointer(capsule, name)


cdef int _check_release(object owner) except -1:
    """Objects of two releases differ in how they lie in memory."""
    module = sys.modules.get(owner.__module__)
    try:
        release = str(module.get_version())
    except AttributeError:
        raise errors.ModelError(
            f"{owner.__module__}.{owner.__qualname__} is not a class of the openvino package"
        ) from None
    if release != openvino_version:
        raise errors.ModelError(
            f"the object belongs to OpenVINO {release}, and this ovengine was built for OpenVINO {openvino_version}; "
            "install that release of the openvino package, or save the model and load its file"
        )
    return 0
