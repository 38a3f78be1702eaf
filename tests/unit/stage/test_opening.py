"""How sessions open, and go on in a later epoch; and wishes that are refused by name."""

import asyncio
from typing import Any

import pytest

from hearthring.protocol.errors import (
    BadInvitation,
    BadShape,
    DeadlineExceeded,
    HearthringError,
    LayersOutOfRange,
    Malformed,
    PeerUnreachable,
    QuotaExceeded,
    WrongClass,
    WrongIdentity,
)
from hearthring.protocol.identity import Identity
from hearthring.protocol.messages import (
    Cancel,
    EvidenceQuery,
    Finish,
    Probe,
    Progress,
    Reroute,
    Rerouted,
    Trouble,
)
from hearthring.protocol.transport import Method, Stream
from hearthring.protocol.wire import encode_up
from tests.stage_peer import (
    BEGUN,
    SENDERS_CLASS,
    Rig,
    honest_beside,
    limited,
)

OPENS: dict[str, tuple[type[HearthringError], str, dict[str, Any]]] = {
    "no rows": (BadShape, "open.max_rows", {"max_rows": 0}),
    "more rows than there are": (QuotaExceeded, "open.max_rows", {"max_rows": 10_000}),
    "rows without end": (QuotaExceeded, "open.max_rows", {"max_rows": 2**32 - 1}),
    "another model": (LayersOutOfRange, "open.model_id", {"model_id": "ba" * 32}),
    "a model that is none": (BadShape, "open.model_id", {"model_id": "ab" * 31 + "zz"}),
    "a model in capitals": (BadShape, "open.model_id", {"model_id": "AB" * 32}),
    "layers before": (LayersOutOfRange, "open.start", {"start": 0}),
    "layers beyond": (LayersOutOfRange, "open.start", {"end": 4}),
    "no layers": (LayersOutOfRange, "open.start", {"start": 2, "end": 2}),
    "layers backwards": (LayersOutOfRange, "open.start", {"start": 2, "end": 1}),
    "another residual type": (WrongClass, "open.residual", {"residual": "fp16"}),
    "a residual type that is none": (WrongClass, "open.residual", {"residual": "int4"}),
    "another class": (WrongClass, "open.fingerprint", {"fingerprint": "ef" * 32}),
    "a class that is none": (BadShape, "open.fingerprint", {"fingerprint": ""}),
    "a sender's class that is none": (
        BadShape,
        "open.previous_fingerprint",
        {"previous_fingerprint": "xy"},
    ),
    "a sender that is nobody": (Malformed, "node id", {"previous": "me"}),
    "a next stage that is nobody": (Malformed, "node id", {"next": ""}),
    "a tap before the window": (LayersOutOfRange, "open.taps", {"taps": (1,)}),
    "a tap after the window": (LayersOutOfRange, "open.taps", {"taps": (2, 4)}),
    "no address for the next stage": (
        BadInvitation,
        "open.next_address",
        {"next": Identity.new().node_id},
    ),
}


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
