"""A draft model that is sped up by a draft: the same guesses, in fewer passes."""

from dataclasses import replace
from typing import Any

import pytest

from hearthring.client.ahead_text import AheadText
from hearthring.client.draft import Setting
from hearthring.client.draft_model import ModelDraft, open_staged
from hearthring.client.local_model import open_local
from hearthring.client.local_text import LocalText
from hearthring.client.pace import Fixed
from hearthring.client.request import PromptModel
from hearthring.client.sampler import Sampling
from hearthring.protocol.errors import BadOption
from hearthring.shards.store import ModelEntry
from tests.drafts import Knowing
from tests.memory_ring import memory_swarm
from tests.schedules import CUTS, PROMPT_IDS, ask, same
from tests.tiny import write_tiny_gguf


class Counted:
    """An engine whose passes are counted."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.passes = engine, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def forward(self, *arguments: Any) -> Any:
        self.passes += 1
        return self.engine.forward(*arguments)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.9, seed=3)], ids=["greedy", "drawn"])
@pytest.mark.parametrize("hit", [1.0, 0.6])
def test_the_same_guesses_in_fewer_passes(tiny: ModelEntry, sampling: Sampling, hit: float) -> None:
    model = open_local(str(tiny.path), 1, lambda words: None)
    size, counts, said = model.tokenizer.vocabulary, [], []
    written = list(PROMPT_IDS)
    for staged in (False, True):
        engine: Any = Counted(model.engine)
        text: Any = LocalText(replace(model, engine=engine), 200)
        if staged:
            knowing = Knowing(written, 2, hit, wide=0)
            text = AheadText(text, knowing, least=0.0)
        draft = ModelDraft(text, size, sampling, least=0.0)
        draft.observe(PROMPT_IDS)
        proposals = [[]]
        for _ in range(8):
            proposals.append([candidate.token for candidate in draft.propose((), 6)])
            draft.observe(proposals[-1][:4])
            written += [] if staged else proposals[-1][:4]
        counts.append(engine.passes)
        said.append(proposals)
    assert said[0] == said[1]
    assert counts[1] < (0.6 if hit == 1 else 0.95) * counts[0]


async def test_a_staged_draft_in_a_ring(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, CUTS) as swarm:
        client = swarm.client()
        options = {"max_tokens": 16, "prompt_ids": PROMPT_IDS, "temperature": 0.7, "seed": 2}
        plain = await ask(client, **{k: v for k, v in options.items() if k != "prompt_ids"})
        client.answering.pace = lambda: Fixed(3)
        answer = await client.generate(draft=f"staged:{tiny.path}", **options)
    same(answer, plain)
    assert answer.guessing.draft == "staged:tiny 0"


def test_a_staged_draft_has_the_targets_vocabulary(tiny: ModelEntry, tmp_path: Any) -> None:
    other = write_tiny_gguf(tmp_path / "other.gguf", merges=("h e", "l l"))
    setting = Setting(PromptModel(tiny, tiny.open()), Sampling(), argument=str(other))
    with pytest.raises(BadOption, match="other tokens than tiny 0"):
        open_staged(setting)
