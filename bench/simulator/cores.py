"""Processors that whatever is at work shares, and threads that do one thing after the other."""

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from bench.simulator.clock import Clock


@dataclass(slots=True, eq=False)
class Job:
    """Work in hand; ``then`` is called when it is done, unless it was stopped. ``until``: by its
    processors' own count."""

    then: Callable[[], None]
    begun: float
    until: float = 0.0
    stopped: bool = False


class Cores:
    """``count`` processors; None: one for whatever comes.

    Processor sharing: up to ``count`` pieces of work run at full speed, more of them at equal
    shares. A scheduler does that in slices of a few milliseconds, and lets who has just woken up
    begin at once.
    """

    def __init__(self, clock: Clock, count: int | None) -> None:
        self._clock, self._count = clock, count
        self._running: list[tuple[float, int, Job]] = []
        self._active = self._asked = self._plans = 0
        self.worked = 0.0
        """Seconds of work of all together, what is in hand included."""
        self._each = self._at = 0.0
        """What a piece of work that was there all along has got, and until when that is counted."""

    def do(self, seconds: float, then: Callable[[], None]) -> Job:
        """Begin so many seconds of work; ``then`` is called at its end."""
        self.worked += seconds
        job = Job(then, self._clock.now, self._clock.now + seconds)
        if self._count is None:
            self._clock.at(job.until, lambda: None if job.stopped else job.then())
            return job
        self._catch_up()
        job.until = self._each + seconds
        self._asked += 1
        heapq.heappush(self._running, (job.until, self._asked, job))
        self._active += 1
        self._plan()
        return job

    def stop(self, job: Job) -> None:
        """Give up work that isn't done yet."""
        job.stopped = True
        if self._count is None:
            self.worked -= job.until - self._clock.now
            return
        self._catch_up()
        self.worked -= job.until - self._each
        self._active -= 1
        self._plan()

    def _speed(self) -> float:
        assert self._count is not None
        return min(1.0, self._count / self._active)

    def _catch_up(self) -> None:
        if self._active:
            self._each += (self._clock.now - self._at) * self._speed()
        self._at = self._clock.now

    def _plan(self) -> None:
        """Look again when the first of them should be done; earlier plans are void."""
        self._plans += 1
        while self._running and self._running[0][2].stopped:
            heapq.heappop(self._running)
        if self._running:
            plan, left = self._plans, max(0.0, self._running[0][0] - self._each)
            self._clock.at(self._clock.now + left / self._speed(), lambda: self._over(plan))

    def _over(self, plan: int) -> None:
        if plan != self._plans:
            return
        self._at = self._clock.now
        self._each, _, job = heapq.heappop(self._running)
        self._active -= 1
        self._plan()
        job.then()


class Thread:
    """Does what it is given in order. ``busy``: seconds in which something was in hand."""

    def __init__(self, clock: Clock, cores: Cores) -> None:
        self._clock, self._cores = clock, cores
        self._waiting = deque[tuple[Callable[[], float], Callable[[], None]]]()
        self._working, self._job = False, Job(lambda: None, 0.0)
        self.busy = 0.0

    def do(self, seconds: Callable[[], float], then: Callable[[], None]) -> None:
        """Call ``then`` after as much work as it is when its turn comes; at once if it is none and
        nothing is in hand."""
        self._waiting.append((seconds, then))
        if not self._working:
            self._go_on()

    def interrupt(self, then: Callable[[], None]) -> None:
        """Give up what is in hand, and call ``then`` in its place."""
        self._cores.stop(self._job)
        self._done(then)

    def _go_on(self) -> None:
        self._working = True
        while self._waiting:
            asked, then = self._waiting.popleft()
            if (seconds := asked()) > 0:
                self._begin(seconds, then)
                return
            then()
        self._working = False

    def _begin(self, seconds: float, then: Callable[[], None]) -> None:
        self._job = self._cores.do(seconds, lambda: self._done(then))

    def _done(self, then: Callable[[], None]) -> None:
        self.busy += self._clock.now - self._job.begun
        then()
        self._go_on()
