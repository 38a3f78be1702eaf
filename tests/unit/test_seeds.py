"""Whom a client asks for the directory: whatever else stands in it."""

from dataclasses import replace

from hearthring.client.seeds import known_nodes
from hearthring.protocol.records import read, sign
from hearthring.shards.store import ModelEntry
from tests.memory_ring import memory_swarm
from tests.offers import node


def test_nodes_without_an_address_of_their_own_arent_asked() -> None:
    relayed = node("a", (0, 2), addresses=(), relay_addresses=("r:1",))
    odd, well = node("b", (0, 2), addresses=("nowhere",)), node("c", (0, 2))
    asked = known_nodes([relayed, odd, well, node("d", (0, 2))], 1)
    assert [(seed.node_id, seed.address) for seed in asked] == [("c", "c:1")]


async def test_a_record_without_an_address_stands_in_no_fail_overs_way(tiny: ModelEntry) -> None:
    """Anybody may announce one, and every client reads it."""
    options = {"prompt_ids": list(range(3, 23)), "max_tokens": 8}
    async with memory_swarm(tiny, (0, 2, 4)) as swarm:
        stranger = (await swarm.node((0, 4), row_seconds=9.0)).transport.identity
        key = next(key for key in swarm.shared if stranger.node_id in key)
        said = read(swarm.shared[key])
        swarm.shared[key] = sign(replace(said, addresses=(), sequence=said.sequence + 1), stranger)
        whole = await swarm.client().generate(**options)  # type: ignore[arg-type]
        stream = swarm.client().stream(**options)  # type: ignore[arg-type]
        made = 0
        async for piece in stream:
            made += piece.token_id is not None
            if made == 3:
                await swarm.node((2, 4))
                await swarm.kill(swarm.nodes[1])
    assert stream.answer.token_ids == whole.token_ids
