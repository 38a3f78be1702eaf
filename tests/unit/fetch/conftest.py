"""Small pieces, and a swarm of providers."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from hearthring.protocol import limits
from hearthring.shards import fetch as fetching
from hearthring.shards.store import ModelEntry
from tests.providers import PIECE, Swarm


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(limits, "LIMITS", limits.LIMITS)
    before = limits.LIMITS.piece_bytes
    object.__setattr__(limits.LIMITS, "piece_bytes", PIECE)
    monkeypatch.setattr(fetching, "PAUSE", 0.01)
    yield
    object.__setattr__(limits.LIMITS, "piece_bytes", before)


@pytest.fixture
async def swarm(tiny: ModelEntry, tmp_path: Path) -> AsyncIterator[Swarm]:
    swarm = Swarm(tiny, tmp_path)
    yield swarm
    await swarm.close()
