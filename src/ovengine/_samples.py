"""The caller's own requests as inputs of trial runs: for models whose valid values the graph does not tell."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ovengine._core import request_arrays
from ovengine._values import Draw, InputValues, Values
from ovengine.errors import ConfigError, InputError, InputTypeError

if TYPE_CHECKING:
    from ovengine._core import Port

Array = np.ndarray[Any, Any]
# By input: the rows of all requests along the first axis, or what they share.
Group = list[Array]

# More tell no more, and all of them are kept while a model is prepared.
MOST_REQUESTS = 256
# Different contents of shared inputs that are tried.
MOST_GROUPS = 3


class Samples:
    """Requests, one array for each input."""

    def __init__(self, requests: Sequence[Sequence[Array]]) -> None:
        self._requests = requests

    @classmethod
    def read(cls, given: Any, ports: Sequence[Port]) -> Samples | None:
        """Copies of what `load` was given: requests as `submit` takes them, or one that is a mapping or an array.

        Raises ConfigError where they do not fit the inputs; of their shapes, `check` says that.
        """
        if given is None:
            return None
        one = isinstance(given, Mapping) or (isinstance(given, np.ndarray) and len(ports) == 1)
        if not one and (isinstance(given, (str, bytes)) or not isinstance(given, Iterable)):
            raise ConfigError(f"samples must be a list of requests as `submit` takes them, not {type(given).__name__}")
        found = []
        for index, request in enumerate([given] if one else itertools.islice(given, MOST_REQUESTS)):
            try:
                found.append(request_arrays(request, ports))
            except (InputError, InputTypeError) as error:
                raise ConfigError(f"samples[{index}]: {error}") from None
        if not found:
            raise ConfigError("samples must have at least one request")
        return cls(found)

    @property
    def digest(self) -> str:
        """A hash of them all."""
        found = hashlib.sha256()
        for request in self._requests:
            for array in request:
                found.update(f"{array.shape} {array.dtype}".encode())
                found.update(array.tobytes())
        return found.hexdigest()

    def check(self, ports: Sequence[Port], axes: Sequence[int | None] | None) -> None:
        """Raise ConfigError for one whose shape no request may have; the arguments are those of `groups`."""
        for index, request in enumerate(self._requests):
            if not (_fits(request, ports) if axes is None else _rows(request, ports, axes)):
                given = ", ".join(f"{port.name} {list(a.shape)}" for port, a in zip(ports, request, strict=True))
                takes = ", ".join(
                    f"{port.name} [{', '.join(_spelled(port, axis))}]"
                    for port, axis in zip(ports, axes or [None] * len(ports), strict=True)
                )
                raise ConfigError(f"samples[{index}] has the shapes {given}; the model takes {takes}")

    def groups(self, ports: Sequence[Port], axes: Sequence[int | None] | None) -> list[Group]:
        """Rows that can be put together: those of requests that have the shapes of `ports` and share the same.

        Args:
            ports: inputs of the model for any number of rows, their batch axis first.
            axes: where it is in the requests; None for an input that rows share. Without axes a group is a request.
        """
        if axes is None:
            return [list(request) for request in self._requests if _fits(request, ports)]
        found: dict[tuple[bytes, ...], list[list[Array]]] = {}
        for request in self._requests:
            rows = _rows(request, ports, axes)
            if rows is not None:
                shared = tuple(array.tobytes() for array, axis in zip(rows, axes, strict=True) if axis is None)
                found.setdefault(shared, []).append(rows)
        return [
            [
                arrays[0] if axis is None else np.concatenate(arrays)
                for arrays, axis in zip(zip(*requests, strict=True), axes, strict=True)
            ]
            for requests in found.values()
        ]


class SampledValues(Values):
    """Rows of samples, in any order; where the graph tells that any are valid, made-up ones as well."""

    def __init__(self, made_up: Values, groups: Sequence[Group], inputs: int) -> None:
        known = [made_up[index] for index in range(inputs)]
        super().__init__([one._replace(unknown="") for one in known])
        self._made_up = made_up
        self._groups = groups[:MOST_GROUPS]
        self._follows = [bool(one.unknown) or not one.free for one in known]

    def draws(self, shared: Sequence[bool]) -> Iterator[tuple[Draw, bool]]:
        """First of samples, which the model has to take."""
        rng = np.random.default_rng(0)
        for group in self._groups:
            yield lambda ports, group=group: _drawn(rng, group, ports, shared), True  # type: ignore[misc]
        if self._made_up.unknown is None:
            yield from self._made_up.draws(shared)

    def spoilt(self, arrays: Iterable[Array]) -> list[Array]:
        """What an operator relies on is a row of another sample instead."""
        arrays = list(arrays)
        return self._others(arrays, super().spoilt(arrays))

    def empty(self, arrays: Iterable[Array]) -> list[Array]:
        """As `spoilt`."""
        arrays = list(arrays)
        return self._others(arrays, super().empty(arrays))

    def to_measure(self, ports: Sequence[Port]) -> list[Array]:
        """Rows of samples."""
        return self.some(np.random.default_rng(0), ports)

    def some(self, rng: np.random.Generator, ports: Sequence[Port]) -> list[Array]:
        """As many rows of samples as the ports have; where these are dynamic, a sample."""
        group = self._groups[0]
        as_it_is = [
            array.shape == port.shape or -1 in (port.shape or ()) for array, port in zip(group, ports, strict=True)
        ]
        return _drawn(rng, group, ports, as_it_is)

    def _others(self, arrays: Sequence[Array], changed: Sequence[Array]) -> list[Array]:
        return [
            np.roll(array, 1, axis=0) if follows and array.ndim else other
            for array, other, follows in zip(arrays, changed, self._follows, strict=True)
        ]


NOTHING_KNOWN = InputValues(-np.inf, np.inf, False, True, "an operator")
"""Of an input of a model that nobody can look into."""


def _fits(request: Sequence[Array], ports: Sequence[Port]) -> bool:
    return all(
        port.shape is not None
        and len(port.shape) == array.ndim
        and all(wanted in (-1, length) for wanted, length in zip(port.shape, array.shape, strict=True))
        for array, port in zip(request, ports, strict=True)
    )


def _spelled(port: Port, axis: int | None) -> list[str]:
    """Its shape with `n` rows at an axis; `port` has them at the first."""
    shape = ["?" if length < 0 else str(length) for length in port.shape or ()]
    return shape if axis is None else [*shape[1 : axis + 1], "n", *shape[axis + 1 :]]


def _rows(request: Sequence[Array], ports: Sequence[Port], axes: Sequence[int | None]) -> list[Array] | None:
    """The batch axis first, as in `ports`; None where the shapes do not fit."""
    found: list[Array] = []
    counts = set()
    for array, port, axis in zip(request, ports, axes, strict=True):
        shape = port.shape or ()
        if axis is None:
            if array.shape != shape:
                return None
            found.append(array)
            continue
        if array.ndim not in (len(shape), len(shape) - 1):
            return None
        # A row alone may come without a batch axis, as in `submit`.
        rows = array[None] if array.ndim == len(shape) - 1 else np.moveaxis(array, axis, 0)
        if rows.shape[1:] != shape[1:]:
            return None
        counts.add(len(rows))
        found.append(rows)
    return found if len(counts) == 1 and 0 not in counts else None


def _drawn(rng: np.random.Generator, group: Group, ports: Sequence[Port], shared: Sequence[bool]) -> list[Array]:
    """As many rows as the ports have: all that there are, in another order each time, and then again."""
    counts = [len(array) for array, is_shared in zip(group, shared, strict=True) if not is_shared]
    order = rng.permutation(min(counts, default=0))
    return [
        array if is_shared else np.ascontiguousarray(array[np.resize(order, (port.shape or (1,))[0])])
        for array, port, is_shared in zip(group, ports, shared, strict=True)
    ]
