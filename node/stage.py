"""The stage server: places for clients, a queue of steps, one engine.

The life of a step: it arrives on somebody's ``Pass`` stream (``take_rows``), waits in the queue
(``node/batching.py``), runs with whatever other sessions have ready (``_run``), and leaves for the
next stage, or at the last stage for the client (``_deliver``). Errors of a session go to its client
by name and end that session alone.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from hearthring.node.archive import Archive
from hearthring.node.batching import Batcher, Waiting
from hearthring.node.cell_desk import CellDesk
from hearthring.node.lease import within_lease
from hearthring.node.orders import check_reroute
from hearthring.node.places import MakeSession, Place, Places, honest_session
from hearthring.node.sign_off import sign_off
from hearthring.node.stage_session import Prepared
from hearthring.node.worker import Worker
from hearthring.protocol.errors import (
    DeadlineExceeded,
    HearthringError,
    Malformed,
    StageFailed,
    StaleEpoch,
)
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.links import Links
from hearthring.protocol.messages import (
    PROMPT,
    Cancel,
    EvidenceQuery,
    Finish,
    HopTime,
    Open,
    Opened,
    Probe,
    Replay,
    Reroute,
    Step,
    Tap,
)
from hearthring.protocol.tasks import cancel, race, until
from hearthring.protocol.transport import Stream, Transport
from hearthring.protocol.wire import decode_step, decode_up
from hearthring.shards.engine import Engine, Window
from hearthring.shards.tracing import Trace, TracingEngine
from hearthring.verify.claims import begin

_AFTERWARDS = 0.001
"""Seconds from a step's end to the hashing of its cells, which holds the interpreter's lock: it is
to be written first."""


@dataclass(frozen=True, slots=True)
class _Ready:
    place: Place
    step: Step
    arrived: float
    size: int


Outcome = tuple[Step, list[Tap]] | HearthringError


class StageServer:
    """Serves one engine's window, or ``windows``, to any number of sessions.

    ``Places`` says who gets in.
    """

    def __init__(
        self,
        transport: Transport,
        engine: Engine,
        model_id: str,
        kv_rows: int,
        make_session: MakeSession = honest_session,
        row_bytes: int = 0,
        windows: Sequence[Window] = (),
    ) -> None:
        self._engine, self._who = engine, transport.identity
        # Asked once: to see that an engine has all that a protocol names takes as long as hashing.
        self._tracing = engine if isinstance(engine, TracingEngine) else None
        self._places = Places(
            transport, engine, model_id, kv_rows, make_session, row_bytes, windows
        )
        self._links = Links(transport)
        self.archive = Archive()
        """What ended sessions sent, for audits."""
        self._queue = Batcher[_Ready]()
        self._busy = self._closed = self._leaving = False
        self._loop = asyncio.get_running_loop()
        self._worker, self._checker = Worker("engine"), Worker("signatures")
        self.cells = CellDesk(engine, self._worker, self._places, self.archive, self._who.node_id)

    @property
    def sessions(self) -> int:
        """Sessions open now."""
        return len(self._places)

    @property
    def free_rows(self) -> int:
        """KV rows that new sessions may ask for."""
        return self._places.free_rows

    async def drain(self, grace: float) -> None:
        """Ask every client to go on elsewhere; returns when all have, or after ``grace`` seconds.

        Sessions go on until their clients leave; new ones are refused.
        """
        self._leaving = True
        leaving = StageFailed("the node is leaving", field=self._who.node_id)
        self._places.report_all(leaving, self._who.node_id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._places.empty.wait()

    async def close(self) -> None:
        """End every session, the links and, after what it is at, the engine's thread."""
        self._closed = True
        self._places.end_all(StageFailed("the node is stopping", field=self._who.node_id))
        await self._links.close()
        await self._worker.close()
        await self._checker.close()

    # -- Attach: a client's place ----------------------------------------------------------------

    async def attach(self, stream: Stream) -> None:
        """Serve one client's session from its ``Open`` to the end of its stream."""
        wish = await self._first(stream)
        if self._leaving:
            raise StageFailed("the node is leaving", field=self._who.node_id)
        with contextlib.ExitStack() as stack:
            place = stack.enter_context(self._places.take(wish, stream.peer))
            self._worker.submit(self._places.prefixes.trim)
            stack.callback(self._queue.forget, stream.peer, place.number)
            stack.callback(self._keep_rows, place)
            place.link_to_next(Opened(self._engine.numerics.name, wish.max_rows))
            await race(
                self._listen(place, stream),
                self._obey(place),
                self._speak(place, stream),
                self._link(place),
                sign_off(place, self._worker, self.archive),
                place.feeding.run(self._links),
                _wait(place.failed),
            )

    def _keep_rows(self, place: Place) -> None:
        """Once a session has ended well, keep its rows for later ones."""
        if not place.failed.done():
            self._worker.submit(place.session.leave)

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

    async def _listen(self, place: Place, stream: Stream) -> None:
        """Take the client's frames until it ends the stream or its lease runs out.

        A probe is answered at once, while orders may wait for the engine: slow isn't dead.
        """
        while True:
            # Not broken off while the lease goes on: what a stream was to bring would be lost.
            reading = asyncio.ensure_future(stream.receive())
            try:
                data = await within_lease(place, reading)
            finally:
                await cancel([reading])
            if data is None:
                return
            frame = decode_up(data)
            if isinstance(frame, Probe):
                place.touched = time.monotonic()  # it waits for steps that are elsewhere
                place.post(place.progress(frame.number))
            else:
                place.order(data)

    async def _obey(self, place: Place) -> None:
        """Do what the client orders, one after the other."""
        while True:
            match decode_up(await place.orders.get()):
                case Cancel(ids):
                    place.session.cancel(ids)
                case Finish() as order:
                    place.finish_with(order)
                case EvidenceQuery():
                    place.post(await self._worker.run(place.session.evidence))
                case Reroute() as order:
                    await self._reroute(place, order)
                case Replay() as order:
                    step = await self._worker.run(partial(place.session.replay, order))
                    place.send_again(order, step)
                case Open():
                    raise Malformed("a session opens once", field="attach")

    async def _reroute(self, place: Place, order: Reroute) -> None:
        """Begin a new epoch; its next stage is linked meanwhile."""
        check_reroute(order, place.session.client)
        place.finish_with(None)
        place.ready = None  # of an epoch that is over nothing is told
        rerouted = await self._worker.run(lambda: place.session.reroute(order))
        place.touched = time.monotonic()
        place.link_to_next(rerouted)

    async def _link(self, place: Place) -> None:
        """Link to the next stage in every epoch. A later epoch doesn't wait for an earlier one's
        link, which may lead to a node that is silent."""
        while True:
            await place.wanted.wait()
            place.wanted.clear()
            await race(place.connect(self._links), until(place.wanted))

    async def _speak(self, place: Place, stream: Stream) -> None:
        while True:
            await stream.send(await place.outbox.get())

    # -- Pass: rows from the stage before --------------------------------------------------------

    async def take_rows(self, stream: Stream) -> None:
        """Queue the steps of one peer, in order, for the sessions that expect them from it."""
        await stream.send(b"")  # ready
        while (data := await stream.receive()) is not None:
            step = decode_step(data)
            place = self._places.find(step.session, step.boundary)
            # Rows of a session that has just ended, or that this peer isn't to feed, are nobody's.
            # No error: the stream carries other sessions, whose clients aren't to blame.
            if place is None or place.session.wish.previous != stream.peer:
                continue
            if not place.queue(len(data)):
                continue
            ready = _Ready(place, step, place.touched, len(data))
            if not self._busy:  # so nobody waits whose turn it could be
                self._begin([ready])
                continue
            self._queue.push(
                Waiting(
                    place.session.client,
                    place.number,
                    len(step.rows),
                    any(row.kind == PROMPT for row in step.rows),
                    ready,
                )
            )

    def _next(self) -> None:
        """Let the engine's thread, which has nothing to do, run whatever waits."""
        while not self._busy and len(self._queue):
            self._begin(self._queue.next())

    def _begin(self, batch: list[_Ready]) -> None:
        for ready in batch:
            ready.place.unqueue(ready.size)
        batch = [ready for ready in batch if not ready.place.failed.done()]
        if batch and not self._closed:
            self._busy = True
            self._worker.submit(partial(self._work, batch))

    def _work(self, batch: list[_Ready]) -> None:
        """On the engine's thread: a batch, and back to the loop with what came of it."""
        try:
            outcomes = self._run(batch)
        except Exception as error:  # a fault of ours must not leave sessions waiting
            print(f"engine: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            broken = StageFailed(f"internal error: {type(error).__name__}", field="engine")
            outcomes = [broken] * len(batch)
        with contextlib.suppress(RuntimeError):  # the loop may be gone, and nobody waits then
            self._loop.call_soon_threadsafe(self._ran, batch, outcomes)

    def _ran(self, batch: list[_Ready], outcomes: "list[Outcome]") -> None:
        self._busy = False
        for ready, outcome in zip(batch, outcomes, strict=True):
            self._deliver(ready.place, outcome)
        unsettled = [ready.place for ready in batch if ready.place.session.unsettled]
        self._next()
        if unsettled:
            self._loop.call_later(_AFTERWARDS, self._settle, unsettled)

    def _settle(self, places: list[Place]) -> None:
        """What nobody waits for, once the steps have left."""
        for place in places:
            if not (self._closed or place.failed.done()):
                self._worker.submit(place.session.settle)

    def _run(self, batch: list[_Ready]) -> list[Outcome]:
        """On the engine's thread: check, compute, sign. One session's error is its own."""
        outcomes: list[Outcome | None] = [None] * len(batch)
        prepared: dict[int, Prepared] = {}
        for i, ready in enumerate(batch):
            try:
                prepared[i] = ready.place.session.prepare(ready.step)
            except HearthringError as error:
                outcomes[i] = error
        for group in self._groups(batch, prepared):
            self._compute(batch, {i: prepared[i] for i in group}, outcomes)
        return [o if o is not None else StageFailed("not run") for o in outcomes]

    def _groups(self, batch: list[_Ready], prepared: dict[int, Prepared]) -> list[list[int]]:
        """Sessions that run together: those of the same window."""
        groups: dict[tuple[int, int], list[int]] = {}
        for i in prepared:
            wish = batch[i].place.session.wish
            groups.setdefault((wish.start, wish.end), []).append(i)
        # In order of size: an engine keeps what it made for a batch of the same shape.
        return [sorted(group, key=lambda i: prepared[i].size) for group in groups.values()]

    def _compute(
        self,
        batch: list[_Ready],
        prepared: dict[int, Prepared],
        outcomes: list[Outcome | None],
    ) -> None:
        """One pass of the engine; on an error with several sessions, one pass each.

        Signatures are checked meanwhile, and before anything that came of their rows is used.
        """
        self._checker.submit(partial(begin, [one.check for one in prepared.values()]))
        begun = time.monotonic()
        wanted = frozenset(tap for i in prepared for tap in batch[i].place.session.wish.taps)
        segments = tuple(p.segment for p in prepared.values())
        parts = [p.states for p in prepared.values()]
        states = parts[0] if len(parts) == 1 else np.concatenate(parts)
        trace: Trace | None = None
        try:
            if any(batch[i].place.session.traced for i in prepared):
                assert self._tracing is not None
                output, tapped, trace = self._tracing.forward_traced(segments, states, wanted)
            else:
                output, tapped = self._engine.forward(segments, states, wanted)
        except HearthringError as error:
            for i, one in prepared.items():
                if len(prepared) > 1:
                    self._compute(batch, {i: one}, outcomes)
                else:
                    outcomes[i] = _confirmed(batch[i].place, one) or error
            return
        took, at = time.monotonic() - begun, 0
        for i, one in prepared.items():
            rows = slice(at, at := at + len(one.fresh))
            session, hop = batch[i].place.session, HopTime(begun - batch[i].arrived, took)
            try:
                session.confirm(one)
                inside = trace[:, rows] if trace is not None else None
                if inside is not None and len(prepared) > 1:
                    inside = inside.copy()  # what it keeps must not hold what others keep
                step = session.complete(one, output[rows], hop, inside)
                taps = session.taps(one, {b: tap[rows] for b, tap in tapped.items()})
                outcomes[i] = step, taps
            except HearthringError as error:
                outcomes[i] = error

    def _deliver(self, place: Place, outcome: Outcome) -> None:
        place.under_way -= 1
        if isinstance(outcome, StaleEpoch):
            return
        if isinstance(outcome, HearthringError):
            place.fail(outcome)
            return
        step, taps = outcome
        for tap in taps:
            place.post(tap)
        place.pass_on(step)
        place.ran(step.step_id)


def _confirmed(place: Place, prepared: Prepared) -> HearthringError | None:
    """What is wrong with a step's signature: rows that nobody signed are no fault of the engine."""
    try:
        place.session.confirm(prepared)
    except HearthringError as error:
        return error
    return None


async def _wait(failed: "asyncio.Future[None]") -> None:
    await asyncio.shield(failed)
