"""One stage in this process, and clients that speak to it frame by frame, as they please."""

import asyncio
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hearthring.node.stage import StageServer
from hearthring.protocol.errors import HearthringError
from hearthring.protocol.identity import Identity, verify
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.memory import MemoryNetwork, MemoryTransport
from hearthring.protocol.messages import (
    GENERATED,
    PROMPT,
    ROOT,
    AttachDown,
    AttachUp,
    Evidence,
    EvidenceQuery,
    Finish,
    Open,
    Opened,
    Receipt,
    Row,
    Step,
)
from hearthring.protocol.tensors import F32, Residual, pack, unpack
from hearthring.protocol.transport import Method, Stream, Transport
from hearthring.protocol.wire import decode_down, encode_step, encode_up
from hearthring.shards.engine import Engine, EngineRow, Kind, Segment
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.torch_engine import TorchEngine
from hearthring.verify import receipts
from hearthring.verify.claims import claim
from hearthring.verify.rowhash import row_hashes
from tests.wrapped import WrappedEngine

Make = Callable[[], Transport]

MODEL, SENDERS_CLASS = "ab" * 32, "cd" * 32
WINDOW = (1, 3)
ROW_BYTES = 256
"""Keys and values of a row in one layer."""
WIDTH = 64
PATIENCE = 20.0
"""Seconds after which a test fails rather than hangs."""


def states_of(row_ids: Iterable[int]) -> F32:
    """What goes in for rows: different for every id, always the same."""
    return np.stack(
        [np.random.default_rng(n).standard_normal(WIDTH).astype(np.float32) for n in row_ids]
    )


def chain(
    first: int, rows: int, parent: int, kind: int = PROMPT, at: int | None = None
) -> list[Row]:
    """Rows that follow each other; ``at`` is the position of the first, if it isn't ``parent``."""
    at = parent if at is None else at
    ids = [parent, *range(first, first + rows)]
    return [Row(ids[i + 1], ids[i], at + i, kind) for i in range(rows)]


def ids_of(rows: Iterable[Row]) -> tuple[int, ...]:
    return tuple(row.id for row in rows)


def alone(engine: Engine, rows: Sequence[Row]) -> list[bytes]:
    """What the engine makes of one path of rows: the oracle, without stage, slots or trees."""
    cache = engine.new_cache(len(rows), WINDOW)
    slots = np.arange(len(rows), dtype=np.int64)
    outputs = []
    for at, row in enumerate(rows):
        entry = EngineRow(Kind(row.kind), at, at, slots[: at + 1])
        states = states_of([row.id])
        outputs.append(pack(engine.forward((Segment(cache, (entry,)),), states)[0], Residual.FP32))
    return outputs


BEGUN = chain(1, 3, ROOT)
"""What a hostile session has run before it turns hostile."""
NEXT = chain(4, 1, 3, GENERATED)


def wire(states: F32) -> bytes:
    return np.asarray(states, "<f4").tobytes()


def limited(monkeypatch: pytest.MonkeyPatch, module: str, **changes: float) -> None:
    smaller = replace(LIMITS, **changes)  # type: ignore[arg-type]
    monkeypatch.setattr(f"hearthring.node.{module}.LIMITS", smaller)


@dataclass
class GatedEngine(WrappedEngine):
    """An engine that can be held up, and that fails over states somebody chose."""

    gate: threading.Event = field(default_factory=threading.Event)
    held: bool = False
    fail: Callable[[F32], None] = lambda states: None
    batches: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate.set()

    def before(self, segments: tuple[Segment, ...], states: F32) -> tuple[Segment, ...]:
        self.held = not self.gate.is_set()
        assert self.gate.wait(PATIENCE)
        self.batches.append(len(segments))
        self.fail(states)
        return segments


@dataclass
class Peer:
    """A client whose whole route is one stage. It signs properly unless told otherwise."""

    rig: "Rig"
    transport: Transport
    wish: Open
    attach: Stream
    rows: Stream
    next_step: int = 1

    @property
    def who(self) -> Identity:
        return self.transport.identity

    def step(self, rows: Sequence[Row] = (), **changes: Any) -> Step:
        """The next step, signed."""
        head = self.wish.session, self.wish.epoch, self.next_step, tuple(rows)
        plain = Step(*head, boundary=self.wish.start)
        plain = replace(plain, **changes)
        if "states" not in changes and plain.live:
            ids = [row.id for row in plain.live]
            plain = replace(plain, states=pack(states_of(ids), Residual.FP32))
        self.next_step += 1
        return plain if "signature" in changes else self.signed(plain)

    def signed(self, step: Step, who: Identity | None = None) -> Step:
        """A step with the signature of what it holds."""
        live = step.live
        try:
            hashes = row_hashes(
                bytes.fromhex(MODEL),
                bytes.fromhex(self.wish.previous_fingerprint),
                self.wish.start,
                [row.kind for row in live],
                [row.position for row in live],
                step.states,
                len(live),
            )
        except HearthringError:  # states that can't be hashed are refused before the signature
            hashes = []
        ids = [row.id for row in live]
        said = claim(step.session, step.epoch, step.step_id, self.wish.start, ids, hashes)
        return replace(step, signature=(who or self.who).sign(said))

    async def send(self, rows: Sequence[Row] = (), **changes: Any) -> None:
        await self.post(self.step(rows, **changes))

    async def post(self, step: Step) -> None:
        await self.rows.send(encode_step(step))

    async def say(self, frame: AttachUp) -> None:
        await self.attach.send(encode_up(frame))

    async def hear(self) -> AttachDown:
        async with asyncio.timeout(PATIENCE):
            data = await self.attach.receive()
        assert data is not None
        return decode_down(data)

    async def result(self) -> Step:
        """The next result, its signature checked."""
        step = await self.hear()
        assert isinstance(step, Step)
        hashes = row_hashes(
            bytes.fromhex(MODEL),
            bytes.fromhex(self.rig.engine.numerics.fingerprint),
            self.wish.end,
            [row.kind for row in step.live],
            [row.position for row in step.live],
            step.states,
            len(step.live),
        )
        ids = [row.id for row in step.live]
        said = claim(step.session, step.epoch, step.step_id, self.wish.end, ids, hashes)
        verify(self.rig.node_id, said, step.signature)
        return step

    async def run(self, rows: Sequence[Row] = (), **changes: Any) -> dict[int, bytes]:
        """Send a step, and what came back for each of its rows."""
        return outputs_of(await self.pass_on(rows, **changes))

    async def pass_on(self, rows: Sequence[Row] = (), **changes: Any) -> Step:
        """Send a step, and what came back."""
        await self.send(rows, **changes)
        return await self.result()

    async def evidence(self) -> Evidence:
        """What the stage was sent. Also shows that it has taken every frame before."""
        await self.say(EvidenceQuery())
        frame = await self.hear()
        assert isinstance(frame, Evidence)
        return frame

    async def finish(self, commit: Sequence[int]) -> receipts.ReceiptBody:
        await self.say(Finish(self.next_step - 1, tuple(commit)))
        receipt = await self.hear()
        assert isinstance(receipt, Receipt)
        return receipts.read(receipt)

    async def end(self) -> HearthringError:
        """What the session ends with."""
        try:
            while True:
                await self.hear()
        except HearthringError as error:
            return error

    async def refused(self, error: type[HearthringError], name: str) -> HearthringError:
        """The session ends with this very error, about this field."""
        end = await self.end()
        assert (type(end), end.field) == (error, name), repr(end)
        return end

    async def leave(self) -> None:
        await self.attach.close()
        await self.rows.close()


def outputs_of(step: Step) -> dict[int, bytes]:
    """Output bytes by row id."""
    size = WIDTH * Residual.FP32.bytes
    live = step.live
    unpack(step.states, len(live), WIDTH, Residual.FP32)
    return {row.id: step.states[i * size : (i + 1) * size] for i, row in enumerate(live)}


@dataclass
class Rig:
    """A stage and who speaks to it."""

    engine: GatedEngine
    make: Make
    transport: Transport
    stage: StageServer
    address: str
    kv_rows: int

    @property
    def node_id(self) -> str:
        return self.transport.identity.node_id

    def client(self) -> Transport:
        return self.make()

    def wish(self, client: str, **changes: Any) -> Open:
        plain = Open(
            session=secrets.token_bytes(16),
            epoch=0,
            model_id=MODEL,
            start=WINDOW[0],
            end=WINDOW[1],
            residual="fp32",
            fingerprint=self.engine.numerics.fingerprint,
            previous=client,
            next=client,
            next_address="",
            max_rows=64,
            nonce_hash=bytes(32),
            previous_fingerprint=SENDERS_CLASS,
        )
        return replace(plain, **changes)

    async def dial(self, transport: Transport | None = None, **changes: Any) -> Peer:
        """A client that hasn't said anything yet."""
        transport = transport or self.client()
        wish = self.wish(transport.identity.node_id, **changes)
        attach = await transport.dial(self.address, self.node_id, Method.ATTACH)
        rows = await transport.dial(self.address, self.node_id, Method.PASS)
        assert await rows.receive() == b""
        return Peer(self, transport, wish, attach, rows)

    async def attach(self, transport: Transport | None = None, **changes: Any) -> Peer:
        """A client that has asked for a place and hasn't heard yet."""
        peer = await self.dial(transport, **changes)
        await peer.say(peer.wish)
        return peer

    async def open(self, transport: Transport | None = None, **changes: Any) -> Peer:
        """A client with a place."""
        peer = await self.attach(transport, **changes)
        opened = await peer.hear()
        assert opened == Opened(self.engine.numerics.name, peer.wish.max_rows)
        return peer

    async def settled(self, sessions: int) -> None:
        """Wait until so many sessions are open: ends take a turn of the loop or two."""
        await until(lambda: self.stage.sessions == sessions)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what is about to be."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


def tiny_engine(path: Path) -> TorchEngine:
    """The layers of ``WINDOW`` of the tiny model."""
    gguf = GgufFile(path)
    return TorchEngine(gguf.dequantised, gguf.shape, *WINDOW, Residual.FP32, 1)


@asynccontextmanager
async def rig(engine: Engine, kv_rows: int = 1_000, make: Make | None = None) -> AsyncIterator[Rig]:
    """A stage that listens; ``make`` makes its transport and those of its clients."""
    gated = GatedEngine(engine)
    make = make or partial(MemoryTransport, MemoryNetwork())
    transport = make()
    stage = StageServer(transport, gated, MODEL, kv_rows, row_bytes=ROW_BYTES)
    handlers = {
        Method.ATTACH: stage.attach,
        Method.PASS: stage.take_rows,
        Method.CELLS: stage.cells.serve,
    }
    address = await transport.serve("127.0.0.1:0", handlers)
    try:
        yield Rig(gated, make, transport, stage, address, kv_rows)
    finally:
        gated.gate.set()
        await stage.close()
        await transport.close()


STORY = [chain(1, 5, ROOT), *(chain(n, 1, n - 1, GENERATED) for n in range(6, 10))]
"""An honest session's steps: a prompt and four tokens."""


@asynccontextmanager
async def honest_beside(rig: Rig) -> AsyncIterator[Peer]:
    """A session that is in the middle of its story while the block runs, and then ends it.

    Every byte it gets must be what the engine makes of its rows alone.
    """
    peer, commit, got = await rig.open(), (), {}
    for place, rows in enumerate(STORY):
        if place == 2:
            yield peer
        got |= await peer.run(rows, commit=commit)
        commit = tuple(row.id for row in rows)
    path = [row for rows in STORY for row in rows]
    assert list(got.values()) == alone(rig.engine.honest, path)
    assert (await peer.finish(commit)).rows == len(path)
    await peer.leave()
    await rig.settled(0)
    assert rig.stage.free_rows == rig.kv_rows
