"""`ovengine infer`: run files through a model, many requests in flight."""

from __future__ import annotations

import argparse
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future as ReadFuture
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ovengine
from ovengine._load_generator import default_window
from ovengine.cli._inputs import Reader, Request, add_image_options, find_files, image_options
from ovengine.cli._options import add_model_options, at_least, load_model
from ovengine.cli._outputs import Writer, open_writer
from ovengine.errors import EngineClosed, OvengineError, QueueFull

READERS = min(4, os.cpu_count() or 1)


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], parents: list[argparse.ArgumentParser]
) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "infer",
        help="run files through a model",
        description="Run images, .npy, .npz or directories of these through a model. An array with the model's "
        "rank is a request per row. Results come in the order of the inputs.",
        parents=parents,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "-i", "--input", metavar="INPUT", nargs="+", type=Path, required=True, help="files or directories"
    )
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="FILE.npz or FILE.jsonl (default: JSON lines to standard output)"
    )
    parser.add_argument("--window", metavar="N", type=at_least(1), help="most requests in flight")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    add_image_options(parser)
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command; a file that cannot be read costs a line and the exit status, not the other files."""
    files = find_files(args.input)
    writer = open_writer(args.output)
    with load_model(args) as model:
        reader = Reader(model.inputs, model.plan.mode, image_options(args))
        window = args.window or default_window(model.plan)
        with writer, _Progress(reader, files, quiet=args.quiet) as progress:
            _run_all(model, files, reader, writer, window, progress)
    return 1 if progress.failures else 0


def _run_all(
    model: ovengine.Model, files: list[Path], reader: Reader, writer: Writer, window: int, progress: _Progress
) -> None:
    pending: deque[tuple[Request, ovengine.Future]] = deque()

    def finish_oldest() -> None:
        request, future = pending.popleft()
        try:
            result = future.result()
            writer.write(request, dict(result))
        except OvengineError as error:
            progress.failed(request.source, error)
        else:
            progress.done()

    for request in _read_ahead(files, reader.read, progress.failed):
        if len(pending) == window:
            finish_oldest()
        try:
            while (future := _submit(model, request)) is None:
                finish_oldest()  # makes room
        except EngineClosed:
            raise
        except OvengineError as error:
            progress.failed(request.source, error)
        else:
            pending.append((request, future))
    while pending:
        finish_oldest()


def _submit(model: ovengine.Model, request: Request) -> ovengine.Future | None:
    """None when the queue is full, which only our own requests can fill."""
    try:
        return model.submit(request.inputs)
    except QueueFull:
        return None


def _read_ahead(
    files: Iterable[Path],
    read: Callable[[Path], Iterable[Request]],
    failed: Callable[[str, OvengineError], None],
) -> Iterator[Request]:
    """Yield the requests of all files in order; a few files are read ahead, in threads."""
    reading: deque[tuple[Path, ReadFuture[Iterable[Request]]]] = deque()

    def finish_oldest() -> Iterable[Request]:
        path, future = reading.popleft()
        try:
            return future.result()
        except OvengineError as error:
            failed(str(path), error)
            return ()

    with ThreadPoolExecutor(READERS, thread_name_prefix="ovengine-read") as threads:
        for path in files:
            if len(reading) == 2 * READERS:
                yield from finish_oldest()
            reading.append((path, threads.submit(read, path)))
        while reading:
            yield from finish_oldest()


class _Progress:
    """A progress bar on standard error where that is a terminal, and lines about failures."""

    def __init__(self, reader: Reader, files: list[Path], *, quiet: bool) -> None:
        counts = [reader.count(path) for path in files]
        self._total = None if None in counts else sum(count for count in counts if count is not None)
        self._quiet = quiet
        self.failures = 0

    def __enter__(self) -> _Progress:
        from tqdm import tqdm

        # disable=None: not where standard error is no terminal.
        self._bar: Any = tqdm(total=self._total, unit="req", disable=True if self._quiet else None, file=sys.stderr)
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.close()

    def done(self) -> None:
        """Count one result."""
        self._bar.update()

    def failed(self, source: str, error: OvengineError) -> None:
        """Report one failure."""
        self.failures += 1
        text = " ".join(str(error).split())
        self._bar.write(f"ovengine: {text if source in text else f'{source}: {text}'}", file=sys.stderr)
