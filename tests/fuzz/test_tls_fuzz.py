"""Hostile peers at a stage over TLS: refused by name, and nobody else notices."""

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from tests.stage_peer import tiny_engine
from tests.tls_attack import Attack, attack, floods, mutations, refusals

FRAMES = 100


@pytest.fixture
async def found(tiny_gguf: Path) -> AsyncIterator[Attack]:
    async with attack(tiny_engine(tiny_gguf)) as found:
        yield found
        assert found.stories > 0


async def test_every_broken_rule_is_refused_by_name(found: Attack) -> None:
    assert await refusals(found) > 50


async def test_floods_are_refused_and_an_open_session_goes_on(found: Attack) -> None:
    await floods(found)


async def test_mutated_frames_end_their_own_session_alone(found: Attack) -> None:
    ends = await mutations(found, FRAMES, np.random.default_rng(1), lambda n: None)
    assert len(ends) > 1, ends
