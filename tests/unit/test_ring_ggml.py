"""Rings of the ggml engine: as invariant, and as auditable, as the reference."""

from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path

import pytest

from hearthring.client.answer import Answer
from hearthring.client.auditing import audit_offline
from hearthring.node.config import NodeHooks
from hearthring.protocol.errors import EngineUnavailable
from hearthring.protocol.tensors import Residual
from hearthring.shards.engines import EngineFallback
from hearthring.shards.store import ModelEntry, ModelStore
from hearthring.verify.verdict import Guilty, Outcome, Strength
from tests.liar import hooks_for
from tests.memory_ring import MemorySwarm
from tests.tiny import write_tiny_gguf

PROMPT_IDS = list(range(10, 90))


@pytest.fixture
def quantised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelEntry:
    monkeypatch.setenv("HEARTHRING_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return ModelStore().find(str(write_tiny_gguf(tmp_path / "q.gguf", quant="Q4_1")))


async def answer(
    entry: ModelEntry, cuts: tuple[int, ...], hooks: dict[int, NodeHooks] | None = None
) -> Answer:
    async with AsyncExitStack() as stack:
        swarm = MemorySwarm(entry, stack)
        for place, window in enumerate(pairwise(cuts)):
            await swarm.node(window, Residual.BF16, (hooks or {}).get(place), engine="ggml")
        return await swarm.client().generate(
            prompt_ids=PROMPT_IDS, max_tokens=20, temperature=0.8, seed=1
        )


async def test_windows_change_nothing_and_audits_compare_bits(quantised: ModelEntry) -> None:
    whole = await answer(quantised, (0, 4))
    ring = await answer(quantised, (0, 1, 3, 4))
    assert ring.token_ids == whole.token_ids
    assert ring.proof.out_roots == whole.proof.out_roots
    assert ring.route[0].numerics.startswith("ggml-")
    verdict = audit_offline(ring.proof, 1)
    assert (verdict.outcome, verdict.strength) == (Outcome.ACCEPTED, Strength.BITS)


FAULTS = ["noise:0.02", "stale-kv", "flip-sign", "skip-layer", "swap-layer", "other-weights:6"]


@pytest.mark.parametrize("fault", FAULTS)
async def test_liars_are_named(quantised: ModelEntry, fault: str) -> None:
    lied = await answer(quantised, (0, 1, 3, 4), {1: hooks_for(fault, (1, 3))})
    verdict = audit_offline(lied.proof, 1)
    assert verdict.outcome is Outcome.REJECTED
    assert verdict.guilty == (Guilty(lied.route[1].node, 1, 3),)


async def test_without_ggml_a_client_says_which_class_it_has_instead(
    quantised: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise EngineUnavailable("there is no library", field="engine")

    monkeypatch.setattr("hearthring.shards.ggml_ends.load_ggml", missing)
    with pytest.warns(EngineFallback, match=r"no library; class torch-.*/bf16") as seen:
        answered = await answer(quantised, (0, 4))
    assert len([one for one in seen if one.category is EngineFallback]) == 1
    assert len(answered.token_ids) == 20
