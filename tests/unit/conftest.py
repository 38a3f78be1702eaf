"""What several tests of whole answers start from."""

from collections.abc import Iterator

import pytest

from hearthring.client.answer import Answer
from hearthring.shards.store import ModelEntry
from tests.doomed import CUTS, ask
from tests.memory_ring import memory_swarm

_KNOWN: list[Answer] = []


@pytest.fixture
async def undisturbed(tiny: ModelEntry) -> Answer:
    """The answer of a ring that nothing happens to; asked for once, since it is always the same."""
    if not _KNOWN:
        async with memory_swarm(tiny, CUTS) as swarm:
            _KNOWN.append(await ask(swarm))
    return _KNOWN[0]


@pytest.fixture
def torch_threads() -> Iterator[None]:
    """torch has as many threads afterwards as before."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
