"""A newcomer with an invitation and nothing else: it serves and asks what it fetched from peers."""

import asyncio
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from hearthring import Client, Outcome, Proof
from hearthring.client.auditing import audit_offline
from hearthring.processes import NodeProcess
from hearthring.protocol.tensors import Residual
from hearthring.shards.parts import ENDS, size_of, window_parts
from hearthring.shards.store import ModelEntry, ModelStore
from tests.memory_ring import MemorySwarm

pytestmark = [pytest.mark.swarm, pytest.mark.model]
PROMPT = "The capital of France is"


def disk(store: Path) -> int:
    """Bytes of every file of a store but its timings."""
    files = (path for path in store.rglob("*") if path.is_file() and "timings" not in path.parts)
    return sum(path.stat().st_size for path in files)


async def whole(entry: ModelEntry) -> list[int]:
    """What one engine with the whole file answers."""
    async with AsyncExitStack() as stack:
        swarm = MemorySwarm(entry, stack)
        await swarm.node((0, 30), Residual.BF16, engine="ggml")
        return (await swarm.client().generate(PROMPT, max_tokens=12)).token_ids


def test_layers_come_from_the_swarm(
    smollm2: ModelEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes: list[NodeProcess] = []

    def start(window: str, *flags: str) -> str:
        common = ["--listen", "127.0.0.1:0", "--threads", "1", "--engine", "ggml"]
        common += ["--residual", "bf16", "--data", str(tmp_path / window)]
        nodes.append(NodeProcess(window, ["--layers", window, *common, *flags]))
        return nodes[-1].ready()

    expected = asyncio.run(whole(smollm2))
    try:
        seed = start("0:15")
        newcomer, asker = tmp_path / "newcomer", tmp_path / "asker"
        monkeypatch.setenv("HEARTHRING_MODELS", str(newcomer))
        invitation = start("15:30", "--join", seed)
        entry = ModelStore(newcomer).find(smollm2.model_id)
        assert (entry.name, entry.parts.here()) == ("smollm2", window_parts(15, 30))
        wanted = sum(size_of(smollm2.manifest, part) or 0 for part in window_parts(15, 30))
        assert wanted < disk(newcomer) < wanted + 100_000

        monkeypatch.setenv("HEARTHRING_MODELS", str(asker))
        with Client([invitation], threads=1) as client:
            answer = client.generate(PROMPT, max_tokens=12)
            assert client.model_entry().parts.here() == ENDS
        assert [(s.start, s.end) for s in answer.route] == [(0, 15), (15, 30)]
        assert answer.token_ids == expected
        # The audit needs every layer: what the client lacks it fetches, and once.
        path = answer.proof.save(tmp_path / "x.proof")
        verdict = audit_offline(Proof.load(path), 1)
        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert "layers 0-29 of smollm2 aren't on this machine" in verdict.reason
        audit = [sys.executable, "-m", "hearthring", "audit", str(path), "--join", invitation]
        done = subprocess.run(audit, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        assert ModelStore(asker).find(smollm2.model_id).missing(window_parts(0, 30)) == ()
    finally:
        for node in nodes:
            node.stop()
