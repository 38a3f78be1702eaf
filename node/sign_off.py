"""The end of a session at a stage: it signs for what the client has committed."""

import asyncio

from hearthring.node.archive import Archive
from hearthring.node.places import Place, place_key
from hearthring.node.worker import Worker
from hearthring.protocol.errors import DeadlineExceeded
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.messages import Finish
from hearthring.protocol.tasks import race, until


async def sign_off(place: Place, worker: Worker, archive: Archive) -> None:
    """Sign whenever the client asks, until cancelled. Raises what ends the session.

    Steps that were lost with the stage before are awaited only until a new epoch begins, of which
    the client must be able to tell meanwhile.
    """
    while True:
        await place.finishing.wait()
        place.finishing.clear()
        if place.finish is not None:
            await race(_sign(place, place.finish, worker, archive), until(place.finishing))


async def _sign(place: Place, order: Finish, worker: Worker, archive: Archive) -> None:
    await _run(place, order.last_step)
    receipt = await worker.run(lambda: place.session.receipt(order.commit))
    record = await worker.run(place.session.record)
    if record is not None:
        wish = place.session.wish
        archive.keep(place_key(wish.session, wish.start), record)
    if receipt is not None:
        place.post(receipt)


async def _run(place: Place, step_id: int) -> None:
    """Wait for a step to run: as long as steps wait here for the engine, or else for so long."""
    while True:
        try:
            async with asyncio.timeout(LIMITS.receipt):
                return await place.has_run(step_id)
        except TimeoutError:
            if not place.under_way:
                late = f"step {step_id} never arrived"
                raise DeadlineExceeded(late, field="finish") from None
