# cython: language_level=3, wraparound=False, nonecheck=True, freethreading_compatible=False
# cython: auto_pickle=False, autotestdict=False
# distutils: language = c++
"""The native core's binding: conversion, GIL handling and exceptions only.

    ports.pxi       what inputs and outputs take, and which one a key means
    adopted.pxi     the C++ objects in those of the openvino package
    runtime.pxi     Runtime, Graph, Compiled: load time
    element.pxi     elements that NumPy does not have
    convert.pxi     Python's inputs to rows of native memory, and which errors they deserve
    mailbox.pxi     how finished futures reach event loops, callbacks and as_completed
    buckets.pxi     padding, and cutting back
    result.pxi      Result
    future.pxi      Future, and waiting for several
    awaiter.pxi     what `await future` is to a task
    refusals.pxi    what callers are told whose request is not accepted
    keys.pxi        requests whose shared inputs are equal
    policy.pxi      scheduler policies of plugins
    lease.pxi       Lease
    terms.pxi       what a request asks for beside its rows: priority, deadline, group
    session.pxi     Session, and its state
    own_request.pxi OwnRequest, for ovengine.compat
    stats.pxi       figures of a model and its row classes, and debug_counters
    row_classes.pxi which child model serves which shape
    model.pxi       NativeModel
    construction.pxi which objects Python cannot make
"""

# Classes whose __dealloc__ uses members are `no_gc_clear`, so that the members are still there. Every cycle through
# them has a dict, a list or an instance as well, where it is broken.
cimport cython
cimport numpy as cnp
from cpython.object cimport PyObject, PyTypeObject, newfunc
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid, PyCapsule_New
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport errno
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
import collections
import contextvars
import gc
import itertools
import logging
import math
import os
import select
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping

import numpy as np

from ovengine import errors
from ovengine._numbers import as_integer, as_real

cnp.import_array()

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1
    void PyObject_GC_Track(object)
    void PyObject_GC_UnTrack(object)

_logger = logging.getLogger("ovengine")
openvino_version = native_openvino_version().decode()
policy_abi_version = OVENGINE_POLICY_ABI_VERSION

include "ports.pxi"
include "adopted.pxi"
include "runtime.pxi"
include "convert.pxi"
include "element.pxi"
include "mailbox.pxi"
include "buckets.pxi"
include "result.pxi"
include "future.pxi"
include "awaiter.pxi"
include "refusals.pxi"
include "keys.pxi"
include "policy.pxi"
include "lease.pxi"
include "terms.pxi"
include "session.pxi"
include "own_request.pxi"
include "stats.pxi"
include "row_classes.pxi"
include "model.pxi"
include "construction.pxi"
