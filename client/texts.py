"""Texts that a model writes itself, to measure it with: as many as wanted, all drawn alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from hearthring.protocol.errors import BadModelFile
from hearthring.shards.ends import Ends
from hearthring.shards.engine import Engine, EngineRow, Kind, Segment
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.tokenizer import Tokenizer

BEGINNINGS: Final = (
    "The old lighthouse keeper had not spoken to anyone for weeks. Then, one evening,",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "Question: Why is the sky blue?\nAnswer:",
    "Dear Mrs Calloway,\n\nthank you for your letter of the 3rd of May. We",
    "1 2 3 5 8 13 21 34 55 89",
    "To bake a simple bread you need flour, water, salt and",
    "Die Hauptstadt von Frankreich ist",
    "In 1969, the first people who walked on the Moon",
)
SHORTEST, LONGEST = 24, 72
"""Rows of a text: one to three chunks, so that short answers are measured too."""


@dataclass(frozen=True, slots=True)
class Text:
    """Ids of a text, of which ``prompt`` stand for a prompt and the rest for an answer."""

    ids: tuple[int, ...]
    prompt: int

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Kind of each row."""
        return (Kind.PROMPT,) * self.prompt + (Kind.GENERATED,) * (len(self.ids) - self.prompt)


def write_texts(
    gguf: GgufFile, engine: Engine, ends: Ends, count: int, seed: int = 0
) -> list[Text]:
    """Draw ``count`` texts: a random beginning each, gone on with at temperature 1.

    ``engine`` has all layers. All texts take a step together. Equal seeds give equal texts within
    a numerics class.
    """
    draw = np.random.default_rng(seed)
    ids = [list(part) for part in _beginnings(gguf, draw, count)]
    lengths = draw.integers(SHORTEST, LONGEST + 1, count)
    prompts = [int(draw.integers(length // 2, length)) for length in lengths]
    caches = [engine.new_cache(LONGEST) for _ in range(count)]
    at = [0] * count
    while running := [i for i in range(count) if len(ids[i]) < lengths[i]]:
        segments, tokens = [], []
        for i in running:
            slots = np.arange(len(ids[i]), dtype=np.int64)
            rows = (
                EngineRow(Kind.GENERATED, p, p, slots[: p + 1]) for p in range(at[i], len(ids[i]))
            )
            segments.append(Segment(caches[i], tuple(rows)))
            tokens += ids[i][at[i] :]
            at[i] = len(ids[i])
        out, _ = engine.forward(tuple(segments), ends.embed(tokens))
        last = np.cumsum([len(segment.rows) for segment in segments]) - 1
        logits = ends.logits(ends.norm(out[last]))
        for i, row in zip(running, logits, strict=True):
            ids[i].append(int(np.argmax(row + draw.gumbel(size=row.shape))))
    return [
        Text(tuple(one[:length]), prompt)
        for one, length, prompt in zip(ids, lengths, prompts, strict=True)
    ]


def _beginnings(gguf: GgufFile, draw: np.random.Generator, count: int) -> list[Sequence[int]]:
    """A beginning for each text; of a file without a usable tokenizer, random ids."""
    try:
        tokenizer = Tokenizer.from_gguf(gguf)
    except BadModelFile:
        return list(draw.integers(0, gguf.shape.vocabulary, (count, 6)).tolist())
    first = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    encoded = [first + tokenizer.encode(one, specials=False) for one in BEGINNINGS]
    return [encoded[int(i)][: SHORTEST // 2] for i in draw.integers(0, len(encoded), count)]
