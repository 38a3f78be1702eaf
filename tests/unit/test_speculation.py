"""Guesses change nothing: tokens, rows and proofs are those of plain decoding."""

from typing import Any

import numpy as np
import pytest

from hearthring.client.auditing import audit_offline
from hearthring.client.pace import Fixed
from hearthring.node.config import NodeHooks
from hearthring.protocol.errors import BadOption
from hearthring.shards.engine import Engine
from hearthring.shards.store import ModelEntry
from hearthring.shards.tokenizer import Tokenizer
from hearthring.verify.verdict import Outcome, Strength
from tests.drafts import Knowing
from tests.memory_ring import memory_swarm
from tests.schedules import CUTS, KINDS, PROMPT_IDS, Uneven, ask, death, same, schedules

SHORT = 6
"""Schedules of each kind; ``bench/schedules.py`` runs hundreds."""


@pytest.mark.parametrize("kind", KINDS)
async def test_no_schedule_changes_anything(tiny: ModelEntry, kind: str) -> None:
    place = 1000 * list(KINDS).index(kind)
    found = await schedules(tiny, kind, range(place, place + SHORT))
    tokens, trips = sum(g.tokens for g in found), sum(g.trips for g in found)
    assert tokens > 1.3 * trips, "guesses never came true"
    assert sum(g.guesses - g.hits for g in found) > tokens / 2, "no guess ever fell"
    assert sum(g.steps for g in found) > sum(g.trips for g in found)


@pytest.mark.parametrize("seed", range(3))
async def test_a_stage_that_dies_changes_nothing(tiny: ModelEntry, seed: int) -> None:
    await death(tiny, list(KINDS)[seed % 3], seed)


async def test_a_perfect_draft_costs_a_trip_for_many_tokens(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, CUTS) as swarm:
        client = swarm.client()
        plain = await ask(client, max_tokens=33)
        draft = Knowing(PROMPT_IDS + plain.token_ids, 1, hit=1.0, wide=0)
        answer = await ask(client, draft, Fixed(7), max_tokens=33)
    same(answer, plain)
    made = len(plain.token_ids)
    assert answer.guessing.trips == -(-(made - 1) // 8)
    assert answer.guessing.hits == made - answer.guessing.trips - 1
    verdict = audit_offline(answer.proof, 1)
    assert (verdict.outcome, verdict.strength) == (Outcome.ACCEPTED, Strength.BITS)


async def test_the_end_may_come_within_a_guess(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, CUTS) as swarm:
        client = swarm.client()
        long = await ask(client, max_tokens=30, temperature=1.0, seed=2)
        truth = PROMPT_IDS + long.token_ids
        stop = Tokenizer.from_gguf(tiny.open()).decode(long.token_ids)[9:12]
        for options in ({"max_tokens": 9}, {"max_tokens": 1}, {"max_tokens": 30, "stop": stop}):
            asked = {"temperature": 1.0, "seed": 2, **options}
            plain = await ask(client, **asked)
            for deep in (1, 3):
                draft = Knowing(truth, 1, hit=1.0, wide=0)
                same(await ask(client, draft, Fixed(5, deep), **asked), plain)
            assert 0 < len(plain.token_ids) < 30 or options["max_tokens"] == 30


async def test_an_end_of_sequence_may_come_within_a_guess(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, CUTS) as swarm:
        client = swarm.client()
        for seed in range(60):
            asked = {"max_tokens": 60, "temperature": 3.0, "seed": seed}
            plain = await ask(client, **asked)
            if plain.stop_reason == "eos":
                break
        draft = Knowing([*PROMPT_IDS, *plain.token_ids, 7, 7, 7, 7], 1, hit=1.0, wide=0)
        answer = await ask(client, draft, Fixed(4, 3), **asked)
    assert plain.stop_reason == "eos"
    same(answer, plain)


async def test_refuted_rows_are_cancelled_and_their_slots_come_back(tiny: ModelEntry) -> None:
    """A draft that is always wrong, far ahead: the stages' room for guesses must suffice."""
    engines = list[Uneven]()

    def watch(engine: Engine) -> Any:
        engines.append(Uneven(engine, np.random.default_rng(len(engines))))
        return engines[-1]

    hooks = {place: NodeHooks(engine=watch) for place in range(3)}
    async with memory_swarm(tiny, CUTS, hooks=hooks) as swarm:
        client = swarm.client(sharing="none")
        plain = await ask(client, max_tokens=16)
        before = engines[-1].rows
        draft = Knowing([3] * 400, 5, hit=1.0, wide=1)
        answer = await ask(client, draft, Fixed(8, 8), max_tokens=16)
    same(answer, plain)
    sent = len(PROMPT_IDS) + answer.guessing.guesses + len(plain.token_ids)
    assert answer.guessing.guesses > 20 * len(plain.token_ids)
    ran = engines[-1].rows - before
    assert len(PROMPT_IDS) + len(plain.token_ids) - 1 <= ran, "whose rows were these?"
    assert ran < 0.8 * sent, "the last stage ran what was refuted"


async def test_drafts_have_names(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, CUTS) as swarm:
        client = swarm.client()
        with pytest.raises(BadOption, match="auto, none, suffix"):
            await client.generate("x", draft="soothsayer")
        answer = await client.generate("the sky the sky the sky", draft="suffix", max_tokens=4)
        assert answer.guessing.draft == "suffix"
        assert answer.as_json()["speculation"]["draft"] == "suffix"
