"""A simulated client: drafts, sends steps, and goes on from what comes back."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass

from bench.simulator.clock import Clock
from bench.simulator.cores import Thread
from bench.simulator.ring import Row, SimulatedRing, Somebody, Step
from bench.simulator.truth import Truth

UNLIMITED = 1 << 30
"""Steps under way, for drafts that take time."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How a client speculates.

    ``rows`` in a step and ``flights`` steps under way; ``head`` rows, if not as many, in a step
    that begins with a token that is certain. Guesses beyond a path chance of ``least`` aren't made.
    With one flight nothing is drafted while it flies. The width of its trees is that of the truth's
    acceptance: candidates are taken likeliest first, which for one rank is a chain.
    """

    rows: int = 1
    flights: int = 1
    head: int = 0
    least: float = 0.0

    @property
    def first(self) -> int:
        """Rows in a step that begins with a token that is certain."""
        return self.head or self.rows


PLAIN = Policy()


class SimulatedClient:
    """Writes so many tokens after the first, or without ``end``; ``known`` has the time at which
    each was."""

    def __init__(
        self,
        clock: Clock,
        ring: SimulatedRing,
        truth: Truth,
        policy: Policy,
        number: int = 0,
        end: int | None = None,
    ) -> None:
        self._clock, self._ring, self._truth, self._policy = clock, ring, truth, policy
        self._number, self._end = number, UNLIMITED if end is None else end
        self._out, self._home = (ring.link(place) for place in (0, -1))
        self._heads = Thread(clock, ring.cores)
        self._somebody = Somebody(clock, ring.cores, ring.work.path)
        self.known = list[float]()
        self._root = Row(0, 0, 1.0, True)
        self._ready = [self._root]
        self._frontier: list[tuple[float, int, Row]] = []
        self._offered = 0
        self._flying: list[Step] = []
        """Steps under way that may still count."""
        self._drafting: Row | None = None
        self._draft_number = 0

    def start(self) -> None:
        self._offer(self._root)
        self._go_on()

    # -- drafting ------------------------------------------------------------------------------

    def _offer(self, row: Row) -> None:
        if row.position + 1 >= self._end:
            return  # nothing behind it is of any use
        self._offered += 1
        heapq.heappush(self._frontier, (-row.chance, self._offered, row))

    def _next_to_grow(self) -> Row | None:
        """The likeliest row whose children may still be worth a guess."""
        best = self._truth.acceptance[0] if self._truth.acceptance else 0.0
        while self._frontier and self._frontier[0][2].refuted is not None:
            heapq.heappop(self._frontier)
        if not self._frontier or not best:
            return None
        row = self._frontier[0][2]
        return row if row.chance * best > self._policy.least else None

    def _wanted(self) -> int:
        """How many rows the next step takes."""
        return self._policy.first if self._root in self._ready else self._policy.rows

    def _may_draft(self) -> bool:
        ahead = self._policy.flights > 1 or (not self._flying and self._policy.first > 1)
        return ahead and len(self._ready) < self._wanted()

    def _draft(self) -> None:
        if self._drafting is not None or not self._may_draft():
            return
        row = self._next_to_grow()
        if row is None:
            return
        heapq.heappop(self._frontier)
        self._drafting = row
        self._draft_number += 1
        number = self._draft_number
        seconds = self._ring.ring.draft
        if seconds:
            self._clock.at(self._clock.now + seconds, lambda: self._drafted(number))
        else:
            self._grow(row)

    def _drafted(self, number: int) -> None:
        if number == self._draft_number and self._drafting is not None:
            self._grow(self._drafting)
            self._go_on()

    def _grow(self, row: Row) -> None:
        self._drafting, row.grown = None, True
        right = self._truth.rank(row.position + 1) if row.true else -1
        for rank, chance in enumerate(self._truth.acceptance):
            child = Row(row.position + 1, rank, row.chance * chance, rank == right)
            row.children.append(child)
            self._ready.append(child)
            self._offer(child)

    # -- sending -------------------------------------------------------------------------------

    def _go_on(self) -> None:
        while True:
            before = len(self._ready), len(self._flying), self._drafting
            self._draft()
            self._send()
            if (len(self._ready), len(self._flying), self._drafting) == before:
                return

    def _send(self) -> None:
        if len(self._flying) >= self._policy.flights or not self._ready:
            return
        wanted = self._wanted()
        more = self._drafting is not None or (self._may_draft() and self._next_to_grow())
        if len(self._ready) < wanted and more:
            return
        if self._policy.flights == 1 and self._root not in self._ready:
            return  # guesses alone: their root is under way
        self._ready.sort(key=lambda row: -row.chance)
        rows, self._ready = self._ready[:wanted], self._ready[wanted:]
        if self._policy.flights == 1:
            # One tree at a time: what it has no room for is forgotten with it.
            self._ready = []
        step = Step(self._number, rows, self._back, self._home)
        self._flying.append(step)
        self._handle(len(rows), lambda: self._ring.send(step, self._out))

    def _handle(self, rows: int, then: Callable[[], None]) -> None:
        """Half of what a step's messages take: when it leaves, or when it is back."""
        self._somebody.handle(self._ring.work.client.seconds(rows) / 2, then)

    # -- results -------------------------------------------------------------------------------

    def _back(self, step: Step) -> None:
        self._handle(step.live(self._clock.now, 0.0), lambda: self._judge(step))

    def _judge(self, step: Step) -> None:
        """Norm, head and choice for one step after the other."""

        def seconds() -> float:
            live = step.live(self._clock.now, 0.0)
            return self._ring.ring.ends.seconds(live) if live else 0.0

        self._heads.do(seconds, lambda: self._judged(step))

    def _judged(self, step: Step) -> None:
        if step in self._flying:
            self._flying.remove(step)
        for row in step.rows:
            row.verified = True
        self._advance()
        self._go_on()

    def _advance(self) -> None:
        """The root goes over every verified row of the text; what is refuted falls."""
        moved = cancelled = False
        while self._root.verified:
            right = self._truth.rank(self._root.position + 1)
            taken = next((child for child in self._root.children if child.rank == right), None)
            if taken is not None and not taken.verified and self._policy.flights == 1:
                taken.refuted = self._clock.now  # it was grown, but not sent
                taken = None
            for child in self._root.children:
                if child is not taken and child.refuted is None:
                    child.refute(self._clock.now)
                    cancelled = True
            self._root.refuted = self._root.refuted or self._clock.now
            if taken is None:
                taken = Row(self._root.position + 1, right, 1.0, True)
                if taken.position < self._end:
                    self._ready.append(taken)
                    self._offer(taken)
            self._root, moved = taken, True
            self.known.append(self._clock.now)
        if cancelled:
            self._ready = [row for row in self._ready if row.refuted is None]
            self._flying = [s for s in self._flying if any(r.refuted is None for r in s.rows)]
            self._ring.cancel(self._somebody)
        if moved:
            self._rescale()

    def _rescale(self) -> None:
        """Chances are of what lies beneath the root now."""
        if self._drafting is not None and self._drafting.refuted is not None:
            self._drafting = None
        if not self._truth.acceptance:
            return
        waiting = [self._root]
        self._root.chance = 1.0
        while waiting:
            row = waiting.pop()
            for child in row.children:
                child.chance = row.chance * self._truth.acceptance[child.rank]
                waiting.append(child)
        self._frontier = [
            (-row.chance, number, row) for _, number, row in self._frontier if row.refuted is None
        ]
        heapq.heapify(self._frontier)
