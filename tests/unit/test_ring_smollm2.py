"""The real model round rings of one process: how the layers are cut changes nothing."""

import pytest

from hearthring.protocol.tensors import Residual
from hearthring.shards.store import ModelEntry
from tests.memory_ring import memory_swarm
from tests.reference import PROMPTS

pytestmark = pytest.mark.model


@pytest.mark.parametrize("residual", list(Residual))
async def test_stages_change_nothing(residual: Residual, smollm2: ModelEntry) -> None:
    seen = set()
    for cuts in ((0, 30), (0, 2, 19, 30)):
        async with memory_swarm(smollm2, cuts, residual) as swarm:
            client = swarm.client()
            plain = await client.generate(PROMPTS["chat"], max_tokens=6)
            drawn = await client.generate(
                PROMPTS["chat"], max_tokens=6, temperature=0.8, top_p=0.95, seed=11
            )
            assert len(plain.route) == len(cuts) - 1
            roots = plain.proof.out_roots, drawn.proof.out_roots
            seen.add((*plain.token_ids, -1, *drawn.token_ids, roots))
    assert len(seen) == 1
