"""Spot checks beside a generation: at a rate, the ring's stages show cells while they serve.

When another 32 rows are committed, and when the text has ended, each stage is checked or isn't, by
chance that none can foresee; newcomers and those with a bad past more often
(``Standing.check_rate``). Cells are drawn from all rows since the stage's last check: in full
chunks while the text goes on, in the end from all of it. One that fails is evicted, and the text
taken back to the last row that is verified.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Container, Sequence

from hearthring.client.coverage import Coverage
from hearthring.client.live_cells import RunnerOf, check_live
from hearthring.client.ring import RingSession
from hearthring.protocol.tasks import cancel
from hearthring.protocol.transport import Transport
from hearthring.shards.shape import Shape
from hearthring.verify.reputation import Evidence, Standing, live_lesson
from hearthring.verify.rowhash import CHUNK
from hearthring.verify.verdict import Verdict


class SpotChecks:
    """The checks of one session: ``rate`` of its chunks at stages of proven nodes, 0 for none.

    ``kinds()``: of every row of the text so far; ``runner_of``: own layers of a stage;
    ``standing``: what is known of a node; ``chance()``: 0 to 1, the system's
    if None, which no stage foresees.
    """

    def __init__(
        self,
        transport: Transport,
        ring: RingSession,
        shape: Shape,
        kinds: Callable[[], Sequence[int]],
        runner_of: RunnerOf,
        rate: float,
        standing: Callable[[str], Standing],
        chance: Callable[[], float] | None = None,
    ) -> None:
        self.rate = rate
        self.caught: dict[str, str] = {}
        """Nodes that failed, and why."""
        self.lessons: list[Evidence] = []
        """The same, for the user's memory of nodes."""
        self._transport, self._ring, self._shape = transport, ring, shape
        self._kinds, self._runner_of, self._standing = kinds, runner_of, standing
        self._coverage = Coverage(shape.layers)
        self._chance, self._seen = chance or random.SystemRandom().random, 0
        self._task: asyncio.Task[None] | None = None

    @property
    def verified(self) -> int:
        """Rows from position 0 on that are verified."""
        return self._coverage.whole

    def look(self) -> None:
        """Begin a check if it is time for one, and none is under way."""
        committed = len(self._ring.flight.committed)
        self._coverage.cut(committed)
        chunks = committed // CHUNK
        if self._task is not None and self._task.done():
            self._task.result()
            self._task = None
        if self._task is None and chunks != self._seen:
            self._seen = chunks
            if chosen := self._chosen():
                self._task = asyncio.create_task(self._check(chosen))

    async def settled(self) -> None:
        """Return when no check is under way."""
        if self._task is not None:
            await self._task
            self._task = None

    async def finish(self, flush: Callable[[], Awaitable[None]]) -> None:
        """The text has ended: end the check under way, and by the same chance make one last, of
        everything. ``flush`` has the stages commit to all rows.

        Raises ``RolledBack`` if that takes anything back, and what ended the session.
        """
        if not self.rate:
            return
        await self.settled()
        # An earlier end, of which rows were taken back, may have come further.
        self._coverage.cut(len(self._ring.flight.committed) // CHUNK * CHUNK)
        left = not self._ring.rollback.due and self.verified < len(self._kinds())
        if left and (chosen := self._chosen()):
            await flush()
            await self._check(chosen, whole=True)
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

    def _chosen(self) -> set[str]:
        """The nodes that chance wants checked now."""
        return {
            stage.node
            for stage in self._ring.route
            if self._chance() < self._standing(stage.node).check_rate(self.rate)
        }

    async def _check(self, chosen: Container[str], whole: bool = False) -> None:
        ring, known = self._ring, self._coverage
        known.cut(len(ring.flight.committed))
        found = await check_live(
            *(self._transport, ring, self._kinds(), self._shape, self._runner_of, known),
            chosen,
            whole,
        )
        for stage in found.passed:
            known.reach(stage, found.rows)
        # Rows that were taken back meanwhile aren't those that were checked.
        left = len(ring.flight.committed)
        known.cut(left if whole else left // CHUNK * CHUNK)
        for node, verdict in found.verdicts.items():
            if node not in found.failed:
                self._learn(node, verdict, verdict.reason)
        for node, why in found.failed.items():
            self.caught[node] = why
            self._learn(node, found.verdicts.get(node), why)
            ring.roll_back(self.verified - 1, node, why)

    def _learn(self, node: str, verdict: Verdict | None, why: str) -> None:
        lesson = live_lesson(self._ring.session, node, verdict, why, time.time())
        if lesson.good or lesson.bad:
            self.lessons[:] = [*(old for old in self.lessons if old.node != node), lesson]
