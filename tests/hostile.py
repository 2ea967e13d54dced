"""Objects and values that no caller should pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import strategies as st

from support import Array


class Mischief(Exception):
    """Raised by objects that are asked for anything."""


# -- objects ----------------------------------------------------------------------------------------------------------


class Raises:
    """Raises whatever it is asked."""

    def _raise(self, *args: Any, **kwargs: Any) -> Any:
        raise Mischief

    __array__ = __index__ = __len__ = __getitem__ = __iter__ = __float__ = __int__ = _raise
    __hash__ = __eq__ = __bool__ = __lt__ = __gt__ = _raise
    get_element_type = get_names = __call__ = _raise


class Becomes:
    """Says that it is an array, and is something else."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.value


class Sized:
    """A sequence of another length than it says."""

    def __init__(self, says: int) -> None:
        self.says = says

    def __len__(self) -> int:
        return self.says

    def __getitem__(self, index: int) -> float:
        if index > 5:
            raise IndexError
        return 1.0


class Pair(list[Any]):
    """A list that iterates over other values than it holds."""

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[Any]:
        return iter([np.zeros(4, np.float32)] * 3)


class LyingInt(int):
    """An integer that is in every range."""

    def __lt__(self, other: object) -> bool:
        return True

    __le__ = __gt__ = __ge__ = __lt__


class Unhashable(str):
    """A name that cannot be looked up."""

    def __hash__(self) -> int:
        raise Mischief

    def __eq__(self, other: object) -> bool:
        raise Mischief


class Tensor:
    """Has what an `openvino.Tensor` has, and makes no sense."""

    def __init__(self, kind: Any, data: Any, shape: Any) -> None:
        self.kind, self.data, self.shape = kind, data, shape
        self.bytes_data = data

    def get_element_type(self) -> Tensor:
        return self

    def get_type_name(self) -> Any:
        return self.kind

    def get_size(self) -> int:
        return 3

    def get_shape(self) -> Any:
        return self.shape


class Contrary(np.ndarray[Any, Any]):
    """A subclass that does not do what NumPy's functions ask for."""

    tensor_shape = (10**6,)

    def __array_finalize__(self, obj: Any) -> None:
        pass

    def __array_function__(self, *args: Any, **kwargs: Any) -> Any:
        return None

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, int):
            raise IndexError
        return None


class Items(Mapping[Any, Any]):
    """A mapping of any pairs."""

    def __init__(self, *pairs: Any) -> None:
        self.pairs = pairs

    def __getitem__(self, key: Any) -> Any:
        raise KeyError(key)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return -1

    def items(self) -> Any:
        return iter(self.pairs)


class Changes:
    """Changes another array when it is asked for its own."""

    def __init__(self, array: Array, how: str) -> None:
        self.array, self.how = array, how

    def __array__(self, *args: Any, **kwargs: Any) -> Array:
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            if self.how == "grow":
                self.array.resize((1 << 18,), refcheck=False)
            elif self.how == "shape":
                self.array.shape = (self.array.size, 1, 1)
            else:
                self.array.dtype = np.dtype("u1")  # type: ignore[misc]
        return np.ones((3, 2, 2), np.int32)


# -- values -----------------------------------------------------------------------------------------------------------

DTYPES = [
    "f4",
    "f4",
    "f4",
    ">f4",
    "f8",
    "f2",
    "i1",
    "u1",
    "i4",
    "i8",
    "u8",
    "?",
    "c8",
    "S3",
    "U2",
    "O",
    "V8",
    "M8[s]",
    "m8[s]",
    "g",
]
LAYOUTS = ["plain", "plain", "order", "reversed", "stepped", "repeated", "locked", "odd", "matrix", "masked", "own"]
SHAPES = [(4,), (1, 4), (3, 4), (3, 3), (3, 2, 2), (2, 2), (0, 4), (), (1, 0, 0, 2, 3), (5, 4, 3, 2, 1)]


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    """Of all dtypes, ranks and layouts, also without elements; none is large."""
    shape, dtype = draw(st.sampled_from(SHAPES)), draw(st.sampled_from(DTYPES))
    array: Array = np.zeros(shape, dtype) if dtype == "V8" else np.ones(shape, "i1").astype(dtype)
    layout = draw(st.sampled_from(LAYOUTS))
    with contextlib.suppress(ValueError, TypeError, IndexError):
        return laid_out(array, layout)
    return array


def laid_out(array: Array, layout: str) -> Array:
    """The same elements in another order, or in an array of another class."""
    if layout == "order":
        return np.asfortranarray(array)
    if layout == "reversed":
        return array[..., ::-1]
    if layout == "stepped":
        return np.repeat(array, 2, axis=-1)[..., ::2]
    if layout == "repeated":
        return np.broadcast_to(array[..., None], (*array.shape, 4))
    if layout == "odd":  # not aligned
        return np.frombuffer(b"\0" + array.tobytes(), array.dtype, offset=1).reshape(array.shape)
    if layout == "matrix":
        return np.matrix(array)
    if layout == "masked":
        return np.ma.masked_array(array, mask=True)
    if layout == "own":
        return array.view(Contrary)
    array.flags.writeable = layout != "locked"
    return array


HUGE = [np.broadcast_to(np.float32(1), (1 << 40, 4)), np.broadcast_to(np.float32(1), (4, 1 << 40))]


def numbers() -> list[Any]:
    """Numbers of all kinds and sizes, and what is none."""
    large = [1 << 31, 1 << 32, 1 << 63, 1 << 64, -(1 << 63) - 1, 10**400]
    floats = [0.5, -0.0, 1e-300, 1e300, float("nan"), float("inf"), -float("inf")]
    of_numpy = [np.int8(-3), np.uint64(1 << 63), np.float16(1), np.bool_(True), np.datetime64("NaT"), np.zeros(3)]
    lying = [LyingInt(1 << 40), LyingInt(-(1 << 40)), Fraction(1, 3), Raises(), "1", b"1", [], 1j]
    return [None, True, 0, 1, 2, 5, -1, *large, *floats, *of_numpy, *lying]


def keys() -> list[Any]:
    """Names, indices and ports, and what is none."""
    names = ["x", "a", "b", "y", "total", "scaled", "none", "", "\udcff", b"x", Unhashable("x")]
    indices = [0, 1, -1, 7, 1 << 63, -(1 << 64), LyingInt(1 << 40), LyingInt(-5), np.int64(1), np.uint64(1 << 63), 0.0]
    return [*names, *indices, None, (), [], {}, Raises(), Tensor("f32", None, ()), slice(None)]


def others() -> list[Any]:
    """Objects that are no arrays, or only say so."""
    plain, a, b = np.ones(4, np.float32), np.ones((3, 3), np.float32), np.ones((3, 2, 2), np.int32)
    sequences = [Pair(), Sized(-1), Sized(1 << 62), Sized(4), object(), iter([]), (i for i in [1]), memoryview(b"abcd")]
    lists = [[plain, plain], [a, b], [[[[1]]]], [[1, 2], [3]], [10**400] * 4, ["a", "b"], [None] * 4]
    items = [Items(), Items(1), Items((0, plain)), Items((0, plain), (0, plain)), Items(("a", a), ("b", None))]
    mappings = [*items, {"x": plain}, {0: a, 1: a}, {LyingInt(9): a}, plain.__array_interface__]
    become = [Becomes(value) for value in (None, 5, [1], plain, a, HUGE[0], Raises())]
    kinds = ["f32", "i32", "u4", "string", "bf16", None, 5]
    datas = [None, plain, np.ones(2, np.uint8), "text", np.array(["a", None], object), plain.view(Contrary)]
    shapes = [None, (4,), (1 << 40, 1 << 40), (-4,), ("4",), 3]
    tensors = [Tensor(kind, data, shape) for kind in kinds for data in datas for shape in shapes]
    changing = [[own := np.ones((3, 3), np.float32), Changes(own, how)] for how in ("grow", "shape", "dtype")]
    return [*numbers(), *keys(), *HUGE, *sequences, *lists, *mappings, *become, *tensors, *changing]


def one_of(make: Callable[[], list[Any]]) -> st.SearchStrategy[Any]:
    """One of these, by its index: Hypothesis would compare and hash the objects themselves."""
    return st.integers(0, len(make()) - 1).map(lambda index: make()[index])


def inputs() -> st.SearchStrategy[Any]:
    """What is passed as the inputs of a request."""
    one = st.one_of(arrays(), arrays(), one_of(others))
    return st.one_of(one, one, st.tuples(one, one), st.fixed_dictionaries({"a": one, "b": one}))
