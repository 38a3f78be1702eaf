"""A client of quantised models runs without torch, from its prompt to its audited proof."""

import subprocess
import sys

from tests.tiny import write_tiny_gguf

ASK = """
import asyncio, sys
from contextlib import AsyncExitStack
import hearthring.asking, hearthring.cli
from hearthring.client.auditing import audit_offline
from hearthring.client.sync import Client
from hearthring.protocol.tensors import Residual
from hearthring.shards.store import ModelStore
from tests.memory_ring import MemorySwarm

async def ask():
    async with AsyncExitStack() as stack:
        swarm = MemorySwarm(ModelStore().find(sys.argv[1]), stack)
        await swarm.node((0, 4), Residual.BF16, engine="ggml")
        return await swarm.client().generate("The sky", max_tokens=4)

answer = asyncio.run(ask())
verdict = audit_offline(answer.proof, 1)
print(len(answer.token_ids), verdict.outcome.value, verdict.strength.value)
print(sorted({"torch", "hivemind", "transformers"} & set(sys.modules)))
"""


def test_a_client_of_quantised_models_imports_no_torch(tmp_path, monkeypatch):
    monkeypatch.setenv("HEARTHRING_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    model = write_tiny_gguf(tmp_path / "q.gguf", quant="Q8_0")
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(model)], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == ["4 accepted bits", "[]"], done.stderr
