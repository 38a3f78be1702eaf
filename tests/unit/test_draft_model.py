"""A model of the client's own as a draft: what it computes, what it guesses, and that it ends."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hearthring.client.acceptance import Place, rule_named
from hearthring.client.branches import Branches
from hearthring.client.draft_model import ModelDraft
from hearthring.client.drafts import check_draft
from hearthring.client.local_model import LocalModel, open_local
from hearthring.client.local_text import LocalText
from hearthring.client.pace import Fixed, subtree
from hearthring.client.sampler import Sampling, choose, distribution, leaders
from hearthring.protocol.errors import BadOption, OutOfSlots, ResidualOverflow
from hearthring.protocol.messages import Row
from hearthring.shards.store import ModelEntry
from tests.drafts import Bigrams
from tests.memory_ring import memory_swarm
from tests.schedules import CUTS, KINDS, PROMPT_IDS, ask, same
from tests.tiny import write_tiny_gguf


@pytest.fixture
def model(tiny: ModelEntry) -> LocalModel:
    return open_local(str(tiny.path), 1, lambda words: None)


def fresh(model: LocalModel, tokens: Sequence[int], prompt: int) -> Any:
    """Logits after a text that is run once, in one piece."""
    text = LocalText(model, 400)
    text.begin(tokens[:prompt])
    text.append(tokens[prompt:])
    while not text.catch_up(1000):
        pass
    return text.logits([()])[0]


def test_a_text_with_branches_is_many_plain_texts(model: LocalModel) -> None:
    draw = np.random.default_rng(5)
    text = LocalText(model, 400)
    tokens = [int(t) for t in draw.integers(3, 290, 30)]
    text.begin(tokens)
    for _ in range(12):
        while not text.catch_up(7):
            pass
        paths = [tuple(int(t) for t in draw.integers(3, 6, draw.integers(0, 4))) for _ in range(5)]
        for path, logits in zip(paths, text.logits(paths), strict=True):
            assert np.array_equal(logits, fresh(model, [*tokens, *path], 30))
        more = list(max(paths, key=len)) if draw.random() < 0.5 else [int(draw.integers(3, 290))]
        text.append(more)
        tokens += more
        assert text.tokens == tokens
    other = [*tokens[:33], 7, 8, 9]
    text.begin(other)
    assert text.behind == 3
    text.catch_up()
    text.begin(other)
    assert text.behind == 0
    text.begin(other[:35])
    assert text.behind == 1
    text.catch_up()
    assert text.tokens == other[:35]


def test_more_branches_than_slots_fall(model: LocalModel) -> None:
    text = LocalText(model, 40)
    text.begin(PROMPT_IDS[:20])
    text.catch_up()
    for first in range(3, 200, 20):
        paths = [(first + i, 5, 6) for i in range(18)]
        found = text.logits(paths)
        assert np.array_equal(found[4], fresh(model, [*PROMPT_IDS[:20], *paths[4]], 20))


def test_a_failed_pass_leaves_the_text(model: LocalModel) -> None:
    class Failing:
        fail = False

        def __getattr__(self, name: str) -> Any:
            return getattr(model.engine, name)

        def forward(self, *arguments: Any) -> Any:
            if self.fail:
                raise ResidualOverflow("too large", field="residual")
            return model.engine.forward(*arguments)

    engine: Any = Failing()
    text = LocalText(replace(model, engine=engine), 100)
    text.begin(PROMPT_IDS)
    text.catch_up(9)
    engine.fail = True
    with pytest.raises(ResidualOverflow):
        text.catch_up()
    engine.fail = False
    while not text.catch_up():
        pass
    engine.fail = True
    with pytest.raises(ResidualOverflow):
        text.logits([(4, 5)])
    engine.fail = False
    assert np.array_equal(text.logits([(4, 5)])[0], fresh(model, [*PROMPT_IDS, 4, 5], 40))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wide", [1, 3])
async def test_the_same_model_guesses_everything(
    tiny: ModelEntry, model: LocalModel, kind: str, wide: int
) -> None:
    options = {"max_tokens": 25, **KINDS[kind]}
    async with memory_swarm(tiny, CUTS, tiny.manifest.residual) as swarm:
        client = swarm.client()
        plain = await ask(client, **options)
        sampling, vocabulary = Sampling(**KINDS[kind]), model.tokenizer.vocabulary
        draft = ModelDraft(LocalText(model, 512), vocabulary, sampling, wide, least=0.0)
        answer = await ask(client, draft, Fixed(5), **options)
    same(answer, plain)
    assert len(plain.token_ids) == 25
    if wide == 1:
        assert answer.guessing.trips == 4  # 24 more tokens, six a trip
        assert answer.guessing.hits == answer.guessing.guesses == 20
    else:
        assert answer.guessing.tokens_per_trip > 2


async def test_another_model_changes_nothing(tiny: ModelEntry, tmp_path: Path) -> None:
    other = write_tiny_gguf(tmp_path / "other.gguf", seed=1, layers=2)
    async with memory_swarm(tiny, CUTS) as swarm:
        client = swarm.client()
        for options in KINDS.values():
            asked = {"max_tokens": 20, "prompt_ids": PROMPT_IDS, **options}
            plain = await client.generate(draft="none", **asked)
            client.answering.pace = lambda: Fixed(3, 2)
            answer = await client.generate(draft=f"model:{other}", **asked)
            client.answering.pace = "auto"
            same(answer, plain)
            assert answer.guessing.draft == "model:tiny 1"
            assert answer.guessing.guesses > 20


def test_the_first_leader_is_the_choice() -> None:
    draw = np.random.default_rng(2)
    for temperature in (0.0, 0.8):
        sampling = Sampling(temperature, top_k=50 if temperature else 0, seed=4)
        for position in range(20):
            logits = draw.standard_normal(200).astype(np.float32)
            found = leaders(logits, [1, 2], position, sampling, 4)
            assert found[0][0] == choose(logits, [1, 2], position, sampling)
            assert [share for _, share in found] == sorted((s for _, s in found), reverse=True)
            assert 0 < found[0][1] <= 1


def test_a_long_text_is_read_in_pieces_and_ends_at_the_context(model: LocalModel) -> None:
    said = list[str]()
    draft = ModelDraft(LocalText(model, 150), 300, Sampling(), least=0.0, explain=said.append)
    draft.observe([5] * 140)
    assert [len(draft.propose((), 2)) for _ in range(4)] == [0, 0, 2, 2]
    draft.observe([6] * 9)
    assert len(draft.propose((), 1)) == 1
    draft.observe([6] * 2)
    assert draft.propose((), 1) == []
    assert draft.propose((), 1) == []
    assert len(said) == 1
    assert "room for 150" in said[0]
    draft.forget()
    while not draft.read([5] * 100):
        pass
    draft.observe([5] * 100)
    assert len(draft.propose((), 2)) == 2
    draft.close()
    draft.close()
    assert draft.propose((), 2) == []


def test_a_wish_must_name_a_model() -> None:
    with pytest.raises(BadOption, match="for example model:smollm2"):
        check_draft("suffix+model")


def test_texts_share_a_model_and_have_rooms_of_their_own(model: LocalModel) -> None:
    one, two = LocalText(model, 60), LocalText(model, 30)
    one.begin(PROMPT_IDS)
    two.begin(PROMPT_IDS[:20])
    one.catch_up()
    two.catch_up()
    assert np.array_equal(one.logits([(1,)])[0], fresh(model, [*PROMPT_IDS, 1], 40))
    assert np.array_equal(two.logits([(2,)])[0], fresh(model, [*PROMPT_IDS[:20], 2], 20))
    with pytest.raises(OutOfSlots, match="room for 30"):
        two.logits([(1,) * 11])


@pytest.mark.parametrize("name", ["leviathan", "specinfer", "sequoia"])
async def test_a_drawing_draft_is_judged_by_what_it_drew_from(
    tiny: ModelEntry, model: LocalModel, name: str
) -> None:
    """A model that expects what the target does is always right, and says the same twice."""
    options = {"temperature": 0.8, "top_k": 40, "seed": 9, "max_tokens": 25, "acceptance": name}
    sampling = Sampling(0.8, top_k=40, seed=9)
    size, wide = model.tokenizer.vocabulary, 1 if name == "leviathan" else 3
    async with memory_swarm(tiny, CUTS, tiny.manifest.residual) as swarm:
        client, found = swarm.client(), []
        for _ in range(2):
            text = LocalText(model, 512)
            draft = ModelDraft(text, size, sampling, wide, least=0.0, rule=rule_named(name))
            found.append(await ask(client, draft, Fixed(6), **options))
    assert found[0].token_ids == found[1].token_ids
    if wide == 1:
        assert found[0].guessing.hits == found[0].guessing.guesses
    assert found[0].guessing.tokens_per_trip > 2


@pytest.mark.parametrize("wide", [1, 2])
def test_what_is_drawn_and_judged_has_the_targets_distribution(wide: int) -> None:
    """The draft, its offers, the tree of branches and the rule, by 10 000 seeds."""
    draw, size, samples = np.random.default_rng(8), 6, 10_000
    target, guess = (draw.standard_normal((2, size, size)) * 1.5).astype(np.float32)

    rule = rule_named("sequoia" if wide > 1 else "leviathan")
    pairs, accepted = np.zeros((size, size)), 0
    for seed in range(samples):
        sampling = Sampling(1.0, seed=seed)
        draft = ModelDraft(Bigrams(guess), size, sampling, wide, least=0.0, rule=rule)
        draft.observe([2])
        branches = Branches(Row(1, 0, 0, 1), 2, np.zeros(1, np.float32))
        branches.cursor.grow(subtree(proposed := draft.propose((), 2 * wide), {0}))
        branches.cursor.offer = draft.offered()
        text = [2]
        while len(text) < 3:
            place = Place(target[text[-1]], text, len(text), sampling)
            offer = branches.cursor.offer
            assert offer is not None or len(text) == 2
            children, spread = (offer.children, offer.spread) if offer else ((), None)
            verdict = rule.judge(place, children, spread)
            accepted += verdict.child >= 0
            text.append(verdict.token)
            if verdict.token not in branches.cursor.children:
                branches.move(verdict.token)
                branches.plant(verdict.token)
            else:
                branches.move(verdict.token)
        assert proposed
        pairs[text[1], text[2]] += 1
    chances = [distribution(row, [], Sampling(1.0)) for row in target]
    expected = chances[2][:, None] * np.array(chances) * samples
    chi_square = ((pairs - expected) ** 2 / expected).sum()
    assert chi_square < 76.5, "35 degrees of freedom, one in 10 000"
    assert accepted > 0.4 * samples


async def test_a_draft_reads_while_the_prompt_is_on_its_way(
    tiny: ModelEntry, model: LocalModel
) -> None:
    size, asked = model.tokenizer.vocabulary, {"max_tokens": 8, "temperature": 0.0}
    async with memory_swarm(tiny, CUTS) as swarm:
        client = swarm.client()
        draft = ModelDraft(LocalText(model, 512), size, Sampling(), least=0.0)
        answer = await ask(client, draft, Fixed(3), **asked)
        other = ModelDraft(LocalText(model, 512), size, Sampling(), least=0.0)
        other.read = lambda prompt: True  # type: ignore[method-assign]
        late = await ask(client, other, Fixed(3), **asked)
    assert answer.token_ids == late.token_ids
    assert answer.guessing.trips < late.guessing.trips
