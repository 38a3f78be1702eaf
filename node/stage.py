"""The stage server: places for clients, a queue of steps, one engine.

The life of a step: it arrives on somebody's ``Pass`` stream (``_take_rows``), waits in the queue,
runs with whatever other sessions have ready (``_work``, ``_run``), and leaves for the next stage,
or at the last stage for the client (``_deliver``). Errors of a session go to its client by name
and end that session alone.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from hearthring.node.stage_session import Prepared, StageSession, check_wish
from hearthring.protocol.errors import (
    DeadlineExceeded,
    HearthringError,
    LayersOutOfRange,
    Malformed,
    QuotaExceeded,
    StageFailed,
    UnknownSession,
    WrongClass,
)
from hearthring.protocol.invitation import split_address
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.links import Link, Links
from hearthring.protocol.messages import (
    AttachDown,
    Cancel,
    EvidenceQuery,
    Finish,
    HopTime,
    Open,
    Opened,
    Step,
    Tap,
)
from hearthring.protocol.tasks import cancel, race
from hearthring.protocol.transport import Stream, Transport
from hearthring.protocol.wire import decode_step, decode_up, encode_down, encode_step
from hearthring.shards.engine import Engine

T = TypeVar("T")
MakeSession = Callable[[Open, str, Engine, Transport], StageSession]


def honest_session(wish: Open, client: str, engine: Engine, transport: Transport) -> StageSession:
    """The session of a node that does what it says."""
    return StageSession(wish, client, engine, transport.identity)


@dataclass(slots=True)
class _Place:
    """A session with its ways out."""

    session: StageSession
    outbox: "asyncio.Queue[AttachDown]"
    failed: "asyncio.Future[None]"
    processed: asyncio.Condition
    link: Link | None = None
    touched: float = field(default_factory=time.monotonic)

    def fail(self, error: HearthringError) -> None:
        """End the session; its client is told why."""
        if not self.failed.done():
            self.failed.set_exception(error)

    def post(self, frame: AttachDown) -> None:
        """Queue a frame for the client."""
        try:
            self.outbox.put_nowait(frame)
        except asyncio.QueueFull:
            self.fail(QuotaExceeded("the client reads too slowly", field="attach"))


@dataclass(frozen=True, slots=True)
class _Ready:
    place: _Place
    step: Step
    arrived: float


Outcome = tuple[Step, list[Tap]] | HearthringError


class StageServer:
    """Serves one engine's window to any number of sessions.

    ``kv_rows`` is the number of KV rows that all sessions may hold together.
    """

    def __init__(
        self,
        transport: Transport,
        engine: Engine,
        model_id: str,
        kv_rows: int,
        make_session: MakeSession = honest_session,
    ) -> None:
        self.free_rows = kv_rows
        self._transport, self._engine, self._model_id = transport, engine, model_id
        self._make_session = make_session
        self._links = Links(transport)
        self._places: dict[bytes, _Place] = {}
        self._per_peer = Counter[str]()
        self._queue = deque[_Ready]()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "engine")
        self._worker = asyncio.create_task(self._work())

    @property
    def sessions(self) -> int:
        """Sessions open now."""
        return len(self._places)

    async def close(self) -> None:
        """End every session, the worker and the links."""
        for place in self._places.values():
            place.fail(StageFailed("the node is stopping", field=self._transport.identity.node_id))
        await cancel([self._worker])
        await self._links.close()
        self._thread.shutdown(cancel_futures=True)

    # -- Attach: a client's place ----------------------------------------------------------------

    async def attach(self, stream: Stream) -> None:
        """Serve one client's session from its ``Open`` to the end of its stream."""
        wish = await self._first(stream)
        place = self._admit(wish, stream.peer)
        leave: Callable[[], None] = lambda: None  # noqa: E731
        try:
            if not place.session.last:
                place.link = await self._links.get(wish.next_address, wish.next)
                leave = place.link.use(place.fail)
            place.post(Opened(self._engine.numerics.name, wish.max_rows))
            await race(self._listen(place, stream), self._speak(place, stream), _wait(place.failed))
        finally:
            leave()
            if place.failed.done() and not place.failed.cancelled():
                place.failed.exception()
            del self._places[wish.session]
            self._per_peer[stream.peer] -= 1
            self.free_rows += wish.max_rows

    async def _first(self, stream: Stream) -> Open:
        try:
            async with asyncio.timeout(LIMITS.hello):
                data = await stream.receive()
        except TimeoutError:
            raise DeadlineExceeded("nothing was asked for in time", field="open") from None
        wish = decode_up(data) if data is not None else None
        if not isinstance(wish, Open):
            raise Malformed("the first frame must open a session", field="attach")
        return wish

    def _admit(self, wish: Open, client: str) -> _Place:
        """Check a wish against what this stage serves and has left, then reserve it."""
        engine, numerics = self._engine, self._engine.numerics
        check_wish(wish)
        if wish.model_id != self._model_id:
            raise LayersOutOfRange("this node serves another model", field="open.model_id")
        if not engine.start <= wish.start < wish.end <= engine.end:
            raise LayersOutOfRange(
                f"[{wish.start}, {wish.end}) is outside [{engine.start}, {engine.end})",
                field="open.start",
            )
        if wish.residual != numerics.residual:
            raise WrongClass(f"this stage has {numerics.residual.value}", field="open.residual")
        if wish.fingerprint != numerics.fingerprint:
            raise WrongClass(f"this stage is {numerics.name}", field="open.fingerprint")
        if any(not wish.start < tap <= wish.end for tap in wish.taps):
            raise LayersOutOfRange("a boundary outside the window", field="open.taps")
        if wish.next != client:
            split_address(wish.next_address, "open.next_address")
        if wish.session in self._places:
            raise QuotaExceeded("the session is open already", field="open.session")
        if self._per_peer[client] >= LIMITS.sessions_per_peer:
            raise QuotaExceeded(f"more than {LIMITS.sessions_per_peer}", field="sessions per peer")
        if len(self._places) >= LIMITS.sessions:
            raise QuotaExceeded(f"more than {LIMITS.sessions}", field="sessions")
        if wish.max_rows > min(self.free_rows, LIMITS.session_rows):
            raise QuotaExceeded(
                f"{wish.max_rows} rows asked for, {self.free_rows} are free", field="open.max_rows"
            )
        session = self._make_session(wish, client, engine, self._transport)
        outbox = asyncio.Queue[AttachDown](256)
        failed = asyncio.get_running_loop().create_future()
        place = _Place(session, outbox, failed, asyncio.Condition())
        self._places[wish.session] = place
        self._per_peer[client] += 1
        self.free_rows -= wish.max_rows
        return place

    async def _listen(self, place: _Place, stream: Stream) -> None:
        """Take the client's frames until it ends the stream or its lease runs out."""
        while True:
            try:
                async with asyncio.timeout_at(_loop_time(place.touched + LIMITS.idle)):
                    data = await stream.receive()
            except TimeoutError:
                if time.monotonic() - place.touched < LIMITS.idle:
                    continue
                raise DeadlineExceeded(f"no step for {LIMITS.idle:.0f} s", field="lease") from None
            if data is None:
                return
            match decode_up(data):
                case Cancel(ids):
                    place.session.cancel(ids)
                case Finish(last_step, commit):
                    await self._finish(place, last_step, commit)
                case EvidenceQuery():
                    place.post(await self._on_thread(place.session.evidence))
                case Open():
                    raise Malformed("a session opens once", field="attach")

    async def _finish(self, place: _Place, last_step: int, commit: tuple[int, ...]) -> None:
        try:
            async with asyncio.timeout(LIMITS.receipt), place.processed:
                await place.processed.wait_for(lambda: place.session.next_step > last_step)
        except TimeoutError:
            raise DeadlineExceeded(f"step {last_step} never arrived", field="finish") from None
        receipt = await self._on_thread(lambda: place.session.receipt(commit))
        if receipt is not None:
            place.post(receipt)

    async def _on_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _speak(self, place: _Place, stream: Stream) -> None:
        while True:
            await stream.send(encode_down(await place.outbox.get()))

    # -- Pass: rows from the stage before --------------------------------------------------------

    async def take_rows(self, stream: Stream) -> None:
        """Queue the steps of one peer, in order, for the sessions that expect them from it."""
        await stream.send(b"")  # ready
        while (data := await stream.receive()) is not None:
            step = decode_step(data)
            place = self._places.get(step.session)
            if place is None:
                continue  # a session that has just ended
            if place.session.wish.previous != stream.peer:
                raise UnknownSession("rows for somebody else's session", field="step.session")
            place.touched = time.monotonic()
            self._queue.append(_Ready(place, step, place.touched))
            self._arrived.set()

    async def _work(self) -> None:
        """Run whatever is ready: at most one step of each session at a time."""
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            batch = self._next_batch()
            if not batch:
                self._arrived.clear()
                continue
            outcomes = await loop.run_in_executor(self._thread, self._run, batch)
            for ready, outcome in zip(batch, outcomes, strict=True):
                await self._deliver(ready.place, outcome)

    def _next_batch(self) -> list[_Ready]:
        batch, later, seen, rows = [], deque[_Ready](), set[bytes](), 0
        while self._queue and rows < LIMITS.rows_per_step:
            ready = self._queue.popleft()
            if ready.place.failed.done() or ready.step.session not in self._places:
                continue
            if ready.step.session in seen:
                later.append(ready)
                continue
            seen.add(ready.step.session)
            rows += len(ready.step.rows)
            batch.append(ready)
        self._queue.extendleft(reversed(later))
        return batch

    def _run(self, batch: list[_Ready]) -> list[Outcome]:
        """On the engine's thread: check, compute, sign. One session's error is its own."""
        begun = time.monotonic()
        outcomes: list[Outcome | None] = [None] * len(batch)
        prepared: dict[int, Prepared] = {}
        for i, ready in enumerate(batch):
            try:
                prepared[i] = ready.place.session.prepare(ready.step)
            except HearthringError as error:
                outcomes[i] = error
        for group in self._groups(batch, prepared):
            self._compute(batch, {i: prepared[i] for i in group}, outcomes, begun)
        return [o if o is not None else StageFailed("not run") for o in outcomes]

    def _groups(self, batch: list[_Ready], prepared: dict[int, Prepared]) -> list[list[int]]:
        """Sessions that run together: those of the same window."""
        groups: dict[tuple[int, int], list[int]] = {}
        for i in prepared:
            wish = batch[i].place.session.wish
            groups.setdefault((wish.start, wish.end), []).append(i)
        return list(groups.values())

    def _compute(
        self,
        batch: list[_Ready],
        prepared: dict[int, Prepared],
        outcomes: list[Outcome | None],
        begun: float,
    ) -> None:
        """One pass of the engine; on an error with several sessions, one pass each."""
        wanted = frozenset(tap for i in prepared for tap in batch[i].place.session.wish.taps)
        try:
            output, tapped = self._engine.forward(
                tuple(p.segment for p in prepared.values()),
                np.concatenate([p.states for p in prepared.values()]),
                wanted,
            )
        except HearthringError as error:
            if len(prepared) == 1:
                outcomes[next(iter(prepared))] = error
                return
            for i, one in prepared.items():
                self._compute(batch, {i: one}, outcomes, begun)
            return
        took, at = time.monotonic() - begun, 0
        for i, one in prepared.items():
            rows = slice(at, at := at + len(one.rows))
            session, hop = batch[i].place.session, HopTime(begun - batch[i].arrived, took)
            try:
                step = session.complete(one, output[rows], hop)
                taps = session.taps(one, {b: states[rows] for b, states in tapped.items()})
                outcomes[i] = step, taps
            except HearthringError as error:
                outcomes[i] = error

    async def _deliver(self, place: _Place, outcome: Outcome) -> None:
        if isinstance(outcome, HearthringError):
            place.fail(outcome)
            return
        step, taps = outcome
        for tap in taps:
            place.post(tap)
        if place.link is not None:
            try:
                place.link.post(encode_step(step))
            except HearthringError as error:
                place.fail(error)
        elif step.want_output:
            place.post(step)
        async with place.processed:
            place.processed.notify_all()


async def _wait(failed: "asyncio.Future[None]") -> None:
    await asyncio.shield(failed)


def _loop_time(monotonic: float) -> float:
    """A ``time.monotonic`` moment on the event loop's clock."""
    return asyncio.get_running_loop().time() + monotonic - time.monotonic()
