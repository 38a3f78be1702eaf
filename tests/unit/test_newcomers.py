"""Newcomers to a swarm that have no file, or only a part of it."""

import json
from pathlib import Path

import pytest

from hearthring.client.api import AsyncClient
from hearthring.client.auditing import audit_offline
from hearthring.node import provider
from hearthring.protocol.errors import (
    DiskFull,
    ModelNotHere,
    SeedUnreachable,
    UnknownModel,
)
from hearthring.protocol.layers import ManifestReply
from hearthring.protocol.memory import MemoryTransport
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.joining import find_model, obtain
from hearthring.shards.parts import (
    ENDS,
    all_parts,
)
from hearthring.shards.store import ModelEntry, ModelStore
from hearthring.verify.verdict import Outcome
from tests.memory_ring import MemorySwarm, memory_swarm

PROMPT_IDS = list(range(3, 40))


async def newcomer(swarm: MemorySwarm, store: ModelStore, *wanted: str) -> GgufFile:
    """Join by the first node's invitation, with nothing in the store, and fetch parts."""
    seeds = [swarm.nodes[0].invitation]
    transport = MemoryTransport(swarm.network)
    entry = await find_model(transport, seeds, None, store)
    return await obtain(transport, seeds, entry, wanted)


async def test_a_client_with_nothing_asks_and_audits(
    tiny: ModelEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_swarm(tiny, (0, 2, 4)) as swarm:
        known = await swarm.client().generate(prompt_ids=PROMPT_IDS, max_tokens=8)
        monkeypatch.setenv("HEARTHRING_MODELS", str(tmp_path / "empty"))
        transport = MemoryTransport(swarm.network)
        client = AsyncClient([swarm.nodes[1].invitation], threads=1, transport=transport)
        answer = await client.generate(prompt_ids=PROMPT_IDS, max_tokens=8)
        assert answer.token_ids == known.token_ids
        entry = await client.model_entry()
        assert entry.parts.here() == ENDS
        verdict = audit_offline(answer.proof, 1)
        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert "layers 0-3" in verdict.reason
        assert "--join" in verdict.reason
        assert (await client.audit(answer.proof)).outcome is Outcome.ACCEPTED
        assert entry.missing(all_parts(tiny.manifest)) == ()
        await client.close()


async def test_names_are_the_seeds_and_ids_are_checked(tiny: ModelEntry, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "empty")
    async with memory_swarm(tiny, (0, 4)) as swarm:
        seeds = [swarm.nodes[0].invitation]
        transport = MemoryTransport(swarm.network)
        by_id = await find_model(transport, seeds, tiny.model_id[:12], store)
        assert by_id.manifest == tiny.manifest
        assert await find_model(transport, seeds, None, store) == by_id
        with pytest.raises(UnknownModel):
            await find_model(transport, seeds, "another", store)
        with pytest.raises(ModelNotHere, match=r"layer 2 of tiny 0 isn't.*--join"):
            await obtain(transport, [], by_id, ("layer2",))
    with pytest.raises(SeedUnreachable):
        await find_model(transport, seeds, None, ModelStore(tmp_path / "third"))


async def test_a_forged_manifest_is_refused(
    tiny: ModelEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = json.loads(tiny.manifest.to_json()) | {"name": "evil"}
    text = json.dumps(other, sort_keys=True, separators=(",", ":"))
    async with memory_swarm(tiny, (0, 4)) as swarm:
        forged = ManifestReply(text.encode())
        monkeypatch.setattr(provider, "ManifestReply", lambda data: forged)
        with pytest.raises(ModelNotHere, match="manifest isn't that of the model id"):
            await newcomer(swarm, ModelStore(tmp_path / "empty"))
    assert ModelStore(tmp_path / "empty").list() == []


async def test_a_budget_that_is_too_small_is_said_before_anything_is_fetched(
    tiny: ModelEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEARTHRING_DISK", "1KB")
    async with memory_swarm(tiny, (0, 4)) as swarm:
        with pytest.raises(DiskFull, match="HEARTHRING_DISK"):
            await newcomer(swarm, ModelStore(tmp_path / "empty"), "layer0")
        monkeypatch.setenv("HEARTHRING_DISK", "1MB")
        opened = await newcomer(swarm, ModelStore(tmp_path / "empty"), "layer0")
    assert (
        opened.dequantised("blk.0.attn_q.weight") == tiny.open().dequantised("blk.0.attn_q.weight")
    ).all()
