"""How sessions open, and go on in a later epoch; and wishes that are refused by name."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from hearthring.protocol.errors import (
    DeadlineExceeded,
    Malformed,
    PeerUnreachable,
    QuotaExceeded,
    WrongIdentity,
)
from hearthring.protocol.identity import Identity
from hearthring.protocol.memory import MemoryTransport
from hearthring.protocol.messages import (
    AttachUp,
    Cancel,
    Evidence,
    EvidenceQuery,
    Finish,
    Probe,
    Progress,
    Replay,
    Reroute,
    Rerouted,
    Step,
    Trouble,
)
from hearthring.protocol.transport import Method, Stream
from hearthring.protocol.wire import encode_up
from tests.broken_rules import OPENS
from tests.stage_peer import (
    BEGUN,
    NEXT,
    SENDERS_CLASS,
    Rig,
    honest_beside,
    limited,
    until,
)


@pytest.mark.parametrize("name", OPENS)
async def test_a_wish_that_can_not_be_met_is_refused_by_name(stage: Rig, name: str) -> None:
    error, field, changes = OPENS[name]
    async with honest_beside(stage):
        peer = await stage.attach(**changes)
        await peer.refused(error, field)
        await stage.settled(1)


async def test_a_next_stage_that_can_not_be_reached_is_said(stage: Rig) -> None:
    """It isn't this stage's fault: the client chooses another next one."""
    async with honest_beside(stage):
        for address, error in (("127.0.0.1:9999", PeerUnreachable), (stage.address, WrongIdentity)):
            other = Identity.new().node_id
            peer = await stage.attach(next=other, next_address=address)
            said = await peer.hear()
            assert isinstance(said, Trouble)
            assert (said.epoch, said.node, type(said.error)) == (0, other, error)
            await peer.leave()


async def test_who_leaves_says_so_though_its_next_stage_is_gone_too(stage: Rig) -> None:
    """Each is said once an epoch."""
    other = Identity.new().node_id
    peer = await stage.attach(next=other, next_address="127.0.0.1:9999")
    assert cast("Trouble", await peer.hear()).node == other
    for _ in range(2):
        await stage.stage.drain(0.0)
    await peer.say(Probe(1))
    assert cast("Trouble", await peer.hear()).node == stage.node_id
    assert await peer.hear() == Progress(1, 0, 0)
    await peer.leave()


async def test_a_later_epoch_does_not_wait_for_the_link_of_an_earlier_one(stage: Rig) -> None:
    """The next stage takes the call and says nothing: the client is heard nevertheless."""
    silent = stage.client()

    async def hold(stream: Stream) -> None:
        await asyncio.Event().wait()

    address = await silent.serve("127.0.0.1:0", {Method.PASS: hold})
    async with honest_beside(stage):
        peer = await stage.open()
        assert len(await peer.run(BEGUN)) == 3
        me, rows = peer.who.node_id, (1, 2, 3)
        links = (me, SENDERS_CLASS, silent.identity.node_id, address)
        await peer.say(Reroute(1, *links, (), rows))
        await peer.say(Probe(1))
        assert await peer.hear() == Progress(1, 1, 0)
        await peer.say(Reroute(2, me, SENDERS_CLASS, me, "", (), rows))
        assert await peer.hear() == Rerouted(2, 3)
        await peer.leave()
    await silent.close()


@pytest.mark.parametrize("order", [Replay(2, (1, 2, 3)), EvidenceQuery()])
async def test_a_probe_does_not_wait_for_orders_that_wait_for_the_engine(
    stage: Rig, order: AttachUp
) -> None:
    """A batch of others may take longer than a client waits for signs of life."""
    peer, other = await stage.open(), await stage.open()
    await peer.run(BEGUN)
    stage.engine.gate.clear()
    await other.send(BEGUN)
    await until(lambda: stage.engine.held)
    await peer.say(order)
    await peer.say(Probe(1))
    assert await peer.hear() == Progress(1, 1, 0)
    stage.engine.gate.set()
    assert isinstance(await peer.hear(), Step | Evidence)
    assert len((await other.result()).live) == 3


@dataclass
class Lingering:
    """A client's stream on the node's side, of which reading ends late."""

    honest: Stream
    leaving: asyncio.Event = field(default_factory=asyncio.Event)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.honest, name)

    async def receive(self) -> bytes | None:
        try:
            return await self.honest.receive()
        except asyncio.CancelledError:
            await self.leaving.wait()
            raise


async def test_a_place_that_ends_late_takes_no_steps_of_its_successor_along(stage: Rig) -> None:
    streams, over = list[Lingering](), asyncio.Event()
    assert isinstance(stage.transport, MemoryTransport)

    async def attach(stream: Stream) -> None:
        streams.append(Lingering(stream))
        try:
            await stage.stage.attach(cast("Stream", streams[-1]))
        finally:
            over.set()

    stage.transport._handlers[Method.ATTACH] = attach
    old = await stage.open()
    new = await stage.open(old.transport, session=old.wish.session, epoch=1)
    stage.engine.gate.clear()
    await new.send(BEGUN)
    await new.send(NEXT)
    await until(lambda: stage.engine.held and len(stage.stage._queue) == 1)
    assert not over.is_set()
    streams[0].leaving.set()
    await over.wait()
    stage.engine.gate.set()
    assert [(await new.result()).step_id for _ in range(2)] == [1, 2]
    streams[1].leaving.set()
    await new.leave()
    await old.leave()


async def test_a_session_opens_once(stage: Rig) -> None:
    async with honest_beside(stage):
        peer = await stage.open()
        await peer.say(peer.wish)
        await peer.refused(Malformed, "attach")


async def test_a_session_that_is_open_can_not_be_taken_over(stage: Rig) -> None:
    async with honest_beside(stage) as honest:
        thief = await stage.attach(session=honest.wish.session)
        await thief.refused(QuotaExceeded, "open.session")


@pytest.mark.parametrize(
    "frame", [Cancel((1,)), Finish(0), EvidenceQuery()], ids=lambda f: type(f).__name__
)
async def test_the_first_frame_must_open(stage: Rig, frame: Any) -> None:
    async with honest_beside(stage):
        transport = stage.client()
        attach = await transport.dial(stage.address, stage.node_id, Method.ATTACH)
        await attach.send(encode_up(frame))
        with pytest.raises(Malformed, match="the first frame must open a session"):
            await attach.receive()


async def test_frames_that_do_not_decode_end_their_stream(stage: Rig) -> None:
    async with honest_beside(stage):
        attach = await stage.client().dial(stage.address, stage.node_id, Method.ATTACH)
        await attach.send(b"\xff")
        with pytest.raises(Malformed, match="doesn't decode"):
            await attach.receive()
        peer = await stage.open()
        await peer.attach.send(b"\xff")
        await peer.refused(Malformed, "AttachUp")


async def test_a_caller_that_never_opens_is_sent_away(
    stage: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, "stage", hello=0.02)
    attach = await stage.client().dial(stage.address, stage.node_id, Method.ATTACH)
    with pytest.raises(DeadlineExceeded, match="nothing was asked for in time"):
        await attach.receive()
