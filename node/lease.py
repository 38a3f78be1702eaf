"""A session's lease: it runs out ``LIMITS.idle`` seconds after the last step came, or its client
asked whether the stage is there, as it does while it waits for others."""

import asyncio
import time

from hearthring.node.places import Place
from hearthring.protocol.errors import DeadlineExceeded
from hearthring.protocol.limits import LIMITS


async def within_lease(place: Place, reading: "asyncio.Future[bytes | None]") -> bytes | None:
    """What is read. Raises ``DeadlineExceeded`` once the lease has run out."""
    while not reading.done():
        left = place.touched + LIMITS.idle - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded(f"no step for {LIMITS.idle:.0f} s", field="lease")
        await asyncio.wait([reading], timeout=left)
    return reading.result()
