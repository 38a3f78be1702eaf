"""A stage that is given a session's rows while another one still serves, and who gives them."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from hearthring.protocol.errors import (
    BadInvitation,
    HearthringError,
    Malformed,
    OutOfOrder,
    PeerUnreachable,
    UnknownRow,
)
from hearthring.protocol.memory import MemoryTransport
from hearthring.protocol.messages import Probe, Progress, Replay, Reroute, Rerouted, Row, Step
from hearthring.protocol.transport import Method, Stream
from hearthring.protocol.wire import decode_step
from tests.stage_peer import BEGUN, NEXT, PATIENCE, SENDERS_CLASS, Rig, honest_beside, ids_of, until


@pytest.fixture
async def newcomer(stage: Rig) -> AsyncIterator[tuple[str, str, "asyncio.Queue[Step]"]]:
    """Somebody who takes rows: address, node id, and what it gets."""
    transport, taken = stage.client(), asyncio.Queue[Step]()
    assert isinstance(transport, MemoryTransport)

    async def take(stream: Stream) -> None:
        await stream.send(b"")
        while (data := await stream.receive()) is not None:
            taken.put_nowait(decode_step(data))

    address = await transport.serve("127.0.0.1:0", {Method.PASS: take})
    yield address, transport.identity.node_id, taken
    await transport.close()


async def test_rows_are_given_to_whom_the_client_names_and_the_session_goes_on(
    stage: Rig, newcomer: tuple[str, str, "asyncio.Queue[Step]"]
) -> None:
    address, node, taken = newcomer
    peer = await stage.open()
    outputs = await peer.run(BEGUN)
    await peer.say(Replay(7, ids_of(BEGUN), node, address))
    async with asyncio.timeout(PATIENCE):
        given = await taken.get()
    assert (given.step_id, ids_of(given.rows)) == (7, ids_of(BEGUN))
    assert given.states == b"".join(outputs.values())
    assert len(await peer.run(NEXT)) == 1
    assert taken.empty()
    await peer.leave()


async def test_a_newcomer_that_is_not_there_is_no_trouble_of_the_session(stage: Rig) -> None:
    peer = await stage.open()
    await peer.run(BEGUN)
    await peer.say(Replay(7, ids_of(BEGUN), stage.client().identity.node_id, "127.0.0.1:9999"))
    assert len(await peer.run(NEXT)) == 1
    await peer.leave()


@pytest.mark.parametrize(
    ("node", "address", "error", "field"),
    [
        ("nobody", "127.0.0.1:9999", Malformed, "node id"),
        ("", "nowhere", BadInvitation, "replay.next_address"),
    ],
)
async def test_an_order_that_can_not_be_meant_is_refused(
    stage: Rig, node: str, address: str, error: type[HearthringError], field: str
) -> None:
    peer = await stage.open()
    await peer.run(BEGUN)
    await peer.say(Replay(7, ids_of(BEGUN), node or stage.node_id, address))
    await peer.refused(error, field)
    await peer.leave()


async def test_a_silent_stage_computes_and_says_nothing_until_it_is_rerouted(stage: Rig) -> None:
    peer = await stage.open(silent=True)
    await peer.send(BEGUN)
    place = stage.stage._places.find(peer.wish.session, peer.wish.start)
    assert place is not None
    await until(lambda: place.session.next_step == 2 and not place.under_way)
    me = peer.who.node_id
    await peer.say(Reroute(1, me, SENDERS_CLASS, me, "", ids_of(BEGUN), ()))
    assert await peer.hear() == Rerouted(1, BEGUN[-1].id)
    peer.wish = place.session.wish
    assert len(await peer.run(NEXT)) == 1
    await peer.leave()


@pytest.mark.parametrize(
    ("rows", "drop", "error", "field"),
    [
        (BEGUN, (BEGUN[1].id,), UnknownRow, "step.drop"),
        ([BEGUN[0], replace(BEGUN[0], position=1)], (), OutOfOrder, "id"),
        ([BEGUN[0], BEGUN[0]], (), OutOfOrder, "id"),
    ],
)
async def test_rows_that_come_again_come_once_and_arent_dropped_meanwhile(
    stage: Rig,
    rows: list[Row],
    drop: tuple[int, ...],
    error: type[HearthringError],
    field: str,
) -> None:
    """Whoever breaks that ends his own session, and no other of the same batch."""
    async with honest_beside(stage):
        peer = await stage.open()
        await peer.run(BEGUN)
        me, place = peer.who.node_id, stage.stage._places.find(peer.wish.session, peer.wish.start)
        assert place is not None
        await peer.say(Reroute(1, me, SENDERS_CLASS, me, "", (), ids_of(BEGUN)))
        assert await peer.hear() == Rerouted(1, BEGUN[-1].id)
        peer.wish = place.session.wish
        await peer.send(rows, drop=drop)
        await peer.refused(error, field)
        await peer.leave()
        await stage.settled(1)


async def test_a_link_that_breaks_says_nothing_of_who_comes_next_in_a_new_epoch(
    stage: Rig, newcomer: tuple[str, str, "asyncio.Queue[Step]"]
) -> None:
    """Both are learnt at once when a stage dies: its neighbour is re-routed as its link breaks."""
    address, node, _ = newcomer
    peer = await stage.open(next=node, next_address=address)
    place = stage.stage._places.find(peer.wish.session, peer.wish.start)
    assert place is not None
    link, me = place.link, peer.who.node_id
    assert link is not None
    order = Reroute(1, me, SENDERS_CLASS, stage.client().identity.node_id, "127.0.0.1:9999")
    place.session.reroute(order)  # on the engine's thread, while the loop hears of the break
    await link.close()
    for on_break in list(link._users):
        on_break(PeerUnreachable("the connection broke", field=node))
    await peer.say(Probe(1))
    assert isinstance(await peer.hear(), Progress)
    await peer.leave()
