"""The end of a session: what every stage signs for, and what it was sent."""

import asyncio
import time
from collections.abc import Sequence

from hearthring.client.attachment import Attachment
from hearthring.client.ring import RingSession
from hearthring.protocol.errors import DeadlineExceeded, HearthringError
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.messages import Evidence, EvidenceQuery, Finish, Receipt

RECEIPT_SECONDS = LIMITS.receipt
_FINISHES = 3


async def finish(ring: RingSession, commit: Sequence[int]) -> list[Receipt | None]:
    """Commit the last rows everywhere and collect receipts; ``None`` where one is withheld.

    A stage that is lost now is replaced as any other, since its receipt is needed; if it can't
    be, there is none of it. Raises ``RolledBack`` if its replacement computed something else.
    """
    await ring.handing.rest()
    if not ring.mending:
        ring.rollback.tell(ring.flight.live)
    ring.flight.commit(commit)
    route, receipts = ring.route, list[Receipt | None]()
    for _ in range(_FINISHES):
        epoch, wanted = ring.epoch, tuple(ring.flight.committed)
        found = await asyncio.gather(*(_receipt(ring, a, wanted) for a in ring.places.attached))
        route, receipts = ring.route, list(found)
        if ring.epoch == epoch and not ring.mending:
            break
        try:
            async with asyncio.timeout(LIMITS.receipt):
                await ring.whole()
                ring.rollback.tell(ring.flight.live)
        except (HearthringError, TimeoutError):
            break
    ring.route = route
    return [*receipts, *[None] * (len(route) - len(receipts))]


async def evidence(ring: RingSession, place: int) -> Evidence | None:
    """What the stage at ``place`` was sent, or ``None`` if it doesn't say."""
    try:
        return await ring.places.attached[place].ask(EvidenceQuery(), Evidence, RECEIPT_SECONDS)
    except (HearthringError, IndexError):
        return None


async def _receipt(
    ring: RingSession, attached: Attachment, commit: tuple[int, ...]
) -> Receipt | None:
    """A stage's receipt, or ``None``. Where steps of the session still wait it is asked again, for
    as long as a step may take."""
    frame, until = Finish(attached.last_step, commit), time.monotonic() + LIMITS.step
    while True:
        try:
            return await attached.ask(frame, Receipt, RECEIPT_SECONDS)
        except DeadlineExceeded:
            progress = await ring.pulse.feel(attached)
            if progress is None or not progress.waiting or time.monotonic() > until:
                return None
        except HearthringError:
            return None
