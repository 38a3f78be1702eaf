"""A client's audits: with own weights, by opened cells, or by verifiers of the swarm.

What they show of nodes goes into the user's memory of nodes, if there is one.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from hearthring.client.auditing import audit_offline
from hearthring.client.cell_audit import audit_by_cells
from hearthring.client.depths import CELLS, check_depth
from hearthring.client.seeds import find_records
from hearthring.client.swarm import Swarm
from hearthring.client.swarm_audit import SwarmAudit
from hearthring.protocol.errors import ModelNotHere, SeedUnreachable, UnknownModel
from hearthring.protocol.records import NodeRecord
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.joining import find_model, obtain
from hearthring.shards.parts import replay_parts, window_parts
from hearthring.shards.store import ModelEntry, ModelStore
from hearthring.verify.evidence_store import Reputation
from hearthring.verify.proof import Proof
from hearthring.verify.reputation import Evidence
from hearthring.verify.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Audits:
    """Audits on behalf of one client, whose ``thread`` replays."""

    swarm: Swarm
    thread: Executor

    async def audit(self, proof: Proof, verifiers: int | None, depth: str) -> Verdict:
        """As ``AsyncClient.audit``; the user's memory of nodes learns from it."""
        memory = self.swarm.reputation
        check_depth(depth, verifiers, bool(self.swarm.config.join))
        if verifiers is not None:
            verdict = await self._by_swarm(proof, verifiers, depth)
        elif depth == CELLS:
            verdict = await self._by_cells(proof)
        else:
            verdict = await self._offline(proof)
        if isinstance(memory, Reputation):
            own = proof.client == self.swarm.transport().identity.node_id
            await asyncio.to_thread(memory.learn, proof, verdict, own)
        return verdict

    async def _offline(self, proof: Proof) -> Verdict:
        opened = None
        if self.swarm.config.join:
            # Without them the verdict says what is missing.
            with contextlib.suppress(UnknownModel, ModelNotHere, SeedUnreachable):
                entry = await self._entry(proof)
                opened = await self._obtain(entry, replay_parts(entry.manifest))
        return await asyncio.get_running_loop().run_in_executor(
            self.thread,
            audit_offline,
            proof,
            self.swarm.config.threads,
            self.swarm.progress,
            opened,
        )

    async def _by_cells(self, proof: Proof) -> Verdict:
        swarm, records = self.swarm, await self._records(proof)
        entry = await self._entry(proof)
        gguf = await self._obtain(entry, window_parts(0, entry.manifest.shape.layers))
        threads = swarm.config.threads
        return await audit_by_cells(
            swarm.transport(), records, proof, gguf, threads, swarm.progress
        )

    async def _by_swarm(self, proof: Proof, verifiers: int, depth: str) -> Verdict:
        transport, progress = self.swarm.transport(), self.swarm.progress
        records = await self._records(proof)
        layers = (await self._entry(proof)).manifest.shape.layers
        return await SwarmAudit(transport, records, proof, layers, verifiers, progress, depth).run()

    async def _records(self, proof: Proof) -> list[NodeRecord]:
        """Those of the proof's model, which may be another than the client's."""
        swarm = self.swarm
        _, found = await find_records(
            swarm.transport(), swarm.config.join, swarm.book, proof.model_id
        )
        return found

    async def _entry(self, proof: Proof) -> ModelEntry:
        transport, join = self.swarm.transport(), self.swarm.config.join
        return await find_model(transport, join, proof.model_id, ModelStore())

    async def _obtain(self, entry: ModelEntry, parts: Sequence[str]) -> GgufFile:
        swarm = self.swarm
        return await obtain(swarm.transport(), swarm.config.join, entry, parts, swarm.progress)


async def remember(memory: Callable[[str], float] | None, lessons: Sequence[Evidence]) -> None:
    """Add to the user's memory of nodes, if that is what it is."""
    if lessons and isinstance(memory, Reputation):
        await asyncio.to_thread(memory.add, lessons)
