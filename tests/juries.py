"""A ring with verifiers beside it, honest ones and such that say what they like."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hearthring.client.api import AsyncClient
from hearthring.client.auditing import OfflineJudge
from hearthring.node.config import NodeHooks
from hearthring.shards.store import ModelEntry
from hearthring.verify.proof import Proof
from hearthring.verify.verdict import Guilty, Outcome, Strength, Verdict, rejected
from tests.memory_ring import MemorySwarm, memory_swarm

CUTS = (0, 1, 3, 4)
WINDOWS = list(pairwise(CUTS))
PROMPT = {"prompt_ids": list(range(10, 50)), "max_tokens": 6}


@dataclass
class LyingJudge(OfflineJudge):
    """A verifier that says what it likes."""

    says: Callable[[Proof], Verdict]

    def whole(self, proof: Proof, model: Any, breathe: Any) -> tuple[Verdict, str]:
        return self.says(proof), "f" * 64


def slander(proof: Proof) -> Verdict:
    """The first stage lied, says who doesn't look."""
    stage = proof.stages[0]
    guilty = Guilty(stage.node, stage.start, stage.end)
    return rejected("it lied", guilty, strength=Strength.BITS)


def praise(proof: Proof) -> Verdict:
    """Nobody did."""
    return Verdict(Outcome.ACCEPTED, "fine", (), Strength.BITS)


@asynccontextmanager
async def audited(
    tiny: ModelEntry,
    hooks: dict[int, NodeHooks] | None = None,
    judges: Sequence[Any] = (None, None, None),
) -> AsyncIterator[tuple[MemorySwarm, AsyncClient, Proof]]:
    """A ring with verifiers that no route goes through, and a proof of it."""
    async with memory_swarm(tiny, CUTS, hooks=hooks) as swarm:
        for judge in judges:
            await swarm.node((0, 4), row_seconds=1.0, judge=judge)
        client = swarm.client()
        proof = (await client.generate(**PROMPT)).proof  # type: ignore[arg-type]
        assert len(proof.stages) == 3
        yield swarm, client, proof
