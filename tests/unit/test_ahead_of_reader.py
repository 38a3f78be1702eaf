"""The next row is under way while a token is read; of a row that nobody wants nothing stays."""

import asyncio

import pytest

from hearthring.client.generation import Generation
from hearthring.node.config import NodeHooks
from hearthring.protocol.tensors import F32
from hearthring.shards.engine import Engine, Kind, Segment
from hearthring.shards.store import ModelEntry
from tests.memory_ring import memory_swarm
from tests.schedules import PROMPT_IDS
from tests.wrapped import WrappedEngine


class Counting(WrappedEngine):
    """Notes that a generated row has run."""

    def __init__(self, honest: Engine) -> None:
        super().__init__(honest)
        self.generated, self._loop = asyncio.Semaphore(0), asyncio.get_running_loop()

    def after(self, segments: tuple[Segment, ...], output: F32) -> F32:
        if any(row.kind is Kind.GENERATED for segment in segments for row in segment.rows):
            self._loop.call_soon_threadsafe(self.generated.release)
        return output


async def test_a_row_leaves_before_its_token_is_read(tiny: ModelEntry) -> None:
    engines = list[Counting]()

    def watch(engine: Engine) -> Engine:
        engines.append(Counting(engine))
        return engines[-1]

    async with memory_swarm(tiny, (0, 4), hooks={0: NodeHooks(engine=watch)}) as swarm:
        whole = await swarm.client().generate(prompt_ids=PROMPT_IDS, max_tokens=5)
        engines[-1].generated = asyncio.Semaphore(0)
        # Of another client: rows that are known from a session of its own wouldn't run.
        stream = swarm.client().stream(prompt_ids=PROMPT_IDS, max_tokens=5)
        read = list[int | None]()
        async for piece in stream:
            read.append(piece.token_id)
            if len(read) < 5:  # the last token needs no row
                async with asyncio.timeout(30):
                    await engines[-1].generated.acquire()
        assert engines[-1].generated.locked()
    assert read == whole.token_ids
    assert stream.answer.proof.out_roots == whole.proof.out_roots


async def test_who_stops_at_a_token_leaves_no_row_for_it(
    tiny: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[Generation]()
    prefill = Generation.prefill

    async def noted(generation: Generation) -> None:
        seen.append(generation)
        await prefill(generation)

    monkeypatch.setattr(Generation, "prefill", noted)
    async with memory_swarm(tiny, (0, 2, 4)) as swarm:
        pieces = aiter(swarm.client().stream(prompt_ids=PROMPT_IDS, max_tokens=9))
        for _ in range(3):
            await anext(pieces)
        await pieces.aclose()  # type: ignore[attr-defined]
    (generation,) = seen
    rows = [row.id for row in generation.rows]
    assert generation.made == 3
    assert len(rows) == len(PROMPT_IDS) + 2 == len(generation.final)
    assert set(generation.uncommitted) <= set(rows)
    assert not set(generation.ring.flight.undecided()) - set(rows)
