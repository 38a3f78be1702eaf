"""A client's session: places at every stage, rows in, results out, receipts at the end.

The client attaches to each stage and links to the first; rows then travel from stage to stage
without it, and the last stage returns them. Everything received is checked here (order, shape,
signature) and its hashes are kept: they are the client's half of the proof.
"""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Self, TypeVar

from hearthring.client.route import Stage
from hearthring.protocol import identity
from hearthring.protocol.errors import (
    DeadlineExceeded,
    HearthringError,
    Malformed,
    OutOfOrder,
    StageFailed,
)
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.links import Link, Links
from hearthring.protocol.messages import (
    Evidence,
    EvidenceQuery,
    Finish,
    HopTime,
    Open,
    Opened,
    Receipt,
    Row,
    SignedRows,
    Step,
    Tap,
)
from hearthring.protocol.tasks import all_or_none, cancel
from hearthring.protocol.tensors import F32, Residual, pack, unpack
from hearthring.protocol.transport import Method, Stream, Transport
from hearthring.protocol.wire import decode_down, encode_step, encode_up
from hearthring.verify.claims import claim
from hearthring.verify.rowhash import row_hashes

T = TypeVar("T")
RECEIPT_SECONDS = LIMITS.receipt


@dataclass(frozen=True, slots=True)
class Result:
    """What came back for one step."""

    step_id: int
    rows: tuple[Row, ...]
    states: F32
    times: tuple[HopTime, ...]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A step under way: its result must be of these rows, and as wide."""

    rows: tuple[Row, ...]
    width: int
    result: "asyncio.Future[Result]"


@dataclass(slots=True)
class _Attached:
    """One stage's stream and what is awaited on it."""

    stage: Stage
    stream: Stream
    opened: "asyncio.Future[Opened]"
    receipt: "asyncio.Future[Receipt]"
    evidence: "asyncio.Future[Evidence]"
    task: "asyncio.Task[None] | None" = None


@dataclass(slots=True)
class Ledger:
    """Hashes of what was sent and received, by row id, and the last stage's signatures."""

    sent: dict[int, bytes] = field(default_factory=dict)
    received: dict[int, bytes] = field(default_factory=dict)
    signed: list[SignedRows] = field(default_factory=list)


class RingSession:
    """One session round a ring: ``async with RingSession(...) as ring: await ring.open(rows)``.

    Any stage's failure ends the whole session: every pending and later call raises
    ``StageFailed`` that names the stage and says why.
    """

    def __init__(
        self,
        transport: Transport,
        route: Sequence[Stage],
        model_id: str,
        ends_fingerprint: str,
        taps: Sequence[int] = (),
    ) -> None:
        self.route, self.session = tuple(route), secrets.token_bytes(16)
        self.nonce, self.ledger = secrets.token_bytes(32), Ledger()
        self.taps: dict[tuple[int, int], Tap] = {}
        self._transport, self._links = transport, Links(transport)
        self._model_id, self._ends = model_id, ends_fingerprint
        self._wanted_taps = tuple(taps)
        self._residual = Residual(self.route[0].residual)
        self._attached: list[_Attached] = []
        self._link: Link | None = None
        self._next_step = 1
        self._waiting: dict[int, _Asked] = {}
        self._failed: HearthringError | None = None
        self.blamed = ""
        """The node whose failure ended the session, if one did."""

    # -- life ------------------------------------------------------------------------------------

    async def open(self, max_rows: int) -> None:
        """Take places at all stages at once, last one first in effect: each links to its next.

        Raises what a stage refused with, naming the stage. Nothing stays open on failure.
        """
        try:
            async with asyncio.timeout(LIMITS.connect * 2):
                await all_or_none(
                    *(self._attach(place, max_rows) for place in range(len(self.route)))
                )
                await self._link_first()
        except TimeoutError:
            await self.close()
            raise DeadlineExceeded("the stages didn't open in time", field="route") from None
        except BaseException:
            await self.close()
            raise
        self._attached.sort(key=lambda attached: attached.stage.start)

    async def __aenter__(self) -> Self:
        """The session itself, not yet open."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave every stage."""
        await self.close()

    async def close(self) -> None:
        """Leave every stage. Idempotent."""
        attached, self._attached = self._attached, []
        await cancel(a.task for a in attached if a.task is not None)
        await asyncio.gather(*(a.stream.close() for a in attached), return_exceptions=True)
        await self._links.close()
        for asked in self._waiting.values():
            asked.result.cancel()

    # -- rows ------------------------------------------------------------------------------------

    def send(
        self,
        rows: Sequence[Row],
        states: F32,
        commit: Sequence[int] = (),
        drop: Sequence[int] = (),
    ) -> "asyncio.Future[Result]":
        """Send one step on its way; the future holds its result. Several may be under way."""
        if self._failed is not None:
            raise self._failed
        assert self._link is not None
        step_id, self._next_step = self._next_step, self._next_step + 1
        wire = pack(states, self._residual)
        hashes = self._hash(rows, wire, 0, self._ends)
        ids = [row.id for row in rows]
        signed = claim(self.session, 0, step_id, 0, ids, hashes)
        self.ledger.sent.update(zip(ids, hashes, strict=True))
        step = Step(
            session=self.session,
            epoch=0,
            step_id=step_id,
            rows=tuple(rows),
            states=wire,
            commit=tuple(commit),
            drop=tuple(drop),
            signature=self._transport.identity.sign(signed),
        )
        self._link.post(encode_step(step))
        waiting = asyncio.get_running_loop().create_future()
        # A failure is reported by whichever call is awaited; the other futures mustn't warn.
        waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._waiting[step_id] = _Asked(step.rows, states.shape[1], waiting)
        return waiting

    async def result(self, waiting: "asyncio.Future[Result]") -> Result:
        """Await a step's result. Raises ``StageFailed`` or ``DeadlineExceeded``."""
        try:
            async with asyncio.timeout(LIMITS.step):
                return await waiting
        except TimeoutError:
            raise DeadlineExceeded(
                f"a step took longer than {LIMITS.step:.0f} s", field="ring"
            ) from None

    # -- the end ---------------------------------------------------------------------------------

    async def finish(self, commit: Sequence[int]) -> list[Receipt | None]:
        """Commit the last rows everywhere and collect receipts; ``None`` where one is withheld."""
        last = self._next_step - 1
        frame = encode_up(Finish(last, tuple(commit)))
        return list(await asyncio.gather(*(self._receipt(a, frame) for a in self._attached)))

    async def evidence(self, place: int) -> Evidence | None:
        """What the stage at ``place`` was sent, or ``None`` if it doesn't say."""
        attached = self._attached[place]
        try:
            await attached.stream.send(encode_up(EvidenceQuery()))
            async with asyncio.timeout(RECEIPT_SECONDS):
                return await asyncio.shield(attached.evidence)
        except (HearthringError, TimeoutError):
            return None

    async def _receipt(self, attached: _Attached, frame: bytes) -> Receipt | None:
        try:
            await attached.stream.send(frame)
            async with asyncio.timeout(RECEIPT_SECONDS):
                return await asyncio.shield(attached.receipt)
        except (HearthringError, TimeoutError):
            return None

    # -- stages ----------------------------------------------------------------------------------

    async def _link_first(self) -> None:
        first = self.route[0]
        try:
            self._link = await self._links.get(first.address, first.node)
        except HearthringError as error:
            self.blamed = first.node
            raise _failed(first, error) from error
        self._link.use(lambda error: self._fail(first, error))

    async def _attach(self, place: int, max_rows: int) -> None:
        stage, me = self.route[place], self._transport.identity.node_id
        before = self.route[place - 1] if place else None
        after = self.route[place + 1] if place + 1 < len(self.route) else None
        wish = Open(
            session=self.session,
            epoch=0,
            model_id=self._model_id,
            start=stage.start,
            end=stage.end,
            residual=stage.residual,
            fingerprint=stage.fingerprint,
            previous=before.node if before else me,
            previous_fingerprint=before.fingerprint if before else self._ends,
            next=after.node if after else me,
            next_address=after.address if after else "",
            max_rows=max_rows,
            nonce_hash=sha256(self.nonce).digest(),
            taps=tuple(t for t in self._wanted_taps if stage.start < t <= stage.end),
        )
        try:
            stream = await self._transport.dial(stage.address, stage.node, Method.ATTACH)
        except HearthringError as error:
            self.blamed = stage.node
            raise _failed(stage, error) from error
        loop = asyncio.get_running_loop()
        attached = _Attached(
            stage, stream, loop.create_future(), loop.create_future(), loop.create_future()
        )
        self._attached.append(attached)
        attached.task = asyncio.create_task(self._listen(attached))
        try:
            await stream.send(encode_up(wish))
        except HearthringError as error:
            self._fail(stage, error)
        await attached.opened

    async def _listen(self, attached: _Attached) -> None:
        """Read one stage's frames until it ends the stream, which it has no reason to do."""
        try:
            while (data := await attached.stream.receive()) is not None:
                match decode_down(data):
                    case Opened() as opened:
                        _settle(attached.opened, opened)
                    case Step() as step:
                        self._accept(attached.stage, step)
                    case Tap() as tap:
                        self.taps[tap.step_id, tap.boundary] = tap
                    case Receipt() as receipt:
                        _settle(attached.receipt, receipt)
                    case Evidence() as evidence:
                        _settle(attached.evidence, evidence)
            raise StageFailed("it ended the session", field=attached.stage.node)
        except HearthringError as error:
            self._fail(attached.stage, error)

    def _accept(self, stage: Stage, step: Step) -> None:
        """Check a result against what was asked, and hand it to who waits."""
        if stage is not self.route[-1] or step.session != self.session or step.epoch != 0:
            raise Malformed("a result that nobody asked this stage for", field="result")
        asked = self._waiting.get(step.step_id)
        if asked is None:
            raise OutOfOrder(f"no step {step.step_id} is under way", field="result.step_id")
        if step.rows != asked.rows or step.dead:  # nobody cancelled any
            raise Malformed("other rows than were sent", field="result.rows")
        rows = step.rows
        states = unpack(step.states, len(rows), asked.width, self._residual)
        hashes = self._hash(rows, step.states, stage.end, stage.fingerprint)
        ids = tuple(row.id for row in rows)
        signed = claim(self.session, 0, step.step_id, stage.end, ids, hashes)
        identity.verify(stage.node, signed, step.signature)
        self.ledger.received.update(zip(ids, hashes, strict=True))
        self.ledger.signed.append(SignedRows(0, step.step_id, ids, tuple(hashes), step.signature))
        del self._waiting[step.step_id]
        if not asked.result.done():
            asked.result.set_result(Result(step.step_id, rows, states, step.times))

    def _hash(
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

    def _fail(self, stage: Stage, error: HearthringError) -> None:
        """End the session for good: the first failure is the one reported."""
        if self._failed is None:
            self._failed, self.blamed = _failed(stage, error), stage.node
        for attached in self._attached:
            if attached.stage is not stage:
                continue
            for future in (attached.opened, attached.receipt, attached.evidence):
                if not future.done():
                    future.set_exception(self._failed)
                    future.exception()
        for asked in self._waiting.values():
            if not asked.result.done():
                asked.result.set_exception(self._failed)


def _failed(stage: Stage, error: HearthringError) -> StageFailed:
    where = f"layers {stage.start} to {stage.end} at {stage.node}"
    return StageFailed(f"{where}: {type(error).__name__}: {error}", field="stage")


def _settle(future: "asyncio.Future[T]", value: T) -> None:
    if not future.done():
        future.set_result(value)
