"""A client's session and a stage that breaks the rules: it ends at once, and by name."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hearthring.client.closing import finish
from hearthring.client.ring import RingSession
from hearthring.client.route import Stage
from hearthring.protocol import identity
from hearthring.protocol.errors import HearthringError, QuotaExceeded, StageFailed
from hearthring.protocol.identity import Identity
from hearthring.protocol.memory import MemoryNetwork, MemoryTransport
from hearthring.protocol.messages import (
    PROMPT,
    Finish,
    Open,
    Opened,
    Probe,
    Progress,
    Receipt,
    Row,
    Step,
)
from hearthring.protocol.tensors import F32, Residual, pack
from hearthring.protocol.transport import Method, Stream
from hearthring.protocol.wire import decode_step, decode_up, encode_down
from hearthring.verify.claims import claim
from hearthring.verify.rowhash import row_hashes

MODEL, CLASS, ENDS = "ab" * 32, "cd" * 32, "ef" * 32
WIDTH, END = 4, 2
ROWS = (Row(1, 0, 0, PROMPT), Row(2, 1, 1, PROMPT))
STATES = np.arange(2 * WIDTH, dtype=np.float32).reshape(2, WIDTH)
Spoil = Callable[["FakeStage", Step], Step | bytes]


class FakeStage:
    """A stage that returns what it was sent, spoiled as told, and signed."""

    def __init__(self, network: MemoryNetwork, spoil: Spoil = lambda stage, step: step) -> None:
        self.transport, self.spoil = MemoryTransport(network), spoil
        self.refusal: HearthringError | None = None
        self.attached = 0
        self.out = asyncio.Queue[Step | bytes | None]()

    async def start(self, start: int = 0, end: int = END) -> Stage:
        handlers = {Method.ATTACH: self.attach, Method.PASS: self.take_rows}
        address = await self.transport.serve("127.0.0.1:0", handlers)
        node = self.transport.identity.node_id
        return Stage(node, address, start, end, "fp32", "fake", CLASS)

    async def attach(self, stream: Stream) -> None:
        wish = decode_up(await stream.receive() or b"")
        assert isinstance(wish, Open)
        if self.refusal is not None:
            raise self.refusal
        self.attached += 1
        try:
            await stream.send(encode_down(Opened("fake", wish.max_rows)))
            leaving = asyncio.create_task(self.leave(stream))
            while (frame := await self.out.get()) is not None:
                await stream.send(frame if isinstance(frame, bytes) else encode_down(frame))
            leaving.cancel()
        finally:
            self.attached -= 1

    async def leave(self, stream: Stream) -> None:
        while await stream.receive() is not None:
            pass
        self.out.put_nowait(None)

    async def take_rows(self, stream: Stream) -> None:
        await stream.send(b"")
        while (data := await stream.receive()) is not None:
            frame = self.spoil(self, self.signed(decode_step(data)))
            self.out.put_nowait(frame)

    def signed(self, step: Step, **changes: Any) -> Step:
        step = replace(step, **changes)
        live = step.live
        kinds, positions = [row.kind for row in live], [row.position for row in live]
        model, numerics = bytes.fromhex(MODEL), bytes.fromhex(CLASS)
        hashes = row_hashes(model, numerics, END, kinds, positions, step.states, len(live))
        ids = [row.id for row in live]
        said = claim(step.session, step.epoch, step.step_id, END, ids, hashes)
        return replace(step, signature=self.transport.identity.sign(said))


@pytest.fixture
async def network() -> AsyncIterator[MemoryNetwork]:
    network = MemoryNetwork()
    yield network
    for transport in list(network.listeners.values()):
        await transport.close()


def session(network: MemoryNetwork, *route: Stage) -> RingSession:
    return RingSession(MemoryTransport(network), route, MODEL, ENDS)


async def test_what_a_stage_returns_properly_is_the_result(network: MemoryNetwork) -> None:
    stage = await FakeStage(network).start()
    async with session(network, stage) as ring:
        await ring.open(8)
        first, second = ring.send(ROWS, STATES), ring.send([Row(3, 2, 2, PROMPT)], STATES[:1])
        result = await ring.result(first)
        assert (result.step_id, result.rows) == (1, ROWS)
        assert (result.states == STATES).all()
        assert (await ring.result(second)).step_id == 2
        assert list(ring.ledger.received) == list(ring.ledger.sent) == [1, 2, 3]
        assert [signed.step_id for signed in ring.ledger.signed] == [1, 2]


async def test_a_result_that_is_begun_on_is_nobodys_before_its_signature_holds(
    network: MemoryNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await FakeStage(network).start()
    shown, checking, go = list[tuple[int, F32]](), asyncio.Event(), threading.Event()
    loop, verify = asyncio.get_running_loop(), identity.verify

    def early(rows: Sequence[Row], states: F32) -> bool:
        shown.append((len(rows), states))
        return True

    def held(*signed: Any) -> None:
        loop.call_soon_threadsafe(checking.set)
        assert go.wait(5)
        verify(*signed)

    async with session(network, stage) as ring:
        await ring.open(8)
        ring.places.hearing.early = early
        monkeypatch.setattr(identity, "verify", held)
        sent = ring.send(ROWS, STATES)
        await asyncio.wait_for(checking.wait(), 5)
        [(count, states)] = shown
        assert (count, (states == STATES).all()) == (2, True)
        assert not sent.done()
        assert not ring.ledger.received
        go.set()
        assert ((await ring.result(sent)).states == STATES).all()
        assert list(ring.ledger.received) == [1, 2]


SPOILS: dict[str, tuple[str, Spoil]] = {
    "nobody's signature": ("BadSignature", lambda _, s: replace(s, signature=bytes(64))),
    "another state": (
        "BadSignature",
        lambda _, s: replace(s, states=pack(STATES + 1, Residual.FP32)),
    ),
    "fewer rows": (
        "Malformed",
        lambda f, s: f.signed(s, rows=s.rows[:1], states=s.states[: 4 * WIDTH]),
    ),
    "no rows": ("Malformed", lambda f, s: f.signed(s, rows=(), states=b"")),
    "other ids": ("Malformed", lambda f, s: f.signed(s, rows=(s.rows[0], Row(3, 1, 1, 1)))),
    "other positions": ("Malformed", lambda f, s: f.signed(s, rows=(s.rows[0], Row(2, 1, 2, 1)))),
    "rows in another order": ("Malformed", lambda f, s: f.signed(s, rows=s.rows[::-1])),
    "rows that it lets die": (
        "Malformed",
        lambda f, s: f.signed(s, dead=(2,), states=s.states[: 4 * WIDTH]),
    ),
    "all rows dead": ("Malformed", lambda f, s: f.signed(s, dead=(1, 2), states=b"")),
    "narrower rows": ("BadShape", lambda f, s: f.signed(s, states=s.states[: 4 * WIDTH])),
    "wider rows": ("BadShape", lambda f, s: f.signed(s, states=s.states * 2)),
    "no states": ("BadShape", lambda _, s: replace(s, states=b"")),
    "a NaN": (
        "NonFinite",
        lambda f, s: f.signed(s, states=np.full(8, np.nan, "<f4").tobytes()),
    ),
    "a step that nobody sent": ("OutOfOrder", lambda f, s: f.signed(s, step_id=7)),
    "another session": ("Malformed", lambda f, s: f.signed(s, session=bytes(16))),
    "another epoch": ("Malformed", lambda f, s: f.signed(s, epoch=1)),
    "garbage": ("Malformed", lambda _, __: b"\xff"),
}


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("name", SPOILS)
async def test_a_wrong_result_ends_the_session_at_once(
    network: MemoryNetwork, name: str, early: bool
) -> None:
    error, spoil = SPOILS[name]
    stage = await FakeStage(network, spoil).start()
    async with session(network, stage) as ring:
        await ring.open(8)
        ring.places.hearing.early = lambda rows, states: early
        waiting, behind = ring.send(ROWS, STATES), ring.send([Row(3, 2, 2, PROMPT)], STATES[:1])
        for pending in (waiting, behind):
            with pytest.raises(StageFailed, match=rf"{stage.node}: {error}: "):
                await asyncio.wait_for(ring.result(pending), 5)
        assert ring.places.blamed == {stage.node}
        assert ring.ledger.received == {}
        with pytest.raises(StageFailed, match=error):
            ring.send(ROWS, STATES)


async def test_a_result_twice_ends_the_session(network: MemoryNetwork) -> None:
    fake = FakeStage(network)
    stage = await fake.start()
    async with session(network, stage) as ring:
        await ring.open(8)
        sent = ring.send(ROWS, STATES)
        await ring.result(sent)
        again = Step(ring.session, 0, 1, ROWS, pack(STATES, Residual.FP32))
        fake.out.put_nowait(fake.signed(again))
        fake.spoil = lambda _, __: b""
        with pytest.raises(StageFailed, match="OutOfOrder"):
            await asyncio.wait_for(ring.result(ring.send(ROWS, STATES)), 5)


async def test_a_result_from_a_stage_that_is_not_the_last_is_refused(
    network: MemoryNetwork,
) -> None:
    fake = FakeStage(network)
    first, last = await fake.start(0, 1), await FakeStage(network).start(1, END)
    async with session(network, first, last) as ring:
        await ring.open(8)
        with pytest.raises(StageFailed, match=f"{first.node}: Malformed"):
            await asyncio.wait_for(ring.result(ring.send(ROWS, STATES)), 5)


async def test_a_stage_that_ends_its_stream_ends_the_session(network: MemoryNetwork) -> None:
    fake = FakeStage(network)
    stage = await fake.start()
    async with session(network, stage) as ring:
        await ring.open(8)
        fake.out.put_nowait(None)
        with pytest.raises(StageFailed, match="it ended the session"):
            await asyncio.wait_for(ring.result(ring.send(ROWS, STATES)), 5)


async def test_a_withheld_receipt_is_none_and_a_refused_one_too(
    network: MemoryNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hearthring.client.closing.RECEIPT_SECONDS", 0.05)
    fake = FakeStage(network)
    async with session(network, await fake.start()) as ring:
        await ring.open(8)
        assert await finish(ring, []) == [None]
        fake.out.put_nowait(encode_down(Receipt(b"body", b"signature")))
        assert await finish(ring, []) == [Receipt(b"body", b"signature")]


class BusyStage(FakeStage):
    """Its steps wait for the engine for longer than a receipt may take."""

    finishes = 0

    async def leave(self, stream: Stream) -> None:
        while (data := await stream.receive()) is not None:
            match decode_up(data):
                case Finish():
                    self.finishes += 1
                    if self.finishes == 3:
                        self.out.put_nowait(encode_down(Receipt(b"body", b"signature")))
                case Probe(number):
                    self.out.put_nowait(encode_down(Progress(number, 0, waiting=1)))
        self.out.put_nowait(None)


async def test_a_stage_whose_steps_still_wait_has_longer_to_sign(
    network: MemoryNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hearthring.client.closing.RECEIPT_SECONDS", 0.05)
    busy = BusyStage(network)
    async with session(network, await busy.start()) as ring:
        await ring.open(8)
        assert await finish(ring, []) == [Receipt(b"body", b"signature")]
    assert busy.finishes == 3


async def test_one_refusal_leaves_nothing_open_anywhere(network: MemoryNetwork) -> None:
    """A stage that answers late mustn't be attached to after everything was closed."""
    refusing, late = FakeStage(network), FakeStage(network)
    refusing.refusal = QuotaExceeded("full", field="sessions")
    route = await refusing.start(0, 1), await late.start(1, END)
    caller = MemoryTransport(network)
    dial, reached, go = caller.dial, asyncio.Event(), asyncio.Event()

    async def slowly(address: str, node_id: str, method: Method) -> Any:
        if address == route[1].address:
            reached.set()
            await go.wait()
        return await dial(address, node_id, method)

    caller.dial = slowly  # type: ignore[method-assign]
    ring = RingSession(caller, route, MODEL, ENDS)
    with pytest.raises(StageFailed, match=f"{route[0].node}: QuotaExceeded: sessions: full"):
        await ring.open(8)
    assert reached.is_set()
    assert ring.places.blamed == {route[0].node}
    go.set()
    for _ in range(20):
        await asyncio.sleep(0)
    assert late.attached == 0
    assert asyncio.all_tasks() == {asyncio.current_task(), *late.transport._tasks}
    assert not late.transport._tasks


async def test_a_stage_that_is_somebody_else_is_named(network: MemoryNetwork) -> None:
    stage = replace(await FakeStage(network).start(), node=Identity.new().node_id)
    with pytest.raises(StageFailed, match=f"{stage.node}: WrongIdentity"):
        await session(network, stage).open(8)
