"""The client's account of a session's rows: which live, which are under way, what is awaited.

Rows outlive the steps that carried them: after a fail-over they come back in other steps, so
results are put together row by row. Nothing here does I/O.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from hearthring.protocol.messages import HopTime, Row
from hearthring.protocol.tensors import F32


@dataclass(frozen=True, slots=True)
class Result:
    """What came back for one step.

    After a fail-over ``times`` are those of the step that brought the last row, and rows that were
    dropped before they came back are zeros.
    """

    step_id: int
    rows: tuple[Row, ...]
    states: F32
    times: tuple[HopTime, ...]


@dataclass(frozen=True, slots=True)
class Sent:
    """A living row as the client sent it: its bytes at boundary 0."""

    row: Row
    wire: memoryview


@dataclass(slots=True)
class Asked:
    """Rows somebody waits for; ``states`` fills up as they come."""

    step_id: int
    rows: tuple[Row, ...]
    width: int
    result: "asyncio.Future[Result]"
    left: int
    states: F32 | None = None
    times: tuple[HopTime, ...] = ()

    def fill(self, row_id: int, state: F32) -> None:
        """One more of its rows is here."""
        if self.states is None:
            self.states = np.zeros((len(self.rows), self.width), np.float32)
        place = next(i for i, row in enumerate(self.rows) if row.id == row_id)
        self.states[place] = state

    def settle(self) -> None:
        """Hand over what is there."""
        states = self.states
        if states is None:
            states = np.zeros((len(self.rows), self.width), np.float32)
        if not self.result.done():
            self.result.set_result(Result(self.step_id, self.rows, states, self.times))


@dataclass(slots=True)
class Flight:
    """Rows and steps of one session."""

    live: dict[int, Sent] = field(default_factory=dict)
    """By id, in the order of ids; committed rows among them."""
    committed: list[int] = field(default_factory=list)
    steps: dict[int, tuple[Row, ...]] = field(default_factory=dict)
    """Rows of the steps under way, by step."""
    moved: float = 0.0
    """When a step last came back, or set out while none was under way."""
    doomed: set[int] = field(default_factory=set)
    """Rows under way that were cancelled."""
    _decided: set[int] = field(default_factory=set)
    _pending: dict[int, Asked] = field(default_factory=dict)
    _empty: dict[int, Asked] = field(default_factory=dict)
    _arrival: asyncio.Event = field(default_factory=asyncio.Event)

    def commit(self, rows: Iterable[int]) -> None:
        """Earlier rows belong to the text."""
        for row in rows:
            if row not in self._decided:
                self._decided.add(row)
                self.committed.append(row)

    def discard(self, rows: Iterable[int]) -> set[int]:
        """Living rows that aren't committed are given up; returns them with their descendants."""
        gone = (self.live.keys() & set(rows)) - self._decided
        if not gone:
            return gone
        first, later = min(gone), list[Sent]()
        for sent in reversed(self.live.values()):
            if sent.row.id < first:
                break
            later.append(sent)
        for sent in reversed(later):
            if sent.row.parent in gone:
                gone.add(sent.row.id)
        for row_id in gone:
            del self.live[row_id]
        return gone

    def doom(self, rows: Iterable[int]) -> tuple[int, ...]:
        """Of rows given up, those still under way: they may come back empty."""
        under_way = sorted(row for row in rows if row in self._pending)
        self.doomed.update(under_way)
        return tuple(under_way)

    def revoke(self, rows: Iterable[int]) -> None:
        """Rows and all that hang on them are void, whatever was decided; who waits gets zeros.

        ``rows`` holds every living descendant of each.
        """
        gone = set(rows)
        for row_id in gone:
            self.live.pop(row_id, None)
        self._decided -= gone
        self.committed = [row for row in self.committed if row not in gone]
        self._settle_dead()

    def undecided(self) -> tuple[int, ...]:
        """Living rows that aren't committed."""
        return tuple(row for row in self.live if row not in self._decided)

    def ask(
        self, step_id: int, rows: Sequence[Row], width: int, waiting: "asyncio.Future[Result]"
    ) -> None:
        """Await the rows of a step that is about to set out."""
        asked = Asked(step_id, tuple(rows), width, waiting, len(rows))
        for row in rows:
            self._pending[row.id] = asked
        if not rows:
            self._empty[step_id] = asked

    @staticmethod
    def refuse(waiting: "asyncio.Future[Result]", rows: Sequence[Row], width: int) -> None:
        """Rows that won't set out: who waits for them gets zeros."""
        Asked(0, tuple(rows), width, waiting, 0).settle()

    def launch(self, step_id: int, rows: tuple[Row, ...]) -> None:
        """A step sets out."""
        if not self.steps:
            self.moved = time.monotonic()
        self.steps[step_id] = rows

    def land(
        self, step_id: int, rows: Sequence[Row], states: F32, times: tuple[HopTime, ...]
    ) -> None:
        """A step is back: ``states`` is ``[rows, width]`` for the rows that weren't dead."""
        carried = self.steps.pop(step_id)
        self.moved = time.monotonic()
        self._arrival.set()
        if (asked := self._empty.pop(step_id, None)) is not None:
            asked.times = times
            asked.settle()
        alive = {row.id: state for row, state in zip(rows, states, strict=True)}
        for row in carried:
            self.doomed.discard(row.id)
            asked = self._pending.pop(row.id, None)
            if asked is None:
                continue
            asked.times = times
            if asked.left == len(asked.rows) and asked.rows == carried == rows:
                asked.states = states
                for other in carried[1:]:
                    self._pending.pop(other.id, None)
                    self.doomed.discard(other.id)
                asked.settle()
                return
            if (state := alive.get(row.id)) is not None:
                asked.fill(row.id, state)
            asked.left -= 1
            if not asked.left:
                asked.settle()

    def abandon(self) -> None:
        """No step under way will come back. Rows that live are still awaited, others aren't."""
        self.steps.clear()
        self.doomed.clear()
        for asked in self._empty.values():
            asked.settle()
        self._empty.clear()
        self._settle_dead()

    def _settle_dead(self) -> None:
        """Nobody waits for rows that don't live."""
        for row_id in [row for row in self._pending if row not in self.live]:
            asked = self._pending.pop(row_id)
            asked.left -= 1
            if not asked.left:
                asked.settle()

    def stalled(self) -> float:
        """Seconds since anything moved; 0 when nothing is under way."""
        return time.monotonic() - self.moved if self.steps else 0.0

    async def below(self, steps: int) -> None:
        """Wait until fewer than ``steps`` are under way."""
        while len(self.steps) >= steps:
            self._arrival.clear()
            await self._arrival.wait()

    def end(self, error: BaseException | None) -> None:
        """Nothing will come back any more: with an error, or by the client's own wish."""
        for asked in (*self._pending.values(), *self._empty.values()):
            if asked.result.done():
                continue
            if error is None:
                asked.result.cancel()
            else:
                asked.result.set_exception(error)
