"""A lost stage is replaced by one of another numerics class only if the client says so, and then
answer and proof say from which token."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from hearthring.client.answer import Answer
from hearthring.client.api import AsyncClient
from hearthring.client.auditing import audit_offline
from hearthring.client.generation import Generation
from hearthring.client.sampler import Sampling
from hearthring.protocol.errors import BadProof, NoRoute
from hearthring.protocol.tensors import Residual
from hearthring.shards.store import ModelEntry
from hearthring.verify.proof import read, sign
from hearthring.verify.rowhash import row_hashes
from hearthring.verify.verdict import Outcome, Strength
from tests.memory_ring import MemorySwarm, memory_swarm
from tests.stage_peer import until

PROMPT_IDS = [int(x) for x in np.random.default_rng(8).integers(3, 280, 40)]
OPTIONS = {"prompt_ids": PROMPT_IDS, "max_tokens": 12, "temperature": 0.9, "seed": 4}
LOST_AT = 5


def client(swarm: MemorySwarm, *, allow: bool, patience: float = 0.5) -> AsyncClient:
    return swarm.client(patience=30.0 if allow else patience, allow_class_change=allow)


async def killed(swarm: MemorySwarm, asking: AsyncClient) -> Answer:
    """The second node is lost in the middle of the answer."""
    stream = asking.stream(**OPTIONS)  # type: ignore[arg-type]
    made = 0
    async for piece in stream:
        assert not piece.taken_back, "the text stays"
        made += piece.token_id is not None
        if made == LOST_AT:
            await swarm.kill(swarm.nodes[1])
    return stream.answer


async def disturbed(swarm: MemorySwarm, *, allow: bool) -> Answer:
    """The second stage is lost, and only another engine's is there in its place."""
    await swarm.node((2, 4), Residual.FP16, engine="ggml", row_seconds=0.5)
    return await killed(swarm, client(swarm, allow=allow))


async def test_another_class_comes_only_if_it_is_allowed(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, (0, 2, 4), Residual.FP16) as swarm:
        with pytest.raises(NoRoute) as caught:
            await disturbed(swarm, allow=False)
        assert caught.value.missing == ((2, 4),)


async def test_an_answer_and_its_proof_say_where_the_class_changed(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, (0, 2, 4), Residual.FP16) as swarm:
        undisturbed = await client(swarm, allow=True).generate(**OPTIONS)  # type: ignore[arg-type]
        assert (undisturbed.class_changes, undisturbed.proof.class_from) == ((), 0)
        answer = await disturbed(swarm, allow=True)
        other = swarm.nodes[-1]
    assert answer.route[1].node == other.node_id
    assert answer.route[0].fingerprint != answer.route[1].fingerprint
    (change,) = answer.class_changes
    assert LOST_AT <= change <= LOST_AT + 1
    assert answer.token_ids[:change] == undisturbed.token_ids[:change]
    assert "layers 2 to 4 from torch-" in answer.timings.reroutes[0].changed
    proof = answer.proof
    assert proof.class_from == len(PROMPT_IDS) + change
    assert proof.as_json()["class_from"] == proof.class_from
    verdict = audit_offline(proof, 1)
    assert verdict.outcome is Outcome.ACCEPTED, verdict
    assert verdict.figures["tokens_of_another_class"] == change
    assert verdict.figures["tokens_checked"] == len(answer.token_ids)
    assert f"{change} tokens were chosen in another numerics class" in verdict.reason


async def test_a_row_that_was_back_before_the_change_counts_as_it_is_after_it(
    tiny: ModelEntry,
) -> None:
    """Whoever reads takes his time: the next row comes back, and anew by the other class."""
    async with memory_swarm(tiny, (0, 2, 4), Residual.FP16) as swarm:
        await swarm.node((2, 4), Residual.FP16, engine="ggml", row_seconds=0.5)
        asking = client(swarm, allow=True)
        ring, ends = await asking.sessions.open(len(PROMPT_IDS) + 12)
        generation = Generation(ring, ends, asking.heads, Sampling(), list(PROMPT_IDS))
        async with ring, asyncio.timeout(60):
            async for _ in generation.tokens(12, frozenset()):
                if generation.made == LOST_AT and not ring.mended:
                    await ring.flight.below(1)
                    await swarm.kill(swarm.nodes[1])
                    await until(lambda: bool(ring.mended) and not ring.mending)
            assert generation.class_changes == [len(PROMPT_IDS) + LOST_AT]
            last, rows = ring.route[-1], generation.rows
            hashes = row_hashes(
                *(bytes.fromhex(ring.model_id), bytes.fromhex(last.fingerprint), last.end),
                *([row.kind for row in rows], [row.position for row in rows]),
                *(ring.row_type.pack(np.stack(generation.final)), len(rows)),
            )
            assert hashes == [ring.ledger.received[row.id] for row in rows]


async def test_a_change_outside_the_answer_is_refused(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, (0, 4)) as swarm:
        asking = client(swarm, allow=False)
        proof = (await asking.generate(prompt_ids=PROMPT_IDS, max_tokens=2)).proof
        who = asking.transport().identity
        for outside in (1, len(PROMPT_IDS), len(proof.token_ids) + 1):
            with pytest.raises(BadProof, match="class_from"):
                sign(replace(proof, class_from=outside, _file=b""), who)
        at_end = sign(replace(proof, class_from=len(proof.token_ids), _file=b""), who)
        assert read(at_end.file).class_from == len(proof.token_ids)


async def test_a_ring_of_unlike_machines_answers_and_goes_on_as_it_began(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, (0, 2), Residual.FP16) as swarm:
        await swarm.node((2, 4), Residual.FP16, engine="ggml")
        answer = await client(swarm, allow=False).generate(**OPTIONS)  # type: ignore[arg-type]
        assert [stage.numerics.partition("-")[0] for stage in answer.route] == ["torch", "ggml"]
        assert answer.class_changes == ()
        verdict = audit_offline(answer.proof, 1)
        assert (verdict.outcome, verdict.strength) == (Outcome.ACCEPTED, Strength.TOLERANCE)

        with pytest.raises(NoRoute) as lost:
            await killed(swarm, client(swarm, allow=False))
        assert lost.value.missing == ((2, 4),)
        await swarm.node((0, 4), Residual.FP16)  # whole, and of another class than the text's
        await swarm.node((2, 4), Residual.FP16, engine="ggml", row_seconds=0.5)
        resumed = await client(swarm, allow=False, patience=30.0).resume(lost.value)
        assert resumed.token_ids == answer.token_ids
        assert resumed.class_changes == ()
        assert resumed.route[1].node == swarm.nodes[-1].node_id
