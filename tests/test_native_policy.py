"""A native policy's struct, made by hand: how long it is held, and when it is destroyed."""

from __future__ import annotations

import ctypes
import gc

import numpy as np
import pytest

import ovengine
from ovengine.testing import fake_model
from support import wait_until

ROW = np.zeros(4, np.float32)
ABI_VERSION = 1
ANY_LANE = -1
SELECT = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)
DESTROY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Struct(ctypes.Structure):
    """`struct ovengine_policy`."""

    _fields_ = [  # ctypes wants a list
        ("abi_version", ctypes.c_uint32),
        ("struct_size", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("select_lane", SELECT),
        ("destroy", DESTROY),
        ("group_weight", ctypes.c_void_p),
    ]


class Policy:
    """A policy that any lane will do for; counts how often it was destroyed, and with what."""

    def __init__(self, abi_version: int = ABI_VERSION) -> None:
        self.destroyed: list[int] = []
        size = ctypes.sizeof(Struct)
        select, destroy = SELECT(lambda *_: ANY_LANE), DESTROY(self.destroyed.append)
        self.struct = Struct(abi_version, size, 42, select, destroy)

    def capsule(self) -> object:
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return new(ctypes.addressof(self.struct), b"ovengine.policy", None)


def test_destroy_is_called_once_when_the_last_model_is_gone() -> None:
    policy = Policy()
    with fake_model((1,), lanes=2, policy=policy.capsule()) as first:
        assert (first(ROW)["y"] == 1).all()
        with fake_model((1,), lanes=2, policy=policy.capsule()) as second:
            assert (second(ROW)["y"] == 1).all()
        del second
        gc.collect()
        assert (first(ROW)["y"] == 1).all()
        assert policy.destroyed == []
    assert policy.destroyed == []  # closed, but still there to be asked for its figures
    del first
    gc.collect()
    wait_until(lambda: policy.destroyed)
    assert policy.destroyed == [42]


def test_each_policy_is_destroyed_with_its_own_models() -> None:
    policies = [Policy() for _ in range(3)]
    for policy in policies:
        with fake_model((1,), policy=policy.capsule()) as model:
            model(ROW)
        del model
        gc.collect()
        wait_until(lambda policy=policy: policy.destroyed)  # type: ignore[misc]  # a default argument
    assert [policy.destroyed for policy in policies] == [[42]] * 3


def test_a_policy_that_is_refused_is_not_destroyed() -> None:
    policy = Policy(abi_version=2)
    with pytest.raises(ovengine.PluginError, match="built for ABI 2"):
        fake_model((1,), policy=policy.capsule())
    gc.collect()
    assert policy.destroyed == []
