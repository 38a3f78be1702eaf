"""SLRS: a draft of few letters is judged by all that it may write, and a larger one is refused."""

from pathlib import Path

import numpy as np
import pytest

from hearthring.client.draft import Draft, Setting
from hearthring.client.draft_model import open_slrs
from hearthring.client.local_model import LocalModel, open_local
from hearthring.client.local_text import LocalText
from hearthring.client.pace import Fixed
from hearthring.client.request import PromptModel
from hearthring.client.sampler import Sampling, distribution
from hearthring.client.written_text import WrittenText
from hearthring.protocol.errors import BadOption
from hearthring.shards.store import ModelEntry, ModelStore
from hearthring.shards.tokenizer import Tokenizer
from tests.memory_ring import memory_swarm
from tests.tiny import write_tiny_gguf

PROMPT = [0, 6, 3, 0, 1, 8, 2]
"""a, ab, d, a, b, cda, c: spelt "aabdabcdac"."""


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelEntry:
    monkeypatch.setenv("HEARTHRING_MODELS", str(tmp_path / "models"))
    path = tmp_path / "target.gguf"
    write_tiny_gguf(path, letters=6, merges=("a b", "c d", "cd a"))
    return ModelStore().find(str(path))


def draft(folder: Path, letters: int = 6) -> Path:
    return write_tiny_gguf(folder / "draft.gguf", layers=2, letters=letters, merges=("b c",))


def local(path: Path) -> LocalModel:
    return open_local(str(path), 1, lambda words: None)


def test_chances_are_those_of_all_that_may_be_written(target: ModelEntry, tmp_path: Path) -> None:
    ours, model = Tokenizer.from_gguf(target.open()), local(draft(tmp_path))
    text = WrittenText(LocalText(model, 200), ours)
    text.begin(PROMPT)
    while not text.catch_up():
        pass
    for path in ((), (6,), (8, 1)):
        words = ours.decode([*PROMPT, *path])
        plain = LocalText(model, 200)
        plain.begin([0, *model.tokenizer.encode(words, specials=False)])
        expected, untried = np.zeros(ours.vocabulary), [((), "", 1.0)]
        said = tuple(text._said(path))
        while untried:
            written, spelt, chance = untried.pop()
            if len(spelt) >= 3:
                expected[ours.encode(spelt, specials=False)[0]] += chance
                continue
            shares = distribution(text._text.logits([(*said, *written)])[0], (), Sampling(1.0))
            for token, share in enumerate(shares):
                more = spelt + model.tokenizer.decode([token])
                untried.append(((*written, token), more, chance * share))
        found = np.exp(text.logits([path])[0])
        assert found.sum() == pytest.approx(1)
        assert np.allclose(found, expected, atol=1e-6)
        assert np.count_nonzero(found) == ours.vocabulary


@pytest.mark.parametrize("rule", ["gumbel", "leviathan"])
async def test_it_guesses_in_a_ring(target: ModelEntry, tmp_path: Path, rule: str) -> None:
    wish = f"slrs:{draft(tmp_path)}"
    async with memory_swarm(target, (0, 2, 4), target.manifest.residual) as swarm:
        client = swarm.client()
        client.answering.pace = lambda: Fixed(3, 2)
        for temperature in (0.0, 0.9):
            asked = {"temperature": temperature, "seed": 4, "max_tokens": 30, "prompt_ids": PROMPT}
            plain = await client.generate(draft="none", **asked)
            answer = await client.generate(draft=wish, acceptance=rule, **asked)
            assert answer.guessing.draft == "slrs:tiny 0"
            assert answer.guessing.hits > 3
            assert (answer.token_ids == plain.token_ids) == (rule == "gumbel" or not temperature)


def opened(target: ModelEntry, path: Path) -> Draft:
    return open_slrs(Setting(PromptModel(target, target.open()), Sampling(), argument=str(path)))


def test_what_takes_too_long_or_cant_be_spelt_is_refused(
    target: ModelEntry, tmp_path: Path
) -> None:
    with pytest.raises(BadOption, match=r"vocabularies of a few letters \(use tli: or model:"):
        opened(target, write_tiny_gguf(tmp_path / "many.gguf"))
    with pytest.raises(BadOption, match="the target can't spell 'g'"):
        opened(target, draft(tmp_path, letters=7))
    opened(target, draft(tmp_path)).close()
