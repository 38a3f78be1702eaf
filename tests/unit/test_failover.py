"""Stages die at every phase of an answer: a moment is lost, and not a token."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest

from hearthring.client import recovery
from hearthring.client.answer import Answer
from hearthring.client.auditing import audit_offline
from hearthring.client.places import Places
from hearthring.client.replacement import AVOID_SECONDS
from hearthring.client.swarm import Swarm
from hearthring.node.config import NodeHooks
from hearthring.protocol.errors import StageFailed
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.records import NodeRecord
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
class Doomed:
    """A swarm some of whose nodes die by themselves."""

    swarm: MemorySwarm
    dying: list[asyncio.Task[None]] = field(default_factory=list)

    async def node(
        self, window: tuple[int, int], batch: int = 0, wrap: Wrap | None = None
    ) -> MemoryNode:
        """A node that dies when its engine gets its n-th batch; 0: never. Later ones are slower,
        so that they are spares. ``wrap`` makes another engine of its own."""
        slow = 0.001 * (1 + len(self.swarm.nodes))
        node: list[MemoryNode] = []

        def burn() -> None:
            self.dying.append(asyncio.create_task(self.swarm.kill(node[0])))

        hooks = NodeHooks(engine=wrap or (lambda e: Fuse(e, batch, burn)))
        node.append(await self.swarm.node(window, hooks=hooks, row_seconds=slow))
        return node[0]


@asynccontextmanager
async def doomed(
    entry: ModelEntry, deaths: dict[int, int], wraps: Mapping[int, Wrap] | None = None
) -> AsyncIterator[Doomed]:
    """A ring whose stages die at their n-th batch, by place; ``wraps`` are their engines."""
    async with memory_swarm(entry, ()) as swarm:
        found = Doomed(swarm)
        for place, window in enumerate(pairwise(CUTS)):
            await found.node(window, deaths.get(place, 0), (wraps or {}).get(place))
        yield found
        await asyncio.gather(*found.dying)


async def ask(swarm: MemorySwarm) -> Answer:
    async with asyncio.timeout(60):
        return await swarm.client().generate(**OPTIONS)  # type: ignore[arg-type]


_KNOWN: list[Answer] = []


@pytest.fixture
async def undisturbed(tiny: ModelEntry) -> Answer:
    """The answer of a ring that nothing happens to; asked for once, since it is always the same."""
    if not _KNOWN:
        async with memory_swarm(tiny, CUTS) as swarm:
            _KNOWN.append(await ask(swarm))
    return _KNOWN[0]


def same(answer: Answer, undisturbed: Answer) -> None:
    """Every token, every row's bits, and a proof that holds."""
    assert answer.token_ids == undisturbed.token_ids
    assert answer.proof.out_roots == undisturbed.proof.out_roots
    verdict = audit_offline(answer.proof, 1)
    assert (verdict.outcome, verdict.strength) == (Outcome.ACCEPTED, Strength.BITS), verdict


PHASES = {"first chunk": 1, "third chunk": 3, "first token": 5, "fifth token": 9}


@pytest.mark.parametrize("batch", PHASES.values(), ids=PHASES)
@pytest.mark.parametrize("place", range(3))
async def test_a_killed_stage_costs_no_token(
    tiny: ModelEntry, undisturbed: Answer, place: int, batch: int
) -> None:
    async with doomed(tiny, {place: batch}) as swarm:
        spare = await swarm.node((CUTS[place], CUTS[place + 1]))
        answer = await ask(swarm.swarm)
        assert answer.route[place].node == spare.node_id
        lost = swarm.swarm.nodes[place].node_id
        assert [r.nodes for r in answer.timings.reroutes] == [(lost,)]
    same(answer, undisturbed)


async def test_several_stages_at_once_and_all_of_them(
    tiny: ModelEntry, undisturbed: Answer
) -> None:
    for deaths in ({0: 6, 2: 6}, {0: 6, 1: 6}, {0: 2, 1: 2, 2: 2}):
        async with doomed(tiny, deaths) as swarm:
            for place in deaths:
                await swarm.node((CUTS[place], CUTS[place + 1]))
            answer = await ask(swarm.swarm)
            assert len(swarm.dying) == len(deaths)
        same(answer, undisturbed)


async def test_the_only_stage_and_its_replacement(tiny: ModelEntry, undisturbed: Answer) -> None:
    async with doomed(tiny, {}) as swarm:
        swarm.swarm.nodes[0], first = (await swarm.node((0, 4), 7)), swarm.swarm.nodes[0]
        swarm.swarm.nodes.append(first)
        answer = await ask(swarm.swarm)
    same(answer, undisturbed)


async def test_a_replacement_that_dies_while_rows_are_replayed(
    tiny: ModelEntry, undisturbed: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one is known already: nobody waits for the directory."""
    look, asked = Swarm.look, list[bool]()

    async def noted(self: Swarm, again: bool) -> list[NodeRecord]:
        asked.append(again)
        return await look(self, again)

    monkeypatch.setattr(Swarm, "look", noted)
    async with doomed(tiny, {1: 7}) as swarm:
        dying = await swarm.node((1, 2), 1)
        last = await swarm.node((1, 2))
        answer = await ask(swarm.swarm)
        assert asked == [False, False]
        assert dying.node_id in answer.timings.reroutes[0].nodes
        assert answer.route[1].node == last.node_id
    same(answer, undisturbed)


@pytest.mark.parametrize("place", range(3))
async def test_a_replacement_that_opened_in_vain_gets_its_rows_all_the_same(
    tiny: ModelEntry, undisturbed: Answer, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first attempt is cut short when its new stage has opened and has no row yet."""
    link_first, failures = Places.link_first, list[int]()

    async def fail_once(self: Places) -> None:
        if self.ring.epoch and not failures:
            failures.append(self.ring.epoch)
            raise StageFailed("not now", field="stage")
        await link_first(self)

    monkeypatch.setattr(Places, "link_first", fail_once)
    async with doomed(tiny, {place: 7}) as swarm:
        spare = await swarm.node((CUTS[place], CUTS[place + 1]))
        answer = await ask(swarm.swarm)
        assert failures
        assert answer.route[place].node == spare.node_id
        lost = swarm.swarm.nodes[place].node_id
        assert [r.nodes for r in answer.timings.reroutes] == [(lost,)]
    same(answer, undisturbed)


async def test_a_stage_that_leaves_hands_over_first(tiny: ModelEntry, undisturbed: Answer) -> None:
    async with doomed(tiny, {}) as swarm:
        leaving, spare = swarm.swarm.nodes[1], await swarm.node((1, 2))
        stream = swarm.swarm.client().stream(**OPTIONS)  # type: ignore[arg-type]
        pieces = aiter(stream)
        for _ in range(3):
            await anext(pieces)
        draining = asyncio.create_task(leaving.stage.drain(20.0))
        async for _ in pieces:
            pass
        await draining
        assert leaving.stage.sessions == 0
        assert stream.answer.route[1].node == spare.node_id
        assert "leaving" in stream.answer.timings.reroutes[0].reason
    same(stream.answer, undisturbed)


async def test_a_leaving_stage_that_nobody_replaces_serves_on(
    tiny: ModelEntry, undisturbed: Answer
) -> None:
    async with doomed(tiny, {}) as swarm:
        stream = swarm.swarm.client().stream(**OPTIONS)  # type: ignore[arg-type]
        pieces = aiter(stream)
        await anext(pieces)
        draining = asyncio.create_task(swarm.swarm.nodes[1].stage.drain(20.0))
        async for _ in pieces:
            pass
        await draining
    same(stream.answer, undisturbed)


async def test_a_link_that_carries_nothing_is_found_though_both_its_ends_answer(
    tiny: ModelEntry, undisturbed: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with doomed(tiny, {}) as swarm:
        deaf, spare = swarm.swarm.nodes[1], await swarm.node((1, 2))
        stream = swarm.swarm.client().stream(**OPTIONS)  # type: ignore[arg-type]
        pieces = aiter(stream)
        for _ in range(3):
            await anext(pieces)
        monkeypatch.setattr(deaf.stage._places, "find", lambda *_: None)
        async for _ in pieces:
            pass
        assert stream.answer.route[1].node == spare.node_id
        assert [r.nodes for r in stream.answer.timings.reroutes] == [(deaf.node_id,)]
        assert "don't reach it" in stream.answer.timings.reroutes[0].reason
    same(stream.answer, undisturbed)


async def test_who_falls_silent_while_another_is_replaced_is_noticed_by_that(
    tiny: ModelEntry, undisturbed: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only when it hasn't adopted the new epoch in time, which is long after."""
    monkeypatch.setattr(recovery, "HANDSHAKE", 30.0)
    async with doomed(tiny, {}) as swarm:
        dead, silent = swarm.swarm.nodes[0], swarm.swarm.nodes[2]
        spares = [await swarm.node((0, 1)), await swarm.node((2, 4))]
        stream = swarm.swarm.client().stream(**OPTIONS)  # type: ignore[arg-type]
        pieces = aiter(stream)
        for _ in range(3):
            await anext(pieces)
        for place in silent.stage._places._taken.values():
            place.outbox = asyncio.Queue()  # nobody reads it, so nothing gets to the client
        await swarm.swarm.kill(dead)
        async for _ in pieces:
            pass
        found = [stage.node for stage in stream.answer.route]
        assert [found[0], found[2]] == [spare.node_id for spare in spares]
        assert sum(r.pause_s for r in stream.answer.timings.reroutes) < 2 * LIMITS.connect
    same(stream.answer, undisturbed)


async def test_a_silent_stage_gives_way_to_one_that_failed_before(
    tiny: ModelEntry, undisturbed: Answer
) -> None:
    """Who doesn't answer may only be slow, but isn't waited for while somebody else might do."""
    async with doomed(tiny, {}) as swarm:
        silent, other = swarm.swarm.nodes[2], await swarm.node((2, 4))
        client = swarm.swarm.client()
        client.sessions.avoided.add(other.node_id)
        stream = client.stream(**OPTIONS)  # type: ignore[arg-type]
        pieces = aiter(stream)
        for _ in range(3):
            await anext(pieces)
        for place in silent.stage._places._taken.values():
            place.outbox = asyncio.Queue()  # nobody reads it, so nothing gets to the client
        async for _ in pieces:
            pass
        assert stream.answer.route[2].node == other.node_id
        # Were the silent one asked again and again, it would take as long as the other is avoided.
        assert sum(r.pause_s for r in stream.answer.timings.reroutes) < AVOID_SECONDS / 2
    same(stream.answer, undisturbed)
