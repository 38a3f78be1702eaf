"""Fail-over: what the client does when a stage is lost, so that no token is.

It alone begins a new epoch. Stages that are left learn their new neighbours and which rows live;
others are opened in the place of the lost ones; then every row they lack is sent through them
again, out of what the stage before the first new one has retained, or out of the client's own.
Stages behind recognise what they hold by its hash and answer from what they retained. Should
another stage fail meanwhile, it begins again.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hearthring.client.attachment import Attachment
from hearthring.client.handover import Prepared
from hearthring.client.replacement import Spares, class_change, gaps, pause
from hearthring.client.resending import compare, resend
from hearthring.client.route import Stage
from hearthring.protocol.errors import DeadlineExceeded, HearthringError, NoRoute, StageFailed
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.messages import Reroute, Rerouted
from hearthring.protocol.tasks import all_or_none, race

if TYPE_CHECKING:
    from hearthring.client.ring import RingSession

HANDSHAKE = 1.75
"""Seconds a stage has to adopt a new epoch, its link to the next one included; more in every
further attempt, up to ``LIMITS.connect`` twice, since a busy machine isn't a dead one."""


@dataclass(frozen=True, slots=True)
class Mended:
    """One fail-over: who was lost and why, when that was noticed, and how long it took.

    ``at`` is a ``time.monotonic`` moment, ``seconds`` the time from it until the ring was whole.
    ``changed`` names stages of another numerics class than those whose places they took.
    """

    lost: tuple[str, ...]
    reason: str
    at: float
    seconds: float
    changed: str = ""


@dataclass(slots=True)
class Recovery:
    """Mends one ring, as often as needed."""

    ring: "RingSession"
    spares: Spares
    mended: list[Mended] = field(default_factory=list)
    _trouble: asyncio.Event = field(default_factory=asyncio.Event)
    _handshake: float = HANDSHAKE
    _patience: float = 1.0

    def disturb(self) -> None:
        """Another stage is down: an attempt under way begins again."""
        self._trouble.set()

    async def run(self) -> None:
        """Mend the ring.

        Raises ``NoRoute`` that lists what is missing once ``Spares.patience`` is over.
        """
        ring, begun, before = self.ring, time.monotonic(), self.ring.route
        lost = _lost(ring.places.attached)
        attempt = 0
        while True:
            await asyncio.sleep(pause(attempt))
            try:
                self._trouble.clear()
                self._patience = 1.5**attempt
                self._handshake = min(HANDSHAKE * self._patience, 2 * LIMITS.connect)
                await race(self._attempt(attempt), self._disturbed())
            except HearthringError as error:
                lost |= _lost(ring.places.attached)
                attempt += 1
                if time.monotonic() - begun > self.spares.patience:
                    raise _given_up(error, lost, self._gaps(), self.spares.patience) from error
                if isinstance(error, NoRoute):
                    attempt = max(attempt, 2)  # nothing will change at once
                continue
            reason = "; ".join(dict.fromkeys(lost.values()))
            took, changed = time.monotonic() - begun, "; ".join(class_change(before, ring.route))
            self.mended.append(Mended(tuple(lost), reason, begun, took, changed))
            return

    def _gaps(self) -> list[tuple[int, int]]:
        """Windows that no stage runs now."""
        up = {a.stage for a in self.ring.places.attached if a.down is None}
        return gaps(
            self.ring.route, frozenset(stage for stage in self.ring.route if stage not in up)
        )

    async def _disturbed(self) -> None:
        await self._trouble.wait()
        raise StageFailed("another stage failed meanwhile", field="ring")

    async def _attempt(self, attempt: int) -> None:
        prepared = await self.ring.handing.take()
        route = prepared.route if prepared is not None else await self._route(attempt)
        self.ring.rollback.class_changing |= bool(class_change(self.ring.route, route))
        kept = await self._enter(route, prepared)
        said = await self._agree(route, kept)
        compare(self.ring, said)
        await resend(self.ring, {stage: answer.newest for stage, answer in said.items()})
        self.ring.rollback.class_changing = False

    async def _route(self, attempt: int) -> tuple[Stage, ...]:
        """The route of the next epoch. Who is only suspected stays, if nobody can replace it.

        Once it has let an attempt fail, nodes that failed before it are tried too: whoever failed
        least. The directory is asked before the third attempt, or where the records at hand show
        nobody: another loss during the first says nothing of them, and asking takes its time.
        """
        ring, again, anybody = self.ring, attempt > 1, attempt > 0
        up = {a.stage for a in ring.places.attached if a.down is None}
        down = frozenset(stage for stage in ring.route if stage not in up)
        doubtful = [a for a in ring.places.attached if a.down is not None and a.suspected]
        try:
            route = await self.spares.instead(ring.route, down, again, anybody or not doubtful)
            _trust(a for a in doubtful if a.stage in route)
            return route
        except HearthringError:
            if not doubtful:
                raise
            _trust(doubtful)
            rest = down - {a.stage for a in doubtful}
            return await self.spares.instead(ring.route, rest, True, True) if rest else ring.route

    async def _enter(self, route: tuple[Stage, ...], prepared: Prepared | None) -> frozenset[Stage]:
        """Begin the epoch on this side; leave who isn't needed. Returns the stages that stay, and
        those that were prepared."""
        ring = self.ring
        ring.revoke()
        ring.flight.abandon()
        ring.unsaid.clear()  # the new epoch's orders name the rows that stay, and no others
        ring.epoch, ring.route = ring.epoch + 1, route
        staying = [a for a in ring.places.attached if a.down is None and a.stage in route]
        leaving = [a for a in ring.places.attached if a not in staying]
        if prepared is not None:
            staying += prepared.attached
            ring.number_from(prepared.steps)
        ring.places.attached = staying
        for attached in staying:
            attached.last_step = 0
        await asyncio.gather(*(a.close() for a in leaving))
        return frozenset(a.stage for a in staying)

    async def _agree(self, route: Sequence[Stage], kept: frozenset[Stage]) -> dict[Stage, Rerouted]:
        """Open the new stages and re-route the others; what each of these says that it holds."""
        ring, said = self.ring, dict[Stage, Rerouted]()
        old = {a.stage: a for a in ring.places.attached}

        async def alive(attached: Attachment) -> None:
            if await ring.pulse.feel(attached, self._patience) is None:
                raise DeadlineExceeded("it doesn't answer", field=attached.stage.node)

        async def reroute(attached: Attachment, order: Reroute) -> None:
            said[attached.stage] = await attached.ask(order, Rerouted, self._handshake, order.epoch)

        async def tell(place: int, attached: Attachment) -> None:
            try:
                # It may be a while until it has linked to the next stage, but not until it says
                # that it is there: who is silent is known before.
                await all_or_none(
                    alive(attached), reroute(attached, ring.places.order(place, attached))
                )
            except DeadlineExceeded as error:
                ring.suspect(attached, error)
                raise

        async def open_(place: int) -> None:
            try:
                async with asyncio.timeout(self._handshake):
                    await ring.places.attach(place)
            except TimeoutError:
                self.spares.avoided.add(route[place].node)
                error = DeadlineExceeded("it doesn't open in time", field=route[place].node)
                raise error from None
            except HearthringError:
                blocked = any(a.stage == route[place] and a.blocked for a in ring.places.attached)
                if not blocked:
                    self.spares.avoided.add(route[place].node)
                raise

        await all_or_none(
            *(
                tell(place, old[stage]) if stage in kept else open_(place)
                for place, stage in enumerate(route)
            )
        )
        ring.places.attached.sort(key=lambda attached: attached.stage.start)
        await ring.places.link_first()
        return said


def _trust(doubtful: Iterable[Attachment]) -> None:
    """They are to stay after all."""
    for attached in doubtful:
        attached.down, attached.suspected = None, False


def _lost(attached: Sequence[Attachment]) -> dict[str, str]:
    """Why stages are down, by node."""
    return {
        a.stage.node: f"layers {a.stage.start} to {a.stage.end}: {type(a.down).__name__}: {a.down}"
        for a in attached
        if a.down is not None
    }


def _given_up(
    error: HearthringError, lost: dict[str, str], gaps: Sequence[tuple[int, int]], seconds: float
) -> NoRoute:
    """What is missing: the last attempt's error with what it all began with."""
    began = "; ".join(f"{node}: {why}" for node, why in lost.items())
    missing = error.missing if isinstance(error, NoRoute) and error.missing else tuple(gaps)
    spans = ", ".join(f"[{first}, {last})" for first, last in missing)
    return NoRoute(
        f"layers {spans} couldn't be replaced for {seconds:g} s ({error.message}); "
        f"the session has lost {began}",
        field="route",
        mend="start a node with --layers START:END",
        missing=missing,
    )
