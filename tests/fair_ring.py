"""Tokens drawn through a ring under each rule of acceptance, and how well they fit the target.

Real stages, a real client, a model of two layers and ``VOCABULARY`` tokens. Drafts draw from
chances of their own, or copy (``suffix``); the pace drops guesses for what they are, and sends two
steps at once. The target's chances of every token that may have come are those of ``transformers``
on the same weights, so neither engine nor sampler is taken at its word.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from scipy.stats import chi2

from hearthring.client.api import AsyncClient
from hearthring.client.draft import Candidate, Draft, Setting
from hearthring.client.draft_model import ModelDraft
from hearthring.client.pace import Fixed, Place
from hearthring.client.philox import F64, I64
from hearthring.client.suffix import SuffixDraft
from hearthring.shards.store import ModelStore
from tests.drafts import Bigrams
from tests.memory_ring import memory_swarm
from tests.reference import transformers_model
from tests.tiny import write_tiny_gguf
from tests.unfair import UNLIKELY, Dropping, faulty

VOCABULARY, LENGTH, TEMPERATURE = 12, 60, 0.5
PROMPT = [3, 4, 5, 3, 4, 5]


@dataclass(frozen=True, slots=True)
class Case:
    """A rule, and what guesses under it: ``bigrams`` or ``suffix``."""

    rule: str
    draft: str = "bigrams"
    wide: int = 1
    """Most siblings."""
    surer: float = 1.5
    """Times ``bigrams`` is as sure as it should be: what it draws is to be refused now and then."""

    def __str__(self) -> str:
        drawn = f" of {self.wide}, {self.surer} times sure" if self.draft != "suffix" else ""
        return f"{self.rule} {self.draft}{drawn}"


CASES = (
    Case("gumbel", "suffix"),
    Case("gumbel", wide=2),
    Case("leviathan"),
    Case("specinfer", wide=3),
    Case("sequoia", wide=3),
    Case("sequoia", wide=3, surer=3.0),
    Case("leviathan", "suffix"),
)
FAULTY = {
    "likeliest": Case("sequoia", wide=3, surer=1.0),
    "unscaled": Case("sequoia", wide=3, surer=3.0),
    "one chance": Case("leviathan", surer=1.0),
    "dropping": Case("specinfer", wide=3),
}
"""Where each of ``unfair.FAULTS`` does harm."""


@dataclass(frozen=True, slots=True)
class Picky(Fixed):
    """Two steps at once, and none of the guesses that are unlikely."""

    rows: int = 6
    deep: int = 2

    def keep(self, place: Place, candidates: Sequence[Candidate]) -> Collection[int]:
        return [index for index, found in enumerate(candidates) if found.chance >= UNLIKELY]


@dataclass(frozen=True, slots=True)
class Sample:
    """Tokens that were chosen ``[n]``, and for each place ``[n, vocabulary]`` the target's chances
    and how strongly the draft leans to a token."""

    tokens: I64
    chances: F64
    leanings: F64
    tokens_per_trip: float

    def p_values(self, seed: int = 0) -> dict[str, float]:
        """How often a fair ring would be off by as much, by three chi-square tests.

        ``leaning``: by the target's own chance of a token that the draft favours no more than the
        chosen one, which is even from 0 to 1 (a token takes up as much of it as it is likely, and
        counts at a drawn place of that); 20 equal parts. ``pairs``: two such in a row, 5 by 5.
        ``tokens``: how often each came, against how often it should have, at these very places.
        """
        draw, rows = np.random.default_rng(seed), np.arange(len(self.tokens))
        order = np.argsort(self.leanings, 1, kind="stable")
        ranks = np.argsort(order, 1)[rows, self.tokens]
        upto = np.cumsum(np.take_along_axis(self.chances, order, 1), 1)[rows, ranks]
        even = upto - draw.random(len(rows)) * self.chances[rows, self.tokens]
        fives = np.minimum((even * 5).astype(int), 4)[: len(rows) // 2 * 2].reshape(-1, 2)
        off = np.bincount(self.tokens, minlength=VOCABULARY) - self.chances.sum(0)
        spread = np.diag(self.chances.sum(0)) - self.chances.T @ self.chances
        return {
            "leaning": _even(np.bincount(np.minimum((even * 20).astype(int), 19), minlength=20)),
            "pairs": _even(np.bincount(fives @ [5, 1], minlength=25)),
            "tokens": float(chi2.sf(off @ np.linalg.pinv(spread) @ off, VOCABULARY - 1)),
        }


def _even(counts: I64) -> float:
    expected = counts.sum() / counts.size
    return float(chi2.sf(((counts - expected) ** 2).sum() / expected, counts.size - 1))


class FairRing:
    """A ring to draw from, beside an oracle of its model."""

    def __init__(self, client: AsyncClient, oracle: torch.nn.Module) -> None:
        self.client, self._oracle = client, oracle
        draw = np.random.default_rng(1)
        texts = draw.integers(0, VOCABULARY, (8, 100))
        after = self.chances(texts)
        means = np.stack([after[texts == token].mean(0) for token in range(VOCABULARY)])
        self.scores = (np.log(means) * TEMPERATURE).astype(np.float32)
        """The draft's: what follows a token in the mean."""

    def chances(self, texts: I64) -> F64:
        """The target's behind every token of some texts, ``[texts, length, vocabulary]``."""
        with torch.inference_mode():
            logits = self._oracle(torch.as_tensor(texts)).logits.double() / TEMPERATURE
        found: F64 = torch.softmax(logits, -1).numpy()
        return found

    async def sample(self, case: Case, count: int, seed: int, fault: str = "") -> Sample:
        """``count`` tokens or some more, of sessions with seeds from ``seed`` on; with a fault of
        ``FAULTS`` the rule or its draft is wrong."""

        scores = self.scores * np.float32(case.surer)

        def make(setting: Setting) -> Draft:
            if case.draft == "suffix":
                return SuffixDraft()
            kind = Dropping if fault == "dropping" else ModelDraft
            text = Bigrams(scores)
            return kind(text, VOCABULARY, setting.sampling, case.wide, least=0.0, rule=setting.rule)

        self.client.answering.pace = Picky
        texts, trips = list[list[int]](), 0
        with faulty(case.rule, fault) if fault else nullcontext():
            for place in range(-(-count // LENGTH)):
                answer = await self.client.generate(
                    prompt_ids=PROMPT,
                    max_tokens=LENGTH,
                    temperature=TEMPERATURE,
                    seed=seed + place,
                    acceptance=case.rule,
                    draft=make,
                    proof=False,
                )
                texts.append([*PROMPT, *answer.token_ids])
                trips += answer.guessing.trips
        ids, begin = np.array(texts), len(PROMPT)
        chances = self.chances(ids)[:, begin - 1 : -1].reshape(-1, VOCABULARY)
        tokens = ids[:, begin:].ravel()
        if case.draft == "suffix":
            leanings = np.concatenate([followed(text) for text in texts])
        else:
            said = np.exp(scores / TEMPERATURE)[ids[:, begin - 1 : -1].ravel()]
            leanings = said / chances
        return Sample(tokens, chances, leanings, len(tokens) / trips)


def followed(text: Sequence[int]) -> F64:
    """How often each token has followed the last one by then, for each token behind the prompt."""
    counts, found = np.zeros((VOCABULARY, VOCABULARY)), []
    for place, (last, token) in enumerate(pairwise(text), 1):
        if place >= len(PROMPT):
            found.append(counts[last].copy())
        counts[last, token] += 1
    return np.array(found)


@asynccontextmanager
async def fair_ring(folder: Path) -> AsyncIterator[FairRing]:
    """Two stages of a layer each; the models of this process are to be elsewhere."""
    path = write_tiny_gguf(folder / "few.gguf", layers=2, letters=VOCABULARY, merges=())
    entry = ModelStore().find(str(path))
    async with memory_swarm(entry, (0, 1, 2), entry.manifest.residual) as swarm:
        yield FairRing(swarm.client(), transformers_model(entry.open()))
