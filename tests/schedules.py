"""Speculation under random schedules: trees, steps at once, slow stages, a stage that dies."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from hearthring.client.answer import Answer, Guessing
from hearthring.client.api import AsyncClient
from hearthring.client.draft import Draft
from hearthring.client.pace import Pace
from hearthring.node.config import NodeHooks
from hearthring.protocol.tensors import F32
from hearthring.shards.engine import Engine, Segment
from hearthring.shards.store import ModelEntry
from hearthring.verify import receipts
from hearthring.verify.proof import StageProof
from tests.drafts import Knowing, Whim
from tests.memory_ring import MemoryNode, memory_swarm
from tests.wrapped import WrappedEngine

PROMPT_IDS = [int(x) for x in np.random.default_rng(3).integers(3, 280, 40)]
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 0.9, "top_k": 60, "top_p": 0.95, "seed": 5},
    "penalised": {"temperature": 0.7, "repetition_penalty": 1.3, "seed": 8},
}
CUTS = (0, 1, 3, 4)


@dataclass
class Uneven(WrappedEngine):
    """An engine that takes its time now and then, and may call out before its n-th batch."""

    random: np.random.Generator
    batch: int = 0
    burn: Callable[[], object] = lambda: None
    seen: int = 0
    rows: int = 0

    def before(self, segments: tuple[Segment, ...], states: F32) -> tuple[Segment, ...]:
        self.seen, self.rows = self.seen + 1, self.rows + len(states)
        if self.seen == self.batch:
            self.burn()
        if self.random.random() < 0.3:
            time.sleep(self.random.random() * 0.003)
        return segments


def uneven(seed: int) -> dict[int, NodeHooks]:
    """Hooks of stages that are slow at random."""

    def hooks(place: int) -> NodeHooks:
        draw = np.random.default_rng((seed, place))
        return NodeHooks(engine=lambda engine: Uneven(engine, draw))

    return {place: hooks(place) for place in range(len(CUTS) - 1)}


async def ask(
    client: AsyncClient, draft: Draft | None = None, pace: Pace | None = None, **options: Any
) -> Answer:
    """An answer with this draft and this pace; None: plain."""
    client.answering.pace = "auto" if pace is None else lambda: pace
    make = "none" if draft is None else lambda setting: draft
    async with asyncio.timeout(60):
        return await client.generate(prompt_ids=PROMPT_IDS, draft=make, **options)


def signed(stage: StageProof) -> tuple[object, ...]:
    """What a stage's receipt says of the rows."""
    assert stage.receipt is not None
    body = receipts.read(stage.receipt)
    return body.rows, body.in_roots, body.out_roots, body.digests


def same(answer: Answer, plain: Answer) -> None:
    """Tokens, text, and what the proof says of rows, bit for bit, from every stage."""
    assert answer.token_ids == plain.token_ids
    assert (answer.text, answer.stop_reason) == (plain.text, plain.stop_reason)
    mine, other = answer.proof, plain.proof
    assert (mine.in_roots, mine.out_roots) == (other.in_roots, other.out_roots)
    assert mine.digests == other.digests
    for got, expected in zip(mine.stages, other.stages, strict=True):
        assert signed(got) == signed(expected)


def whims(truth: Sequence[int], seed: int) -> tuple[Knowing, Whim]:
    """A draft and a pace of a seed."""
    return Knowing(truth, seed, hit=(0.3, 0.7, 0.95)[seed % 3]), Whim(seed)


async def schedules(
    entry: ModelEntry, kind: str, seeds: Sequence[int], tokens: int = 24
) -> list[Guessing]:
    """Answers under so many schedules, each compared with the plain one."""
    async with memory_swarm(entry, CUTS, hooks=uneven(seeds[0])) as swarm:
        # Without sharing: rows of earlier answers would be copied instead of computed.
        client = swarm.client(sharing="none")
        options = {"max_tokens": tokens, **KINDS[kind]}
        plain = await ask(client, **options)
        truth, found = PROMPT_IDS + plain.token_ids, list[Guessing]()
        for seed in seeds:
            answer = await ask(client, *whims(truth, seed), **options)
            same(answer, plain)
            found.append(answer.guessing)
        return found


async def death(entry: ModelEntry, kind: str, seed: int, tokens: int = 24) -> Guessing:
    """An answer during which a stage dies, at a moment drawn by the seed; a spare takes over."""
    draw = np.random.default_rng(seed)
    place, batch = int(draw.integers(0, len(CUTS) - 1)), int(draw.integers(2, 16))
    loop, dying = asyncio.get_running_loop(), list[asyncio.Task[None]]()
    nodes = list[MemoryNode]()
    async with memory_swarm(entry, ()) as swarm:

        def burn() -> None:
            dying.append(loop.create_task(swarm.kill(nodes[place])))

        for at, window in enumerate([*pairwise(CUTS), *pairwise(CUTS)]):
            fuse = batch if at == place else 0
            slow = np.random.default_rng((seed, at))

            def engine(honest: Engine, fuse: int = fuse, slow: Any = slow) -> Any:
                return Uneven(honest, slow, fuse, lambda: loop.call_soon_threadsafe(burn))

            hooks = NodeHooks(engine=engine)
            nodes.append(await swarm.node(window, hooks=hooks, row_seconds=0.001 * (1 + at)))
        options = {"max_tokens": tokens, **KINDS[kind]}
        client = swarm.client()
        async with memory_swarm(entry, CUTS) as calm:
            plain = await ask(calm.client(), **options)
        answer = await ask(client, *whims(PROMPT_IDS + plain.token_ids, seed), **options)
        await asyncio.gather(*dying)
        assert bool(dying) == bool(answer.timings.reroutes)
        same(answer, plain)
        return answer.guessing
