"""A session's lease: it runs out once no step has come for ``LIMITS.idle`` seconds."""

import asyncio
import time

from hearthring.node.places import Place
from hearthring.protocol.errors import DeadlineExceeded
from hearthring.protocol.limits import LIMITS


async def within_lease(place: Place, reading: "asyncio.Future[bytes | None]") -> bytes | None:
    """What is read. Raises ``DeadlineExceeded`` once no step has come for ``LIMITS.idle``."""
    while not reading.done():
        left = place.touched + LIMITS.idle - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded(f"no step for {LIMITS.idle:.0f} s", field="lease")
        await asyncio.wait([reading], timeout=left)
    return reading.result()
