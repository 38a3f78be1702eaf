"""What drafts did in this user's earlier answers, brought to bear on the next, and the other way.

A ``Lesson`` accompanies one generation: it tells the calibration of the draft's chances what to
expect, at the begin and again once the answer shows what kind of text it is, and remembers at the
end how the draft did. All of a client's lessons live on the one thread of its ends.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import platformdirs

from hearthring.client.calibration import Calibration
from hearthring.client.prior import Experience, History, Prior, learn
from hearthring.client.situation import LOOK, Situation, overlap

ENOUGH = 8
"""Guesses that an answer must have tried to be worth remembering."""


@dataclass(slots=True)
class Tally:
    """Guesses whose parent was chosen: how many, how many were chosen, what the draft stated."""

    tried: int = 0
    accepted: int = 0
    stated: float = 0.0

    def saw(self, stated: float, chosen: bool) -> None:
        """One more."""
        self.tried += 1
        self.accepted += chosen
        self.stated += stated


class Lessons:
    """A client's history of drafts, read once and learnt from after every answer."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._known: list[Experience] | None = None
        self._prior: Prior | None = None

    def prior(self) -> Prior:
        """What all experiences say. Takes milliseconds after a new one, else nothing."""
        if self._known is None:
            self._known = list(self._history.all())
        if self._prior is None:
            self._prior = learn(self._known)
        return self._prior

    def add(self, experience: Experience) -> None:
        """Remember one, here and on disk."""
        self.prior()
        assert self._known is not None
        self._known.append(experience)
        self._prior = None
        self._history.add(experience)


@dataclass(slots=True)
class Lesson:
    """One generation's. ``explain`` is told what is expected, in words."""

    lessons: Lessons
    draft: str
    situation: Situation
    prompt: Sequence[int]
    explain: Callable[[str], None] | None = None
    _answer: list[int] = field(default_factory=list)

    def begin(self, calibration: Calibration) -> None:
        """The answer begins."""
        self._expect(calibration)

    def wrote(self, tokens: Sequence[int], calibration: Calibration) -> None:
        """The answer goes on; after ``LOOK`` tokens it is known how it draws on the prompt."""
        if len(self._answer) >= LOOK:
            return
        self._answer.extend(tokens)
        if len(self._answer) >= LOOK:
            shown = overlap(self.prompt, self._answer[:LOOK])
            self.situation = replace(self.situation, overlap=shown)
            self._expect(calibration)

    def end(self, tally: Tally) -> None:
        """The answer is over: what it taught is kept, if it taught anything."""
        if tally.tried >= ENOUGH:
            stated = tally.stated / tally.tried
            self.lessons.add(
                Experience(self.situation, self.draft, tally.tried, tally.accepted, stated)
            )

    def _expect(self, calibration: Calibration) -> None:
        prior = self.lessons.prior()
        answers = prior.known(self.draft)
        if not answers:
            return
        expected = prior.expect(self.draft, self.situation)
        calibration.expect(expected.shift, expected.rounds)
        if self.explain is not None:
            self.explain(
                f"{self.draft}: {expected.acceptance:.0%} of guesses should be right here, by "
                f"{answers} answers before; that counts as {expected.rounds:.0f} rounds"
            )


def open_lessons(data: Path | None = None) -> Lessons:
    """The user's, in the folder of the client's identity."""
    folder = data or Path(platformdirs.user_data_dir("hearthring"))
    return Lessons(History(folder / "speculation.db"))
