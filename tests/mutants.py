"""Mutated frames, and a peer that sends them to a stage until they end its session."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from hearthring.protocol.errors import HearthringError
from hearthring.protocol.messages import ROOT
from hearthring.protocol.tasks import cancel
from hearthring.protocol.transport import Stream
from hearthring.protocol.wire import encode_step
from tests.frames import STEP
from tests.stage_peer import Peer, Rig, chain


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


async def mutated_steps(
    stage: Rig,
    honest: Peer,
    count: int,
    draw: np.random.Generator,
    look: Callable[[int], None] = lambda number: None,
) -> Counter[str]:
    """So many steps of one session after another, three of four mutated: what ended these.

    ``look`` is called with the number of each step before it is sent.
    """
    ends = Counter[str]()
    others = [encode_step(STEP), encode_step(honest.step(chain(6, 1, 5)))]
    honest.next_step -= 1
    peer = await stage.open()
    for number in range(count):
        look(number)
        if peer.next_step > 20:
            peer = await again(stage, peer)
        data = encode_step(peer.step(chain(peer.next_step, 2, ROOT, at=0)[:1]))
        await peer.rows.send(data if draw.integers(4) == 0 else mutated(data, others, draw))
        if end := await ended(peer):
            ends[end] += 1
            peer = await again(stage, peer)
    await peer.leave()
    await stage.settled(1)
    return ends


async def ended(peer: Peer) -> str:
    """The name of the error that has ended one of the peer's streams, if one has."""
    listening = [asyncio.create_task(listen(stream)) for stream in (peer.attach, peer.rows)]
    done, _ = await asyncio.wait(listening, timeout=0.002, return_when=asyncio.FIRST_COMPLETED)
    await cancel(listening)
    return next((task.result() for task in done), "")


async def listen(stream: Stream) -> str:
    """The name of the error that ends a stream, if it is one."""
    try:
        while await stream.receive() is not None:
            pass
    except HearthringError as error:
        return type(error).__name__
    return ""


async def again(stage: Rig, peer: Peer) -> Peer:
    """The peer's next session, once it has left this one."""
    await peer.leave()
    return await stage.open()
