"""What waits for one reader, bounded by number and by bytes."""

import asyncio
from typing import Generic, TypeVar

from hearthring.protocol.limits import LIMITS

T = TypeVar("T")


class Backlog(Generic[T]):
    """A queue that never blocks who puts, and refuses instead.

    At most ``most`` items wait, and ``LIMITS.backlog_bytes`` of them together.
    """

    def __init__(self, most: int) -> None:
        self._items = asyncio.Queue[tuple[T, int]](most)
        self.bytes = 0
        """Of what waits now."""

    def __len__(self) -> int:
        """Items that wait now."""
        return self._items.qsize()

    def put(self, item: T, size: int) -> None:
        """Queue an item of so many bytes behind the others. Raises ``asyncio.QueueFull``, which
        changes nothing."""
        if self.bytes + size > LIMITS.backlog_bytes:
            raise asyncio.QueueFull
        self._items.put_nowait((item, size))
        self.bytes += size

    async def get(self) -> T:
        """The next item, as soon as there is one."""
        item, size = await self._items.get()
        self.bytes -= size
        return item
