"""The requests that `ovengine bench` sends: from files, or random ones."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import chain, cycle, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ovengine._core import port_keys
from ovengine._load_generator import Inputs, make_data
from ovengine.cli._files import find_sources
from ovengine.cli._inputs import Reader
from ovengine.cli._pictures import image_options
from ovengine.errors import InputError

if TYPE_CHECKING:
    from ovengine.plan import Plan

# Of the files; all of them are in memory while the clock runs.
MOST_REQUESTS = 1024


def bench_data(args: argparse.Namespace, plan: Plan) -> list[Inputs]:
    """Requests, which are sent over and over in this order. Raises InputError."""
    if args.input:
        return _from_files(args, plan)
    # The shapes of a sequence take turns.
    groups = [make_data(plan, args.batch, shape, args.seed) for shape in args.data_shape or [None]]
    return [request for turn in zip(*groups, strict=True) for request in turn]


def mean_rows(data: Sequence[Inputs], plan: Plan) -> float:
    """Rows of a request, on average; 1 where the model takes no rows."""
    axes = [tensor.batch_axis if plan.mode == "rows" else None for tensor in plan.inputs]
    counts = [
        [array.shape[axis] for array, axis in zip(request.values(), axes, strict=True) if axis is not None]
        for request in data
    ]
    return float(np.mean([rows[0] for rows in counts])) if counts[0] else 1.0


def _from_files(args: argparse.Namespace, plan: Plan) -> list[Inputs]:
    reader = Reader(plan, image_options(args))
    rows_each = args.batch or 1
    if rows_each > 1 and plan.mode != "rows":
        raise InputError(
            f"-b {rows_each}: the model takes no rows (mode {plan.mode}); -shape gives it another batch size"
        )
    found = chain.from_iterable(reader.read(source) for source in find_sources(args.input))
    rows = [request.inputs for request in islice(found, MOST_REQUESTS * rows_each)]
    if not rows:
        raise InputError("-i: there are no rows in these files")
    missing = [tensor.name for tensor in plan.inputs if not any(name in rows[0] for name in tensor.names)]
    # As benchmark_app does.
    others = make_data(plan, rows_each, None, args.seed)[0] if missing else {}
    if plan.mode != "rows":
        return [_complete(row, plan, others) for row in rows]
    # The last request is filled up with the first rows.
    endless = cycle(rows)
    requests = -(-len(rows) // rows_each)
    return [_complete(_together(list(islice(endless, rows_each)), plan), plan, others) for _ in range(requests)]


def _together(rows: Sequence[Mapping[str, Any]], plan: Plan) -> dict[str, Any]:
    """Rows as one request, with a batch axis."""
    tensors = {name: tensor for tensor in plan.inputs for name in tensor.names}
    request = {}
    for name in rows[0]:
        axis, shape = tensors[name].batch_axis, tensors[name].shape or ()
        if axis is None:
            request[name] = rows[0][name]
            continue
        arrays = [np.asarray(row[name]) for row in rows]
        wanted = (*shape[:axis], *shape[axis + 1 :])
        if wrong := [array.shape for array in arrays if array.shape != wanted]:
            raise InputError(f"-i: a row has shape {wrong[0]}, and input {tensors[name]} takes {wanted}")
        request[name] = np.stack(arrays, axis)
    return request


def _complete(request: Mapping[str, Any], plan: Plan, others: Inputs) -> Inputs:
    """In the order of the inputs, by their keys; what no file gives, from `others`."""
    found = {}
    for key, tensor in zip(port_keys(plan.inputs), plan.inputs, strict=True):
        name = next((name for name in tensor.names if name in request), None)
        found[key] = others[key] if name is None else np.asarray(request[name])
    return found
