"""A client's session: places at every stage, rows in, results out, receipts at the end.

The client attaches to each stage and links to the first; rows then travel from stage to stage
without it, and the last stage returns them. Everything received is checked (``client/hearing.py``)
and its hashes are kept (``client/ledger.py``): they are the client's half of the proof.

With ``Spares`` a session survives its stages: who waits for a result waits a moment longer while
``client/recovery.py`` replaces what was lost. Without, the first failure ends it.
"""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from hearthring.client.attachment import Attachment
from hearthring.client.flight import Flight, Result, Sent
from hearthring.client.handover import HandOver
from hearthring.client.ledger import Ledger
from hearthring.client.orders import Wishes
from hearthring.client.places import Places
from hearthring.client.recovery import Mended, Recovery
from hearthring.client.replacement import Spares
from hearthring.client.rollback import Rollback
from hearthring.client.route import Stage
from hearthring.client.sending import Sender
from hearthring.client.taps import Taps
from hearthring.client.watch import Pulse, Watch
from hearthring.protocol.errors import (
    DeadlineExceeded,
    HearthringError,
    StageFailed,
)
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.messages import (
    PROMPT,
    SHARE_OWN,
    Cancel,
    Row,
    Step,
)
from hearthring.protocol.row_type import RowType
from hearthring.protocol.tasks import cancel
from hearthring.protocol.tensors import F32, Residual
from hearthring.protocol.transport import Transport
from hearthring.protocol.wire import encode_step
from hearthring.verify.beacon import commitment

if TYPE_CHECKING:
    from hearthring.verify.candidates import Candidate


@dataclass(frozen=True, slots=True)
class _Behind:
    """A step to be sent, at once or when the ring is whole again."""

    waiting: "asyncio.Future[Result]"
    sent: list[Sent]
    width: int
    commit: tuple[int, ...]


class RingSession:
    """One session round a ring: ``async with RingSession(...) as ring: await ring.open(rows)``.

    A failure that can't be mended ends the whole session: every pending and later call raises
    ``StageFailed`` that names the stage and says why, or ``NoRoute`` that lists what is missing.
    """

    def __init__(
        self,
        transport: Transport,
        route: Sequence[Stage],
        model_id: str,
        ends_fingerprint: str,
        taps: Sequence[int] = (),
        spares: Spares | None = None,
        sharing: int = SHARE_OWN,
        cells: bool = False,
        int8: bool = False,
    ) -> None:
        self.route, self.session = tuple(route), secrets.token_bytes(16)
        self.nonce, self.ledger = secrets.token_bytes(32), Ledger()
        self.candidates: tuple[Candidate, ...] = ()
        """Nodes known before the session, out of which its verifiers will be drawn."""
        self.epoch, self.flight, self.row_bytes = 0, Flight(), 1
        self.taps = Taps(taps)
        self.model_id, self._ends = model_id, ends_fingerprint
        self.max_rows, self._sharing, self._cells = 0, sharing, cells
        self._who, self.places = transport.identity, Places(self, transport, ends_fingerprint)
        self.row_type, self.width = RowType(Residual(self.route[0].residual), int8), 0
        self._step, self._owed = 0, tuple[int, ...]()
        self._sender: Sender | None = None
        self._failed: HearthringError | None = None
        self._recovery = Recovery(self, spares) if spares is not None else None
        self._mending: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._behind: list[_Behind | tuple[int, ...]] = []
        self.unsaid: list[int] = []
        """Discarded rows that no step has told the stages of."""
        self.rollback, self.pulse, self.handing = Rollback(), Pulse(), HandOver(self)

    @property
    def mended(self) -> list[Mended]:
        """The fail-overs so far."""
        return self._recovery.mended if self._recovery is not None else []

    @property
    def mendable(self) -> bool:
        """Whether lost stages are replaced."""
        return self._recovery is not None

    @property
    def mending(self) -> bool:
        """Whether lost stages are being replaced now."""
        return self._mending is not None

    @property
    def replacing(self) -> Spares | None:
        """Where replacements come from, if lost stages can be replaced now."""
        able = self._watching is not None and self._failed is None
        return self._recovery.spares if self._recovery is not None and able else None

    # -- life ------------------------------------------------------------------------------------

    async def open(self, max_rows: int, seconds: float = 2 * LIMITS.connect) -> None:
        """Take places at all stages at once, last one first in effect: each links to its next.

        Raises what a stage refused with, naming the stage, or ``DeadlineExceeded`` after so many
        ``seconds``; ``blamed`` says who didn't do its part. Nothing stays open on failure.
        """
        self.max_rows = max_rows
        try:
            await self.places.open(seconds)
        except BaseException:
            await self.close()
            raise
        if self._recovery is not None:
            self._watching = asyncio.create_task(Watch(self).run())

    async def __aenter__(self) -> Self:
        """The session itself, not yet open."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave every stage."""
        await self.close()

    async def close(self) -> None:
        """Leave every stage. Idempotent."""
        await cancel(task for task in (self._mending, self._watching) if task is not None)
        await self.handing.close()
        await self.places.close()
        self.flight.end(None)
        for step in self._behind:
            if isinstance(step, _Behind):
                step.waiting.cancel()

    # -- rows ------------------------------------------------------------------------------------

    def send(
        self,
        rows: Sequence[Row],
        states: F32,
        commit: Sequence[int] = (),
    ) -> "asyncio.Future[Result]":
        """Send one step on its way; the future holds its result. Several may be under way."""
        if self._failed is not None:
            raise self._failed
        wire, self.width = memoryview(self.row_type.pack(states)), states.shape[1]
        self.row_bytes = size = self.row_type.row_bytes(self.width)
        sent = [Sent(row, wire[i * size : (i + 1) * size]) for i, row in enumerate(rows)]
        waiting: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        # A failure is reported by whichever call is awaited; the other futures mustn't warn.
        waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
        step = _Behind(waiting, sent, self.width, tuple(commit))
        if self._mending is not None:
            self._behind.append(step)
        else:
            self._send(step)
        return waiting

    def discard(self, rows: Sequence[int]) -> None:
        """Give up rows that aren't committed, with all that hang on them.

        The next step drops them at every stage. Those under way are cancelled at once, so that
        nobody computes them in vain; whoever waits for them gets zeros.
        """
        if not rows or self._failed is not None:
            return
        if self._mending is not None:  # what lives must not change under the one who mends
            self._behind.append(tuple(rows))
            return
        gone = self.flight.discard(rows)
        self.unsaid.extend(sorted(gone))
        under_way = self.flight.doom(gone)
        for attached in self.places.attached if under_way else ():
            attached.post(Cancel(under_way))

    async def result(self, waiting: "asyncio.Future[Result]") -> Result:
        """Await a step's result. Raises ``StageFailed``, ``NoRoute`` or ``DeadlineExceeded``.

        ``RolledBack`` means that some of what was sent is void, perhaps this step too; if it isn't,
        its result may still be awaited.
        """
        limit = LIMITS.step
        if self._recovery is not None:
            limit += self._recovery.spares.patience + LIMITS.recovery
        try:
            async with asyncio.timeout(limit):
                result = await waiting
                if self.rollback.due:
                    await self.whole()
        except TimeoutError:
            raise DeadlineExceeded(f"a step took longer than {limit:.0f} s", field="ring") from None
        self.rollback.tell(self.flight.live)
        return self.rollback.amended(result)

    def roll_back(self, to: int, evict: str = "", why: str = "it failed a check") -> None:
        """Take back every generated row behind position ``to``; what the prompt's is stays.

        The node ``evict`` is replaced, and never used again by this client; its replacement
        computes anew what it had run, and should that differ further up, more is taken back.
        Whoever awaits a result next gets ``RolledBack``.
        """
        self.rollback.keep_to(to)
        if evict and self._recovery is not None:
            self._recovery.spares.avoided.convict(evict)
        guilty = [a for a in self.places.attached if a.stage.node == evict]
        for attached in guilty:
            self.lose(attached, StageFailed(why, field=evict))
        if not guilty and self._mending is None:
            self.revoke()

    def revoke(self) -> None:
        """Give up the rows that are void; the next step, or epoch, tells the stages."""
        void = self.rollback.void(self.flight.live)
        self.flight.revoke(void)
        self.unsaid.extend(void)

    def _send(self, step: "_Behind") -> None:
        if self.rollback.void_from is not None and any(one.row.kind != PROMPT for one in step.sent):
            self.flight.refuse(step.waiting, [one.row for one in step.sent], step.width)
            return  # it rests on rows that are void, which its sender doesn't know yet
        self._step += 1
        # What is void by now, its sender doesn't know yet.
        commit = [row for row in step.commit if row in self.flight.live]
        self.flight.commit(commit)
        self.flight.live.update((one.row.id, one) for one in step.sent)
        rows = [one.row for one in step.sent]
        self.flight.ask(self._step, rows, step.width, step.waiting)
        owed, self._owed = self._owed, ()
        self._post(self._step, step.sent, (*owed, *commit))

    def launch(self, rows: Sequence[Row], first: int = 0) -> int:
        """The id of a new step that passes the stages from place ``first`` on."""
        self._step += 1
        self._launch(self._step, rows, first)
        return self._step

    def number_from(self, step_id: int) -> None:
        """Steps up to this one are known to a stage that joins the next epoch."""
        self._step = max(self._step, step_id)

    def transmit(self, sent: Sequence[Sent]) -> None:
        """Send rows again, in this epoch."""
        self._step += 1
        self._post(self._step, sent)

    def _launch(self, step_id: int, rows: Sequence[Row], first: int) -> None:
        self.flight.launch(step_id, tuple(rows))
        for attached in self.places.attached[first:]:
            attached.last_step = step_id

    def _post(
        self,
        step_id: int,
        sent: Sequence[Sent],
        commit: tuple[int, ...] = (),
    ) -> None:
        link = self.places.link
        assert link is not None
        drop, self.unsaid = self.unsaid, []
        step = self.signed(step_id, sent, commit, drop)
        self._launch(step_id, step.rows, 0)
        try:
            link.post(encode_step(step))
        except HearthringError as error:
            if self._recovery is None:
                raise
            self.lose_first(error)

    def signed(
        self,
        step_id: int,
        sent: Sequence[Sent],
        commit: Sequence[int] = (),
        drop: Sequence[int] = (),
    ) -> Step:
        """Rows as the client sends them in this epoch."""
        sender = self._sender
        if sender is None or sender.epoch != self.epoch:
            sender = Sender(self._who, self.session, self.epoch, self._ends, self.model_id)
            self._sender = sender
        step, hashes = sender.step(step_id, sent, commit, drop)
        self.ledger.sent.update(hashes)
        return step

    async def whole(self) -> None:
        """Wait until nothing is being mended. Raises what ended the session."""
        while self._mending is not None:
            await asyncio.wait([self._mending])
        if self._failed is not None:
            raise self._failed

    def wishes(self) -> Wishes:
        """What it wants of every stage."""
        promised = commitment(self.nonce, self.candidates)
        wanted = self.taps.boundaries, self._sharing, self._cells
        return Wishes(self.model_id, str(self.row_type), self.max_rows, promised, *wanted)

    # -- losses --------------------------------------------------------------------------------

    def suspect(self, stage: Attachment, error: HearthringError) -> None:
        """A stage doesn't answer; it may only be slow."""
        if stage.down is None:
            stage.suspected = True
            self.lose(stage, error)

    def lose_first(self, error: HearthringError) -> None:
        first = next((a for a in self.places.attached if a.stage == self.route[0]), None)
        if first is not None:
            self.lose(first, error)
        elif self._recovery is None:
            self.end(self.route[0].failed(error))

    def lose(self, lost: Attachment, error: HearthringError, known: bool = False) -> None:
        """A stage is of no use any more: mend the ring, or end the session.

        Its node is avoided for a while; with ``known`` it is already.
        """
        self.handing.give_up()
        if lost.down is None or lost.suspected:
            lost.down = error
        if self._recovery is None or self._watching is None or self._failed is not None:
            self.places.blamed.add(lost.stage.node)
            self.end(lost.stage.failed(error))
            return
        if not known:
            self._recovery.spares.avoided.add(lost.stage.node)
        if self._mending is not None:
            self._recovery.disturb()
        else:
            self._mending = asyncio.create_task(self._mend(self._recovery))

    async def _mend(self, recovery: Recovery) -> None:
        try:
            try:
                await recovery.run()
            finally:
                self._mending = None
            self._catch_up()
        except HearthringError as error:
            self.end(error)
        except Exception as error:  # a fault of ours, which whoever waits must hear of
            fault = HearthringError(f"{type(error).__name__} while it was mended", field="ring")
            fault.__cause__ = error
            self.end(fault)

    def _catch_up(self) -> None:
        """Send what waited until the ring was whole, until it is lost again."""
        self.revoke()
        self._owed = tuple(self.flight.committed)
        while self._behind and self._mending is None:
            step = self._behind[0]
            if isinstance(step, _Behind):
                self._send(step)
            else:
                self.discard(step)
            del self._behind[0]

    def end(self, error: HearthringError) -> None:
        """End the session for good: the first failure is the one reported."""
        if self._failed is None:
            self._failed = error
        self.flight.end(self._failed)
        self.taps.end(self._failed)
        for step in self._behind:
            if isinstance(step, _Behind) and not step.waiting.done():
                step.waiting.set_exception(self._failed)
