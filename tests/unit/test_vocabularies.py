"""Drafts of another vocabulary: what is cut where, what is shared, and that nothing changes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hearthring.client.chance import Chance
from hearthring.client.draft import Draft, Setting
from hearthring.client.draft_model import ModelDraft, open_model, open_tli
from hearthring.client.draft_slem import RetoldDraft
from hearthring.client.local_model import LocalModel, open_local
from hearthring.client.local_text import LocalText
from hearthring.client.pace import Fixed
from hearthring.client.philox import F64
from hearthring.client.rejection import Draws, Verdict, draw_children, judge_children
from hearthring.client.request import PromptModel
from hearthring.client.sampler import Sampling, distribution
from hearthring.client.shared_text import SharedText
from hearthring.client.vocabularies import (
    Shared,
    cut,
    first_token_chances,
    retokenise,
    whole_characters,
)
from hearthring.shards.store import ModelEntry
from hearthring.shards.tokenizer import Tokenizer
from tests.memory_ring import memory_swarm
from tests.outcomes import outcomes
from tests.schedules import CUTS, KINDS, ask, same
from tests.tiny import MERGES, write_tiny_gguf

FEW = ("h e", "l l", "Ġ t", "Ġt he", "o w", "i n")
"""Merges of a vocabulary that has some of the tiny model's words, and others."""


@pytest.fixture
def other(tiny: ModelEntry, tmp_path: Path) -> LocalModel:
    path = write_tiny_gguf(tmp_path / "other.gguf", seed=0, merges=FEW)
    return open_local(str(path), 1, lambda words: None)


def ours(entry: ModelEntry) -> Tokenizer:
    return Tokenizer.from_gguf(entry.open())


def test_text_is_cut_at_a_byte() -> None:
    spell = {1: b"ab", 2: b"c", 3: b" ab"}.__getitem__
    assert cut([1, 2, 1], spell, b"abcab", 3) == [1]
    assert cut([1, 2, 1], spell, b"abcab", 2) == [2, 1]
    assert cut([1, 2, 1], spell, b"abcab", 1) is None
    assert cut([1, 2, 1], spell, b"abcab", 5) == []
    assert cut([3, 2], spell, b"abc", 2) == [2]  # some put a blank in front
    assert cut([1, 2], spell, b"abd", 2) is None


def test_words_are_cut_as_they_follow(tiny: ModelEntry) -> None:
    words = ours(tiny)
    told = retokenise(words, "in the", " sky blue")
    assert told == words.encode("in the sky blue", specials=False)[-len(told) :]
    # One token would go across this seam, so the words alone are cut.
    assert len(words.encode(" the", specials=False)) == 1
    assert retokenise(words, " t", "he") == words.encode("he", specials=False)
    assert retokenise(words, "", "") == []
    draw = np.random.default_rng(3)
    letters = list("the sky blue and on in é→\n")
    for _ in range(200):
        before, after = ("".join(draw.choice(letters, draw.integers(0, 9))) for _ in range(2))
        assert words.decode(retokenise(words, before, after)) == after


def test_a_character_is_whole_or_waits() -> None:
    whole = "aé→😀"
    spelt = whole.encode()
    for size in range(len(spelt) + 1):
        text, rest = whole_characters(spelt[:size])
        assert text.encode() + rest == spelt[:size]
        assert whole.startswith(text)
        assert len(rest) < 4
    assert whole_characters(b"a\xff") == ("a\ufffd", b"")


def test_shared_tokens_spell_the_same(tiny: ModelEntry, other: LocalModel) -> None:
    mine, theirs = ours(tiny), other.tokenizer
    shared = Shared.of(mine, theirs)
    assert len(shared.ours) == 256 + len({*FEW} & {*MERGES})
    for a, b in shared.to_theirs.items():
        assert mine.token_bytes(a) == theirs.token_bytes(b) != b""
    logits = np.random.default_rng(1).standard_normal(theirs.vocabulary).astype(np.float32)
    restricted = distribution(shared.translate(logits), [], Sampling(1.0))
    whole = distribution(logits, [], Sampling(1.0))
    kept = whole[shared.theirs] / whole[shared.theirs].sum()
    assert np.allclose(restricted[shared.ours], kept, atol=1e-12)
    assert restricted.sum() == pytest.approx(1)


def test_strings_judged_by_all_that_may_have_been_written() -> None:
    """SLRS on small vocabularies: every outcome added up is the target's distribution."""
    theirs, tokens = ("a", "b", "ab"), ("a", "b", "aa", "ba", "abb")

    def encode(text: str) -> list[int]:
        found = list[int]()
        while text:
            best = max((t for t in tokens if text.startswith(t)), key=len)
            found.append(tokens.index(best))
            text = text[len(best) :]
        return found

    draw = np.random.default_rng(4)
    for _ in range(5):
        target, fixed = draw.dirichlet(np.ones(len(tokens))), dict[tuple[int, ...], F64]()

        def draft(path: tuple[int, ...], fixed: dict[tuple[int, ...], F64] = fixed) -> F64:
            return fixed.setdefault(path, draw.dirichlet(np.ones(len(theirs))))

        chances = first_token_chances(draft, theirs.__getitem__, encode, 3, len(tokens))
        assert chances.sum() == pytest.approx(1)
        assert np.count_nonzero(chances) == len(tokens)

        def run(
            chance: Chance,
            draft: Callable[[tuple[int, ...]], F64] = draft,
            target: F64 = target,
            chances: F64 = chances,
        ) -> Verdict:
            path, text = (), ""
            while len(text) < 3:
                token = chance.pick(draft(path))
                path, text = (*path, token), text + theirs[token]
            return judge_children(
                target, [encode(text)[0]], chances, Draws.WITHOUT_REPLACEMENT, chance
            )

        chosen = np.zeros(len(tokens))
        for probability, verdict in outcomes(run):
            chosen[verdict.token] += probability
        assert np.abs(chosen - target).max() <= 1e-12


def test_restricted_drafts_leave_the_target(tiny: ModelEntry, other: LocalModel) -> None:
    """TLI by enumeration, with the logits of a draft of another vocabulary of six tokens."""
    draw = np.random.default_rng(6)
    shared = Shared(np.array([0, 2, 3]), np.array([5, 1, 0]), 6, {0: 5, 2: 1, 3: 0})
    for temperature in (0.7, 1.0):
        logits = draw.standard_normal(6).astype(np.float32)
        draft = distribution(shared.translate(logits), [], Sampling(temperature))
        target = draw.dirichlet(np.ones(6))
        for width, draws in ((1, Draws.WITHOUT_REPLACEMENT), (2, Draws.WITH_REPLACEMENT)):
            chosen = np.zeros(6)

            def run(
                chance: Chance,
                draft: F64 = draft,
                target: F64 = target,
                width: int = width,
                draws: Draws = draws,
            ) -> Verdict:
                children = draw_children(draft, width, draws, chance)
                return judge_children(target, children, draft, draws, chance)

            for probability, verdict in outcomes(run):
                chosen[verdict.token] += probability
            assert np.abs(chosen - target).max() <= 1e-12


def drafts(entry: ModelEntry, other: LocalModel, sampling: Sampling) -> list[Draft]:
    words = ours(entry)
    shared = Shared.of(words, other.tokenizer)
    text = SharedText(LocalText(other, 500), shared, words)
    return [
        RetoldDraft(LocalText(other, 500), words, least=0.0),
        ModelDraft(text, words.vocabulary, sampling, least=0.0),
    ]


@pytest.mark.parametrize("kind", ["greedy", "sampled"])
async def test_another_vocabulary_changes_nothing(
    tiny: ModelEntry, other: LocalModel, kind: str
) -> None:
    options = {"max_tokens": 24, **KINDS[kind]}
    async with memory_swarm(tiny, CUTS) as swarm:
        client = swarm.client()
        plain = await ask(client, **options)
        for draft in drafts(tiny, other, Sampling(**KINDS[kind])):
            answer = await ask(client, draft, Fixed(3, 2), **options)
            same(answer, plain)
            assert answer.guessing.guesses > 5


def test_the_way_is_chosen_by_the_vocabulary(tiny: ModelEntry, tmp_path: Path) -> None:
    paths = [write_tiny_gguf(tmp_path / f"{i}.gguf", merges=m) for i, m in enumerate((MERGES, FEW))]
    model = PromptModel(tiny, tiny.open())
    for path, name in zip(paths, ("model:tiny 0", "slem:tiny 0"), strict=True):
        setting = Setting(model, Sampling(), argument=str(path))
        draft = open_model(setting)
        assert draft.name == name
        draft.close()
    assert open_tli(setting).name == "tli:tiny 0"


def test_a_retold_chain_is_what_the_model_writes(tiny: ModelEntry, other: LocalModel) -> None:
    """Token by token, in the target's tokens; the text may be taken back and go on otherwise."""
    words, longest = ours(tiny), 0
    for start in ("the sky and the blue", "in the ring", "hello", "a light on the sea", "1 2 3"):
        draft = RetoldDraft(LocalText(other, 300), words, least=0.0)
        draft.observe(words.encode(start, specials=False))
        said = [candidate.token for candidate in draft.propose((), 8)]
        text = LocalText(other, 300)
        text.begin([1, *other.tokenizer.encode(start, specials=False)])
        text.catch_up()
        path = tuple[int, ...]()
        for _ in range(9):
            path = (*path, int(text.logits([path])[0].argmax()))
        assert other.tokenizer.decode(path).startswith(words.decode(said))
        again = [candidate.token for candidate in draft.propose(said[:1], 3)]
        assert again[:1] == said[1:2]
        assert [candidate.token for candidate in draft.propose((), 8)] == said
        longest = max(longest, len(said))
    assert longest > 1, "none of these models' texts was any"
