"""Rows that are cancelled, dropped and rolled back, and trees of them: no bit is another."""

from collections.abc import Sequence

import pytest

from hearthring.protocol.errors import (
    UnknownRow,
)
from hearthring.protocol.messages import (
    GENERATED,
    ROOT,
    Cancel,
    Row,
)
from hearthring.verify.rowhash import chunk_roots, row_hashes
from tests.stage_peer import (
    BEGUN,
    MODEL,
    NEXT,
    WINDOW,
    Rig,
    alone,
    chain,
    honest_beside,
    ids_of,
)


async def test_cancelled_rows_yield_empty_results_and_no_gap(stage: Rig) -> None:
    async with honest_beside(stage):
        peer = await stage.open()
        await peer.say(Cancel((3, 70)))
        await peer.evidence()  # the cancellation is in
        first = await peer.pass_on([*chain(1, 4, ROOT), Row(5, 2, 2, GENERATED)])
        assert [row.id for row in first.rows] == [1, 2, 3, 4, 5]
        assert first.dead == (3, 4)
        lines = [*chain(1, 2, ROOT), Row(5, 2, 2, GENERATED), Row(7, 5, 3, GENERATED)]
        expected = alone(stage.engine.honest, lines)
        assert first.states == b"".join(expected[:3])
        # A child of a dead row is dead as well; one of a live row isn't.
        second = await peer.pass_on([Row(6, 4, 4, GENERATED), Row(7, 5, 3, GENERATED)])
        assert (second.step_id, second.dead, second.states) == (2, (6,), expected[3])
        # So it stays after the ordered drop, and a row never seen is an error all the same.
        third = await peer.pass_on([Row(8, 3, 3, GENERATED)], drop=(3,))
        assert (third.dead, third.states) == ((8,), b"")
        assert (await peer.finish((1, 2, 5, 7))).rows == 4
        await peer.send([Row(10, 9, 4, GENERATED)])
        await peer.refused(UnknownRow, "parent")


async def test_a_cancellation_during_a_step_is_not_forgotten(
    stage: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may come at any moment: here, while others are being worked in."""
    peer = await stage.open()
    place = stage.stage._places.find(peer.wish.session, peer.wish.start)
    assert place is not None
    session = place.session
    work_in = session._slots.cancel

    def meanwhile(ids: Sequence[int]) -> None:
        monkeypatch.undo()
        session.cancel((5,))
        work_in(ids)

    monkeypatch.setattr(type(session._slots), "cancel", lambda _, ids: meanwhile(ids))
    await peer.say(Cancel((4,)))
    await peer.evidence()
    await peer.run(BEGUN)
    step = await peer.pass_on([Row(4, 3, 3, 2), Row(5, 3, 3, 2), Row(6, 3, 3, 2)])
    assert step.dead == (4, 5)


async def test_a_row_that_was_dropped_before_it_came_is_refused(stage: Rig) -> None:
    """A cancellation makes room for such a drop, and nothing may be left in between."""
    async with honest_beside(stage):
        peer = await stage.open()
        await peer.say(Cancel((4,)))
        await peer.evidence()
        await peer.run(BEGUN)
        await peer.send(NEXT, drop=(4,))
        await peer.refused(UnknownRow, "step.drop")


async def test_what_was_dropped_might_as_well_never_have_been(stage: Rig) -> None:
    prompt, right = chain(1, 5, ROOT), chain(20, 3, 5, GENERATED)
    wrong = [*chain(6, 4, 5, GENERATED), *chain(10, 2, 7, GENERATED, at=7)]
    async with honest_beside(stage):
        plain = await stage.open()
        await plain.run(prompt)
        expected = [await plain.run([row]) for row in right]
        peer = await stage.open()
        await peer.run(prompt)
        await peer.run(wrong)
        got = [await peer.run(right[:1], commit=ids_of(prompt), drop=(6,))]
        got += [await peer.run([row]) for row in right[1:]]
        assert got == expected
        assert [b for step in got for b in step.values()] == alone(
            stage.engine.honest, [*prompt, *right]
        )[5:]
        mine, theirs = [await p.finish((*ids_of(prompt), *ids_of(right))) for p in (peer, plain)]
        assert mine.in_roots == theirs.in_roots
        assert mine.out_roots == theirs.out_roots
        assert mine.digests == theirs.digests
        for one in (peer, plain):
            await one.leave()
        await stage.settled(1)


async def test_committed_rows_may_be_rolled_back(stage: Rig) -> None:
    prompt, wrong, right = chain(1, 4, ROOT), chain(5, 3, 4, GENERATED), chain(8, 2, 4, GENERATED)
    async with honest_beside(stage):
        peer = await stage.open()
        await peer.run(prompt)
        await peer.run(wrong, commit=ids_of(prompt))
        await peer.run(commit=ids_of(wrong))
        got = await peer.run(right, drop=(5,))
        assert list(got.values()) == alone(stage.engine.honest, [*prompt, *right])[4:]
        assert (await peer.finish(ids_of(right))).rows == 6
        await peer.leave()
        await stage.settled(1)


@pytest.mark.parametrize("together", [True, False])
async def test_every_branch_of_a_tree_equals_it_alone(stage: Rig, together: bool) -> None:
    prompt = chain(1, 3, ROOT)
    left = [Row(n, p, at, GENERATED) for n, p, at in ((4, 3, 3), (6, 4, 4), (8, 6, 5))]
    right = [Row(n, p, at, GENERATED) for n, p, at in ((5, 3, 3), (7, 5, 4), (9, 7, 5))]
    tree = sorted(left + right, key=lambda row: row.id)
    async with honest_beside(stage):
        peer = await stage.open()
        await peer.run(prompt)
        if together:
            got = await peer.run(tree)
        else:
            got = {}
            for row in tree:
                got |= await peer.run([row])
        for branch in (left, right):
            expected = alone(stage.engine.honest, [*prompt, *branch])[3:]
            assert [got[row.id] for row in branch] == expected
        # The branch that is kept goes on as if the other had never been.
        on = await peer.run(chain(10, 1, 9, GENERATED, at=6), commit=(1, 2, 3, 5, 7), drop=(4,))
        path = [*prompt, *right, Row(10, 9, 6, GENERATED)]
        assert on[10] == alone(stage.engine.honest, path)[-1]
        body = await peer.finish((9, 10))
        hashes = row_hashes(
            bytes.fromhex(MODEL),
            bytes.fromhex(stage.engine.numerics.fingerprint),
            WINDOW[1],
            [row.kind for row in path],
            [row.position for row in path],
            b"".join(alone(stage.engine.honest, path)),
            len(path),
        )
        assert body.out_roots == tuple(chunk_roots(range(len(path)), hashes))
        await peer.leave()
        await stage.settled(1)
