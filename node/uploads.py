"""How fast a node gives away its layers: one peer after the other, and slower while it serves."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable

from hearthring.protocol.errors import StageFailed
from hearthring.protocol.tasks import cancel

UPLOAD_RATE = 64 * 2.0**20
"""Bytes per second, unless the user says otherwise."""
BUSY_SHARE = 0.25
"""Share of the rate that is used while sessions are open."""


class Uploads:
    """Turns to send, handed out at ``rate`` bytes per second; 0 is no limit.

    Peers take turns however much each asks for, so a greedy one waits for itself alone. While
    ``busy()`` says that somebody's session runs, only a quarter of the rate is given. ``sleep``
    is the clock.
    """

    def __init__(
        self,
        rate: float,
        busy: Callable[[], bool] = lambda: False,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._rate, self._busy, self._sleep = rate, busy, sleep
        self._waiting: OrderedDict[str, deque[tuple[int, asyncio.Future[None]]]] = OrderedDict()
        self._pump: asyncio.Task[None] | None = None
        self._closed = False

    async def turn(self, peer: str, size: int) -> None:
        """Wait until ``peer`` may be sent ``size`` bytes. Raises ``StageFailed`` once closed."""
        if self._closed:
            raise StageFailed("the node is leaving", field="layers")
        if not self._rate:
            return
        granted = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(peer, deque()).append((size, granted))
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._run())
        await granted

    async def _run(self) -> None:
        while self._waiting:
            peer, queue = self._waiting.popitem(last=False)
            size, granted = queue.popleft()
            if queue:
                self._waiting[peer] = queue  # behind all others
            if granted.done():  # its caller is gone
                continue
            granted.set_result(None)
            share = BUSY_SHARE if self._busy() else 1.0
            await self._sleep(size / (self._rate * share))

    async def close(self) -> None:
        """Hand out no more turns; who waits is cancelled."""
        self._closed = True
        if self._pump is not None:
            await cancel([self._pump])
        waiting, self._waiting = self._waiting, OrderedDict()
        for queue in waiting.values():
            for _, granted in queue:
                granted.cancel()
