"""Threads for torch whose number changes no bit.

torch and MKL share a kernel out by the number of their threads, and sums get another order. So the
invariant engine has every kernel run in the thread that calls it, and shares out calls of kernels
instead: they are cut by shape alone, and each writes to a place of its own.
"""

import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Thread

import torch

MOST = 8
"""Calls that a product is cut into at most. More threads would find nothing to do."""

Work = Callable[[int], None]


def one_thread() -> None:
    """Kernels that this thread calls run in it alone. torch keeps the number by thread."""
    # Asking comes first also because it makes torch set what a new thread begins with.
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """torch's own threads are so many inside, and as many as before behind it."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Team:
    """The thread that calls, and ``threads - 1`` more, which end with the team.

    Whoever comes to it takes the next piece: nothing waits for a thread that is slow to wake.
    """

    def __init__(self, threads: int) -> None:
        self._others = min(threads, MOST) - 1
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        for number in range(self._others):
            Thread(target=_help, args=(self._calls,), name=f"torch-{number}", daemon=True).start()
        weakref.finalize(self, _dismiss, self._calls, self._others)

    def share(self, work: Work, count: int, worth: bool = True) -> None:
        """Call ``work`` with 0 to ``count - 1``, in any order and side by side, or one after the
        other where it isn't ``worth`` waking a thread: that takes up to 0.2 ms, and as long again
        at the end. ``work`` may share in its turn.

        Raises what one of them raises. Then, and when the caller is interrupted, others may still
        be at the piece they have begun.
        """
        others = min(self._others, count - 1) if worth else 0
        if others < 1:
            for index in range(count):
                work(index)
            return
        call = _Call(work, count)
        for _ in range(others):
            self._calls.put(call)
        call.lead()


class _Call:
    """One ``share``. It may lie in the queue for long after its end, so it lets go of ``work``."""

    def __init__(self, work: Work, count: int) -> None:
        self._work: Work | None = work
        self._left = deque(range(count))
        self._made: SimpleQueue[BaseException | None] = SimpleQueue()
        self._count = count

    def lead(self) -> None:
        """Take part, and wait for what others have taken."""
        try:
            mine = self._take_part()
            for _ in range(self._count - mine):
                error = self._made.get()
                if error is not None:
                    raise error
        finally:
            self._left.clear()
            self._work = None

    def help(self) -> None:
        """Take part in another thread."""
        try:
            self._take_part(self._made)
        except BaseException as error:  # the caller's to raise
            self._made.put(error)

    def _take_part(self, told: "SimpleQueue[BaseException | None] | None" = None) -> int:
        work, taken = self._work, 0
        while work is not None:
            try:
                index = self._left.popleft()
            except IndexError:
                break
            work(index)
            taken += 1
            if told is not None:
                told.put(None)
        return taken


def _help(calls: "SimpleQueue[_Call | None]") -> None:
    one_thread()
    with torch.inference_mode():
        while (call := calls.get()) is not None:
            call.help()
            del call  # while this thread waits


def _dismiss(calls: "SimpleQueue[_Call | None]", others: int) -> None:
    for _ in range(others):
        calls.put(None)
