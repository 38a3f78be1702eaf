"""Texts of a model with what it expected at every token of its own: what a draft is trained on.

A folder holds one file for each batch of texts, written whole and never changed, so that whoever
was interrupted goes on with the next; numbers count up from 0.
"""

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hearthring.protocol.errors import BadDraft
from hearthring.protocol.tensors import F32
from hearthring.shards.atomic import write_whole

TOP: Final = 32
"""Tokens of which the expectation is kept at each place, the likeliest ones."""
_NAME: Final = "texts-{:05d}.npz"
_KEYS: Final = ("tokens", "lengths", "prompts", "temperatures", "seeds", "held", "top", "chances")

Ids = NDArray[np.uint32]
Chances = NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Sample:
    """A text: its ids, of which the first ``prompt`` are the prompt's, and how it was chosen.

    ``top`` ``[tokens - prompt, TOP]`` are the likeliest tokens at each place of the answer, the
    likeliest first, ``chances`` what the model gave them (float16, temperature 1).
    """

    ids: Ids
    prompt: int
    temperature: float
    seed: int
    held: bool
    top: Ids
    chances: Chances


def expected(logits: F32) -> tuple[Ids, Chances]:
    """The likeliest tokens of rows of logits ``[n, vocabulary]`` and their chances, ``[n, TOP]``.

    A vocabulary of fewer tokens is filled up with token 0 at chance 0.
    """
    count = min(TOP, logits.shape[1])
    found = np.argpartition(logits, logits.shape[1] - count, axis=1)[:, -count:]
    scores = np.take_along_axis(logits, found, 1)
    order = np.argsort(-scores, axis=1, kind="stable")
    top, scores = np.take_along_axis(found, order, 1), np.take_along_axis(scores, order, 1)
    whole = np.exp(logits - scores[:, :1]).sum(1, keepdims=True)
    chances = np.exp(scores - scores[:, :1]) / whole
    room = ((0, 0), (0, TOP - count))
    return np.pad(top, room).astype(np.uint32), np.pad(chances, room).astype(np.float16)


class Corpus:
    """Samples in a folder. One process writes at a time; ``BadDraft`` for files that are none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.batches = 0
        """Files there are."""
        while (folder / _NAME.format(self.batches)).exists():
            self.batches += 1

    def add(self, samples: Sequence[Sample]) -> None:
        """Keep a batch; it is on the disk when this returns. Raises ``OSError``."""
        columns = {
            "tokens": np.concatenate([one.ids for one in samples]).astype(np.uint32),
            "lengths": np.array([len(one.ids) for one in samples], np.int64),
            "prompts": np.array([one.prompt for one in samples], np.int64),
            "temperatures": np.array([one.temperature for one in samples]),
            "seeds": np.array([one.seed for one in samples], np.uint64),
            "held": np.array([one.held for one in samples], bool),
            "top": np.concatenate([one.top for one in samples]),
            "chances": np.concatenate([one.chances for one in samples]),
        }
        path = self._folder / _NAME.format(self.batches)
        write_whole(path, lambda file: np.savez(file, **columns))  # type: ignore[arg-type]
        self.batches += 1

    def read(self) -> Iterator[Sample]:
        """All samples, in the order in which they came."""
        for number in range(self.batches):
            yield from self._batch(self._folder / _NAME.format(number))

    def _batch(self, path: Path) -> Iterator[Sample]:
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
                columns = [found[key] for key in _KEYS]
            tokens, lengths, prompts, temperatures, seeds, held, top, chances = columns
            made = lengths - prompts
            if (
                any(len(column) != len(lengths) for column in (prompts, temperatures, seeds, held))
                or lengths.sum() != len(tokens)
                or (prompts < 1).any()
                or (made < 0).any()
                or top.shape != chances.shape
                or top.shape != (made.sum(), TOP)
            ):
                raise ValueError("its columns don't fit each other")
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise BadDraft(
                f"{error}", field=str(path), mend="remove the folder, and train anew"
            ) from None
        ends, rows = np.cumsum(lengths), np.cumsum(made)
        for i in range(len(lengths)):
            span = slice(int(rows[i] - made[i]), int(rows[i]))
            yield Sample(
                tokens[ends[i] - lengths[i] : ends[i]],
                int(prompts[i]),
                float(temperatures[i]),
                int(seeds[i]),
                bool(held[i]),
                top[span],
                chances[span],
            )
