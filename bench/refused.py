"""Cheats that never get as far as a proof: whoever is sent such rows refuses them.

A ring of three stages of a tiny model, in one process; the liar's place changes from run to run. A
spare node takes it over, so the answer comes all the same: it must be the honest one, and the liar
must have no part in it.
"""

import asyncio
import tempfile
from itertools import pairwise
from pathlib import Path

from hearthring.protocol.tensors import Residual
from hearthring.shards.store import ModelEntry, ModelStore
from tests.liar import hooks_for
from tests.memory_ring import memory_swarm
from tests.tiny import write_tiny_gguf

CUTS = (0, 1, 3, 4)
FAULTS = {
    "values that aren't finite": "nan",
    "rows signed for another epoch": "wrong-epoch",
    "rows signed as of another class than was announced": "wrong-class",
}


def refused(runs: int) -> dict[str, int]:
    """Of so many runs of each fault, those in which the liar was left and the answer was true."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_tiny_gguf(Path(folder) / "tiny.gguf")
        entry = ModelStore(Path(folder) / "models").find(str(path))
        return {
            name: sum(asyncio.run(_left(entry, fault, run)) for run in range(runs))
            for name, fault in FAULTS.items()
        }


async def _left(entry: ModelEntry, fault: str, run: int) -> bool:
    place = run % 3
    prompt = list(range(10 + run, 50 + run))
    hooks = {place: hooks_for(fault, list(pairwise(CUTS))[place])}
    async with memory_swarm(entry, (0, 4), Residual.FP16) as swarm:
        honest = await swarm.client().generate(prompt_ids=prompt, max_tokens=4)
    async with memory_swarm(entry, CUTS, Residual.FP16, hooks) as swarm:
        await swarm.node((0, 4), Residual.FP16, row_seconds=1.0)
        answer = await swarm.client(patience=5.0).generate(prompt_ids=prompt, max_tokens=4)
        part = {stage.node for stage in answer.route}
        return answer.token_ids == honest.token_ids and swarm.nodes[place].node_id not in part
