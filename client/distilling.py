"""Training a draft: which samples make a step, and how it goes on after an interruption.

Batches are drawn by the number of the step, so a training that was interrupted and goes on ends
with the same weights as one that wasn't, in every bit on one machine.
"""

import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from hearthring.client.corpus import Sample
from hearthring.protocol.errors import BadDraft
from hearthring.shards.atomic import write_whole

if TYPE_CHECKING:
    from hearthring.shards.student import Batch, Student

TEXTS: Final = 4
"""Texts of a step."""
SAVE_SECONDS: Final = 30.0
_STATE: Final = "state.npz"


def batch_of(samples: Sequence[Sample], draw: np.random.Generator, vocabulary: int) -> "Batch":
    """Some texts as one batch, whose drawn tokens are ``draw``'s."""
    from hearthring.shards.student import DRAWN, Batch

    length = max(len(one.ids) for one in samples)
    ids = np.zeros((len(samples), length), np.int64)
    at = list[np.ndarray[tuple[int], np.dtype[np.int64]]]()
    for row, one in enumerate(samples):
        ids[row, : len(one.ids)] = one.ids
        at.append(row * length + np.arange(one.prompt - 1, len(one.ids) - 1))
    return Batch(
        ids,
        np.concatenate(at),
        np.concatenate([one.top for one in samples]).astype(np.int64),
        np.concatenate([one.chances for one in samples]).astype(np.float32),
        draw.integers(0, vocabulary, DRAWN),
    )


class Training:
    """A student and what it learns from. ``folder`` keeps its state.

    Raises ``BadDraft`` for a state that is none, or another student's.
    """

    def __init__(
        self, student: "Student", samples: Sequence[Sample], folder: Path, seed: int = 0
    ) -> None:
        self.student, self._path, self._seed = student, folder / _STATE, seed
        self._samples = [one for one in samples if not one.held]
        self._held = [one for one in samples if one.held] or self._samples[:TEXTS]
        if not self._samples:
            raise BadDraft("there are no samples to learn from", field=str(folder))
        self._restore()

    @property
    def step(self) -> int:
        """Steps that were made, earlier ones included."""
        return self.student.step

    def run(
        self,
        steps: int | None = None,
        seconds: float | None = None,
        told: Callable[[int, float], None] = lambda step, loss: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> float:
        """Train to this step, or for so long; returns the seconds it took.

        ``told`` hears of every step and its loss, and may raise. The state is saved now and then
        and at the end, whatever ends it; only a step that didn't come to its own end is lost with
        those since the last save.
        """
        begun, whole = clock(), True
        saved = begun
        try:
            while steps is None or self.step < steps:
                now = clock()
                if seconds is not None and now - begun >= seconds:
                    break
                if now - saved > SAVE_SECONDS:
                    self._save()
                    saved = now
                batch, whole = self._batch(self.step), False
                loss = self.student.learn(batch)
                whole = True
                told(self.step, loss)
        finally:
            if whole:
                self._save()
        return clock() - begun

    def held_out(self) -> float:
        """Loss on texts that aren't learnt from, in nats a token."""
        draw = np.random.default_rng(self._seed)
        losses, places = 0.0, 0
        for at in range(0, len(self._held), TEXTS):
            batch = batch_of(self._held[at : at + TEXTS], draw, self.student.shape.vocabulary)
            losses += self.student.held_out(batch) * len(batch.at)
            places += len(batch.at)
        return losses / places

    def _batch(self, step: int) -> "Batch":
        """Texts of a step: every epoch takes all of them, in an order of its own."""
        per = max(1, len(self._samples) // TEXTS)
        epoch, place = divmod(step, per)
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._samples))
        chosen = [self._samples[i] for i in order[place * TEXTS : (place + 1) * TEXTS]]
        draw = np.random.default_rng([self._seed, epoch, place])
        return batch_of(chosen, draw, self.student.shape.vocabulary)

    def _save(self) -> None:
        state = self.student.state()
        write_whole(self._path, lambda file: np.savez(file, **state))  # type: ignore[arg-type]

    def _restore(self) -> None:
        if not self._path.exists():
            return
        try:
            with self._path.open("rb") as file, np.load(file, allow_pickle=False) as found:
                self.student.restore(dict(found))
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise BadDraft(
                f"the state of a training doesn't fit: {error}",
                field=str(self._path),
                mend="remove it to train anew",
            ) from None
