"""Mutated frames: each decodes, or is a named error of a peer. The seed is in the test's name."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hearthring.protocol import records
from hearthring.protocol.errors import HearthringError, ProtocolError
from hearthring.protocol.identity import Identity
from hearthring.protocol.layers import (
    Holdings,
    ManifestReply,
    Outline,
    OutlineQuery,
    Piece,
    PieceQuery,
)
from hearthring.protocol.messages import (
    GENERATED,
    ROOT,
    AttachUp,
    Cancel,
    DirectoryReply,
    Evidence,
    EvidenceQuery,
    Finish,
    Hello,
    HopTime,
    Open,
    Opened,
    Receipt,
    Row,
    SignedRows,
    StatusReply,
    Step,
    Tap,
)
from hearthring.protocol.records import NodeRecord
from hearthring.protocol.tasks import cancel
from hearthring.protocol.transport import Stream
from hearthring.protocol.wire import encode_step, encode_up
from hearthring.shards.torch_engine import TorchEngine
from hearthring.verify import receipts
from tests.messages import KINDS
from tests.stage_peer import Peer, Rig, chain, honest_beside, rig, tiny_engine

FRAMES, LIVE = 8_000, 1_000
WHO = Identity.new()
STEP = Step(
    b"s" * 16,
    0,
    7,
    (Row(8, 3, 3, GENERATED), Row(300, 8, 4, GENERATED)),
    bytes(range(64)),
    (1, 2, 3),
    (5,),
    (300,),
    True,
    b"x" * 64,
    (HopTime(0.001, 0.002),),
    4,
)
WISH = Open(
    *(b"s" * 16, 0, "ab" * 32, 0, 4, "fp32", "cd" * 32, WHO.node_id, WHO.node_id, "127.0.0.1:9"),
    *(100, b"n" * 32, "ef" * 32, (1, 2)),
)
EVIDENCE = Evidence((SignedRows(0, 1, (1, 2), (b"h" * 32, b"i" * 32), b"x" * 64),) * 3)
RECORD = NodeRecord(WHO.node_id, "ab" * 32, ((0, 4),), ("127.0.0.1:9",), 1e9, residual="fp16")
RECEIPT = receipts.sign(
    receipts.ReceiptBody(
        *(WHO.node_id, WHO.node_id, b"s" * 16, 0, b"n" * 32, "ab" * 32, 0, 4, "fp32", "torch"),
        *("cd" * 32, WHO.node_id, "ef" * 32, WHO.node_id, 40),
        *((b"a" * 32, b"b" * 32), (b"c" * 32, b"d" * 32), (b"e" * 258,)),
    ),
    WHO,
)
MESSAGES = {
    "hello": [Hello(1, WHO.node_id, "open", b"x" * 64, b"m" * 32)],
    "step": [STEP, Step(b"s" * 16, 0, 1)],
    "up": [WISH, Cancel((1, 300)), Finish(9, (1, 300)), EvidenceQuery()],
    "down": [Opened("torch", 9), STEP, Tap(1, 2, (3,), b"1234"), RECEIPT, EVIDENCE],
    "evidence": [EVIDENCE],
    "status": [StatusReply(WHO.node_id, b"record", ("/ip4/1.2.3.4/tcp/5",), 3, 1.5, 1)],
    "query": ["ab" * 32],
    "layers query": [("ab" * 32, OutlineQuery("layer7")), ("ab" * 32, PieceQuery("head", 9))],
    "layers reply": [
        ManifestReply(b'{"format":2}'),
        Holdings(("tokenizer", "layer7")),
        Outline(3 << 20, (b"h" * 32,) * 3),
        Piece(bytes(range(64))),
    ],
    "records": [DirectoryReply("ab" * 32, (records.sign(RECORD, WHO), b"", b"x"))],
}
Decode = Callable[[bytes], object]


def read_receipt(data: bytes) -> object:
    """A receipt of any body, and of a body that is truly signed."""
    return receipts.read(Receipt(data, WHO.sign(receipts._CONTEXT + data)))


CORPUS: dict[str, tuple[list[bytes], Decode]] = {
    kind: ([KINDS[kind][0](message) for message in messages], KINDS[kind][1])
    for kind, messages in MESSAGES.items()
} | {
    "record": ([records.sign(RECORD, WHO)], records.read),
    "receipt": ([RECEIPT.body], read_receipt),
}


def mutated(data: bytes, others: Sequence[bytes], draw: np.random.Generator) -> bytes:
    """The frame with one to three changes."""
    changed = bytearray(data)
    for _ in range(draw.integers(1, 4)):
        at = int(draw.integers(len(changed) + 1))
        match int(draw.integers(9)):
            case 0:
                changed[at : at + 1] = draw.bytes(1)
            case 1:
                del changed[at : at + int(draw.integers(1, 9))]
            case 2:
                changed[at:at] = draw.bytes(int(draw.integers(1, 9)))
            case 3:
                del changed[at:]
            case 4:  # the largest varint, in place of another or beside it
                changed[at : at + int(draw.integers(2))] = b"\xff" * int(draw.integers(10)) + b"\1"
            case 5:
                other = others[int(draw.integers(len(others)))]
                changed[at:at] = other[int(draw.integers(len(other) + 1)) :]
            case 6:
                changed[at:at] = changed[at : at + int(draw.integers(1, 20))]
            case _ if at < len(changed):
                changed[at] ^= 1 << int(draw.integers(8))
    return bytes(changed)


@pytest.mark.parametrize("kind", CORPUS)
def test_every_mutation_decodes_or_is_a_peers_error(kind: str) -> None:
    frames, decode = CORPUS[kind]
    others = [frame for frames, _ in CORPUS.values() for frame in frames]
    draw, decoded, refused = np.random.default_rng(len(kind)), 0, Counter[str]()
    for n in range(FRAMES):
        data = mutated(frames[n % len(frames)], others, draw)
        try:
            message = decode(data)
        except ProtocolError as error:
            assert "\n" not in str(error)  # noqa: PT017
            refused[type(error).__name__] += 1
            continue
        decoded += 1
        if kind in KINDS:  # what is taken for a message is one: nothing is out of range
            encode, again, _ = KINDS[kind]
            assert again(encode(message)) == message
    # Otherwise the mutations would be too tame or too harsh.
    assert refused.total() > FRAMES // 50
    assert decoded > (FRAMES // 50 if kind != "record" else 0)


@pytest.fixture(scope="module")
def engine(tiny_gguf: Path) -> TorchEngine:
    return tiny_engine(tiny_gguf)


async def test_mutated_steps_do_not_disturb_an_honest_session(engine: TorchEngine) -> None:
    draw, ends = np.random.default_rng(1), Counter[str]()
    async with rig(engine) as stage, honest_beside(stage) as honest:
        others = [encode_step(STEP), encode_step(honest.step(chain(6, 1, 5)))]
        honest.next_step -= 1
        peer = await stage.open()
        for _ in range(LIVE):
            if peer.next_step > 20:
                peer = await again(stage, peer)
            step = peer.step(chain(peer.next_step, 2, ROOT, at=0)[:1])
            data = encode_step(step)
            await peer.rows.send(data if draw.integers(4) == 0 else mutated(data, others, draw))
            if end := await ended(peer):
                ends[end] += 1
                peer = await again(stage, peer)
        await peer.leave()
        await stage.settled(1)
    assert len(ends) > 2, ends


async def test_mutated_wishes_do_not_disturb_an_honest_session(engine: TorchEngine) -> None:
    draw, ends = np.random.default_rng(2), Counter[str]()
    async with rig(engine) as stage, honest_beside(stage) as honest:
        others = [encode_up(frame) for frame in (WISH, Cancel((1, 2)), Finish(0, (1,)))]
        for n in range(LIVE):
            peer = await stage.dial(taps=(2,))
            # Whoever knows an honest session's id may try to name it.
            wish = replace(peer.wish, session=honest.wish.session) if n % 3 == 0 else peer.wish
            frames: list[AttachUp] = [wish, Cancel((1, 300)), EvidenceQuery(), Finish(0)]
            place = n % len(frames)
            if place:
                await peer.say(peer.wish)
            await peer.attach.send(mutated(encode_up(frames[place]), others, draw))
            if end := await ended(peer):
                ends[end] += 1
            await peer.leave()
        await stage.settled(1)
    assert len(ends) > 2, ends


async def ended(peer: Peer) -> str:
    """The name of the error that has ended one of the peer's streams, if one has."""
    listening = [asyncio.create_task(listen(stream)) for stream in (peer.attach, peer.rows)]
    done, _ = await asyncio.wait(listening, timeout=0.002, return_when=asyncio.FIRST_COMPLETED)
    await cancel(listening)
    return next((task.result() for task in done), "")


async def listen(stream: Stream) -> str:
    try:
        while await stream.receive() is not None:
            pass
    except HearthringError as error:
        return type(error).__name__
    return ""


async def again(stage: Rig, peer: Peer) -> Peer:
    await peer.leave()
    return await stage.open()
