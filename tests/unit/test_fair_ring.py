"""What comes round a ring is drawn from the target, under every rule; ``bench/chi_square.py`` has
20 000 samples a rule."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fair_ring import CASES, FAULTY, Case, FairRing, fair_ring

SAMPLES, SEED, LEAST = 360, 1, 1e-4


@pytest.fixture
async def ring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FairRing]:
    monkeypatch.setenv("HEARTHRING_MODELS", str(tmp_path / "models"))
    async with fair_ring(tmp_path) as found:
        yield found


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_tokens_are_the_targets(ring: FairRing, case: Case) -> None:
    sample = await ring.sample(case, SAMPLES, SEED)
    assert sample.tokens_per_trip > 1.2
    assert min(sample.p_values().values()) > LEAST


@pytest.mark.parametrize("fault", ["likeliest", "unscaled", "dropping"])
async def test_a_wrong_rule_is_noticed(ring: FairRing, fault: str) -> None:
    sample = await ring.sample(FAULTY[fault], 2 * SAMPLES, SEED, fault)
    assert min(sample.p_values().values()) < LEAST
