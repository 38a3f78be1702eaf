"""Proofs of a tiny ring of three stages, of which one may lie."""

from hearthring.client.replacement import PATIENCE
from hearthring.shards.store import ModelEntry
from hearthring.verify.proof import Proof
from tests.liar import hooks_for
from tests.memory_ring import memory_swarm

PROMPT_IDS = list(range(10, 60))
CUTS = (0, 1, 3, 4)


async def prove(
    tiny: ModelEntry,
    fault: str = "",
    place: int = 1,
    patience: float = PATIENCE,
    **options: object,
) -> Proof:
    """The proof of an answer; ``fault`` is that of the stage at ``place``."""
    hooks = {place: hooks_for(fault, (1, 3))} if fault else None
    async with memory_swarm(tiny, CUTS, hooks=hooks) as swarm:
        options = {"prompt_ids": PROMPT_IDS, "max_tokens": 20} | options
        return (await swarm.client(patience=patience).generate(**options)).proof  # type: ignore[arg-type]
