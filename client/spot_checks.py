"""Spot checks beside a generation: at a rate, the ring's stages show cells while they serve.

A check runs when another 32 rows are committed, or doesn't, by chance that no stage can foresee; it
draws from all rows since the last one. A stage that fails is evicted, and the text taken back to
the last row that is verified.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence

from hearthring.client.live_cells import RunnerOf, check_live
from hearthring.client.ring import RingSession
from hearthring.protocol.tasks import cancel
from hearthring.protocol.transport import Transport
from hearthring.shards.shape import Shape
from hearthring.verify.reputation import Evidence, live_lesson
from hearthring.verify.rowhash import CHUNK


class SpotChecks:
    """The checks of one session: ``rate`` of its chunks, 0 for none.

    ``kinds()``: of every row of the text so far; ``runner_of``: own layers of a stage.
    """

    def __init__(
        self,
        transport: Transport,
        ring: RingSession,
        shape: Shape,
        kinds: Callable[[], Sequence[int]],
        runner_of: RunnerOf,
        rate: float,
    ) -> None:
        self.rate, self.verified = rate, 0
        """Rows from position 0 on that are verified."""
        self.caught: dict[str, str] = {}
        """Nodes that failed, and why."""
        self.lessons: list[Evidence] = []
        """The same, for the user's memory of nodes."""
        self._transport, self._ring, self._shape = transport, ring, shape
        self._kinds, self._runner_of = kinds, runner_of
        self._chance, self._seen = random.SystemRandom(), 0
        self._task: asyncio.Task[None] | None = None

    def look(self) -> None:
        """Begin a check if it is time for one, and none is under way."""
        chunks = len(self._ring.flight.committed) // CHUNK
        if self._task is not None and self._task.done():
            self._task.result()
            self._task = None
        if self._task is None and chunks != self._seen:
            self._seen = chunks
            if self._chance.random() < self.rate:
                self._task = asyncio.create_task(self._check())

    async def finish(self) -> None:
        """The text has ended: end the check under way, and make one last.

        Raises ``RolledBack`` if that takes anything back, and what ended the session.
        """
        if not self.rate:
            return
        if self._task is not None:
            await self._task
            self._task = None
        if not self._ring.rollback.due:
            await self._check()
        if self._ring.rollback.due:
            await self._ring.whole()
            self._ring.rollback.tell(self._ring.flight.live)

    def answers(self, prompt: int, tokens: int) -> int | None:
        """How many of an answer's first tokens were chosen from verified rows; ``None`` without
        checks. A token is chosen from the row before it."""
        return min(tokens, max(0, self.verified - prompt + 1)) if self.rate else None

    async def close(self) -> None:
        """Leave the check under way. Idempotent."""
        if self._task is not None:
            await cancel([self._task])

    async def _check(self) -> None:
        self.verified = min(self.verified, len(self._ring.flight.committed))
        before = self.verified
        found = await check_live(
            self._transport, self._ring, self._kinds(), self._shape, self._runner_of, before
        )
        # Rows that were taken back meanwhile aren't those that were checked.
        still = len(self._ring.flight.committed) // CHUNK * CHUNK
        self.verified = min(max(before, found.verified), still)
        for node, why in found.failed.items():
            self.caught[node] = why
            verdict, session = found.verdicts.get(node), self._ring.session
            self.lessons.append(live_lesson(session, node, verdict, why, time.time()))
            self._ring.roll_back(self.verified - 1, node, why)
