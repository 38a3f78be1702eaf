"""A session's places at the stages of its route: taking them, and telling who didn't give one."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hearthring.client.attachment import Attachment
from hearthring.client.hearing import Hearing
from hearthring.client.orders import Ordering
from hearthring.client.route import Stage
from hearthring.protocol.errors import DeadlineExceeded, HearthringError, StageFailed
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.links import Link, Links
from hearthring.protocol.messages import ROOT, Open, Opened, Reroute
from hearthring.protocol.tasks import all_or_none
from hearthring.protocol.transport import Method, Transport

if TYPE_CHECKING:
    from hearthring.client.ring import RingSession


@dataclass(slots=True)
class Places:
    """Where a session is attached, and its link to the first stage."""

    ring: "RingSession"
    transport: Transport
    ends: str
    """The fingerprint of the client's ends."""
    attached: list[Attachment] = field(default_factory=list)
    """One per stage, in the order of the route once the session is open."""
    blamed: set[str] = field(default_factory=set)
    """Nodes whose failure ended the session, if one did."""
    accusing: set[str] = field(default_factory=set)
    """Nodes that opened, but say that they can't reach the next."""
    link: Link | None = None
    _links: Links = field(init=False)
    hearing: Hearing = field(init=False)
    _unuse: Callable[[], None] | None = None
    _reached: dict[Stage, bool] = field(default_factory=dict)
    """Stages that took the call, and whether they have opened."""

    def __post_init__(self) -> None:
        """Nothing is dialled yet."""
        self._links, self.hearing = Links(self.transport), Hearing(self.ring)

    async def open(self, seconds: float) -> None:
        """Take all places at once, last one first in effect: each stage links to its next.

        Raises what a stage refused with, naming the stage, or ``DeadlineExceeded`` after so many
        ``seconds``; ``blamed`` says who didn't do its part. What was taken stays, to be closed.
        """
        try:
            async with asyncio.timeout(seconds):
                await all_or_none(*(self.attach(place) for place in range(len(self.ring.route))))
                await self.link_first()
        except TimeoutError:
            late = await self._silent() or self._late()
            self.blamed.update(stage.node for stage in late)
            who = ", ".join(f"layers {s.start} to {s.end} at {s.node}" for s in late)
            raise DeadlineExceeded(
                f"didn't open in {seconds:.0f} s: {who}", field="route"
            ) from None
        self.attached.sort(key=lambda attached: attached.stage.start)
        for attached in self.attached:
            attached.whole = True  # no row has been sent

    async def close(self) -> None:
        """Leave every stage. Idempotent."""
        attached, self.attached = self.attached, []
        await asyncio.gather(*(a.close() for a in attached), return_exceptions=True)
        await self._links.close()

    async def link_first(self) -> None:
        """Link to the first stage. Raises ``StageFailed`` that names it."""
        first = self.ring.route[0]
        if self._unuse is not None:
            self._unuse()
        try:
            self.link = await self._links.get(first.address, first.node)
        except HearthringError as error:
            self.blamed.add(first.node)
            raise first.failed(error) from error
        self._unuse = self.link.use(self.ring.lose_first)

    async def attach(self, place: int) -> None:
        """Open the stage at a place of the route. Raises ``StageFailed`` that names it.

        When cancelled, nothing of it is left: half a place must not count as one.
        """
        wish = self._ordering(self.ring.route).open(place, self.ring.wishes())
        await self._take(self.ring.route[place], wish, self.attached)

    async def prepare(
        self, route: Sequence[Stage], place: int, silent: bool, among: list[Attachment]
    ) -> Attachment:
        """Open a new stage of a route that isn't entered yet. Raises as ``attach`` does."""
        wish = self._ordering(route).open(place, self.ring.wishes(), silent)
        return await self._take(route[place], wish, among)

    async def _take(self, stage: Stage, wish: Open, among: list[Attachment]) -> Attachment:
        attached = None
        try:
            stream = await self.transport.dial(stage.address, stage.node, Method.ATTACH)
            attached = Attachment(stage, stream, self.hearing)
            among.append(attached)
            self._reached[stage] = False
            await attached.ask(wish, Opened, 2 * LIMITS.connect)
            self._reached[stage] = True
            return attached
        except asyncio.CancelledError:
            if attached is not None and attached in among:
                among.remove(attached)
                await attached.close()
            raise
        except HearthringError as error:
            blocked = attached is not None and attached.blocked
            (self.accusing if blocked else self.blamed).add(stage.node)
            raise (
                error
                if isinstance(error, StageFailed) and error.field == "stage"
                else stage.failed(error)
            ) from error

    def order(self, place: int, to: Attachment) -> Reroute:
        """What a stage that stays, or was prepared, is told of this epoch.

        One that was prepared keeps its rows up to the first that it lacks. It and the stage behind
        it are asked what these were.
        """
        flight = self.ring.flight
        committed, live, compare = flight.committed, flight.undecided(), ROOT
        if to.fed is not None:
            committed, live = self.held(to), ()
            compare = max(committed, default=ROOT)
        elif place and (before := self._at(self.ring.route[place - 1])) and before.fed is not None:
            compare = max(self.held(before), default=ROOT)
        ordering = self._ordering(self.ring.route)
        return ordering.stay(place, tuple(committed), live, compare)

    def held(self, prepared: Attachment) -> list[int]:
        """The committed rows that a prepared stage was given, up to the first row that it lacks."""
        flight, fed = self.ring.flight, prepared.fed or frozenset()
        lacks = next((row for row in flight.live if row not in fed), None)
        return [row for row in flight.committed if lacks is None or row < lacks]

    def _at(self, stage: Stage) -> Attachment | None:
        return next((attached for attached in self.attached if attached.stage == stage), None)

    async def link_to(self, stage: Stage) -> Link:
        """The link to any stage. Raises what ``Links.get`` does."""
        return await self._links.get(stage.address, stage.node)

    def _ordering(self, route: Sequence[Stage]) -> Ordering:
        """What the stages of a route are told in this epoch."""
        ring, who = self.ring, self.transport.identity.node_id
        return Ordering(ring.session, ring.epoch, route, who, self.ends)

    async def _silent(self) -> list[Stage]:
        """Who took no call, or has opened and says nothing now: others wait for those."""
        open_ = self.attached
        said = await asyncio.gather(*(self.ring.pulse.feel(attached) for attached in open_))
        silent = {a.stage for a, answer in zip(open_, said, strict=True) if answer is None}
        return [s for s in self.ring.route if s in silent or (silent and s not in self._reached)]

    def _late(self) -> list[Stage]:
        """Who keeps an opening waiting: those that took no call, else the last that didn't open.

        The others may be well, since a stage opens once it has reached the next one.
        """
        route = self.ring.route
        silent = [stage for stage in route if stage not in self._reached]
        waiting = [stage for stage in route if not self._reached.get(stage)]
        return silent or waiting[-1:] or [route[0]]
