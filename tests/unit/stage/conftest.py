"""One stage in this process, for every test anew."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hearthring.shards.torch_engine import TorchEngine
from tests.stage_peer import Rig, rig, tiny_engine


@pytest.fixture(scope="module")
def engine(tiny_gguf: Path) -> TorchEngine:
    return tiny_engine(tiny_gguf)


@pytest.fixture
async def stage(engine: TorchEngine) -> AsyncIterator[Rig]:
    async with rig(engine) as stage:
        yield stage
