"""Trees of a model's guesses, by the names that users give; they change nothing."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from hearthring.client import drafts, shaped
from hearthring.client.branches import Branch
from hearthring.client.draft import Candidate, Setting
from hearthring.client.draft_model import ModelDraft
from hearthring.client.drafts import open_speculation
from hearthring.client.pace import Fixed
from hearthring.client.request import PromptModel
from hearthring.client.sampler import Sampling
from hearthring.shards.store import ModelEntry
from tests.memory_ring import memory_swarm
from tests.schedules import KINDS, PROMPT_IDS, same
from tests.tiny import MERGES, write_tiny_gguf


@pytest.fixture
def widest(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Filled with how many siblings there are at each place that is sent, six rows a tree."""
    found, honest = list[int](), Branch.grow

    def grow(branch: Branch, candidates: Sequence[Candidate]) -> list[Branch]:
        found.extend(Counter(one.parent for one in candidates).values())
        return honest(branch, candidates)

    monkeypatch.setattr(Branch, "grow", grow)
    monkeypatch.setattr(shaped, "rows_worth", lambda gains, seconds: 6)  # whatever trips take
    return found


@pytest.mark.parametrize("kind", ["greedy", "sampled"])
@pytest.mark.parametrize("name", ["model", "tli", "staged"])
async def test_a_pace_of_trees_gets_them(
    tiny: ModelEntry, tmp_path: Path, widest: list[int], kind: str, name: str
) -> None:
    merges = MERGES[:9] if name == "tli" else MERGES
    other = write_tiny_gguf(tmp_path / "other.gguf", seed=1, layers=1, merges=merges)
    asked = {"max_tokens": 12, "prompt_ids": PROMPT_IDS, **KINDS[kind]}
    async with memory_swarm(tiny, (0, 2, 4)) as swarm:
        client = swarm.client()
        plain = await client.generate(draft="none", **asked)
        client.answering.pace = "sequoia"
        answer = await client.generate(draft=f"{name}:{other}", **asked)
    same(answer, plain)
    assert max(widest) > 1
    assert answer.guessing.guesses > 12


@pytest.mark.parametrize("rule", ["specinfer", "sequoia"])
async def test_drawn_trees_are_judged_whole(
    tiny: ModelEntry,
    tmp_path: Path,
    widest: list[int],
    monkeypatch: pytest.MonkeyPatch,
    rule: str,
) -> None:
    """Drawn tokens depend on which guesses are judged, so as many are sent each time."""
    monkeypatch.setattr(drafts, "siblings", lambda pace: 3)
    other = write_tiny_gguf(tmp_path / "other.gguf", seed=1, layers=1)
    asked = {"max_tokens": 10, "prompt_ids": PROMPT_IDS, "temperature": 0.8, "seed": 2}
    async with memory_swarm(tiny, (0, 2, 4)) as swarm:
        client = swarm.client()
        client.answering.pace = lambda: Fixed(6)
        wish = f"model:{other}"
        found = [await client.generate(draft=wish, acceptance=rule, **asked) for _ in range(2)]
    assert found[0].token_ids == found[1].token_ids
    assert max(widest) > 1


@pytest.mark.parametrize(
    ("pace", "wide"),
    [("dyspec", 4), ("sequoia", 4), ("auto", 1), ("4", 1), ("ucb", 1), (lambda: Fixed(3), 1)],
)
def test_how_wide_goes_by_the_pace(
    tiny: ModelEntry, tmp_path: Path, pace: str | Callable[[], Fixed], wide: int
) -> None:
    other = write_tiny_gguf(tmp_path / "other.gguf", seed=1, layers=1)
    setting = Setting(PromptModel(tiny, tiny.open()), Sampling())
    speculation = open_speculation(f"model:{other}", setting, pace)
    draft = speculation.draft
    assert isinstance(draft, ModelDraft)
    draft.observe(PROMPT_IDS)
    while not draft.read(PROMPT_IDS):
        pass
    draft._least = 0.0
    proposed = draft.propose((), 8)
    assert len(proposed) == 8
    siblings = max(Counter(candidate.parent for candidate in proposed).values())
    assert (siblings > 1) == (wide > 1)
    assert siblings <= wide
    speculation.close()
