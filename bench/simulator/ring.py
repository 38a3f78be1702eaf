"""Stages and links of a simulated ring, and the steps that go round it."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.simulator.clock import Clock
from hearthring.client.cost import Hop, Ring
from hearthring.shards.timings import Fit


@dataclass(slots=True, eq=False)
class Row:
    """One candidate under way. ``refuted``: when its client dropped it."""

    position: int
    rank: int
    chance: float
    true: bool
    children: "list[Row]" = field(default_factory=list)
    grown: bool = False
    verified: bool = False
    refuted: float | None = None

    def refute(self, now: float) -> None:
        """Drop it and all that follows from it."""
        waiting = [self]
        while waiting:
            row = waiting.pop()
            if row.refuted is None:
                row.refuted = now
                waiting += row.children


@dataclass(slots=True, eq=False)
class Step:
    """Rows of one client that travel together; ``back`` is called with it at the end."""

    client: int
    rows: list[Row]
    back: "Callable[[Step], None]"
    home: "Link"

    def live(self, now: float, notice: float) -> int:
        """Rows that somebody who hears of refuted ones ``notice`` later still computes."""
        return sum(row.refuted is None or now < row.refuted + notice for row in self.rows)


class Link:
    """One way to somewhere: rows leave one after the other and arrive in order."""

    def __init__(self, clock: Clock, hop: Hop) -> None:
        self._clock, self._hop = clock, hop
        self._free = 0.0

    def carry(self, rows: int, arrive: Callable[[], None]) -> None:
        begun = max(self._clock.now, self._free)
        self._free = begun + rows * self._hop.row
        self._clock.at(self._free + self._hop.latency, arrive)


class Processors:
    """So many things at a time, the others in order of asking; None: no limit."""

    def __init__(self, count: int | None) -> None:
        self._left, self._waiting = count, deque[Callable[[], None]]()

    def take(self, begin: Callable[[], None]) -> None:
        if self._left is None:
            begin()
        elif self._left:
            self._left -= 1
            begin()
        else:
            self._waiting.append(begin)

    def give(self) -> None:
        if self._left is None:
            return
        if self._waiting:
            self._waiting.popleft()()
        else:
            self._left += 1


class Stage:
    """Computes steps first come, first served; with ``batch`` above 0 rows of several clients.

    An ``interruptible`` stage stops at once when every row of what it computes is cancelled.
    """

    def __init__(
        self,
        clock: Clock,
        fit: Fit,
        processors: Processors,
        notice: float,
        batch: int,
        interruptible: bool,
    ) -> None:
        self._clock, self._fit, self._processors = clock, fit, processors
        self._notice, self._batch, self._interruptible = notice, batch, interruptible
        self._queue = deque[Step]()
        self._running: list[Step] | None = None
        self._run = 0
        self.onward: Callable[[Step], None]
        self.busy, self.rows = 0.0, 0

    def arrive(self, step: Step) -> None:
        self._queue.append(step)
        if self._running is None:
            self._begin()

    def look(self) -> None:
        """A cancellation has arrived."""
        if self._interruptible and self._running and not self._live(self._running):
            self.busy -= self._ends - self._clock.now
            self._done(self._run)

    def _live(self, steps: Sequence[Step]) -> int:
        return sum(step.live(self._clock.now, self._notice) for step in steps)

    def _begin(self) -> None:
        while self._queue and not self._live([self._queue[0]]):
            self.onward(self._queue.popleft())  # empty results travel too
        if not self._queue:
            return
        self._running = []
        self._processors.take(self._compute)

    def _compute(self) -> None:
        chosen, clients, kept, rows = list[Step](), set[int](), deque[Step](), 0
        while self._queue:
            step = self._queue.popleft()
            size = self._live([step])
            fits = not chosen or (rows + size <= self._batch and step.client not in clients)
            if fits:
                chosen.append(step)
                rows += size
            else:
                kept.append(step)
            clients.add(step.client)
            if not self._batch:
                break
        kept.extend(self._queue)
        self._queue, self._running = kept, chosen
        self._run += 1
        run, seconds = self._run, self._fit.seconds(rows) if rows else 0.0
        self.busy, self.rows = self.busy + seconds, self.rows + rows
        self._ends = self._clock.now + seconds
        self._clock.at(self._ends, lambda: self._done(run))

    def _done(self, run: int) -> None:
        if run != self._run or not self._running:
            return
        done, self._running = self._running, None
        self._processors.give()
        for step in done:
            self.onward(step)
        if self._running is None:
            self._begin()


class SimulatedRing:
    """All stages and the links between them; each client has its own first and last link."""

    def __init__(
        self, clock: Clock, ring: Ring, batch: int = 0, interruptible: bool = False
    ) -> None:
        self._clock, self.ring = clock, ring
        self.processors = Processors(ring.processors or None)
        self.notice = ring.hops[0].latency
        self.stages = [
            Stage(clock, fit, self.processors, self.notice, batch, interruptible)
            for fit in ring.stages
        ]
        links = [Link(clock, hop) for hop in ring.hops[1:-1]]
        for stage, link, following in zip(self.stages, links, self.stages[1:], strict=False):
            stage.onward = self._passing(link, following)
        self.stages[-1].onward = self._returning

    def send(self, step: Step, link: Link) -> None:
        """From a client, over its own link."""
        link.carry(len(step.rows), lambda: self.stages[0].arrive(step))

    def cancel(self) -> None:
        """Some rows were refuted now: stages hear of it a hop later, straight from the client."""
        for stage in self.stages:
            self._clock.at(self._clock.now + self.notice, stage.look)

    def _passing(self, link: Link, following: Stage) -> Callable[[Step], None]:
        def onward(step: Step) -> None:
            live = step.live(self._clock.now, self.notice)
            link.carry(live, lambda: following.arrive(step))

        return onward

    def _returning(self, step: Step) -> None:
        live = step.live(self._clock.now, self.notice)
        step.home.carry(live, lambda: step.back(step))
