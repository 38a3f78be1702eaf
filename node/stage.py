"""The stage server: places for clients, a queue of steps, one engine.

The life of a step: it arrives on somebody's ``Pass`` stream (``_take_rows``), waits in the queue,
runs with whatever other sessions have ready (``_work``, ``_run``), and leaves for the next stage,
or at the last stage for the client (``_deliver``). Errors of a session go to its client by name
and end that session alone.
"""

import asyncio
import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from hearthring.node.places import MakeSession, Place, Places, honest_session
from hearthring.node.stage_session import Prepared
from hearthring.protocol.errors import (
    DeadlineExceeded,
    HearthringError,
    Malformed,
    QuotaExceeded,
    StageFailed,
)
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.links import Links
from hearthring.protocol.messages import (
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


@dataclass(frozen=True, slots=True)
class _Ready:
    place: Place
    step: Step
    arrived: float


Outcome = tuple[Step, list[Tap]] | HearthringError


class StageServer:
    """Serves one engine's window to any number of sessions; see ``Places`` for who gets in."""

    def __init__(
        self,
        transport: Transport,
        engine: Engine,
        model_id: str,
        kv_rows: int,
        make_session: MakeSession = honest_session,
    ) -> None:
        self._engine, self._who = engine, transport.identity
        self._places = Places(transport, engine, model_id, kv_rows, make_session)
        self._links = Links(transport)
        self._queue = deque[_Ready]()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "engine")
        self._worker = asyncio.create_task(self._work())

    @property
    def sessions(self) -> int:
        """Sessions open now."""
        return len(self._places)

    @property
    def free_rows(self) -> int:
        """KV rows that new sessions may ask for."""
        return self._places.free_rows

    async def close(self) -> None:
        """End every session, the worker and the links."""
        self._places.end_all(StageFailed("the node is stopping", field=self._who.node_id))
        await cancel([self._worker])
        await self._links.close()
        self._thread.shutdown(cancel_futures=True)

    # -- Attach: a client's place ----------------------------------------------------------------

    async def attach(self, stream: Stream) -> None:
        """Serve one client's session from its ``Open`` to the end of its stream."""
        wish = await self._first(stream)
        with contextlib.ExitStack() as stack:
            place = stack.enter_context(self._places.take(wish, stream.peer))
            if not place.session.last:
                place.link = await self._links.get(wish.next_address, wish.next)
                stack.callback(place.link.use(place.fail))
            place.post(Opened(self._engine.numerics.name, wish.max_rows))
            await race(self._listen(place, stream), self._speak(place, stream), _wait(place.failed))

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

    async def _finish(self, place: Place, last_step: int, commit: tuple[int, ...]) -> None:
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

    async def _speak(self, place: Place, stream: Stream) -> None:
        while True:
            await stream.send(encode_down(await place.outbox.get()))

    # -- Pass: rows from the stage before --------------------------------------------------------

    async def take_rows(self, stream: Stream) -> None:
        """Queue the steps of one peer, in order, for the sessions that expect them from it."""
        await stream.send(b"")  # ready
        while (data := await stream.receive()) is not None:
            step = decode_step(data)
            place = self._places.find(step.session)
            # Rows of a session that has just ended, or that this peer isn't to feed, are nobody's.
            # No error: the stream carries other sessions, whose clients aren't to blame.
            if place is None or place.session.wish.previous != stream.peer:
                continue
            place.queued += 1
            if place.queued > LIMITS.steps_in_flight:
                place.fail(QuotaExceeded("too many steps wait here", field="steps in flight"))
                continue
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
            try:
                outcomes = await loop.run_in_executor(self._thread, self._run, batch)
            except Exception as error:  # a fault of ours must not leave sessions waiting
                print(f"engine: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                broken = StageFailed(f"internal error: {type(error).__name__}", field="engine")
                outcomes = [broken] * len(batch)
            for ready, outcome in zip(batch, outcomes, strict=True):
                await self._deliver(ready.place, outcome)

    def _next_batch(self) -> list[_Ready]:
        batch, later, seen, rows = [], deque[_Ready](), set[bytes](), 0
        while self._queue and rows < LIMITS.rows_per_step:
            ready = self._queue.popleft()
            ready.place.queued -= 1
            if (
                ready.place.failed.done()
                or self._places.find(ready.step.session) is not ready.place
            ):
                continue
            if ready.step.session in seen:
                later.append(ready)
                ready.place.queued += 1
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

    async def _deliver(self, place: Place, outcome: Outcome) -> None:
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
