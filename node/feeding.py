"""Rows for a stage that is to take the next one's place, sent while that one still serves."""

import asyncio
import contextlib

from hearthring.node.orders import check_replay
from hearthring.protocol.backlog import Backlog
from hearthring.protocol.errors import HearthringError, QuotaExceeded
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.links import Links
from hearthring.protocol.messages import Replay, Step
from hearthring.protocol.wire import encode_step


class Feeding:
    """What one session sends beside its way to the next stage.

    A newcomer that can't be reached is no trouble of the session's: the client, which waits for
    the newcomer to say how far it is, tries another one.
    """

    def __init__(self) -> None:
        self._queue = Backlog[tuple[str, str, bytes]](LIMITS.steps_in_flight)

    def post(self, order: Replay, step: Step) -> None:
        """Queue a step for whom the order names. Raises ``QuotaExceeded`` if too many wait."""
        check_replay(order)
        data = encode_step(step)
        try:
            self._queue.put((order.next_address, order.next, data), len(data))
        except asyncio.QueueFull:
            raise QuotaExceeded("too many steps wait to be sent", field="replay") from None

    async def run(self, links: Links) -> None:
        """Send what is queued, until cancelled. The session's own steps don't wait for it."""
        with contextlib.ExitStack() as stack:
            while True:
                address, node, data = await self._queue.get()
                with contextlib.suppress(HearthringError):
                    link = await links.get(address, node)
                    stack.pop_all().close()  # the one before
                    stack.callback(link.use(self._ended))
                    link.post(data)

    def _ended(self, error: HearthringError) -> None:
        """Nobody's trouble, see above."""
