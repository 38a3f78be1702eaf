"""Samples for a draft: what a model answers to questions, and what it expected on the way.

Either this machine's own engine writes, many answers a step, or a swarm does; then the swarm also
computes what the model expected, from the finished text, as rows of a prompt.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from hearthring.client.api import AsyncClient
from hearthring.client.corpus import Chances, Ids, Sample, expected
from hearthring.client.request import PromptModel, Request
from hearthring.client.sampler import Sampling, choose
from hearthring.protocol.tasks import cancel
from hearthring.protocol.tensors import F32, Residual
from hearthring.shards.ends import Ends
from hearthring.shards.engine import Engine, EngineRow, Kind, Segment

BATCH: Final = 16
"""Texts that are written together."""
LIMIT: Final = 128
"""Tokens of an answer."""
PROMPT_TOKENS: Final = 256
"""Longer prompts are left out."""


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt's ids, how its answer is chosen, whether it is held out of training, and its number
    in the list."""

    ids: tuple[int, ...]
    sampling: Sampling
    held: bool
    number: int


def questions(
    prompts: Iterable[tuple[str, bool]], model: PromptModel, skip: int = 0
) -> Iterator[Question]:
    """Questions of a list from number ``skip`` on, greedy ones and ones at temperature 1.

    Through the chat template, if the model has one. The seed is the number, so equal lists give
    equal texts.
    """
    for number, (text, held) in enumerate(prompts):
        if number < skip:
            continue
        asked = Request(text)
        if model.template is not None:
            asked = Request(messages=({"role": "user", "content": text},))
        ids = model.ids(asked)
        warm = number.bit_count() % 2  # out of step with whatever repeats in the list
        sampling = Sampling(temperature=1.0, seed=number) if warm else Sampling()
        if 0 < len(ids) <= min(PROMPT_TOKENS, model.shape.context // 2):
            yield Question(tuple(ids), sampling, held, number)


class LocalWriter:
    """Answers with an engine that has all layers. Not thread-safe."""

    def __init__(self, model: PromptModel, engine: Engine, ends: Ends) -> None:
        self._engine, self._ends = engine, ends
        self._eos, self._context = model.tokenizer.eos_ids, model.shape.context

    def write(self, asked: Sequence[Question], limit: int = LIMIT) -> list[Sample]:
        """One sample for each question; all of them take a step together."""
        texts = [list(one.ids) for one in asked]
        ends = [min(len(text) + limit, self._context) for text in texts]
        caches = [self._engine.new_cache(end) for end in ends]
        sent = [0] * len(asked)
        made: list[list[tuple[Ids, Chances]]] = [[] for _ in asked]
        running = list(range(len(asked)))
        while running:
            segments, tokens = [], list[int]()
            for i in running:
                kind = Kind.GENERATED if sent[i] else Kind.PROMPT
                slots = np.arange(len(texts[i]), dtype=np.int64)
                rows = (
                    EngineRow(kind, at, at, slots[: at + 1]) for at in range(sent[i], len(texts[i]))
                )
                segments.append(Segment(caches[i], tuple(rows)))
                tokens += texts[i][sent[i] :]
                sent[i] = len(texts[i])
            out, _ = self._engine.forward(tuple(segments), self._ends.embed(tokens))
            last = np.cumsum([len(segment.rows) for segment in segments]) - 1
            logits = self._ends.logits(self._ends.norm(out[last]))
            top, chances = expected(logits)
            for row, i in enumerate(running):
                token = choose(logits[row], texts[i], len(texts[i]), asked[i].sampling)
                texts[i].append(token)
                made[i].append((top[row], chances[row]))
            running = [
                i for i in running if len(texts[i]) < ends[i] and texts[i][-1] not in self._eos
            ]
        return [
            _sample(one, text, np.stack([top for top, _ in of]), np.stack([c for _, c in of]))
            for one, text, of in zip(asked, texts, made, strict=True)
        ]


class SwarmWriter:
    """Answers from a swarm: some at once, each in a session of its own."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def write(self, asked: Sequence[Question], limit: int = LIMIT) -> list[Sample]:
        """One sample for each question. Raises what the first request to fail raises, or its
        cancellation; nothing stays open then."""
        tasks = [asyncio.ensure_future(self._one(question, limit)) for question in asked]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            await cancel(tasks)

    async def _one(self, asked: Question, limit: int) -> Sample:
        sampling = asked.sampling
        answer = await self._client.generate(
            prompt_ids=asked.ids,
            max_tokens=limit,
            temperature=sampling.temperature,
            seed=sampling.seed,
            proof=False,
        )
        text = [*asked.ids, *answer.token_ids]
        model = await self._client.weights.model()
        layers = model.shape.layers
        states = (await self._client.hidden_states(text[:-1], [layers]))[layers]
        ends = await self._client.weights.ends(Residual(answer.route[-1].residual))

        def expect(rows: F32) -> tuple[Ids, Chances]:
            return expected(ends.logits(ends.norm(rows)))

        top, chances = await self._client.heads.run(expect, states[len(asked.ids) - 1 :])
        return _sample(asked, text, top, chances)


def _sample(asked: Question, text: Sequence[int], top: Ids, chances: Chances) -> Sample:
    how = asked.sampling
    ids = np.asarray(text, np.uint32)
    return Sample(ids, len(asked.ids), how.temperature, how.seed or 0, asked.held, top, chances)
