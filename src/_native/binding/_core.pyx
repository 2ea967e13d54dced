# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=True, freethreading_compatible=False
# distutils: language = c++
"""The native core's binding: conversion, GIL handling and exceptions only.

    runtime.pxi     Runtime, Graph, Compiled: load time
    convert.pxi     Python's inputs to rows of native memory, and which errors they deserve
    mailbox.pxi     how finished futures reach event loops, callbacks and as_completed
    result.pxi      Result
    future.pxi      Future, and waiting for several
    lease.pxi       Lease
    terms.pxi       what a request asks for beside its rows: priority, deadline, group
    model.pxi       NativeModel
"""

cimport cython
cimport numpy as cnp
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetName, PyCapsule_GetPointer, PyCapsule_IsValid, PyCapsule_New
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy
from libcpp cimport bool as cbool
from libcpp.map cimport map as cmap
from libcpp.memory cimport make_shared, shared_ptr
from libcpp.optional cimport optional
from libcpp.string cimport string
from libcpp.vector cimport vector

from native cimport *

import asyncio
import contextvars
import os
import select
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping

import numpy as np

from ovengine import errors

cnp.import_array()

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1

openvino_version = native_openvino_version().decode()
policy_abi_version = OVENGINE_POLICY_ABI_VERSION

include "runtime.pxi"
include "convert.pxi"
include "mailbox.pxi"
include "result.pxi"
include "future.pxi"
include "lease.pxi"
include "terms.pxi"
include "model.pxi"
