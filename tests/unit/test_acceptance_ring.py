"""Rules other than the default, in a ring: drawn answers, rows as ever, proofs that say so."""

from dataclasses import replace

import pytest

from hearthring.client.auditing import audit_offline
from hearthring.client.pace import Fixed
from hearthring.protocol.errors import BadOption
from hearthring.shards.store import ModelEntry
from hearthring.verify.proof import DRAFTED_RULES, SAMPLING_RULE, sign
from hearthring.verify.verdict import Outcome, Strength
from tests.drafts import Knowing
from tests.memory_ring import memory_swarm
from tests.schedules import CUTS, PROMPT_IDS, ask


@pytest.mark.parametrize("name", DRAFTED_RULES)
async def test_a_drawn_answer_is_proven_but_for_its_choices(tiny: ModelEntry, name: str) -> None:
    options = {"temperature": 0.7, "seed": 3, "max_tokens": 24}
    async with memory_swarm(tiny, CUTS) as swarm:
        client = swarm.client()
        plain = await ask(client, **options)
        draft = Knowing(PROMPT_IDS + plain.token_ids, 1, hit=0.9, wide=0)
        answer = await ask(client, draft, Fixed(3), acceptance=name, **options)
    assert answer.token_ids != plain.token_ids
    assert answer.guessing.guesses > 0
    assert answer.proof is not None
    assert answer.proof.sampling_rule == DRAFTED_RULES[name]
    verdict = audit_offline(answer.proof, 1)
    assert (verdict.outcome, verdict.strength) == (Outcome.ACCEPTED, Strength.BITS)
    assert verdict.figures["tokens_replayed"] is False
    assert verdict.figures["tokens_different"] > 0


async def test_choices_are_held_to_the_rule_that_the_proof_names(tiny: ModelEntry) -> None:
    """Drawn tokens under the default's name are wrong; so are any that no draft leads to."""
    async with memory_swarm(tiny, CUTS) as swarm:
        client = swarm.client()
        answer = await ask(client, temperature=0.7, seed=3, max_tokens=12, acceptance="leviathan")
        me = client.transport().identity
    assert answer.proof is not None
    claimed = sign(replace(answer.proof, sampling_rule=SAMPLING_RULE), me)
    verdict = audit_offline(claimed, 1)
    assert verdict.outcome is Outcome.REJECTED
    assert "the client chose it" in verdict.reason
    narrow = sign(replace(answer.proof, sampling=replace(answer.proof.sampling, top_k=1)), me)
    verdict = audit_offline(narrow, 1)
    assert verdict.outcome is Outcome.REJECTED
    assert "the client chose it" in verdict.reason


async def test_at_temperature_zero_all_rules_are_one(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, CUTS) as swarm:
        client = swarm.client()
        plain = await ask(client, max_tokens=16)
        for name in DRAFTED_RULES:
            draft = Knowing(PROMPT_IDS + plain.token_ids, 1, hit=0.8, wide=1)
            answer = await ask(client, draft, Fixed(3), acceptance=name, max_tokens=16)
            assert answer.token_ids == plain.token_ids
            assert answer.proof is not None
            assert answer.proof.sampling_rule == SAMPLING_RULE
        with pytest.raises(BadOption, match="gumbel, leviathan"):
            await ask(client, acceptance="lossy")
