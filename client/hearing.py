"""What a session's stages say unasked: results, taps, troubles, and the ends of their streams.

Everything is checked here against what was sent (order, shape, signature) before it counts, and
complaints are weighed: a stage that accuses one neighbour after the other is the one at fault.
"""

import asyncio
import time
from typing import TYPE_CHECKING

from hearthring.client.attachment import Attachment
from hearthring.protocol.errors import (
    BadShape,
    BadSignature,
    EngineError,
    HearthringError,
    Malformed,
    OutOfOrder,
)
from hearthring.protocol.messages import Row, Step, Tap, Trouble
from hearthring.verify.claims import Check, begin

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hearthring.client.ring import RingSession
    from hearthring.protocol.tensors import F32

ACCUSATIONS, ACCUSATIONS_SECONDS = 2, 30.0
"""A stage that finds fault with its neighbours more often than this, in so many seconds, has it."""
_ACCUSING = (BadSignature, Malformed, BadShape, OutOfOrder)
"""Errors by which a stage says that the one before it broke the rules."""


class Hearing:
    """Listens for one session; each of its stages' streams tells it."""

    def __init__(self, ring: "RingSession") -> None:
        self._ring = ring
        self.early: Callable[[Sequence[Row], F32], bool] | None = None
        """Shown rows ``[rows, width]`` that have come back, but aren't checked yet: whether it has
        begun on what can be thrown away, so that they can be checked beside that."""
        self._accusations: dict[str, list[float]] = {}

    async def on_result(self, of: Attachment, step: Step) -> None:
        """Check a result against what was asked, and hand it to who waits.

        Where whoever waits for the rows has something to do with them first, their signature is
        checked beside that; nobody is told of a row before.
        """
        ring, stage = self._ring, of.stage
        if step.epoch < ring.epoch:
            return
        if stage != ring.route[-1] or step.session != ring.session or step.epoch != ring.epoch:
            raise Malformed("a result that nobody asked this stage for", field="result")
        rows = ring.flight.steps.get(step.step_id)
        if rows is None:
            raise OutOfOrder(f"no step {step.step_id} is under way", field="result.step_id")
        if step.rows != rows or not ring.flight.doomed.issuperset(step.dead):
            raise Malformed("other rows than were sent", field="result.rows")
        live = step.live
        states = ring.row_type.unpack(step.states, len(live), ring.width)
        about = bytes.fromhex(ring.model_id), bytes.fromhex(stage.fingerprint)
        check = Check(stage.node, step, live, stage.end, *about)
        if self.early is not None and self.early(live, states):
            await asyncio.to_thread(begin, [check])
            if ring.flight.steps.get(step.step_id) is not rows:
                return  # of an epoch that has ended meanwhile
        signed = check.confirm()
        ids, hashes, received = signed.ids, signed.hashes, ring.ledger.received
        others = [i for i, row in enumerate(ids) if received.get(row, hashes[i]) != hashes[i]]
        if others and not ring.mending:
            ring.end(stage.failed(Malformed("a row came back with other bytes", field="row")))
            return
        ring.rollback.differs([rows[i] for i in others], [states[i] for i in others])
        received.update(zip(ids, hashes, strict=True))
        ring.ledger.signed.append(signed)
        ring.flight.land(step.step_id, live, states, step.times)

    def on_tap(self, of: Attachment, tap: Tap) -> None:
        """Keep residuals at an inner boundary that was asked for, of rows that live."""
        ring, window = self._ring, of.stage
        if (
            not window.start < tap.boundary <= window.end
            or tap.boundary not in ring.taps.boundaries
        ):
            raise Malformed("a boundary that nobody asked this stage for", field="tap.boundary")
        size = ring.width * ring.row_type.residual.bytes
        if len(tap.states) != len(tap.ids) * size:
            raise BadShape(f"{len(tap.states)} bytes for {len(tap.ids)} rows", field="tap.states")
        for i, row in enumerate(tap.ids):
            if row in ring.flight.live:  # it may have been discarded meanwhile
                ring.taps.put(tap.boundary, row, tap.states[i * size : (i + 1) * size])

    def on_trouble(self, of: Attachment, trouble: Trouble) -> bool:
        """A stage is leaving, or can't reach the next one; whether that is of this epoch."""
        ring = self._ring
        if trouble.epoch < ring.epoch and trouble.node != of.stage.node:
            return False
        if of in ring.handing.opened:  # it can't take the place that it was opened for
            of.down = trouble.error
            return True
        lost = of if trouble.node == of.stage.node else self._after(of, trouble.node)
        if lost is None or lost.down is not None:
            return True
        if lost is not of and self._accuses_often(of):
            lost = of
        if trouble.node == of.stage.node and ring.handing.begin(of, trouble.error):
            return True
        # One that is leaving serves for a while yet, if nobody can replace it.
        lost.suspected = trouble.node == of.stage.node
        ring.lose(lost, trouble.error)
        return True

    def on_end(self, of: Attachment, error: HearthringError, said: bool) -> None:
        """A stage's stream is over."""
        ring, blamed = self._ring, of
        if of in ring.handing.opened:
            of.down = error
            return
        place = ring.places.attached.index(of) if of in ring.places.attached else 0
        accuses = said and place > 0 and isinstance(error, _ACCUSING)
        if accuses and ring.mendable and not self._accuses_often(of):
            blamed = ring.places.attached[place - 1]
        if isinstance(error, EngineError):
            ring.places.blamed.add(of.stage.node)
            ring.end(of.stage.failed(error))
        if blamed is not of:
            of.down, of.suspected = error, False
        ring.lose(blamed, error)

    def _after(self, of: Attachment, node: str) -> Attachment | None:
        """A node's stage: the one behind ``of`` where it has several."""
        found = [a for a in self._ring.places.attached if a.stage.node == node]
        return next((a for a in found if a.stage.start == of.stage.end), next(iter(found), None))

    def _accuses_often(self, accuser: Attachment) -> bool:
        """Whether a stage has found fault with one neighbour after the other."""
        now, said = time.monotonic(), self._accusations.setdefault(accuser.stage.node, [])
        said[:] = [at for at in said if now - at < ACCUSATIONS_SECONDS] + [now]
        return len(said) > ACCUSATIONS
