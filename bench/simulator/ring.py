"""Stages and links of a simulated ring, and the steps that go round it."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.simulator.clock import Clock
from bench.simulator.cores import Cores, Thread
from bench.simulator.work import NOTHING, Seconds, Work
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
    """Rows of one client that travel together; ``back`` is called with it at the end. ``begun`` and
    ``done`` are when the last stage's engine was."""

    client: int
    rows: list[Row]
    back: "Callable[[Step], None]"
    home: "Link"
    begun: float = 0.0
    done: float = 0.0

    def live(self, now: float, notice: float) -> int:
        """Rows that somebody who hears of refuted ones ``notice`` later still computes."""
        return sum(row.refuted is None or now < row.refuted + notice for row in self.rows)


class Somebody:
    """A process on shared cores: a thread for messages, and what it does beside them."""

    def __init__(self, clock: Clock, cores: Cores, path: float) -> None:
        self._loop, self._cores, self._path = Thread(clock, cores), cores, path

    def handle(self, seconds: float, then: Callable[[], None]) -> None:
        """A message of so much work; ``then`` is called as soon as it is through."""
        if beside := seconds * (1 - self._path):
            self._cores.do(beside, _nothing)
        self._loop.do(lambda: seconds * self._path, then)


class Link:
    """One way to somewhere: rows leave one after the other and arrive in order.

    ``carrier`` works for ``wire`` seconds on each message.
    """

    def __init__(self, clock: Clock, hop: Hop, carrier: Somebody, wire: Seconds) -> None:
        self._clock, self._hop, self._carrier, self._wire = clock, hop, carrier, wire
        self._free = 0.0

    def carry(self, rows: int, arrive: Callable[[], None]) -> None:
        self._carrier.handle(self._wire.seconds(rows), lambda: self._leave(rows, arrive))

    def _leave(self, rows: int, arrive: Callable[[], None]) -> None:
        begun = max(self._clock.now, self._free)
        self._free = begun + rows * self._hop.row
        self._clock.at(self._free + self._hop.latency, arrive)


class Stage:
    """Computes steps first come, first served; with ``batch`` above 0 rows of several clients.

    An ``interruptible`` stage stops at once when every row of what it computes is cancelled.
    """

    def __init__(
        self,
        clock: Clock,
        fit: Fit,
        cores: Cores,
        work: Work,
        notice: float,
        batch: int,
        interruptible: bool,
    ) -> None:
        self._clock, self._fit, self._work = clock, fit, work
        self._notice, self._batch, self._interruptible = notice, batch, interruptible
        self._engine, self._somebody = Thread(clock, cores), Somebody(clock, cores, work.path)
        self._queue = deque[Step]()
        self._running: list[Step] | None = None
        self.onward: Callable[[Step], None]
        self.rows = 0

    @property
    def busy(self) -> float:
        """Seconds in which its engine was at work."""
        return self._engine.busy

    def arrive(self, step: Step) -> None:
        """A step is here. Half of the messages' work comes before the engine, half after it."""
        self._handle(step, self._queued)

    def look(self) -> None:
        """A cancellation has arrived."""
        self._somebody.handle(self._work.note, self._stop)

    def _handle(self, step: Step, then: Callable[[Step], None]) -> None:
        self._somebody.handle(self._work.stage.seconds(self._live([step])) / 2, lambda: then(step))

    def _live(self, steps: Sequence[Step]) -> int:
        return sum(step.live(self._clock.now, self._notice) for step in steps)

    def _stop(self) -> None:
        if self._interruptible and self._running and not self._live(self._running):
            self._engine.interrupt(self._done)

    def _queued(self, step: Step) -> None:
        self._queue.append(step)
        if self._running is None:
            self._begin()

    def _begin(self) -> None:
        """Run what is next; where it costs nothing, steps without rows go on at once."""
        while not self._work.empty and self._queue and not self._live([self._queue[0]]):
            step = self._queue.popleft()
            step.begun = step.done = self._clock.now
            self._handle(step, self.onward)
        if not self._queue:
            return
        self._running = []
        self._engine.do(self._seconds, self._done)

    def _seconds(self) -> float:
        """Choose what to run, and how long that takes."""
        rows = self._choose()
        self.rows += rows
        return self._fit.seconds(rows) if rows else self._work.empty

    def _choose(self) -> int:
        """Take the next batch out of the queue, and say how many of its rows live."""
        chosen, clients, kept, rows = list[Step](), set[int](), deque[Step](), 0
        while self._queue:
            step = self._queue.popleft()
            size = self._live([step])
            fits = not chosen or (rows + size <= self._batch and step.client not in clients)
            if fits:
                step.begun = self._clock.now
                chosen.append(step)
                rows += size
            else:
                kept.append(step)
            clients.add(step.client)
            if not self._batch:
                break
        kept.extend(self._queue)
        self._queue, self._running = kept, chosen
        return rows

    def _done(self) -> None:
        assert self._running is not None
        done, self._running = self._running, None
        for step in done:
            step.done = self._clock.now
            self._handle(step, self.onward)
        if self._running is None:
            self._begin()


def _nothing() -> None:
    """Nobody waits for it."""


class SimulatedRing:
    """All stages and the links between them; each client has its own first and last link."""

    def __init__(
        self,
        clock: Clock,
        ring: Ring,
        work: Work = NOTHING,
        batch: int = 0,
        interruptible: bool = False,
    ) -> None:
        self._clock, self.ring, self.work = clock, ring, work
        self.cores = Cores(clock, ring.processors or None)
        self.notice = ring.hops[0].latency
        self._carrier = Somebody(clock, self.cores, work.path)
        self.stages = [
            Stage(clock, fit, self.cores, work, self.notice, batch, interruptible)
            for fit in ring.stages
        ]
        links = [self.link(place) for place in range(1, len(ring.stages))]
        for stage, link, following in zip(self.stages, links, self.stages[1:], strict=False):
            stage.onward = self._passing(link, following)
        self.stages[-1].onward = self._returning

    def link(self, place: int) -> Link:
        """A link as the ``place``-th hop is."""
        return Link(self._clock, self.ring.hops[place], self._carrier, self.work.wire)

    def send(self, step: Step, link: Link) -> None:
        """From a client, over its own link."""
        link.carry(len(step.rows), lambda: self.stages[0].arrive(step))

    def cancel(self, by: Somebody) -> None:
        """Some rows were refuted now: stages hear of it a hop later, straight from the client."""
        by.handle(len(self.stages) * self.work.note, _nothing)
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
