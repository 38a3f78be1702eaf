"""What sessions give up is gone: one that goes on for ever holds no more than its living rows."""

from collections.abc import Sequence

import pytest

from hearthring.node.cells import ROOM
from hearthring.node.stage_session import StageSession
from hearthring.protocol.errors import QuotaExceeded
from hearthring.protocol.messages import GENERATED, Cancel, Reroute, Rerouted, Row
from hearthring.shards.slots import REMEMBERED
from tests.stage_peer import BEGUN, SENDERS_CLASS, Peer, Rig, chain, honest_beside, ids_of


def session_of(stage: Rig, peer: Peer) -> StageSession:
    place = stage.stage._places.find(peer.wish.session, peer.wish.start)
    assert place is not None
    return place.session


def siblings(first: int, count: int, parent: int = 3) -> list[Row]:
    return [Row(first + n, parent, parent, GENERATED) for n in range(count)]


async def rounds(peer: Peer, count: int, size: int, commit: Sequence[int] = ()) -> int:
    """So many steps of rows that the next step drops; the first id that is free then."""
    drop, first = tuple[int, ...](), 10
    for _ in range(count):
        rows = siblings(first, size)
        await peer.send(rows, drop=drop, commit=tuple(commit))
        assert len((await peer.result()).live) == size
        commit, drop, first = (), ids_of(rows), first + size
    await peer.run((), drop=drop)
    return first


@pytest.mark.parametrize("cells", [False, True])
async def test_dropped_rows_leave_nothing_behind(stage: Rig, cells: bool) -> None:
    async with honest_beside(stage):
        peer = await stage.open(cells=cells)
        await peer.run(BEGUN)
        await rounds(peer, 40, 32)
        session = session_of(stage, peer)
        assert session._kept.ids() == ids_of(BEGUN)
        if cells:
            assert session._cells is not None
            assert len(session._cells._inside) <= ROOM + 2 * (len(BEGUN) + 32)
        await peer.leave()
        await stage.settled(1)


@pytest.mark.parametrize("cancelled", [False, True])
async def test_rows_that_hung_on_one_that_is_gone_leave_nothing_behind(
    stage: Rig, cancelled: bool
) -> None:
    """Only the first row of each step is named when it is given up."""
    async with honest_beside(stage):
        peer = await stage.open()
        await peer.run(BEGUN)
        session, me = session_of(stage, peer), peer.who.node_id
        for first in range(10, 10 + 40 * 32, 32):
            await peer.run(chain(first, 32, 3, GENERATED, at=3))
            if cancelled:
                await peer.say(Cancel((first,)))
                await peer.evidence()
            await peer.run((), drop=(first,))
            assert len(session._kept.ids()) <= ROOM + 2 * len(BEGUN)
        kept = session._kept.ids()
        await peer.say(Reroute(1, me, SENDERS_CLASS, me, "", ids_of(BEGUN), kept[len(BEGUN) :]))
        assert await peer.hear() == Rerouted(1, BEGUN[-1].id)
        assert session._kept.ids() == ids_of(BEGUN)
        await peer.leave()
        await stage.settled(1)


async def test_a_row_that_stays_keeps_none_of_the_others_of_its_step(stage: Rig) -> None:
    async with honest_beside(stage):
        peer = await stage.open(cells=True)
        await peer.run(BEGUN)
        rows = siblings(10, 40)
        await peer.run(rows)
        session = session_of(stage, peer)
        kept = session._kept[rows[0].id]
        size = len(kept.input)
        assert (len(kept.wire), type(kept.wire), type(kept.input)) == (size, bytes, bytes)
        await peer.run((), drop=ids_of(rows[1:]))
        for first in range(100, 100 + 20 * 12, 20):
            await peer.run(siblings(first, 20))
            await peer.run((), drop=range(first, first + 20))
        assert session._cells is not None
        trace, index = session._cells._inside[rows[0].id]
        assert (trace.shape[1], index, trace.base) == (1, 0, None)
        await peer.leave()
        await stage.settled(1)


async def test_rows_that_are_dead_when_they_come_are_not_kept(stage: Rig) -> None:
    """Children of a row that was cancelled, without end; and steps without rows."""
    async with honest_beside(stage):
        peer = await stage.open()
        await peer.run(BEGUN)
        await peer.say(Cancel((9,)))
        await peer.evidence()  # so that it has heard of the cancel, which is on the same stream
        assert not (await peer.pass_on(siblings(9, 1))).live
        for first in range(10, 10 + 40 * 20, 20):
            await peer.send(chain(first, 20, 9, GENERATED, at=4))
            assert not (await peer.result()).live
            await peer.run()
        session = session_of(stage, peer)
        assert session._kept.ids() == ids_of(BEGUN)
        assert len(session._slots._dead) <= 2 * REMEMBERED
        assert len((await peer.evidence()).received) == 42
        await peer.leave()
        await stage.settled(1)


async def test_too_much_that_was_signed_ends_a_session(
    stage: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every step one row stays, and the signature covers all of them."""
    monkeypatch.setattr("hearthring.node.signatures._SLACK", 40)
    async with honest_beside(stage):
        peer = await stage.open(max_rows=64)
        session = session_of(stage, peer)
        session._received._most = 200
        await peer.run(BEGUN)
        for first in range(10, 10 + 7 * 32, 32):
            rows = siblings(first, 32)
            await peer.run(rows)
            await peer.run((), drop=ids_of(rows[1:]))
        with pytest.raises(QuotaExceeded, match="signed rows"):
            await peer.run(siblings(1000, 32))
        await stage.settled(1)
