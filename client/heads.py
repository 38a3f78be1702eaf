"""The thread that embeds, multiplies heads and chooses tokens, for all sessions of a client.

One pass over the head costs little more for several rows than for one. So whatever rows wait when
the thread is free are multiplied together, whichever session they are of.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from hearthring.protocol.tensors import F32
from hearthring.shards.ends import Ends

T = TypeVar("T")


@dataclass(slots=True)
class _Wish:
    ends: Ends
    states: F32
    use: Callable[[F32], Any]
    done: "Future[Any]"


class Heads:
    """Work for ends, which aren't thread-safe: ``thread`` is an executor of one thread."""

    def __init__(self, thread: Executor) -> None:
        self._thread = thread
        self._waiting: deque[_Wish] = deque()
        self._early: tuple[Ends, F32, F32] | None = None
        self.seconds = 0.0
        """What the last pass over a head took."""

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """Call ``work`` on the thread, by itself."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    def begin(self, ends: Ends, states: F32) -> None:
        """Make the logits of residual rows before they are asked for, unless somebody asks now.

        The next call for the same rows has them sooner; without one they are thrown away.
        """
        self._thread.submit(self._begin, ends, states)

    async def logits(self, ends: Ends, states: F32, use: Callable[[F32], T]) -> T:
        """What ``use`` makes, on the thread, of the logits ``[n, vocabulary]`` of residual rows.

        Raises what ``use`` raises, which touches no other session. Cancelled before the thread
        comes to it, it is left out; afterwards its result is thrown away. It is cancelled, too,
        when the executor is shut down before its turn.
        """
        wish = _Wish(ends, states, use, Future())
        self._waiting.append(wish)
        # The first of these calls serves all who wait; the others then find nobody.
        turn = self._thread.submit(self._serve)
        turn.add_done_callback(lambda turn: turn.cancelled() and wish.done.cancel())
        return await asyncio.wrap_future(wish.done)

    def _serve(self) -> None:
        taken = [wish for wish in self._take() if wish.done.set_running_or_notify_cancel()]
        for ends in {id(wish.ends): wish.ends for wish in taken}.values():
            self._together([wish for wish in taken if wish.ends is ends])

    def _take(self) -> list[_Wish]:
        # Others append meanwhile; a deque bears that.
        return [self._waiting.popleft() for _ in range(len(self._waiting))]

    def _together(self, wishes: list[_Wish]) -> None:
        try:
            logits = self._logits(wishes[0].ends, [wish.states for wish in wishes])
        except Exception as error:
            for wish in wishes:
                wish.done.set_exception(error)
            return
        at = 0
        for wish in wishes:
            rows = logits[at : at + len(wish.states)]
            at += len(rows)
            try:
                wish.done.set_result(wish.use(rows))
            except Exception as error:
                wish.done.set_exception(error)

    def _logits(self, ends: Ends, rows: list[F32]) -> F32:
        """Those that were made early, or new ones."""
        early, self._early = self._early, None
        states = rows[0] if len(rows) == 1 else np.concatenate(rows)
        if early is not None and early[0] is ends and np.array_equal(early[1], states):
            return early[2]
        begun = time.perf_counter()
        logits = ends.logits(ends.norm(states))
        self.seconds = time.perf_counter() - begun
        return logits

    def _begin(self, ends: Ends, states: F32) -> None:
        if self._waiting:
            return
        self._early = None
        try:
            logits = self._logits(ends, [states])
        except Exception:  # whoever asks for them is told
            return
        self._early = ends, states, logits
