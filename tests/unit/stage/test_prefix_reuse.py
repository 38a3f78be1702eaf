"""Sessions that begin alike: known rows aren't computed, and only time tells."""

import pytest

from hearthring.client.api import AsyncClient
from hearthring.protocol.errors import BadOption, Malformed
from hearthring.protocol.messages import (
    GENERATED,
    PROMPT,
    ROOT,
    SHARE_ALL,
    SHARE_NONE,
    SHARE_OWN,
)
from hearthring.shards.store import ModelEntry
from tests.memory_ring import memory_swarm
from tests.stage_peer import Peer, Rig, alone, chain, until

PROMPT_ROWS = chain(1, 20, ROOT)


async def run(peer: Peer, *steps: tuple[int, int, int]) -> tuple[dict[int, bytes], list[int]]:
    """Run ``(first row, rows, kind)`` steps that follow each other; outputs, and rows computed."""
    got, computed, commit = dict[int, bytes](), list[int](), tuple[int, ...]()
    peer.rig.engine.fail = lambda states: computed.append(len(states))
    for first, rows, kind in steps:
        got |= await peer.run(chain(first, rows, first - 1, kind), commit=commit)
        commit = tuple(range(first, first + rows))
    await peer.finish(commit)
    return got, computed


async def left(peer: Peer) -> None:
    """End a session; what it leaves has been kept when this returns."""
    stage, before = peer.rig.stage, peer.rig.stage._places.prefixes.rows
    await peer.leave()
    await peer.rig.settled(0)
    await stage._worker.run(lambda: None)
    assert stage._places.prefixes.rows >= before
    assert stage.free_rows == peer.rig.kv_rows


async def test_known_rows_are_copied_and_the_rest_is_computed(stage: Rig) -> None:
    who = stage.client()
    first = await stage.open(who)
    got, computed = await run(first, (1, 20, PROMPT), (21, 1, GENERATED))
    assert computed == [20, 1]
    await left(first)
    second = await stage.open(who)
    again, computed = await run(second, (1, 8, PROMPT), (9, 12, PROMPT), (21, 4, PROMPT))
    assert computed == [0, 0, 4]  # row 21 was a generated one
    path = [*PROMPT_ROWS, *chain(21, 4, 20)]
    assert list(again.values()) == alone(stage.engine.honest, path)
    assert [again[n] for n in range(1, 21)] == [got[n] for n in range(1, 21)]
    await left(second)


async def test_a_generated_row_is_reused_as_a_generated_row(stage: Rig) -> None:
    who = stage.client()
    for expected in ([5, 1, 1], [0, 0, 0]):
        peer = await stage.open(who)
        got, computed = await run(peer, (1, 5, PROMPT), (6, 1, GENERATED), (7, 1, GENERATED))
        assert computed == expected
        path = [*chain(1, 5, ROOT), *chain(6, 2, 5, GENERATED)]
        assert list(got.values()) == alone(stage.engine.honest, path)
        await left(peer)


@pytest.mark.parametrize(
    ("sharing", "known"), [(SHARE_OWN, False), (SHARE_ALL, True), (SHARE_NONE, False)]
)
async def test_strangers_share_only_if_both_say_so(stage: Rig, sharing: int, known: bool) -> None:
    for expected in ([20], [0] if known else [20]):
        peer = await stage.open(stage.client(), sharing=sharing)
        assert (await run(peer, (1, 20, PROMPT)))[1] == expected
        await left(peer)


async def test_a_session_that_shares_nothing_leaves_nothing(stage: Rig) -> None:
    who = stage.client()
    peer = await stage.open(who, sharing=SHARE_NONE)
    await run(peer, (1, 20, PROMPT))
    await left(peer)
    peer = await stage.open(who)
    assert (await run(peer, (1, 20, PROMPT)))[1] == [20]
    await left(peer)


async def test_a_way_to_share_that_nobody_knows_is_refused(stage: Rig) -> None:
    peer = await stage.attach(sharing=7)
    await peer.refused(Malformed, "open.sharing")


async def test_kept_rows_make_room_for_sessions(stage: Rig) -> None:
    who = stage.client()
    peer = await stage.open(who)
    await run(peer, (1, 20, PROMPT))
    await left(peer)
    prefixes = stage.stage._places.prefixes
    assert prefixes.rows == 20
    peer = await stage.open(who, max_rows=stage.kv_rows - 5)
    await until(lambda: prefixes.rows == 0)
    await left(peer)


async def test_a_failed_session_leaves_nothing(stage: Rig) -> None:
    peer = await stage.open()
    await peer.run(PROMPT_ROWS)
    await peer.send(chain(21, 1, 20, GENERATED), commit=range(1, 21), signature=bytes(64))
    await peer.end()
    await stage.settled(0)
    await stage.stage._worker.run(lambda: None)
    assert stage.stage._places.prefixes.rows == 0


async def test_a_proof_of_reused_rows_holds(tiny: ModelEntry) -> None:
    ids = [int(n) for n in range(10, 90)]
    async with memory_swarm(tiny, (0, 2, 4)) as swarm:
        client = swarm.client()
        fresh = await client.generate(prompt_ids=[*ids, 7, 8, 9], max_tokens=8)
        await until(lambda: all(n.stage._places.prefixes.rows > len(ids) for n in swarm.nodes))
        again = await client.generate(prompt_ids=[*ids, 7, 8, 9], max_tokens=8)
        other = await client.generate(prompt_ids=[*ids, 30], max_tokens=8)
        assert again.token_ids == fresh.token_ids
        assert again.proof.out_roots == fresh.proof.out_roots
        for answer in (again, other):
            assert (await client.audit(answer.proof)).verdict == "accepted"
    async with memory_swarm(tiny, (0, 2, 4)) as swarm:
        alone_ = await swarm.client().generate(prompt_ids=[*ids, 30], max_tokens=8)
    assert (alone_.token_ids, alone_.proof.out_roots) == (other.token_ids, other.proof.out_roots)


@pytest.mark.parametrize(("sharing", "kept"), [("own", True), ("all", True), ("none", False)])
async def test_the_client_says_whose_rows_it_shares(
    tiny: ModelEntry, sharing: str, kept: bool
) -> None:
    async with memory_swarm(tiny, (0, 4)) as swarm, swarm.client(sharing=sharing) as client:
        await client.generate(prompt_ids=[5, 6, 7, 8], max_tokens=2)
        stage = swarm.nodes[0].stage
        await until(lambda: stage.sessions == 0)
        await stage._worker.run(lambda: None)
        assert (stage._places.prefixes.rows > 0) == kept


def test_a_client_knows_the_ways_to_share() -> None:
    with pytest.raises(BadOption):
        AsyncClient(sharing="some")
