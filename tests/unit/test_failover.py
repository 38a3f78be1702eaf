"""Stages die at every phase of an answer: a moment is lost, and not a token."""

import asyncio

import pytest

from hearthring.client import recovery, replacement
from hearthring.client.answer import Answer
from hearthring.client.places import Places
from hearthring.client.ring import RingSession
from hearthring.client.swarm import Swarm
from hearthring.protocol.backlog import Backlog
from hearthring.protocol.errors import HearthringError, StageFailed
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.records import NodeRecord
from hearthring.shards.store import ModelEntry
from tests.doomed import CUTS, OPTIONS, ask, doomed, same

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
        async with asyncio.timeout(20):
            await leaving.stage.drain(20.0)
        assert leaving.stage.sessions == 0
        async for _ in pieces:
            pass
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


async def test_a_fault_of_our_own_while_a_ring_is_mended_is_told(
    tiny: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(*told: object) -> None:
        raise ZeroDivisionError

    async with doomed(tiny, {1: 6}) as swarm:
        await swarm.node((CUTS[1], CUTS[2]))
        monkeypatch.setattr(recovery, "compare", faulty)
        with pytest.raises(HearthringError, match="ring: ZeroDivisionError") as told:
            async with asyncio.timeout(20):
                await ask(swarm.swarm)
    assert isinstance(told.value.__cause__, ZeroDivisionError)


async def test_a_fault_of_our_own_behind_the_mending_is_told(
    tiny: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the ring is whole again, and what waited is sent."""
    honest, calls = RingSession.revoke, list[RingSession]()

    def faulty(ring: RingSession) -> None:
        calls.append(ring)
        if len(calls) == 2:
            raise ZeroDivisionError
        honest(ring)

    async with doomed(tiny, {1: 6}) as swarm:
        await swarm.node((CUTS[1], CUTS[2]))
        monkeypatch.setattr(RingSession, "revoke", faulty)
        with pytest.raises(HearthringError, match="ring: ZeroDivisionError"):
            async with asyncio.timeout(20):
                await ask(swarm.swarm)


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
            place.outbox = Backlog(LIMITS.outbox)  # nobody reads it, so nothing gets to the client
        await swarm.swarm.kill(dead)
        async for _ in pieces:
            pass
        found = [stage.node for stage in stream.answer.route]
        assert [found[0], found[2]] == [spare.node_id for spare in spares]
        assert any("it doesn't answer" in r.reason for r in stream.answer.timings.reroutes)
    same(stream.answer, undisturbed)


async def test_a_silent_stage_gives_way_to_one_that_failed_before(
    tiny: ModelEntry, undisturbed: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who doesn't answer may only be slow, but isn't waited for while somebody else might do."""
    monkeypatch.setattr(replacement, "AVOID_SECONDS", 1e9)  # or it would be taken once that is over
    monkeypatch.setattr(replacement, "AVOID_MOST", 1e9)
    async with asyncio.timeout(60), doomed(tiny, {}) as swarm:
        silent, other = swarm.swarm.nodes[2], await swarm.node((2, 4))
        client = swarm.swarm.client()
        client.sessions.avoided.add(other.node_id)
        stream = client.stream(**OPTIONS)  # type: ignore[arg-type]
        pieces = aiter(stream)
        for _ in range(3):
            await anext(pieces)
        for place in silent.stage._places._taken.values():
            place.outbox = Backlog(LIMITS.outbox)  # nobody reads it, so nothing gets to the client
        async for _ in pieces:
            pass
        assert stream.answer.route[2].node == other.node_id
    same(stream.answer, undisturbed)
