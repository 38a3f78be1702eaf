"""``hearthring draft train``: texts of a model, a draft that learns from them, what it is worth.

Everything is kept in a folder beside the draft's place, so the command can be interrupted at any
time and goes on where it was.
"""

import itertools
import json
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hearthring.client.collecting import BATCH, questions
from hearthring.client.corpus import Corpus, Sample
from hearthring.client.distilled import open_distilled
from hearthring.client.distilling import Training
from hearthring.client.draft import Draft, Setting
from hearthring.client.held_out import AHEAD, Rate, held_out_rates
from hearthring.client.sampler import Sampling
from hearthring.client.suffix import SuffixDraft
from hearthring.draft_targets import Target
from hearthring.protocol.errors import BadDraft, BadOption, EngineUnavailable
from hearthring.shards.atomic import locked, replace_whole
from hearthring.shards.draft_file import write_draft
from hearthring.shards.manifest import Progress

WRITING = 2 / 3
"""Share of the time in which texts are written; the rest is for learning from them. With few texts
a draft soon knows them by heart, so most of the time goes to new ones."""


@dataclass(slots=True)
class Spent:
    """What earlier runs did: seconds of writing and learning, how many prompts were used, the
    loss before anything was learnt, and whose texts these are (a model's id)."""

    writing: float = 0.0
    learning: float = 0.0
    asked: int = 0
    loss: float = 0.0
    model: str = ""

    @classmethod
    def read(cls, path: Path) -> "Spent":
        """What ``save`` wrote; nothing where there is no such file. Raises ``BadDraft``."""
        try:
            found = cls(**json.loads(path.read_text()))
            seconds = float(found.writing), float(found.learning)
            return cls(*seconds, int(found.asked), float(found.loss), str(found.model))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, TypeError) as error:
            raise BadDraft(f"{error}", field=str(path), mend="give --anew") from None

    def save(self, path: Path) -> None:
        """Keep it."""
        replace_whole(path, json.dumps(asdict(self)))


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of it. Losses are in nats a token, on texts that were held out."""

    path: Path
    texts: int
    tokens: int
    steps: int
    seconds: float
    loss_before: float
    loss: float
    held_texts: int
    rates: dict[str, dict[float, Rate]]

    def as_json(self) -> dict[str, Any]:
        """The keys of ``--json``."""
        rates = {
            name: {f"{warm:g}": round(rate.per_trip, 4) for warm, rate in found.items()}
            for name, found in self.rates.items()
        }
        found = asdict(self) | {"path": str(self.path), "tokens_per_trip": rates}
        del found["rates"]
        return found


class Trainer:
    """One training, in a ``folder`` of its own that only this user may read.

    ``path`` is where the draft goes, ``seconds`` the time of all runs together: what earlier runs
    took is taken off. Whatever ends a run early, what was written and learnt stays.
    """

    def __init__(
        self, target: Target, path: Path, seconds: float, threads: int, progress: Progress
    ) -> None:
        self._target, self._path, self._seconds = target, path, seconds
        self._threads, self._progress = threads, progress
        self.folder = path.with_suffix(".training")
        self._kept = self.folder / "spent.json"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise BadOption(f"{self.folder}: {error.strerror}", field="out") from None

    def run(
        self,
        prompts: Iterable[tuple[str, bool]],
        layers: int,
        anew: bool = False,
        batch: int = BATCH,
        steps: int | None = None,
    ) -> Trained:
        """Write texts, learn from them, to this step if it is given, save the draft, measure it.

        Raises ``BadDraft`` for a folder of another training, ``EngineUnavailable`` without torch,
        ``ModelNotHere`` for a full disk, and what writing raises.
        """
        with locked(self.folder / "lock"):
            if anew:
                for one in self.folder.glob("*.*"):
                    one.unlink()
            spent, corpus = self._spent(), Corpus(self.folder)
            self._write(corpus, prompts, spent, batch)
            samples = list(corpus.read())
            training = self._learn(samples, spent, layers, steps)
            entry, student = self._target.model.entry, training.student
            learnt = student.shape, student.learnt()
            write_draft(self._target.gguf, entry.model_id, entry.name, *learnt, self._path)
            held = [one for one in samples if one.held]
            return Trained(
                self._path,
                len(samples) - len(held),
                sum(len(one.top) for one in samples if not one.held),
                training.step,
                spent.writing + spent.learning,
                spent.loss,
                training.held_out(),
                len(held),
                self._measure(held),
            )

    def _spent(self) -> Spent:
        """What earlier runs did for this model; a draft learns from nobody else's texts."""
        spent, mine = Spent.read(self._kept), self._target.model.entry.model_id
        if spent.model not in ("", mine):
            raise BadDraft(
                f"its texts are of model {spent.model[:12]}, not of {mine[:12]}",
                field=str(self.folder),
                mend="give --anew",
            )
        spent.model = mine
        return spent

    def _write(
        self, corpus: Corpus, prompts: Iterable[tuple[str, bool]], spent: Spent, batch: int
    ) -> None:
        """Texts for the first part of the time, at least one batch."""
        asked, limit = questions(prompts, self._target.model, spent.asked), self._seconds * WRITING
        while spent.writing < limit or not corpus.batches:
            some = list(itertools.islice(asked, batch))
            if not some:
                break
            begun = time.monotonic()
            corpus.add(self._target.write(some))
            spent.writing += time.monotonic() - begun
            spent.asked = some[-1].number + 1
            spent.save(self._kept)
            self._progress("writing texts", min(int(spent.writing), int(limit)), int(limit))

    def _learn(
        self, samples: Sequence[Sample], spent: Spent, layers: int, steps: int | None
    ) -> Training:
        """The rest of the time."""
        try:
            from hearthring.shards.student import Student
        except ImportError as error:
            raise EngineUnavailable(
                f"training needs torch: {error}", field="train", mend="pip install torch"
            ) from None
        student = Student(self._target.gguf, layers, threads=self._threads)
        training = Training(student, samples, self.folder)
        if not training.step:
            spent.loss = training.held_out()
            spent.save(self._kept)  # before there is a step: no later run could measure it
        begun, before = time.monotonic(), spent.learning

        with _between_steps() as look:

            def told(step: int, loss: float) -> None:
                spent.learning = before + time.monotonic() - begun
                done = int(spent.writing + spent.learning)
                self._progress("learning", min(done, int(self._seconds)), int(self._seconds))
                look()

            try:
                # Its share at least: the last batch of texts may have taken long.
                share = self._seconds - min(spent.writing, self._seconds * WRITING)
                training.run(steps, None if steps is not None else share - before, told)
            finally:
                spent.save(self._kept)
        return training

    def _measure(self, held: Sequence[Sample]) -> dict[str, dict[float, Rate]]:
        """What the draft and the suffix automaton save on texts that were held out."""
        shared: dict[str, Any] = {}

        def distilled(sampling: Sampling) -> Draft:
            setting = Setting(self._target.model, sampling, self._threads, str(self._path), shared)
            return open_distilled(setting)

        found = {}
        ways = {"distilled": distilled, "suffix": lambda sampling: SuffixDraft()}
        for place, (name, make) in enumerate(ways.items()):
            self._progress("measuring", place, len(ways))
            found[name] = held_out_rates(make, held)
        return found


@contextmanager
def _between_steps() -> Iterator[Callable[[], None]]:
    """Ctrl-C and SIGTERM wait until the caller looks, or leaves; a second one doesn't.

    Both raise ``KeyboardInterrupt``, so whichever ends a training finds everything kept.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    asked = list[int]()

    def note(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    def look() -> None:
        if asked:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield look
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    look()  # it may have come behind the last step, while that was saved


def report(trained: Trained) -> None:
    """What came of it, for a person."""
    print(
        f"learnt from {trained.tokens} tokens in {trained.texts} texts, {trained.steps} steps, "
        f"{trained.seconds / 60:.1f} minutes in all"
    )
    print(
        f"expectation of held-out texts: {trained.loss_before:.2f} nats off before, "
        f"{trained.loss:.2f} after"
    )
    warm = sorted({one for found in trained.rates.values() for one in found})
    if warm:
        print(f"tokens a trip on {trained.held_texts} held-out texts, {AHEAD} guesses each:")
        print(f"  {'':<10}" + "".join(f"  T = {one:<4g}" for one in warm))
        for name, found in trained.rates.items():
            cells = "".join(f"  {found[one].per_trip:<8.2f}" for one in warm)
            print(f"  {name:<10}{cells}")
    print(f"saved to {trained.path}")
