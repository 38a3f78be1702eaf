"""A route that visits its nodes more than once."""

from collections.abc import Sequence
from itertools import pairwise

import pytest

from hearthring.client.api import AsyncClient
from hearthring.client.replacement import Spares
from hearthring.client.route import Stage
from hearthring.protocol.records import NodeRecord
from hearthring.shards.store import ModelEntry
from hearthring.verify.verdict import Outcome
from tests.memory_ring import memory_swarm

PROMPT_IDS = [7, 31, 5, 64, 12, 90, 33, 8]
LAYERS = 4


def piped(records: Sequence[NodeRecord], nodes: list[str]) -> tuple[Stage, ...]:
    """A layer at a time, round and round."""
    offers = [next(r for r in records if r.node == node) for node in nodes]
    rounds = [offers[n % len(offers)] for n in range(LAYERS)]
    return tuple(
        Stage(o.node, o.addresses[0], *layer, o.residual, o.numerics, o.fingerprint)
        for o, layer in zip(rounds, pairwise(range(LAYERS + 1)), strict=True)
    )


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Nodes that routes go round, once there are any."""
    nodes = list[str]()
    plain = Spares.route

    def route(spares: Spares, records: Sequence[NodeRecord]) -> tuple[Stage, ...]:
        return piped(records, nodes) if nodes else plain(spares, records)

    monkeypatch.setattr(Spares, "route", route)
    return nodes


async def _answers(client: AsyncClient) -> list[list[int]]:
    answers = [
        await client.generate(prompt_ids=PROMPT_IDS[n:], max_tokens=12, draft=draft)
        for n, draft in ((0, "none"), (1, "suffix"))
    ]
    return [answer.token_ids for answer in answers]


async def test_a_session_may_have_several_windows_at_one_node(
    tiny: ModelEntry, rounds: list[str]
) -> None:
    async with memory_swarm(tiny, (0, LAYERS)) as swarm:
        await swarm.node((0, LAYERS))
        client = swarm.client()
        plain = await _answers(client)
        rounds += [node.node_id for node in swarm.nodes]
        assert await _answers(client) == plain
        answer = await client.generate(prompt_ids=PROMPT_IDS, max_tokens=4)
        assert [stage.node for stage in answer.route] == rounds * 2
        assert [(s.start, s.end) for s in answer.route] == list(pairwise(range(LAYERS + 1)))
        verdict = await client.audit(answer.proof)
        assert verdict.outcome is Outcome.ACCEPTED, verdict


async def test_a_node_may_even_follow_itself(tiny: ModelEntry, rounds: list[str]) -> None:
    async with memory_swarm(tiny, (0, LAYERS)) as swarm:
        client = swarm.client()
        plain = await _answers(client)
        rounds += [swarm.nodes[0].node_id]
        assert await _answers(client) == plain
