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
from ovengine.cli._config_files import settings
from ovengine.cli._failures import Failures
from ovengine.cli._files import Source, check_writable, find_sources
from ovengine.cli._inputs import Reader, Request
from ovengine.cli._model_source import ModelSource, load_model
from ovengine.cli._options import add_engine_options, add_preprocessing_options, add_source_options
from ovengine.cli._outputs import Writer, make_writer
from ovengine.cli._parser import EXIT_STATUS, Parser
from ovengine.cli._pictures import add_image_options, image_options
from ovengine.cli._progress import Progress
from ovengine.cli._types import at_least
from ovengine.errors import EngineClosed, InputError, OvengineError, QueueFull

READERS = min(4, os.cpu_count() or 1)
# Beyond that, files are not looked into only to count their rows.
MOST_COUNTED = 1000


DESCRIPTION = """\
Run pictures, .npy, .npz and raw .bin files through a model, many requests in flight. A file of n rows gives n \
results. Results come in the order of the inputs, as JSON lines on standard output or in a file.\
"""

EPILOG = """\
A file that cannot be read or run costs a line on standard error, and exit status 1; the others are run all the same. \
After Ctrl-C or an error the results so far are there.

example:
  ovengine infer -m model.xml -i pictures/ -o results.npz
"""


def add_command(commands: argparse._SubParsersAction[Parser], parents: list[Parser]) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "infer",
        help="run files through a model",
        usage="ovengine infer -m MODEL -i INPUT... [options]",
        description=DESCRIPTION,
        epilog=EPILOG + EXIT_STATUS,
        parents=parents,
    )
    parser.set_defaults(run=run, parser=parser)
    files = parser.add_argument_group("input and output")
    files.add_argument(
        "-i",
        "--input",
        "--paths_to_input",
        dest="input",
        metavar="INPUT",
        nargs="+",
        action="extend",
        required=True,
        help="files, or folders (without their subfolders); for a model of several inputs NAME:FILE,NAME:FILE",
    )
    files.add_argument(
        "-o", "--output", metavar="OUT", help="FILE.npz or FILE.jsonl (default: JSON lines on standard output)"
    )
    files.add_argument("--window", metavar="N", type=at_least(1), help="most requests in flight")
    files.add_argument("-q", "--quiet", action="store_true", help="no progress")
    add_source_options(parser)
    add_image_options(parser)
    add_preprocessing_options(parser)
    add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command; a file that cannot be read costs a line and the exit status, not the other files."""
    sources = find_sources(args.input)
    writer = make_writer(args.output)
    if writer.path is not None:
        check_writable([writer.path])
    with Progress(quiet=args.quiet) as progress, contextlib.ExitStack() as stack:
        model = load_model(ModelSource(args), settings(args), args, progress)
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
