"""Who is taken for dead when a ring stands still."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from hearthring.client import watch
from hearthring.client.watch import STRAINED, Watch
from hearthring.protocol.errors import DeadlineExceeded
from hearthring.protocol.messages import Progress


class Stage:
    """One that answers questions after so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.down, self.last_step = seconds, None, 0
        self.stage = SimpleNamespace(node="n")

    async def probe(self, patience: float) -> Progress:
        if self.seconds > patience:
            raise DeadlineExceeded("no answer")
        await asyncio.sleep(0)
        return Progress(1, 5, 0)


def ring_of(*seconds: float) -> tuple[Any, list[Stage]]:
    suspected, stages = list[Stage](), [Stage(one) for one in seconds]
    flight = SimpleNamespace(moved=0.0, steps={1: ()})
    places = SimpleNamespace(attached=stages)
    ring = SimpleNamespace(epoch=0, flight=flight, places=places, pulse=watch.Pulse(), row_bytes=1)
    ring.suspect = lambda stage, error: suspected.append(stage)
    return ring, suspected


async def test_one_that_is_silent_is_suspected_at_once() -> None:
    ring, suspected = ring_of(0, 99, 0, 0)
    await Watch(ring)._look()
    assert suspected == ring.places.attached[1:2]


async def test_a_stage_without_others_is_suspected_at_once() -> None:
    ring, suspected = ring_of(99)
    await Watch(ring)._look()
    assert suspected == ring.places.attached


@pytest.mark.parametrize(("seconds", "lost"), [(0.9 * STRAINED, 0), (1.1 * STRAINED, 3)])
async def test_most_of_a_ring_is_asked_once_more(seconds: float, lost: int) -> None:
    seconds *= watch.Pulse().patience
    ring, suspected = ring_of(seconds, seconds, seconds, 0)
    looking = Watch(ring)
    await looking._look()
    assert not suspected
    await looking._look()
    assert len(suspected) == lost
