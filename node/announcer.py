"""A node's record: kept alive in the directory while the node serves, withdrawn when it stops."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import replace

from hearthring.node.directory import Directory
from hearthring.protocol import records
from hearthring.protocol.errors import HearthringError
from hearthring.protocol.identity import Identity
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.records import NodeRecord
from hearthring.protocol.tasks import cancel

Load = Callable[[], tuple[int, int]]
"""``(free KV rows, sessions)`` now."""


class Announcer:
    """Announces at once and then every third of a record's life, so that two may get lost."""

    def __init__(self, directory: Directory, record: NodeRecord, load: Load, who: Identity) -> None:
        self._directory, self._load, self._who = directory, load, who
        self._record = record
        self._task: asyncio.Task[None] | None = None

    @property
    def signed(self) -> bytes:
        """The record as it is now."""
        return records.sign(self._record, self._who)

    async def start(self) -> None:
        """Announce for the first time. Raises ``DirectoryDown`` if that isn't possible."""
        await self._announce()
        self._task = asyncio.create_task(self._keep_alive())

    async def withdraw(self) -> None:
        """Take the record back, once. Does its best: a record that stays dies by itself."""
        if self._task is not None:
            task, self._task = self._task, None
            await cancel([task])
            self._record = self._record.withdrawn()
            with contextlib.suppress(HearthringError):
                await self._directory.withdraw(self.signed)

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(LIMITS.record_life / 3)
            with contextlib.suppress(HearthringError):  # the directory restarts by itself
                await self._announce()

    async def _announce(self) -> None:
        free_rows, sessions = self._load()
        now = time.time()
        self._record = replace(
            self._record,
            free_rows=free_rows,
            sessions=sessions,
            sequence=time.time_ns() // 1000,  # grows over restarts too
            expires=round(now + LIMITS.record_life, 3),
        )
        await self._directory.announce(self.signed)
