"""The thread that embeds, multiplies heads and chooses tokens, for all sessions of a client.

One pass over the head costs little more for several rows than for one. So whatever rows wait when
the thread is free are multiplied together, whichever session they are of, and with them those that
somebody is about to ask for.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from hearthring.protocol.tensors import F32
from hearthring.shards.ends import Ends

T = TypeVar("T")
Made = dict[bytes, F32 | Exception]
"""Logits ``[vocabulary]``, or why there are none, by the bytes of the residual row."""
KEPT = 32
"""Logits that are kept until somebody asks for them: some for each of a client's sessions."""


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
        self._likely: deque[tuple[Ends, F32]] = deque()
        self._kept: OrderedDict[tuple[Ends, bytes], F32] = OrderedDict()
        self.seconds = 0.0
        """What the last pass over a head took."""

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """Call ``work`` on the thread, by itself."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    def begin(self, ends: Ends, states: F32) -> None:
        """Make the logits of residual rows before they are asked for.

        The next call for such a row has it sooner. Those of the newest rows alone are kept.
        """
        self._likely.append((ends, states))
        self._thread.submit(self._serve)

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
        wishes = [one for one in _taken(self._waiting) if one.done.set_running_or_notify_cancel()]
        likely = _taken(self._likely)
        for ends in dict.fromkeys([*(wish.ends for wish in wishes), *(of for of, _ in likely)]):
            self._together(
                ends,
                [wish for wish in wishes if wish.ends is ends],
                [states for of, states in likely if of is ends],
            )

    def _together(self, ends: Ends, wishes: list[_Wish], likely: list[F32]) -> None:
        states = [*(wish.states for wish in wishes), *likely]
        rows = {row.tobytes(): row for some in states for row in some}
        made: Made = {key: self._kept.pop((ends, key)) for key in rows if (ends, key) in self._kept}
        made |= self._pass(ends, {key: row for key, row in rows.items() if key not in made})
        for wish in wishes:
            try:
                logits = _joined([made[row.tobytes()] for row in wish.states])
                wish.done.set_result(wish.use(logits))
            except Exception as error:
                wish.done.set_exception(error)
        asked = {row.tobytes() for wish in wishes for row in wish.states}
        for key, unasked in made.items():
            if key not in asked and not isinstance(unasked, Exception):
                self._kept[ends, key] = unasked.copy()  # without the others of its pass
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)

    def _pass(self, ends: Ends, rows: dict[bytes, F32]) -> Made:
        """All at once; each by itself if that fails: a row's error is its own session's."""
        if not rows:
            return {}
        begun = time.perf_counter()
        try:
            logits = ends.logits(ends.norm(np.stack(list(rows.values()))))
        except Exception as error:
            if len(rows) == 1:
                return dict.fromkeys(rows, error)
            alone = [self._pass(ends, {key: row}) for key, row in rows.items()]
            return {key: made for one in alone for key, made in one.items()}
        self.seconds = time.perf_counter() - begun
        return dict(zip(rows, logits, strict=True))


def _taken(waiting: deque[T]) -> list[T]:
    """All that wait. Others append meanwhile; a deque bears that."""
    return [waiting.popleft() for _ in range(len(waiting))]


def _joined(made: Sequence[F32 | Exception]) -> F32:
    """Logits ``[n, vocabulary]``. Raises the first error among them."""
    rows = list[F32]()
    for one in made:
        if isinstance(one, Exception):
            raise one
        rows.append(one)
    return rows[0][None] if len(rows) == 1 else np.stack(rows)
