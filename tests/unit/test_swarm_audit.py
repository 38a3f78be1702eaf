"""Audits by verifiers of a swarm: what they find, and what liars among them change."""

import asyncio
import threading
from contextlib import AsyncExitStack
from typing import Any

import pytest

from hearthring.client.api import AsyncClient
from hearthring.protocol.errors import BadOption, HearthringError, QuotaExceeded
from hearthring.protocol.transport import Method
from hearthring.protocol.verifying import VerifyQuery, decode_verify_down, encode_verify_up
from hearthring.shards.store import ModelEntry
from hearthring.verify.evidence_store import Reputation
from hearthring.verify.proof import Proof, read
from hearthring.verify.reputation import Standing
from hearthring.verify.verdict import Guilty, Outcome, Strength, Verdict, inconclusive
from tests.juries import CUTS, PROMPT, WINDOWS, LyingJudge, audited, praise, slander
from tests.liar import hooks_for
from tests.memory_ring import MemoryNode, MemorySwarm, memory_swarm


async def test_three_verifiers_accept_an_honest_answer(tiny: ModelEntry) -> None:
    async with audited(tiny) as (swarm, client, proof):
        verdict = await client.audit(proof, verifiers=3)
        assert (verdict.outcome, verdict.strength) == (Outcome.ACCEPTED, Strength.BITS)
        said = {one["verifier"] for one in verdict.figures["verifiers"]}
        assert said == {node.node_id for node in swarm.nodes[3:]}
        assert verdict.figures["accepting"] == 3
        with pytest.raises(BadOption):
            await client.audit(proof, verifiers=2)


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_liar_is_named_by_majority(tiny: ModelEntry, place: int) -> None:
    hooks = {place: hooks_for("noise:0.05", WINDOWS[place])}
    async with audited(tiny, hooks) as (swarm, client, proof):
        verdict = await client.audit(proof, verifiers=3)
        assert verdict.outcome is Outcome.REJECTED
        assert verdict.guilty == (Guilty(swarm.nodes[place].node_id, *WINDOWS[place]),)
        assert verdict.figures["rejecting"] == 3


async def test_one_lying_verifier_of_three_changes_nothing(tiny: ModelEntry) -> None:
    async with audited(tiny, judges=(None, LyingJudge(slander), None)) as (swarm, client, proof):
        verdict = await client.audit(proof, verifiers=3)
        assert (verdict.outcome, verdict.guilty) == (Outcome.ACCEPTED, ())
        assert verdict.figures["dissenters"] == [swarm.nodes[4].node_id]
    hooks = {1: hooks_for("skip-layer", WINDOWS[1])}
    judges = (None, LyingJudge(praise), None)
    async with audited(tiny, hooks, judges) as (swarm, client, proof):
        verdict = await client.audit(proof, verifiers=3)
        assert verdict.guilty == (Guilty(swarm.nodes[1].node_id, *WINDOWS[1]),)
        assert verdict.figures["dissenters"] == [swarm.nodes[4].node_id]


async def test_a_split_draws_more(tiny: ModelEntry) -> None:
    """Two say nothing, one slanders: others are asked until three of five agree."""

    def unsure(proof: Proof) -> Verdict:
        return inconclusive("can't")

    judges = [LyingJudge(unsure), LyingJudge(unsure), LyingJudge(slander), None, None, None]
    async with audited(tiny, judges=judges) as (_, client, proof):
        verdict = await client.audit(proof, verifiers=3)
        assert (verdict.outcome, verdict.guilty) == (Outcome.ACCEPTED, ())


async def test_fewer_than_asked_is_inconclusive_with_the_number(tiny: ModelEntry) -> None:
    async with audited(tiny, judges=(None, None)) as (swarm, client, proof):
        verdict = await client.audit(proof, verifiers=3)
        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert verdict.figures == {"eligible": 2, "asked": 3}
        assert (await client.audit(proof, verifiers=1)).outcome is Outcome.ACCEPTED
        await swarm.kill(swarm.nodes[3])
        await swarm.kill(swarm.nodes[4])
        verdict = await client.audit(proof, verifiers=1)
        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert verdict.reason.startswith("0 verifiers answered")
        assert len(verdict.figures["silent"]) == 2


async def test_a_verdict_on_another_proof_counts_nothing(tiny: ModelEntry) -> None:
    """A verifier that hands out an old verdict is as good as silent."""
    async with audited(tiny, judges=(None,)) as (swarm, client, proof):
        other = (await client.generate(**PROMPT)).proof  # type: ignore[arg-type]
        verifier = swarm.nodes[3]
        old = await _verdict(client, verifier, proof)

        async def replayed(stream: Any) -> None:
            await stream.receive()
            await stream.send(old)

        verifier.transport._handlers[Method.VERIFY] = replayed
        verdict = await client.audit(other, verifiers=1)
        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert "something else" in verdict.figures["silent"][verifier.node_id]
        assert (await client.audit(proof, verifiers=1)).outcome is Outcome.ACCEPTED


async def _verdict(client: AsyncClient, node: MemoryNode, proof: Proof) -> bytes:
    stream = await client.transport().dial(node.invitation.address, node.node_id, Method.VERIFY)
    await stream.send(encode_verify_up(VerifyQuery(proof.file)))
    while (data := await stream.receive()) is not None:
        if type(decode_verify_down(data)).__name__ == "SignedVerdict":
            await stream.close()
            return data
    raise AssertionError("no verdict")


async def test_a_node_of_the_route_judges_nobody(tiny: ModelEntry) -> None:
    async with audited(tiny, judges=()) as (swarm, client, proof):
        with pytest.raises(HearthringError, match="his own"):
            await _verdict(client, swarm.nodes[1], proof)


async def test_a_proof_is_read_beside_the_loop_and_one_of_each_peer_at_a_time(
    tiny: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proof has a signature of every stage: checking them holds nobody up."""
    reading, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow(data: bytes) -> Proof:
        loop.call_soon_threadsafe(reading.set)
        assert go_on.wait(20)
        return read(data)

    async with audited(tiny, judges=(None,)) as (swarm, client, proof):
        monkeypatch.setattr("hearthring.node.verifier.read", slow)
        first = asyncio.create_task(_verdict(client, swarm.nodes[3], proof))
        async with asyncio.timeout(20):
            await reading.wait()
        with pytest.raises(QuotaExceeded):
            await _verdict(client, swarm.nodes[3], proof)
        go_on.set()
        assert await first
        assert await _verdict(client, swarm.nodes[3], proof)


async def test_closing_a_swarm_ends_its_jobs(tiny: ModelEntry) -> None:
    async with AsyncExitStack() as stack:
        swarm = await stack.enter_async_context(memory_swarm(tiny, CUTS))
        assert isinstance(swarm, MemorySwarm)
        await swarm.node((0, 4), row_seconds=1.0)
        client = swarm.client()
        proof = (await client.generate(**PROMPT)).proof  # type: ignore[arg-type]
        node = swarm.nodes[3]
        stream = await client.transport().dial(node.invitation.address, node.node_id, Method.VERIFY)
        await stream.send(encode_verify_up(VerifyQuery(proof.file)))
        await stream.receive()  # at work
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_audits_move_standings_and_routes_go_by_them(tiny: ModelEntry) -> None:
    """The liar isn't used again; the honest keep their standing, whoever slanders them."""
    hooks = {1: hooks_for("skip-layer", WINDOWS[1])}
    async with audited(tiny, hooks, judges=(None, LyingJudge(slander), None)) as (swarm, client, _):
        client.swarm.reputation = memory = Reputation()
        proof = (await client.generate(**PROMPT)).proof  # type: ignore[arg-type]
        assert (await client.audit(proof, verifiers=3)).outcome is Outcome.REJECTED
        liar, honest, slanderer = (swarm.nodes[place].node_id for place in (1, 0, 4))
        newcomer = Standing().weight
        assert (memory(liar), memory(honest)) == (0.0, newcomer)
        assert memory(slanderer) < newcomer
        answer = await client.generate(**PROMPT)  # type: ignore[arg-type]
        assert liar not in {stage.node for stage in answer.route}
        for _ in range(2):
            assert (await client.audit(answer.proof)).outcome is Outcome.ACCEPTED
        assert memory(answer.route[0].node) > newcomer
        assert memory.standing(answer.route[0].node).good == pytest.approx(1.0, 1e-3)
