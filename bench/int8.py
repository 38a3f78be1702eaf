"""What do int8 rows save, and what do they change?

Texts that the model writes itself go through all layers, once with exact rows between as many
stages as are asked for, once with int8 rows at every hop, the client's two included. Printed are
bytes per row, what packing and reading a row costs, and, over all rows after the texts' first
words, how often the likeliest token is the same and how far the logits are apart (relative error);
then how many tokens of answers, chosen greedily and each on its own, are the same until the first
that isn't.

Run: python -m bench.int8 [--model smollm2] [--residual fp16] [--texts 24] [--answers 4]
"""

import argparse
import platform
import time
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from hearthring.client.texts import Text, write_texts
from hearthring.protocol.row_type import RowType
from hearthring.protocol.tensors import F32, Residual
from hearthring.shards.ends import Ends, open_ends
from hearthring.shards.engine import Engine, EngineRow, Kind, Segment
from hearthring.shards.engines import load_engine
from hearthring.shards.store import ModelStore

STAGES = (1, 2, 4, 8)
ANSWER = 48
LEAST = 8
"""Rows of a text that aren't judged: nothing is known yet."""


class Ring:
    """Stages in this process, with rows of one type between them."""

    def __init__(self, engine: Engine, ends: Ends, layers: int, stages: int, rows: RowType) -> None:
        self.engine, self.ends, self.rows = engine, ends, rows
        cuts = [round(layers * n / stages) for n in range(stages + 1)]
        self.windows = list(pairwise(cuts))
        self.caches = [engine.new_cache(256, window) for window in self.windows]

    def logits(self, ids: Sequence[int], kinds: Sequence[Kind], first: int = 0) -> F32:
        """Logits of the rows from ``first`` on; those before have run."""
        states = self._hop(self.ends.embed(ids[first:]))
        slots = np.arange(len(ids), dtype=np.int64)
        entries = tuple(EngineRow(kinds[p], p, p, slots[: p + 1]) for p in range(first, len(ids)))
        for cache in self.caches:
            states = self._hop(self.engine.forward((Segment(cache, entries),), states)[0])
        return self.ends.logits(self.ends.norm(states))

    def answer(self, text: Text) -> list[int]:
        """A greedy answer to a text's prompt."""
        ids = list(text.ids[: text.prompt])
        kinds = [Kind.PROMPT] * len(ids) + [Kind.GENERATED] * ANSWER
        first = 0
        while len(ids) < text.prompt + ANSWER:
            logits = self.logits(ids, kinds, first)
            first = len(ids)
            ids.append(int(logits[-1].argmax()))
        return ids[text.prompt :]

    def _hop(self, states: F32) -> F32:
        return self.rows.unpack(self.rows.pack(states), *states.shape)


def cost(rows: RowType, width: int) -> float:
    """Microseconds to pack and to read one row."""
    states = np.random.default_rng(0).standard_normal((1, width)).astype(np.float32)
    taken = []
    for _ in range(2000):
        begun = time.perf_counter()
        rows.unpack(rows.pack(states), 1, width)
        taken.append(time.perf_counter() - begun)
    return float(np.median(taken)) * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--residual", default="fp16")
    parser.add_argument("--texts", type=int, default=24)
    parser.add_argument("--answers", type=int, default=4)
    options = parser.parse_args()
    gguf, residual = ModelStore().find(options.model).open(), Residual(options.residual)
    layers, width = gguf.shape.layers, gguf.shape.width
    engine = load_engine("ggml", gguf, (0, layers), residual, 1)
    ends = open_ends("ggml", gguf, residual, 1)
    print(f"{platform.machine()}; {options.model}, {residual.value}, {engine.numerics.name}")
    for rows in (RowType(residual), RowType(residual, int8=True)):
        size, each = rows.row_bytes(width), cost(rows, width)
        print(f"{rows!s:10} {size} bytes a row, packed and read in {each:.0f} µs")
    texts = write_texts(gguf, engine, ends, options.texts)

    def all_logits(rows: RowType, stages: int) -> F32:
        found = (Ring(engine, ends, layers, stages, rows).logits(t.ids, t.kinds) for t in texts)
        return np.concatenate([one[LEAST:] for one in found])

    exact = all_logits(RowType(residual), 1)
    print(f"{len(texts)} texts, {len(exact)} rows")
    for stages in STAGES:
        lossy = RowType(residual, int8=True)
        logits = all_logits(lossy, stages)
        error = np.linalg.norm(logits - exact, axis=1) / np.linalg.norm(exact, axis=1)
        same = (logits.argmax(1) == exact.argmax(1)).mean()
        until = []
        for text in texts[: options.answers]:
            mine = Ring(engine, ends, layers, stages, lossy).answer(text)
            true = Ring(engine, ends, layers, 1, RowType(residual)).answer(text)
            until.append(next((n for n in range(ANSWER) if mine[n] != true[n]), ANSWER))
        print(
            f"{stages} stages: {same:7.2%} of rows choose the same token; logits off by "
            f"{error.mean():.4f}, {error.max():.4f} at most; {until} of {ANSWER} tokens the same"
        )


if __name__ == "__main__":
    main()
