"""Noticing that a ring stands still: which stage doesn't answer, or which link carries nothing.

A killed node ends its streams and is noticed by that. A stopped or cut-off one says nothing: when
no step has come back for a moment, every stage is asked whether it is there and how far it is. One
that is busy answers, so that slow isn't taken for dead.
"""

import asyncio
import time
from typing import TYPE_CHECKING

from hearthring.client.attachment import Attachment
from hearthring.protocol.errors import DeadlineExceeded, HearthringError, PeerUnreachable
from hearthring.protocol.messages import Probe, Progress

if TYPE_CHECKING:
    from hearthring.client.ring import RingSession

TICK = 0.1
PATIENCE = 0.3
"""Seconds without a result before stages are asked."""
ANSWER, ANSWER_MOST = 0.5, 4.0
"""Seconds a stage has to answer, and at most where answers were measured to be slow."""
LINK = 2.0
"""Seconds that rows may be between two stages that have nothing else to do."""


class Watch:
    """Watches one session; ``run`` it in a task."""

    def __init__(self, ring: "RingSession") -> None:
        self._ring = ring
        self._number, self._usual = 0, 0.0
        self._idle: tuple[tuple[int, int, int], float] | None = None

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            begun = time.monotonic()
            await asyncio.sleep(TICK)
            late = time.monotonic() - begun > TICK + 0.2  # this process itself stood still
            if not late and self._ring.flight.stalled() > PATIENCE:
                await self._look()

    async def _look(self) -> None:
        ring, epoch, moved = self._ring, self._ring.epoch, self._ring.flight.moved
        stages = [stage for stage in ring.places.attached if stage.down is None]
        allowed = min(ANSWER_MOST, max(ANSWER, 5 * self._usual))
        begun = time.monotonic()
        said = await asyncio.gather(*(self._probe(stage, allowed) for stage in stages))
        late = time.monotonic() - begun > allowed + 0.2
        if late or ring.epoch != epoch or ring.flight.moved != moved or not ring.flight.steps:
            return
        silent = [stage for stage, progress in zip(stages, said, strict=True) if progress is None]
        for stage in silent:
            error = DeadlineExceeded("it doesn't answer", field=stage.stage.node)
            ring.suspect(stage, error)
        if not silent and len(stages) == len(ring.places.attached):
            self._check_links(stages, [progress for progress in said if progress is not None])

    async def _probe(self, stage: Attachment, allowed: float) -> Progress | None:
        self._number += 1
        begun = time.monotonic()
        try:
            answer = await stage.ask(Probe(self._number), Progress, allowed, self._number)
        except HearthringError:
            return None
        self._usual += (time.monotonic() - begun - self._usual) / 4
        return answer

    def _check_links(self, stages: list[Attachment], said: list[Progress]) -> None:
        """Whether the oldest step is between two stages, and has been for too long."""
        ring = self._ring
        oldest = min(ring.flight.steps)
        place = next(
            (
                i
                for i, (stage, progress) in enumerate(zip(stages, said, strict=True))
                if progress.step_id < oldest <= stage.last_step
            ),
            None,
        )
        if place is None or said[place].waiting or (place and said[place - 1].waiting):
            self._idle = None
            return
        seen = ring.epoch, oldest, place
        if self._idle is None or self._idle[0] != seen:
            self._idle = seen, time.monotonic()
        elif time.monotonic() - self._idle[1] > LINK:
            self._idle = None
            error = PeerUnreachable("rows don't reach it", field=stages[place].stage.node)
            ring.suspect(stages[place], error)
