"""A thread that runs what it is given, in order.

It does less than an executor, since between two steps the engine pushes everything else out of the
processor's caches: code that isn't run needn't be fetched again.
"""

import asyncio
import contextlib
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

from hearthring.protocol.errors import StageFailed

T = TypeVar("T")
Work = Callable[[], None]


class Worker:
    """One thread. What is handed over after ``close`` is never run."""

    def __init__(self, name: str) -> None:
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._closed = False
        self._waiting = set[asyncio.Future[None]]()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Work) -> None:
        """Run it some time, without telling whether it ended well: faults are printed."""
        self._queue.put(work)

    async def run(self, work: Callable[[], T]) -> T:
        """Run it and return what it returns or raise what it raises.

        When the caller is cancelled, or the worker closed, before its turn, it isn't run: the
        latter raises ``StageFailed``.
        """
        if self._closed:
            raise self._stopping()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        results: list[T] = []

        def settle(error: BaseException | None) -> None:
            if not done.done():
                done.set_result(None) if error is None else done.set_exception(error)

        def turn() -> None:
            if done.cancelled():
                return
            error = None
            try:
                results.append(work())
            except Exception as raised:
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop may be gone, and nobody waits then
                loop.call_soon_threadsafe(settle, error)

        self._waiting.add(done)
        try:
            self._queue.put(turn)
            await done
        finally:
            self._waiting.discard(done)
        return results[0]

    async def close(self) -> None:
        """Let the thread end what it is at, and nothing more; who waits gets ``StageFailed``."""
        self._closed = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        for done in self._waiting:
            if not done.done():
                done.set_exception(self._stopping())

    def _stopping(self) -> StageFailed:
        return StageFailed("the node is stopping", field=self._thread.name)

    def _run(self) -> None:
        while (work := self._queue.get()) is not None and not self._closed:
            try:
                work()
            except Exception as error:  # a fault of this node itself, for whoever runs it
                name = self._thread.name
                print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            del work  # with what it holds, perhaps an ended session: the next may be long in coming
