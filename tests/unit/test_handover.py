"""A stage that leaves is replaced while it serves: who takes its place has the text by then."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import SimpleNamespace

import pytest

from hearthring.client import recovery
from hearthring.client.answer import Answer
from hearthring.client.handover import FEW, HandOver
from hearthring.client.replacement import Avoided
from hearthring.client.ring import RingSession
from hearthring.protocol.errors import StageFailed
from hearthring.shards.store import ModelEntry
from tests.doomed import CUTS, OPTIONS, TOKENS, Doomed, Turncoat, doomed, same
from tests.memory_ring import MemoryNode
from tests.stage_peer import until


@pytest.fixture
def sent_again(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows every fail-over has sent again."""
    counts, resend = list[int](), recovery.resend

    async def counted(ring: RingSession, newest: dict) -> None:  # type: ignore[type-arg]
        counts.append(0)
        launch = ring._launch

        def launched(step_id: int, rows: list, first: int) -> None:  # type: ignore[type-arg]
            counts[-1] += len(rows)
            launch(step_id, rows, first)

        with monkeypatch.context() as patched:
            patched.setattr(ring, "_launch", launched)
            await resend(ring, newest)

    monkeypatch.setattr(recovery, "resend", counted)
    return counts


async def answer_while(swarm: Doomed, happens: Callable[[], Awaitable[None]]) -> Answer:
    """An answer in the middle of which something happens."""
    stream = swarm.swarm.client().stream(**OPTIONS)  # type: ignore[arg-type]
    pieces = aiter(stream)
    for _ in range(3):
        await anext(pieces)
    await happens()
    async for _ in pieces:
        pass
    return stream.answer


async def left(*nodes: MemoryNode) -> None:
    """Nodes leave at once, and are through with it."""
    async with asyncio.TaskGroup() as group:
        for node in nodes:
            group.create_task(node.stage.drain(20.0))
    assert all(node.stage.sessions == 0 for node in nodes)


@pytest.mark.parametrize("place", range(len(CUTS) - 1))
async def test_only_the_last_rows_are_sent_again(
    tiny: ModelEntry, undisturbed: Answer, sent_again: list[int], place: int
) -> None:
    async with doomed(tiny, {}) as swarm:
        leaving, spare = swarm.swarm.nodes[place], await swarm.node((CUTS[place], CUTS[place + 1]))
        answer = await answer_while(swarm, lambda: left(leaving))
        assert answer.route[place].node == spare.node_id
    same(answer, undisturbed)
    assert len(sent_again) == 1
    assert sent_again[0] <= FEW
    assert len(OPTIONS["prompt_ids"]) > 10 * FEW  # type: ignore[arg-type]


async def test_neighbours_that_leave_are_replaced_together(
    tiny: ModelEntry, undisturbed: Answer, sent_again: list[int]
) -> None:
    async with doomed(tiny, {}) as swarm:
        spares = [await swarm.node((1, 2)), await swarm.node((2, 4))]
        answer = await answer_while(swarm, lambda: left(*swarm.swarm.nodes[1:3]))
        assert [stage.node for stage in answer.route[1:]] == [spare.node_id for spare in spares]
    same(answer, undisturbed)
    assert sent_again[-1] <= FEW


async def test_a_newcomer_that_dies_while_it_is_fed_is_replaced(
    tiny: ModelEntry, undisturbed: Answer, sent_again: list[int]
) -> None:
    async with doomed(tiny, {}) as swarm:
        leaving = swarm.swarm.nodes[1]
        dying, spare = await swarm.node((1, 2), batch=1), await swarm.node((1, 2))
        answer = await answer_while(swarm, lambda: left(leaving))
        assert dying.stage.sessions == 0
        assert answer.route[1].node == spare.node_id
    same(answer, undisturbed)
    assert sent_again == [n for n in sent_again if n <= FEW]


async def test_a_stage_that_dies_while_another_leaves_is_replaced_with_it(
    tiny: ModelEntry, undisturbed: Answer
) -> None:
    async with doomed(tiny, {}) as swarm:
        first, leaving = swarm.swarm.nodes[:2]
        spares = [await swarm.node((0, 1)), await swarm.node((1, 2))]

        async def happens() -> None:
            draining = asyncio.create_task(leaving.stage.drain(20.0))
            await until(lambda: spares[1].stage.sessions == 1)
            await swarm.swarm.kill(first)
            await draining

        answer = await answer_while(swarm, happens)
        assert [stage.node for stage in answer.route[:2]] == [spare.node_id for spare in spares]
    same(answer, undisturbed)


LIES = {"in the prompt": 2, "all the time": 1, "at a token": 6}


@pytest.mark.parametrize("lies", LIES.values(), ids=LIES)
@pytest.mark.parametrize("place", range(len(CUTS) - 1))
async def test_what_a_liar_said_that_leaves_is_taken_back(
    tiny: ModelEntry, undisturbed: Answer, place: int, lies: int
) -> None:
    """Its replacement is honest, and what it was given while the liar served is compared."""
    async with doomed(tiny, {}, {place: lambda engine: Turncoat(engine, lies)}) as swarm:
        leaving, spare = swarm.swarm.nodes[place], await swarm.node((CUTS[place], CUTS[place + 1]))
        answer = await answer_while(swarm, lambda: left(leaving))
        assert answer.route[place].node == spare.node_id
    same(answer, undisturbed)


async def test_an_answer_that_ends_meanwhile_leaves_nobody_behind(
    tiny: ModelEntry, undisturbed: Answer
) -> None:
    async with doomed(tiny, {}) as swarm:
        leaving, spare = swarm.swarm.nodes[1], await swarm.node((1, 2))
        stream = swarm.swarm.client().stream(**OPTIONS)  # type: ignore[arg-type]
        pieces = aiter(stream)
        for _ in range(TOKENS - 1):
            await anext(pieces)
        draining = asyncio.create_task(leaving.stage.drain(20.0))
        with suppress(StopAsyncIteration):
            while True:
                await anext(pieces)
        await draining
        await until(lambda: spare.stage.sessions == 0)
    same(stream.answer, undisturbed)


async def test_who_leaves_while_a_session_ends_is_not_replaced() -> None:
    avoided = Avoided()
    ring = SimpleNamespace(mending=False, replacing=SimpleNamespace(avoided=avoided))
    handing = HandOver(ring)  # type: ignore[arg-type]
    await handing.rest()
    leaving = SimpleNamespace(stage=SimpleNamespace(node="a"), down=None)
    assert handing.begin(leaving, StageFailed("the node is leaving"))  # type: ignore[arg-type]
    handing.give_up()
    assert (leaving.down, avoided.now()) == (None, {"a"})
