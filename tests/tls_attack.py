"""Peers that break every rule at a stage over TLS, while honest sessions go on beside them."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hearthring.protocol.errors import HearthringError, QuotaExceeded
from hearthring.protocol.grpc_transport import GrpcTransport
from hearthring.protocol.identity import Identity
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.messages import ROOT, EvidenceQuery
from hearthring.protocol.tasks import cancel
from hearthring.protocol.transport import Method, Transport
from hearthring.protocol.wire import encode_step
from hearthring.shards.engine import Engine
from tests.broken_rules import OPENS, STEPS
from tests.frames import STEP
from tests.mutants import listen, mutated
from tests.stage_peer import BEGUN, STORY, Peer, Rig, alone, chain, rig

SESSIONS = 40
"""Sessions that one hostile identity opens before another takes its place."""
FRAME = 0.004
"""Seconds to see whether a frame has ended its session."""
QUIET = 5.0
"""Seconds after which a session that has nothing to send says that it is there."""


@dataclass
class Story:
    """An honest session, step by step: every byte must be what the engine makes of it alone."""

    peer: Peer
    oracle: list[bytes]
    got: dict[int, bytes] = field(default_factory=dict)
    place: int = 0
    slowest: float = 0.0
    """Seconds from a step to its result."""

    async def go_on(self, steps: int = len(STORY)) -> None:
        for rows in STORY[self.place : self.place + steps]:
            before = STORY[self.place - 1] if self.place else ()
            begun = time.monotonic()
            self.got |= await self.peer.run(rows, commit=tuple(row.id for row in before))
            self.slowest = max(self.slowest, time.monotonic() - begun)
            self.place += 1

    async def stay(self) -> None:
        """Keep the lease: a step without rows, and what comes back for it."""
        assert await self.peer.run() == {}

    async def end(self) -> None:
        await self.go_on()
        assert list(self.got.values()) == self.oracle
        receipt = await self.peer.finish([row.id for row in STORY[-1]])
        assert receipt.rows == len(self.oracle)
        await self.peer.leave()


@dataclass
class Attack:
    """A stage that listens over TLS, and what became of those around it."""

    stage: Rig
    oracle: list[bytes]
    made: list[Transport]
    stories: int = 0
    slowest: float = 0.0

    async def story(self, transport: Transport) -> Story:
        return Story(await self.stage.open(transport), self.oracle)

    async def stories_on(self) -> None:
        """Honest sessions, one after the other, until cancelled."""
        transport = self.stage.client()
        while True:
            try:
                story = await self.story(transport)
            except QuotaExceeded:  # a flood holds all sessions that there are, for a moment
                await asyncio.sleep(0.01)
                continue
            await story.end()
            self.stories += 1
            self.slowest = max(self.slowest, story.slowest)


@asynccontextmanager
async def attack(engine: Engine) -> AsyncIterator[Attack]:
    """A stage with an honest peer, whose sessions follow each other while the block runs."""
    made: list[Transport] = []

    def make() -> Transport:
        made.append(GrpcTransport(Identity.new()))
        return made[-1]

    oracle = alone(engine, [row for rows in STORY for row in rows])
    async with rig(engine, make=make) as stage:
        found = Attack(stage, oracle, made)
        honest = asyncio.create_task(found.stories_on())
        try:
            yield found
            if honest.done():
                honest.result()
        finally:
            await cancel([honest])
            for transport in made[1:]:
                await transport.close()


async def refusals(found: Attack) -> int:
    """Every wrong step and wish of the stage's rules: each ends its session with its own error."""
    stage, transport = found.stage, found.stage.client()
    for error, about, wrong in STEPS.values():
        peer = await stage.open(transport)
        assert len(await peer.run(BEGUN)) == 3
        await peer.post(wrong(peer))
        await peer.refused(error, about)
        await peer.leave()
    for error, about, changes in OPENS.values():
        peer = await stage.attach(transport, **changes)
        await peer.refused(error, about)
        await peer.leave()
    return len(STEPS) + len(OPENS)


async def floods(found: Attack) -> dict[str, str]:
    """Too much of everything, and what it was refused with; a session that was open goes on."""
    stage, greedy = found.stage, found.stage.client()
    said = dict[str, str]()
    story = await found.story(stage.client())
    await story.go_on(2)

    streams = [await _dial(stage, greedy) for _ in range(LIMITS.streams_per_peer)]
    one_more = await greedy.dial(stage.address, stage.node_id, Method.PASS)
    said["streams"] = await listen(one_more)
    for stream in (*streams, one_more):
        await stream.close()

    peer = await stage.open(greedy, max_rows=LIMITS.rows_per_step)
    await peer.run(chain(1, LIMITS.rows_per_step, ROOT))  # makes answers of some kilobytes

    async def ask_on() -> None:
        while places.find(wish.session, wish.start) is not None:
            await peer.say(EvidenceQuery())

    places, wish = stage.stage._places, peer.wish
    await asyncio.wait_for(ask_on(), 3 * LIMITS.write)
    said["a client that never reads"] = type(await peer.end()).__name__
    await peer.leave()

    open_: list[Peer] = []
    try:
        while "sessions of one peer" not in said:
            open_.append(await stage.attach(greedy, max_rows=1))
            if said_ := await _refused(open_[-1]):
                said["sessions of one peer"] = said_
        others = stage.client()
        while "sessions of many peers" not in said:
            if len(open_) % 8 == 0:
                others = stage.client()
            open_.append(await stage.attach(others, max_rows=1))
            if said_ := await _refused(open_[-1]):
                said["sessions of many peers"] = said_
    finally:
        for peer in open_:
            await peer.leave()
    await story.end()
    assert set(said.values()) == {QuotaExceeded.__name__}, said
    return said


async def mutations(
    found: Attack, frames: int, draw: np.random.Generator, look: Callable[[int], None]
) -> Counter[str]:
    """Mutated steps, session after session; what these were ended with. ``look`` counts along."""
    stage, ends = found.stage, Counter[str]()
    victim = await found.story(stage.client())
    await victim.go_on(2)
    others = [encode_step(STEP), encode_step(victim.peer.step(chain(6, 1, 5)))]
    victim.peer.next_step -= 1
    opened, transport = 0, stage.client()

    async def again() -> tuple[Peer, list[asyncio.Task[str]]]:
        nonlocal opened, transport
        opened += 1
        if opened % SESSIONS == 0:
            await transport.close()
            found.made.remove(transport)
            transport = stage.client()
        peer = await stage.open(transport)
        return peer, [asyncio.create_task(listen(s)) for s in (peer.attach, peer.rows)]

    async def leave() -> None:
        await cancel(listening)
        await peer.leave()

    peer, listening = await again()
    said = time.monotonic()
    for n in range(frames):
        look(n)
        if time.monotonic() - said > QUIET:
            await victim.stay()
            said = time.monotonic()
        if peer.next_step > 20:
            await leave()
            peer, listening = await again()
        data = encode_step(peer.step(chain(peer.next_step, 2, ROOT, at=0)[:1]))
        try:
            await peer.rows.send(data if draw.integers(4) == 0 else mutated(data, others, draw))
        except HearthringError as error:
            ends[type(error).__name__] += 1
            await leave()
            peer, listening = await again()
            continue
        done, _ = await asyncio.wait(listening, timeout=FRAME, return_when=asyncio.FIRST_COMPLETED)
        if done:
            ends[next(iter(done)).result()] += 1
            await leave()
            peer, listening = await again()
    await leave()
    await victim.end()
    return ends


async def _dial(stage: Rig, transport: Transport) -> Any:
    stream = await transport.dial(stage.address, stage.node_id, Method.PASS)
    assert await stream.receive() == b""
    return stream


async def _refused(peer: Peer) -> str:
    """The name of what a wish was refused with, if it was."""
    try:
        await peer.hear()
    except HearthringError as error:
        return type(error).__name__
    return ""
