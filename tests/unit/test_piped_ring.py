"""A route that visits its nodes more than once."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from hearthring.client.api import AsyncClient
from hearthring.node.config import NodeHooks
from hearthring.protocol.errors import EngineUnavailable, QuotaExceeded
from hearthring.protocol.opening import ask_rows
from hearthring.protocol.tensors import Residual, rounded
from hearthring.shards.engine import EngineRow, Kind, Segment
from hearthring.shards.engines import EngineOptions, load_engine
from hearthring.shards.several_windows import SeveralWindows
from hearthring.shards.store import ModelEntry
from hearthring.verify.verdict import Guilty, Outcome, Strength
from tests.liar import hooks_for
from tests.memory_ring import MemorySwarm, memory_swarm

PROMPT_IDS = list(range(10, 50))
LAYERS = 4
FIRST, SECOND = ((0, 1), (2, 3)), ((1, 2), (3, 4))
"""What two nodes offer: whoever needs all layers goes round them twice."""


async def _round(swarm: MemorySwarm, hooks: NodeHooks | None = None) -> None:
    """Two nodes, of which the second may lie."""
    await swarm.node((0, LAYERS), several=FIRST)
    await swarm.node((0, LAYERS), several=SECOND, hooks=hooks)


async def _answers(client: AsyncClient) -> list[list[int]]:
    answers = [
        await client.generate(prompt_ids=PROMPT_IDS[n:], max_tokens=12, draft=draft)
        for n, draft in ((0, "none"), (1, "suffix"))
    ]
    return [answer.token_ids for answer in answers]


async def test_a_ring_of_two_nodes_with_four_windows_is_audited_in_every_way(
    tiny: ModelEntry,
) -> None:
    async with memory_swarm(tiny, (0, LAYERS)) as alone:
        plain = await _answers(alone.client())
    async with memory_swarm(tiny, ()) as swarm:
        await _round(swarm)
        client = swarm.client()
        assert await _answers(client) == plain
        proof = (await client.generate(prompt_ids=PROMPT_IDS, max_tokens=30)).proof
        nodes = [node.node_id for node in swarm.nodes]
        assert [stage.node for stage in proof.stages] == nodes * 2
        assert [(s.start, s.end) for s in proof.stages] == list(pairwise(range(LAYERS + 1)))
        for depth in ("whole", "cells"):
            verdict = await client.audit(proof, depth=depth)
            assert (verdict.outcome, verdict.strength) == (Outcome.ACCEPTED, Strength.BITS)
        # Each place has a record of its own: opened once, and not that of the other.
        opened = set[bytes]()
        for stage in proof.stages:
            address = swarm.nodes[nodes.index(stage.node)].invitation.address
            where = client.transport(), address, stage.node, proof.session, stage.start, 1 << 20
            opened.add(await ask_rows(*where))
            with pytest.raises(QuotaExceeded):
                await ask_rows(*where)
        assert len(opened) == LAYERS


async def test_verifiers_judge_each_window_by_its_own_record(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, ()) as swarm:
        await _round(swarm)
        await swarm.node((0, LAYERS), row_seconds=1.0)
        client = swarm.client()
        proof = (await client.generate(prompt_ids=PROMPT_IDS, max_tokens=6)).proof
        assert len(proof.stages) == LAYERS
        verdict = await client.audit(proof, verifiers=1, depth="stage")
        assert (verdict.outcome, verdict.strength) == (Outcome.ACCEPTED, Strength.BITS), verdict


@pytest.mark.parametrize("place", [1, 3])
async def test_a_liar_is_named_with_the_window_it_lied_in(tiny: ModelEntry, place: int) -> None:
    async with memory_swarm(tiny, ()) as swarm:
        await _round(swarm, hooks_for(f"skip-layer:{place}", (place, place + 1)))
        client = swarm.client()
        proof = (await client.generate(prompt_ids=PROMPT_IDS, max_tokens=6)).proof
        for depth in ("whole", "cells"):
            verdict = await client.audit(proof, depth=depth)
            assert verdict.outcome is Outcome.REJECTED
            assert verdict.guilty == (Guilty(swarm.nodes[1].node_id, place, place + 1),)


async def test_a_route_comes_back_to_a_node_where_that_is_cheaper(tiny: ModelEntry) -> None:
    """And when what is between is lost, the node takes that too."""
    async with memory_swarm(tiny, (0, LAYERS)) as alone:
        plain = await _answers(alone.client())
    async with memory_swarm(tiny, ()) as swarm:
        slow = await swarm.node((0, LAYERS), row_seconds=0.4)
        fast = await swarm.node((1, 3), row_seconds=0.002)
        client = swarm.client()
        answer = await client.generate(prompt_ids=PROMPT_IDS, max_tokens=4)
        assert [stage.node for stage in answer.route] == [slow.node_id, fast.node_id, slow.node_id]
        assert [(s.start, s.end) for s in answer.route] == [(0, 1), (1, 3), (3, 4)]
        stream, said = client.stream(prompt_ids=PROMPT_IDS, max_tokens=12, draft="none"), 0
        async for _ in stream:
            said += 1
            if said == 3:
                await swarm.kill(fast)
        assert stream.answer.token_ids == plain[0]
        assert {stage.node for stage in stream.answer.route} == {slow.node_id}


async def test_a_node_lost_at_both_its_windows_costs_no_token(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, (0, LAYERS)) as alone:
        plain = await _answers(alone.client())
    async with memory_swarm(tiny, ()) as swarm:
        await _round(swarm)
        spare = await swarm.node((0, LAYERS), several=SECOND, row_seconds=0.5)
        client = swarm.client()
        stream, said = client.stream(prompt_ids=PROMPT_IDS, max_tokens=12, draft="none"), 0
        async for _ in stream:
            said += 1
            if said == 3:
                await swarm.kill(swarm.nodes[1])
        assert stream.answer.token_ids == plain[0]
        nodes = [swarm.nodes[0].node_id, spare.node_id]
        assert [stage.node for stage in stream.answer.route] == nodes * 2
        verdict = await client.audit(stream.answer.proof)
        assert (verdict.outcome, verdict.strength) == (Outcome.ACCEPTED, Strength.BITS), verdict


async def test_a_liar_with_two_windows_is_evicted_from_both(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, (0, LAYERS)) as alone:
        long = await alone.client().generate(prompt_ids=PROMPT_IDS, max_tokens=40)
    async with memory_swarm(tiny, ()) as swarm:
        await _round(swarm, hooks_for("skip-layer:3", (3, 4)))
        spare = await swarm.node((0, LAYERS), several=SECOND, row_seconds=0.5)
        answer = await swarm.client().generate(prompt_ids=PROMPT_IDS, max_tokens=40, spot_check=1.0)
        assert answer.caught == (swarm.nodes[1].node_id,)
        assert [stage.node for stage in answer.route][1::2] == [spare.node_id] * 2
        assert answer.token_ids == long.token_ids


async def test_a_node_may_even_follow_itself(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, (0, LAYERS)) as alone:
        plain = await _answers(alone.client())
    async with memory_swarm(tiny, ()) as swarm:
        await swarm.node((0, LAYERS), several=tuple(pairwise(range(LAYERS + 1))))
        client = swarm.client()
        assert await _answers(client) == plain
        answer = await client.generate(prompt_ids=PROMPT_IDS, max_tokens=4)
        assert len(answer.route) == LAYERS


def test_several_windows_are_their_engines(tiny: ModelEntry) -> None:
    gguf = tiny.open()
    whole = load_engine("torch", gguf, (0, LAYERS), Residual.FP16, 1)
    parts = [load_engine("torch", gguf, w, Residual.FP16, 1) for w in ((3, 4), (0, 2))]
    engine = SeveralWindows(parts)
    assert (engine.windows, engine.numerics) == (((0, 2), (3, 4)), whole.numerics)
    states = np.random.default_rng(0).standard_normal((3, whole.width))
    states = rounded(states.astype(np.float32), Residual.FP16)
    rows = tuple(EngineRow(Kind.PROMPT, p, p, np.arange(p + 1)) for p in range(3))
    for window in (None, (0, 2), (1, 2), (3, 4)):
        wanted = frozenset({1, 2, 4})
        within = window or (0, 2)
        taps = frozenset(tap for tap in wanted if within[0] < tap <= within[1])
        mine = engine.forward_traced((Segment(engine.new_cache(3, window), rows),), states, wanted)
        true = whole.forward_traced((Segment(whole.new_cache(3, within), rows),), states, taps)
        assert mine.out.tobytes() == true.out.tobytes()
        assert mine.trace.tobytes() == true.trace.tobytes()
        assert {b: tap.tobytes() for b, tap in mine.tapped.items()} == {
            b: tap.tobytes() for b, tap in true.tapped.items()
        }
    other = load_engine("torch", gguf, (2, 3), Residual.BF16, 1)
    with pytest.raises(EngineUnavailable):
        SeveralWindows([*parts, other])
    odd = load_engine("torch", gguf, (2, 3), Residual.FP16, 1)
    odd.__dict__["numerics"] = replace(odd.numerics, fingerprint="ab" * 32)
    with pytest.raises(EngineUnavailable):
        SeveralWindows([*parts, odd])


def test_windows_that_equal_nobodys_are_served_together(tiny: ModelEntry) -> None:
    gguf, inexact = tiny.open(), EngineOptions(exact=False)
    for name in ("torch", "ggml"):
        one, two = (
            load_engine(name, gguf, window, Residual.FP16, 1, options=inexact)
            for window in ((0, 2), (3, 4))
        )
        assert one.numerics != two.numerics
        assert SeveralWindows([two, one]).numerics == one.numerics
