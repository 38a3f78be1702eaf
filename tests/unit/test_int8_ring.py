"""A ring whose rows travel as int8: asked for, said in every receipt, and audited by the bit."""

from dataclasses import replace

import pytest

from hearthring.client.answer import Answer
from hearthring.client.api import AsyncClient
from hearthring.protocol.errors import BadOption
from hearthring.protocol.tensors import Residual
from hearthring.shards.store import ModelEntry
from hearthring.verify import receipts
from hearthring.verify.proof import sign
from hearthring.verify.verdict import Guilty, Outcome, Strength
from tests.liar import hooks_for
from tests.memory_ring import memory_swarm

CUTS = (0, 1, 3, 4)
PROMPT_IDS = list(range(10, 50))


async def ask(client: AsyncClient, **options: object) -> Answer:
    return await client.generate(prompt_ids=PROMPT_IDS, max_tokens=30, **options)  # type: ignore[arg-type]


async def test_an_answer_in_int8_is_audited_in_every_way(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, CUTS, Residual.FP16) as swarm:
        await swarm.node((0, 4), Residual.FP16, row_seconds=1.0)
        client = swarm.client(wire="int8")
        answer = await ask(client, draft="none")
        assert (await ask(client, draft="suffix")).token_ids == answer.token_ids
        proof = answer.proof
        assert proof.residual == "fp16+int8"
        for stage in proof.stages:
            assert stage.receipt is not None
            assert receipts.read(stage.receipt).residual == "fp16+int8"
        exact = (await ask(swarm.client(wire="exact"))).proof
        assert not set(exact.in_roots) & set(proof.in_roots)
        for options in ({}, {"depth": "cells"}, {"verifiers": 1}):
            verdict = await client.audit(proof, **options)  # type: ignore[arg-type]
            assert (verdict.outcome, verdict.strength) == (Outcome.ACCEPTED, Strength.BITS), verdict
        proof = (await ask(client)).proof  # a record opens to a verifier once
        verdict = await client.audit(proof, verifiers=1, depth="stage")
        assert (verdict.outcome, verdict.strength) == (Outcome.ACCEPTED, Strength.BITS), verdict


async def test_a_proof_can_t_say_that_rows_travelled_otherwise(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, CUTS, Residual.FP16) as swarm:
        client = swarm.client(wire="int8")
        proof = (await ask(client)).proof
        said = sign(replace(proof, residual="fp16"), client.transport().identity)
        verdict = await client.audit(said)
        assert verdict.outcome is Outcome.REJECTED
        assert "another residual" in verdict.reason


async def test_a_liar_in_int8_is_named(tiny: ModelEntry) -> None:
    hooks = {1: hooks_for("noise:0.05", (1, 3))}
    async with memory_swarm(tiny, CUTS, Residual.FP16, hooks) as swarm:
        client = swarm.client(wire="int8")
        proof = (await ask(client)).proof
        for depth in ("whole", "cells"):
            verdict = await client.audit(proof, depth=depth)
            assert verdict.outcome is Outcome.REJECTED
            assert verdict.guilty == (Guilty(swarm.nodes[1].node_id, 1, 3),)


async def test_another_class_doesn_t_judge_int8(
    tiny: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_swarm(tiny, CUTS, Residual.FP16) as swarm:
        client = swarm.client(wire="int8")
        proof = (await ask(client)).proof
        monkeypatch.setattr("hearthring.client.window_replay.WindowReplayer.fingerprint", "e" * 64)
        verdict = await client.audit(proof)
        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert "int8" in verdict.reason


async def test_a_lost_stage_costs_no_token_in_int8(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, CUTS, Residual.FP16) as swarm:
        spare = await swarm.node((1, 3), Residual.FP16, row_seconds=0.5)
        client = swarm.client(wire="int8")
        whole = await ask(client, draft="none")
        stream, said = client.stream(prompt_ids=PROMPT_IDS, max_tokens=30, draft="none"), 0
        async for _ in stream:
            said += 1
            if said == 5:
                await swarm.kill(swarm.nodes[1])
        assert stream.answer.token_ids == whole.token_ids
        assert stream.answer.route[1].node == spare.node_id
        verdict = await client.audit(stream.answer.proof)
        assert (verdict.outcome, verdict.strength) == (Outcome.ACCEPTED, Strength.BITS), verdict


def test_there_are_two_ways_for_rows_to_travel() -> None:
    with pytest.raises(BadOption):
        AsyncClient(wire="int4")
