"""The head of rows whose signature is checked meanwhile: the same tokens, with no pass more."""

import time
from math import inf
from typing import Any

import pytest

from hearthring.client import generation
from hearthring.client.branches import Branches
from hearthring.client.generation import Generation
from hearthring.client.heads import Heads
from hearthring.client.pace import Fixed
from hearthring.protocol.tensors import F32
from hearthring.shards.store import ModelEntry
from hearthring.shards.torch_ends import TorchEnds
from tests.drafts import Knowing
from tests.memory_ring import memory_swarm
from tests.schedules import CUTS, PROMPT_IDS, ask, same


async def test_tokens_are_the_same_and_each_took_one_pass(
    tiny: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, passes = list[int](), list[int]()
    begin, logits = Heads.begin, TorchEnds.logits

    def noted(heads: Heads, ends: Any, states: F32) -> None:
        begun.append(len(states))
        begin(heads, ends, states)

    def counted(ends: TorchEnds, normed: F32) -> F32:
        passes.append(1)
        return logits(ends, normed)

    monkeypatch.setattr(Heads, "begin", noted)
    monkeypatch.setattr(TorchEnds, "logits", counted)
    monkeypatch.setattr(generation, "LONG", inf)
    async with memory_swarm(tiny, CUTS) as swarm:
        client = swarm.client()
        plain = await ask(client, max_tokens=12)
        assert not begun  # the head is over too soon
        taken = len(passes)
        monkeypatch.setattr(generation, "LONG", 0.0)
        again = await ask(client, max_tokens=12)
        assert begun == [1] * 11  # all but the one that the prompt ends in
        assert len(passes) - taken == 12
        draft = Knowing(PROMPT_IDS + plain.token_ids, 1, hit=1.0, wide=0)
        guessed = await ask(client, draft, Fixed(3), max_tokens=12)
    same(again, plain)
    same(guessed, plain)
    assert max(begun) > 1  # the row that was chosen, and what is likely to follow


async def test_the_tree_is_the_threads_own_while_it_decides(
    tiny: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results come meanwhile: they are taken as they are, without a look at what grows."""
    deciding, asked, looked = list[int](), list[int](), list[int]()
    decide, early, look = Generation._decide, Generation._early, Branches.early

    def slowly(*arguments: Any) -> Any:
        deciding.append(1)
        decided = decide(*arguments)
        time.sleep(0.02)
        deciding.pop()
        return decided

    def asking(*arguments: Any) -> bool:
        asked.extend(deciding)
        return early(*arguments)

    def looking(*arguments: Any) -> list[F32]:
        looked.extend(deciding)
        return look(*arguments)

    monkeypatch.setattr(Generation, "_decide", slowly)
    monkeypatch.setattr(Generation, "_early", asking)
    monkeypatch.setattr(Branches, "early", looking)
    monkeypatch.setattr(generation, "LONG", 0.0)
    async with memory_swarm(tiny, CUTS) as swarm:
        client = swarm.client()
        plain = await ask(client, max_tokens=12)
        draft = Knowing(PROMPT_IDS + plain.token_ids, 1, hit=1.0, wide=0)
        guessed = await ask(client, draft, Fixed(1, 4), max_tokens=12)
    same(guessed, plain)
    assert asked
    assert not looked
