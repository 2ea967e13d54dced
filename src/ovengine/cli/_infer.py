"""`ovengine infer`: run files through a model, many requests in flight."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future as ReadFuture
from concurrent.futures import ThreadPoolExecutor

import ovengine
from ovengine._load_generator import default_window
from ovengine.cli._failures import Failures
from ovengine.cli._files import Source, check_writable, find_sources
from ovengine.cli._inputs import Reader, Request
from ovengine.cli._options import add_model_options, at_least, load_model
from ovengine.cli._outputs import Writer, make_writer
from ovengine.cli._pictures import add_image_options, image_options
from ovengine.cli._progress import Progress
from ovengine.errors import EngineClosed, InputError, OvengineError, QueueFull

READERS = min(4, os.cpu_count() or 1)
# Beyond that, files are not looked into only to count their rows.
MOST_COUNTED = 1000


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
        "-i", "--input", metavar="INPUT", nargs="+", action="extend", required=True, help="files or directories"
    )
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="FILE.npz or FILE.jsonl (default: JSON lines to standard output)"
    )
    parser.add_argument("--window", metavar="N", type=at_least(1), help="most requests in flight")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
    add_image_options(parser)
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command; a file that cannot be read costs a line and the exit status, not the other files."""
    sources = find_sources(args.input)
    writer = make_writer(args.output)
    if writer.path is not None:
        check_writable([writer.path])
    with Progress(quiet=args.quiet) as progress, contextlib.ExitStack() as stack:
        model = load_model(args, progress)
        # After a Ctrl-C, too, nothing is waited for that nobody will see.
        stack.callback(model.close, 0)
        reader = Reader(model.plan, image_options(args))
        failures = Failures(progress.say)
        stack.callback(failures.report)
        with contextlib.suppress(InputError):  # told of each picture when it is read
            if advice := reader.advice(sources[0]):
                progress.say(advice)
        progress.stage(f"running {model.name}", _total(reader, sources), "requests")
        stack.enter_context(writer)
        window = args.window or default_window(model.plan)
        _run_all(model, _read_ahead(sources, reader.read, failures), writer, window, progress, failures)
    return 1 if failures.count else 0


def _total(reader: Reader, sources: list[Source]) -> int | None:
    if len(sources) > MOST_COUNTED:
        return None
    counts = [reader.count(source) for source in sources]
    return None if None in counts else sum(filter(None, counts))


def _run_all(
    model: ovengine.Model,
    requests: Iterable[Request],
    writer: Writer,
    window: int,
    progress: Progress,
    failures: Failures,
) -> None:
    pending: deque[tuple[Request, ovengine.Future]] = deque()

    def finish_oldest() -> None:
        request, future = pending.popleft()
        try:
            result = future.result()
        except OvengineError as error:
            failures.add(request.name, error)
        else:
            writer.write(request, dict(result))
        progress.advance()

    for request in requests:
        if len(pending) == window:
            finish_oldest()
        try:
            while (future := _submit(model, request)) is None:
                finish_oldest()  # makes room
        except EngineClosed:
            raise
        except OvengineError as error:
            failures.add(request.name, error)
            progress.advance()
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
    sources: Iterable[Source], read: Callable[[Source], Iterable[Request]], failures: Failures
) -> Iterator[Request]:
    """Yield all requests in the order of the sources; a few of these are read ahead, in threads."""
    reading: deque[tuple[Source, ReadFuture[Iterable[Request]]]] = deque()

    def finish_oldest() -> Iterable[Request]:
        source, future = reading.popleft()
        try:
            return future.result()
        except OvengineError as error:
            failures.add(str(source), error)
            return ()

    threads = ThreadPoolExecutor(READERS, thread_name_prefix="ovengine-read")
    try:
        for source in sources:
            if len(reading) == 2 * READERS:
                yield from finish_oldest()
            reading.append((source, threads.submit(read, source)))
        while reading:
            yield from finish_oldest()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
