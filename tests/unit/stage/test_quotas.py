"""What one peer, or all together, may hold; floods, slow readers and leases."""

import asyncio
from dataclasses import replace

import pytest

from hearthring.protocol.errors import (
    BadSignature,
    DeadlineExceeded,
    QuotaExceeded,
    StaleEpoch,
)
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.messages import ROOT, Cancel, EvidenceQuery, Probe, Progress
from hearthring.protocol.tasks import cancel
from tests.stage_peer import (
    BEGUN,
    NEXT,
    ROW_BYTES,
    WINDOW,
    Peer,
    Rig,
    chain,
    honest_beside,
    limited,
    until,
)


async def test_one_peer_may_hold_so_many_sessions(
    stage: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, "places", sessions_per_peer=2)
    async with honest_beside(stage):
        greedy = stage.client()
        held = [await stage.open(greedy) for _ in range(2)]
        await (await stage.attach(greedy)).refused(QuotaExceeded, "sessions per peer")
        other = await stage.open()
        await held[0].leave()
        await stage.settled(3)
        again = await stage.open(greedy)
        for peer in (held[1], other, again):
            assert len(await peer.run(BEGUN)) == 3
            await peer.leave()
        await stage.settled(1)


async def test_one_peers_keys_and_values_may_take_so_many_bytes(
    stage: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = WINDOW[1] - WINDOW[0]
    limited(monkeypatch, "places", kv_bytes_per_peer=100 * layers * ROW_BYTES)
    async with honest_beside(stage):
        greedy, field = stage.client(), "KV bytes per peer"
        await (await stage.attach(greedy, max_rows=101)).refused(QuotaExceeded, field)
        first = await stage.open(greedy, max_rows=60)
        await (await stage.attach(greedy, max_rows=41)).refused(QuotaExceeded, field)
        other, second = await stage.open(max_rows=60), await stage.open(greedy, max_rows=40)
        await first.leave()
        await stage.settled(3)
        again = await stage.open(greedy, max_rows=60)
        for peer in (other, second, again):
            assert len(await peer.run(BEGUN)) == 3
            await peer.leave()
        await stage.settled(1)


async def test_all_peers_together_may_hold_so_many_sessions(
    stage: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, "places", sessions=2)
    async with honest_beside(stage):
        peer = await stage.open()
        await (await stage.attach()).refused(QuotaExceeded, "sessions")
        await peer.leave()
        await stage.settled(1)


async def test_rows_are_lent_and_come_back(stage: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, "places", session_rows=800)
    async with honest_beside(stage) as honest:
        left = stage.kv_rows - honest.wish.max_rows
        await (await stage.attach(max_rows=801)).refused(QuotaExceeded, "open.max_rows")
        peer = await stage.open(max_rows=800)
        assert stage.stage.free_rows == left - 800
        await (await stage.attach(max_rows=left - 799)).refused(QuotaExceeded, "open.max_rows")
        await peer.send(BEGUN, signature=b"")
        await peer.refused(BadSignature, "signature")
        await stage.settled(1)
        assert stage.stage.free_rows == left


async def test_a_session_that_is_opened_again_takes_the_room_it_had(
    stage: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client has lost the stream, of which the stage doesn't know, and nobody else fits."""
    limited(monkeypatch, "places", sessions=1, sessions_per_peer=1)
    lost = await stage.open(max_rows=stage.kv_rows)
    await lost.run(BEGUN)
    again = dict(session=lost.wish.session, max_rows=stage.kv_rows)
    peer = await stage.open(lost.transport, **again, epoch=1)
    await lost.refused(StaleEpoch, "open.epoch")
    assert (stage.stage.sessions, stage.stage.free_rows) == (1, 0)
    assert len(await peer.run(BEGUN)) == 3
    await peer.leave()
    await stage.settled(0)
    assert stage.stage.free_rows == stage.kv_rows


async def test_a_sender_can_not_flood_a_stage(stage: Rig) -> None:
    async with honest_beside(stage):
        peer = await stage.open()
        stage.engine.gate.clear()
        for _ in range(LIMITS.steps_in_flight + 2):
            await peer.send()
        await peer.refused(QuotaExceeded, "steps in flight")
        stage.engine.gate.set()
        await stage.settled(1)


async def ask_on(peer: Peer) -> None:
    while True:
        await peer.say(EvidenceQuery())


async def test_so_many_bytes_may_wait_at_a_stage(
    stage: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of steps for their turn, and of frames for a client that doesn't read."""
    smaller = replace(LIMITS, backlog_bytes=40_000)
    for module in ("node.places", "protocol.backlog"):
        monkeypatch.setattr(f"hearthring.{module}.LIMITS", smaller)
    async with honest_beside(stage):
        peer = await stage.open()
        stage.engine.gate.clear()
        for first in range(1, 61, 20):  # 5 kB each
            await peer.send(chain(first, 20, first - 1))
        for first in range(61, 200, 20):
            await peer.send(chain(first, 20, first - 1))
        await peer.refused(QuotaExceeded, "steps in flight")
        stage.engine.gate.set()
        await stage.settled(1)
        deaf = await stage.open()
        await deaf.send(chain(1, 60, ROOT))
        asking = asyncio.create_task(ask_on(deaf))  # what was signed for 60 rows is 2 kB
        await stage.settled(1)
        await cancel([asking])
        await deaf.refused(QuotaExceeded, "attach")


async def test_nobody_cancels_without_end(stage: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, "stage_session", session_rows=100)
    async with honest_beside(stage):
        peer = await stage.open()
        await peer.run(BEGUN)
        for first in (10, 60):  # a step takes them away, so that more may come
            await peer.say(Cancel(tuple(range(first, first + 50))))
        await peer.evidence()
        assert len(await peer.run(NEXT)) == 1
        await peer.say(Cancel(tuple(range(110, 160))))
        await peer.evidence()
        await peer.say(Cancel(tuple(range(160, 211))))
        await peer.refused(QuotaExceeded, "cancel.ids")
        await stage.settled(1)


async def test_who_has_left_is_not_counted_on(stage: Rig) -> None:
    places = stage.stage._places
    async with honest_beside(stage) as honest:
        for _ in range(3):
            peer = await stage.open()
            assert len(places._per_peer) == 2
            await peer.leave()
            await stage.settled(1)
        assert set(places._per_peer) == {honest.who.node_id}
        assert set(places._bytes_per_peer) == {honest.who.node_id}


async def test_as_many_steps_as_are_allowed_may_wait(stage: Rig) -> None:
    async with honest_beside(stage):
        peer = await stage.open()
        stage.engine.gate.clear()
        for _ in range(LIMITS.steps_in_flight):
            await peer.send()
        stage.engine.gate.set()
        for n in range(LIMITS.steps_in_flight):
            assert (await peer.result()).step_id == n + 1
        await peer.leave()
        await stage.settled(1)


async def test_a_client_that_does_not_read_is_ended(stage: Rig) -> None:
    async with honest_beside(stage):
        peer = await stage.open()
        asking = asyncio.create_task(ask_on(peer))
        await stage.settled(1)
        await cancel([asking])
        await peer.refused(QuotaExceeded, "attach")


async def test_so_many_orders_may_wait_for_the_engine(
    stage: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, "places", orders=3)
    peer, other = await stage.open(), await stage.open()
    stage.engine.gate.clear()
    await other.send(BEGUN)
    await until(lambda: stage.engine.held)
    for _ in range(5):
        await peer.say(EvidenceQuery())
    await peer.refused(QuotaExceeded, "attach")
    stage.engine.gate.set()
    assert len((await other.result()).live) == 3


async def test_steps_renew_a_lease_and_what_the_client_says_later_is_heard(
    stage: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, "lease", idle=1.0)
    peer = await stage.open()
    for at in range(6):  # together longer than a lease
        await peer.run(chain(at + 1, 1, at))
        await asyncio.sleep(0.25)
    assert len((await peer.evidence()).received) == 6
    assert (await peer.finish(range(1, 7))).rows == 6


async def test_a_client_that_waits_for_slower_stages_keeps_its_lease(
    stage: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last steps of a prompt have left this stage long before they are through the ring."""
    limited(monkeypatch, "lease", idle=1.0)
    peer = await stage.open()
    await peer.run(BEGUN)
    for number in range(6):  # together longer than a lease
        await peer.say(Probe(number))
        assert await peer.hear() == Progress(number, 1, 0)
        await asyncio.sleep(0.25)
    assert len(await peer.run(NEXT)) == 1


async def test_a_session_without_steps_loses_its_lease(
    stage: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, "lease", idle=0.05)
    peer = await stage.open()
    await peer.refused(DeadlineExceeded, "lease")
    await stage.settled(0)
    assert stage.stage.free_rows == stage.kv_rows
