"""Many items, a bounded number of them in flight: `Model.map` and `Model.amap`."""

from __future__ import annotations

import contextlib
import queue
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import Any

from ovengine._core import Future, Inputs, Result
from ovengine.errors import Cancelled, QueueFull

# How soon to try again when others fill the queue.
RETRY_SECONDS = 0.0005

Submit = Callable[[Inputs], Future]


def map_in_order(submit: Submit, iterable: Iterable[Inputs], window: int) -> Iterator[Result]:
    """Results in the order of the items; at most `window` requests are in flight."""
    pending: deque[Future] = deque()
    try:
        for inputs in iterable:
            while pending and (len(pending) >= window or pending[0].done()):
                yield pending.popleft().result()
            pending.append(submit_when_room(submit, inputs, pending))
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def map_as_completed(submit: Submit, iterable: Iterable[Inputs], window: int) -> Iterator[Result]:
    """Results as they come; at most `window` requests are in flight."""
    pending: dict[Future, None] = {}
    completed: queue.SimpleQueue[Future] = queue.SimpleQueue()
    try:
        for inputs in iterable:
            while pending and (len(pending) >= window or not completed.empty()):
                future = completed.get()
                del pending[future]
                yield future.result()
            future = submit_when_room(submit, inputs, pending)
            pending[future] = None
            future._add_callback(completed.put)
        while pending:
            future = completed.get()
            del pending[future]
            yield future.result()
    finally:
        for future in pending:
            future.cancel()


def submit_when_room(submit: Submit, inputs: Inputs, pending: Iterable[Future]) -> Future:
    """Submit; where the queue is full and says so, again as soon as one of `pending` is done."""
    while True:
        try:
            return submit(inputs)
        except QueueFull:
            # Room comes when the oldest of ours is done; with none of ours in flight, others fill the queue.
            unfinished = next((future for future in pending if not future.done()), None)
            if unfinished is None:
                time.sleep(RETRY_SECONDS)
            else:
                with contextlib.suppress(Cancelled):
                    unfinished.exception()


class AsyncMap:
    """One `amap`: its requests in flight."""

    def __init__(self, submit: Submit, window: int, ordered: bool) -> None:
        self._submit = submit
        self._window = window
        self._ordered = ordered
        self._pending: deque[Future] = deque()

    async def run(self, iterable: Iterable[Inputs] | AsyncIterable[Inputs]) -> AsyncIterator[Result]:
        results = self._over_async(iterable) if isinstance(iterable, AsyncIterable) else self._over_plain(iterable)
        try:
            async for result in results:
                yield result
        finally:
            await results.aclose()
            for future in self._pending:
                future.cancel()

    async def _over_plain(self, iterable: Iterable[Inputs]) -> AsyncGenerator[Result, None]:
        for inputs in iterable:
            while (done := self._take_done()) is not None:
                yield await done
            while len(self._pending) >= self._window:
                yield await self._next_result()
            self._pending.append(await self._submit_when_room(inputs))
        while self._pending:
            yield await self._next_result()

    async def _over_async(self, iterable: AsyncIterable[Inputs]) -> AsyncGenerator[Result, None]:
        import asyncio  # who calls this has it loaded already; `import ovengine` should not

        items = aiter(iterable)
        following: asyncio.Future[Inputs] | None = None
        exhausted = False
        try:
            while True:
                while (done := self._take_done()) is not None:
                    yield await done
                if not exhausted and following is None and len(self._pending) < self._window:
                    following = asyncio.ensure_future(anext(items))
                if following is None and not self._pending:
                    return
                # The next item may be long in coming; results must not wait for it.
                await _any_done(self._awaited() if following is None else [following, *self._awaited()])
                if following is not None and following.done():
                    try:
                        inputs = following.result()
                    except StopAsyncIteration:
                        exhausted = True
                    else:
                        self._pending.append(await self._submit_when_room(inputs))
                    following = None
        finally:
            if following is not None:
                following.cancel()

    def _take_done(self) -> Future | None:
        """The result that may be yielded now."""
        done: Future | None = next((future for future in self._awaited() if future.done()), None)
        if done is not None:
            self._pending.remove(done)
        return done

    async def _next_result(self) -> Result:
        """The result that may be yielded next."""
        if self._ordered:
            return await self._pending.popleft()
        while (done := self._take_done()) is None:
            await _any_done(self._awaited())
        return await done

    def _awaited(self) -> list[Future]:
        """Any of those in flight, or only the oldest one where the order is kept."""
        return [self._pending[0]] if self._ordered and self._pending else list(self._pending)

    async def _submit_when_room(self, inputs: Inputs) -> Future:
        import asyncio

        while True:
            try:
                return self._submit(inputs)
            except QueueFull:
                unfinished = [future for future in self._pending if not future.done()]
                if unfinished:
                    await _any_done(unfinished)
                else:
                    await asyncio.sleep(RETRY_SECONDS)


async def _any_done(futures: Sequence[Any]) -> None:
    """Wait for the first of several futures, asyncio's or ovengine's.

    `asyncio.wait` would do from Python 3.11 on; before, it makes a task of each that outlives the wait.
    """
    import asyncio

    waiter = asyncio.get_running_loop().create_future()

    def wake(_: object) -> None:
        if not waiter.done():
            waiter.set_result(None)

    for future in futures:
        future.add_done_callback(wake)
    try:
        await waiter
    finally:
        for future in futures:
            future.remove_done_callback(wake)
