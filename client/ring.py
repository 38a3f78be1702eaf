"""A client's session: places at every stage, rows in, results out, receipts at the end.

The client attaches to each stage and links to the first; rows then travel from stage to stage
without it, and the last stage returns them. Everything received is checked (``client/hearing.py``)
and its hashes are kept (``client/ledger.py``): they are the client's half of the proof.

With ``Spares`` a session survives its stages: who waits for a result waits a moment longer while
``client/recovery.py`` replaces what was lost. Without, the first failure ends it.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from hearthring.client.attachment import Attachment
from hearthring.client.flight import Flight, Result, Sent
from hearthring.client.hearing import Hearing
from hearthring.client.ledger import Ledger
from hearthring.client.orders import Ordering, Wishes
from hearthring.client.recovery import Mended, Recovery
from hearthring.client.replacement import Spares
from hearthring.client.rollback import Rollback
from hearthring.client.route import Stage
from hearthring.client.watch import Watch
from hearthring.protocol.errors import (
    DeadlineExceeded,
    HearthringError,
    StageFailed,
)
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.links import Link, Links
from hearthring.protocol.messages import (
    PROMPT,
    SHARE_OWN,
    Cancel,
    Evidence,
    EvidenceQuery,
    Finish,
    Open,
    Opened,
    Receipt,
    Reroute,
    Row,
    Step,
)
from hearthring.protocol.tasks import all_or_none, cancel
from hearthring.protocol.tensors import F32, Residual, pack
from hearthring.protocol.transport import Method, Transport
from hearthring.protocol.wire import encode_step
from hearthring.verify.beacon import commitment
from hearthring.verify.claims import claim
from hearthring.verify.rowhash import row_hashes

if TYPE_CHECKING:
    from hearthring.verify.candidates import Candidate

RECEIPT_SECONDS = LIMITS.receipt
_FINISHES = 3


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
    ) -> None:
        self.route, self.session = tuple(route), secrets.token_bytes(16)
        self.nonce, self.ledger = secrets.token_bytes(32), Ledger()
        self.candidates: tuple[Candidate, ...] = ()
        """Nodes known before the session, out of which its verifiers will be drawn."""
        self.epoch, self.flight, self.row_bytes = 0, Flight(), 1
        self.attached: list[Attachment] = []
        """One per stage, in the order of the route once the session is open."""
        self.taps: dict[tuple[int, int], bytes] = {}
        """Residuals by boundary and row id."""
        self._transport, self._links = transport, Links(transport)
        self._model_id, self._ends = model_id, ends_fingerprint
        self._wanted_taps, self.max_rows, self._sharing = tuple(taps), 0, sharing
        self._cells = cells
        self.residual = Residual(self.route[0].residual)
        self._link: Link | None = None
        self._unuse: Callable[[], None] = lambda: None
        self._step, self._owed = 0, tuple[int, ...]()
        self._failed: HearthringError | None = None
        self._recovery = Recovery(self, spares) if spares is not None else None
        self._mending: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._behind: list[_Behind | tuple[int, ...]] = []
        self.unsaid: list[int] = []
        """Discarded rows that no step has told the stages of."""
        self._hearing, self.rollback = Hearing(self), Rollback()
        self.blamed = set[str]()
        """Nodes whose failure ended the session, if one did."""
        self.accusing = set[str]()
        """Nodes that opened, but say that they can't reach the next."""
        self._reached: dict[Stage, bool] = {}
        """Stages that took the call, and whether they have opened."""

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

    # -- life ------------------------------------------------------------------------------------

    async def open(self, max_rows: int, seconds: float = 2 * LIMITS.connect) -> None:
        """Take places at all stages at once, last one first in effect: each links to its next.

        Raises what a stage refused with, naming the stage, or ``DeadlineExceeded`` after so many
        ``seconds``; ``blamed`` says who didn't do its part. Nothing stays open on failure.
        """
        self.max_rows = max_rows
        try:
            async with asyncio.timeout(seconds):
                await all_or_none(*(self.attach(place) for place in range(len(self.route))))
                await self.link_first()
        except TimeoutError:
            late = self._late()
            self.blamed.update(stage.node for stage in late)
            await self.close()
            who = ", ".join(f"layers {s.start} to {s.end} at {s.node}" for s in late)
            raise DeadlineExceeded(
                f"didn't open in {seconds:.0f} s: {who}", field="route"
            ) from None
        except BaseException:
            await self.close()
            raise
        self.attached.sort(key=lambda attached: attached.stage.start)
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
        attached, self.attached = self.attached, []
        await asyncio.gather(*(a.close() for a in attached), return_exceptions=True)
        await self._links.close()
        self.flight.end(None)
        for step in self._behind:
            if isinstance(step, _Behind):
                step.waiting.cancel()

    def _late(self) -> list[Stage]:
        """Who keeps an opening waiting: those that took no call, else the last that didn't open.

        The others may be well, since a stage opens once it has reached the next one.
        """
        silent = [stage for stage in self.route if stage not in self._reached]
        waiting = [stage for stage in self.route if not self._reached.get(stage)]
        return silent or waiting[-1:] or [self.route[0]]

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
        wire, width = memoryview(pack(states, self.residual)), states.shape[1]
        self.row_bytes = size = width * self.residual.bytes
        sent = [Sent(row, wire[i * size : (i + 1) * size]) for i, row in enumerate(rows)]
        waiting: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        # A failure is reported by whichever call is awaited; the other futures mustn't warn.
        waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
        step = _Behind(waiting, sent, width, tuple(commit))
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
        for attached in self.attached if under_way else ():
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
        return result

    def roll_back(self, to: int, evict: str = "", why: str = "it failed a check") -> None:
        """Take back every generated row behind position ``to``; what the prompt's is stays.

        The node ``evict`` is replaced, and never used again by this client; its replacement
        computes anew what it had run, and should that differ further up, more is taken back.
        Whoever awaits a result next gets ``RolledBack``.
        """
        self.rollback.keep_to(to)
        if evict and self._recovery is not None:
            self._recovery.spares.avoided.convict(evict)
        guilty = next((a for a in self.attached if a.stage.node == evict), None)
        if guilty is not None:
            self.lose(guilty, StageFailed(why, field=evict))
        elif self._mending is None:
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
        self.flight.commit(step.commit)
        self.flight.live.update((one.row.id, one) for one in step.sent)
        rows = [one.row for one in step.sent]
        self.flight.ask(self._step, rows, step.width, step.waiting)
        owed, self._owed = self._owed, ()
        self._post(self._step, step.sent, (*owed, *step.commit))

    def launch(self, rows: Sequence[Row], first: int = 0) -> int:
        """The id of a new step that passes the stages from place ``first`` on."""
        self._step += 1
        self._launch(self._step, rows, first)
        return self._step

    def transmit(self, sent: Sequence[Sent]) -> None:
        """Send rows again, in this epoch."""
        self._step += 1
        self._post(self._step, sent)

    def _launch(self, step_id: int, rows: Sequence[Row], first: int) -> None:
        self.flight.launch(step_id, tuple(rows))
        for attached in self.attached[first:]:
            attached.last_step = step_id

    def _post(
        self,
        step_id: int,
        sent: Sequence[Sent],
        commit: tuple[int, ...] = (),
    ) -> None:
        assert self._link is not None
        rows, wire = [one.row for one in sent], b"".join(one.wire for one in sent)
        hashes = self.hashes(rows, wire, 0, self._ends)
        ids = [row.id for row in rows]
        signed = claim(self.session, self.epoch, step_id, 0, ids, hashes)
        self.ledger.sent.update(zip(ids, hashes, strict=True))
        drop, self.unsaid = tuple(self.unsaid), []
        step = Step(
            session=self.session,
            epoch=self.epoch,
            step_id=step_id,
            rows=tuple(rows),
            states=wire,
            commit=commit,
            drop=drop,
            signature=self._transport.identity.sign(signed),
        )
        self._launch(step_id, rows, 0)
        try:
            self._link.post(encode_step(step))
        except HearthringError as error:
            if self._recovery is None:
                raise
            self._lose_first(error)

    # -- the end ---------------------------------------------------------------------------------

    async def finish(self, commit: Sequence[int]) -> list[Receipt | None]:
        """Commit the last rows everywhere and collect receipts; ``None`` where one is withheld.

        A stage that is lost now is replaced as any other, since its receipt is needed; if it can't
        be, there is none of it. Raises ``RolledBack`` if its replacement computed something else.
        """
        if self._mending is None:
            self.rollback.tell(self.flight.live)
        self.flight.commit(commit)
        route, receipts = self.route, list[Receipt | None]()
        for _ in range(_FINISHES):
            epoch, wanted = self.epoch, tuple(self.flight.committed)
            found = await asyncio.gather(*(self._receipt(a, wanted) for a in self.attached))
            route, receipts = self.route, list(found)
            if self.epoch == epoch and self._mending is None:
                break
            try:
                async with asyncio.timeout(LIMITS.receipt):
                    await self.whole()
                    self.rollback.tell(self.flight.live)
            except (HearthringError, TimeoutError):
                break
        self.route = route
        return [*receipts, *[None] * (len(route) - len(receipts))]

    async def whole(self) -> None:
        """Wait until nothing is being mended. Raises what ended the session."""
        while self._mending is not None:
            await asyncio.wait([self._mending])
        if self._failed is not None:
            raise self._failed

    async def evidence(self, place: int) -> Evidence | None:
        """What the stage at ``place`` was sent, or ``None`` if it doesn't say."""
        try:
            return await self.attached[place].ask(EvidenceQuery(), Evidence, RECEIPT_SECONDS)
        except (HearthringError, IndexError):
            return None

    async def _receipt(self, attached: Attachment, commit: tuple[int, ...]) -> Receipt | None:
        frame = Finish(attached.last_step, commit)
        try:
            return await attached.ask(frame, Receipt, RECEIPT_SECONDS)
        except HearthringError:
            return None

    # -- stages ----------------------------------------------------------------------------------

    async def link_first(self) -> None:
        """Link to the first stage. Raises ``StageFailed`` that names it."""
        first = self.route[0]
        self._unuse()
        try:
            self._link = await self._links.get(first.address, first.node)
        except HearthringError as error:
            self.blamed.add(first.node)
            raise first.failed(error) from error
        self._unuse = self._link.use(self._lose_first)

    async def attach(self, place: int) -> None:
        """Open the stage at a place of the route. Raises ``StageFailed`` that names it.

        When cancelled, nothing of it is left: half a place must not count as one.
        """
        stage, attached = self.route[place], None
        try:
            stream = await self._transport.dial(stage.address, stage.node, Method.ATTACH)
            attached = Attachment(stage, stream, self._hearing)
            self.attached.append(attached)
            self._reached[stage] = False
            await attached.ask(self._wish(place), Opened, 2 * LIMITS.connect)
            self._reached[stage] = True
        except asyncio.CancelledError:
            if attached is not None and attached in self.attached:
                self.attached.remove(attached)
                await attached.close()
            raise
        except HearthringError as error:
            blocked = attached is not None and attached.blocked
            (self.accusing if blocked else self.blamed).add(stage.node)
            raise (
                error
                if isinstance(error, StageFailed) and error.field == "stage"
                else stage.failed(error)
            ) from error

    def order(self, place: int) -> Reroute:
        """What a stage that stays is told of this epoch."""
        return self._ordering().stay(place, tuple(self.flight.committed), self.flight.undecided())

    def _ordering(self) -> Ordering:
        """What stages are told in this epoch."""
        return Ordering(
            self.session, self.epoch, self.route, self._transport.identity.node_id, self._ends
        )

    def _wish(self, place: int) -> Open:
        return self._ordering().open(
            place,
            Wishes(
                self._model_id,
                self.max_rows,
                commitment(self.nonce, self.candidates),
                self._wanted_taps,
                self._sharing,
                self._cells,
            ),
        )

    # -- losses --------------------------------------------------------------------------------

    def suspect(self, stage: Attachment, error: HearthringError) -> None:
        """A stage doesn't answer; it may only be slow."""
        if stage.down is None:
            stage.suspected = True
            self.lose(stage, error)

    def _lose_first(self, error: HearthringError) -> None:
        first = next((a for a in self.attached if a.stage == self.route[0]), None)
        if first is not None:
            self.lose(first, error)
        elif self._recovery is None:
            self.end(self.route[0].failed(error))

    def lose(self, lost: Attachment, error: HearthringError) -> None:
        """A stage is of no use any more: mend the ring, or end the session."""
        if lost.down is None or lost.suspected:
            lost.down = error
        if self._recovery is None or self._watching is None or self._failed is not None:
            self.blamed.add(lost.stage.node)
            self.end(lost.stage.failed(error))
            return
        self._recovery.spares.avoided.add(lost.stage.node)
        if self._mending is not None:
            self._recovery.disturb()
        else:
            self._mending = asyncio.create_task(self._mend(self._recovery))

    async def _mend(self, recovery: Recovery) -> None:
        try:
            await recovery.run()
        except HearthringError as error:
            self._mending = None
            self.end(error)
            return
        self._mending = None
        self.revoke()
        self._owed = tuple(self.flight.committed)
        behind, self._behind = self._behind, []
        for step in behind:
            if self._mending is not None:  # lost again
                self._behind.append(step)
            elif isinstance(step, _Behind):
                self._send(step)
            else:
                self.discard(step)

    def end(self, error: HearthringError) -> None:
        """End the session for good: the first failure is the one reported."""
        if self._failed is None:
            self._failed = error
        self.flight.end(self._failed)
        for step in self._behind:
            if isinstance(step, _Behind) and not step.waiting.done():
                step.waiting.set_exception(self._failed)

    def hashes(
        self, rows: Sequence[Row], wire: bytes, boundary: int, fingerprint: str
    ) -> list[bytes]:
        return row_hashes(
            bytes.fromhex(self._model_id),
            bytes.fromhex(fingerprint),
            boundary,
            [row.kind for row in rows],
            [row.position for row in rows],
            wire,
            len(rows),
        )
