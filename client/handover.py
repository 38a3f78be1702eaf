"""A stage that says that it leaves is replaced while it still serves.

Who takes its place is opened beside it and given the committed rows, out of what the stage before
has retained or, for the first stage, of the client's own, while tokens go on coming. The newcomer
links to the stage behind it and sends it nothing yet. Only when next to nothing is missing does a
new epoch begin (``client/recovery.py``), which then has few rows to send again. Should any of that
fail, the stage is replaced as one that was lost.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hearthring.client.attachment import Attachment
from hearthring.client.replacement import class_change
from hearthring.client.route import Stage
from hearthring.protocol.errors import DeadlineExceeded, HearthringError
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.messages import Replay, Row
from hearthring.protocol.replaying import cut
from hearthring.protocol.tasks import all_or_none, cancel
from hearthring.protocol.wire import encode_step

if TYPE_CHECKING:
    from hearthring.client.ring import RingSession

SECONDS = 0.8 * LIMITS.drain
"""For the whole of it: a leaving node doesn't wait for ever."""
OPENING = LIMITS.connect
"""Seconds a newcomer has to open, and to take what it is sent: nobody waits for it meanwhile."""
FEW, ROUNDS = 8, 6
"""Rows that may be missing when the new epoch begins, and how often the newest are sent after."""
WINDOW = 6
"""Steps on their way to a newcomer at once."""
LOOK, POLL = 0.5, 0.02
"""Seconds between looks for somebody, and between questions how far a newcomer is."""


@dataclass(slots=True)
class Newcomers:
    """Stages that come one behind the other into a route, at the places from ``first`` on."""

    first: int
    attached: list[Attachment] = field(default_factory=list)
    steps: int = 0
    """Sent so far; each has the next number."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A route that can be entered: ``attached`` are its new stages, in the place of ``lost``."""

    route: tuple[Stage, ...]
    lost: frozenset[Stage]
    attached: tuple[Attachment, ...]
    steps: int


class HandOver:
    """Replaces the stages of one session that leave."""

    def __init__(self, ring: "RingSession") -> None:
        self._ring = ring
        self.opened: list[Attachment] = []
        """Newcomers that aren't part of the ring yet."""
        self._leaving: dict[Attachment, HearthringError] = {}
        self._prepared: Prepared | None = None
        self._resting = False
        self._task: asyncio.Task[None] | None = None

    def begin(self, leaving: Attachment, error: HearthringError) -> bool:
        """A stage says that it leaves. Whether that is taken care of here."""
        spares = self._ring.replacing
        if self._ring.mending or spares is None:
            return False
        spares.avoided.add(leaving.stage.node)
        if self._resting:
            return True
        self._leaving[leaving] = error
        self._task = asyncio.create_task(self._run(self._task))
        return True

    def give_up(self) -> None:
        """Something else has happened to the ring: stages that leave count as lost."""
        for attached, error in self._leaving.items():
            if attached.down is None:
                attached.down, attached.suspected = error, True
        self._leaving.clear()
        if self._task is not None:
            self._task.cancel()

    async def take(self) -> Prepared | None:
        """What was prepared, if it is for just those stages that are lost now."""
        prepared, self._prepared = self._prepared, None
        lost = {a.stage for a in self._ring.places.attached if a.down is not None}
        well = all(attached.down is None for attached in self.opened)
        if prepared is not None and prepared.lost == lost and well:
            self.opened.clear()
            return prepared
        await self._leave()
        return None

    async def rest(self) -> None:
        """The session ends: whoever leaves serves so long, and would only be disturbed."""
        self._resting = True
        if self._task is not None:
            await cancel([self._task])
        if not self._ring.mending:  # by what was prepared, perhaps
            await self._leave()

    async def close(self) -> None:
        """Leave whoever isn't part of the ring. Idempotent."""
        if self._task is not None:
            await cancel([self._task])
        await self._leave()

    async def _leave(self) -> None:
        opened, self.opened = self.opened, []
        await asyncio.gather(*(attached.close() for attached in opened), return_exceptions=True)

    async def _run(self, before: "asyncio.Task[None] | None") -> None:
        if before is not None:
            await cancel([before])
        until = time.monotonic() + SECONDS
        while (left := until - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(left):
                    self._prepared = await self._prepare()
                break
            except (HearthringError, TimeoutError):  # it serves for a while yet
                await self._leave()
                await asyncio.sleep(LOOK)
            except asyncio.CancelledError:
                await self._leave()
                raise
        else:
            return
        leaving, self._leaving, self._task = self._leaving, {}, None
        for attached, error in leaving.items():
            attached.suspected = True
            self._ring.lose(attached, error, known=True)

    async def _prepare(self) -> Prepared | None:
        """Open and feed who comes. None if it isn't as simple as that."""
        ring, lost = self._ring, frozenset(attached.stage for attached in self._leaving)
        spares = ring.replacing
        if spares is None:
            return None
        route = await spares.instead(ring.route, lost, again=False, anybody=False)
        staying = set(ring.route) - lost
        if not staying.issubset(route) or class_change(ring.route, route):
            return None
        places = list(_runs(route, staying))
        groups = [Newcomers(run[0]) for run in places]
        ends = {run[-1] for run in places}

        async def open_(group: Newcomers, place: int) -> None:
            try:
                async with asyncio.timeout(OPENING):
                    attached = await ring.places.prepare(route, place, place in ends, self.opened)
            except (HearthringError, TimeoutError):
                spares.avoided.add(route[place].node)
                raise
            group.attached.append(attached)

        await all_or_none(
            *(open_(g, n) for g, run in zip(groups, places, strict=True) for n in run)
        )
        for group in groups:
            group.attached.sort(key=lambda attached: attached.stage.start)
        for _ in range(ROUNDS):
            for group in groups:
                await self._feed(route, group)
            if all(len(self._lacking(group)) <= FEW for group in groups):
                break
        for attached in self.opened:
            if attached.down is not None:
                raise attached.down
        return Prepared(route, lost, tuple(self.opened), max(group.steps for group in groups))

    def _lacking(self, group: Newcomers) -> list[Row]:
        """Rows of the text that have come back, and that newcomers weren't sent."""
        flight, received = self._ring.flight, self._ring.ledger.received
        fed = group.attached[0].fed or ()
        return [
            flight.live[n].row
            for n in flight.committed
            if n in received and n not in fed and n in flight.live
        ]

    async def _feed(self, route: Sequence[Stage], group: Newcomers) -> None:
        """Send newcomers what they lack now, and wait until the last of them has it."""
        ring, stage = self._ring, route[group.first]
        before = next((a for a in ring.places.attached if a.stage.end == stage.start), None)
        link = await ring.places.link_to(stage) if before is None else None
        for rows in cut(self._lacking(group), ring.row_bytes):
            group.steps += 1
            ids = tuple(row.id for row in rows)
            if before is not None:
                await before.say(Replay(group.steps, ids, stage.node, stage.address))
            elif link is not None:
                sent = [ring.flight.live[n] for n in ids]
                link.post(encode_step(ring.signed(group.steps, sent)))
            for attached in group.attached:
                attached.fed = (attached.fed or frozenset()).union(ids)
            await self._until(group, group.steps - WINDOW)
        await self._until(group, group.steps, idle=True)

    async def _until(self, group: Newcomers, step: int, idle: bool = False) -> None:
        """Wait until the last newcomer has come to a step, and is through with it if ``idle``."""
        last, begun = group.attached[-1], time.monotonic()
        while step > 0:
            progress = await last.probe(OPENING)
            if progress.step_id >= step and not (idle and progress.waiting):
                return
            if time.monotonic() - begun > OPENING:
                raise DeadlineExceeded("rows don't reach it", field=last.stage.node)
            await asyncio.sleep(POLL)


def _runs(route: Sequence[Stage], staying: set[Stage]) -> Iterator[list[int]]:
    """The places of new stages, neighbours together."""
    run = list[int]()
    for place, stage in enumerate(route):
        if stage not in staying:
            run.append(place)
        elif run:
            yield run
            run = []
    if run:
        yield run
