"""Noticing that a ring stands still: which stage doesn't answer, or which link carries nothing.

A killed node ends its streams and is noticed by that. A stopped or cut-off one says nothing: when
no step has come back for a moment, every stage is asked whether it is there and how far it is. One
that is busy answers, so that slow isn't taken for dead. If most are silent at once, it is rather
the machine or the line that is busy: they are asked once more, with more patience.
"""

import asyncio
import time
from typing import TYPE_CHECKING

from hearthring.client.attachment import Attachment
from hearthring.protocol.errors import DeadlineExceeded, HearthringError, PeerUnreachable
from hearthring.protocol.messages import Progress

if TYPE_CHECKING:
    from hearthring.client.ring import RingSession

TICK = 0.1
PATIENCE = 0.3
"""Seconds without a result before stages are asked."""
ANSWER, ANSWER_MOST = 0.5, 4.0
"""Seconds a stage has to answer, and at most where answers were measured to be slow."""
STRAINED = 2.0
"""Times as long, when most stages were silent at once."""
LINK, LINK_RATE = 0.4, 100_000.0
"""Seconds that rows may be between two stages that have nothing else to do, and the bytes a second
of a slow home's uplink: a long step takes its time."""


class Pulse:
    """How long stages take to say that they are there: whoever takes much longer isn't."""

    def __init__(self) -> None:
        self._usual = 0.0

    @property
    def patience(self) -> float:
        """Seconds that a stage has to answer now."""
        return min(ANSWER_MOST, max(ANSWER, 5 * self._usual))

    async def feel(self, stage: Attachment, times: float = 1.0) -> Progress | None:
        """How far a stage is, or ``None`` if it doesn't say so in time, ``times`` the usual."""
        begun = time.monotonic()
        try:
            answer = await stage.probe(min(ANSWER_MOST, self.patience * times))
        except HearthringError:
            return None
        self._usual += (time.monotonic() - begun - self._usual) / 4
        return answer


class Watch:
    """Watches one session; ``run`` it in a task."""

    def __init__(self, ring: "RingSession") -> None:
        self._ring = ring
        self._idle: tuple[tuple[int, int, int], float] | None = None
        self._times = 1.0

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
        allowed, begun = self._times * ring.pulse.patience, time.monotonic()
        said = await asyncio.gather(*(ring.pulse.feel(stage, self._times) for stage in stages))
        late = time.monotonic() - begun > allowed + 0.2
        if late or ring.epoch != epoch or ring.flight.moved != moved or not ring.flight.steps:
            return
        strained = said.count(None) > max(1, len(stages) // 2) and self._times == 1.0
        self._times = STRAINED if strained else 1.0
        if strained:
            return
        silent = [stage for stage, progress in zip(stages, said, strict=True) if progress is None]
        for stage in silent:
            error = DeadlineExceeded("it doesn't answer", field=stage.stage.node)
            ring.suspect(stage, error)
        if not silent and len(stages) == len(ring.places.attached):
            self._check_links(stages, [progress for progress in said if progress is not None])

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
        allowed = LINK + len(ring.flight.steps[oldest]) * ring.row_bytes / LINK_RATE
        if self._idle is None or self._idle[0] != seen:
            self._idle = seen, time.monotonic()
        elif time.monotonic() - self._idle[1] > allowed:
            self._idle = None
            error = PeerUnreachable("rows don't reach it", field=stages[place].stage.node)
            ring.suspect(stages[place], error)
