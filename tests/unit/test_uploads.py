"""Turns to send: shared fairly among peers, at a rate."""

import asyncio

import pytest

from hearthring.node.uploads import Uploads
from hearthring.protocol.errors import StageFailed


async def test_peers_take_turns_at_the_given_rate() -> None:
    slept: list[float] = []
    order: list[str] = []
    busy = False

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0)

    uploads = Uploads(1000.0, lambda: busy, sleep)

    async def take(peer: str, count: int) -> None:
        for _ in range(count):
            await asyncio.gather(*(uploads.turn(peer, 500) for _ in range(4)))
            order.append(peer)

    await asyncio.gather(take("greedy", 10), *(uploads.turn("modest", 500) for _ in range(3)))
    assert slept == [0.5] * 43
    busy = True
    await uploads.turn("late", 500)
    assert slept[-1] == 2.0
    await uploads.close()
    with pytest.raises(StageFailed):
        await uploads.turn("too late", 500)


async def test_a_greedy_peer_waits_for_itself_alone() -> None:
    granted: list[str] = []
    uploads = Uploads(1.0, sleep=lambda _: asyncio.sleep(0))

    async def turn(peer: str) -> None:
        await uploads.turn(peer, 1)
        granted.append(peer)

    await asyncio.gather(*(turn("greedy") for _ in range(20)), turn("a"), turn("b"))
    assert {"a", "b"} <= set(granted[:4])
    await uploads.close()
