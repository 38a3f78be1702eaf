"""Rings whose stages die, lie or leave at a batch, a request to them, and what it must bring."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from hearthring.client.answer import Answer
from hearthring.client.auditing import audit_offline
from hearthring.node.config import NodeHooks
from hearthring.protocol.tensors import F32
from hearthring.shards.engine import Engine, Segment
from hearthring.shards.store import ModelEntry
from hearthring.verify.verdict import Outcome, Strength
from tests.memory_ring import MemoryNode, MemorySwarm, memory_swarm
from tests.wrapped import WrappedEngine

PROMPT_IDS = [int(x) for x in np.random.default_rng(8).integers(3, 280, 200)]
TOKENS = 10
OPTIONS = {"prompt_ids": PROMPT_IDS, "max_tokens": TOKENS, "temperature": 0.9, "seed": 4}
CUTS = (0, 1, 2, 4)
Wrap = Callable[[Engine], Engine]


@dataclass
class Fuse(WrappedEngine):
    """An engine that calls out before its n-th batch: that is where its node dies."""

    batch: int
    burn: Callable[[], None]
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    seen: int = 0

    def before(self, segments: tuple[Segment, ...], states: F32) -> tuple[Segment, ...]:
        self.seen += 1
        if self.seen == self.batch:
            self.loop.call_soon_threadsafe(self.burn)
        return segments


@dataclass
class Turncoat(WrappedEngine):
    """An engine that lies from its n-th batch on."""

    lies: int
    seen: int = 0

    def before(self, segments: tuple[Segment, ...], states: F32) -> tuple[Segment, ...]:
        self.seen += 1
        return segments

    def after(self, segments: tuple[Segment, ...], output: F32) -> F32:
        return output * np.float32(1.5) if self.seen >= self.lies else output


@dataclass
class Doomed:
    """A swarm some of whose nodes die by themselves."""

    swarm: MemorySwarm
    dying: list[asyncio.Task[None]] = field(default_factory=list)

    async def node(
        self, window: tuple[int, int], batch: int = 0, wrap: Wrap | None = None
    ) -> MemoryNode:
        """A node that dies when its engine gets its n-th batch; 0: never. Later ones are slower,
        so that they are spares. ``wrap`` is what its engine does besides."""
        slow = 0.001 * (1 + len(self.swarm.nodes))
        node: list[MemoryNode] = []

        def burn() -> None:
            self.dying.append(asyncio.create_task(self.swarm.kill(node[0])))

        hooks = NodeHooks(engine=lambda e: Fuse(wrap(e) if wrap else e, batch, burn))
        node.append(await self.swarm.node(window, hooks=hooks, row_seconds=slow))
        return node[0]


@asynccontextmanager
async def doomed(
    entry: ModelEntry, deaths: dict[int, int], wraps: Mapping[int, Wrap] | None = None
) -> AsyncIterator[Doomed]:
    """A ring whose stages die at their n-th batch, by place; ``wraps`` are around their
    engines."""
    async with memory_swarm(entry, ()) as swarm:
        found = Doomed(swarm)
        for place, window in enumerate(pairwise(CUTS)):
            await found.node(window, deaths.get(place, 0), (wraps or {}).get(place))
        yield found
        await asyncio.gather(*found.dying)


async def ask(swarm: MemorySwarm) -> Answer:
    """The answer to the one request."""
    async with asyncio.timeout(60):
        return await swarm.client().generate(**OPTIONS)  # type: ignore[arg-type]


def same(answer: Answer, undisturbed: Answer) -> None:
    """Every token, every row's bits, and a proof that holds."""
    assert answer.token_ids == undisturbed.token_ids
    assert answer.proof.out_roots == undisturbed.proof.out_roots
    verdict = audit_offline(answer.proof, 1)
    assert (verdict.outcome, verdict.strength) == (Outcome.ACCEPTED, Strength.BITS), verdict
